//! Tests: pipelines that are not built.

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
