//! The numbers of a status: sums over the consumers, rounded.

use sluice_crds::v1alpha1::TracePipelineStatus;

use crate::controller::probe::{PodReport, Report, answers_of};

/// Sums over all consumers; none while any of them does not answer, because half a sum is a wrong one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Numbers {
    /// Spans per second that may be released.
    pub effective: Option<u32>,
    /// Spans per second that are stored.
    pub throughput: Option<u64>,
    /// Messages that wait.
    pub lag: Option<u64>,
    /// Seconds until they are stored.
    pub drain_seconds: Option<u64>,
    /// Dead letters since the pods started.
    pub dead_letters: Option<u64>,
}

impl Numbers {
    /// Those that a status has.
    pub fn of(status: &TracePipelineStatus) -> Self {
        Self {
            effective: status.rate.effective,
            throughput: status.throughput,
            lag: status.lag,
            drain_seconds: status.drain_seconds,
            dead_letters: status.dead_letters,
        }
    }
}

/// Adds up the reports.
pub fn numbers(reports: &[PodReport]) -> Numbers {
    let answers: Vec<_> = answers_of(reports).collect();
    if answers.is_empty() || answers.len() < reports.len() {
        return Numbers::default();
    }
    let effective: f64 = answers.iter().map(|answer| answer.effective_qps).sum();
    let achieved: f64 = answers.iter().map(|answer| answer.achieved_qps).sum();
    let (lag, drain) = backlog(&answers);
    let dead_letters = answers.iter().map(|answer| answer.dead_letters).fold(0, u64::saturating_add);
    Numbers {
        // Not negative and far below u32, unless a consumer lies: rates are at most 10 million.
        effective: Some(u32::try_from(rounded(effective.round() as u64)).unwrap_or(u32::MAX)),
        throughput: Some(rounded(achieved.round() as u64)),
        lag: lag.map(rounded),
        drain_seconds: drain.map(rounded),
        dead_letters: Some(dead_letters.min(MOST)),
    }
}

/// Messages that wait, and the seconds that they take. Those who have partitions have all of them. Where nobody has any, and
/// one does not know how long draining takes, none may be theirs yet, or any more: nobody knows what waits.
fn backlog(answers: &[&Report]) -> (Option<u64>, Option<u64>) {
    let with: Vec<_> = answers.iter().filter(|answer| answer.partitions.count > 0).collect();
    if with.is_empty() {
        let nothing = answers.iter().all(|answer| answer.drain_seconds.is_some()).then_some(0);
        return (nothing, nothing);
    }
    let lag = with.iter().try_fold(0, |sum: u64, answer| Some(sum.saturating_add(answer.partitions.lag?)));
    // The slowest consumer is the last to finish; what one frees goes to the others, so this is an upper bound.
    let drain = with.iter().try_fold(0, |most, answer| Some(answer.drain_seconds?.max(most)));
    (lag, drain)
}

/// Largest number that the API server takes.
const MOST: u64 = i64::MAX as u64;

/// To two significant digits: what people read, without a write for every message.
pub fn rounded(number: u64) -> u64 {
    let (number, mut unit) = (number.min(MOST), 1);
    while number / unit >= 100 {
        unit *= 10;
    }
    (number + unit / 2) / unit * unit
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_backlog_is_known_where_those_who_have_partitions_know_it() {
        let says = |lags: &[Option<u64>], drain_seconds| Report {
            partitions: lags.iter().copied().collect(),
            drain_seconds,
            ..Report::default()
        };
        let (busy, idle, out) = (says(&[Some(4), Some(5)], Some(3)), says(&[], Some(0)), says(&[], None));
        let unsure = says(&[Some(4), None], None);
        for (answers, expected) in [
            (vec![&busy, &idle, &busy], (Some(18), Some(3))),
            (vec![&busy, &out], (Some(9), Some(3))),
            (vec![&busy, &unsure], (None, None)),
            (vec![&idle, &idle], (Some(0), Some(0))),
            (vec![&idle, &out], (None, None)),
        ] {
            assert_eq!(backlog(&answers), expected, "{answers:?}");
        }
    }

    #[test]
    fn two_digits_are_kept() {
        for (number, expected) in
            [(0, 0), (7, 7), (99, 99), (104, 100), (105, 110), (88_211, 88_000), (99_999, 100_000)]
        {
            assert_eq!(rounded(number), expected);
        }
    }
}
