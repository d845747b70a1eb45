//! From stored bodies to what readers ask for.
//!
//! A body has one of four shapes, and its own members tell which:
//!
//! | shape | sign | `GET /api/v1/traces/{traceId}` | `GET /api/v2/trace/{traceId}` |
//! |---|---|---|---|
//! | Zipkin v2 span | `traceId` of 1 to 32 and `id` of 1 to 16 hexadecimal digits | verbatim | verbatim, see [`zipkin`] |
//! | Zipkin v2 span whose trace id its message said once | such an `id`, no `traceId` (or null, or an empty one), and such a trace id in its row | verbatim | likewise, with that `traceId` |
//! | OTLP span object | `traceId` and `spanId` likewise, and no such `id` | verbatim | translated, see [`zipkin_v2`] |
//! | free JSON | none of these | verbatim | left out |
//!
//! Nothing is invented: a body without an id of its own is no Zipkin span, even where its row has a trace id.
//!
//! Zipkin's readers refuse a whole trace for one odd span: so one with an id of zeros is left out, too, and any other goes
//! without the members that they refuse.

mod otlp;
mod zipkin;

use std::borrow::Cow;

use crate::decode::scan::{Scanner, Syntax, unescape_lossy};

/// The span of a body as Zipkin v2 JSON: verbatim if it is one that readers take, with its row's trace id if it has none,
/// translated if it is an OTLP span object, nothing if it is none of these.
///
/// The translation follows the OpenTelemetry specification, "OpenTelemetry to Zipkin Transformation": times in
/// whole microseconds (a duration below one is one), events as annotations, the status as the tags
/// `otel.status_code` and `error`, the scope as `otel.scope.name` and `otel.scope.version` (and by their former names,
/// `otel.library.…`), its attributes as tags where the span has none of that name, the service's name as the local
/// endpoint, and for clients and producers the peer's attributes as the remote one. Beyond it, the resource's attributes
/// become tags likewise. Links have no place in Zipkin.
pub fn zipkin_v2<'b>(row_trace_id: &str, body: &'b str) -> Option<Cow<'b, str>> {
    let (mut trace_id, mut id, mut span_id) = ("", "", "");
    members(body, |key, value| match key {
        "traceId" => trace_id = value,
        "id" => id = value,
        "spanId" => span_id = value,
        _ => {}
    })?;
    if matches!(trace_id, "" | "null" | "\"\"") && is_id(id, 16) && is_nonzero(row_trace_id, 32) {
        let body = with_trace_id(body, trace_id, row_trace_id)?;
        let changed = match zipkin::readable(&body)? {
            Cow::Owned(changed) => Some(changed),
            Cow::Borrowed(_) => None,
        };
        Some(Cow::Owned(changed.unwrap_or(body)))
    } else if !is_id(trace_id, 32) {
        None
    } else if is_id(id, 16) {
        zipkin::readable(body)
    } else if is_id(span_id, 16) {
        otlp::to_zipkin(body).map(Cow::Owned)
    } else {
        None
    }
}

/// The body with this trace id, in the place of the raw value that stands for none.
fn with_trace_id(body: &str, none: &str, trace_id: &str) -> Option<String> {
    if none.is_empty() {
        let (_, members) = body.split_once('{')?;
        return Some(format!("{{\"traceId\":\"{trace_id}\",{members}"));
    }
    // `none` is a part of `body`.
    let start = none.as_ptr() as usize - body.as_ptr() as usize;
    let (before, after) = (body.get(..start)?, body.get(start + none.len()..)?);
    Some(format!("{before}\"{trace_id}\"{after}"))
}

/// Every form in which producers may have written the trace id that a reader asks for, the asked one first.
///
/// A hexadecimal id may be in either case, and with or without zeros before it: the OpenTelemetry Collector's Zipkin JSON
/// cuts those of the upper half off, its OTLP and Zipkin protobuf do not, and Zipkin's clients may send an id of any length.
/// One that was written in both cases at once is found as it was written, and in no other form.
pub fn trace_id_forms(asked: &str) -> Vec<String> {
    let mut forms = vec![asked.to_owned()];
    if is_digits(asked, 32) {
        let lower = asked.to_ascii_lowercase();
        let digits = lower.trim_start_matches('0');
        forms.push(lower.clone());
        forms.extend(
            [16, 32]
                .into_iter()
                .filter(|width| digits.len() <= *width)
                .map(|width| format!("{digits:0>width$}")),
        );
        forms.extend((!digits.is_empty()).then(|| digits.to_owned()));
        forms.extend(forms.iter().map(|form| form.to_ascii_uppercase()).collect::<Vec<_>>());
    }
    let mut seen = std::collections::HashSet::new();
    forms.retain(|form| seen.insert(form.clone()));
    forms
}

/// Whether a raw value is a string of 1 to `most` hexadecimal digits, not all of them zeros.
fn is_id(raw: &str, most: usize) -> bool {
    is_nonzero(raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')).unwrap_or_default(), most)
}

fn is_nonzero(text: &str, most: usize) -> bool {
    is_digits(text, most) && text.bytes().any(|digit| digit != b'0')
}

fn is_digits(text: &str, most: usize) -> bool {
    (1..=most).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit())
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

/// The content of a raw string, else the raw value itself; null is what is not there. Half a surrogate pair becomes U+FFFD.
fn content(raw: &str) -> Cow<'_, str> {
    match raw.strip_prefix('"').and_then(|rest| rest.strip_suffix('"')) {
        Some(inner) if inner.contains('\\') => Cow::Owned(unescape_lossy(inner).0),
        Some(inner) => Cow::Borrowed(inner),
        None if raw == "null" => Cow::Borrowed(""),
        None => Cow::Borrowed(raw),
    }
}
