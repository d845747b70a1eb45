//! Which partitions have dead letters that somebody wants to be stored after all.
//!
//! Marks lie in the database. One look every [`LOOK`] serves the whole replica; lanes fetch the letters
//! themselves, of the partitions that they own.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::source::TopicPartition;
use crate::store::Store;

/// Between two looks: the longest that a mark waits for its lane, and one small query a replica.
pub const LOOK: Duration = Duration::from_secs(5);

/// See the module.
#[derive(Debug, Default)]
pub struct Marks {
    found: Mutex<BTreeSet<(String, i32)>>,
    appeared: Notify,
}

impl Marks {
    /// Looks for marks until `stop`.
    pub async fn watch(&self, store: &dyn Store, stop: &CancellationToken) {
        let mut failing = false;
        loop {
            let found = tokio::select! {
                found = store.marked() => found,
                () = stop.cancelled() => return,
            };
            match found {
                Ok(found) => {
                    failing = false;
                    let any = !found.is_empty();
                    *self.found() = found.into_iter().collect();
                    if any {
                        self.appeared.notify_waiters();
                    }
                }
                Err(error) => {
                    if !failing {
                        let error = sluice_crds::problem::chain(&error);
                        tracing::warn!(%error, "cannot look for dead letters to redrive; trying again");
                    }
                    failing = true;
                }
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Whether the partition has any.
    pub fn contain(&self, at: &TopicPartition) -> bool {
        let found = self.found();
        !found.is_empty() && found.contains(&(at.topic.to_string(), at.partition))
    }

    /// Nothing more for now, until the next look.
    pub fn settle(&self, at: &TopicPartition) {
        self.found().remove(&(at.topic.to_string(), at.partition));
    }

    /// Ends when marks were found. Safe to cancel.
    pub async fn changed(&self) {
        self.appeared.notified().await;
    }

    fn found(&self) -> MutexGuard<'_, BTreeSet<(String, i32)>> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
