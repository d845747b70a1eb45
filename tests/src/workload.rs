//! What benchmarks against other collectors send: server spans with five tags and one annotation, as Zipkin JSON
//! and as OTLP protobuf. Numbers determine them, so a message is the same for everybody who reads it.

use std::fmt::Write as _;

use crate::encode::{attribute, bytes, fixed64, integer, unhex};

/// Spans in every message.
pub const SPANS_PER_MESSAGE: u64 = 10;
/// Spans in a row that share a trace.
const SPANS_PER_TRACE: u64 = 7;
const START_MICROS: u64 = 1_760_000_000_000_000;
const ANNOTATION: &str = "cache.miss";
const METHODS: [&str; 4] = ["GET", "POST", "PUT", "DELETE"];
const STATUS: [&str; 5] = ["200", "200", "200", "404", "503"];
const SERVICES: [&str; 6] = ["cart", "checkout", "inventory", "payment", "search", "shipping"];

struct Span {
    trace_id: String,
    id: u64,
    name: String,
    service: &'static str,
    start_micros: u64,
    duration_micros: u64,
    tags: [(&'static str, String); 5],
}

fn span(number: u64) -> Span {
    // The same for every caller, and unlike its neighbours.
    let mut random = fastrand::Rng::with_seed(number);
    let trace = fastrand::Rng::with_seed((number / SPANS_PER_TRACE) | (1 << 63)).u128(1 << 64..);
    // What one service has sent, as exporters batch it.
    let service = SERVICES[(number / SPANS_PER_MESSAGE) as usize % SERVICES.len()];
    let method = METHODS[random.usize(..METHODS.len())];
    Span {
        trace_id: format!("{trace:032x}"),
        // An odd multiplier maps numbers one to one.
        id: (number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        name: format!("{} /{service}/{{id}}", method.to_lowercase()),
        service,
        start_micros: START_MICROS + number * 13,
        duration_micros: random.u64(200..80_000),
        tags: [
            ("http.method", method.to_owned()),
            ("http.path", format!("/{service}/{}", random.u32(..1_000_000))),
            ("http.status_code", STATUS[random.usize(..STATUS.len())].to_owned()),
            ("customer.id", format!("c-{:08x}", random.u32(..))),
            ("instance", format!("{service}-7d9f8b6c5d-{:05x}", random.u32(..400))),
        ],
    }
}

fn spans(message: u64) -> impl Iterator<Item = Span> {
    let first = message * SPANS_PER_MESSAGE;
    (first..first + SPANS_PER_MESSAGE).map(span)
}

/// A message of Zipkin v2 JSON.
pub fn zipkin_json(message: u64) -> Vec<u8> {
    let mut text = String::from("[");
    for span in spans(message) {
        let comma = if text.len() == 1 { "" } else { "," };
        let _ = write!(
            text,
            "{comma}{{\"traceId\":\"{}\",\"id\":\"{:016x}\",\"kind\":\"SERVER\",\"name\":\"{}\",\"timestamp\":{},\
             \"duration\":{},\"localEndpoint\":{{\"serviceName\":\"{}\",\"ipv4\":\"10.1.2.3\",\"port\":8080}},\"annotations\":\
             [{{\"timestamp\":{},\"value\":\"{ANNOTATION}\"}}],\"tags\":{{",
            span.trace_id,
            span.id,
            span.name,
            span.start_micros,
            span.duration_micros,
            span.service,
            span.start_micros + 100,
        );
        for (index, (key, value)) in span.tags.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            let _ = write!(text, "{comma}\"{key}\":\"{value}\"");
        }
        text.push_str("}}");
    }
    text.push(']');
    text.into_bytes()
}

/// A message of OTLP protobuf (`TracesData` of opentelemetry-proto 1.x): the same spans, under one resource.
pub fn otlp_proto(message: u64) -> Vec<u8> {
    let mut service = "";
    let mut scope = bytes(1, &bytes(1, b"shop"));
    for span in spans(message) {
        service = span.service;
        scope.extend(bytes(2, &otlp_span(&span)));
    }
    let resource = bytes(1, &bytes(1, &attribute("service.name", service)));
    bytes(1, &[resource, bytes(2, &scope)].concat())
}

fn otlp_span(span: &Span) -> Vec<u8> {
    let start = span.start_micros * 1_000;
    let mut out = bytes(1, &unhex(&span.trace_id));
    out.extend(bytes(2, &span.id.to_be_bytes()));
    out.extend(bytes(5, span.name.as_bytes()));
    // SERVER.
    out.extend(integer(6, 2));
    out.extend(fixed64(7, start));
    out.extend(fixed64(8, start + span.duration_micros * 1_000));
    out.extend(span.tags.iter().flat_map(|(key, value)| bytes(9, &attribute(key, value))));
    let event = [fixed64(1, start + 100_000), bytes(2, ANNOTATION.as_bytes())].concat();
    out.extend(bytes(11, &event));
    out
}

#[cfg(test)]
mod tests {
    use sluice_consumer::decode::Decoder;
    use sluice_consumer::span::SpanBuf;
    use sluice_crds::v1alpha1::{Format, JsonPaths};

    use super::*;

    fn decoded(format: Format, message: &[u8]) -> SpanBuf {
        let decoder = Decoder::new(format, &JsonPaths::default()).unwrap();
        let (mut spans, mut rejected) = (SpanBuf::default(), Vec::new());
        decoder.decode(message, &mut spans, &mut rejected).unwrap();
        assert_eq!((spans.len(), rejected.len()), (10, 0));
        spans
    }

    #[test]
    fn a_zipkin_span_has_five_tags_and_one_annotation() {
        for span in decoded(Format::ZipkinJson, &zipkin_json(3)).iter() {
            let body: serde_json::Value = serde_json::from_str(span.body).unwrap();
            assert_eq!(body["tags"].as_object().unwrap().len(), 5);
            assert_eq!(body["annotations"].as_array().unwrap().len(), 1);
            assert_eq!(body["traceId"], span.trace_id);
        }
    }

    #[test]
    fn both_formats_hold_the_same_spans() {
        let zipkin = decoded(Format::ZipkinJson, &zipkin_json(5));
        let otlp = decoded(Format::OtlpProto, &otlp_proto(5));
        for (zipkin, otlp) in zipkin.iter().zip(otlp.iter()) {
            assert_eq!((zipkin.trace_id, zipkin.kind), (otlp.trace_id, otlp.kind));
            let body: serde_json::Value = serde_json::from_str(otlp.body).unwrap();
            assert_eq!(body["attributes"].as_array().map(Vec::len), Some(5), "{body}");
            assert_eq!(body["events"].as_array().map(Vec::len), Some(1), "{body}");
        }
    }
}
