//! From the bytes of a message to spans.
//!
//! A decoder is a pure function: bytes in, spans out, no I/O, no panic, bounded recursion. It either
//! understands the whole message, or the message becomes one dead letter; a span that alone breaks a limit of
//! the table, or whose id its format calls invalid, becomes a dead letter of its own ([`RejectedSpan`]) and its
//! neighbours are stored.
//!
//! | format | column `kind` | body |
//! |---|---|---|
//! | `Json` | as it is | the span, byte for byte |
//! | `ZipkinJson` | as it is | the span, byte for byte |
//! | `ZipkinProto` | `SERVER`, `CLIENT`, … | Zipkin v2 JSON |
//! | `OtlpJson` | `SERVER`, `CLIENT`, …, `INTERNAL` | the span, byte for byte, with `resource` and `scope` added |
//! | `OtlpProto` | likewise | an OTLP/JSON span object with `resource` and `scope` |
//! | `JaegerProto` | the tag `span.kind` in upper case | likewise |
//!
//! Bodies are valid JSON, nested no deeper than 127 levels. JSON is checked strictly, for the whole message; what
//! the grammar allows and some readers refuse (numbers beyond a double, escaped halves of surrogate pairs) is
//! kept as it is. Numbers and times are exact everywhere.

mod auto;
mod jaeger_proto;
mod jaeger_tags;
mod json;
pub(crate) mod number;
mod otlp_json;
mod otlp_proto;
mod otlp_values;
mod output;
pub(crate) mod scan;
mod shape;
mod wire;
pub(crate) mod write;
mod zipkin_proto;

use std::borrow::Cow;

use sluice_crds::v1alpha1::{Format, JsonPaths};

pub use self::json::PathError;
use self::json::{Message, Paths};
use self::output::Output;
use crate::span::{SpanBuf, SpanDefect, SpanRef};

/// U+FEFF in UTF-8.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A span that cannot become a row; its message could be decoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RejectedSpan {
    /// Index within the message, counting from 0 over stored and rejected spans alike.
    pub index: u32,
    /// Why.
    pub defect: SpanDefect,
    /// Its trace id, of any length and with any characters; empty where there is none.
    pub trace_id: String,
    /// Its kind, likewise.
    pub kind: String,
    /// The body that it would have had.
    pub body: String,
}

/// Why a message is not what its format says.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// A value that is empty where the format needs content.
    #[error("the message is empty")]
    Empty,
    /// Broken syntax, broken UTF-8, nesting too deep.
    #[error("not valid {format}: {detail}")]
    Malformed {
        /// The format tried.
        format: &'static str,
        /// What was expected and what was found.
        detail: String,
    },
    /// The spans take far more memory than the message, because each of them repeats what it says once.
    #[error("its spans would take more than {} MiB beyond the message itself; send smaller batches, or less that every span repeats", output::MAX_ADDED_BYTES >> 20)]
    TooLarge,
    /// `Auto` recognised none of the formats.
    #[error("none of the known formats fits; set `format` to the one that the producer uses")]
    Unknown,
}

/// Decodes the messages of one pipeline.
#[derive(Clone, Debug)]
pub struct Decoder {
    format: Format,
    json: Paths,
    zipkin: Paths,
}

impl Decoder {
    /// A decoder for a format; `json` tells the `Json` format where its parts are.
    ///
    /// # Errors
    /// A path that is no JSON Pointer.
    pub fn new(format: Format, json: &JsonPaths) -> Result<Self, PathError> {
        Ok(Self { format, json: Paths::new(json)?, zipkin: Paths::zipkin() })
    }

    /// Appends the spans of one message to `spans`, and those that cannot be rows to `rejected`.
    ///
    /// # Errors
    /// The message is not what its format says; `spans` and `rejected` are as they were.
    pub fn decode(
        &self,
        payload: &[u8],
        spans: &mut SpanBuf,
        rejected: &mut Vec<RejectedSpan>,
    ) -> Result<(), DecodeError> {
        let mut output = Output::new(spans, rejected, payload.len());
        let outcome = if payload.is_empty() {
            Err(DecodeError::Empty)
        } else if self.format == Format::Auto {
            self.recognised(payload, &mut output)
        } else {
            self.decode_as(self.format, payload, &mut output)
        };
        let outcome = if output.is_exhausted() { Err(DecodeError::TooLarge) } else { outcome };
        if outcome.is_err() {
            output.restart();
        }
        outcome
    }

    /// Trace id and kind for another try of a span that had such as no row can have. In `Json` they are looked for anew,
    /// in the span alone: what its message said is what was found `before`.
    ///
    /// # Errors
    /// There still is something wrong that the table's own limits do not find.
    pub fn ids_again<'a>(&self, before: SpanRef<'a>) -> Result<(Cow<'a, str>, Cow<'a, str>), SpanDefect> {
        match self.format {
            Format::Json => json::ids_again(&self.json, before).ok_or(SpanDefect::HalfSurrogate),
            Format::OtlpProto | Format::OtlpJson | Format::Auto if otlp_json::has_zero_id(before) => {
                Err(SpanDefect::ZeroId)
            }
            _ => Ok((Cow::Borrowed(before.trace_id), Cow::Borrowed(before.kind))),
        }
    }

    fn decode_as(&self, format: Format, payload: &[u8], output: &mut Output<'_>) -> Result<(), DecodeError> {
        let protobuf = |name: &'static str| {
            move |wire::WireError(what)| DecodeError::Malformed { format: name, detail: what.to_owned() }
        };
        match format {
            Format::Json => {
                let message = Message::read(text(payload)?, &self.json, 0, 0, output).map_err(malformed)?;
                if !message.spans_seen {
                    let detail = "there is nothing where `json.spans` leads".to_owned();
                    return Err(DecodeError::Malformed { format: "JSON", detail });
                }
                Ok(())
            }
            Format::ZipkinJson => {
                let text = text(payload)?;
                let message = Message::read(text, &self.zipkin, 0, 0, output).map_err(malformed)?;
                // Such as OTLP's: another format's message, and none with a span that lacks something.
                let is_list = text.trim_ascii_start().starts_with('[');
                if !is_list && json::at(&message.root, json::path::TRACE_ID).is_empty() {
                    let detail = "neither a list nor a span with a traceId".to_owned();
                    return Err(DecodeError::Malformed { format: "Zipkin JSON", detail });
                }
                Ok(())
            }
            Format::OtlpJson => otlp_json::decode(text(payload)?, output).map_err(malformed),
            Format::OtlpProto => otlp_proto::decode(payload, output).map_err(protobuf("OTLP protobuf")),
            Format::ZipkinProto => zipkin_proto::decode(payload, output).map_err(protobuf("Zipkin protobuf")),
            Format::JaegerProto => jaeger_proto::decode(payload, output).map_err(protobuf("Jaeger protobuf")),
            Format::Auto => Err(DecodeError::Unknown),
        }
    }

    fn recognised(&self, payload: &[u8], output: &mut Output<'_>) -> Result<(), DecodeError> {
        let mut json_error = None;
        if auto::looks_like_json(payload) {
            let found = text(payload)
                .and_then(|text| auto::json(text, &self.json, &self.zipkin, output).map_err(malformed));
            let format = match found {
                Ok(auto::Found::Done) => return Ok(()),
                Ok(auto::Found::Otlp) => Some(Format::OtlpJson),
                Ok(auto::Found::ZipkinSpan) => Some(Format::ZipkinJson),
                Ok(auto::Found::Nothing) => return Err(DecodeError::Unknown),
                Err(error) => {
                    json_error = Some(error);
                    None
                }
            };
            output.restart();
            if let Some(format) = format {
                return self.decode_as(format, payload, output);
            }
        }
        // A line feed is white space in JSON and the usual first byte in protobuf: a JSON error is not the end.
        let format = match auto::proto(payload) {
            Some(auto::Proto::Otlp) => Format::OtlpProto,
            Some(auto::Proto::Zipkin) => Format::ZipkinProto,
            Some(auto::Proto::Jaeger) => Format::JaegerProto,
            None => return Err(json_error.unwrap_or(DecodeError::Unknown)),
        };
        self.decode_as(format, payload, output)
    }
}

/// The text of a JSON message, without the mark that some writers put before it (RFC 8259, 8.1, lets readers do so).
fn text(payload: &[u8]) -> Result<&str, DecodeError> {
    let payload = payload.strip_prefix(BYTE_ORDER_MARK).unwrap_or(payload);
    let text = std::str::from_utf8(payload).map_err(|error| DecodeError::Malformed {
        format: "JSON",
        detail: format!("not UTF-8 at byte {}", error.valid_up_to()),
    })?;
    if text.bytes().all(|byte| byte.is_ascii_whitespace()) {
        return Err(DecodeError::Empty);
    }
    Ok(text)
}

fn malformed(error: scan::Syntax) -> DecodeError {
    DecodeError::Malformed { format: "JSON", detail: format!("{} at byte {}", error.what, error.at) }
}
