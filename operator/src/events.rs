//! Events: what a person should notice about a pipeline, when it begins and when it ends.

use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::Resource;
use kube::runtime::events::{Event, EventType};
use kube::runtime::reflector::ObjectRef;
use sluice_crds::names;
use sluice_crds::v1alpha1::{TracePipeline, TracePipelineStatus};

use crate::controller::Context;
use crate::controller::status::{
    self, CONFLICT, DEAD_LETTERS_GROWING, DEGRADED, FALSE, RATE_CONFIRMED, READY, SUSPENDED, TRUE,
};

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
        if let Err(error) = context.recorder.publish(&event, &regarding(pipeline, &event)).await {
            tracing::debug!(%error, "an event was not written");
        }
    }
}

/// Says that somebody else writes a child each time after the operator. No condition does: it is written again later.
pub async fn contested(context: &Context, pipeline: &TracePipeline, child: &str) {
    let note = format!(
        "somebody writes {child} each time after this operator has, such as another operator of the same installation; it \
         is left so for up to a minute at a time"
    );
    tracing::warn!(pipeline = %ObjectRef::from_obj(pipeline), %child, "somebody else writes a child each time as well");
    let event = Event {
        type_: EventType::Warning,
        reason: "Contested".into(),
        note: Some(note),
        action: "Contested".into(),
        secondary: None,
    };
    if let Err(error) = context.recorder.publish(&event, &regarding(pipeline, &event)).await {
        tracing::debug!(%error, "an event was not written");
    }
}

/// The recorder counts an event as the last one again where all but the note is the same, and the old note stays. What the
/// reference names of the pipeline differs with the note, so that only what says the same is counted together.
fn regarding(pipeline: &TracePipeline, event: &Event) -> ObjectReference {
    let note = names::short_hash(event.note.as_deref().unwrap_or_default());
    ObjectReference {
        field_path: Some(format!("status.conditions{{{}-{note}}}", event.reason)),
        ..pipeline.object_ref(&())
    }
}

fn changes(old: &TracePipelineStatus, new: &TracePipelineStatus) -> Vec<Event> {
    let mut events = Vec::new();
    for condition in &new.conditions {
        let before = status::condition(Some(old), &condition.type_);
        let same = before
            .is_some_and(|before| before.status == condition.status && before.reason == condition.reason);
        // A rate may be confirmed before anybody has noticed that it was not.
        let is_another_rate = condition.type_ == RATE_CONFIRMED && old.rate.applied != new.rate.applied;
        if same && !is_another_rate {
            continue;
        }
        let known = before.is_some();
        match (condition.type_.as_str(), condition.status.as_str()) {
            (DEGRADED, TRUE) => events.push(event(EventType::Warning, condition, DEGRADED)),
            (DEGRADED, FALSE) if known => events.push(event(EventType::Normal, condition, "Recovered")),
            (CONFLICT, TRUE) => events.push(event(EventType::Warning, condition, CONFLICT)),
            (DEAD_LETTERS_GROWING, TRUE) => {
                events.push(event(EventType::Warning, condition, "DeadLetter"));
            }
            (READY, TRUE) => events.push(event(EventType::Normal, condition, READY)),
            (SUSPENDED, _) if known => events.push(event(EventType::Normal, condition, SUSPENDED)),
            (RATE_CONFIRMED, TRUE) if is_another_rate => {
                events.push(event(EventType::Normal, condition, "RateApplied"));
            }
            _ => {}
        }
    }
    events
}

fn event(type_: EventType, condition: &Condition, action: &str) -> Event {
    let mut note = condition.message.clone();
    note.truncate(note.floor_char_boundary(MAX_NOTE_BYTES));
    Event {
        type_,
        reason: condition.reason.clone(),
        note: Some(note),
        action: action.to_owned(),
        secondary: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::example;

    #[tokio::test]
    async fn the_same_text_is_counted_and_another_one_is_an_event_of_its_own() {
        let server = example::Server::default();
        let (context, pipeline) = (server.context(), example::pipeline());
        let old = TracePipelineStatus::default();
        for rate in ["8000", "8000", "20000"] {
            let mut confirmed = example::condition(RATE_CONFIRMED, "True");
            confirmed.message = format!("every consumer applies {rate} spans per second");
            let mut new = TracePipelineStatus { conditions: vec![confirmed], ..old.clone() };
            new.rate.applied = rate.parse().ok();
            publish(&context, &pipeline, &old, &new).await;
        }
        let told: Vec<_> = server
            .bodies()
            .iter()
            .map(|body| (body["note"].clone(), body["series"]["count"].clone()))
            .collect();
        let note = |rate: &str| format!("every consumer applies {rate} spans per second").into();
        assert_eq!(told, [(note("8000"), ().into()), (note("8000"), 2.into()), (note("20000"), ().into())]);
    }

    #[test]
    fn a_rate_that_is_confirmed_at_once_is_an_event_too() {
        let status = |rate| {
            let mut status = TracePipelineStatus {
                conditions: vec![example::condition(RATE_CONFIRMED, "True")],
                ..TracePipelineStatus::default()
            };
            status.rate.applied = Some(rate);
            status
        };
        assert!(changes(&status(1), &status(1)).is_empty());
        assert_eq!(changes(&status(1), &status(2)).len(), 1);
    }
}
