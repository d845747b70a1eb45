//! Protobuf: the wire format, Zipkin's `ListOfSpans` and Jaeger's `model.Span` and `model.Batch`.

use super::json::plain;
use super::{Sheet, Site};
use crate::loadgen::shop::{Exception, Kind, Span, Value};

/// Tag of field 2, varint: `nanos` of `google.protobuf.Timestamp`.
pub(super) const NANOS_TAG: u8 = 2 << 3;
/// Tag of field 1, varint: `seconds` of `google.protobuf.Timestamp`.
const SECONDS_TAG: u8 = 1 << 3;

const VARINT: u64 = 0;
const FIXED64: u64 = 1;
const BYTES: u64 = 2;

impl Sheet {
    fn raw_varint(&mut self, mut number: u64) {
        while number >= 0x80 {
            self.bytes.push(number as u8 | 0x80);
            number >>= 7;
        }
        self.bytes.push(number as u8);
    }

    /// A varint field.
    pub(super) fn varint(&mut self, field: u64, number: u64) {
        self.raw_varint(field << 3 | VARINT);
        self.raw_varint(number);
    }

    /// A string field.
    pub(super) fn string(&mut self, field: u64, text: &str) {
        self.raw_varint(field << 3 | BYTES);
        self.raw_varint(text.len() as u64);
        self.text(text);
    }

    /// A field of bytes that hold one id.
    pub(super) fn id(&mut self, field: u64, span: &Span, site: Site) {
        self.raw_varint(field << 3 | BYTES);
        self.raw_varint(site.width() as u64);
        self.site(span, site);
    }

    /// A fixed64 field that holds a time.
    pub(super) fn fixed_time(&mut self, field: u64, span: &Span, site: Site) {
        self.raw_varint(field << 3 | FIXED64);
        self.site(span, site);
    }

    /// An embedded message.
    pub(super) fn message(&mut self, field: u64, write: impl FnOnce(&mut Self)) {
        let mut inner = Self::default();
        write(&mut inner);
        self.raw_varint(field << 3 | BYTES);
        self.raw_varint(inner.bytes.len() as u64);
        self.append(&inner);
    }
}

/// `zipkin.proto3.ListOfSpans` (zipkin-api, `zipkin.proto`).
pub(super) fn zipkin(sheet: &mut Sheet, spans: &[Span]) {
    for span in spans {
        sheet.message(1, |sheet| zipkin_span(sheet, span));
    }
}

fn zipkin_span(sheet: &mut Sheet, span: &Span) {
    sheet.id(1, span, Site::TraceBytes(span.trace_id));
    if let Some(parent_id) = span.parent_id {
        sheet.id(2, span, Site::SpanBytes(parent_id));
    }
    sheet.id(3, span, Site::SpanBytes(span.id));
    let kind = match span.kind {
        Kind::Internal => 0,
        Kind::Client => 1,
        Kind::Server => 2,
        Kind::Producer => 3,
        Kind::Consumer => 4,
    };
    if kind > 0 {
        sheet.varint(4, kind);
    }
    sheet.string(5, &span.name);
    sheet.fixed_time(6, span, Site::MicrosFixed(span.start_us));
    sheet.varint(7, span.duration_us.max(1));
    sheet.message(8, |sheet| sheet.string(1, span.service));
    if let Some(peer) = span.peer {
        sheet.message(9, |sheet| sheet.string(1, peer));
    }
    if let Some(exception) = &span.exception {
        sheet.message(10, |sheet| {
            sheet.fixed_time(1, span, Site::MicrosFixed(exception.at_us));
            sheet.string(2, &format!("exception: {}", exception.stacktrace));
        });
        zipkin_tag(sheet, "error", &format!("{}: {}", exception.class, exception.message));
    }
    for (name, value) in &span.tags {
        zipkin_tag(sheet, name, &plain(value));
    }
}

fn zipkin_tag(sheet: &mut Sheet, name: &str, value: &str) {
    sheet.message(11, |sheet| {
        sheet.string(1, name);
        sheet.string(2, value);
    });
}

/// One `jaeger.api_v2.Span`, or a `Batch` for several (jaeger-idl, `model.proto`).
pub(super) fn jaeger(sheet: &mut Sheet, spans: &[Span]) {
    if let [span] = spans {
        return jaeger_span(sheet, span);
    }
    for span in spans {
        sheet.message(1, |sheet| jaeger_span(sheet, span));
    }
}

fn jaeger_span(sheet: &mut Sheet, span: &Span) {
    sheet.id(1, span, Site::TraceBytes(span.trace_id));
    sheet.id(2, span, Site::SpanBytes(span.id));
    sheet.string(3, &span.name);
    if let Some(parent_id) = span.parent_id {
        sheet.message(4, |sheet| {
            sheet.id(1, span, Site::TraceBytes(span.trace_id));
            sheet.id(2, span, Site::SpanBytes(parent_id));
        });
    }
    sheet.varint(5, 1);
    jaeger_time(sheet, 6, span, span.start_us);
    sheet.message(7, |sheet| {
        sheet.varint(1, span.duration_us / 1_000_000);
        sheet.varint(2, span.duration_us % 1_000_000 * 1_000);
    });
    let kind = Value::Text(span.kind.as_str().to_lowercase());
    jaeger_tag(sheet, 8, "span.kind", &kind);
    if span.exception.is_some() {
        jaeger_tag(sheet, 8, "error", &Value::Bool(true));
    }
    for (name, value) in &span.tags {
        jaeger_tag(sheet, 8, name, value);
    }
    if let Some(exception) = &span.exception {
        sheet.message(9, |sheet| {
            jaeger_time(sheet, 1, span, exception.at_us);
            for (name, value) in exception_tags(exception) {
                jaeger_tag(sheet, 2, name, &value.into());
            }
        });
    }
    sheet.message(10, |sheet| sheet.string(1, span.service));
}

/// The attributes of OpenTelemetry's exception event, after the event's own name.
fn exception_tags(exception: &Exception) -> [(&'static str, &str); 4] {
    [
        ("event", "exception"),
        ("exception.type", exception.class),
        ("exception.message", &exception.message),
        ("exception.stacktrace", &exception.stacktrace),
    ]
}

fn jaeger_time(sheet: &mut Sheet, field: u64, span: &Span, time_us: u64) {
    sheet.message(field, |sheet| {
        sheet.bytes.push(SECONDS_TAG);
        sheet.site(span, Site::SecondsAndNanos(time_us));
    });
}

fn jaeger_tag(sheet: &mut Sheet, field: u64, name: &str, value: &Value) {
    sheet.message(field, |sheet| {
        sheet.string(1, name);
        match value {
            Value::Text(text) => sheet.string(3, text),
            Value::Bool(truth) => {
                sheet.varint(2, 1);
                sheet.varint(4, u64::from(*truth));
            }
            Value::Int(number) => {
                sheet.varint(2, 2);
                sheet.varint(5, *number as u64);
            }
        }
    });
}
