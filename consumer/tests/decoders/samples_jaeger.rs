//! Jaeger's messages, and what the OpenTelemetry Collector's translation makes of them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use serde_json::{Value, json};
use sluice_crds::v1alpha1::Format;

use crate::proto::jaeger as j;
use crate::samples::{Body, Sample, Want, decode, text};
use crate::samples_proto::{double, hex, span_id, trace_id, without_defaults};

const KINDS: [&str; 6] = ["", "internal", "server", "client", "producer", "consumer"];

fn time() -> impl Strategy<Value = Option<j::Time>> {
    let seconds =
        prop_oneof![Just(0), Just(i64::MIN), Just(i64::MAX), any::<i64>(), 1_600_000_000..1_900_000_000i64];
    (seconds, prop_oneof![0..1_000_000_000, any::<i32>()])
        .prop_map(|(seconds, nanos)| Some(j::Time { seconds, nanos }))
}

fn nanos(time: &Option<j::Time>) -> i128 {
    let time = time.clone().unwrap_or_default();
    i128::from(time.seconds) * 1_000_000_000 + i128::from(time.nanos)
}

/// Tags without a meaning of their own.
fn tag() -> impl Strategy<Value = j::KeyValue> {
    let key = text().prop_map(|key| format!("tag.{key}"));
    (key, 0..5, text(), any::<(bool, i64, f64)>(), vec(any::<u8>(), 0..5)).prop_map(
        |(key, value_type, text, (boolean, integer, double), binary)| j::KeyValue {
            key,
            value_type,
            text,
            boolean,
            integer,
            double,
            binary,
        },
    )
}

fn string_tag(key: &str, text: &str) -> j::KeyValue {
    j::KeyValue { key: key.into(), text: text.into(), ..j::KeyValue::default() }
}

fn tag_json(tag: &j::KeyValue) -> Value {
    let value = match tag.value_type {
        0 => json!({ "stringValue": tag.text }),
        1 => json!({ "boolValue": tag.boolean }),
        2 => json!({ "intValue": tag.integer.to_string() }),
        3 => json!({ "doubleValue": double(tag.double) }),
        _ => json!({ "bytesValue": STANDARD.encode(&tag.binary) }),
    };
    json!({ "key": tag.key, "value": value })
}

fn tags_json(tags: &[j::KeyValue]) -> Vec<Value> {
    tags.iter().map(tag_json).collect()
}

fn process() -> impl Strategy<Value = j::Process> {
    (text(), vec(tag(), 0..3)).prop_map(|(service_name, tags)| j::Process { service_name, tags })
}

fn process_json(process: &j::Process) -> Value {
    let mut attributes = tags_json(&process.tags);
    if !process.service_name.is_empty() {
        attributes
            .insert(0, json!({ "key": "service.name", "value": { "stringValue": process.service_name } }));
    }
    json!({ "attributes": attributes })
}

/// A span, and its body but for the resource.
#[derive(Clone, Debug)]
struct Pair {
    span: j::Span,
    want: Want,
}

#[derive(Clone, Debug)]
struct Special {
    kind: usize,
    error: bool,
    description: Option<String>,
    scope: Option<String>,
    parent: Option<Vec<u8>>,
    other: Option<(Vec<u8>, Vec<u8>, i32)>,
}

fn special() -> impl Strategy<Value = Special> {
    let other = prop::option::of((trace_id(), span_id(), 0..2));
    (
        0..KINDS.len(),
        any::<bool>(),
        prop::option::of("[a-z]{1,9}"),
        prop::option::of("[a-z]{1,9}"),
        prop::option::of(span_id()),
        other,
    )
        .prop_map(|(kind, error, description, scope, parent, other)| Special {
            kind,
            error,
            description,
            scope,
            parent,
            other,
        })
}

fn span() -> impl Strategy<Value = Pair> {
    let log = (time(), "[a-z]{1,5}", vec(tag(), 0..3)).prop_map(|(time, name, mut fields)| {
        fields.push(string_tag("event", &name));
        j::Log { time, fields }
    });
    let head = (trace_id(), span_id(), text(), any::<u32>(), time(), time());
    (head, vec(tag(), 0..4), vec(log, 0..3), vec(text(), 0..2), special()).prop_map(
        |(head, tags, logs, warnings, special)| {
            let (trace_id, span_id, operation_name, flags, start, duration) = head;
            let mut span = j::Span {
                trace_id,
                span_id,
                operation_name,
                flags,
                start,
                duration,
                tags,
                logs,
                warnings,
                ..j::Span::default()
            };
            let want = pair_want(&span, &special);
            add_special(&mut span, special);
            Pair { span, want }
        },
    )
}

fn add_special(span: &mut j::Span, special: Special) {
    if special.kind > 0 {
        span.tags.push(string_tag("span.kind", KINDS[special.kind]));
    }
    if special.error {
        span.tags.insert(
            0,
            j::KeyValue { key: "error".into(), value_type: 1, boolean: true, ..j::KeyValue::default() },
        );
    }
    if let Some(description) = &special.description {
        span.tags.push(string_tag("otel.status_description", description));
    }
    if let Some(scope) = &special.scope {
        span.tags.push(string_tag("otel.scope.name", scope));
    }
    if let Some(parent) = special.parent {
        span.references.push(j::Reference { trace_id: span.trace_id.clone(), span_id: parent, kind: 0 });
    }
    if let Some((trace_id, span_id, kind)) = special.other {
        // Of two children the first is the parent; what follows is none even if it stands first.
        let place = if kind == 0 { span.references.len() } else { 0 };
        span.references.insert(place, j::Reference { trace_id, span_id, kind });
    }
}

fn pair_want(span: &j::Span, special: &Special) -> Want {
    let start = nanos(&span.start);
    let mut attributes = tags_json(&span.tags);
    if !span.warnings.is_empty() {
        let warnings: Vec<Value> = span.warnings.iter().map(|text| json!({ "stringValue": text })).collect();
        attributes
            .push(json!({ "key": "jaeger.warnings", "value": { "arrayValue": { "values": warnings } } }));
    }
    let events: Vec<Value> = span.logs.iter().map(|log| {
        let (event, fields) = log.fields.split_last().unwrap();
        json!({ "timeUnixNano": nanos(&log.time).to_string(), "name": event.text, "attributes": tags_json(fields) })
    }).collect();
    let mut links = Vec::new();
    let mut parent = special.parent.as_deref();
    if let Some((trace_id, span_id, kind)) = &special.other {
        let same_trace = *trace_id == span.trace_id;
        let is_parent = same_trace && parent.is_none();
        if is_parent {
            parent = Some(span_id);
        }
        if !is_parent || *kind == 1 {
            let kind = ["child_of", "follows_from"][*kind as usize];
            links.push(json!({ "traceId": hex(trace_id), "spanId": hex(span_id),
                "attributes": [{ "key": "opentracing.ref_type", "value": { "stringValue": kind } }] }));
        }
    }
    let mut body = without_defaults(json!({
        "traceId": hex(&span.trace_id), "spanId": hex(&span.span_id), "parentSpanId": parent.map(hex).unwrap_or_default(),
        "flags": span.flags & 1, "name": span.operation_name, "kind": special.kind,
        "startTimeUnixNano": start.to_string(), "endTimeUnixNano": (start + nanos(&span.duration)).to_string(),
        "attributes": attributes, "events": events, "links": links,
    }));
    body["status"] = without_defaults(
        json!({ "message": special.description, "code": if special.error { 2 } else { 0 } }),
    );
    body["scope"] = without_defaults(json!({ "name": special.scope }));
    Want { trace_id: hex(&span.trace_id), kind: KINDS[special.kind].to_uppercase(), body: Body::Json(body) }
}

fn with_resource(pair: &Pair, process: &j::Process) -> Want {
    let mut want = pair.want.clone();
    if let Body::Json(body) = &mut want.body {
        body["resource"] = process_json(process);
        // Where every tag or reference has its place elsewhere an empty list is left.
        let written =
            [("attributes", !pair.span.tags.is_empty()), ("links", !pair.span.references.is_empty())];
        for (list, _) in written.into_iter().filter(|(_, written)| *written) {
            if body.get(list).is_none() {
                body[list] = json!([]);
            }
        }
    }
    want
}

/// Its second bit is `debug`, where W3C has `random`.
#[test]
fn of_the_flags_of_a_jaeger_span_only_sampled_is_kept() {
    for (flags, kept) in [(0, None), (1, Some(1)), (2, None), (3, Some(1))] {
        let (trace_id, span_id) = (vec![1; 16], vec![2; 8]);
        let span =
            j::Span { trace_id, span_id, flags, start: Some(j::Time::default()), ..j::Span::default() };
        let outcome = decode(Format::JaegerProto, &span.encode_to_vec());
        let body: Value = serde_json::from_str(&outcome.spans[0].2).unwrap();
        assert_eq!(body.get("flags").and_then(Value::as_u64), kept, "{flags}");
    }
}

#[test]
fn a_kind_that_otlp_does_not_have_is_an_attribute_and_costs_nothing() {
    for kind in ["local", "a kind of more than 16 characters", "nul\0"] {
        let (trace_id, span_id, tags) = (vec![1; 16], vec![2; 8], vec![string_tag("span.kind", kind)]);
        let span = j::Span { trace_id, span_id, tags, start: Some(j::Time::default()), ..j::Span::default() };
        let outcome = decode(Format::JaegerProto, &span.encode_to_vec());
        let (_, stored, body) = &outcome.spans[0];
        let body: Value = serde_json::from_str(body).unwrap();
        assert_eq!((stored.as_str(), body.get("kind")), ("", None), "{kind}");
        let attributes = json!([{ "key": "span.kind", "value": { "stringValue": kind } }]);
        assert_eq!(body["attributes"], attributes);
    }
}

pub fn jaeger() -> impl Strategy<Value = Sample> {
    let alone = (span(), process()).prop_map(|(pair, process)| {
        let want = vec![with_resource(&pair, &process)];
        let span = j::Span { process: Some(process), ..pair.span };
        Sample { format: Format::JaegerProto, payload: span.encode_to_vec(), want }
    });
    let batch = (vec(span(), 1..4), process()).prop_map(|(pairs, process)| {
        let want = pairs.iter().map(|pair| with_resource(pair, &process)).collect();
        let batch =
            j::Batch { spans: pairs.into_iter().map(|pair| pair.span).collect(), process: Some(process) };
        Sample { format: Format::JaegerProto, payload: batch.encode_to_vec(), want }
    });
    prop_oneof![alone, batch]
}
