//! Which partitions have dead letters that somebody wants to be stored after all.
//!
//! Marks lie in the database. One look every [`MARKS_LOOKED_FOR_EVERY`] serves the whole replica; lanes fetch the letters
//! themselves, of the partitions that they own.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::lock::lock;
use crate::meter::Meters;
use crate::source::TopicPartition;
use crate::store::Store;

/// Between two looks: the longest that a mark waits for its lane, and one query a replica, over all marks.
pub const MARKS_LOOKED_FOR_EVERY: Duration = Duration::from_secs(5);
/// How long letters that cannot be opened are passed over before they are tried again: with the look after that less than
/// the minute for which an error is told that nothing waits for.
const PASS_OVER: Duration = Duration::from_secs(50);

/// See the module.
#[derive(Debug, Default)]
pub struct Marks {
    found: Mutex<BTreeSet<TopicPartition>>,
    /// Up to which id none can be opened, and since when that is known.
    passed: Mutex<BTreeMap<TopicPartition, (i64, Instant)>>,
    appeared: Notify,
}

impl Marks {
    /// Looks for marks until `stop`. Errors are waited out, and told once they last: nothing is redriven meanwhile.
    pub async fn watch(&self, store: &dyn Store, meters: &Meters, stop: &CancellationToken) {
        loop {
            let found = tokio::select! {
                found = store.marked() => found,
                () = stop.cancelled() => return,
            };
            match found {
                Ok(found) => {
                    meters.redrive_works();
                    let any = !found.is_empty();
                    let partition =
                        |(topic, partition): (String, i32)| TopicPartition { topic: topic.into(), partition };
                    *self.found() = found.into_iter().map(partition).collect();
                    if any {
                        self.appeared.notify_waiters();
                    }
                }
                Err(error) => meters.redrive_failed(&error),
            }
            tokio::select! {
                () = tokio::time::sleep(MARKS_LOOKED_FOR_EVERY) => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Whether the partition has any.
    pub fn contain(&self, at: &TopicPartition) -> bool {
        let found = self.found();
        !found.is_empty() && found.contains(at)
    }

    /// Nothing more for now, until the next look.
    pub fn settle(&self, at: &TopicPartition) {
        self.found().remove(at);
    }

    /// The id that the partition's letters to look at lie behind.
    pub fn passed(&self, at: &TopicPartition) -> i64 {
        let mut passed = lock(&self.passed);
        passed.retain(|_, (_, since)| since.elapsed() < PASS_OVER);
        passed.get(at).map_or(0, |(id, _)| *id)
    }

    /// None of the partition's letters up to this id can be opened now.
    pub fn pass(&self, at: &TopicPartition, id: i64) {
        let mut passed = lock(&self.passed);
        passed.entry(at.clone()).or_insert((id, Instant::now())).0 = id;
    }

    /// Ends when marks were found. Safe to cancel.
    pub async fn changed(&self) {
        self.appeared.notified().await;
    }

    fn found(&self) -> MutexGuard<'_, BTreeSet<TopicPartition>> {
        lock(&self.found)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluice_crds::error_reason::ErrorReason;

    use super::*;
    use crate::meter::Identity;
    use crate::store::memory::{Call, MemoryStore};
    use crate::store::{ErrorKind, StoreError};

    fn last_error(meters: &Meters) -> Option<ErrorReason> {
        meters.status(&Identity::default()).last_error_reason.and_then(ErrorReason::of)
    }

    #[tokio::test(start_paused = true)]
    async fn looks_that_fail_are_counted_and_told_until_one_is_answered() {
        let (store, meters) = (Arc::new(MemoryStore::new(1, 1 << 10)), Arc::new(Meters::default()));
        store.on_call(|call| {
            (call == Call::Marked).then(|| StoreError::new(ErrorKind::Unavailable, "no answer within 10 s"))
        });
        let (marks, stop) = (Marks::default(), CancellationToken::new());
        let looks = async {
            let next_look = || tokio::time::sleep(MARKS_LOOKED_FOR_EVERY);
            tokio::time::sleep(Duration::from_secs(1)).await;
            next_look().await;
            assert_eq!(last_error(&meters), None, "two may be a restart");
            next_look().await;
            assert_eq!(last_error(&meters), Some(ErrorReason::RedriveFailed));
            assert_eq!(meters.errors()[ErrorKind::Unavailable as usize], 3);
            store.clear_hooks();
            next_look().await;
            assert_eq!(last_error(&meters), None);
            stop.cancel();
        };
        tokio::join!(marks.watch(&*store, &meters, &stop), looks);
    }
}
