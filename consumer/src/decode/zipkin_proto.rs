//! `ZipkinProto`: `ListOfSpans` of `zipkin.proto3`, to Zipkin v2 JSON.
//!
//! Field numbers: zipkin-api, `zipkin.proto`. Member names: the OpenAPI document of the Zipkin v2 API. Names,
//! times and tags are exact: nothing is lower-cased, rounded or cut. Unknown fields are skipped. Two things are as
//! Zipkin's own reader has them, because senders rely on it: a parent id of zeros is none, and an address is told by its
//! length, in whichever of the two fields it is; one of another length is left out, as a port beyond 65535 is. A
//! message of another format is told by its ids: none of Zipkin's is longer than 16 bytes, or 8 for a span's, and
//! every span has one. Zipkin's older thrift encoding (v1), deprecated in its senders, is not read: such a message
//! becomes a dead letter.

use std::fmt::Write;
use std::net::{Ipv4Addr, Ipv6Addr};

use super::output::Output;
use super::wire::{Embedded, Fields, Stretch, WireError};
use super::write::{self, Members, name};

const KINDS: [&str; 5] = ["", "CLIENT", "SERVER", "PRODUCER", "CONSUMER"];

/// Decodes a whole message.
pub(super) fn decode(payload: &[u8], output: &mut Output<'_>) -> Result<(), WireError> {
    let mut trace_id = String::new();
    let mut seen = false;
    for field in Fields::new(payload) {
        let (1, value) = field? else { continue };
        seen = true;
        let span = Span::read(value.bytes()?)?;
        trace_id.clear();
        write::hex(&mut trace_id, span.trace_id);
        output.written(&trace_id, span.kind(), None, |out| span.write(out, &trace_id))?;
    }
    // Unknown fields alone are another format's message, which must not vanish as one without spans.
    if seen { Ok(()) } else { Err(WireError("there are no spans")) }
}

#[derive(Default)]
struct Span<'a> {
    message: &'a [u8],
    trace_id: &'a [u8],
    parent_id: &'a [u8],
    id: &'a [u8],
    kind: u64,
    name: &'a str,
    timestamp: u64,
    duration: u64,
    local: Embedded<'a>,
    remote: Embedded<'a>,
    annotations: Stretch,
    tags: Stretch,
    debug: bool,
    shared: bool,
}

impl<'a> Span<'a> {
    fn read(message: &'a [u8]) -> Result<Self, WireError> {
        let mut span = Self { message, ..Self::default() };
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next() {
            match field? {
                (1, value) => span.trace_id = value.id(16)?,
                (2, value) => span.parent_id = value.id(8)?,
                (3, value) => span.id = value.id(8)?,
                (4, value) => span.kind = value.varint()?,
                (5, value) => span.name = value.text()?,
                (6, value) => span.timestamp = value.fixed64()?,
                (7, value) => span.duration = value.varint()?,
                (8, value) => span.local.merge(value.bytes()?),
                (9, value) => span.remote.merge(value.bytes()?),
                (10, _) => fields.note(&mut span.annotations),
                (11, _) => fields.note(&mut span.tags),
                (12, value) => span.debug = value.varint()? != 0,
                (13, value) => span.shared = value.varint()? != 0,
                _ => {}
            }
        }
        if span.id.is_empty() && !matches!(span.trace_id.len(), 8 | 16) {
            return Err(WireError("a span has neither an id nor a trace id of 8 or 16 bytes"));
        }
        Ok(span)
    }

    /// The kind's name; unspecified and unknown ones are empty.
    fn kind(&self) -> &'static str {
        usize::try_from(self.kind).ok().and_then(|kind| KINDS.get(kind)).copied().unwrap_or_default()
    }

    fn write(&self, out: &mut String, trace_id: &str) -> Result<(), WireError> {
        let mut members = Members::open(out);
        members.text(name!("traceId"), trace_id);
        members.parent_id(name!("parentId"), self.parent_id);
        members.id(name!("id"), self.id);
        members.text(name!("kind"), self.kind());
        members.text(name!("name"), self.name);
        members.number(name!("timestamp"), self.timestamp);
        members.number(name!("duration"), self.duration);
        for (key, message) in [(name!("localEndpoint"), &self.local), (name!("remoteEndpoint"), &self.remote)]
        {
            if let Some(message) = message.get() {
                endpoint(members.key(key), message)?;
            }
        }
        if !self.annotations.is_empty() {
            let annotations = self.annotations.elements(self.message, 10);
            write::list(members.key(name!("annotations")), annotations, annotation)?;
        }
        if !self.tags.is_empty() {
            tags(members.key(name!("tags")), self.tags.elements(self.message, 11))?;
        }
        for (key, set) in [(name!("debug"), self.debug), (name!("shared"), self.shared)] {
            if set {
                members.key(key).push_str("true");
            }
        }
        members.close();
        Ok(())
    }
}

fn endpoint(out: &mut String, message: &[u8]) -> Result<(), WireError> {
    let (mut name, mut port, mut addresses) = ("", 0, Addresses::default());
    for field in Fields::new(message) {
        match field? {
            (1, value) => name = value.text()?,
            (2 | 3, value) => addresses.add(value.bytes()?),
            (4, value) => port = value.varint()?,
            _ => {}
        }
    }
    let mut members = Members::open(out);
    members.text(name!("serviceName"), name);
    // Writing to a String cannot fail.
    if let Some(address) = addresses.ipv4 {
        let _ = write!(members.key(name!("ipv4")), "\"{address}\"");
    }
    if let Some(address) = addresses.ipv6 {
        let _ = write!(members.key(name!("ipv6")), "\"{address}\"");
    }
    // Its field has 32 bits. Zipkin's readers refuse a number that is no port, and the whole trace with it.
    if let Ok(port) = u16::try_from(port as i32) {
        members.number(name!("port"), u64::from(port));
    }
    members.close();
    Ok(())
}

/// An endpoint's addresses. Go's clients write one of IPv4 with the 16 bytes that stand for it in IPv6.
#[derive(Default)]
struct Addresses {
    ipv4: Option<Ipv4Addr>,
    ipv6: Option<Ipv6Addr>,
}

impl Addresses {
    fn add(&mut self, bytes: &[u8]) {
        if let Ok(octets) = <[u8; 4]>::try_from(bytes) {
            self.ipv4 = Some(octets.into());
        } else if let Ok(octets) = <[u8; 16]>::try_from(bytes) {
            let address = Ipv6Addr::from(octets);
            match address.to_ipv4_mapped() {
                Some(address) => self.ipv4 = Some(address),
                None => self.ipv6 = Some(address),
            }
        }
    }
}

fn annotation(out: &mut String, message: &[u8]) -> Result<(), WireError> {
    let (mut timestamp, mut text) = (0, "");
    for field in Fields::new(message) {
        match field? {
            (1, value) => timestamp = value.fixed64()?,
            (2, value) => text = value.text()?,
            _ => {}
        }
    }
    let mut members = Members::open(out);
    write::integer(members.key(name!("timestamp")), timestamp);
    write::string(members.key(name!("value")), text);
    members.close();
    Ok(())
}

/// A map. A key that occurs twice is written twice: the last one counts for readers, as in protobuf.
fn tags<'a>(
    out: &mut String,
    entries: impl Iterator<Item = Result<&'a [u8], WireError>>,
) -> Result<(), WireError> {
    out.push('{');
    for (index, entry) in entries.enumerate() {
        let (mut key, mut text) = ("", "");
        for field in Fields::new(entry?) {
            match field? {
                (1, value) => key = value.text()?,
                (2, value) => text = value.text()?,
                _ => {}
            }
        }
        if index > 0 {
            out.push(',');
        }
        write::string(out, key);
        out.push(':');
        write::string(out, text);
    }
    out.push('}');
    Ok(())
}
