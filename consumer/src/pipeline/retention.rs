//! Removes rows that are older than the pipeline keeps them.
//!
//! Guarantees: a row goes only when the database's clock and this replica's both say that it is old (see also
//! [`crate::store::retention`]); errors are waited out and never stop the pipeline; of several replicas one removes,
//! as its turn is leased like a share of the rate, and if for a moment two do, they remove the same rows.
//!
//! How it yields: steps are short transactions of their own, as many rows as take [`pace::STEP_TAKES`], and after each it
//! pauses in proportion to the step's own time ([`pace`]). Inserts append at the other end of the table.

mod pace;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::exclusive_lease::{self, ExclusiveLease};
use crate::backoff::Backoff;
use crate::gate::clock::DatabaseClock;
use crate::live::Applied;
use crate::meter::Meters;
use crate::store::retention::Sweep;
use crate::store::{Store, StoreError, id};
use pace::{Moved, Pace, TOLERATED_PARTS};

/// How often it begins again at the smallest id: for rows of an adopted table that were too young when it passed them.
const AGAIN: Duration = Duration::from_secs(3_600);
/// Longest pause once nothing is old any more.
const ROUND: Duration = Duration::from_secs(10);
/// After errors.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));

/// What removing old rows needs.
pub struct RowRemover {
    /// The database.
    pub store: Arc<dyn Store>,
    /// Its time.
    pub clock: Arc<DatabaseClock>,
    pub meters: Arc<Meters>,
    /// Whether it is this replica that removes.
    pub lease: ExclusiveLease,
    /// This replica's own time, milliseconds since 1970.
    pub own_time_ms: fn() -> i64,
}

/// Where a replica stands.
struct Progress {
    /// Nothing old is left up to this id.
    after: i64,
    began_at: Instant,
    /// Time of the last row that was looked at, and when.
    last: Option<(i64, Instant)>,
    pace: Pace,
    backoff: Backoff,
}

impl Progress {
    fn new() -> Self {
        Self { after: 0, began_at: Instant::now(), last: None, pace: Pace::default(), backoff: BACKOFF }
    }
}

impl RowRemover {
    /// Follows the live document until `stop`.
    pub async fn run(mut self, mut live: watch::Receiver<Applied>, stop: CancellationToken) {
        let mut progress = Progress::new();
        loop {
            let kept: Option<Duration> = live.borrow_and_update().live.retention.map(Into::into);
            self.meters.retention.set(kept);
            let next = async {
                match kept {
                    None => std::future::pending().await,
                    Some(kept) => {
                        let pause = self.proceed(&mut progress, kept).await;
                        tokio::time::sleep(pause).await;
                    }
                }
            };
            // A step that is dropped half-way may still remove its rows, by the retention that it began with: a server
            // finishes a statement that it has begun. SQLite rolls it back.
            tokio::select! {
                () = stop.cancelled() => break,
                () = next => {}
                changed = live.changed() => if changed.is_err() {
                    // The watcher has ended with the process.
                    break;
                }
            }
        }
        self.lease.give_back().await;
    }

    /// One step, if it is our turn. Returns how long to pause.
    async fn proceed(&mut self, progress: &mut Progress, kept: Duration) -> Duration {
        match self.step(progress, kept).await {
            Ok(pause) => {
                progress.backoff.reset();
                self.meters.retention_works();
                pause
            }
            Err(error) => {
                self.meters.retention_failed(&error);
                progress.backoff.pause()
            }
        }
    }

    async fn step(&mut self, progress: &mut Progress, kept: Duration) -> Result<Duration, StoreError> {
        if !self.lease.renew_if_due().await? {
            self.meters.retention.not_ours();
            return Ok(exclusive_lease::RENEW);
        }
        if progress.began_at.elapsed() >= AGAIN {
            (progress.after, progress.began_at) = (0, Instant::now());
        }
        let before_ms = self.before_ms(kept);
        let sweep = Sweep { after: progress.after, before_ms, rows: progress.pace.rows() };
        let swept = self.store.remove_older(&sweep).await?;
        self.meters.retention.removed(swept.removed);
        let Some(reached) = swept.reached else {
            progress.last = None;
            progress.pace.caught_up(swept.took);
            self.meters.retention.set_behind(Duration::ZERO);
            return Ok((kept / TOLERATED_PARTS).clamp(Duration::from_secs(1), ROUND));
        };
        progress.after = reached.id;
        let now = Instant::now();
        let at_ms = reached.created_at_ms.unwrap_or_else(|| id::time_ms(reached.id));
        let behind = milliseconds(before_ms - at_ms);
        self.meters.retention.set_behind(behind);
        let moved = progress.last.replace((at_ms, now)).map(|(last_ms, last)| Moved {
            over: milliseconds(at_ms - last_ms),
            within: now.saturating_duration_since(last),
        });
        Ok(progress.pace.stepped(swept.took, behind, kept, moved))
    }

    /// The time from before which rows are old, by whichever clock is behind: a clock that runs ahead, or that
    /// somebody has set wrong, removes nothing.
    fn before_ms(&self, kept: Duration) -> i64 {
        let own = (self.own_time_ms)();
        // Before the first reading: 1970, so nothing is old.
        let database = self.clock.at(Instant::now()).unwrap_or_default();
        let kept = i64::try_from(kept.as_millis()).unwrap_or(i64::MAX);
        own.min(database).saturating_sub(kept)
    }
}

fn milliseconds(milliseconds: i64) -> Duration {
    Duration::from_millis(milliseconds.max(0).unsigned_abs())
}

#[cfg(test)]
mod tests;
