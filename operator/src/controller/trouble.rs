//! Consumers whose surroundings are in trouble: a new one would not become ready, whatever its image is.

use sluice_crds::error_reason::ErrorReason;
use sluice_crds::v1alpha1::TracePipeline;

use super::apply::Trouble;
use super::dereference::Found;
use super::probe::{CONSUMER_ERROR, PodReport, Report};
use super::status::{DEGRADED, EXPIRING, TRUE, condition, is_said_by};

/// Reads the consumers' answers, and for those that have given none, the last status: an operator that has just begun has
/// asked nobody, and the one before it has told of trouble at once.
pub fn trouble(pipeline: &TracePipeline, found: &Found, reports: &[PodReport]) -> Trouble {
    let answer_of = |pod: &str| {
        let report = reports.iter().find(|report| report.pod == pod)?;
        report.answer.as_ref().ok()
    };
    let reason_of = |pod: &str| match answer_of(pod) {
        Some(answer) => told_by(answer),
        None => told_before(pipeline, pod),
    };
    let of_older: Vec<_> = found.older.iter().filter_map(|pod| reason_of(pod)).collect();
    let mut newest =
        found.pods.iter().map(|pod| &*pod.name).filter(|pod| !found.older.iter().any(|it| it == pod));
    Trouble {
        any: found.pods.iter().any(|pod| reason_of(&pod.name).is_some()),
        shared: newest.any(|pod| {
            let reason = answer_of(pod).and_then(told_by);
            reason.is_some_and(|reason| of_older.contains(&reason))
        }),
        newest: found.newest,
    }
}

/// Why a consumer would not become ready now, by its own words.
fn told_by(answer: &Report) -> Option<&str> {
    answer.last_error.as_ref()?;
    let reason = answer.last_error_reason.as_deref().unwrap_or(CONSUMER_ERROR);
    Some(reason).filter(|reason| holds_up(reason))
}

/// What the last status says so of this very pod.
fn told_before<'a>(pipeline: &'a TracePipeline, pod: &str) -> Option<&'a str> {
    let last = condition(pipeline.status.as_ref(), DEGRADED)?;
    let is_told = last.status == TRUE && is_said_by(last, pod) && holds_up(&last.reason);
    is_told.then_some(&*last.reason)
}

/// Whether an error keeps a consumer from being ready: also one of a newer consumer, of a reason that nobody knows here.
fn holds_up(reason: &str) -> bool {
    let known = ErrorReason::of(reason);
    reason != EXPIRING && !known.is_some_and(ErrorReason::holds_up_nothing)
}

#[cfg(test)]
mod tests {
    use sluice_crds::v1alpha1::TracePipelineStatus;

    use super::*;
    use crate::controller::dereference::PodAddress;
    use crate::controller::example;

    fn found() -> Found {
        let pods = ["new", "old"].map(|name| PodAddress { name: name.into(), ip: None });
        Found { pods: pods.into(), older: vec!["old".into()], ..Found::default() }
    }

    const AWAY: &str = ErrorReason::StoreUnavailable.as_str();
    const DENIED: &str = ErrorReason::StoreDenied.as_str();

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
        for beside in
            [ErrorReason::RetentionFailed, ErrorReason::DeadLetterTopicFailed, ErrorReason::RedriveFailed]
        {
            assert_eq!(of(None, Some(beside.as_str())), Trouble::default());
        }
        let own = Trouble { any: true, ..Trouble::default() };
        let shared = Trouble { shared: true, ..own };
        assert_eq!(of(Some(DENIED), None), own);
        assert_eq!(of(None, Some(AWAY)), own, "it explains nothing of the new one");
        assert_eq!(of(Some(DENIED), Some(AWAY)), own);
        assert_eq!(of(Some(AWAY), Some(AWAY)), shared);
        assert_eq!(of(Some("OfANewerVersion"), Some("OfANewerVersion")), shared);
        let ended = trouble(&example::pipeline(), &found(), &[says("old", Some(AWAY))]);
        assert_eq!(ended, own, "the new one has never answered");
    }

    #[test]
    fn the_last_status_counts_for_those_that_were_not_asked() {
        let mut pipeline = example::pipeline();
        let mut told = example::condition(DEGRADED, "True");
        (told.reason, told.message) = (AWAY.into(), "old: the database is away".into());
        let mut of = |condition, reports: &[PodReport]| {
            pipeline.status =
                Some(TracePipelineStatus { conditions: vec![condition], ..TracePipelineStatus::default() });
            trouble(&pipeline, &found(), reports)
        };
        assert_eq!(of(told.clone(), &[]), Trouble { any: true, ..Trouble::default() });
        let new = says("new", Some(AWAY));
        let shared = Trouble { any: true, shared: true, ..Trouble::default() };
        assert_eq!(of(told.clone(), &[new]), shared);
        assert_eq!(of(told.clone(), &[says("old", None)]), Trouble::default(), "it is over");
        told.message = "the rollout has stopped moving".into();
        assert_eq!(of(told.clone(), &[]), Trouble::default(), "no consumer says so");
        (told.reason, told.message) = (EXPIRING.into(), "old: the backlog takes longer".into());
        assert_eq!(of(told, &[]), Trouble::default());
    }
}
