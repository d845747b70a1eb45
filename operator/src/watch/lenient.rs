//! Reads a pipeline whether or not this program can read its spec.
//!
//! A typed watch fails as a whole over one object that does not fit its type, be it one that a newer schema
//! allows: then nobody's edits are seen. Here such an object keeps its metadata and its status, gets an empty
//! spec that no check lets pass, and carries what is wrong with it in an annotation that exists in memory only.

use std::borrow::Cow;

use kube::core::{NamespaceResourceScope, ObjectMeta};
use kube::runtime::watcher::Event;
use kube::{Resource, ResourceExt};
use serde::de::{Error as _, IntoDeserializer};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use sluice_crds::v1alpha1::TracePipeline;

/// Annotation in memory: why the spec cannot be read. One that the object itself has is removed.
const UNREADABLE: &str = "sluice.dev/unreadable";

/// Why the spec of a watched pipeline cannot be read, if it cannot.
pub fn unreadable(pipeline: &TracePipeline) -> Option<&str> {
    pipeline.metadata.annotations.as_ref()?.get(UNREADABLE).map(String::as_str)
}

/// A pipeline as it comes from the API server.
#[derive(Clone, Debug)]
pub struct Lenient(TracePipeline);

/// What a watch says, of pipelines.
pub fn event(event: Event<Lenient>) -> Event<TracePipeline> {
    match event {
        Event::Apply(Lenient(pipeline)) => Event::Apply(pipeline),
        Event::Delete(Lenient(pipeline)) => Event::Delete(pipeline),
        Event::Init => Event::Init,
        Event::InitApply(Lenient(pipeline)) => Event::InitApply(pipeline),
        Event::InitDone => Event::InitDone,
    }
}

impl<'de> Deserialize<'de> for Lenient {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut value = Value::deserialize(deserializer)?;
        let error =
            match serde_path_to_error::deserialize::<_, TracePipeline>(value.clone().into_deserializer()) {
                Ok(mut pipeline) => {
                    if let Some(annotations) = &mut pipeline.metadata.annotations {
                        annotations.remove(UNREADABLE);
                    }
                    return Ok(Self(pipeline));
                }
                Err(error) => error,
            };
        let why = format!("{}: {}", error.path(), error.inner());
        value["spec"] = json!({ "source": {}, "sink": {}, "rateLimitQPS": 0 });
        let read = |value: &Value| TracePipeline::deserialize(value);
        let mut pipeline = match read(&value) {
            Ok(pipeline) => pipeline,
            // The status is ours and can be made again.
            Err(_) => {
                value["status"] = Value::Null;
                read(&value).map_err(D::Error::custom)?
            }
        };
        pipeline.annotations_mut().insert(UNREADABLE.to_owned(), why);
        Ok(Self(pipeline))
    }
}

impl Resource for Lenient {
    type DynamicType = ();
    type Scope = NamespaceResourceScope;

    fn kind((): &()) -> Cow<'_, str> {
        TracePipeline::kind(&())
    }

    fn group((): &()) -> Cow<'_, str> {
        TracePipeline::group(&())
    }

    fn version((): &()) -> Cow<'_, str> {
        TracePipeline::version(&())
    }

    fn plural((): &()) -> Cow<'_, str> {
        TracePipeline::plural(&())
    }

    fn meta(&self) -> &ObjectMeta {
        &self.0.metadata
    }

    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.0.metadata
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(spec: &Value, status: &Value) -> TracePipeline {
        let object = json!({
            "apiVersion": "sluice.dev/v1alpha1", "kind": "TracePipeline",
            "metadata": { "name": "traces", "annotations": { UNREADABLE: "says somebody" } },
            "spec": spec, "status": status,
        });
        serde_json::from_value::<Lenient>(object).expect("any object can be read").0
    }

    fn spec() -> Value {
        json!({
            "source": { "kafka": { "bootstrapServers": "k:9092", "topic": "t", "consumerGroup": "g" } },
            "rateLimitQPS": 500, "sink": {},
        })
    }

    #[test]
    fn one_that_can_be_read_is_as_it_is() {
        let pipeline = read(&spec(), &Value::Null);
        assert_eq!((pipeline.spec.rate_limit_qps, unreadable(&pipeline)), (500, None));
    }

    #[test]
    fn one_that_cannot_says_where_and_keeps_its_status() {
        let mut bad = spec();
        bad["override"] = json!({ "rateLimitQPS": 1, "until": "9999-12-31T23:59:59Z" });
        let pipeline = read(&bad, &json!({ "rate": { "revision": 7 } }));
        let why = unreadable(&pipeline).expect("a reason");
        assert!(why.starts_with("spec.override.until: "), "{why}");
        assert_eq!(pipeline.status.expect("a status").rate.revision, 7);
        assert!(!sluice_crds::validate::validate(&pipeline.spec).is_empty());
    }

    #[test]
    fn a_garbled_status_hides_nothing_else() {
        let pipeline = read(&spec(), &json!({ "rate": 7 }));
        let why = unreadable(&pipeline).expect("a reason");
        assert!(why.starts_with("status.rate: "), "{why}");
        assert_eq!(pipeline.name_any(), "traces");
    }
}
