//! Stored bodies as Zipkin v2 spans.

#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use proptest::prelude::*;
use serde_json::{Value, json};
use sluice_consumer::read::{trace_id_forms, zipkin_v2};

fn translated(body: &Value) -> Value {
    let text = zipkin_v2("", &body.to_string()).expect("a span").into_owned();
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn otlp(more: Value) -> Value {
    let mut body = json!({
        "traceId": "5B8EFFF798038103D269B633813FC60C", "spanId": "EEE19B7EC3C1B174", "name": "get /",
        "startTimeUnixNano": "1544712660000000999", "endTimeUnixNano": "1544712661000002999",
        "resource": { "attributes": [{ "key": "service.name", "value": { "stringValue": "shop" } }] }, "scope": {},
    });
    for (key, value) in more.as_object().unwrap() {
        body[key] = value.clone();
    }
    body
}

#[test]
fn a_zipkin_span_is_given_byte_for_byte() {
    let body = "{ \"traceId\":\"1\",\"id\" : \"ab\", \"timestamp\":9223372036854775807,\"x\":\"\\ud83d\", \"duration\":100 }";
    assert_eq!(zipkin_v2("", body).as_deref(), Some(body));
}

#[test]
fn ids_are_in_lower_case_whoever_wrote_them() {
    let lower = r#"{"traceId":"00ab","id":"cd","parentId":"ef","x":"AB"}"#;
    let upper = r#"{"traceId":"00AB","id":"CD","parentId":"EF","x":"AB"}"#;
    assert_eq!(zipkin_v2("00AB", upper).as_deref(), Some(lower));
    assert_eq!(zipkin_v2("00AB", &upper.replacen(r#""traceId":"00AB","#, "", 1)).as_deref(), Some(lower));
}

/// Zipkin's own reader refuses the whole trace for them. The Collector writes such a duration for a span that ends before it
/// starts.
#[test]
fn what_zipkins_readers_refuse_is_left_out_and_the_rest_is_as_it_was() {
    let body = r#"{"traceId":"1","id":"2","timestamp":18446744073709551615,"duration":18446744073709551611,"name":"é","annotations":[{"timestamp":0,"value":"a"},{"timestamp":1,"value":"b"},{"value":"c"},7,{"timestamp":18446744073709551615,"value":"d"}],"\ud83d":{"n":1E2}}"#;
    let readable = r#"{"traceId":"1","id":"2","name":"é","annotations":[{"timestamp":1,"value":"b"}],"\ud83d":{"n":1E2}}"#;
    assert_eq!(zipkin_v2("", body).as_deref(), Some(readable));
    let without_id = body.replacen(r#""traceId":"1","#, "", 1);
    assert_eq!(zipkin_v2("1", &without_id).as_deref(), Some(readable));
}

#[test]
fn a_span_with_an_id_of_zeros_does_not_hide_its_trace() {
    for body in [
        r#"{"traceId":"1","id":"0000000000000000"}"#,
        r#"{"traceId":"00000000000000000000000000000000","id":"1"}"#,
        r#"{"traceId":"1","spanId":"0000000000000000"}"#,
        r#"{"traceId":"00000000000000000000000000000000","spanId":"1"}"#,
    ] {
        assert_eq!(zipkin_v2("", body), None, "{body}");
    }
    assert_eq!(zipkin_v2("0000", r#"{"id":"1"}"#), None);
}

#[test]
fn a_span_whose_trace_id_its_message_said_once_gets_that_of_its_row() {
    let body = r#"{"id":"ab","name":"json"}"#;
    assert_eq!(zipkin_v2("00aa", body).as_deref(), Some(r#"{"traceId":"00aa","id":"ab","name":"json"}"#));
    assert_eq!(zipkin_v2("order-17", body), None);
    for none in ["null", "\"\""] {
        let body = format!(r#"{{ "id":"ab","traceId": {none} ,"name":"json"}}"#);
        let expected = r#"{ "id":"ab","traceId": "00aa" ,"name":"json"}"#;
        assert_eq!(zipkin_v2("00aa", &body).as_deref(), Some(expected));
    }
    assert_eq!(zipkin_v2("00aa", r#"{"traceId":"order-17","id":"ab"}"#), None);
    assert_eq!(zipkin_v2("00aa", r#"{"name":"without an id"}"#), None);
}

#[test]
fn what_is_no_span_is_left_out() {
    for body in [
        "{}",
        "12",
        "not json",
        r#"{"traceId":"1"}"#,
        r#"{"traceId":"order-17","id":"1"}"#,
        r#"{"traceId":"1","id":"order-17"}"#,
        r#"{"traceId":1,"id":2}"#,
        r#"{"traceId":"","spanId":"1"}"#,
        r#"[{"traceId":"1","id":"2"}]"#,
    ] {
        assert_eq!(zipkin_v2("", body), None, "{body}");
    }
}

#[test]
fn ids_times_and_the_service_come_from_where_otlp_has_them() {
    assert_eq!(
        translated(&otlp(json!({ "parentSpanId": "EEE19B7EC3C1B173", "kind": 2 }))),
        json!({
            "traceId": "5b8efff798038103d269b633813fc60c", "id": "eee19b7ec3c1b174", "parentId": "eee19b7ec3c1b173",
            "kind": "SERVER", "name": "get /", "timestamp": 1_544_712_660_000_000_i64, "duration": 1_000_002,
            "localEndpoint": { "serviceName": "shop" },
        })
    );
    for no_id in ["", "4bf92f3577b34da6a3ce929d0e0e4736", "AQEBAQEBAQE="] {
        assert_eq!(translated(&otlp(json!({ "parentSpanId": no_id }))).get("parentId"), None, "{no_id}");
    }
    let nameless = translated(&otlp(json!({ "resource": {}, "kind": 1, "parentSpanId": "" })));
    assert_eq!(nameless["localEndpoint"], json!({ "serviceName": "unknown_service" }));
    assert_eq!((nameless.get("kind"), nameless.get("parentId")), (None, None));
}

#[test]
fn times_are_exact_at_the_ends_of_their_range() {
    for (start, end, timestamp, duration) in [
        ("18446744073709551614", "18446744073709551615", json!(18_446_744_073_709_551_u64), json!(1)),
        ("-1500", "500", Value::Null, json!(2)),
        ("5000", "4000", json!(5), Value::Null),
        ("0", "18446744073709551615", Value::Null, json!(18_446_744_073_709_551_u64)),
        // Beyond 64 bits, and so far beyond that their difference has more than 128.
        ("18446744073709551616", "18446744073709551617", Value::Null, Value::Null),
        ("1000", "18446744073709551616", json!(1), Value::Null),
        ("-9e37", "9e37", Value::Null, Value::Null),
    ] {
        let span = translated(&otlp(json!({ "startTimeUnixNano": start, "endTimeUnixNano": end })));
        assert_eq!((&span["timestamp"], &span["duration"]), (&timestamp, &duration), "{start}..{end}");
    }
    let number = translated(&otlp(json!({ "startTimeUnixNano": 5_000_000 })));
    assert_eq!(number["timestamp"], 5_000);
}

#[test]
fn attributes_become_tags_and_the_spans_own_win() {
    let value = |key: &str, value: Value| json!({ "key": key, "value": value });
    let span = translated(&otlp(json!({
        "resource": { "attributes": [
            value("service.name", json!({ "stringValue": "shop" })), value("host", json!({ "stringValue": "a" })), value("both", json!({ "stringValue": "r" })),
        ] },
        "attributes": [
            value("both", json!({ "stringValue": "s" })), value("int", json!({ "intValue": "-9223372036854775808" })),
            value("double", json!({ "doubleValue": "NaN" })), value("bool", json!({ "boolValue": false })),
            value("bytes", json!({ "bytesValue": "AQI=" })), value("none", json!({})),
            value("list", json!({ "arrayValue": { "values": [{ "stringValue": "\"" }, { "intValue": "7" }, {}] } })),
            value("later", json!({ "stringValue": "x", "zz": 1 })), value("null", json!({ "stringValue": "y", "zz": null, "intValue": null })),
            value("map", json!({ "kvlistValue": { "values": [value("k", json!({ "doubleValue": 0.5 }))] } })),
        ],
        "droppedAttributesCount": 3, "droppedLinksCount": "4",
        "scope": { "name": "lib", "version": "1", "attributes": [
            value("both", json!({ "stringValue": "l" })), value("of.scope", json!({ "stringValue": "l" })),
        ] },
    })));
    assert_eq!(
        span["tags"],
        json!({
            "host": "a", "both": "s", "int": "-9223372036854775808", "double": "NaN", "bool": "false", "bytes": "AQI=", "none": "",
            "later": "x", "null": "y", "otel.dropped_links_count": "4", "list": r#"["\"",7,null]"#, "map": r#"{"k":0.5}"#, "otel.dropped_attributes_count": "3",
            "otel.scope.name": "lib", "otel.scope.version": "1", "otel.library.name": "lib", "otel.library.version": "1",
            "of.scope": "l",
        })
    );
}

#[test]
fn a_count_of_nothing_dropped_is_no_tag() {
    for zero in [json!(0), json!(0.0), json!("0"), json!(null), json!("-0")] {
        let span = translated(&otlp(json!({
            "droppedAttributesCount": zero, "droppedEventsCount": zero, "droppedLinksCount": zero,
        })));
        assert_eq!(span.get("tags"), None, "{zero}");
    }
}

#[test]
fn a_list_is_json_however_its_numbers_are_written() {
    for (number, written) in [(r#""\u0035""#, "5"), (r#""007""#, "7"), ("1e2", "100"), (r#""x""#, r#""x""#)] {
        let value = format!(r#"{{"arrayValue":{{"values":[{{"intValue":{number}}}]}}}}"#);
        let body = format!(r#"{{"traceId":"1","spanId":"2","attributes":[{{"key":"k","value":{value}}}]}}"#);
        let span: Value = serde_json::from_str(&zipkin_v2("", &body).unwrap()).unwrap();
        assert_eq!(span["tags"]["k"], format!("[{written}]"));
    }
}

#[test]
fn the_status_becomes_tags_and_error_is_there_only_for_errors() {
    for (status, tags) in [
        (json!({}), Value::Null),
        (json!({ "code": 1, "message": "ignored" }), json!({ "otel.status_code": "OK" })),
        (json!({ "code": 2, "message": "boom" }), json!({ "otel.status_code": "ERROR", "error": "boom" })),
        (json!({ "code": "STATUS_CODE_ERROR" }), json!({ "otel.status_code": "ERROR", "error": "" })),
        (json!({ "code": 2.0, "message": "boom" }), json!({ "otel.status_code": "ERROR", "error": "boom" })),
    ] {
        for value in [false, true] {
            let error = [json!({ "key": "error", "value": { "boolValue": value } })];
            let span = translated(&otlp(json!({ "status": status, "attributes": error })));
            assert_eq!(span["tags"], tags, "{status} {value}");
        }
    }
    // What somebody has written there for people says more than that.
    let said = [json!({ "key": "error", "value": { "stringValue": "out of stock" } })];
    assert_eq!(translated(&otlp(json!({ "attributes": said })))["tags"], json!({ "error": "out of stock" }));
    let fine = otlp(json!({ "attributes": said, "status": { "code": 1 } }));
    assert_eq!(translated(&fine)["tags"], json!({ "otel.status_code": "OK" }));
}

#[test]
fn a_parent_of_zeros_is_none_and_a_service_keeps_its_name_whatever_that_looks_like() {
    let resource =
        json!({ "attributes": [{ "key": "service.name", "value": { "stringValue": "10.0.0.7" } }] });
    let span = translated(&otlp(json!({ "parentSpanId": "0000000000000000", "resource": resource })));
    assert_eq!(span.get("parentId"), None);
    assert_eq!(span["localEndpoint"], json!({ "serviceName": "10.0.0.7" }));
}

#[test]
fn null_is_what_is_not_there() {
    let event = json!({ "timeUnixNano": "1000", "name": null, "attributes": [{ "key": "k", "value": { "stringValue": "v" } }] });
    let span = translated(&otlp(json!({
        "parentSpanId": null, "name": null, "kind": null, "status": { "code": 2, "message": null },
        "scope": { "name": null }, "events": [event],
    })));
    for absent in ["parentId", "name", "kind"] {
        assert_eq!(span.get(absent), None, "{absent}");
    }
    assert_eq!(span["tags"], json!({ "error": "", "otel.status_code": "ERROR" }));
    assert_eq!(span["annotations"][0]["value"], r#""":{"k":"v"}"#);
}

#[test]
fn a_span_that_took_no_time_has_a_duration() {
    let times =
        json!({ "startTimeUnixNano": "1763704800000000000", "endTimeUnixNano": "1763704800000000000" });
    assert_eq!(translated(&otlp(times))["duration"], 1);
    let unfinished = json!({ "startTimeUnixNano": "1763704800000000000", "endTimeUnixNano": "0" });
    assert_eq!(translated(&otlp(unfinished)).get("duration"), None);
}

#[test]
fn numbers_are_read_in_every_spelling_of_json() {
    let times =
        json!({ "startTimeUnixNano": 1.7637048e18, "endTimeUnixNano": "1.7637048005e18", "kind": "2.0" });
    let span = translated(&otlp(times));
    assert_eq!((&span["timestamp"], &span["duration"]), (&json!(1_763_704_800_000_000_i64), &json!(500_000)));
    assert_eq!(span["kind"], "SERVER");
}

#[test]
fn an_event_without_a_time_has_that_of_its_span_or_is_left_out() {
    let events = json!([{ "name": "none" }, { "name": "early", "timeUnixNano": "999" }]);
    let span = translated(&otlp(json!({ "events": events, "startTimeUnixNano": "5000" })));
    let at = |value: &str| json!({ "timestamp": 5, "value": value });
    assert_eq!(span["annotations"], json!([at("none"), at("early")]));
    let span = translated(&otlp(json!({ "events": events, "startTimeUnixNano": "999" })));
    assert_eq!((&span["annotations"], span.get("timestamp")), (&json!([]), None));
    let before_1970 = json!([{ "name": "x", "timeUnixNano": "-1" }]);
    let span = translated(&otlp(json!({ "events": before_1970, "startTimeUnixNano": "-5000" })));
    assert_eq!((&span["annotations"], span.get("timestamp")), (&json!([]), None));
}

#[test]
fn events_become_annotations_with_their_attributes_as_json() {
    let attribute = json!({ "key": "exception.type", "value": { "stringValue": "Io\"Error" } });
    let span = translated(&otlp(json!({ "events": [
        { "timeUnixNano": "1000", "name": "plain" },
        { "timeUnixNano": "2999", "name": "exception", "attributes": [attribute] },
    ] })));
    assert_eq!(
        span["annotations"],
        json!([
            { "timestamp": 1, "value": "plain" },
            { "timestamp": 2, "value": r#""exception":{"exception.type":"Io\"Error"}"# },
        ])
    );
}

#[test]
fn the_best_known_peer_becomes_the_remote_endpoint_of_clients_and_producers() {
    let peer = |key: &str, value: &str| json!({ "key": key, "value": { "stringValue": value } });
    let ports = json!({ "key": "server.port", "value": { "intValue": "443" } });
    for (kind, attributes, remote) in [
        (
            3,
            json!([peer("server.address", "api"), peer("peer.service", "payments")]),
            json!({ "serviceName": "payments" }),
        ),
        (
            4,
            json!([peer("server.address", "api"), ports.clone()]),
            json!({ "serviceName": "api", "port": 443 }),
        ),
        (3, json!([peer("server.address", "10.0.0.1"), ports]), json!({ "ipv4": "10.0.0.1", "port": 443 })),
        (3, json!([peer("net.sock.peer.addr", "::1")]), json!({ "ipv6": "::1" })),
        (2, json!([peer("peer.service", "payments")]), Value::Null),
    ] {
        assert_eq!(
            translated(&otlp(json!({ "kind": kind, "attributes": attributes })))["remoteEndpoint"],
            remote
        );
    }
}

#[test]
fn half_a_surrogate_pair_does_not_hide_a_span() {
    let body = r#"{"traceId":"1","spanId":"2","name":"cut \ud83d","attributes":[{"key":"\ude00","value":{"stringValue":"\ud83d\ude00"}}]}"#;
    let span: Value = serde_json::from_str(&zipkin_v2("", body).unwrap()).unwrap();
    assert_eq!((&span["name"], &span["tags"]["\u{fffd}"]), (&json!("cut \u{fffd}"), &json!("😀")));
}

#[test]
fn a_trace_is_found_by_every_form_of_its_id() {
    assert_eq!(trace_id_forms("order-17"), ["order-17"]);
    assert_eq!(
        trace_id_forms("463AC35C9F6413AD"),
        [
            "463AC35C9F6413AD",
            "463ac35c9f6413ad",
            "0000000000000000463ac35c9f6413ad",
            "0000000000000000463AC35C9F6413AD"
        ]
    );
    assert_eq!(
        trace_id_forms("00000000000000000000000000000abc"),
        [
            "00000000000000000000000000000abc",
            "0000000000000abc",
            "abc",
            "00000000000000000000000000000ABC",
            "0000000000000ABC",
            "ABC"
        ]
    );
    assert!(
        ["0000000000000abc", "00000000000000000000000000000ABC"]
            .iter()
            .all(|form| trace_id_forms("abc").contains(&(*form).to_owned()))
    );
    assert_eq!(trace_id_forms("0"), ["0", "0000000000000000", "00000000000000000000000000000000"]);
    let long = "5b8efff798038103d269b633813fc60c";
    assert_eq!(trace_id_forms(long), [long, "5B8EFFF798038103D269B633813FC60C"]);
    assert_eq!(trace_id_forms(&long.repeat(2)), [long.repeat(2)]);
}

proptest! {
    #[test]
    fn members_of_any_shape_never_panic_and_always_yield_json(
        member in prop::sample::select(vec![
            "name", "kind", "startTimeUnixNano", "attributes", "events", "status", "resource", "scope", "parentSpanId",
        ]),
        value in prop::sample::select(vec![
            json!(null), json!(1e300), json!("x\"\u{0}"), json!([1, null]), json!([[]]), json!({ "attributes": 7 }),
            json!([{ "key": null, "value": 3 }]), json!([{ "key": "k", "value": { "arrayValue": { "values": 1 } } }]),
            json!([{ "key": "k", "value": { "kvlistValue": { "values": [{}, 2, { "value": {} }] } } }]),
            json!({ "code": [], "message": {} }), json!([{ "name": 5, "attributes": [{}] }, 3]),
        ]),
    ) {
        translated(&otlp(json!({ member: value })));
    }
}
