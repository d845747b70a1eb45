//! `OtlpProto`: `ExportTraceServiceRequest` (and `TracesData`, its twin) as protobuf, to OTLP/JSON span objects.
//!
//! Field numbers are those of opentelemetry-proto 1.x, `trace/v1/trace.proto` and its imports. The bytes are
//! read in place and the JSON is written straight into the arena, nothing between. What has its default value
//! is left out, as in proto3's own JSON, except the span's two times. Fields that this list does not know are
//! skipped, as protobuf has it, where a message yields a row; where it yields none they are another format's.
//! `schema_url` is not part of a span and is skipped, too. OTLP has ids of 16 and 8 bytes, and of a trace 8 are taken, too;
//! a span with an id of another length makes the whole message an error, as it does in the OpenTelemetry Collector. An id of
//! zeros only is invalid in OTLP, too, but tells of no other format: such a span is rejected alone.

use super::otlp_values::attributes;
use super::output::Output;
use super::shape;
use super::wire::{self, Embedded, Fields, Stretch, WireError, repeated};
use super::write::{self, Members, name};
use crate::span::SpanDefect;

/// Bytes that the texts of a resource and of a scope usually have: only longer ones have to grow.
const USUAL_RESOURCE: usize = 1024;
const USUAL_SCOPE: usize = 256;

/// The names of `SpanKind`, without their prefix; unspecified and unknown ones are empty.
pub(super) const KINDS: [&str; 6] = ["", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"];

/// The name of a number of `SpanKind`.
pub(super) fn kind_name(kind: u64) -> &'static str {
    usize::try_from(kind).ok().and_then(|kind| KINDS.get(kind)).copied().unwrap_or_default()
}

/// Decodes a whole message.
pub(super) fn decode(payload: &[u8], output: &mut Output<'_>) -> Result<(), WireError> {
    let mut scratch = Scratch {
        resource: String::with_capacity(USUAL_RESOURCE),
        scope: String::with_capacity(USUAL_SCOPE),
        trace_id: String::with_capacity(32),
    };
    for field in Fields::new(payload) {
        if let (1, value) = field? {
            resource_spans(value.bytes()?, &mut scratch, output)?;
        }
    }
    // Another format's message must not vanish as one without spans, whose fields are all unknown.
    if output.has_rows() || shape::is_otlp(payload) {
        Ok(())
    } else {
        Err(WireError("there is no span with a trace id, and what there is instead is not OTLP's"))
    }
}

/// Texts that are written once and copied into many spans; kept for their memory.
struct Scratch {
    resource: String,
    scope: String,
    trace_id: String,
}

fn resource_spans(message: &[u8], scratch: &mut Scratch, output: &mut Output<'_>) -> Result<(), WireError> {
    let mut resource = Embedded::default();
    let (mut has_scope_spans, mut has_retired) = (false, false);
    for field in Fields::new(message) {
        match field? {
            (1, value) => resource.merge(value.bytes()?),
            (2, _) => has_scope_spans = true,
            (1000, _) => has_retired = true,
            _ => {}
        }
    }
    // The spans of exporters older than OTLP 0.20 must not vanish as an unknown field would. Where both are set OTLP has it
    // that they are the same spans.
    if has_retired && !has_scope_spans {
        return Err(WireError("instrumentation_library_spans, removed from OTLP in 2022"));
    }
    scratch.resource.clear();
    holder(&mut scratch.resource, resource.get().unwrap_or_default(), Holder::Resource)?;
    for field in Fields::new(message) {
        if let (2, value) = field? {
            scope_spans(value.bytes()?, scratch, output)?;
        }
    }
    Ok(())
}

fn scope_spans(message: &[u8], scratch: &mut Scratch, output: &mut Output<'_>) -> Result<(), WireError> {
    let mut scope = Embedded::default();
    for field in Fields::new(message) {
        if let (1, value) = field? {
            scope.merge(value.bytes()?);
        }
    }
    scratch.scope.clear();
    holder(&mut scratch.scope, scope.get().unwrap_or_default(), Holder::Scope)?;
    for field in Fields::new(message) {
        let (2, value) = field? else { continue };
        let span = Span::read(value.bytes()?)?;
        scratch.trace_id.clear();
        write::hex(&mut scratch.trace_id, span.trace_id);
        let Scratch { resource, scope, trace_id } = &*scratch;
        let defect = span.has_zero_id().then_some(SpanDefect::ZeroId);
        let write = |out: &mut String| span.write(out, trace_id, resource, scope);
        output.written(trace_id, kind_name(span.kind), defect, write)?;
    }
    Ok(())
}

/// What holds attributes besides spans: their fields are numbered differently.
enum Holder {
    Resource,
    Scope,
}

fn holder(out: &mut String, message: &[u8], holder: Holder) -> Result<(), WireError> {
    let mut members = Members::open(out);
    let (mut name, mut version, mut dropped) = ("", "", 0);
    let (attributes_field, dropped_field) = match holder {
        Holder::Resource => (1, 2),
        Holder::Scope => (3, 4),
    };
    let (mut has_attributes, mut has_entities) = (false, false);
    for field in Fields::new(message) {
        match field? {
            (number, _) if number == attributes_field => has_attributes = true,
            (number, value) if number == dropped_field => dropped = value.varint()?,
            (1, value) => name = value.text()?,
            (2, value) => version = value.text()?,
            // A scope's third field is its attributes.
            (3, _) => has_entities = true,
            _ => {}
        }
    }
    members.text(name!("name"), name);
    members.text(name!("version"), version);
    if has_attributes {
        attributes(members.key(name!("attributes")), repeated(message, attributes_field))?;
    }
    members.number(name!("droppedAttributesCount"), u64::from(dropped as u32));
    if has_entities {
        write::list(members.key(name!("entityRefs")), repeated(message, 3), entity)?;
    }
    members.close();
    Ok(())
}

/// An `EntityRef`: which of the attributes say what the resource is.
fn entity(out: &mut String, message: &[u8]) -> Result<(), WireError> {
    let (mut schema_url, mut kind) = ("", "");
    let (mut has_id, mut has_description) = (false, false);
    for field in Fields::new(message) {
        match field? {
            (1, value) => schema_url = value.text()?,
            (2, value) => kind = value.text()?,
            (3, _) => has_id = true,
            (4, _) => has_description = true,
            _ => {}
        }
    }
    let mut members = Members::open(out);
    members.text(name!("schemaUrl"), schema_url);
    members.text(name!("type"), kind);
    for (key, number, occurs) in
        [(name!("idKeys"), 3, has_id), (name!("descriptionKeys"), 4, has_description)]
    {
        if occurs {
            write::list(members.key(key), repeated(message, number), |out, text| {
                write::string(out, wire::text(text)?);
                Ok(())
            })?;
        }
    }
    members.close();
    Ok(())
}

/// The fields of a `Span` that occur once; those that repeat are read again when they are written.
#[derive(Default)]
struct Span<'a> {
    message: &'a [u8],
    trace_id: &'a [u8],
    span_id: &'a [u8],
    trace_state: &'a str,
    parent_span_id: &'a [u8],
    name: &'a str,
    kind: u64,
    start: u64,
    end: u64,
    dropped_attributes: u64,
    dropped_events: u64,
    dropped_links: u64,
    flags: u32,
    status: Embedded<'a>,
    attributes: Stretch,
    events: Stretch,
    links: Stretch,
}

impl<'a> Span<'a> {
    fn read(message: &'a [u8]) -> Result<Self, WireError> {
        let mut span = Self { message, ..Self::default() };
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next() {
            match field? {
                (1, value) => span.trace_id = value.bytes()?,
                (2, value) => span.span_id = value.bytes()?,
                (3, value) => span.trace_state = value.text()?,
                (4, value) => span.parent_span_id = value.bytes()?,
                (5, value) => span.name = value.text()?,
                (6, value) => span.kind = value.varint()?,
                (7, value) => span.start = value.fixed64()?,
                (8, value) => span.end = value.fixed64()?,
                (9, _) => fields.note(&mut span.attributes),
                (10, value) => span.dropped_attributes = value.varint()?,
                (11, _) => fields.note(&mut span.events),
                (12, value) => span.dropped_events = value.varint()?,
                (13, _) => fields.note(&mut span.links),
                (14, value) => span.dropped_links = value.varint()?,
                (15, value) => span.status.merge(value.bytes()?),
                (16, value) => span.flags = value.fixed32()?,
                _ => {}
            }
        }
        shape::check_otlp_ids(span.trace_id, span.span_id, span.parent_span_id)?;
        Ok(span)
    }

    /// Zeros are what a span has that was never sampled, or was copied wrongly. One that is absent is something else.
    fn has_zero_id(&self) -> bool {
        let is_zero = |id: &[u8]| !id.is_empty() && id.iter().all(|byte| *byte == 0);
        is_zero(self.trace_id) || is_zero(self.span_id)
    }

    fn write(&self, out: &mut String, trace_id: &str, resource: &str, scope: &str) -> Result<(), WireError> {
        let mut members = Members::open(out);
        members.text(name!("traceId"), trace_id);
        members.id(name!("spanId"), self.span_id);
        members.parent_id(name!("parentSpanId"), self.parent_span_id);
        members.text(name!("traceState"), self.trace_state);
        members.number(name!("flags"), u64::from(self.flags));
        members.text(name!("name"), self.name);
        enumeration(&mut members, name!("kind"), self.kind);
        members.long(name!("startTimeUnixNano"), self.start);
        members.long(name!("endTimeUnixNano"), self.end);
        if !self.attributes.is_empty() {
            attributes(members.key(name!("attributes")), self.attributes.elements(self.message, 9))?;
        }
        members.number(name!("droppedAttributesCount"), u64::from(self.dropped_attributes as u32));
        if !self.events.is_empty() {
            write::list(members.key(name!("events")), self.events.elements(self.message, 11), event)?;
        }
        members.number(name!("droppedEventsCount"), u64::from(self.dropped_events as u32));
        if !self.links.is_empty() {
            write::list(members.key(name!("links")), self.links.elements(self.message, 13), link)?;
        }
        members.number(name!("droppedLinksCount"), u64::from(self.dropped_links as u32));
        if let Some(message) = self.status.get() {
            status(members.key(name!("status")), message)?;
        }
        members.key(name!("resource")).push_str(resource);
        members.key(name!("scope")).push_str(scope);
        members.close();
        Ok(())
    }
}

/// An enum as its number, a 32-bit one that may be negative, unless it is zero.
fn enumeration(members: &mut Members<'_>, key: &str, value: u64) {
    if value as i32 != 0 {
        write::integer(members.key(key), i64::from(value as i32));
    }
}

fn event(out: &mut String, message: &[u8]) -> Result<(), WireError> {
    let (mut time, mut name, mut dropped, mut has_attributes) = (0, "", 0, false);
    for field in Fields::new(message) {
        match field? {
            (1, value) => time = value.fixed64()?,
            (2, value) => name = value.text()?,
            (3, _) => has_attributes = true,
            (4, value) => dropped = value.varint()?,
            _ => {}
        }
    }
    let mut members = Members::open(out);
    members.long(name!("timeUnixNano"), time);
    members.text(name!("name"), name);
    if has_attributes {
        attributes(members.key(name!("attributes")), repeated(message, 3))?;
    }
    members.number(name!("droppedAttributesCount"), u64::from(dropped as u32));
    members.close();
    Ok(())
}

fn link(out: &mut String, message: &[u8]) -> Result<(), WireError> {
    let mut members = Members::open(out);
    let (mut trace_id, mut span_id, mut trace_state): (&[u8], &[u8], _) = (&[], &[], "");
    let (mut dropped, mut flags, mut has_attributes) = (0, 0, false);
    for field in Fields::new(message) {
        match field? {
            (1, value) => trace_id = value.bytes()?,
            (2, value) => span_id = value.bytes()?,
            (3, value) => trace_state = value.text()?,
            (4, _) => has_attributes = true,
            (5, value) => dropped = value.varint()?,
            (6, value) => flags = value.fixed32()?,
            _ => {}
        }
    }
    members.id(name!("traceId"), trace_id);
    members.id(name!("spanId"), span_id);
    members.text(name!("traceState"), trace_state);
    if has_attributes {
        attributes(members.key(name!("attributes")), repeated(message, 4))?;
    }
    members.number(name!("droppedAttributesCount"), u64::from(dropped as u32));
    members.number(name!("flags"), u64::from(flags));
    members.close();
    Ok(())
}

fn status(out: &mut String, message: &[u8]) -> Result<(), WireError> {
    let (mut text, mut code) = ("", 0);
    for field in Fields::new(message) {
        match field? {
            (2, value) => text = value.text()?,
            (3, value) => code = value.varint()?,
            _ => {}
        }
    }
    let mut members = Members::open(out);
    members.text(name!("message"), text);
    enumeration(&mut members, name!("code"), code);
    members.close();
    Ok(())
}
