//! What a status tells of the consumers' reports, beside what it tells at once.

use super::conditions::{expiring, waits_for_the_rate};
use super::numbers::{Numbers, numbers};
use crate::controller::probe::PodReport;

/// Two equal ones make the same status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    numbers: Numbers,
    throttled: bool,
    /// Where the last status tells of none, and where it does.
    expiring: [Option<(String, u64)>; 2],
    errors: Vec<Option<String>>,
}

impl Digest {
    /// Reads reports.
    pub fn of(reports: &[PodReport]) -> Self {
        let error = |report: &PodReport| match &report.answer {
            Ok(answer) => answer.last_error.clone(),
            Err(why) => Some(why.clone()),
        };
        Self {
            numbers: numbers(reports),
            throttled: waits_for_the_rate(reports),
            expiring: [false, true]
                .map(|told| expiring(reports, told).map(|(pod, retention)| (pod.to_owned(), retention))),
            errors: reports.iter().map(error).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::probe::Report;

    #[test]
    fn a_retention_that_arrives_late_is_something_else_to_tell() {
        let told = |retention_seconds| {
            let answer = Report { drain_seconds: Some(90), retention_seconds, ..Report::default() };
            Digest::of(&[PodReport { pod: "a".to_owned(), answer: Ok(answer) }])
        };
        assert!(told(None) != told(Some(60)));
        assert!(told(None) == told(Some(120)), "it is long enough");
    }
}
