//! Events: what a person should notice about a pipeline, when it begins and when it ends.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use kube::runtime::events::{Event, EventType};
use sluice_crds::v1alpha1::{TracePipeline, TracePipelineStatus};

use crate::controller::Context;
use crate::controller::status::{CONFLICT, DEAD_LETTERS_GROWING};

/// Longest note that the API takes.
const MAX_NOTE_BYTES: usize = 1024;

/// Publishes what has changed for the worse or the better. An event that cannot be written is only logged: the
/// status says the same.
pub async fn publish(
    context: &Context,
    pipeline: &TracePipeline,
    old: &TracePipelineStatus,
    new: &TracePipelineStatus,
) {
    for event in changes(old, new) {
        if let Err(error) = context.recorder.publish(&event, &pipeline.object_ref(&())).await {
            tracing::debug!(%error, "an event was not written");
        }
    }
}

fn changes(old: &TracePipelineStatus, new: &TracePipelineStatus) -> Vec<Event> {
    let mut events = Vec::new();
    for condition in &new.conditions {
        let before = old.conditions.iter().find(|before| before.type_ == condition.type_);
        let same = before
            .is_some_and(|before| before.status == condition.status && before.reason == condition.reason);
        if same {
            continue;
        }
        let known = before.is_some();
        match (condition.type_.as_str(), condition.status.as_str()) {
            ("Degraded", "True") => events.push(event(EventType::Warning, condition, "Degraded")),
            ("Degraded", "False") if known => events.push(event(EventType::Normal, condition, "Recovered")),
            (CONFLICT, "True") => events.push(event(EventType::Warning, condition, CONFLICT)),
            (DEAD_LETTERS_GROWING, "True") => {
                events.push(event(EventType::Warning, condition, "DeadLetter"));
            }
            ("Ready", "True") => events.push(event(EventType::Normal, condition, "Ready")),
            ("Suspended", _) if known => events.push(event(EventType::Normal, condition, "Suspended")),
            ("RateConfirmed", "True") if old.rate.applied != new.rate.applied => {
                events.push(event(EventType::Normal, condition, "RateApplied"));
            }
            _ => {}
        }
    }
    events
}

fn event(type_: EventType, condition: &Condition, action: &str) -> Event {
    let mut note = condition.message.clone();
    while note.len() > MAX_NOTE_BYTES {
        note.pop();
    }
    Event {
        type_,
        reason: condition.reason.clone(),
        note: Some(note),
        action: action.to_owned(),
        secondary: None,
    }
}
