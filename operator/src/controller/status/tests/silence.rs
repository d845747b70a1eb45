//! Tests: what is said while consumers say nothing.

use super::*;

fn not_asked() -> Vec<PodReport> {
    ["pod-0", "pod-1"].map(|pod| PodReport::not_asked(pod.to_owned())).into()
}

#[test]
fn a_silent_pod_makes_the_rate_unknown_and_leaves_ready_alone() {
    let mut case = Case::new();
    case.reports = pods(vec![Ok(answer(4, 500)), Err("cannot connect".into())]);
    assert_eq!(case.condition("RateConfirmed"), is("Unknown", "ConsumerSilent"));
    assert_eq!(case.condition("Ready"), is("True", "ConsumersReady"));
    let status = case.status();
    assert_eq!((status.rate.applied, status.lag), (None, None));
}

#[test]
fn a_pod_that_counts_again_makes_the_rate_unknown_before_it_is_asked() {
    let mut case = Case::new();
    case.pipeline.status = Some(case.status());
    let mut reports = not_asked();
    reports[0].answer = Ok(answer(4, 500));
    case.reports = reports;
    assert_eq!(case.condition("RateConfirmed"), is("Unknown", "ConsumerSilent"));
}

#[test]
fn who_has_asked_nobody_yet_goes_on_from_the_last_status() {
    let mut case = Case::new();
    let last = case.status();
    case.pipeline.status = Some(last.clone());
    case.now += SignedDuration::from_secs(100);
    case.reports = not_asked();
    assert_eq!(case.status(), last);
    case.reports[0].answer = Err("no answer within 2 s".into());
    assert_eq!(case.condition("RateConfirmed"), is("Unknown", "ConsumerSilent"), "somebody was asked");
}

#[test]
fn a_last_status_of_another_spec_live_document_or_rate_says_nothing_of_this_one() {
    let changes: [fn(&mut TracePipelineStatus); 3] = [
        |last| last.observed_generation = Some(2),
        |last| last.rate.revision = 3,
        |last| last.rate.desired = 70,
    ];
    for change in changes {
        let mut case = Case::new();
        let mut last = case.status();
        change(&mut last);
        case.pipeline.status = Some(last);
        case.reports = not_asked();
        assert_eq!(case.condition("RateConfirmed"), is("Unknown", "ConsumerSilent"));
        assert_eq!((case.status().rate.applied, case.status().lag), (None, None));
    }
}

#[test]
fn a_consumer_that_falls_silent_has_not_recovered() {
    let mut case = Case::new();
    let denied = Report {
        last_error: Some("the broker refuses the user".into()),
        last_error_reason: Some(ErrorReason::SourceDenied.as_str().into()),
        ..answer(4, 500)
    };
    case.reports = pods(vec![Ok(answer(4, 500)), Ok(denied)]);
    case.pipeline.status = Some(case.status());
    case.reports = not_asked();
    assert_eq!(case.condition("Degraded"), is("True", ErrorReason::SourceDenied.as_str()));
    case.reports = pods(vec![Ok(answer(4, 500)), Err("cannot connect".into())]);
    assert_eq!(case.condition("Degraded"), is("True", ErrorReason::SourceDenied.as_str()));
    case.reports = pods(vec![Err("cannot connect".into()), Ok(answer(4, 500))]);
    assert_eq!(case.condition("Degraded"), is("False", "AsExpected"), "its own word is newer");
    case.reports = pods(vec![Ok(answer(4, 500))]);
    case.idle = vec!["pod-1".into()];
    assert_eq!(case.condition("Degraded"), is("True", ErrorReason::SourceDenied.as_str()), "it starts again");
    case.idle = vec!["pod-10".into()];
    assert_eq!(case.condition("Degraded"), is("False", "AsExpected"), "the pod is gone");
}
