//! The CRD as an API server applies it, offline: defaults, schema, strict fields and CEL rules; and the same
//! documents against the rules in code. Each must refuse every bad document by itself.
#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

mod api_server;

use api_server::{ApiServer, paths};
use serde_json::{Value, json};
use sluice_crds::document;
use sluice_crds::problem::Problem;
use sluice_crds::v1alpha1::TracePipeline;
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

const CONSUMER_PRIORITY: &str = "spec.template.consumer.priorityClassName";

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

fn bad_values() -> Vec<(&'static str, Value, &'static str)> {
    let long = |length: usize| Value::from("a".repeat(length));
    let secret = |name: &str, key: &str| json!({ "secretKeyRef": { "name": name, "key": key } });
    let many: serde_json::Map<_, _> =
        (0..33).map(|index| (format!("client.id{index}"), "a".into())).collect();
    let kafka = "spec.source.kafka";
    let mut cases = vec![
        ("/spec/source", Value::Null, "spec.source"),
        ("/spec/source", json!({}), "spec.source"),
        ("/spec/source/kafka", json!(7), kafka),
        ("/spec/source/kafka/bootstrapServers", Value::Null, "spec.source.kafka.bootstrapServers"),
        ("/spec/source/kafka/topic", Value::Null, kafka),
        ("/spec/source/kafka/topicPattern", json!("a.*"), kafka),
        ("/spec/source/kafka/excludePattern", json!("a.*"), "spec.source.kafka.excludePattern"),
        ("/spec/source/kafka/tls", json!({ "certFrom": secret("k", "c") }), "spec.source.kafka.tls"),
        ("/spec/source/kafka/tls", json!({ "caFrom": {} }), "spec.source.kafka.tls.caFrom.secretKeyRef"),
        ("/spec/source/kafka/sasl", json!({ "mechanism": "NTLM" }), "spec.source.kafka.sasl.mechanism"),
        ("/spec/source/kafka/properties", Value::Object(many), "spec.source.kafka.properties"),
        (
            "/spec/source/kafka/properties",
            json!({ "client.id": long(257) }),
            "spec.source.kafka.properties[client.id]",
        ),
        (
            "/spec/source/kafka/properties",
            json!({ "client.id": 7 }),
            "spec.source.kafka.properties[client.id]",
        ),
        ("/spec/format", json!("Xml"), "spec.format"),
        ("/spec/json", json!({ "spans": "spans" }), "spec.json.spans"),
        ("/spec/json", json!({ "spans": long(257) }), "spec.json.spans"),
        ("/spec/json", json!({ "traceId": "" }), "spec.json.traceId"),
        ("/spec/json", json!({ "traceId": "/a~2" }), "spec.json.traceId"),
        ("/spec/json", json!({ "kind": "/a~" }), "spec.json.kind"),
        ("/spec/rateLimitQPS", Value::Null, "spec.rateLimitQPS"),
        ("/spec/rateLimitQPS", json!(-1), "spec.rateLimitQPS"),
        ("/spec/rateLimitQPS", json!(10_000_001), "spec.rateLimitQPS"),
        ("/spec/rateLimitQPS", json!(9_223_372_036_854_775_808_u64), "spec.rateLimitQPS"),
        ("/spec/rateLimitQPS", json!(1.5), "spec.rateLimitQPS"),
        ("/spec/rateLimitQPS", json!("5000"), "spec.rateLimitQPS"),
        ("/spec/override", json!({ "rateLimitQPS": 1 }), "spec.override.until"),
        ("/spec/override", json!({ "rateLimitQPS": 1, "until": "soon" }), "spec.override.until"),
        (
            "/spec/override",
            json!({ "rateLimitQPS": 10_000_001, "until": "2026-11-21T06:00:00Z" }),
            "spec.override.rateLimitQPS",
        ),
        (
            "/spec/override",
            json!({ "rateLimitQPS": 1, "until": "9999-12-31T23:59:59Z" }),
            "spec.override.until",
        ),
        (
            "/spec/override",
            json!({ "rateLimitQPS": 1, "until": "2026-11-21T06:00:00+26:00" }),
            "spec.override.until",
        ),
        ("/spec/suspend", json!("yes"), "spec.suspend"),
        ("/spec/schedule", json!(vec![open_window(); 33]), "spec.schedule"),
        ("/spec/schedule", json!([{ "duration": "1h", "rateLimitQPS": 1 }]), "spec.schedule[0].cron"),
        ("/spec/schedule", json!([{ "cron": "* * * * *", "rateLimitQPS": 1 }]), "spec.schedule[0].duration"),
        ("/spec/schedule", window_with("cron", json!("")), "spec.schedule[0].cron"),
        ("/spec/schedule", window_with("cron", json!("* * * * *;")), "spec.schedule[0].cron"),
        ("/spec/schedule", window_with("cron", json!("* * * * *".repeat(20))), "spec.schedule[0].cron"),
        ("/spec/schedule", window_with("duration", json!("999ms")), "spec.schedule[0].duration"),
        ("/spec/schedule", window_with("duration", json!("8785h")), "spec.schedule[0].duration"),
        ("/spec/schedule", window_with("duration", json!("1d")), "spec.schedule[0].duration"),
        ("/spec/schedule", window_with("timeZone", json!("")), "spec.schedule[0].timeZone"),
        ("/spec/schedule", window_with("timeZone", json!("../etc/passwd")), "spec.schedule[0].timeZone"),
        ("/spec/schedule", window_with("timeZone", long(65)), "spec.schedule[0].timeZone"),
        ("/spec/schedule", window_with("rateLimitQPS", json!(-1)), "spec.schedule[0].rateLimitQPS"),
        ("/spec/schedule", window_with("rateLimitQPS", json!(10_000_001)), "spec.schedule[0].rateLimitQPS"),
        ("/spec/guard", json!({ "targetWriteLatency": "0s" }), "spec.guard.targetWriteLatency"),
        ("/spec/guard", json!({ "targetWriteLatency": "61s" }), "spec.guard.targetWriteLatency"),
        ("/spec/guard", json!({ "targetWriteLatency": 50 }), "spec.guard.targetWriteLatency"),
        ("/spec/guard", json!({ "minQPS": 0 }), "spec.guard.minQPS"),
        ("/spec/guard", json!({ "minQPS": 10_000_001 }), "spec.guard.minQPS"),
        ("/spec/replicas", json!(-1), "spec.replicas"),
        ("/spec/replicas", json!(1001), "spec.replicas"),
        ("/spec/autoscaling", json!({}), "spec.autoscaling.max"),
        ("/spec/autoscaling", json!({ "min": 0, "max": 3 }), "spec.autoscaling.min"),
        ("/spec/autoscaling", json!({ "min": 4, "max": 3 }), "spec.autoscaling.min"),
        ("/spec/image", json!("a b"), "spec.image"),
        ("/spec/template", json!({ "consumer": { "priorityClassName": "A" } }), CONSUMER_PRIORITY),
        (
            "/spec/template",
            json!({ "consumer": { "resources": { "limits": { "cpu": "much" } } } }),
            "spec.template.consumer.resources.limits[cpu]",
        ),
        ("/spec/sink", json!({}), "spec.sink"),
        ("/spec/sink/sqlite", json!({ "claimName": "a" }), "spec.sink"),
        ("/spec/sink/mysql", json!({}), "spec.sink.mysql"),
        ("/spec/sink/mysql/host", json!("db"), "spec.sink.mysql"),
        ("/spec/sink/mysql/port", json!(3306), "spec.sink.mysql"),
        (
            "/spec/sink/mysql",
            json!({ "host": "db", "database": "d", "usernameFrom": secret("a", "b") }),
            "spec.sink.mysql",
        ),
        ("/spec/sink/mysql", json!({ "host": "a/b" }), "spec.sink.mysql.host"),
        ("/spec/sink/mysql", json!({ "host": long(254) }), "spec.sink.mysql.host"),
        ("/spec/sink/mysql", json!({ "port": 0 }), "spec.sink.mysql.port"),
        ("/spec/sink/mysql", json!({ "port": 65536 }), "spec.sink.mysql.port"),
        ("/spec/sink/mysql", json!({ "database": "a;b" }), "spec.sink.mysql.database"),
        ("/spec/sink/mysql", json!({ "database": long(64) }), "spec.sink.mysql.database"),
        ("/spec/sink/batch", json!({ "maxRows": 0 }), "spec.sink.batch.maxRows"),
        ("/spec/sink/batch", json!({ "maxRows": 10_001 }), "spec.sink.batch.maxRows"),
        ("/spec/sink/manageSchema", json!(1), "spec.sink.manageSchema"),
    ];
    let bad = |cases: &mut Vec<_>, pointer, path, values: Vec<Value>| {
        cases.extend(values.into_iter().map(|value| (pointer, value, path)));
    };
    let values =
        ["", "kafka", "kafka:", ":9092", "kafka:9092, other:9092", "kafka:9092,", "k k:1", "kafka:123456"];
    let pointer = "/spec/source/kafka/bootstrapServers";
    bad(&mut cases, pointer, "spec.source.kafka.bootstrapServers", values.map(Value::from).to_vec());
    let values = ["", ".", "..", "a b", "a/b", "über", "a\n"];
    bad(&mut cases, "/spec/source/kafka/topic", "spec.source.kafka.topic", values.map(Value::from).to_vec());
    bad(&mut cases, "/spec/source/kafka/topic", "spec.source.kafka.topic", vec![long(250)]);
    // The last one is the topic that is read.
    let values = [".", "..", "a b", "a/b", "t"].map(|topic| json!({ "topic": topic })).to_vec();
    bad(&mut cases, "/spec/deadLetter", "spec.deadLetter.topic", values);
    bad(&mut cases, "/spec/deadLetter", "spec.deadLetter.topic", vec![json!({ "topic": long(250) })]);
    let values = ["", "(", "a)(b", "[z-a]", "*"].map(Value::from).into_iter().chain([long(513)]).collect();
    bad(&mut cases, "/spec/source/kafka/topicPattern", "spec.source.kafka.topicPattern", values);
    let values = ["", "a b", "ü", "a\n"].map(Value::from).into_iter().chain([long(250)]).collect();
    bad(&mut cases, "/spec/source/kafka/consumerGroup", "spec.source.kafka.consumerGroup", values);
    let values = [
        "",
        "earliest",
        "yesterday",
        "2026-02-30T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-11-21",
        "9999-12-31T00:00:00Z",
        "1969-12-31T23:59:59Z",
    ];
    bad(
        &mut cases,
        "/spec/source/kafka/startFrom",
        "spec.source.kafka.startFrom",
        values.map(Value::from).to_vec(),
    );
    for name in [
        "enable.auto.commit",
        "enable.auto.offset.store",
        "auto.offset.reset",
        "group.id",
        "group.instance.id",
        "group.protocol",
        "partition.assignment.strategy",
        "bootstrap.servers",
        "queued.max.messages.kbytes",
        "sasl.password",
        "ssl.ca.location",
        "enable.ssl.certificate.verification",
        "security.protocol",
        "plugin.library.paths",
        "debug",
    ] {
        let value = json!({ name: "a" });
        cases.push((
            "/spec/source/kafka/properties",
            value,
            leak(format!("spec.source.kafka.properties[{name}]")),
        ));
    }
    let values = [
        "",
        "a`b",
        "a;b",
        "mysql.user",
        "1a",
        "ä",
        "a-b",
        "a b",
        "sluice_progress",
        "SLUICE_x",
        "sqlite_x",
        "a\n",
    ];
    bad(&mut cases, "/spec/sink/table", "spec.sink.table", values.map(Value::from).to_vec());
    bad(&mut cases, "/spec/sink/table", "spec.sink.table", vec![long(64), long(65)]);
    for delay in ["", "1", "-1s", "1.5s", "1 day", "11s", "10s1ms", "1h", "100000ms", "1us"] {
        cases.push(("/spec/sink/batch", json!({ "maxDelay": delay }), "spec.sink.batch.maxDelay"));
    }
    for retention in ["", "30d", "720", "-1h", "0s", "59s", "59999ms", "1.5h"] {
        cases.push(("/spec/sink/retention", json!(retention), "spec.sink.retention"));
    }
    for name in ["", "Db", "other/db", "../db", "db_", "-db", "db.", "a..b"] {
        let path = "spec.sink.mysql.urlFrom.secretKeyRef.name";
        cases.push(("/spec/sink/mysql/urlFrom", secret(name, "url"), path));
    }
    for key in ["", ".", "..", "..data", "a/b", "a b", "ü"] {
        let path = "spec.sink.mysql.urlFrom.secretKeyRef.key";
        cases.push(("/spec/sink/mysql/urlFrom", secret("db", key), path));
    }
    for claim in ["", "../x", "/x", "A", "a_b"] {
        cases.push(("/spec/sink/sqlite", json!({ "claimName": claim }), "spec.sink.sqlite.claimName"));
    }
    cases
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

fn leak(path: String) -> &'static str {
    path.leak()
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
