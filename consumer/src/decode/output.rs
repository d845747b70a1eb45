//! Where decoders put their spans.

use crate::span::SpanBuf;

use super::RejectedSpan;

/// The spans of one message, numbered as they come.
pub(super) struct Output<'o> {
    spans: &'o mut SpanBuf,
    rejected: &'o mut Vec<RejectedSpan>,
    index: u32,
}

impl<'o> Output<'o> {
    /// Starts a message.
    pub(super) fn new(spans: &'o mut SpanBuf, rejected: &'o mut Vec<RejectedSpan>) -> Self {
        Self { spans, rejected, index: 0 }
    }

    /// A span whose body exists already.
    #[inline]
    pub(super) fn verbatim(&mut self, trace_id: &str, kind: &str, body: &str) {
        if let Err(defect) = self.spans.push(trace_id, kind, body) {
            self.rejected.push(RejectedSpan { index: self.index, defect, body: body.to_owned() });
        }
        self.index = self.index.saturating_add(1);
    }

    /// A span whose body is written now, straight into the arena.
    ///
    /// # Errors
    /// What `write` says; the message is broken then, and what was written is cut off with it.
    pub(super) fn written<E>(
        &mut self,
        trace_id: &str,
        kind: &str,
        write: impl Fn(&mut String) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut outcome = Ok(());
        if let Err(defect) = self.spans.push_with(trace_id, kind, |text| outcome = write(text)) {
            let mut body = String::new();
            write(&mut body)?;
            self.rejected.push(RejectedSpan { index: self.index, defect, body });
        }
        self.index = self.index.saturating_add(1);
        outcome
    }
}
