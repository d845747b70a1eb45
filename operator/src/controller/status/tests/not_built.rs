//! Tests: pipelines that are not built.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

use super::*;

#[test]
fn a_refused_pipeline_says_why_and_nothing_else() {
    let mut case = Case::new();
    case.refusal = Some(Refusal::Duplicate { first: "shop/first".into() });
    assert_eq!(case.condition("Ready"), is("False", "DuplicateConsumerGroup"));
    assert_eq!(case.condition("Degraded"), is("True", "DuplicateConsumerGroup"));
    assert_eq!(case.condition("Stalled"), is("True", "DuplicateConsumerGroup"));
    assert_eq!(case.condition("RateConfirmed"), is("Unknown", "NoLiveDocument"));
}

#[test]
fn while_a_refusal_keeps_the_old_live_document_its_rate_is_told_and_not_that_of_the_spec() {
    let mut case = Case::new();
    case.refusal = Some(Refusal::Invalid("spec.schedule[0].cron: expected a cron expression".into()));
    (case.pipeline.spec.suspend, case.pipeline.spec.rate_limit_qps) = (true, 20);
    let of = |live| Some(LiveDocument { uid: "u".into(), revision: 4, live });
    case.kept = of(Live::of_rate(500));
    assert_eq!(case.condition("Suspended"), is("False", "Running"));
    assert_eq!(case.status().rate.desired, 500);
    let message = case.status().conditions.swap_remove(4).message;
    assert_eq!(message, "suspend is false in the live document in effect; for the spec, see Ready");
    case.kept = of(Live { suspend: true, ..Live::of_rate(20) });
    assert_eq!(case.condition("Suspended"), is("True", "Suspended"));
    assert_eq!(case.status().rate.desired, 0);
}

#[test]
fn of_a_spec_that_cannot_be_read_nobody_says_whether_it_is_suspended() {
    let mut case = Case::new();
    // As a watch marks it.
    case.pipeline.annotations_mut().insert("sluice.dev/unreadable".into(), "spec.sink: a number".into());
    assert!(unreadable(&case.pipeline).is_some());
    case.refusal = Some(Refusal::Invalid("this version of the operator cannot read it".into()));
    assert_eq!(case.condition("Suspended"), is("Unknown", "SpecUnreadable"));
    case.kept = Some(LiveDocument { uid: "u".into(), revision: 4, live: Live::of_rate(500) });
    assert_eq!(case.condition("Suspended"), is("False", "Running"));
    let message = case.status().conditions.swap_remove(4).message;
    assert_eq!(message, "suspend is false in the live document in effect; for the spec, see Ready");
}

#[test]
fn a_deleted_pipeline_that_is_held_says_by_whom_and_what_its_consumers_say() {
    let mut case = Case::new();
    case.pipeline.metadata.deletion_timestamp = Some(Time(case.now));
    case.pipeline.metadata.finalizers = Some(vec!["example.com/backup".into(), "example.com/audit".into()]);
    case.pipeline.spec.rate_limit_qps = 900;
    case.wanted = None;
    for (type_, expected) in [
        ("Ready", is("False", "Terminating")),
        ("Progressing", is("False", "Terminating")),
        ("Degraded", is("False", "AsExpected")),
        ("Stalled", is("False", "NotStalled")),
        ("RateConfirmed", is("True", "Confirmed")),
    ] {
        assert_eq!(case.condition(type_), expected, "{type_}");
    }
    let status = case.status();
    assert_eq!(
        status.conditions[0].message,
        "the pipeline is being deleted, once these finalizers are removed: example.com/backup, example.com/audit; 2 of \
         2 consumers are ready"
    );
    assert_eq!(status.rate.desired, 500, "that of the document in effect");
    assert_eq!((status.ready_replicas, status.lag), (2, Some(2_500)));
    case.deployment = None;
    assert_eq!(case.condition("Progressing"), is("False", "Terminating"));
}
