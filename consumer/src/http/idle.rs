//! Connections that wait for a request, the longest first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use tokio_util::sync::CancellationToken;

use crate::lock::lock;

/// Those of one server.
#[derive(Clone, Default)]
pub struct Idle(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    /// How to close each, in the order in which they began to wait.
    by_turn: BTreeMap<u64, CancellationToken>,
    turns: u64,
}

impl Idle {
    /// A new connection, which waits for its first request.
    pub fn enter(&self) -> IdleConnection {
        let connection =
            IdleConnection { idle: self.clone(), turn: Mutex::default(), close: CancellationToken::new() };
        connection.again();
        connection
    }

    /// Closes the one that has waited for longest; false where none waits.
    pub fn close_longest(&self) -> bool {
        let first = lock(&self.0).by_turn.pop_first();
        first.map(|(_, close)| close.cancel()).is_some()
    }
}

/// One of them, for as long as it is open.
pub struct IdleConnection {
    idle: Idle,
    /// Its place in the order while it waits.
    turn: Mutex<Option<u64>>,
    close: CancellationToken,
}

impl IdleConnection {
    /// It has a request.
    pub fn serves(&self) {
        if let Some(turn) = lock(&self.turn).take() {
            lock(&self.idle.0).by_turn.remove(&turn);
        }
    }

    /// Its request is answered.
    pub fn again(&self) {
        let mut waiting = lock(&self.idle.0);
        waiting.turns += 1;
        let turn = waiting.turns;
        waiting.by_turn.insert(turn, self.close.clone());
        drop(waiting);
        *lock(&self.turn) = Some(turn);
    }

    /// Returns when it is to be closed.
    pub async fn closed(&self) {
        self.close.cancelled().await;
    }
}

impl Drop for IdleConnection {
    fn drop(&mut self) {
        self.serves();
    }
}
