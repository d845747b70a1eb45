//! What a status tells of the consumers' reports, beside what it tells at once.

use super::conditions::waits_for_the_rate;
use super::numbers::{Numbers, numbers};
use crate::controller::probe::PodReport;

/// Two equal ones make the same status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Told {
    numbers: Numbers,
    throttled: bool,
    errors: Vec<Option<String>>,
}

impl Told {
    /// Reads reports.
    pub fn of(reports: &[PodReport]) -> Self {
        let error = |report: &PodReport| match &report.answer {
            Ok(answer) => answer.last_error.clone(),
            Err(why) => Some(why.clone()),
        };
        Self {
            numbers: numbers(reports),
            throttled: waits_for_the_rate(reports),
            errors: reports.iter().map(error).collect(),
        }
    }
}
