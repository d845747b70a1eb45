//! The database's clock, as one replica knows it.
//!
//! Ids carry the database's time, and so do the ends of overrides. Every claim and every renewal of the lease
//! brings a reading, and each is late by up to the time that its answer took. One clock serves the whole replica
//! and follows the reading that was answered fastest: with a reading of its own for every partition, ids of
//! releases that happened together would lie apart by as much as the slowest answer took.
//!
//! Guarantee: it is never ahead of the database's clock by more than what both drift apart between two readings.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// How far two clocks run apart, as a part of the time that passes: the most that an adjusted system clock is
/// slewed by (500 parts in a million, `adjtimex(2)`). A reading that was answered more slowly than the one in use
/// is better all the same once that one has aged by the difference.
const DRIFT: f64 = 500e-6;

/// See the module.
#[derive(Debug, Default)]
pub struct DatabaseClock {
    followed: Mutex<Option<Reading>>,
}

#[derive(Clone, Copy, Debug)]
struct Reading {
    answered_at: Instant,
    database_ms: i64,
    /// Between question and answer: the most that the reading is late by.
    late: Duration,
}

impl DatabaseClock {
    /// A reading (milliseconds since 1970) that was asked for at `asked_at` and has just been answered.
    pub fn read(&self, asked_at: Instant, database_ms: i64) {
        let answered_at = Instant::now();
        let new = Reading { answered_at, database_ms, late: answered_at.saturating_duration_since(asked_at) };
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        let better = followed.is_none_or(|old| {
            let aged = answered_at.saturating_duration_since(old.answered_at).mul_f64(DRIFT);
            new.late <= old.late + aged
        });
        if better {
            *followed = Some(new);
        }
    }

    /// The database's time at one of our instants, in milliseconds since 1970; none before the first reading.
    pub fn at(&self, instant: Instant) -> Option<i64> {
        let followed = *self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        followed.map(|reading| {
            let since = instant.saturating_duration_since(reading.answered_at).as_millis() as i64;
            let before = reading.answered_at.saturating_duration_since(instant).as_millis() as i64;
            reading.database_ms + since - before
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: i64 = 1_795_240_800_000;

    async fn passes(milliseconds: u64) {
        tokio::time::advance(Duration::from_millis(milliseconds)).await;
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_on_from_its_reading_in_both_directions() {
        let clock = DatabaseClock::default();
        assert_eq!(clock.at(Instant::now()), None);
        clock.read(Instant::now(), NOON);
        let read_at = Instant::now();
        passes(1_500).await;
        assert_eq!(clock.at(Instant::now()), Some(NOON + 1_500));
        assert_eq!(clock.at(read_at - Duration::from_millis(200)), Some(NOON - 200));
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_answer_does_not_set_it_back() {
        let clock = DatabaseClock::default();
        clock.read(Instant::now(), NOON);
        let asked_at = Instant::now();
        passes(80).await;
        clock.read(asked_at, NOON);
        assert_eq!(clock.at(Instant::now()), Some(NOON + 80));
    }

    #[tokio::test(start_paused = true)]
    async fn a_fast_answer_mends_what_a_slow_one_has_set() {
        let clock = DatabaseClock::default();
        let asked_at = Instant::now();
        passes(80).await;
        clock.read(asked_at, NOON);
        clock.read(Instant::now(), NOON + 80);
        assert_eq!(clock.at(Instant::now()), Some(NOON + 80));
    }

    #[tokio::test(start_paused = true)]
    async fn a_database_whose_clock_was_set_is_followed_before_long() {
        let clock = DatabaseClock::default();
        clock.read(Instant::now(), NOON);
        passes(20_000).await;
        let asked_at = Instant::now();
        passes(5).await;
        clock.read(asked_at, NOON + 3_600_000);
        assert_eq!(clock.at(Instant::now()), Some(NOON + 3_600_000));
    }
}
