//! `OtlpJson`: `ExportTraceServiceRequest` (and `TracesData`, its twin) as JSON.
//!
//! A span's text is kept byte for byte; only before its closing brace the members `resource` and `scope` are
//! added, their texts verbatim, too. Ids are hexadecimal in OTLP/JSON, in either case: such a trace id becomes
//! lower case as a column, so that one id is one id. A span with an id of zeros only is rejected. Where a key of
//! a span occurs twice the last one counts; in the envelope that is an error of the message, so that no span
//! vanishes. Members of the envelope that OTLP does not know are skipped.

use std::borrow::Cow;

use super::json::scalar;
use super::number::integer;
use super::otlp_proto::{KINDS, kind_name};
use super::output::Output;
use super::scan::{Scanner, Syntax};
use crate::span::{SpanDefect, SpanRef};

/// OTLP has it that only the lower camel case of a field's name is one: what stands below another spelling must not
/// vanish as an unknown member would.
const PROTO_NAME: &str = "resource_spans or scope_spans, which OTLP/JSON spells resourceSpans and scopeSpans; \
                          opentelemetry-cpp does so with use_json_name";

/// Decodes a whole message.
pub(super) fn decode(text: &str, output: &mut Output<'_>) -> Result<(), Syntax> {
    let mut scanner = Scanner::new(text);
    let mut seen = false;
    scanner.object(0, |scanner, key| {
        if key == "resource_spans" {
            return Err(scanner.error(PROTO_NAME));
        }
        if key != "resourceSpans" {
            return scanner.skip_value(1);
        }
        once(scanner, &mut seen)?;
        list_or_null(scanner, 1, |scanner| {
            within(scanner, 2, "resource", "scopeSpans", |scanner, resource| {
                list_or_null(scanner, 3, |scanner| {
                    within(scanner, 4, "scope", "spans", |scanner, scope| {
                        list_or_null(scanner, 5, |scanner| span(scanner, resource, scope, output))
                    })
                })
            })
        })
    })?;
    if !seen {
        return Err(scanner.error("there is no resourceSpans"));
    }
    scanner.finish()
}

fn once(scanner: &Scanner<'_>, seen: &mut bool) -> Result<(), Syntax> {
    if std::mem::replace(seen, true) {
        return Err(scanner.error("a member of the envelope occurs twice"));
    }
    Ok(())
}

/// Some exporters write an empty list as `null`.
fn list_or_null<'a>(
    scanner: &mut Scanner<'a>,
    level: u32,
    element: impl FnMut(&mut Scanner<'a>) -> Result<(), Syntax>,
) -> Result<(), Syntax> {
    match scanner.peek() {
        Some(b'n') => scanner.skip_value(level),
        _ => scanner.list(level, element),
    }
}

/// Whether a raw list has elements. What is no list counts as one that has.
fn has_elements(list: &str) -> bool {
    let inner = list.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    list != "null" && inner.is_none_or(|inner| !inner.trim_ascii().is_empty())
}

/// Consumes an object that has one member which its list needs, in either order: `list` is called with the text
/// of `common`, at the value of `list_key`.
fn within<'a>(
    scanner: &mut Scanner<'a>,
    level: u32,
    common_key: &str,
    list_key: &str,
    mut list: impl FnMut(&mut Scanner<'a>, &'a str) -> Result<(), Syntax>,
) -> Result<(), Syntax> {
    let (mut common, mut list_at, mut done) = (None, None, false);
    let (mut has_list, mut has_retired) = (false, false);
    scanner.object(level, |scanner, key| {
        if key == common_key {
            once(scanner, &mut common.is_some())?;
            common = Some(scanner.value(level + 1)?);
            return Ok(());
        }
        match key {
            "instrumentationLibrarySpans" | "instrumentation_library_spans" => {
                has_retired |= has_elements(scanner.value(level + 1)?);
                return Ok(());
            }
            "scope_spans" => return Err(scanner.error(PROTO_NAME)),
            _ => {}
        }
        if key != list_key {
            return scanner.skip_value(level + 1);
        }
        once(scanner, &mut list_at.is_some())?;
        scanner.peek();
        let start = scanner.position();
        list_at = Some(start);
        match common {
            Some(common) => {
                done = true;
                list(scanner, common)?;
            }
            None => scanner.skip_value(level + 1)?,
        }
        has_list = has_elements(scanner.since(start));
        Ok(())
    })?;
    // Where both have elements OTLP has it that they are the same spans.
    if has_retired && !has_list {
        return Err(scanner.error("instrumentationLibrarySpans, removed from OTLP in 2022"));
    }
    if let (Some(list_at), false) = (list_at, done) {
        let end = scanner.position();
        scanner.seek(list_at);
        list(scanner, common.unwrap_or("{}"))?;
        scanner.seek(end);
    }
    Ok(())
}

fn span(
    scanner: &mut Scanner<'_>,
    resource: &str,
    scope: &str,
    output: &mut Output<'_>,
) -> Result<(), Syntax> {
    scanner.peek();
    let start = scanner.position();
    let (mut trace_id, mut span_id, mut kind, mut empty) = ("", "", "", true);
    scanner.object(6, |scanner, key| {
        empty = false;
        match key {
            "traceId" => trace_id = scanner.value(7)?,
            "spanId" => span_id = scanner.value(7)?,
            "kind" => kind = scanner.value(7)?,
            _ => scanner.skip_value(7)?,
        }
        Ok::<(), Syntax>(())
    })?;
    let text = scanner.since(start);
    let write = |out: &mut String| {
        out.push_str(&text[..text.len() - 1]);
        out.push_str(if empty { "\"resource\":" } else { ",\"resource\":" });
        out.push_str(resource);
        out.push_str(",\"scope\":");
        out.push_str(scope);
        out.push('}');
        Ok(())
    };
    let (Some(mut trace_id), Some(kind)) = (scalar(trace_id), scalar(kind)) else {
        let mut body = String::new();
        write(&mut body)?;
        output.half_surrogate(body);
        return Ok(());
    };
    // Anything else, such as base64, which some encoders write, means another id in another case.
    let is_hex = trace_id.bytes().all(|byte| byte.is_ascii_hexdigit());
    if is_hex && trace_id.bytes().any(|byte| byte.is_ascii_uppercase()) {
        trace_id = Cow::Owned(trace_id.to_ascii_lowercase());
    }
    let kind = match integer(&kind) {
        Some(number) => u64::try_from(number).map_or("", kind_name),
        None => kind.strip_prefix("SPAN_KIND_").filter(|name| KINDS.contains(name)).unwrap_or_default(),
    };
    let has_zero_id = is_zero(&trace_id) || scalar(span_id).is_some_and(|id| is_zero(&id));
    output.written(&trace_id, kind, has_zero_id.then_some(SpanDefect::ZeroId), write)
}

/// Whether an id is of zeros only, which OTLP calls invalid.
fn is_zero(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|digit| digit == b'0')
}

/// Whether a span that could not be a row has an id of zeros, as it had then.
pub(super) fn has_zero_id(before: SpanRef<'_>) -> bool {
    let mut span_id = "";
    // A body was valid JSON as a part of its message; what is none has no id.
    let _ = Scanner::new(before.body).object(0, |scanner, key| {
        let value = scanner.value(1)?;
        if key == "spanId" {
            span_id = value;
        }
        Ok::<(), Syntax>(())
    });
    is_zero(before.trace_id) || scalar(span_id).is_some_and(|id| is_zero(&id))
}
