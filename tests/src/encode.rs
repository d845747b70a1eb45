//! The spans of a ledger in each format that the pipeline reads, written by hand after the formats' own
//! specifications: nothing is shared with the decoders.
//!
//! Sources: OTLP 1.x (`opentelemetry/proto/trace/v1/trace.proto` and the JSON mapping), Zipkin v2 (`zipkin.proto`
//! and its JSON), Jaeger (`model.proto`).

use std::fmt::Write as _;

use sluice_crds::v1alpha1::Format;

use crate::ledger::{Ledger, LedgerSpan, Shape};

/// Every format with its name.
pub const FORMATS: [(Format, &str); 6] = [
    (Format::Json, "Json"),
    (Format::ZipkinJson, "ZipkinJson"),
    (Format::ZipkinProto, "ZipkinProto"),
    (Format::OtlpJson, "OtlpJson"),
    (Format::OtlpProto, "OtlpProto"),
    (Format::JaegerProto, "JaegerProto"),
];

const TAGS: [(&str, &str); 5] = [
    ("http.method", "GET"),
    ("http.route", "/cart/{id}"),
    ("http.status_code", "200"),
    ("net.peer.name", "inventory.shop.svc"),
    ("note", "Gr\u{fc}\u{df}e \u{1f680}"),
];
const START_MICROS: u64 = 1_760_000_000_000_000;

/// A message's value in a format, with the ledger's number of spans.
pub fn message(ledger: &Ledger, format: Format, message: u64) -> Vec<u8> {
    let first = message * ledger.spans_per_message;
    let numbers = first..first + ledger.spans_per_message;
    let spans = || numbers.clone().map(|number| (number, ledger.span(number)));
    match format {
        Format::Json | Format::Auto => Ledger { shape: Shape::Json, ..*ledger }.message(message),
        Format::ZipkinJson => Ledger { shape: Shape::Zipkin, ..*ledger }.message(message),
        Format::ZipkinProto => spans().flat_map(|(number, span)| bytes(1, &zipkin(number, &span))).collect(),
        Format::OtlpJson => {
            let spans: Vec<String> = spans().map(|(number, span)| otlp_json(number, &span)).collect();
            format!(
                "{{\"resourceSpans\":[{{\"resource\":{{\"attributes\":[{{\"key\":\"service.name\",\"value\":\
                 {{\"stringValue\":\"cart\"}}}}]}},\"scopeSpans\":[{{\"scope\":{{\"name\":\"shop\"}},\"spans\":[{}]}}]}}]}}",
                spans.join(",")
            )
            .into_bytes()
        }
        Format::OtlpProto => {
            let resource = bytes(1, &bytes(1, &attribute("service.name", "cart")));
            let spans = spans().flat_map(|(number, span)| bytes(2, &otlp(number, &span)));
            let scope: Vec<u8> = bytes(1, &bytes(1, b"shop")).into_iter().chain(spans).collect();
            bytes(1, &[resource, bytes(2, &scope)].concat())
        }
        Format::JaegerProto => {
            let spans: Vec<u8> =
                spans().flat_map(|(number, span)| bytes(1, &jaeger(number, &span))).collect();
            [spans, bytes(2, &bytes(1, b"cart"))].concat()
        }
    }
}

/// A message with one span in OTLP or Zipkin protobuf: start and end in nanoseconds there, start and duration in
/// microseconds here.
///
/// # Panics
/// Another format.
pub fn message_at(format: Format, start: u64, other: u64) -> Vec<u8> {
    let ids = |id_field| [bytes(1, &[1; 16]), bytes(id_field, &[2; 8])].concat();
    match format {
        Format::OtlpProto => {
            let span = [ids(2), fixed64(7, start), fixed64(8, other)].concat();
            bytes(1, &bytes(2, &bytes(2, &span)))
        }
        Format::ZipkinProto => bytes(1, &[ids(3), fixed64(6, start), integer(7, other)].concat()),
        _ => panic!("no such message in {format:?}"),
    }
}

fn otlp_json(number: u64, span: &LedgerSpan) -> String {
    let start = (START_MICROS + number) * 1_000;
    let mut text = format!(
        "{{\"traceId\":\"{}\",\"spanId\":\"{:016x}\",\"name\":\"get /cart\",\"kind\":{},\"startTimeUnixNano\":\"{start}\",\
         \"endTimeUnixNano\":\"{}\",\"attributes\":[",
        span.trace_id,
        number + 1,
        otlp_kind(span),
        start + 5_000_000,
    );
    for (index, (key, value)) in TAGS.iter().enumerate() {
        let comma = if index == 0 { "" } else { "," };
        let _ = write!(text, "{comma}{{\"key\":\"{key}\",\"value\":{{\"stringValue\":\"{value}\"}}}}");
    }
    text.push_str("],\"status\":{}}");
    text
}

fn otlp(number: u64, span: &LedgerSpan) -> Vec<u8> {
    let start = (START_MICROS + number) * 1_000;
    let mut out = bytes(1, &unhex(&span.trace_id));
    out.extend(bytes(2, &(number + 1).to_be_bytes()));
    out.extend(bytes(5, b"get /cart"));
    out.extend(integer(6, otlp_kind(span)));
    out.extend(fixed64(7, start));
    out.extend(fixed64(8, start + 5_000_000));
    out.extend(TAGS.iter().flat_map(|(key, value)| bytes(9, &attribute(key, value))));
    out
}

/// `KeyValue` with a string `AnyValue`.
pub(crate) fn attribute(key: &str, value: &str) -> Vec<u8> {
    [bytes(1, key.as_bytes()), bytes(2, &bytes(1, value.as_bytes()))].concat()
}

/// `SpanKind` of OTLP.
fn otlp_kind(span: &LedgerSpan) -> u64 {
    match span.kind {
        "SERVER" => 2,
        "CLIENT" => 3,
        "PRODUCER" => 4,
        "CONSUMER" => 5,
        _ => 0,
    }
}

fn zipkin(number: u64, span: &LedgerSpan) -> Vec<u8> {
    let mut out = bytes(1, &unhex(&span.trace_id));
    out.extend(bytes(3, &(number + 1).to_be_bytes()));
    // CLIENT 1, SERVER 2, PRODUCER 3, CONSUMER 4.
    let kind = ["CLIENT", "SERVER", "PRODUCER", "CONSUMER"].iter().position(|&kind| kind == span.kind);
    out.extend(integer(4, kind.map_or(0, |index| index as u64 + 1)));
    out.extend(bytes(5, b"get /cart"));
    out.extend(fixed64(6, START_MICROS + number));
    out.extend(integer(7, 5_000));
    out.extend(bytes(8, &bytes(1, b"cart")));
    let tag = |(key, value): &(&str, &str)| {
        bytes(11, &[bytes(1, key.as_bytes()), bytes(2, value.as_bytes())].concat())
    };
    out.extend(TAGS.iter().flat_map(tag));
    out
}

fn jaeger(number: u64, span: &LedgerSpan) -> Vec<u8> {
    let micros = START_MICROS + number;
    let start = [integer(1, micros / 1_000_000), integer(2, micros % 1_000_000 * 1_000)].concat();
    let mut out = bytes(1, &unhex(&span.trace_id));
    out.extend(bytes(2, &(number + 1).to_be_bytes()));
    out.extend(bytes(3, b"get /cart"));
    out.extend(bytes(6, &start));
    out.extend(bytes(7, &integer(2, 5_000_000)));
    // `v_type` STRING is 0, which is not written.
    let tag =
        |key: &str, value: &str| bytes(8, &[bytes(1, key.as_bytes()), bytes(3, value.as_bytes())].concat());
    out.extend(TAGS.iter().flat_map(|(key, value)| tag(key, value)));
    if !span.kind.is_empty() {
        out.extend(tag("span.kind", &span.kind.to_lowercase()));
    }
    out
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).unwrap_or(0) as u8;
    text.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

fn varint(mut value: u64) -> Vec<u8> {
    let mut out = Vec::new();
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
    out
}

pub(crate) fn integer(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3), varint(value)].concat()
}

pub(crate) fn fixed64(field: u64, value: u64) -> Vec<u8> {
    [varint(field << 3 | 1), value.to_le_bytes().to_vec()].concat()
}

pub(crate) fn bytes(field: u64, value: &[u8]) -> Vec<u8> {
    [varint(field << 3 | 2), varint(value.len() as u64), value.to_vec()].concat()
}

#[cfg(test)]
mod tests {
    use sluice_consumer::decode::Decoder;
    use sluice_consumer::span::SpanBuf;
    use sluice_crds::v1alpha1::JsonPaths;

    use super::*;

    #[test]
    fn every_format_decodes_to_the_ledgers_spans() {
        let ledger = Ledger::new(3, Shape::Json);
        for (format, name) in FORMATS {
            let decoder = Decoder::new(format, &JsonPaths::default()).unwrap();
            let (mut spans, mut rejected) = (SpanBuf::default(), Vec::new());
            decoder.decode(&message(&ledger, format, 2), &mut spans, &mut rejected).unwrap();
            assert_eq!((spans.len(), rejected.len()), (10, 0), "{name}");
            for (index, span) in spans.iter().enumerate() {
                let expected = ledger.span(20 + index as u64);
                assert_eq!((span.trace_id, span.kind), (&*expected.trace_id, expected.kind), "{name}");
            }
        }
    }
}
