//! Consumers whose surroundings are in trouble: a new one would not become ready, whatever its image is.

use sluice_crds::v1alpha1::TracePipeline;

use super::apply::Trouble;
use super::dereference::Found;
use super::probe::{CONSUMER_ERROR, PodReport};
use super::status::EXPIRING;

/// Reasons of errors that keep no consumer from being ready.
const HOLDS_UP_NOTHING: [&str; 3] = [EXPIRING, "RetentionFailed", "DeadLetterTopicFailed"];

/// Reads the consumers' answers, and for those that have given none, the last status: an operator that has just begun has
/// asked nobody, and the one before it has told of trouble at once.
pub fn trouble(pipeline: &TracePipeline, found: &Found, reports: &[PodReport]) -> Trouble {
    let is_troubled = |pod: &str| {
        let report = reports.iter().find(|report| report.pod == pod);
        match report.map(|report| &report.answer) {
            Some(Ok(answer)) => {
                let reason = answer.last_error_reason.as_deref().unwrap_or(CONSUMER_ERROR);
                answer.last_error.is_some() && !HOLDS_UP_NOTHING.contains(&reason)
            }
            _ => was_troubled(pipeline, pod),
        }
    };
    Trouble {
        any: found.pods.iter().any(|pod| is_troubled(&pod.name)),
        of_older: found.older.iter().any(|pod| is_troubled(pod)),
    }
}

/// Whether the last status says so of this very pod: with what a consumer says it begins with its name.
fn was_troubled(pipeline: &TracePipeline, pod: &str) -> bool {
    let mut last = pipeline.status.iter().flat_map(|status| &status.conditions);
    last.any(|one| {
        one.type_ == "Degraded"
            && one.status == "True"
            && !HOLDS_UP_NOTHING.contains(&&*one.reason)
            && one.message.strip_prefix(pod).is_some_and(|rest| rest.starts_with(": "))
    })
}

#[cfg(test)]
mod tests {
    use sluice_crds::v1alpha1::TracePipelineStatus;

    use super::*;
    use crate::controller::dereference::PodAddress;
    use crate::controller::example;
    use crate::controller::probe::Report;

    fn found() -> Found {
        let pods = ["new", "old"].map(|name| PodAddress { name: name.into(), ip: None });
        Found { pods: pods.into(), older: vec!["old".into()], ..Found::default() }
    }

    fn says(pod: &str, reason: Option<&str>) -> PodReport {
        let (last_error, last_error_reason) = (reason.map(|_| "away".into()), reason.map(Into::into));
        PodReport {
            pod: pod.into(),
            answer: Ok(Report { last_error, last_error_reason, ..Report::default() }),
        }
    }

    #[test]
    fn what_consumers_answer_is_trouble_where_it_keeps_them_from_being_ready() {
        let of = |new, old| trouble(&example::pipeline(), &found(), &[says("new", new), says("old", old)]);
        assert_eq!(of(None, None), Trouble::default());
        assert_eq!(of(None, Some("RetentionFailed")), Trouble::default());
        assert_eq!(of(Some("StoreDenied"), None), Trouble { any: true, of_older: false });
        assert_eq!(of(None, Some("StoreUnavailable")), Trouble { any: true, of_older: true });
    }

    #[test]
    fn the_last_status_counts_for_those_that_were_not_asked() {
        let mut pipeline = example::pipeline();
        let mut told = example::condition("Degraded", "True");
        (told.reason, told.message) = ("StoreUnavailable".into(), "old: the database is away".into());
        let mut of = |condition, reports: &[PodReport]| {
            pipeline.status =
                Some(TracePipelineStatus { conditions: vec![condition], ..TracePipelineStatus::default() });
            trouble(&pipeline, &found(), reports)
        };
        assert_eq!(of(told.clone(), &[]), Trouble { any: true, of_older: true });
        assert_eq!(of(told.clone(), &[says("old", None)]), Trouble::default(), "it is over");
        told.message = "the rollout has stopped moving".into();
        assert_eq!(of(told.clone(), &[]), Trouble::default(), "no consumer says so");
        (told.reason, told.message) = (EXPIRING.into(), "old: the backlog takes longer".into());
        assert_eq!(of(told, &[]), Trouble::default());
    }
}
