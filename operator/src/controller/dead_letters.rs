//! Whether dead letters grow in number: a message that nobody can store is a matter for a person; no client.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use sluice_crds::v1alpha1::{TracePipeline, TracePipelineStatus};

use super::probe::PodReport;
use super::status::{DEAD_LETTERS_GROWING, TRUE, condition};
use crate::lock::lock;

/// For how long a new dead letter counts; whole minutes.
pub const RECENT: Duration = Duration::from_secs(300);

#[derive(Default)]
struct Seen {
    /// Each pod counts from its start; none of those that have not answered since the operator's own.
    by_pod: HashMap<String, Option<u64>>,
    last: Option<Instant>,
}

/// The last numbers, by pipeline.
#[derive(Default)]
pub struct DeadLetters(Mutex<HashMap<ObjectRef<TracePipeline>, Seen>>);

impl DeadLetters {
    /// Takes in what the pods say now. If there was a new dead letter lately: for how long it still counts.
    ///
    /// The first look, after a start of the operator, takes the numbers as they are and goes on from the last status.
    pub fn look(
        &self,
        pipeline: &ObjectRef<TracePipeline>,
        status: Option<&TracePipelineStatus>,
        reports: &[PodReport],
        now: Instant,
    ) -> Option<Duration> {
        let mut all = lock(&self.0);
        let is_first = !all.contains_key(pipeline);
        let seen = all.entry(pipeline.clone()).or_default();
        let last = condition(status, DEAD_LETTERS_GROWING);
        let mut grows = is_first && last.is_some_and(|last| last.status == TRUE);
        seen.by_pod.retain(|pod, _| reports.iter().any(|report| report.pod == *pod));
        for report in reports {
            let before = seen.by_pod.entry(report.pod.clone()).or_insert((!is_first).then_some(0));
            let Ok(answer) = &report.answer else { continue };
            let number = answer.dead_letters;
            // A smaller number is one of a process that was started again.
            grows |= before.is_some_and(|before| number > before || (number < before && number > 0));
            *before = Some(number);
        }
        if grows {
            seen.last = Some(now);
        }
        let left = RECENT.saturating_sub(now.duration_since(seen.last?));
        (!left.is_zero()).then_some(left)
    }

    /// The pipeline is gone.
    pub fn forget(&self, pipeline: &ObjectRef<TracePipeline>) {
        lock(&self.0).remove(pipeline);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::probe::Report;

    fn reports(numbers: &[(&str, u64)]) -> Vec<PodReport> {
        let report = |(pod, dead_letters): &(&str, u64)| PodReport {
            pod: (*pod).to_owned(),
            answer: Ok(Report { dead_letters: *dead_letters, ..Report::default() }),
        };
        numbers.iter().map(report).collect()
    }

    /// Whether they grow, after each of these reports, a minute apart.
    fn grow(steps: &[&[(&str, u64)]]) -> Vec<bool> {
        let (letters, name, start) = (DeadLetters::default(), ObjectRef::new("p"), Instant::now());
        let look = |(minute, step): (u64, &&[(&str, u64)])| {
            let now = start + Duration::from_secs(minute * 60);
            letters.look(&name, None, &reports(step), now).is_some()
        };
        (0..).zip(steps).map(look).collect()
    }

    #[test]
    fn what_was_there_at_the_start_is_no_growth() {
        assert_eq!(grow(&[&[("a", 7)], &[("a", 7)], &[("a", 8)]]), [false, false, true]);
    }

    #[test]
    fn pods_that_answer_late_after_a_start_of_the_operator_are_no_growth() {
        let (letters, name, now) = (DeadLetters::default(), ObjectRef::new("p"), Instant::now());
        let silent = [PodReport { pod: "a".into(), answer: Err("not asked yet".into()) }];
        assert_eq!(letters.look(&name, None, &silent, now), None);
        assert_eq!(letters.look(&name, None, &reports(&[("a", 7)]), now), None);
        assert!(letters.look(&name, None, &reports(&[("a", 8)]), now).is_some());
    }

    #[test]
    fn growth_counts_for_five_minutes() {
        let quiet: &[_] = &[("a", 1)];
        let expected = [false, true, true, true, true, true, false];
        assert_eq!(grow(&[&[("a", 0)], quiet, quiet, quiet, quiet, quiet, quiet]), expected);
    }

    #[test]
    fn a_new_pod_and_a_restarted_one_count_from_zero() {
        assert_eq!(grow(&[&[("a", 7)], &[("a", 7), ("b", 1)]]), [false, true]);
        assert_eq!(grow(&[&[("a", 7)], &[("a", 0)]]), [false, false]);
        assert_eq!(grow(&[&[("a", 7)], &[("a", 2)]]), [false, true]);
    }
}
