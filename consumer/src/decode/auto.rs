//! `Auto`: recognises the format message by message.
//!
//! **The rule.** A message whose first character after white space is `{` or `[` is JSON:
//!
//! - an object with a member `resourceSpans` is OTLP;
//! - else an object where `json.spans` leads to something is `Json`;
//! - else an object with the strings `traceId` and `id` is one Zipkin span, and a list in which every element
//!   is one is a list of Zipkin spans;
//! - where `json.spans` is empty the message *is* a span or a list of spans: every object that is not OTLP and
//!   every list is `Json` then.
//!
//! Anything else is protobuf. The formats' first fields look alike, so wire types and the lengths of ids decide,
//! and every span must fit:
//!
//! - Jaeger: ids of 16 (or 8) and 8 bytes in fields 1 and 2, a start time in field 6 that is a *message*; in
//!   the root (`Span`), or in each field 1 of a root that has only fields 1 and 2 (`Batch`);
//! - OTLP: each field 1 of the root holds `resource`, `scope_spans` and `schema_url`; the resource holds attributes,
//!   of keys and values, where the others have 16 or 8 bytes of an id. Where there is a span with its two ids the resource
//!   may be without attributes, and fields that OTLP does not have yet may stand anywhere: it grows, and readers skip what
//!   they do not know;
//! - Zipkin: each field 1 of the root has ids of 16 or 8 and 8 bytes in fields 1 and 3, and a time in field 6,
//!   if any, that is a *fixed64*. Where it has nothing beyond ids these are no resource and schema of OTLP's.
//!
//! Jaeger's and Zipkin's definitions are frozen and checked to the last field. What fits nothing is
//! [`Unknown`](super::DecodeError::Unknown), never a guess: Zipkin thrift, Jaeger JSON and Avro, for example.

use super::BYTE_ORDER_MARK;
use super::json::{self, Message, Paths, path};
use super::output::Output;
use super::scan::{Scanner, Syntax};
use super::shape::{is_jaeger_span, is_resource_spans, is_zipkin_span};
use super::wire::{Fields, Value};

/// What a JSON message turned out to be.
pub(super) enum Found {
    /// Decoded: its spans are in the output.
    Done,
    /// OTLP: forget what is in the output and decode again.
    Otlp,
    /// One Zipkin span: likewise.
    ZipkinSpan,
    /// Nothing known: likewise.
    Nothing,
}

/// Whether a message begins as JSON does.
pub(super) fn looks_like_json(payload: &[u8]) -> bool {
    let payload = payload.strip_prefix(BYTE_ORDER_MARK).unwrap_or(payload);
    matches!(payload.trim_ascii_start().first(), Some(b'{' | b'['))
}

/// Decodes a JSON message in the same pass that recognises it, except where it is an object that the first
/// key does not give away.
pub(super) fn json(
    text: &str,
    paths: &Paths,
    zipkin: &Paths,
    output: &mut Output<'_>,
) -> Result<Found, Syntax> {
    let mut scanner = Scanner::new(text);
    if scanner.peek() == Some(b'[') {
        if paths.spans_at_root {
            Message::read(text, paths, 0, 0, output)?;
            return Ok(Found::Done);
        }
        let message = Message::read(text, zipkin, 0, path::TRACE_ID | path::ID, output)?;
        return Ok(if message.misfit { Found::Nothing } else { Found::Done });
    }
    if first_key(&mut scanner) == Some("resourceSpans") {
        return Ok(Found::Otlp);
    }
    let watch = path::RESOURCE_SPANS | path::ID | path::ZIPKIN_TRACE_ID;
    let message = Message::read(text, paths, watch, 0, output)?;
    let is_string = |path| json::at(&message.root, path).starts_with('"');
    Ok(if !json::at(&message.root, path::RESOURCE_SPANS).is_empty() {
        Found::Otlp
    } else if message.spans_seen {
        Found::Done
    } else if is_string(path::ID) && is_string(path::ZIPKIN_TRACE_ID) {
        Found::ZipkinSpan
    } else {
        Found::Nothing
    })
}

fn first_key<'a>(scanner: &mut Scanner<'a>) -> Option<&'a str> {
    scanner.expect(b'{', "").ok()?;
    if scanner.peek() == Some(b'"') { scanner.string().ok() } else { None }
}

/// The protobuf formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Proto {
    Otlp,
    Zipkin,
    Jaeger,
}

/// Which protobuf format a message has.
pub(super) fn proto(payload: &[u8]) -> Option<Proto> {
    if is_jaeger_span(payload) {
        return Some(Proto::Jaeger);
    }
    let mut format = None;
    let (mut processes, mut unknown) = (0, 0);
    for field in Fields::new(payload) {
        match field.ok()? {
            (1, Value::Bytes(element)) => match format {
                None => format = Some(element_format(element)?),
                Some(Proto::Jaeger) if is_jaeger_span(element) => {}
                Some(Proto::Zipkin) if is_zipkin_span(element) => {}
                Some(Proto::Otlp) if is_resource_spans(element) => {}
                Some(_) => return None,
            },
            (2, Value::Bytes(_)) => processes += 1,
            (3.., _) => unknown += 1,
            _ => return None,
        }
    }
    format.filter(|format| match format {
        Proto::Jaeger => unknown == 0,
        Proto::Otlp => processes == 0,
        Proto::Zipkin => processes == 0 && unknown == 0,
    })
}

fn element_format(element: &[u8]) -> Option<Proto> {
    if is_jaeger_span(element) {
        Some(Proto::Jaeger)
    } else if is_zipkin_span(element) {
        Some(Proto::Zipkin)
    } else if is_resource_spans(element) {
        Some(Proto::Otlp)
    } else {
        None
    }
}
