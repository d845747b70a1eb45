//! Measures releases: how many spans the pipeline let through in every sliding second.
//!
//! The id of a row or a dead letter carries the database's time at which its batch was built, in milliseconds
//! (`consumer/src/store/id.rs`), which is when it was released; so the bound can be checked afterwards, exactly, over all
//! replicas.

use std::time::Duration;

use anyhow::ensure;

/// 2024-01-01T00:00:00Z in milliseconds since 1970: where the time in ids begins.
pub const ID_EPOCH_MS: i64 = 1_704_067_200_000;

/// Times of releases, in milliseconds since 1970, ascending.
#[derive(Clone, Debug, Default)]
pub struct Releases {
    times: Vec<i64>,
}

/// A window of time and how many releases lie in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// First millisecond.
    pub from: i64,
    /// Releases within it.
    pub count: usize,
}

impl Releases {
    /// From ids of rows and dead letters, in any order.
    pub fn from_ids(ids: impl IntoIterator<Item = i64>) -> Self {
        Self::from_times(ids.into_iter().map(time_of))
    }

    /// From times in milliseconds since 1970, in any order.
    pub fn from_times(times: impl IntoIterator<Item = i64>) -> Self {
        let mut times: Vec<i64> = times.into_iter().collect();
        times.sort_unstable();
        Self { times }
    }

    /// Those of a span of time, `from` included and `to` excluded.
    pub fn between(&self, from: i64, to: i64) -> &[i64] {
        let index = |time: i64| self.times.partition_point(|&other| other < time);
        &self.times[index(from)..index(to).max(index(from))]
    }

    /// Number of releases.
    pub fn len(&self) -> usize {
        self.times.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.times.is_empty()
    }

    /// The fullest sliding second that begins in `[from, to)`; every fullest window begins at a release.
    pub fn fullest_second(&self, from: i64, to: i64) -> Window {
        let mut fullest = Window { from, count: 0 };
        let mut end = 0;
        for (start, &time) in self.times.iter().enumerate() {
            while end < self.times.len() && self.times[end] < time + 1_000 {
                end += 1;
            }
            if time >= from && time < to && end - start > fullest.count {
                fullest = Window { from: time, count: end - start };
            }
        }
        fullest
    }

    /// Fails where a sliding second that begins in `[from, to)` holds more releases than are allowed, and shows it.
    ///
    /// # Errors
    /// How many there were and when, twenty milliseconds a figure.
    pub fn check_bound(&self, from: i64, to: i64, allowed: f64, what: &str) -> anyhow::Result<()> {
        let fullest = self.fullest_second(from, to);
        println!("{what}: {} in the fullest second, {allowed:.0} allowed", fullest.count);
        let shape = || -> Vec<usize> {
            let steps = (fullest.from - 200..fullest.from + 1_200).step_by(20);
            steps.map(|step| self.between(step, step + 20).len()).collect()
        };
        ensure!(
            fullest.count as f64 <= allowed,
            "{what}: {} releases in the second from {} on, only {allowed:.0} allowed; from 200 ms before to 200 ms after \
             it: {:?}",
            fullest.count,
            fullest.from,
            shape()
        );
        Ok(())
    }

    /// How many releases lie in each sliding second within `[from, to)`, one second every `step` milliseconds.
    pub fn seconds(&self, from: i64, to: i64, step: usize) -> Vec<usize> {
        (from..to - 999).step_by(step).map(|start| self.between(start, start + 1_000).len()).collect()
    }

    /// What was used of `qps` between two times: 1.0 is all of it.
    pub fn used(&self, from: i64, to: i64, qps: f64) -> f64 {
        let seconds = (to - from) as f64 / 1_000.0;
        self.between(from, to).len() as f64 / (qps * seconds)
    }

    /// How long after `edit` the first second begins from which on every sliding second up to `until` has at
    /// most `bound` releases.
    pub fn compliant_after(&self, edit: i64, until: i64, bound: f64) -> Duration {
        let mut begins = edit;
        let mut end = 0;
        for (start, &time) in self.times.iter().enumerate() {
            while end < self.times.len() && self.times[end] < time + 1_000 {
                end += 1;
            }
            if time >= edit && time < until && (end - start) as f64 > bound {
                begins = begins.max(time + 1);
            }
        }
        Duration::from_millis(u64::try_from(begins - edit).unwrap_or(0))
    }
}

/// The time in a row id, in milliseconds since 1970.
pub fn time_of(id: i64) -> i64 {
    (id >> 22) + ID_EPOCH_MS
}

/// Guarantee 2's bound for any sliding second: 1.01 × QPS, and for each lane a quantum of
/// max(20 ms of the lane's rate, one message).
pub fn bound(qps: f64, lanes: u32, largest_message: u64) -> f64 {
    let lanes = f64::from(lanes);
    let quantum = (0.02 * qps / lanes).max(largest_message as f64);
    1.01 * qps + lanes * quantum
}

#[cfg(test)]
mod tests {
    use super::*;

    fn steady(qps: i64, seconds: i64) -> Vec<i64> {
        (0..qps * seconds).map(|index| index * 1_000 / qps).collect()
    }

    #[test]
    fn a_steady_rate_is_within_the_bound_and_uses_it() {
        let releases = Releases::from_times(steady(2_000, 10));
        assert_eq!(releases.fullest_second(0, 9_000).count, 2_000);
        assert!(releases.used(1_000, 9_000, 2_000.0) > 0.999);
        assert!(2_000.0 < bound(2_000.0, 6, 10));
    }

    #[test]
    fn a_burst_across_the_border_of_two_calendar_seconds_is_found() {
        let mut times = steady(2_000, 10);
        times.extend(std::iter::repeat_n(4_900, 150).chain(std::iter::repeat_n(5_100, 150)));
        let releases = Releases::from_times(times);
        let allowed = bound(2_000.0, 6, 10);
        assert!(releases.fullest_second(0, 9_000).count as f64 > allowed);
        let error = releases.check_bound(0, 9_000, allowed, "burst").unwrap_err().to_string();
        assert!(error.contains("40, 40, 190, 40"), "{error}");
    }

    #[test]
    fn every_sliding_second_is_counted() {
        let releases = Releases::from_times(steady(100, 2).into_iter().filter(|&time| time < 1_500));
        assert_eq!(releases.seconds(0, 2_000, 250), [100, 100, 100, 75, 50]);
    }

    #[test]
    fn a_pause_shows_as_unused_rate() {
        let times = steady(2_000, 10).into_iter().filter(|time| !(4_000..4_400).contains(time));
        assert!(Releases::from_times(times).used(0, 10_000, 2_000.0) < 0.98);
    }

    #[test]
    fn an_edit_that_takes_effect_late_is_found() {
        let late = steady(2_000, 6).into_iter().filter(|&time| time < 5_500);
        let after = (0..2_000).map(|index| 5_500 + index * 2);
        let releases = Releases::from_times(late.chain(after));
        let delay = releases.compliant_after(4_000, 9_000, bound(500.0, 6, 1));
        assert!(delay >= Duration::from_millis(1_400), "{delay:?}");
        assert_eq!(releases.compliant_after(6_000, 9_000, bound(500.0, 6, 1)), Duration::ZERO);
    }

    #[test]
    fn ids_carry_their_time() {
        assert_eq!(time_of((5 << 22) | (3 << 8) | 1), ID_EPOCH_MS + 5);
    }
}
