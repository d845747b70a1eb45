//! Slow start: after a stop the rate does not come back at once.
//!
//! A database that was away has cold caches, and others who come back to it, too. So after a suspension, a rate of 0
//! or an outage the rate begins at a tenth and doubles with every second: after 3.3 seconds it is whole, within the
//! five after which guarantee 2 counts its use. Every other change of the rate takes effect at once, and the first
//! start of a process is no stop.
//!
//! Times are durations since an origin that the caller chooses, and must not go back.

use std::time::Duration;

/// The part of the rate that it begins with.
const FIRST: f64 = 0.1;
/// How soon it is twice as much.
const DOUBLES_IN: Duration = Duration::from_secs(1);
/// How often it rises.
const RISES_EVERY: Duration = Duration::from_millis(250);
/// For how long writes must have failed, from the first to the last, with none that succeeded between: anything
/// shorter is a hiccup. How long the next try waits at the gate does not matter.
pub const OUTAGE: Duration = Duration::from_secs(1);

/// The slow start of one replica.
#[derive(Clone, Copy, Debug, Default)]
pub struct Ramp {
    began: Option<Duration>,
    /// The first and the last of the writes that failed since one succeeded.
    failures: Option<(Duration, Duration)>,
}

impl Ramp {
    /// A stop is over.
    pub fn begin(&mut self, now: Duration) {
        self.began = Some(now);
        self.failures = None;
    }

    /// The database did not take a write.
    pub fn failed(&mut self, now: Duration) {
        self.failures.get_or_insert((now, now)).1 = now;
    }

    /// The database took a write. Whether that ended an outage.
    pub fn worked(&mut self, now: Duration) -> bool {
        let failures = self.failures.take();
        let was_away = failures.is_some_and(|(first, last)| last.saturating_sub(first) >= OUTAGE);
        if was_away {
            self.begin(now);
        }
        was_away
    }

    /// The part of the rate that may be used: 1 unless a stop has just ended.
    pub fn part(&mut self, now: Duration) -> f64 {
        let Some(began) = self.began else { return 1.0 };
        let steps = now.saturating_sub(began).as_millis() / RISES_EVERY.as_millis();
        let doublings = steps as f64 * RISES_EVERY.as_secs_f64() / DOUBLES_IN.as_secs_f64();
        let part = FIRST * doublings.exp2();
        if part >= 1.0 {
            self.began = None;
            return 1.0;
        }
        part
    }

    /// When [`Self::part`] says something else.
    pub fn next_step(&self, now: Duration) -> Option<Duration> {
        let began = self.began?;
        let steps = now.saturating_sub(began).as_millis() / RISES_EVERY.as_millis() + 1;
        Some(began + RISES_EVERY * u32::try_from(steps).unwrap_or(u32::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    #[test]
    fn it_begins_at_a_tenth_doubles_each_second_and_is_whole_before_five_have_passed() {
        let mut ramp = Ramp::default();
        assert_eq!((ramp.part(ms(0)), ramp.next_step(ms(0))), (1.0, None));
        ramp.begin(ms(700));
        let mut now = ms(700);
        let mut parts = vec![ramp.part(now)];
        while let Some(next) = ramp.next_step(now) {
            assert!(next > now);
            now = next;
            parts.push(ramp.part(now));
        }
        assert!(parts.is_sorted(), "{parts:?}");
        assert_eq!((parts[0], parts[4], parts[8]), (0.1, 0.2, 0.4));
        assert_eq!(parts.last(), Some(&1.0));
        assert!(now - ms(700) <= ms(3_500), "{now:?}");
    }

    #[test]
    fn an_outage_ends_with_a_slow_start_and_a_hiccup_does_not() {
        let mut ramp = Ramp::default();
        ramp.failed(ms(0));
        ramp.failed(ms(900));
        assert!(!ramp.worked(ms(999)));
        assert_eq!(ramp.part(ms(999)), 1.0);
        ramp.failed(ms(2_000));
        ramp.failed(ms(3_000));
        assert!(ramp.worked(ms(4_000)));
        assert_eq!(ramp.part(ms(4_000)), 0.1);
        assert!(!ramp.worked(ms(4_001)), "it ends once");
    }

    #[test]
    fn one_write_that_failed_and_then_waited_long_at_the_gate_is_no_outage() {
        let mut ramp = Ramp::default();
        ramp.failed(ms(0));
        assert!(!ramp.worked(ms(16_000)));
    }

    #[test]
    fn a_write_that_fails_beside_others_that_do_not_is_no_outage() {
        let mut ramp = Ramp::default();
        for second in 0..10 {
            ramp.failed(ms(second * 1_000));
            assert!(!ramp.worked(ms(second * 1_000 + 10)));
        }
    }
}
