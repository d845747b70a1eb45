//! The database's clock, as one replica knows it.
//!
//! Ids carry the database's time, and so do the ends of overrides. Every claim and every renewal of the lease
//! brings a reading: the database's clock stood there at some moment between question and answer. One clock serves the
//! whole replica: with a reading of its own for every partition, ids of releases that happened together would lie apart by
//! as much as the slowest answer took.
//!
//! Guarantees: it is never ahead of the database's clock by more than what both drift apart between two readings. It is
//! corrected by no more than a reading demands: a slow answer does not set it back, and releases of a second do
//! not show up in less than a second. Only where the database's own clock was set back it follows.

use std::sync::Mutex;
use std::time::Duration;

use crate::lock::lock;
use tokio::time::Instant;

/// How far two clocks run apart, as a part of the time that passes: the most that an adjusted system clock is
/// slewed by (500 parts in a million, `adjtimex(2)`).
const DRIFT: f64 = 500e-6;

/// This process's own clock, in milliseconds since 1970.
pub fn own_time_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}

/// See the module.
#[derive(Debug, Default)]
pub struct DatabaseClock {
    followed: Mutex<Option<Reading>>,
}

/// What the database's clock showed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DatabaseTime {
    /// Milliseconds since 1970.
    pub ms: i64,
    /// When we had the answer; what follows in a transaction does not make the reading late.
    pub told_at: Instant,
}

impl DatabaseTime {
    /// Just answered.
    pub fn told(ms: i64) -> Self {
        Self { ms, told_at: Instant::now() }
    }
}

/// The database's clock stands at `time` (since 1970) or later at `at`.
#[derive(Clone, Copy, Debug)]
struct Reading {
    at: Instant,
    time: Duration,
}

impl Reading {
    fn time_at(&self, instant: Instant) -> Duration {
        let since = instant.saturating_duration_since(self.at);
        let before = self.at.saturating_duration_since(instant);
        (self.time + since).saturating_sub(before)
    }
}

impl DatabaseClock {
    /// Takes in a reading that was asked for at `asked_at`.
    pub fn correct(&self, asked_at: Instant, reading: DatabaseTime) {
        let at = reading.told_at;
        // By now it stands at this at least. At most it does if it was read at once, at the end of its millisecond.
        let least = Duration::from_millis(u64::try_from(reading.ms).unwrap_or(0));
        let most = least + Duration::from_millis(1) + at.saturating_duration_since(asked_at);
        let mut followed = lock(&self.followed);
        let time = followed.map_or(least, |old| {
            let drifted = at.saturating_duration_since(old.at).mul_f64(DRIFT);
            old.time_at(at).saturating_sub(drifted).clamp(least, most)
        });
        #[cfg(feature = "planted")]
        let time = if crate::planted::is(crate::planted::Bug::BelieveLateAnswers) { least } else { time };
        *followed = Some(Reading { at, time });
    }

    /// The database's time at one of our instants, in milliseconds since 1970; none before the first reading.
    pub fn at(&self, instant: Instant) -> Option<i64> {
        let followed = *lock(&self.followed);
        followed.map(|reading| reading.time_at(instant).as_millis() as i64)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NOON: i64 = 1_795_240_800_000;

    async fn passes(milliseconds: u64) {
        tokio::time::advance(Duration::from_millis(milliseconds)).await;
    }

    /// Milliseconds, a part of one counted as one.
    fn behind(clock: &DatabaseClock, time: i64) -> i64 {
        time - clock.at(Instant::now()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_from_its_reading_in_both_directions() {
        let clock = DatabaseClock::default();
        assert_eq!(clock.at(Instant::now()), None);
        clock.correct(Instant::now(), DatabaseTime::told(NOON));
        let read_at = Instant::now();
        passes(1_500).await;
        assert_eq!(clock.at(Instant::now()), Some(NOON + 1_500));
        assert_eq!(clock.at(read_at - Duration::from_millis(200)), Some(NOON - 200));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_answers_do_not_set_it_back() {
        let clock = DatabaseClock::default();
        clock.correct(Instant::now(), DatabaseTime::told(NOON));
        let asked_at = Instant::now();
        passes(80).await;
        clock.correct(asked_at, DatabaseTime::told(NOON));
        assert_eq!(behind(&clock, NOON + 80), 1);
        // Nor after an outage, when the last good one is old: no further than the clocks may have drifted apart.
        passes(20_000).await;
        let asked_at = Instant::now();
        passes(60).await;
        clock.correct(asked_at, DatabaseTime::told(NOON + 20_081));
        assert_eq!(behind(&clock, NOON + 20_140), 11);
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_answer_mends_what_a_slow_one_has_set() {
        let clock = DatabaseClock::default();
        let asked_at = Instant::now();
        passes(80).await;
        clock.correct(asked_at, DatabaseTime::told(NOON));
        clock.correct(Instant::now(), DatabaseTime::told(NOON + 80));
        assert_eq!(clock.at(Instant::now()), Some(NOON + 80));
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_whose_clock_was_set_is_followed_at_once() {
        let clock = DatabaseClock::default();
        clock.correct(Instant::now(), DatabaseTime::told(NOON));
        let asked_at = Instant::now();
        passes(50).await;
        clock.correct(asked_at, DatabaseTime::told(NOON + 3_600_000));
        assert_eq!(clock.at(Instant::now()), Some(NOON + 3_600_000));
        // Back: to the latest time that the reading allows.
        clock.correct(Instant::now(), DatabaseTime::told(NOON));
        assert_eq!(clock.at(Instant::now()), Some(NOON + 1));
    }

    /// One reading: after a pause, how long the question took to get there and the answer to come back, in milliseconds.
    fn readings() -> impl Strategy<Value = Vec<(u64, u64, u64)>> {
        proptest::collection::vec((0u64..3_000, 0u64..120, 0u64..120), 1..60)
    }

    proptest! {
        /// By this the bound on releases, which ids show, holds whatever the answers take.
        #[test]
        fn however_late_answers_are_it_is_never_ahead_and_no_second_gets_shorter(readings in readings()) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(async {
                let began = Instant::now();
                let true_time = || NOON + began.elapsed().as_millis() as i64;
                let clock = DatabaseClock::default();
                let mut last: Option<(Instant, i64)> = None;
                for (pause, there, back) in readings {
                    passes(pause).await;
                    let asked_at = Instant::now();
                    passes(there).await;
                    let reading = true_time();
                    passes(back).await;
                    clock.correct(asked_at, DatabaseTime::told(reading));
                    let (now, shown) = (Instant::now(), clock.at(Instant::now()).unwrap());
                    assert!(shown <= true_time(), "{shown} is ahead of {}", true_time());
                    assert!(shown >= reading, "{shown} is behind what was read: {reading}");
                    if let Some((before, shown_before)) = last {
                        let passed = now.saturating_duration_since(before).as_millis() as i64;
                        let drift = (passed as f64 * DRIFT).ceil() as i64;
                        assert!(shown - shown_before >= passed - drift - 1, "{passed} ms became {}", shown - shown_before);
                    }
                    last = Some((now, shown));
                }
            });
        }
    }
}
