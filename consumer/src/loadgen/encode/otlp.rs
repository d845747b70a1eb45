//! `ExportTraceServiceRequest` as protobuf and JSON (opentelemetry-proto 1.x, OTLP/JSON mapping).
//!
//! Neighbouring spans of one service share a `ResourceSpans`, as exporters send them.

use super::{Sheet, Site};
use crate::loadgen::shop::{Exception, Kind, Span, Value};

const SCOPE: &str = "sluice-shop";
const SCOPE_VERSION: &str = "1.4.2";
const SDK: [(&str, &str); 3] = [
    ("telemetry.sdk.language", "java"),
    ("telemetry.sdk.name", "opentelemetry"),
    ("service.namespace", "shop"),
];

fn kind_number(kind: Kind) -> u64 {
    match kind {
        Kind::Internal => 1,
        Kind::Server => 2,
        Kind::Client => 3,
        Kind::Producer => 4,
        Kind::Consumer => 5,
    }
}

fn services(spans: &[Span]) -> impl Iterator<Item = &[Span]> {
    spans.chunk_by(|left, right| left.service == right.service)
}

fn exception_attributes(exception: &Exception) -> [(&'static str, Value); 3] {
    [
        ("exception.type", exception.class.into()),
        ("exception.message", exception.message.clone().into()),
        ("exception.stacktrace", exception.stacktrace.clone().into()),
    ]
}

fn peer(span: &Span) -> Option<(&'static str, Value)> {
    span.peer.map(|peer| ("peer.service", peer.into()))
}

fn resource(spans: &[Span]) -> Vec<(&'static str, Value)> {
    let own = ("service.name", Value::from(spans[0].service));
    let sdk = SDK.iter().map(|(name, value)| (*name, Value::from(*value)));
    std::iter::once(own).chain(sdk).collect()
}

/// Protobuf.
pub(super) fn proto(sheet: &mut Sheet, spans: &[Span]) {
    for spans in services(spans) {
        sheet.message(1, |sheet| {
            sheet.message(1, |sheet| proto_attributes(sheet, 1, resource(spans)));
            sheet.message(2, |sheet| {
                sheet.message(1, |sheet| {
                    sheet.string(1, SCOPE);
                    sheet.string(2, SCOPE_VERSION);
                });
                for span in spans {
                    sheet.message(2, |sheet| proto_span(sheet, span));
                }
            });
        });
    }
}

fn proto_span(sheet: &mut Sheet, span: &Span) {
    sheet.id(1, span, Site::TraceBytes(span.trace_id));
    sheet.id(2, span, Site::SpanBytes(span.id));
    if let Some(parent_id) = span.parent_id {
        sheet.id(4, span, Site::SpanBytes(parent_id));
    }
    sheet.string(5, &span.name);
    sheet.varint(6, kind_number(span.kind));
    sheet.fixed_time(7, span, Site::NanosFixed(span.start_us));
    sheet.fixed_time(8, span, Site::NanosFixed(span.start_us + span.duration_us));
    proto_attributes(sheet, 9, span.tags.iter().cloned().chain(peer(span)));
    if let Some(exception) = &span.exception {
        sheet.message(11, |sheet| {
            sheet.fixed_time(1, span, Site::NanosFixed(exception.at_us));
            sheet.string(2, "exception");
            proto_attributes(sheet, 3, exception_attributes(exception));
        });
        sheet.message(15, |sheet| {
            sheet.string(2, &exception.message);
            sheet.varint(3, 2);
        });
    }
}

fn proto_attributes(
    sheet: &mut Sheet,
    field: u64,
    attributes: impl IntoIterator<Item = (&'static str, Value)>,
) {
    for (name, value) in attributes {
        sheet.message(field, |sheet| {
            sheet.string(1, name);
            sheet.message(2, |sheet| match value {
                Value::Text(text) => sheet.string(1, &text),
                Value::Bool(truth) => sheet.varint(2, u64::from(truth)),
                Value::Int(number) => sheet.varint(3, number as u64),
            });
        });
    }
}

/// JSON.
pub(super) fn json(sheet: &mut Sheet, spans: &[Span]) {
    sheet.text("{\"resourceSpans\":[");
    separated(sheet, services(spans), |sheet, spans| {
        sheet.text("{\"resource\":{\"attributes\":");
        json_attributes(sheet, resource(spans));
        sheet.text("},\"scopeSpans\":[{\"scope\":");
        sheet.text(&format!("{{\"name\":\"{SCOPE}\",\"version\":\"{SCOPE_VERSION}\"}},\"spans\":["));
        separated(sheet, spans, json_span);
        sheet.text("]}]}");
    });
    sheet.text("]}");
}

fn separated<T>(sheet: &mut Sheet, items: impl IntoIterator<Item = T>, mut each: impl FnMut(&mut Sheet, T)) {
    for (index, item) in items.into_iter().enumerate() {
        if index > 0 {
            sheet.text(",");
        }
        each(sheet, item);
    }
}

fn json_span(sheet: &mut Sheet, span: &Span) {
    sheet.text("{\"traceId\":");
    sheet.quoted_site(span, Site::TraceHex(span.trace_id));
    sheet.text(",\"spanId\":");
    sheet.quoted_site(span, Site::SpanHex(span.id));
    if let Some(parent_id) = span.parent_id {
        sheet.text(",\"parentSpanId\":");
        sheet.quoted_site(span, Site::SpanHex(parent_id));
    }
    sheet.text(",\"name\":");
    sheet.quoted(&span.name);
    sheet.text(&format!(",\"kind\":{},\"startTimeUnixNano\":", kind_number(span.kind)));
    sheet.quoted_site(span, Site::NanosText(span.start_us));
    sheet.text(",\"endTimeUnixNano\":");
    sheet.quoted_site(span, Site::NanosText(span.start_us + span.duration_us));
    sheet.text(",\"attributes\":");
    json_attributes(sheet, span.tags.iter().cloned().chain(peer(span)));
    if let Some(exception) = &span.exception {
        sheet.text(",\"events\":[{\"timeUnixNano\":");
        sheet.quoted_site(span, Site::NanosText(exception.at_us));
        sheet.text(",\"name\":\"exception\",\"attributes\":");
        json_attributes(sheet, exception_attributes(exception));
        sheet.text("}],\"status\":{\"message\":");
        sheet.quoted(&exception.message);
        sheet.text(",\"code\":2}");
    }
    sheet.text("}");
}

fn json_attributes(sheet: &mut Sheet, attributes: impl IntoIterator<Item = (&'static str, Value)>) {
    sheet.text("[");
    separated(sheet, attributes, |sheet, (name, value)| {
        sheet.text("{\"key\":");
        sheet.quoted(name);
        sheet.text(",\"value\":{");
        match value {
            Value::Text(text) => {
                sheet.text("\"stringValue\":");
                sheet.quoted(&text);
            }
            Value::Bool(truth) => sheet.text(&format!("\"boolValue\":{truth}")),
            Value::Int(number) => sheet.text(&format!("\"intValue\":\"{number}\"")),
        }
        sheet.text("}}");
    });
    sheet.text("]");
}
