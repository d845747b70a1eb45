//! What a CPU limit holds back.
//!
//! A process that has used up its quota stands still until the next period begins, a tenth of a second mostly, whatever
//! its lanes do at that moment: by the clock they wait for the database. The kernel counts those periods in `cpu.stat`
//! (`Documentation/admin-guide/cgroup-v2.rst`, `Documentation/scheduler/sched-bwc.rst`).

use std::fs;

/// Where a container finds that of its own cgroup: version 2, version 1.
const PLACES: [&str; 2] = ["/sys/fs/cgroup/cpu.stat", "/sys/fs/cgroup/cpu/cpu.stat"];

/// Periods in which the process wanted to run, and those in which its quota did not suffice; since the cgroup began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Quota {
    periods: u64,
    throttled: u64,
}

impl Quota {
    /// As the kernel tells it now; zeros where there is no limit.
    pub(super) fn now() -> Self {
        let text = PLACES.iter().find_map(|place| fs::read_to_string(place).ok());
        Self::of(&text.unwrap_or_default())
    }

    pub(super) fn of(text: &str) -> Self {
        let number = |name: &str| {
            let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
            found.and_then(|number| number.trim().parse().ok()).unwrap_or(0)
        };
        Self { periods: number("nr_periods"), throttled: number("nr_throttled") }
    }

    /// Whether it did not suffice in most periods since `before`.
    pub(super) fn is_short_since(self, before: Self) -> bool {
        let periods = self.periods.saturating_sub(before.periods);
        self.throttled.saturating_sub(before.throttled) * 2 > periods
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quota_is_short_where_most_periods_were_throttled() {
        let two = |periods: u64, throttled: u64| {
            Quota::of(&format!(
                "usage_usec 7\nuser_usec 5\nsystem_usec 2\nnr_periods {periods}\nnr_throttled {throttled}\n\
                 throttled_usec 900\nnr_bursts 0\nburst_usec 0\n"
            ))
        };
        assert!(two(479, 478).is_short_since(two(100, 100)));
        assert!(!two(479, 200).is_short_since(two(100, 100)));
        let one = Quota::of("nr_periods 30\nnr_throttled 20\nthrottled_time 9\n");
        assert_eq!(one, Quota { periods: 30, throttled: 20 });
        // The root cgroup, and a machine without any.
        for none in ["usage_usec 7\n", "", "nr_periods 0\nnr_throttled 0\n", "nr_throttledness 9\n"] {
            assert_eq!(Quota::of(none), Quota::default());
        }
        assert!(!Quota::default().is_short_since(Quota::default()));
    }
}
