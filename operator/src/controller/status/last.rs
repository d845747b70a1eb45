//! What the last status says, and what of it holds while consumers are silent, because silence is no news: neither of health
//! nor of anything else. It ends with the first answers.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use sluice_crds::v1alpha1::TracePipelineStatus;

use super::Facts;
use super::conditions::{DEGRADED, TRUE};

/// A status's condition of a type.
pub fn condition<'a>(status: Option<&'a TracePipelineStatus>, type_: &str) -> Option<&'a Condition> {
    status?.conditions.iter().find(|condition| condition.type_ == type_)
}

/// The message of a condition that tells what a consumer says.
pub fn said(pod: &str, words: &str) -> String {
    format!("{pod}: {words}")
}

/// Whether a condition tells what this consumer has said.
pub fn is_said_by(condition: &Condition, pod: &str) -> bool {
    condition.message.strip_prefix(pod).is_some_and(|rest| rest.starts_with(": "))
}

/// The last status, while nobody was asked yet, as after a start of the operator, and if it is of the same spec, live
/// document and rate.
pub fn before_any_answer<'a>(facts: &Facts<'a>) -> Option<&'a TracePipelineStatus> {
    let last = facts.pipeline.status.as_ref()?;
    let nobody_was_asked =
        !facts.reports.is_empty() && facts.reports.iter().all(|report| !report.was_asked());
    let is_of_now = last.observed_generation == facts.pipeline.metadata.generation
        && facts.document.is_some_and(|document| document.revision == last.rate.revision)
        && last.rate.desired == facts.desired();
    (nobody_was_asked && is_of_now).then_some(last)
}

/// One of its conditions.
pub fn while_silent<'a>(facts: &Facts<'a>, type_: &str) -> Option<&'a Condition> {
    condition(before_any_answer(facts), type_)
}

/// What makes the pipeline degraded by the last word of a consumer that is silent now, or between two tries.
pub fn trouble<'a>(facts: &Facts<'a>) -> Option<&'a Condition> {
    let last = condition(facts.pipeline.status.as_ref(), DEGRADED).filter(|last| last.status == TRUE)?;
    let silent = facts.reports.iter().filter(|report| report.answer.is_err()).map(|report| &report.pod);
    silent.chain(facts.idle).any(|pod| is_said_by(last, pod)).then_some(last)
}
