//! Jaeger's typed tags: those with a place of their own in OTLP, and the rest as attributes.

use super::otlp_proto::KINDS;
use super::wire::{Fields, WireError};
use super::write::{self, Members, name};

/// One `model.KeyValue`. Only the value that its type names counts.
#[derive(Clone, Copy, Default)]
pub(super) struct Tag<'a> {
    pub(super) key: &'a str,
    value_type: u64,
    text: &'a str,
    boolean: bool,
    integer: i64,
    double: f64,
    binary: &'a [u8],
}

impl<'a> Tag<'a> {
    pub(super) fn read(message: &'a [u8]) -> Result<Self, WireError> {
        let mut tag = Self::default();
        for field in Fields::new(message) {
            match field? {
                (1, value) => tag.key = value.text()?,
                (2, value) => tag.value_type = value.varint()?,
                (3, value) => tag.text = value.text()?,
                (4, value) => tag.boolean = value.varint()? != 0,
                (5, value) => tag.integer = value.varint()? as i64,
                (6, value) => tag.double = f64::from_bits(value.fixed64()?),
                (7, value) => tag.binary = value.bytes()?,
                _ => {}
            }
        }
        Ok(tag)
    }

    /// The value, if it is a string.
    pub(super) fn text(&self) -> Option<&'a str> {
        if self.value_type == 0 { Some(self.text) } else { None }
    }

    fn is_true(&self) -> bool {
        match self.value_type {
            0 => self.text.eq_ignore_ascii_case("true"),
            1 => self.boolean,
            _ => false,
        }
    }

    fn write_value(&self, out: &mut String) {
        let mut members = Members::open(out);
        match self.value_type {
            0 => write::string(members.key(name!("stringValue")), self.text),
            1 => members.key(name!("boolValue")).push_str(if self.boolean { "true" } else { "false" }),
            2 => members.long(name!("intValue"), self.integer),
            3 => write::double(members.key(name!("doubleValue")), self.double),
            4 => write::base64(members.key(name!("bytesValue")), self.binary),
            unknown => {
                let text = format!("<unknown Jaeger tag type {unknown}>");
                write::string(members.key(name!("stringValue")), &text);
            }
        }
        members.close();
    }
}

/// What a span's tags say that OTLP keeps elsewhere. Where a tag occurs twice the last one counts.
#[derive(Default)]
pub(super) struct Meaning<'a> {
    /// As it was written, mostly lower case.
    kind: &'a str,
    pub(super) trace_state: &'a str,
    error: bool,
    status_code: &'a str,
    status_message: &'a str,
    scope_name: &'a str,
    scope_version: &'a str,
}

impl<'a> Meaning<'a> {
    /// Takes note of one tag.
    pub(super) fn note(&mut self, tag: &Tag<'a>) {
        if tag.key == "error" {
            self.error = tag.is_true();
            return;
        }
        let Some(text) = tag.text() else { return };
        match tag.key {
            "span.kind" => self.kind = text,
            "w3c.tracestate" => self.trace_state = text,
            "otel.status_code" => self.status_code = text,
            "otel.status_description" => self.status_message = text,
            "otel.scope.name" | "otel.library.name" => self.scope_name = text,
            "otel.scope.version" | "otel.library.version" => self.scope_version = text,
            _ => {}
        }
    }

    /// Whether a tag has its place elsewhere, exactly as it is, and so is no attribute.
    pub(super) fn has_place(&self, tag: &Tag<'_>) -> bool {
        if tag.key == "error" {
            return self.error && tag.is_true();
        }
        let Some(text) = tag.text() else { return false };
        match tag.key {
            "span.kind" => text == self.kind && self.otlp_kind() != 0,
            "w3c.tracestate" => text == self.trace_state,
            "otel.status_code" => text == self.status_code && self.status_number() != 0,
            "otel.status_description" => text == self.status_message,
            "otel.scope.name" | "otel.library.name" => text == self.scope_name,
            "otel.scope.version" | "otel.library.version" => text == self.scope_version,
            _ => false,
        }
    }

    /// OTLP's number of the kind, 0 where it has none.
    pub(super) fn otlp_kind(&self) -> u64 {
        KINDS.iter().position(|name| name.eq_ignore_ascii_case(self.kind)).unwrap_or_default() as u64
    }

    fn status_number(&self) -> u64 {
        match self.status_code {
            "OK" | "Ok" | "ok" => 1,
            "ERROR" | "Error" | "error" => 2,
            _ => 0,
        }
    }

    /// Writes the status; `error` outweighs `otel.status_code`.
    pub(super) fn status(&self, out: &mut String) {
        let mut members = Members::open(out);
        members.text(name!("message"), self.status_message);
        members.number(name!("code"), if self.error { 2 } else { self.status_number() });
        members.close();
    }

    /// Writes the scope.
    pub(super) fn scope(&self, out: &mut String) {
        let mut members = Members::open(out);
        members.text(name!("name"), self.scope_name);
        members.text(name!("version"), self.scope_version);
        members.close();
    }
}

/// A list of OTLP attributes.
pub(super) struct List<'o> {
    out: &'o mut String,
    first: bool,
}

impl<'o> List<'o> {
    pub(super) fn open(out: &'o mut String) -> Self {
        out.push('[');
        Self { out, first: true }
    }

    /// Begins an attribute; its value and a closing brace are to follow.
    pub(super) fn key(&mut self, key: &str) -> &mut String {
        if !std::mem::replace(&mut self.first, false) {
            self.out.push(',');
        }
        self.out.push_str("{\"key\":");
        write::string(self.out, key);
        self.out.push_str(",\"value\":");
        self.out
    }

    /// A string.
    pub(super) fn text(&mut self, key: &str, text: &str) {
        let out = self.key(key);
        out.push_str("{\"stringValue\":");
        write::string(out, text);
        out.push_str("}}");
    }

    /// A tag.
    pub(super) fn tag(&mut self, tag: &Tag<'_>) {
        let out = self.key(tag.key);
        tag.write_value(out);
        out.push('}');
    }

    pub(super) fn close(self) {
        self.out.push(']');
    }
}
