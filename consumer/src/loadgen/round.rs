//! An endless, seeded stream of messages: a round of encoded traces, emitted again and again with new ids.
//!
//! Guarantees: the same seed, format and sizes give the same ids in the same messages; times are those of the
//! emission. Every message has exactly the asked number of spans, but for the last one of all and, where whole traces
//! are asked for, the last one of a round.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use sluice_crds::v1alpha1::Format;

use super::encode::{Identity, Template};
use super::shop::{EPOCH_US, Shop, Span, Value};

/// Traces of a round, where their bodies are of ordinary size and a message takes no more.
const TRACES: usize = 256;
/// Encoded bytes of a round, about.
const ROUND_BYTES: usize = 16 << 20;

/// What a stream looks like.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Seed.
    pub seed: u64,
    /// Encoding.
    pub format: Format,
    /// Spans of a message, at least 1.
    pub spans_per_message: usize,
    /// Bytes that a span takes in its message at least; 0 leaves spans as they are.
    pub body_bytes: usize,
}

struct RoundMessage {
    template: Template,
    spans: Range<usize>,
    /// Numbers of the traces whose first span is in this message.
    begins: Range<u32>,
}

/// The stream.
pub struct Stream {
    format: Format,
    spans: Vec<Span>,
    messages: Vec<RoundMessage>,
    identities: Vec<Identity>,
    random: Rng,
    at: usize,
    /// Spans that are still to come.
    left: u64,
}

/// What was emitted with a message.
#[derive(Clone, Debug)]
pub struct Emitted {
    spans: Range<usize>,
    /// Trace id of the first span, 32 hexadecimal digits.
    pub key: String,
}

impl Emitted {
    /// Number of spans.
    pub fn len(&self) -> usize {
        self.spans.len()
    }

    /// Whether there is no span; a stream emits no such message.
    pub fn is_empty(&self) -> bool {
        self.spans.is_empty()
    }
}

impl Stream {
    /// A stream that ends after `spans` spans.
    pub fn of_spans(shape: Shape, spans: u64) -> Self {
        let mut all = round(&shape);
        // No message is shorter where the round begins anew; the last trace may miss some spans instead.
        all.truncate(all.len() - all.len() % shape.spans_per_message.max(1));
        Self::of_round(shape, all, spans)
    }

    /// A stream that ends after `traces` traces.
    pub fn of_traces(shape: Shape, traces: u64) -> Self {
        let mut stream = Self::of_round(shape, round(&shape), 0);
        let in_round = stream.identities.len() as u64;
        let rest =
            stream.spans.iter().filter(|span| u64::from(span.trace) < traces % in_round).count() as u64;
        stream.left = traces / in_round * stream.spans.len() as u64 + rest;
        stream
    }

    fn of_round(shape: Shape, all: Vec<Span>, left: u64) -> Self {
        let size = shape.spans_per_message.max(1);
        let messages = (0..all.len()).step_by(size).map(|start| {
            let range = start..(start + size).min(all.len());
            let of_message = &all[range.clone()];
            let continues = start > 0 && all[start - 1].trace == of_message[0].trace;
            RoundMessage {
                template: Template::new(shape.format, of_message),
                begins: of_message[0].trace + u32::from(continues)
                    ..of_message[of_message.len() - 1].trace + 1,
                spans: range,
            }
        });
        Self {
            format: shape.format,
            messages: messages.collect(),
            identities: vec![Identity::default(); all.last().map_or(0, |last| last.trace as usize + 1)],
            spans: all,
            // Another sequence than the shop's.
            random: Rng::with_seed(shape.seed ^ 0x5eed),
            at: 0,
            left,
        }
    }

    /// Spans that are still to come.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Emits `spans` further spans before it ends.
    pub fn go_on(&mut self, spans: u64) {
        self.left = spans;
    }

    /// Writes the next message to `payload`; none at the end.
    pub fn next(&mut self, payload: &mut Vec<u8>) -> Option<Emitted> {
        if self.left == 0 {
            return None;
        }
        let message = &self.messages[self.at];
        self.at = (self.at + 1) % self.messages.len();
        for trace in message.begins.clone() {
            self.identities[trace as usize] = Identity {
                trace_mask: self.random.u128(..),
                span_mask: self.random.u64(..),
                shift_us: now_us().saturating_sub(EPOCH_US),
            };
        }
        let mut spans = message.spans.clone();
        let identity = |trace: u32| self.identities[trace as usize];
        if spans.len() as u64 <= self.left {
            message.template.emit(payload, identity);
        } else {
            spans.end = spans.start + self.left as usize;
            Template::new(self.format, &self.spans[spans.clone()]).emit(payload, identity);
        }
        self.left -= spans.len() as u64;
        let first = &self.spans[spans.start];
        let key = format!("{:032x}", identity(first.trace).trace_id(first));
        Some(Emitted { spans, key })
    }

    /// Trace id and span id of each span that was emitted *last*.
    pub fn ids(&self, emitted: &Emitted) -> Vec<(u128, u64)> {
        let ids = |span: &Span| {
            let identity = self.identities[span.trace as usize];
            (identity.trace_id(span), identity.span_id(span))
        };
        self.spans[emitted.spans.clone()].iter().map(ids).collect()
    }
}

fn now_us() -> u64 {
    // A clock before 1970 gives spans of 1970.
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_micros() as u64)
}

/// Whole traces, with the spans of a message at least.
fn round(shape: &Shape) -> Vec<Span> {
    let mut shop = Shop::new(shape.seed);
    let mut traces = TRACES;
    if shape.body_bytes > 0 {
        // About a dozen spans make a trace.
        traces = (ROUND_BYTES / (12 * shape.body_bytes)).clamp(4, TRACES);
    }
    let mut all: Vec<Span> = shop.traces(traces).into_iter().flatten().collect();
    while all.len() < shape.spans_per_message {
        all.extend(shop.trace());
    }
    if shape.body_bytes > 0 {
        all.iter_mut().for_each(|span| pad(span, shape.format, shape.body_bytes));
    }
    all
}

/// Lengthens a span's excerpt of the response until it takes `bytes` of a message, or a few more.
fn pad(span: &mut Span, format: Format, bytes: usize) {
    const NAME: &str = "http.response.body";
    const FILLING: &str = "sku 84-2213-XL rain jacket, 2 in stock at Köln; ";
    if own_bytes(span, format) >= bytes {
        return;
    }
    span.tags.push((NAME, Value::Text(String::new())));
    let missing = bytes.saturating_sub(own_bytes(span, format));
    let filling = FILLING.chars().cycle().scan(0, |length, character| {
        let is_short = *length < missing;
        *length += character.len_utf8();
        is_short.then_some(character)
    });
    if let Some((_, value)) = span.tags.last_mut() {
        *value = Value::Text(filling.collect());
    }
}

/// What a span takes in a message besides what it shares there with spans of its service. Alone it may take less: Jaeger
/// has a form without a batch around it.
fn own_bytes(span: &Span, format: Format) -> usize {
    let same = [span.clone(), span.clone(), span.clone()];
    let size = |spans: usize| Template::new(format, &same[..spans]).size();
    size(1).min(size(3) - size(2))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn shape(spans_per_message: usize) -> Shape {
        Shape { seed: 1, format: Format::ZipkinJson, spans_per_message, body_bytes: 0 }
    }

    fn run(mut stream: Stream) -> (Vec<usize>, Vec<(u128, u64)>) {
        let (mut payload, mut sizes, mut ids) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(emitted) = stream.next(&mut payload) {
            let spans: Vec<serde_json::Value> = serde_json::from_slice(&payload).unwrap();
            let of_message = stream.ids(&emitted);
            for (span, (trace_id, id)) in spans.iter().zip(&of_message) {
                assert_eq!(span["traceId"], format!("{trace_id:032x}"));
                assert_eq!(span["id"], format!("{id:016x}"));
            }
            assert_eq!(spans.len(), emitted.len());
            sizes.push(emitted.len());
            ids.extend(of_message);
        }
        (sizes, ids)
    }

    #[test]
    fn the_asked_number_of_spans_comes_and_no_id_twice_over_many_rounds() {
        let (sizes, ids) = run(Stream::of_spans(shape(7), 10_003));
        assert_eq!(sizes.iter().sum::<usize>(), 10_003);
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 10_003);
        assert!(sizes[..sizes.len() - 1].iter().all(|size| *size == 7));
    }

    #[test]
    fn the_same_seed_gives_the_same_ids() {
        let ids = || run(Stream::of_spans(shape(20), 5_000)).1;
        assert_eq!(ids(), ids());
    }

    #[test]
    fn a_number_of_traces_comes_complete() {
        let (_, ids) = run(Stream::of_traces(shape(3), 300));
        assert_eq!(ids.iter().map(|(trace_id, _)| trace_id).collect::<HashSet<_>>().len(), 300);
        let expected: usize = {
            let traces = Shop::new(1).traces(TRACES);
            traces.iter().map(Vec::len).sum::<usize>() + traces[..44].iter().map(Vec::len).sum::<usize>()
        };
        assert_eq!(ids.len(), expected);
    }

    #[test]
    fn a_message_may_have_more_spans_than_the_traces_of_a_usual_round() {
        let (sizes, ids) = run(Stream::of_spans(shape(4_000), 10_000));
        assert_eq!(sizes, [4_000, 4_000, 2_000]);
        assert_eq!(ids.iter().collect::<HashSet<_>>().len(), 10_000);
        let (sizes, _) = run(Stream::of_traces(Shape { body_bytes: 100_000, ..shape(100) }, 20));
        assert_eq!(sizes[0], 100);
    }

    #[test]
    fn padded_spans_have_the_asked_size_at_least_in_every_format() {
        for format in [
            Format::Json,
            Format::OtlpProto,
            Format::OtlpJson,
            Format::ZipkinJson,
            Format::ZipkinProto,
            Format::JaegerProto,
        ] {
            for (spans_per_message, body_bytes) in [(1, 2_000), (10, 2_000), (10, 700)] {
                let mut stream =
                    Stream::of_spans(Shape { seed: 1, format, spans_per_message, body_bytes }, 200);
                let mut payload = Vec::new();
                while let Some(emitted) = stream.next(&mut payload) {
                    let each = payload.len() / emitted.len();
                    assert!((body_bytes..body_bytes + 2_000).contains(&each), "{format:?}: {each}");
                }
            }
        }
    }
}
