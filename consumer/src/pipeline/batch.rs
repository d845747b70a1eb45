//! From a segment's first messages to what one transaction writes.
//!
//! A batch owns its interval of positions: it starts at the stream's position and ends behind its last
//! message. Which rows of it are dead letters instead is decided before it is built, so that it is written
//! as a whole or not at all.

mod letters;

use self::letters::Letters;
use super::segment::{Entry, Segment};
use crate::source::TopicPartition;
use crate::store::id::IdSequence;
use crate::store::{Claim, DeadLetter, Position, Reason, Row, WriteBatch};

/// A row that must be a dead letter instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedSpan {
    /// Index of the span within the segment.
    pub span: usize,
    /// Why.
    pub reason: Reason,
    /// Why, in words.
    pub detail: String,
}

/// The part of a segment that becomes one batch.
#[derive(Clone, Copy)]
pub struct Cut<'a> {
    /// Whose messages.
    pub segment: &'a Segment,
    /// How many of those that wait, from the first.
    pub messages: usize,
    /// Less these, ascending.
    pub refusals: &'a [RefusedSpan],
}

/// What one transaction writes, borrowed from its segment.
pub struct Batch<'a> {
    claim: &'a Claim,
    from: Position,
    to: Position,
    fingerprint: u64,
    rows: Vec<Row<'a>>,
    row_spans: Vec<usize>,
    letters: Letters<'a>,
}

impl<'a> Batch<'a> {
    /// The batch of a cut, from where its stream stands.
    pub fn build(
        at: &'a TopicPartition,
        claim: &'a Claim,
        from: Position,
        database_time_ms: i64,
        Cut { segment, messages, refusals }: Cut<'a>,
    ) -> Self {
        let mut ids = IdSequence::after(claim.stream, from.last_id, database_time_ms);
        let mut last_id = from.last_id;
        let mut take_id = || {
            last_id = ids.take();
            last_id
        };
        let spans = segment.front_spans(messages);
        let mut rows = Vec::with_capacity(spans.len());
        let mut row_spans = Vec::with_capacity(spans.len());
        let mut letters = Letters::new(at, segment);
        let mut refused = refusals.iter().peekable();
        for span in spans {
            let content = segment.spans().get(span);
            if let Some(refusal) = refused.next_if(|refusal| refusal.span == span) {
                #[cfg(feature = "planted")]
                if crate::planted::is(crate::planted::Bug::SwallowRefused) {
                    continue;
                }
                letters.refuse(take_id(), refusal);
            } else {
                rows.push(Row {
                    id: take_id(),
                    trace_id: content.trace_id,
                    kind: content.kind,
                    body: content.body,
                });
                row_spans.push(span);
            }
        }
        for index in segment.front_rejects(messages) {
            letters.reject(take_id(), index);
        }
        let (next_offset, fingerprint) = segment
            .front(messages)
            .last()
            .map_or((from.next_offset, 0), |entry| (entry.offset + 1, entry.fingerprint));
        Self { claim, from, to: Position { next_offset, last_id }, fingerprint, rows, row_spans, letters }
    }

    /// The rows, in the order of their ids.
    pub fn rows(&self) -> &[Row<'a>] {
        &self.rows
    }

    /// Bytes of the bodies of its rows, before they are sealed.
    pub fn body_bytes(&self) -> u64 {
        self.rows.iter().map(|row| row.body.len() as u64).sum()
    }

    /// Index within the segment of the span that a row was made of.
    pub fn span_of_row(&self, row: usize) -> usize {
        self.row_spans[row]
    }

    /// Where the stream stands once the batch is written.
    pub fn to(&self) -> Position {
        self.to
    }

    /// Reasons of its dead letters.
    pub fn reasons(&self) -> impl Iterator<Item = Reason> {
        self.letters.reasons()
    }

    /// Dead letters in the store's form.
    pub fn dead_letters(&self) -> Vec<DeadLetter<'_>> {
        self.letters.in_stores_form()
    }

    /// The message of each dead letter.
    pub fn letter_entries(&self) -> impl Iterator<Item = &Entry> {
        self.letters.entries()
    }

    /// The batch in the store's form; rows and dead letters are its own, or what they were sealed to.
    /// `queue_copies`: whether dead letters wait to be sent to a topic.
    pub fn to_write_batch<'b>(
        &'b self,
        rows: &'b [Row<'b>],
        dead_letters: &'b [DeadLetter<'b>],
        queue_copies: bool,
    ) -> WriteBatch<'b> {
        WriteBatch {
            stream: self.claim.stream,
            epoch: self.claim.epoch,
            from: self.from,
            to: self.to,
            fingerprint: Some(self.fingerprint),
            rows,
            dead_letters,
            queue_copies,
        }
    }
}
