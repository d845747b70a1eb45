//! Documents that must be refused, and where.

use serde_json::{Value, json};

use crate::{open_window, window_with};

const CONSUMER_PRIORITY: &str = "spec.template.consumer.priorityClassName";

/// Places in the base document, what is put there, and the path that the refusal must name.
pub fn bad_values() -> Vec<(&'static str, Value, &'static str)> {
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
        (
            "/spec/template",
            json!({ "consumer": { "resources": { "limits": { "cpu": -1 } } } }),
            "spec.template.consumer.resources.limits[cpu]",
        ),
        (
            "/spec/template",
            json!({ "consumer": { "resources": { "requests": { "memory": "1e" } } } }),
            "spec.template.consumer.resources.requests[memory]",
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

fn leak(path: String) -> &'static str {
    path.leak()
}
