//! What was produced: spans that a number determines, so that millions of them can be checked without being kept.

use std::fmt::Write as _;

use crate::kafka::{Kafka, Sender};

/// How spans are put into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// `{"spans":[…]}`.
    Json,
    /// A list of Zipkin v2 spans.
    Zipkin,
}

/// A sequence of spans, each a pure function of its number.
#[derive(Clone, Copy, Debug)]
pub struct Ledger {
    /// Distinguishes the spans of one test from those of another.
    pub seed: u64,
    /// How spans are put into messages.
    pub shape: Shape,
    /// Spans in each message.
    pub spans_per_message: u64,
    /// Bytes of filling in each span's body; bodies are about 250 bytes longer.
    pub padding: usize,
}

/// A span as it must be found in the database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LedgerSpan {
    /// 32 hexadecimal digits; seven spans in a row share it.
    pub trace_id: String,
    /// The kind, empty for every fifth span.
    pub kind: &'static str,
    /// The JSON text, odd white space and escapes included.
    pub body: String,
}

const KINDS: [&str; 5] = ["SERVER", "CLIENT", "PRODUCER", "CONSUMER", ""];
const SPANS_PER_TRACE: u64 = 7;
/// Members before the number, by which [`Ledger::number_of`] finds it.
const HEAD: &str = "{\"id\":\"";

impl Ledger {
    /// Spans of about 300 bytes, ten in each message.
    pub fn new(seed: u64, shape: Shape) -> Self {
        Self { seed, shape, spans_per_message: 10, padding: 40 }
    }

    /// The span with this number.
    pub fn span(&self, number: u64) -> LedgerSpan {
        let trace = number / SPANS_PER_TRACE;
        let trace_id =
            format!("{:016x}{:016x}", mix(self.seed ^ mix(trace)), mix(trace).wrapping_add(self.seed));
        let kind = KINDS[(number % 5) as usize];
        let mut body = format!("{HEAD}{:016x}\",\"traceId\":\"{trace_id}\"", number + 1);
        if !kind.is_empty() {
            let _ = write!(body, " , \"kind\": \"{kind}\"");
        }
        // Characters of one to four bytes, escapes, and blanks that a re-encoding would lose.
        let _ = write!(
            body,
            ",\"name\":\"get /cart/{}\",\"timestamp\":{},\"duration\": {},\"tags\":{{\"note\":\"Gr\u{fc}\u{df}e \u{20ac} \
             \u{1f680} \\u0041 \\\"q\\\"\",\"seed\":\"{:x}\",\"pad\":\"{}\"}} }}",
            number % 97,
            1_760_000_000_000_000_u64 + number,
            1 + number % 5_000,
            self.seed,
            "x".repeat(self.padding),
        );
        LedgerSpan { trace_id, kind, body }
    }

    /// The number of the span with this body, where it looks like one of ours.
    pub fn number_of(&self, body: &str) -> Option<u64> {
        let digits = body.strip_prefix(HEAD)?.get(..16)?;
        u64::from_str_radix(digits, 16).ok()?.checked_sub(1)
    }

    /// The value of a message, which holds the spans from `message * spans_per_message` on.
    pub fn message(&self, message: u64) -> Vec<u8> {
        let (head, tail) = match self.shape {
            Shape::Json => ("{\"spans\":[", "]}"),
            Shape::Zipkin => ("[", "]"),
        };
        let mut text = String::from(head);
        let first = message * self.spans_per_message;
        for number in first..first + self.spans_per_message {
            if number > first {
                text.push(',');
            }
            text.push_str(&self.span(number).body);
        }
        text.push_str(tail);
        text.into_bytes()
    }

    /// Sends the messages of a range; `partition_of` says where each goes. Returns when all are acknowledged.
    ///
    /// # Errors
    /// The broker does not take them.
    pub async fn produce(
        &self,
        kafka: &Kafka,
        topic: &str,
        messages: std::ops::Range<u64>,
        partition_of: impl Fn(u64) -> i32,
    ) -> anyhow::Result<()> {
        let sender = kafka.producer()?;
        self.send(&sender, topic, messages, partition_of).await?;
        sender.flush()
    }

    /// As [`Self::produce`], but only queues them.
    ///
    /// # Errors
    /// The client library does not take them.
    pub async fn send(
        &self,
        sender: &Sender,
        topic: &str,
        messages: std::ops::Range<u64>,
        partition_of: impl Fn(u64) -> i32,
    ) -> anyhow::Result<()> {
        for message in messages {
            sender.send(topic, partition_of(message), Some(&self.message(message)), None, None).await?;
        }
        Ok(())
    }
}

/// A bijective mixing of 64 bits (the finaliser of SplitMix64, Steele and others 2014).
fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_span_is_valid_json_and_tells_its_number() {
        let ledger = Ledger::new(7, Shape::Json);
        for number in [0, 1, 4, 199_999, 2_000_000] {
            let span = ledger.span(number);
            let parsed: serde_json::Value = serde_json::from_str(&span.body).unwrap();
            assert_eq!(parsed["traceId"], span.trace_id.as_str());
            assert_eq!(ledger.number_of(&span.body), Some(number));
        }
    }

    #[test]
    fn a_message_holds_its_spans_verbatim() {
        let ledger = Ledger::new(7, Shape::Zipkin);
        let text = String::from_utf8(ledger.message(3)).unwrap();
        assert_eq!(serde_json::from_str::<Vec<serde_json::Value>>(&text).unwrap().len(), 10);
        assert!(text.contains(&ledger.span(30).body) && text.contains(&ledger.span(39).body));
    }
}
