use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use kube::api::{ObjectList, PartialObjectMeta, WatchEvent};
use serde_json::{Value, json};

use super::*;

/// What Kubernetes takes as a time, and `jiff` does not.
const TOO_LATE: &str = "9999-12-31T23:59:59Z";

fn object(kind: &str, spec: &Value, status: &Value) -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": kind,
        "metadata": {
            "name": "traces", "namespace": "shop", "resourceVersion": "7",
            "annotations": { UNREADABLE: "says somebody" }, "labels": { "sluice.dev/pipeline": "traces" },
        },
        "spec": spec, "status": status,
    })
}

fn read(spec: &Value, status: &Value) -> TracePipeline {
    pipeline_of(&object("TracePipeline", spec, status))
}

fn pipeline_of(object: &Value) -> TracePipeline {
    let read = serde_json::from_str(&object.to_string()).expect("any object can be read");
    match pipelines(Event::Apply(read)) {
        Event::Apply(pipeline) => pipeline,
        other => unreachable!("{other:?}"),
    }
}

fn spec() -> Value {
    json!({
        "source": { "kafka": { "bootstrapServers": "k:9092", "topic": "t", "consumerGroup": "g" } },
        "rateLimitQPS": 500, "sink": {},
    })
}

/// Deeper than any reader of JSON here goes.
fn deep() -> String {
    format!("{}1{}", r#"{"nodeAffinity":"#.repeat(200), "}".repeat(200))
}

/// With an entry that anybody may add who may write the object.
fn with_managed_fields(mut object: Value) -> Value {
    object["metadata"]["managedFields"] = json!([{
        "manager": "somebody", "operation": "Update", "apiVersion": "v1", "time": TOO_LATE,
        "fieldsType": "FieldsV1", "fieldsV1": {},
    }]);
    object
}

#[test]
fn one_that_can_be_read_is_as_it_is() {
    let pipeline = read(&spec(), &Value::Null);
    assert_eq!((pipeline.spec.rate_limit_qps, unreadable(&pipeline)), (500, None));
}

#[test]
fn one_that_cannot_says_where_and_keeps_its_status() {
    let mut bad = spec();
    bad["override"] = json!({ "rateLimitQPS": 1, "until": TOO_LATE });
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

#[test]
fn who_has_set_which_field_is_not_read() {
    let pipeline = pipeline_of(&with_managed_fields(object("TracePipeline", &spec(), &Value::Null)));
    assert_eq!((pipeline.spec.rate_limit_qps, unreadable(&pipeline)), (500, None));
}

/// A pipeline, and an item between others that is nested too deeply, in a list and as a watch tells of it.
#[test]
fn what_is_nested_too_deeply_hides_neither_itself_nor_others() {
    let mut bad = spec();
    bad["template"] = json!({ "consumer": { "affinity": "DEEP" } });
    let good = object("TracePipeline", &spec(), &Value::Null).to_string();
    let bad = object("TracePipeline", &bad, &json!({ "rate": { "revision": 7 } })).to_string();
    let bad = bad.replace(r#""DEEP""#, &deep());
    let list = format!(
        r#"{{"apiVersion":"v1","kind":"List","metadata":{{"resourceVersion":"9"}},"items":[{good},{bad},{good}]}}"#
    );
    let list: ObjectList<Lenient<TracePipeline>> = serde_json::from_str(&list).expect("a list");
    let told: Vec<_> = list.items.iter().map(|one| one.why.is_some()).collect();
    assert_eq!(told, [false, true, false]);
    let event = format!(r#"{{"type":"MODIFIED","object":{bad}}}"#);
    let Ok(WatchEvent::Modified(read)) = serde_json::from_str::<WatchEvent<Lenient<TracePipeline>>>(&event)
    else {
        panic!("it is an event")
    };
    assert_eq!(read.meta().resource_version.as_deref(), Some("7"), "the watch goes on behind it");
    let Event::Apply(pipeline) = pipelines(Event::Apply(read)) else { unreachable!() };
    let why = unreadable(&pipeline).expect("a reason");
    assert!(why.contains("recursion limit") && why.len() < MAX_TOLD, "{why}");
    assert_eq!(pipeline.status.expect("a status").rate.revision, 7);
}

#[test]
fn a_spec_that_is_too_long_is_told_and_not_kept() {
    let with = |length: usize| {
        let mut spec = spec();
        spec["template"] = json!({ "consumer": { "affinity": { "a": "a".repeat(length) } } });
        read(&spec, &json!({ "rate": { "revision": 7 } }))
    };
    assert_eq!(unreadable(&with(MAX_SPEC / 2)), None);
    let pipeline = with(MAX_SPEC);
    let why = unreadable(&pipeline).expect("a reason");
    assert!(why.starts_with("spec: ") && why.ends_with("expected at most 65536"), "{why}");
    assert!(pipeline.spec.source.kafka.is_none());
    assert_eq!(pipeline.status.expect("a status").rate.revision, 7);
}

#[test]
fn of_a_config_map_there_remain_the_documents_and_none_that_is_too_long() {
    let long = "a".repeat(MAX_DOCUMENT);
    let map = |live: &str| {
        let data = json!({ "live.json": live, "settings.json": "{}", "other": long });
        let metadata = json!({ "name": "traces-live" });
        let map = json!({ "metadata": metadata, "data": data, "binaryData": { "other": "AAAA" } });
        let map: Lenient<ConfigMap> = serde_json::from_str(&map.to_string()).expect("it can be read");
        assert_eq!((map.why, map.object.binary_data), (None, None));
        map.object.data.unwrap_or_default().into_keys().collect::<Vec<_>>()
    };
    assert_eq!(map("{}"), ["live.json", "settings.json"]);
    assert_eq!(map(&long), ["settings.json"]);
}

#[test]
fn children_of_every_form_are_read_without_their_managed_fields() {
    fn is_read<K: DeserializeOwned + Resource<DynamicType = ()>>() {
        let mut object = with_managed_fields(object(&K::kind(&()), &json!({}), &Value::Null));
        object["apiVersion"] = K::api_version(&()).into();
        let item = json!({ "metadata": object["metadata"] });
        for text in [object, item] {
            let one: Lenient<K> = serde_json::from_str(&text.to_string()).expect("any object can be read");
            assert_eq!((one.why, one.object.name_any()), (None, "traces".to_owned()), "{}", K::kind(&()));
        }
    }
    is_read::<ConfigMap>();
    is_read::<Deployment>();
    is_read::<NetworkPolicy>();
    is_read::<PartialObjectMeta<ReplicaSet>>();
    is_read::<Pod>();
    is_read::<Service>();
}

#[test]
fn a_child_that_cannot_be_read_counts_as_not_there_and_is_told_once_a_version() {
    let mut bad = object("Pod", &json!({}), &json!({ "startTime": TOO_LATE }));
    bad["apiVersion"] = "v1".into();
    bad["metadata"]["deletionTimestamp"] = TOO_LATE.into();
    let read = || serde_json::from_str::<Lenient<Pod>>(&bad.to_string()).expect("any object can be read");
    let why = read().why.expect("a reason");
    assert!(why.starts_with("metadata.deletionTimestamp: "), "{why}");
    let mut children = Children::default();
    let Some(Event::Delete(gone)) = children.take(Event::Apply(read())) else { panic!("it is gone") };
    assert_eq!(place(&gone), ("shop".to_owned(), "traces".to_owned()));
    assert_eq!(gone.labels()["sluice.dev/pipeline"], "traces", "it is known whose it was");
    let is_told = |children: &Children| children.told.get(&place(&gone)).map(String::as_str) == Some("7");
    assert!(is_told(&children));
    for event in [Event::Init, Event::InitApply(read())] {
        assert!(!matches!(children.take(event), Some(Event::InitApply(_))));
    }
    assert!(is_told(&children) && children.before.len() == 1);
    children.take(Event::<Lenient<Pod>>::InitDone);
    assert!(is_told(&children) && children.before.is_empty());
    children.take(Event::Delete(read()));
    assert!(children.told.is_empty());
}
