//! The numbers of a status: sums over the consumers, rounded.

use crate::controller::probe::PodReport;

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

/// Adds up the reports.
pub fn numbers(reports: &[PodReport]) -> Numbers {
    let answers: Vec<_> = reports.iter().filter_map(|report| report.answer.as_ref().ok()).collect();
    if answers.is_empty() || answers.len() < reports.len() {
        return Numbers::default();
    }
    let effective: f64 = answers.iter().map(|answer| answer.effective_qps).sum();
    let achieved: f64 = answers.iter().map(|answer| answer.achieved_qps).sum();
    let partitions = answers.iter().flat_map(|answer| &answer.partitions);
    let lag = partitions.map(|partition| partition.lag).try_fold(0, |sum: u64, lag| Some(sum + lag?));
    // The slowest consumer is the last to finish; what one frees goes to the others, so this is an upper bound.
    let drain = answers.iter().filter_map(|answer| answer.drain_seconds).max();
    Numbers {
        // Not negative and far below u32: rates are at most 10 million.
        effective: Some(rounded(effective.round() as u64) as u32),
        throughput: Some(rounded(achieved.round() as u64)),
        lag: lag.map(rounded),
        drain_seconds: drain.map(rounded),
        dead_letters: Some(answers.iter().map(|answer| answer.dead_letters).sum()),
    }
}

/// To two significant digits: what people read, without a write for every message.
pub fn rounded(number: u64) -> u64 {
    let mut unit = 1;
    while number / unit >= 100 {
        unit *= 10;
    }
    (number + unit / 2) / unit * unit
}

#[cfg(test)]
mod tests {
    use super::rounded;

    #[test]
    fn two_digits_are_kept() {
        for (number, expected) in
            [(0, 0), (7, 7), (99, 99), (104, 100), (105, 110), (88_211, 88_000), (99_999, 100_000)]
        {
            assert_eq!(rounded(number), expected);
        }
    }
}
