//! Lowers the rate while the database suffers: additive increase, multiplicative decrease, as TCP does (RFC 5681).
//!
//! Guarantees: the guard only ever lowers the rate, and not below its least one; without trouble it holds nothing
//! back. What it looks at is how long transactions of the database take and whether they fail because of it, never
//! how long anybody waits at the gate. It knows no other replica: each lowers what it holds of the whole rate.
//!
//! How: twice a second it looks at the writes since. Where they took longer than the target on average, or one failed,
//! the rate falls by 30 %. Otherwise it rises by a twentieth of the rate at which the last trouble was seen, and
//! that step doubles with every five seconds without trouble: a rate that is just too high is found again carefully,
//! one that was left long ago comes back within half a minute. See `docs/adr/0011-guard-and-slow-start.md`.
//!
//! Times are durations since an origin that the caller chooses, and must not go back.

use std::collections::BTreeMap;
use std::time::Duration;

/// How often the writes are judged.
pub const PERIOD: Duration = Duration::from_millis(500);
/// What is left of the rate after a period of trouble.
const DECREASE: f64 = 0.7;
/// What is added after a period without, in terms of the rate at which there was trouble last.
const INCREASE: f64 = 0.05;
/// After so many periods without trouble the step doubles.
const DOUBLES_AFTER: u32 = 10;
/// Beyond this many doublings no rate is left to be reached.
const MOST_DOUBLINGS: u32 = 30;

/// What the guard aims at.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Aim {
    /// How long a transaction may take.
    pub target: Duration,
    /// Spans per second for the whole pipeline below which it does not go.
    pub least: f64,
}

/// How a write ended, as far as it tells anything about the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was committed.
    Committed,
    /// The database is away, overloaded, or in conflict with others.
    Failed,
    /// The data, the position or the caller is the reason, not the database.
    Unclear,
}

/// Writes of a period.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    committed: u32,
    took: Duration,
    failed: bool,
}

/// The guard of one replica.
#[derive(Debug, Default)]
pub struct Guard {
    aim: Option<Aim>,
    /// Spans per second of the whole pipeline; none while nothing is held back.
    limit: Option<f64>,
    /// The rate at which there was trouble last.
    troubled: f64,
    lowered_at: Duration,
    calm_periods: u32,
    judged_at: Duration,
    seen: Seen,
    /// When the writes under way began.
    under_way: BTreeMap<u64, Duration>,
    next_write: u64,
    lowered: u64,
}

impl Guard {
    /// Changes what it aims at. Without an aim it holds nothing back.
    pub fn set_aim(&mut self, now: Duration, aim: Option<Aim>) {
        if self.aim == aim {
            return;
        }
        if self.aim.is_none() {
            (self.judged_at, self.seen) = (now, Seen::default());
        }
        if aim.is_none() {
            self.limit = None;
        }
        self.aim = aim;
    }

    /// A transaction begins. Returns its number for [`Self::ended`].
    pub fn began(&mut self, now: Duration) -> u64 {
        self.next_write += 1;
        self.under_way.insert(self.next_write, now);
        self.next_write
    }

    /// A transaction has ended.
    pub fn ended(&mut self, now: Duration, write: u64, outcome: Outcome) {
        let Some(began) = self.under_way.remove(&write) else { return };
        // What began at a larger rate says nothing about the present one.
        if began < self.lowered_at {
            return;
        }
        match outcome {
            Outcome::Committed => {
                self.seen.committed += 1;
                self.seen.took += self.counted(now.saturating_sub(began));
            }
            Outcome::Failed => self.seen.failed = true,
            Outcome::Unclear => {}
        }
    }

    /// The rate of the whole pipeline that it holds `whole` down to; none while it does not. While `whole` is 0
    /// nothing is learned.
    pub fn limit(&mut self, now: Duration, whole: f64) -> Option<f64> {
        let aim = self.aim?;
        if now >= self.judged_at + PERIOD {
            if whole > 0.0 {
                self.judge(now, whole, aim);
            }
            (self.judged_at, self.seen) = (now, Seen::default());
        }
        let limit = self.limit?.max(aim.least);
        (limit < whole).then_some(limit)
    }

    /// When [`Self::limit`] may say something else.
    pub fn next_look(&self) -> Option<Duration> {
        self.aim.map(|_| self.judged_at + PERIOD)
    }

    /// How many times it has lowered the rate.
    pub fn lowered(&self) -> u64 {
        self.lowered
    }

    fn judge(&mut self, now: Duration, whole: f64, aim: Aim) {
        let present = self.limit.map_or(whole, |limit| limit.min(whole));
        if self.suffers(now, aim) {
            self.troubled = present;
            self.limit = Some((present * DECREASE).max(aim.least));
            (self.lowered_at, self.calm_periods) = (now, 0);
            self.lowered += 1;
        } else if self.limit.is_some() {
            let doublings = (self.calm_periods / DOUBLES_AFTER).min(MOST_DOUBLINGS);
            let raised = present + self.troubled * INCREASE * f64::from(1u32 << doublings);
            self.calm_periods += 1;
            self.limit = Some(raised).filter(|raised| *raised < whole);
        }
    }

    fn suffers(&self, now: Duration, aim: Aim) -> bool {
        // What does not come back is not waited for.
        let overdue = self.under_way.values().map(|began| now.saturating_sub(*began));
        let overdue = overdue.filter(|age| *age > aim.target).map(|age| self.counted(age));
        let (count, took) =
            overdue.fold((self.seen.committed, self.seen.took), |(count, took), age| (count + 1, took + age));
        self.seen.failed || (count > 0 && took > aim.target * count)
    }

    /// A single write that hangs, on a lock for instance, does not outweigh hundreds that do not.
    fn counted(&self, took: Duration) -> Duration {
        let target = self.aim.map_or(Duration::ZERO, |aim| aim.target);
        took.min(PERIOD.max(target * 2))
    }
}

#[cfg(test)]
mod tests;
