//! Spans to messages, in each format that a pipeline reads.
//!
//! What differs between one emission of a message and the next (ids and times) has a fixed width in every
//! format; [`Sheet`] notes where it lies, so that a message can be emitted again and again with new ids and
//! times at the cost of a copy ([`Template::emit`]).

mod json;
mod otlp;
mod proto;

use sluice_crds::v1alpha1::Format;

use super::shop::Span;

/// A message in the making.
#[derive(Clone, Debug, Default)]
pub(crate) struct Sheet {
    bytes: Vec<u8>,
    patches: Vec<Patch>,
}

#[derive(Clone, Copy, Debug)]
struct Patch {
    at: usize,
    trace: u32,
    site: Site,
}

/// What lies at a place, with the value that the shop gave it.
#[derive(Clone, Copy, Debug)]
enum Site {
    /// 32 hexadecimal digits.
    TraceHex(u128),
    /// 16 bytes, big-endian.
    TraceBytes(u128),
    /// 16 hexadecimal digits.
    SpanHex(u64),
    /// 8 bytes, big-endian.
    SpanBytes(u64),
    /// Microseconds since 1970, 16 decimal digits.
    MicrosText(u64),
    /// Microseconds since 1970 as nanoseconds, 19 decimal digits.
    NanosText(u64),
    /// Microseconds since 1970, 8 bytes, little-endian.
    MicrosFixed(u64),
    /// Microseconds since 1970 as nanoseconds, 8 bytes, little-endian.
    NanosFixed(u64),
    /// Microseconds since 1970 as a varint of seconds, a tag byte and a varint of nanoseconds, 5 bytes each.
    SecondsAndNanos(u64),
}

/// What makes one emission of a trace differ from the next. Both masks are XORed into the shop's ids.
#[derive(Clone, Copy, Debug, Default)]
pub struct Identity {
    /// For the trace id.
    pub trace_mask: u128,
    /// For span ids.
    pub span_mask: u64,
    /// Added to times, microseconds.
    pub shift_us: u64,
}

impl Identity {
    /// The trace id of a span.
    pub fn trace_id(&self, span: &Span) -> u128 {
        span.trace_id ^ self.trace_mask
    }

    /// The span's id.
    pub fn span_id(&self, span: &Span) -> u64 {
        span.id ^ self.span_mask
    }
}

/// An encoded message that can be emitted with other ids and times.
#[derive(Clone, Debug)]
pub struct Template {
    sheet: Sheet,
}

impl Template {
    /// Encodes spans as one message.
    ///
    /// # Panics
    /// `format` is `Auto`, which is no encoding, or there is no span.
    pub fn new(format: Format, spans: &[Span]) -> Self {
        assert!(!spans.is_empty(), "a message needs a span");
        let mut sheet = Sheet::default();
        match format {
            Format::ZipkinJson => json::zipkin(&mut sheet, spans),
            Format::Json => json::observation(&mut sheet, spans),
            Format::OtlpJson => otlp::json(&mut sheet, spans),
            Format::OtlpProto => otlp::proto(&mut sheet, spans),
            Format::ZipkinProto => proto::zipkin(&mut sheet, spans),
            Format::JaegerProto => proto::jaeger(&mut sheet, spans),
            Format::Auto => panic!("Auto recognises formats, it is none"),
        }
        Self { sheet }
    }

    /// Bytes of the message.
    pub fn size(&self) -> usize {
        self.sheet.bytes.len()
    }

    /// Writes the message to `out`, which is emptied first. `identity` is asked by number of trace.
    pub fn emit(&self, out: &mut Vec<u8>, identity: impl Fn(u32) -> Identity) {
        out.clear();
        out.extend_from_slice(&self.sheet.bytes);
        for Patch { at, trace, site } in &self.sheet.patches {
            site.write(&mut out[*at..], &identity(*trace));
        }
    }
}

/// Encodes spans as one message, as the shop gave them.
pub fn message(format: Format, spans: &[Span]) -> Vec<u8> {
    Template::new(format, spans).sheet.bytes
}

const HEX: &[u8; 16] = b"0123456789abcdef";

fn hex(out: &mut [u8], bytes: &[u8]) {
    for (pair, byte) in out.chunks_exact_mut(2).zip(bytes) {
        pair[0] = HEX[usize::from(byte >> 4)];
        pair[1] = HEX[usize::from(byte & 15)];
    }
}

fn decimal(out: &mut [u8], mut number: u64) {
    for digit in out.iter_mut().rev() {
        *digit = b'0' + (number % 10) as u8;
        number /= 10;
    }
}

/// A varint of exactly five bytes, padded where fewer would do.
fn varint5(out: &mut [u8], number: u64) {
    for (index, byte) in out.iter_mut().enumerate() {
        let more = if index < 4 { 0x80 } else { 0 };
        *byte = (number >> (7 * index)) as u8 & 0x7f | more;
    }
}

impl Site {
    fn width(self) -> usize {
        match self {
            Self::TraceHex(_) => 32,
            Self::TraceBytes(_) | Self::SpanHex(_) | Self::MicrosText(_) => 16,
            Self::SpanBytes(_) | Self::MicrosFixed(_) | Self::NanosFixed(_) => 8,
            Self::NanosText(_) => 19,
            Self::SecondsAndNanos(_) => 11,
        }
    }

    fn write(self, out: &mut [u8], identity: &Identity) {
        let out = &mut out[..self.width()];
        match self {
            Self::TraceHex(id) => hex(out, &(id ^ identity.trace_mask).to_be_bytes()),
            Self::TraceBytes(id) => out.copy_from_slice(&(id ^ identity.trace_mask).to_be_bytes()),
            Self::SpanHex(id) => hex(out, &(id ^ identity.span_mask).to_be_bytes()),
            Self::SpanBytes(id) => out.copy_from_slice(&(id ^ identity.span_mask).to_be_bytes()),
            Self::MicrosText(time) => decimal(out, time + identity.shift_us),
            Self::NanosText(time) => decimal(out, (time + identity.shift_us) * 1_000),
            Self::MicrosFixed(time) => out.copy_from_slice(&(time + identity.shift_us).to_le_bytes()),
            Self::NanosFixed(time) => {
                out.copy_from_slice(&((time + identity.shift_us) * 1_000).to_le_bytes())
            }
            Self::SecondsAndNanos(time) => {
                let time = time + identity.shift_us;
                varint5(&mut out[..5], time / 1_000_000);
                out[5] = proto::NANOS_TAG;
                varint5(&mut out[6..], time % 1_000_000 * 1_000);
            }
        }
    }
}

impl Sheet {
    fn text(&mut self, text: &str) {
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// A JSON string with its quotes.
    fn quoted(&mut self, text: &str) {
        // Writing text into memory does not fail.
        let _ = serde_json::to_writer(&mut self.bytes, text);
    }

    fn site(&mut self, span: &Span, site: Site) {
        let at = self.bytes.len();
        self.bytes.resize(at + site.width(), 0);
        site.write(&mut self.bytes[at..], &Identity::default());
        self.patches.push(Patch { at, trace: span.trace, site });
    }

    /// A site with quotes around it.
    fn quoted_site(&mut self, span: &Span, site: Site) {
        self.text("\"");
        self.site(span, site);
        self.text("\"");
    }

    fn append(&mut self, inner: &Self) {
        let shift = self.bytes.len();
        self.bytes.extend_from_slice(&inner.bytes);
        self.patches.extend(inner.patches.iter().map(|patch| Patch { at: patch.at + shift, ..*patch }));
    }
}

#[cfg(test)]
mod tests;
