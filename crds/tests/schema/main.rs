//! The CRD as an API server applies it, offline: defaults, schema, strict fields and CEL rules; and the same
//! documents against the rules in code. Each must refuse every bad document by itself.
#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod api_server;
mod bad_values;

use api_server::{ApiServer, paths};
use bad_values::bad_values;
use serde_json::{Value, json};
use sluice_crds::document;
use sluice_crds::problem::Problem;
use sluice_crds::v1alpha1::{JAVA_NAMES, KAFKA_PROPERTIES, TracePipeline};
use sluice_crds::validate::validate;

fn examples() -> Vec<(String, String)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/examples");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let read = |path: std::path::PathBuf| {
        (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read_to_string(path).unwrap())
    };
    files.map(read).collect()
}

/// A good document with one change.
fn changed(base: &Value, pointer: &str, value: &Value) -> Value {
    let mut document = base.clone();
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let parent =
        document.pointer_mut(parent).unwrap_or_else(|| panic!("no {parent}")).as_object_mut().unwrap();
    match value {
        Value::Null => drop(parent.remove(field).unwrap_or_else(|| panic!("no {pointer}"))),
        value => drop(parent.insert(field.replace("~1", "/"), value.clone())),
    }
    document
}

fn base() -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "TracePipeline",
        "metadata": { "name": "demo" },
        "spec": {
            "source": { "kafka": { "bootstrapServers": "k:9092", "topic": "t", "consumerGroup": "g" } },
            "rateLimitQPS": 1,
            "sink": { "mysql": { "urlFrom": { "secretKeyRef": { "name": "db", "key": "url" } } } },
        },
    })
}

/// What the code says without the schema's help.
fn code_refuses(document: &Value) -> Vec<Problem> {
    match serde_path_to_error::deserialize::<_, TracePipeline>(document) {
        Ok(pipeline) => validate(&pipeline.spec),
        Err(error) => {
            let path = error.path().to_string();
            let path = match path.split_once(".properties.") {
                Some((map, name)) => format!("{map}.properties[{name}]"),
                None => path,
            };
            vec![Problem::new(path, error.inner().to_string())]
        }
    }
}

#[test]
fn quantities_are_taken_as_kubernetes_takes_them() {
    let server = ApiServer::new();
    for quantity in
        [json!(1), json!(0), json!("1"), json!("500m"), json!("1e3"), json!("1E-3"), json!("2e+06")]
    {
        let resources = json!({ "consumer": { "resources": { "requests": { "cpu": quantity } } } });
        let document = changed(&base(), "/spec/template", &resources);
        assert_eq!(server.refuses(&document, None), [], "{quantity}");
        assert_eq!(code_refuses(&document), [], "{quantity}");
        let pipeline: TracePipeline = serde_json::from_value(document).unwrap();
        let requests = pipeline.spec.template.consumer.resources.unwrap().requests;
        assert_eq!(requests["cpu"], quantity.as_str().map_or_else(|| quantity.to_string(), str::to_owned));
    }
}

#[test]
fn a_message_may_be_the_span_itself_and_spans_may_have_no_kind() {
    let server = ApiServer::new();
    for field in ["spans", "kind"] {
        let document = changed(&base(), "/spec/json", &json!({ field: "" }));
        assert_eq!(server.refuses(&document, None), [], "{field}");
        assert_eq!(code_refuses(&document), [], "{field}");
    }
}

#[test]
fn names_whose_service_could_not_be_made_are_refused() {
    let server = ApiServer::new();
    let called = |name: &str| changed(&base(), "/metadata/name", &name.into());
    for name in ["a", "a.1", "a-1", &"a".repeat(63)] {
        assert_eq!(server.refuses(&called(name), None), [], "{name}");
        document::read(&called(name).to_string()).unwrap();
    }
    for name in ["1", "1a", "0.a", &"a".repeat(64)] {
        let refused = server.refuses(&called(name), None);
        assert!(refused.iter().any(|problem| problem.message.starts_with("metadata.name: ")), "{refused:?}");
        let problems = document::read(&called(name).to_string()).unwrap_err().0;
        assert_eq!(paths(&problems).collect::<Vec<_>>(), ["metadata.name"]);
    }
}

#[test]
fn every_example_is_accepted_by_schema_rules_and_code() {
    let server = ApiServer::new();
    let examples = examples();
    assert!(examples.len() >= 4);
    for (name, text) in examples {
        let value = sluice_crds::yaml::to_json(&text).unwrap();
        assert_eq!(server.refuses(&value, None), [], "{name}");
        document::read(&text).unwrap_or_else(|problems| panic!("{name}: {problems}"));
    }
}

#[test]
fn a_pipeline_that_nobody_has_looked_at_is_observed_at_no_generation() {
    let stored = ApiServer::new().stored(&base());
    assert_eq!(stored["status"]["observedGeneration"], -1);
    let pipeline: TracePipeline = serde_json::from_value(stored).unwrap();
    let status = pipeline.status.unwrap();
    assert_eq!((status.observed_generation, status.conditions), (Some(-1), Vec::new()));
}

#[test]
fn every_cel_rule_compiles_and_stays_within_the_api_servers_budget() {
    assert_eq!(ApiServer::new().rule_warnings(), Vec::<String>::new());
}

#[test]
fn every_text_number_list_and_map_has_bounds() {
    assert_eq!(ApiServer::new().unbounded(), Vec::<String>::new());
}

#[test]
fn bad_documents_are_refused_by_the_schema_and_by_the_code_at_the_same_path() {
    let server = ApiServer::new();
    assert_eq!(server.refuses(&base(), None), []);
    let mut accepted = Vec::new();
    for (pointer, value, path) in bad_values() {
        let document = changed(&base(), pointer, &value);
        let by_schema = server.refuses(&document, None);
        let by_code = code_refuses(&document);
        let yaml = sluice_crds::yaml::to_string(&document).unwrap();
        let by_file = document::read(&yaml).err().map(|problems| problems.0).unwrap_or_default();
        for (who, problems) in [("schema", by_schema), ("code", by_code), ("file", by_file)] {
            if !paths(&problems).any(|found| is_near(found, path)) {
                accepted.push(format!("{who}: {pointer} = {value}, said {problems:?}"));
            }
        }
    }
    assert!(accepted.is_empty(), "not refused at the right place:\n{}", accepted.join("\n"));
}

/// A rule over several fields is reported at their parent by one side and at the field by the other.
fn is_near(found: &str, expected: &str) -> bool {
    let separator = if expected.ends_with(']') { '[' } else { '.' };
    let parent = expected.rsplit_once(separator).map_or("", |(parent, _)| parent);
    found == expected || found == parent
}

fn open_window() -> Value {
    json!({ "cron": "* * * * *", "duration": "1h", "timeZone": "Europe/Berlin", "rateLimitQPS": 1 })
}

/// One window with one other field.
fn window_with(field: &str, value: Value) -> Value {
    let mut window = open_window();
    window[field] = value;
    json!([window])
}

#[test]
fn what_only_the_code_can_read_of_a_window_is_refused_with_its_path() {
    let server = ApiServer::new();
    let schedule = json!([open_window(), open_window()]);
    let good = changed(&base(), "/spec/schedule", &schedule);
    assert_eq!((server.refuses(&good, None), code_refuses(&good)), (vec![], vec![]));
    for (field, value, found) in [
        ("cron", "61 * * * *", "61 * * * *"),
        ("cron", "0 0 30 2 *", "it never comes"),
        ("cron", "0 0 * * * *", "five fields"),
        ("timeZone", "Europe/Entenhausen", "Europe/Entenhausen"),
    ] {
        let mut bad = good.clone();
        bad["spec"]["schedule"][1][field] = value.into();
        let problems = document::read(&sluice_crds::yaml::to_string(&bad).unwrap()).unwrap_err().0;
        let [problem] = &problems[..] else { panic!("{problems:?}") };
        assert_eq!(problem.path, format!("spec.schedule[1].{field}"));
        assert!(problem.message.contains(found), "{problem:?}");
        assert_eq!(code_refuses(&bad), problems);
    }
}

#[test]
fn everything_wrong_with_a_window_is_told_once_each() {
    let windows = json!([{ "cron": "x", "rateLimitQPS": 1 }, { "duration": "1d", "timeZone": 7 }]);
    let bad = changed(&base(), "/spec/schedule", &windows);
    let problems = document::read(&sluice_crds::yaml::to_string(&bad).unwrap()).unwrap_err().0;
    let mut found: Vec<_> = paths(&problems).collect();
    found.sort_unstable();
    let expected =
        ["[0].cron", "[0].duration", "[1].cron", "[1].duration", "[1].rateLimitQPS", "[1].timeZone"];
    assert_eq!(found, expected.map(|path| format!("spec.schedule{path}")));
}

#[test]
fn values_of_properties_are_checked_by_the_code() {
    for (name, value) in [
        ("fetch.max.bytes", "1GB"),
        ("fetch.max.bytes", "0"),
        ("fetch.max.bytes", "4294967296"),
        ("isolation.level", "serializable"),
        ("check.crcs", "yes"),
        ("client.id", "a\u{7}"),
        // The session is 10 s by default.
        ("heartbeat.interval.ms", "12000"),
        ("heartbeat.interval.ms", "10000"),
        ("session.timeout.ms", "400000"),
        // What waits behind such a fetch is given up.
        ("fetch.wait.max.ms", "30000"),
    ] {
        let document = changed(&base(), "/spec/source/kafka/properties", &json!({ name: value }));
        let refused = code_refuses(&document);
        assert_eq!(
            paths(&refused).collect::<Vec<_>>(),
            [format!("spec.source.kafka.properties[{name}]")],
            "{value}"
        );
    }
}

#[test]
fn a_heartbeat_may_be_longer_where_the_session_is() {
    let times = json!({ "heartbeat.interval.ms": "12000", "session.timeout.ms": "45000" });
    assert_eq!(code_refuses(&changed(&base(), "/spec/source/kafka/properties", &times)), []);
}

#[test]
fn names_of_kafkas_java_client_lead_to_librdkafkas() {
    for (java, ours) in JAVA_NAMES {
        assert!(KAFKA_PROPERTIES.iter().any(|property| property.name == *ours), "{ours}");
        let document = changed(&base(), "/spec/source/kafka/properties", &json!({ *java: "1" }));
        let problems = code_refuses(&document);
        let [refused] = &problems[..] else { panic!("{problems:?}") };
        assert!(refused.message.ends_with(ours), "{refused:?}");
    }
}

#[test]
fn what_the_lists_of_a_pod_take_once_is_refused_by_the_code() {
    let spread =
        |key: &str, when: &str| json!({ "maxSkew": 1, "topologyKey": key, "whenUnsatisfiable": when });
    let refused = |field: &str, list: Value| {
        let template = json!({ "consumer": { field: list } });
        let problems = code_refuses(&changed(&base(), "/spec/template", &template));
        paths(&problems).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(refused("imagePullSecrets", json!(["a", "b"])), Vec::<String>::new());
    let twice = refused("imagePullSecrets", json!(["a", "b", "a"]));
    assert_eq!(twice, ["spec.template.consumer.imagePullSecrets[2]"]);
    let (zone, host) = (spread("zone", "DoNotSchedule"), spread("host", "DoNotSchedule"));
    let both = json!([zone, host, spread("zone", "ScheduleAnyway")]);
    assert_eq!(refused("topologySpreadConstraints", both), Vec::<String>::new());
    let twice = refused("topologySpreadConstraints", json!([zone, zone]));
    assert_eq!(twice, ["spec.template.consumer.topologySpreadConstraints[1]"]);
}

#[test]
fn a_sqlite_file_has_one_writer() {
    let server = ApiServer::new();
    let sqlite = changed(&base(), "/spec/sink", &json!({ "sqlite": { "claimName": "a" } }));
    let one = changed(&sqlite, "/spec/replicas", &json!(1));
    assert_eq!(server.refuses(&one, None), []);
    let scaled = changed(&one, "/spec/autoscaling", &json!({ "max": 2 }));
    for (document, path) in [(&sqlite, "spec.replicas"), (&scaled, "spec.autoscaling")] {
        for refused in [server.refuses(document, None), code_refuses(document)] {
            assert_eq!(paths(&refused).collect::<Vec<_>>(), [path], "{refused:?}");
        }
    }
}

#[test]
fn unknown_fields_are_refused_everywhere() {
    let server = ApiServer::new();
    for (pointer, path) in [
        ("/spec/replica", "spec.replica"),
        ("/spec/ratelimitQPS", "spec.ratelimitQPS"),
        ("/spec/source/rocketmq", "spec.source.rocketmq"),
        ("/spec/source/kafka/topc", "spec.source.kafka.topc"),
        ("/spec/sink/retain", "spec.sink.retain"),
        ("/spec/sink/mysql/password", "spec.sink.mysql.password"),
        ("/spec/sink/mysql/urlFrom/secretKeyRef/namespace", "spec.sink.mysql.urlFrom.secretKeyRef.namespace"),
    ] {
        let document = changed(&base(), pointer, &json!("x"));
        assert!(!server.refuses(&document, None).is_empty(), "{pointer}");
        let read = document::read(&sluice_crds::yaml::to_string(&document).unwrap()).expect_err(pointer).0;
        assert_eq!(paths(&read).collect::<Vec<_>>(), [path]);
    }
}

#[test]
fn what_the_stored_positions_belong_to_cannot_be_changed() {
    let server = ApiServer::new();
    let sqlite = json!({ "sqlite": { "claimName": "a" } });
    for (pointer, value, path) in [
        ("/spec/source/kafka/consumerGroup", json!("other"), "spec.source.kafka.consumerGroup"),
        ("/spec/sink/table", json!("other"), "spec.sink.table"),
    ] {
        let new = changed(&base(), pointer, &value);
        assert_eq!(server.refuses(&new, None), [], "{pointer} alone is good");
        let refused = server.refuses(&new, Some(&base()));
        assert_eq!(paths(&refused).collect::<Vec<_>>(), [path], "{refused:?}");
    }
    let mut other_sink = changed(&base(), "/spec/sink", &sqlite);
    other_sink["spec"]["replicas"] = 1.into();
    assert_eq!(server.refuses(&other_sink, None), []);
    let refused = server.refuses(&other_sink, Some(&base()));
    assert_eq!(paths(&refused).collect::<Vec<_>>(), ["spec.sink"], "{refused:?}");
    for (pointer, value) in [
        ("/spec/rateLimitQPS", json!(0)),
        ("/spec/suspend", json!(true)),
        ("/spec/source/kafka/topic", json!("other")),
        ("/spec/sink/table", json!("connectivity_trace")),
        ("/spec/sink/batch", json!({ "maxRows": 10 })),
        ("/spec/sink/retention", json!("1m")),
        ("/spec/sink/retention", json!("99999h99999h99999h99999h")),
    ] {
        assert_eq!(server.refuses(&changed(&base(), pointer, &value), Some(&base())), [], "{pointer}");
    }
}
