//! From stored bodies to what readers ask for.
//!
//! A body has one of three shapes, and its own members tell which:
//!
//! | shape | sign | `GET /api/v1/traces/{traceId}` | `GET /api/v2/trace/{traceId}` |
//! |---|---|---|---|
//! | Zipkin v2 span | `traceId` of 1 to 32 and `id` of 1 to 16 hexadecimal digits | verbatim | verbatim |
//! | OTLP span object | `traceId` and `spanId` likewise, and no such `id` | verbatim | translated, see [`zipkin_v2`] |
//! | free JSON | neither | verbatim | left out |
//!
//! Nothing is invented: a body without ids of its own is no Zipkin span, even where its row has a trace id.

mod otlp;

use std::borrow::Cow;

use crate::decode::scan::{Scanner, Syntax, unescape_lossy};

/// The span of a body as Zipkin v2 JSON: verbatim if it is one, translated if it is an OTLP span object, nothing
/// if it is neither.
///
/// The translation follows the OpenTelemetry specification, "OpenTelemetry to Zipkin Transformation": times in
/// whole microseconds (a duration below one is one), events as annotations, the status as the tags
/// `otel.status_code` and `error`, the scope as `otel.scope.name` and `otel.scope.version`, the service's name
/// as the local endpoint, and for clients and producers the peer's attributes as the remote one. Beyond it, the
/// resource's attributes become tags where the span has none of that name. Links have no place in Zipkin.
pub fn zipkin_v2(body: &str) -> Option<Cow<'_, str>> {
    let (mut trace_id, mut id, mut span_id) = ("", "", "");
    members(body, |key, value| match key {
        "traceId" => trace_id = value,
        "id" => id = value,
        "spanId" => span_id = value,
        _ => {}
    })?;
    if !is_id(trace_id, 32) {
        None
    } else if is_id(id, 16) {
        Some(Cow::Borrowed(body))
    } else if is_id(span_id, 16) {
        otlp::to_zipkin(body).map(Cow::Owned)
    } else {
        None
    }
}

/// Every form in which producers may have written the trace id that a reader asks for, the asked one first.
///
/// A hexadecimal id may be in either case, and one of 128 bits whose upper half is zero is one of 64 bits to
/// some: the OpenTelemetry Collector's Zipkin JSON cuts the zeros off, its OTLP and Zipkin protobuf do not.
pub fn trace_id_forms(asked: &str) -> Vec<String> {
    let mut forms = vec![asked.to_owned()];
    if (1..=32).contains(&asked.len()) && asked.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        let lower = asked.to_ascii_lowercase();
        let digits = lower.trim_start_matches('0');
        let padded = [16, 32].into_iter().filter(|width| digits.len() <= *width);
        forms.extend(padded.map(|width| format!("{digits:0>width$}")));
        forms.insert(1, lower);
    }
    let mut seen = std::collections::HashSet::new();
    forms.retain(|form| seen.insert(form.clone()));
    forms
}

/// Whether a raw value is a string of 1 to `most` hexadecimal digits.
fn is_id(raw: &str, most: usize) -> bool {
    let digits = raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default();
    (1..=most).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// Calls `member` with each key and raw value of an object; `None` if the text is no object.
fn members<'a>(text: &'a str, mut member: impl FnMut(&str, &'a str)) -> Option<()> {
    let mut scanner = Scanner::new(text);
    scanner
        .object(0, |scanner, key| {
            member(key, scanner.value(1)?);
            Ok::<(), Syntax>(())
        })
        .ok()
}

/// The raw elements of a list; none if the text is no list.
fn elements(text: &str) -> Vec<&str> {
    let mut elements = Vec::new();
    let mut scanner = Scanner::new(text);
    let outcome = scanner.list(0, |scanner| {
        elements.push(scanner.value(1)?);
        Ok::<(), Syntax>(())
    });
    if outcome.is_ok() { elements } else { Vec::new() }
}

/// The content of a raw string, else the raw value itself. Half a surrogate pair becomes U+FFFD.
fn content(raw: &str) -> Cow<'_, str> {
    match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) if inner.contains('\\') => Cow::Owned(unescape_lossy(inner).0),
        Some(inner) => Cow::Borrowed(inner),
        None => Cow::Borrowed(raw),
    }
}
