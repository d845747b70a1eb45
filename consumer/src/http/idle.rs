//! Connections that wait for a request, the longest first.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lock::lock;

/// Those of one server.
#[derive(Clone, Default)]
pub struct Idle(Arc<Mutex<Waiting>>);

#[derive(Default)]
struct Waiting {
    /// Since when each waits, and how to close it, in the order in which they began to.
    by_turn: BTreeMap<u64, (Instant, CancellationToken)>,
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

    /// Closes the one that has waited for longest; false where none has waited for `least`: its request may be on its way.
    pub fn close_longest(&self, least: Duration) -> bool {
        let mut waiting = lock(&self.0);
        let first = waiting.by_turn.first_entry().filter(|first| first.get().0.elapsed() >= least);
        first.map(|first| first.remove().1.cancel()).is_some()
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
        waiting.by_turn.insert(turn, (Instant::now(), self.close.clone()));
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
