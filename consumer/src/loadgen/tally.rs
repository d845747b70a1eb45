//! What was sent and what became of it.

use std::io::{BufWriter, Write};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::{Duration, Instant};

use crate::lock::lock;
use serde::Serialize;

/// Counters that the sending side writes and the progress bar reads.
#[derive(Default)]
pub struct Tally {
    messages: AtomicU64,
    spans: AtomicU64,
    bytes: AtomicU64,
    acknowledged: AtomicU64,
    failed: AtomicU64,
    first_error: Mutex<Option<String>>,
    ledger: Option<Mutex<BufWriter<std::fs::File>>>,
    ledger_error: Mutex<Option<String>>,
    /// Why nothing is taken now.
    refused: Mutex<Option<String>>,
}

/// The result of a run.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Summary {
    /// Messages sent.
    pub messages: u64,
    /// Spans sent.
    pub spans: u64,
    /// Bytes of the messages sent.
    pub bytes: u64,
    /// Spans whose message was acknowledged.
    pub acknowledged_spans: u64,
    /// Spans whose message was not.
    pub not_acknowledged_spans: u64,
    /// From the first message to the last acknowledgement.
    pub seconds: f64,
    /// Acknowledged spans per second.
    pub spans_per_second: f64,
    /// The first reason why something was not acknowledged.
    pub first_error: Option<String>,
}

impl Tally {
    /// Counters, with a file that takes one line `traceId spanId` for each acknowledged span.
    ///
    /// # Errors
    /// The file cannot be made.
    pub fn new(ledger: Option<&std::path::Path>) -> std::io::Result<Self> {
        let ledger = ledger.map(std::fs::File::create).transpose()?;
        Ok(Self { ledger: ledger.map(|file| Mutex::new(BufWriter::new(file))), ..Self::default() })
    }

    /// Whether [`Self::acknowledged`] wants ids.
    pub fn wants_ids(&self) -> bool {
        self.ledger.is_some()
    }

    /// Counts a message on its way.
    pub fn sent(&self, spans: u64, bytes: u64) {
        self.messages.fetch_add(1, Relaxed);
        self.spans.fetch_add(spans, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Counts a message that the other side has taken.
    pub fn acknowledged(&self, spans: u64, ids: &[(u128, u64)]) {
        self.acknowledged.fetch_add(spans, Relaxed);
        lock(&self.refused).take();
        let Some(ledger) = &self.ledger else { return };
        let mut ledger = lock(ledger);
        for (trace_id, id) in ids {
            if let Err(error) = writeln!(ledger, "{trace_id:032x} {id:016x}") {
                self.incomplete(&error);
            }
        }
    }

    /// Why the ledger does not hold everything that was acknowledged; known for good after [`Self::finish`].
    pub fn ledger_error(&self) -> Option<String> {
        lock(&self.ledger_error).clone()
    }

    fn incomplete(&self, error: &std::io::Error) {
        let mut first = lock(&self.ledger_error);
        first.get_or_insert_with(|| error.to_string());
    }

    /// Counts a message that was not taken.
    pub fn failed(&self, spans: u64, error: &str) {
        self.failed.fetch_add(spans, Relaxed);
        self.refused(error);
        self.remember(error);
    }

    /// A message was refused, for good or for now. Over when one is taken.
    pub fn refused(&self, error: &str) {
        *lock(&self.refused) = Some(error.to_owned());
    }

    /// Why the last message was refused, where none was taken since.
    pub fn refusal(&self) -> Option<String> {
        lock(&self.refused).clone()
    }

    fn remember(&self, error: &str) {
        let mut first = lock(&self.first_error);
        first.get_or_insert_with(|| error.to_owned());
    }

    /// Spans sent and not yet answered, spans acknowledged, spans not acknowledged.
    pub fn progress(&self) -> (u64, u64, u64) {
        let (acknowledged, failed) = (self.acknowledged.load(Relaxed), self.failed.load(Relaxed));
        (self.spans.load(Relaxed).saturating_sub(acknowledged + failed), acknowledged, failed)
    }

    /// The result; what was never answered counts as not acknowledged. Writes out the ledger.
    pub fn finish(&self, began: Instant) -> Summary {
        if let Some(ledger) = &self.ledger
            && let Err(error) = lock(ledger).flush()
        {
            self.incomplete(&error);
        }
        let seconds = began.elapsed().max(Duration::from_micros(1)).as_secs_f64();
        let (spans, acknowledged) = (self.spans.load(Relaxed), self.acknowledged.load(Relaxed));
        Summary {
            messages: self.messages.load(Relaxed),
            spans,
            bytes: self.bytes.load(Relaxed),
            acknowledged_spans: acknowledged,
            not_acknowledged_spans: spans - acknowledged,
            seconds,
            spans_per_second: acknowledged as f64 / seconds,
            first_error: lock(&self.first_error).clone(),
        }
    }
}

/// Spreads spans over time.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    began: Instant,
    /// Spans per second; 0: as fast as possible.
    rate: f64,
    /// None where there is no end, or none that a clock reaches.
    ends: Option<Instant>,
}

impl Pace {
    /// Begins now.
    pub fn start(rate: u64, duration: Option<Duration>) -> Self {
        let began = Instant::now();
        Self { began, rate: rate as f64, ends: duration.and_then(|duration| began.checked_add(duration)) }
    }

    /// When it began.
    pub fn began(&self) -> Instant {
        self.began
    }

    /// How long to wait before the span after `sent` others; none if the time is over.
    pub fn wait(&self, sent: u64) -> Option<Duration> {
        let now = Instant::now();
        let due =
            if self.rate > 0.0 { self.began + Duration::from_secs_f64(sent as f64 / self.rate) } else { now };
        if self.ends.is_some_and(|ends| due.max(now) >= ends) {
            return None;
        }
        Some(due.saturating_duration_since(now))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_that_cannot_be_written_is_told() {
        // Takes no byte, as a full disk.
        let full = std::path::Path::new("/dev/full");
        let tally = Tally::new(Some(full)).unwrap();
        tally.sent(1, 10);
        tally.acknowledged(1, &[(1, 2)]);
        assert_eq!(tally.finish(Instant::now()).not_acknowledged_spans, 0);
        assert!(tally.ledger_error().is_some());
    }
}
