//! Messages that real producers sent; see `fixtures/README.md`.

use std::path::Path;

use serde_json::Value;
use sluice_consumer::decode::DecodeError;
use sluice_consumer::read::{trace_id_forms, zipkin_v2};
use sluice_crds::v1alpha1::Format;

use crate::samples::{Outcome, decode};

const TRACE: &str = "5b8efff798038103d269b633813fc60c";
const OTHER_TRACE: &str = "00000000000000000000000000000abc";

fn message(file: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(file)).unwrap()
}

/// Decodes a fixture with its format and with `Auto`, which must agree.
fn decoded(file: &str, format: Format) -> Outcome {
    let payload = message(file);
    let outcome = decode(format, &payload);
    assert_eq!(outcome.error, None, "{file}");
    assert_eq!(outcome.rejected, [], "{file}");
    assert_eq!(decode(Format::Auto, &payload), outcome, "{file}");
    outcome
}

/// Trace id, kind and span id of each span.
fn ids(outcome: &Outcome, id: &str) -> Vec<(String, String, String)> {
    let id_of = |body: &str| serde_json::from_str::<Value>(body).unwrap()[id].as_str().unwrap().to_owned();
    outcome.spans.iter().map(|(trace_id, kind, body)| (trace_id.clone(), kind.clone(), id_of(body))).collect()
}

fn expected(spans: &[(&str, &str, &str)]) -> Vec<(String, String, String)> {
    spans.iter().map(|(trace_id, kind, id)| ((*trace_id).into(), (*kind).into(), (*id).into())).collect()
}

const SENT: [(&str, &str, &str); 6] = [
    (TRACE, "SERVER", "eee19b7ec3c1b174"),
    (TRACE, "CLIENT", "eee19b7ec3c1b175"),
    (TRACE, "SERVER", "eee19b7ec3c1b176"),
    (TRACE, "INTERNAL", "eee19b7ec3c1b177"),
    (OTHER_TRACE, "PRODUCER", "00000000000000de"),
    (OTHER_TRACE, "CONSUMER", "00000000000000df"),
];

#[test]
fn the_collectors_otlp_is_decoded_alike_from_protobuf_and_json() {
    let from_proto = decoded("opentelemetry-collector/otlp_proto.bin", Format::OtlpProto);
    let from_json = decoded("opentelemetry-collector/otlp_json.bin", Format::OtlpJson);
    assert_eq!(ids(&from_proto, "spanId"), expected(&SENT));
    assert_eq!(ids(&from_json, "spanId"), expected(&SENT));
    for ((_, _, proto), (_, _, json)) in from_proto.spans.iter().zip(&from_json.spans) {
        // Both mean the same: they translate to the same Zipkin span.
        let zipkin = |body: &str| serde_json::from_str::<Value>(&zipkin_v2("", body).unwrap()).unwrap();
        assert_eq!(zipkin(proto), zipkin(json));
    }
}

#[test]
fn the_collectors_zipkin_is_decoded_alike_from_protobuf_and_json() {
    let from_proto = decoded("opentelemetry-collector/zipkin_proto.bin", Format::ZipkinProto);
    let from_json = decoded("opentelemetry-collector/zipkin_json.bin", Format::ZipkinJson);
    let kinds = SENT.map(|(trace_id, kind, id)| (trace_id, if kind == "INTERNAL" { "" } else { kind }, id));
    assert_eq!(ids(&from_proto, "id"), expected(&kinds));
    // Its JSON encoder cuts an id whose upper half is zero down to 64 bits; the column holds what was sent.
    let shortened =
        kinds.map(|(trace_id, kind, id)| (trace_id.trim_start_matches("0000000000000000"), kind, id));
    assert_eq!(ids(&from_json, "id"), expected(&shortened));
    for ((long, ..), (short, ..)) in from_proto.spans.iter().zip(&from_json.spans) {
        assert!(trace_id_forms(long).contains(short) && trace_id_forms(short).contains(long));
    }
}

#[test]
fn the_collectors_jaeger_is_decoded_span_by_span() {
    for (file, sent) in [("jaeger_proto.1.bin", SENT[0]), ("jaeger_proto.2.bin", SENT[1])] {
        let outcome = decoded(&format!("opentelemetry-collector/{file}"), Format::JaegerProto);
        assert_eq!(ids(&outcome, "spanId"), expected(&[sent]));
    }
}

#[test]
fn a_span_is_the_same_whether_it_came_as_otlp_or_by_way_of_jaeger() {
    let otlp = decoded("opentelemetry-collector/otlp_proto.bin", Format::OtlpProto);
    for index in [0, 1] {
        let file = format!("opentelemetry-collector/jaeger_proto.{}.bin", index + 1);
        let jaeger = decoded(&file, Format::JaegerProto);
        let zipkin = |body: &str| serde_json::from_str::<Value>(&zipkin_v2("", body).unwrap()).unwrap();
        assert_eq!(zipkin(&jaeger.spans[0].2), zipkin(&otlp.spans[index].2));
    }
}

#[test]
fn zipkins_own_sender_is_decoded_alike_from_protobuf_and_json() {
    let sent = [
        (TRACE, "SERVER", "eee19b7ec3c1b174"),
        (TRACE, "CLIENT", "eee19b7ec3c1b175"),
        (TRACE, "SERVER", "eee19b7ec3c1b175"),
        ("463ac35c9f6413ad", "", "463ac35c9f6413ad"),
    ];
    let from_json = decoded("zipkin-sender-kafka/json.bin", Format::ZipkinJson);
    let from_proto = decoded("zipkin-sender-kafka/proto3.bin", Format::ZipkinProto);
    assert_eq!(ids(&from_json, "id"), expected(&sent));
    for ((_, _, proto), (_, _, json)) in from_proto.spans.iter().zip(&from_json.spans) {
        let value = |body: &str| serde_json::from_str::<Value>(body).unwrap();
        assert_eq!(value(proto), value(json));
        assert_eq!(zipkin_v2("", json).as_deref(), Some(json.as_str()));
    }
}

#[test]
fn what_is_out_of_scope_is_told_apart() {
    for file in ["zipkin-sender-kafka/thrift.bin", "opentelemetry-collector/jaeger_json.1.bin"] {
        assert_eq!(decode(Format::Auto, &message(file)).error, Some(DecodeError::Unknown), "{file}");
    }
}
