//! An endless, seeded stream of messages: a round of encoded traces, emitted again and again with new ids.
//!
//! Guarantees: the same seed, format and sizes give the same ids in the same messages; times are those of the
//! emission. Every message has exactly the asked number of spans, but for the last one of a round and the
//! last one of all.

use std::ops::Range;
use std::time::{SystemTime, UNIX_EPOCH};

use fastrand::Rng;
use sluice_crds::v1alpha1::Format;

use super::encode::{Identity, Template};
use super::shop::{EPOCH_US, Shop, Span, Value};

/// Traces of a round, where their bodies are of ordinary size.
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
        let mut shop = Shop::new(shape.seed);
        let traces = if shape.body_bytes == 0 {
            TRACES
        } else {
            // About a dozen spans make a trace.
            (ROUND_BYTES / (12 * shape.body_bytes)).clamp(4, TRACES)
        };
        let mut all: Vec<Span> = shop.traces(traces).into_iter().flatten().collect();
        if shape.body_bytes > 0 {
            all.iter_mut().for_each(|span| pad(span, shape.format, shape.body_bytes));
        }
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
            identities: vec![Identity::default(); traces],
            spans: all,
            // Another sequence than the shop's.
            random: Rng::with_seed(shape.seed ^ 0x5eed),
            at: 0,
            left: spans,
        }
    }

    /// A stream that ends after `traces` traces.
    pub fn of_traces(shape: Shape, traces: u64) -> Self {
        let mut stream = Self::of_spans(shape, 0);
        let in_round = stream.identities.len() as u64;
        let rest =
            stream.spans.iter().filter(|span| u64::from(span.trace) < traces % in_round).count() as u64;
        stream.left = traces / in_round * stream.spans.len() as u64 + rest;
        stream
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

/// Lengthens a span's excerpt of the response until the span, alone, takes about `bytes`.
fn pad(span: &mut Span, format: Format, bytes: usize) {
    const NAME: &str = "http.response.body";
    // Name, quotes and lengths.
    const FRAME: usize = 40;
    const FILLING: &str = "sku 84-2213-XL rain jacket, 2 in stock at Köln; ";
    let missing = bytes.saturating_sub(Template::new(format, std::slice::from_ref(span)).size() + FRAME);
    if missing > 0 {
        let filling = FILLING.chars().cycle().scan(0, |length, character| {
            *length += character.len_utf8();
            (*length <= missing).then_some(character)
        });
        span.tags.push((NAME, Value::Text(filling.collect())));
    }
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
        assert!(sizes.iter().all(|size| *size <= 7));
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
    fn padded_spans_have_about_the_asked_size() {
        let shape = Shape { body_bytes: 2_000, ..shape(1) };
        let mut stream = Stream::of_spans(shape, 200);
        let mut payload = Vec::new();
        while stream.next(&mut payload).is_some() {
            assert!((1_900..4_000).contains(&payload.len()), "{}", payload.len());
        }
    }
}
