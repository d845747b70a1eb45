//! `JaegerProto`: one `model.Span` or one `model.Batch` of Jaeger's `model.proto`, to OTLP/JSON span objects.
//!
//! The OpenTelemetry Collector's Kafka exporter sends a message a span (`jaeger_proto`); Jaeger's own collector
//! did, too. The translation follows the Collector's (`pkg/translator/jaeger`):
//!
//! - tags are attributes; `span.kind` becomes the kind if OTLP has it, `error` = true and `otel.status_code` the status,
//!   `otel.status_description` its message, `w3c.tracestate` the trace state, `otel.scope.name` and `.version`
//!   (or `otel.library.*`) the scope: these are no attributes then;
//! - the process is the resource; its name is `service.name`, but for the one that stands for none;
//! - the parent is the first `CHILD_OF` reference to the same trace, else the first `FOLLOWS_FROM` one; every
//!   reference but a parent of the former kind is a link with `opentracing.ref_type`;
//! - a tag of a type that `model.proto` does not have is a text that says so;
//! - of the flags only *sampled* is kept;
//! - a log is an event, named by its first field `event` that is a text; warnings are the attribute `jaeger.warnings`.
//!
//! A message of another format is told by its ids: Jaeger's trace ids have 16 (or 8) bytes, and each span has an id of 8.
//!
//! Times are exact over the whole range of their types, negative ones included.

use super::jaeger_tags::{self as tags, Tag};
use super::otlp_proto::kind_name;
use super::output::Output;
use super::wire::{self, Embedded, Fields, Stretch, WireError, repeated};
use super::write::{self, Members, name};

/// The one of Jaeger's flags that OTLP has, too.
const SAMPLED: u64 = 1;

/// What the Collector writes for a resource without `service.name`, as Jaeger wants to have a name.
const NO_SERVICE_NAME: &str = "OTLPResourceNoServiceName";

/// Decodes a whole message: a `Span` has ids where a `Batch` has messages, which are never as short as ids.
pub(super) fn decode(payload: &[u8], output: &mut Output<'_>) -> Result<(), WireError> {
    let (mut first, mut second) = (None, 0);
    let mut process = Embedded::default();
    for field in Fields::new(payload) {
        match field? {
            (1, value) => first = Some(value.bytes()?.len()),
            (2, value) => {
                let bytes = value.bytes()?;
                second = bytes.len();
                process.merge(bytes);
            }
            _ => {}
        }
    }
    let mut trace_id = String::new();
    match (first, second) {
        // Unknown fields alone are another format's message, which must not vanish as one without spans.
        (None, _) => return Err(WireError("there is neither a trace id nor a span")),
        (Some(8 | 16), 8) => return one(payload, &Embedded::default(), &mut trace_id, output),
        _ => {}
    }
    for span in repeated(payload, 1) {
        one(span?, &process, &mut trace_id, output)?;
    }
    Ok(())
}

fn one(
    message: &[u8],
    batch_process: &Embedded<'_>,
    trace_id: &mut String,
    output: &mut Output<'_>,
) -> Result<(), WireError> {
    let span = Span::read(message)?;
    trace_id.clear();
    write::hex(trace_id, span.trace_id);
    let process = span.process.get().or_else(|| batch_process.get()).unwrap_or_default();
    // A kind that OTLP does not have stays an attribute, whatever its length.
    let kind = kind_name(span.meaning.otlp_kind());
    output.written(trace_id, kind, None, |out| span.write(out, trace_id, process))
}

#[derive(Default)]
struct Span<'a> {
    message: &'a [u8],
    trace_id: &'a [u8],
    span_id: &'a [u8],
    parent_span_id: &'a [u8],
    operation_name: &'a str,
    flags: u64,
    start: Embedded<'a>,
    duration: Embedded<'a>,
    process: Embedded<'a>,
    meaning: tags::Meaning<'a>,
    tags: Stretch,
    links: Stretch,
    logs: Stretch,
    warnings: Stretch,
}

impl<'a> Span<'a> {
    fn read(message: &'a [u8]) -> Result<Self, WireError> {
        let mut span = Self { message, ..Self::default() };
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next() {
            match field? {
                (1, value) => span.trace_id = value.id(16)?,
                (2, value) => span.span_id = value.id(8)?,
                (3, value) => span.operation_name = value.text()?,
                (4, _) => fields.note(&mut span.links),
                (5, value) => span.flags = value.varint()?,
                (6, value) => span.start.merge(value.bytes()?),
                (7, value) => span.duration.merge(value.bytes()?),
                (8, value) => {
                    fields.note(&mut span.tags);
                    span.meaning.note(&Tag::read(value.bytes()?)?);
                }
                (9, _) => fields.note(&mut span.logs),
                (10, value) => span.process.merge(value.bytes()?),
                (12, _) => fields.note(&mut span.warnings),
                _ => {}
            }
        }
        // Jaeger writes its ids as a whole, also those of zeros; a trace id that is missing costs its span only.
        if span.span_id.len() != 8 || !matches!(span.trace_id.len(), 0 | 8 | 16) {
            return Err(WireError("a span has no id of 8 bytes, or a trace id of neither 8 nor 16"));
        }
        if !span.links.is_empty() {
            span.parent_span_id = span.parent()?.map_or(&[][..], |parent| parent.span_id);
        }
        Ok(span)
    }

    /// The reference that is the parent.
    fn parent(&self) -> Result<Option<Reference<'a>>, WireError> {
        let mut follows = None;
        for reference in self.links.elements(self.message, 4) {
            let reference = Reference::read(reference?)?;
            if reference.trace_id != self.trace_id {
                continue;
            }
            if !reference.follows_from {
                return Ok(Some(reference));
            }
            follows = follows.or(Some(reference));
        }
        Ok(follows)
    }

    fn write(&self, out: &mut String, trace_id: &str, process: &[u8]) -> Result<(), WireError> {
        let (seconds, nanos) = seconds_and_nanos(&self.start)?;
        let start = total(seconds, nanos);
        let (seconds, nanos) = seconds_and_nanos(&self.duration)?;
        let end = start + total(seconds, nanos);
        let mut members = Members::open(out);
        members.text(name!("traceId"), trace_id);
        members.id(name!("spanId"), self.span_id);
        members.parent_id(name!("parentSpanId"), self.parent_span_id);
        members.text(name!("traceState"), self.meaning.trace_state);
        // The other bits mean something else in OTLP: Jaeger's second one is `debug`, W3C's is `random`.
        members.number(name!("flags"), self.flags & SAMPLED);
        members.text(name!("name"), self.operation_name);
        members.number(name!("kind"), self.meaning.otlp_kind());
        for (key, time) in [(name!("startTimeUnixNano"), start), (name!("endTimeUnixNano"), end)] {
            members.long(key, time);
        }
        if !(self.tags.is_empty() && self.warnings.is_empty()) {
            self.attributes(members.key(name!("attributes")))?;
        }
        if !self.logs.is_empty() {
            write::list(members.key(name!("events")), self.logs.elements(self.message, 9), event)?;
        }
        if !self.links.is_empty() {
            self.links(members.key(name!("links")))?;
        }
        self.meaning.status(members.key(name!("status")));
        resource(members.key(name!("resource")), process)?;
        self.meaning.scope(members.key(name!("scope")));
        members.close();
        Ok(())
    }

    fn attributes(&self, out: &mut String) -> Result<(), WireError> {
        let mut list = tags::List::open(out);
        for tag in self.tags.elements(self.message, 8) {
            let tag = Tag::read(tag?)?;
            if !self.meaning.has_place(&tag) {
                list.tag(&tag);
            }
        }
        if !self.warnings.is_empty() {
            let out = list.key("jaeger.warnings");
            out.push_str("{\"arrayValue\":{\"values\":");
            write::list(out, self.warnings.elements(self.message, 12), |out, warning| {
                out.push_str("{\"stringValue\":");
                write::string(out, wire::text(warning)?);
                out.push('}');
                Ok(())
            })?;
            out.push_str("}}}");
        }
        list.close();
        Ok(())
    }

    /// Every reference but a parent that the span is the child of; that it follows from it stands nowhere else.
    fn links(&self, out: &mut String) -> Result<(), WireError> {
        let parent = self.parent()?;
        let mut skipped = parent.is_none_or(|parent| parent.follows_from);
        out.push('[');
        let mut first = true;
        for reference in self.links.elements(self.message, 4) {
            let reference = Reference::read(reference?)?;
            if !skipped && Some(reference) == parent {
                skipped = true;
                continue;
            }
            if !std::mem::replace(&mut first, false) {
                out.push(',');
            }
            reference.write(out);
        }
        out.push(']');
        Ok(())
    }
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
struct Reference<'a> {
    trace_id: &'a [u8],
    span_id: &'a [u8],
    follows_from: bool,
}

impl<'a> Reference<'a> {
    fn read(message: &'a [u8]) -> Result<Self, WireError> {
        let mut reference = Self::default();
        for field in Fields::new(message) {
            match field? {
                (1, value) => reference.trace_id = value.bytes()?,
                (2, value) => reference.span_id = value.bytes()?,
                (3, value) => reference.follows_from = value.varint()? == 1,
                _ => {}
            }
        }
        Ok(reference)
    }

    fn write(&self, out: &mut String) {
        let kind = if self.follows_from { "follows_from" } else { "child_of" };
        let mut members = Members::open(out);
        members.id(name!("traceId"), self.trace_id);
        members.id(name!("spanId"), self.span_id);
        let out = members.key(name!("attributes"));
        out.push_str("[{\"key\":\"opentracing.ref_type\",\"value\":{\"stringValue\":\"");
        out.push_str(kind);
        out.push_str("\"}}]");
        members.close();
    }
}

/// `Timestamp` and `Duration`, which look alike.
fn seconds_and_nanos(message: &Embedded<'_>) -> Result<(i64, i32), WireError> {
    let (mut seconds, mut nanos) = (0, 0);
    for field in Fields::new(message.get().unwrap_or_default()) {
        match field? {
            (1, value) => seconds = value.varint()? as i64,
            (2, value) => nanos = value.varint()? as i32,
            _ => {}
        }
    }
    Ok((seconds, nanos))
}

fn total(seconds: i64, nanos: i32) -> i128 {
    i128::from(seconds) * 1_000_000_000 + i128::from(nanos)
}

fn event(out: &mut String, message: &[u8]) -> Result<(), WireError> {
    let (mut time, mut name) = (Embedded::default(), None);
    for field in Fields::new(message) {
        match field? {
            (1, value) => time.merge(value.bytes()?),
            (2, value) => {
                let tag = Tag::read(value.bytes()?)?;
                if let (None, "event", Some(text)) = (name, tag.key, tag.text()) {
                    name = Some(text);
                }
            }
            _ => {}
        }
    }
    let (seconds, nanos) = seconds_and_nanos(&time)?;
    let mut members = Members::open(out);
    members.long(name!("timeUnixNano"), total(seconds, nanos));
    members.text(name!("name"), name.unwrap_or_default());
    let mut list = tags::List::open(members.key(name!("attributes")));
    for tag in repeated(message, 2) {
        let tag = Tag::read(tag?)?;
        let is_name = tag.key == "event" && tag.text().is_some_and(|text| Some(text) == name);
        if !is_name {
            list.tag(&tag);
        }
    }
    list.close();
    members.close();
    Ok(())
}

fn resource(out: &mut String, process: &[u8]) -> Result<(), WireError> {
    let mut service_name = "";
    for field in Fields::new(process) {
        if let (1, value) = field? {
            service_name = value.text()?;
        }
    }
    let mut members = Members::open(out);
    let mut list = tags::List::open(members.key(name!("attributes")));
    if !service_name.is_empty() && service_name != NO_SERVICE_NAME {
        list.text("service.name", service_name);
    }
    for tag in repeated(process, 2) {
        list.tag(&Tag::read(tag?)?);
    }
    list.close();
    members.close();
    Ok(())
}
