//! Where decoders put their spans.

use crate::span::{SpanBuf, SpanDefect, SpanMark};

use super::RejectedSpan;

/// Bytes that the spans of one message may take beyond the message's own length.
///
/// What a message says once is written into many spans: OTLP's resource and scope, Jaeger's process, ids at the
/// root of a JSON message. A megabyte can ask for gigabytes in that way. The largest honest batches (8,192 spans, the
/// OpenTelemetry Collector's default, with 7 kB of resource each: a Java agent's has its command line, some 5 kB as JSON)
/// stay below this, and four lanes that meet the worst at the same time stay within what a consumer is given (384 MiB).
pub(super) const MAX_ADDED_BYTES: usize = 64 << 20;
/// What a span takes besides its texts, at most, wherever it waits.
const SPAN_BYTES: usize = 128;
/// What one that is rejected takes besides: it waits, and is written, as a letter of its own, with a reason.
const REJECTED_BYTES: usize = 512;

/// The spans of one message, numbered as they come.
pub(super) struct Output<'o> {
    spans: &'o mut SpanBuf,
    rejected: &'o mut Vec<RejectedSpan>,
    mark: SpanMark,
    rejected_before: usize,
    index: u32,
    most: usize,
    left: usize,
    exhausted: bool,
}

impl<'o> Output<'o> {
    /// Starts a message of this length.
    pub(super) fn new(
        spans: &'o mut SpanBuf,
        rejected: &'o mut Vec<RejectedSpan>,
        message_bytes: usize,
    ) -> Self {
        let (mark, rejected_before) = (spans.mark(), rejected.len());
        let most = message_bytes.saturating_add(MAX_ADDED_BYTES);
        Self { spans, rejected, mark, rejected_before, index: 0, most, left: most, exhausted: false }
    }

    /// Forgets everything since the message's start.
    pub(super) fn restart(&mut self) {
        self.spans.truncate(self.mark);
        self.rejected.truncate(self.rejected_before);
        (self.index, self.left, self.exhausted) = (0, self.most, false);
    }

    /// Whether the spans would take more than they may. Nothing was put from then on: the message is to be
    /// refused.
    pub(super) fn is_exhausted(&self) -> bool {
        self.exhausted
    }

    /// Whether the message has yielded a row.
    pub(super) fn has_rows(&self) -> bool {
        self.index as usize > self.rejected.len() - self.rejected_before
    }

    /// Counts memory that the message takes; false where it may not.
    #[inline]
    pub(super) fn spend(&mut self, bytes: usize) -> bool {
        match self.left.checked_sub(bytes) {
            Some(left) if !self.exhausted => self.left = left,
            _ => self.exhausted = true,
        }
        !self.exhausted
    }

    /// A span whose body exists already.
    #[inline]
    pub(super) fn verbatim(&mut self, trace_id: &str, kind: &str, body: &str) {
        if !self.spend(SPAN_BYTES + trace_id.len() + kind.len() + body.len()) {
            return;
        }
        if let Err(defect) = self.spans.push(trace_id, kind, body) {
            self.reject(trace_id, kind, defect, body.to_owned());
        }
        self.index = self.index.saturating_add(1);
    }

    /// A span whose body is written now, straight into the arena. One body is no longer than its message, but for
    /// escapes, so it is counted when it is written. With a `defect` that its format has found it is no row.
    ///
    /// # Errors
    /// What `write` says; the message is broken then, and what was written is cut off with it.
    pub(super) fn written<E>(
        &mut self,
        trace_id: &str,
        kind: &str,
        defect: Option<SpanDefect>,
        write: impl Fn(&mut String) -> Result<(), E>,
    ) -> Result<(), E> {
        if !self.spend(SPAN_BYTES + trace_id.len() + kind.len()) {
            return Ok(());
        }
        let (mut outcome, mut length) = (Ok(()), 0);
        let push = |text: &mut String| {
            let before = text.len();
            outcome = write(text);
            length = text.len() - before;
        };
        let pushed = match defect {
            Some(defect) => Err(defect),
            None => self.spans.push_with(trace_id, kind, push),
        };
        if let Err(defect) = pushed {
            let mut body = String::new();
            write(&mut body)?;
            length = body.len();
            self.reject(trace_id, kind, defect, body);
        }
        self.spend(length);
        self.index = self.index.saturating_add(1);
        outcome
    }

    /// A span that has no trace id or kind which a text could hold. It is told without them, so that it can never become
    /// a row with others.
    pub(super) fn half_surrogate(&mut self, body: String) {
        if self.spend(SPAN_BYTES + body.len()) {
            self.reject("", "", SpanDefect::HalfSurrogate, body);
        }
        self.index = self.index.saturating_add(1);
    }

    fn reject(&mut self, trace_id: &str, kind: &str, defect: SpanDefect, body: String) {
        if !self.spend(REJECTED_BYTES) {
            return;
        }
        let (trace_id, kind) = (trace_id.to_owned(), kind.to_owned());
        self.rejected.push(RejectedSpan { index: self.index, defect, trace_id, kind, body });
    }
}
