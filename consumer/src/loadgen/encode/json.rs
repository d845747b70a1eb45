//! Zipkin v2 JSON, and the free form of observation bodies.

use super::{Sheet, Site};
use crate::loadgen::shop::{Kind, Span, Value};

/// A list of Zipkin v2 spans (OpenAPI document of the Zipkin v2 API).
pub(super) fn zipkin(sheet: &mut Sheet, spans: &[Span]) {
    list(sheet, spans, zipkin_span);
}

fn list(sheet: &mut Sheet, spans: &[Span], mut each: impl FnMut(&mut Sheet, &Span)) {
    sheet.text("[");
    for (index, span) in spans.iter().enumerate() {
        if index > 0 {
            sheet.text(",");
        }
        each(sheet, span);
    }
    sheet.text("]");
}

fn zipkin_span(sheet: &mut Sheet, span: &Span) {
    sheet.text("{\"traceId\":");
    sheet.quoted_site(span, Site::TraceHex(span.trace_id));
    if let Some(parent_id) = span.parent_id {
        sheet.text(",\"parentId\":");
        sheet.quoted_site(span, Site::SpanHex(parent_id));
    }
    sheet.text(",\"id\":");
    sheet.quoted_site(span, Site::SpanHex(span.id));
    // Zipkin has no kind for work within a service: the member is left out.
    if span.kind != Kind::Internal {
        sheet.text(&format!(",\"kind\":\"{}\"", span.kind.as_str()));
    }
    sheet.text(",\"name\":");
    sheet.quoted(&span.name);
    sheet.text(",\"timestamp\":");
    sheet.site(span, Site::MicrosText(span.start_us));
    sheet.text(&format!(",\"duration\":{}", span.duration_us.max(1)));
    sheet.text(&format!(",\"localEndpoint\":{{\"serviceName\":\"{}\"}}", span.service));
    if let Some(peer) = span.peer {
        sheet.text(&format!(",\"remoteEndpoint\":{{\"serviceName\":\"{peer}\"}}"));
    }
    if let Some(exception) = &span.exception {
        sheet.text(",\"annotations\":[{\"timestamp\":");
        sheet.site(span, Site::MicrosText(exception.at_us));
        sheet.text(",\"value\":");
        sheet.quoted(&format!("exception: {}", exception.stacktrace));
        sheet.text("}]");
    }
    sheet.text(",\"tags\":{");
    if let Some(exception) = &span.exception {
        sheet.text("\"error\":");
        sheet.quoted(&format!("{}: {}", exception.class, exception.message));
        sheet.text(",");
    }
    for (index, (name, value)) in span.tags.iter().enumerate() {
        if index > 0 {
            sheet.text(",");
        }
        sheet.quoted(name);
        sheet.text(":");
        sheet.quoted(&plain(value));
    }
    // An error without tags leaves a comma that JSON does not allow.
    if span.tags.is_empty() && span.exception.is_some() {
        sheet.bytes.pop();
    }
    sheet.text("}}");
}

/// A value as text, as Zipkin has it.
pub(super) fn plain(value: &Value) -> String {
    match value {
        Value::Text(text) => text.clone(),
        Value::Int(number) => number.to_string(),
        Value::Bool(truth) => truth.to_string(),
    }
}

/// `{ "traceId": …, "spans": [ … ] }`; a span of another trace than the first carries its own id.
pub(super) fn observation(sheet: &mut Sheet, spans: &[Span]) {
    let first = &spans[0];
    sheet.text("{\"traceId\":");
    sheet.quoted_site(first, Site::TraceHex(first.trace_id));
    sheet.text(",\"spans\":");
    list(sheet, spans, |sheet, span| {
        sheet.text("{");
        if span.trace != first.trace {
            sheet.text("\"traceId\":");
            sheet.quoted_site(span, Site::TraceHex(span.trace_id));
            sheet.text(",");
        }
        observed(sheet, span);
    });
    sheet.text("}");
}

fn observed(sheet: &mut Sheet, span: &Span) {
    sheet.text("\"spanId\":");
    sheet.quoted_site(span, Site::SpanHex(span.id));
    if let Some(parent_id) = span.parent_id {
        sheet.text(",\"parentSpanId\":");
        sheet.quoted_site(span, Site::SpanHex(parent_id));
    }
    sheet.text(&format!(",\"kind\":\"{}\",\"action\":", span.kind.as_str()));
    sheet.quoted(&span.name);
    sheet.text(&format!(",\"service\":\"{}\",\"startTime\":", span.service));
    sheet.site(span, Site::MicrosText(span.start_us));
    sheet.text(&format!(",\"durationMs\":{:.3},\"observed\":{{", span.duration_us as f64 / 1e3));
    for (index, (name, value)) in span.tags.iter().enumerate() {
        if index > 0 {
            sheet.text(",");
        }
        sheet.quoted(name);
        sheet.text(":");
        match value {
            Value::Text(text) => sheet.quoted(text),
            Value::Int(number) => sheet.text(&number.to_string()),
            Value::Bool(truth) => sheet.text(&truth.to_string()),
        }
    }
    sheet.text("}");
    if let Some(exception) = &span.exception {
        sheet.text(",\"error\":{\"class\":");
        sheet.quoted(exception.class);
        sheet.text(",\"message\":");
        sheet.quoted(&exception.message);
        sheet.text(",\"stack\":");
        sheet.quoted(&exception.stacktrace);
        sheet.text("}");
    }
    sheet.text("}");
}
