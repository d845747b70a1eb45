//! Decoded messages of one partition that wait to be stored.
//!
//! A segment is filled by the lane and emptied from its front, whole messages at a time. Batches borrow from
//! it, so nothing is copied between decoding and the database driver.

pub mod context;

use std::borrow::Cow;
use std::ops::Range;
use std::time::Duration;

use tokio::time::Instant;
use xxhash_rust::xxh3::xxh3_64;

use self::context::{COPIED_BYTES, Context};
use crate::decode::{DecodeError, Decoder, RejectedSpan};
use crate::source::{Headers, Message};
use crate::span::{SpanBuf, SpanRef};
use crate::store::letter::StoredLetter;
use crate::store::{LetterSpan, Reason};

/// A segment is full at this many bytes, whatever the number of messages; a batch holds no more, but for its first
/// message.
pub const SEGMENT_BYTES: usize = 1 << 20;

/// A message or span that cannot become a row.
#[derive(Debug)]
pub struct Reject {
    /// The span; none for the whole message.
    span: Option<RejectSpan>,
    /// Why.
    pub reason: Reason,
    /// Why, in words.
    pub detail: String,
    /// The message's value or the span's body.
    pub bytes: Vec<u8>,
}

#[derive(Debug)]
struct RejectSpan {
    index: u32,
    trace_id: String,
    kind: String,
}

impl Reject {
    /// The span that it would have been; none for the whole message.
    pub fn span(&self) -> Option<LetterSpan<'_>> {
        self.span.as_ref().map(|span| LetterSpan {
            index: span.index,
            trace_id: &span.trace_id,
            kind: &span.kind,
        })
    }

    fn held_bytes(&self) -> usize {
        let span = self.span.as_ref().map_or(0, |span| span.trace_id.len() + span.kind.len());
        size_of::<Self>() + self.detail.len() + self.bytes.len() + span
    }
}

/// A message whose spans lie in a [`Segment`].
#[derive(Debug)]
pub struct Entry {
    /// Offset.
    pub offset: u64,
    /// Milliseconds since 1970.
    pub timestamp: Option<i64>,
    /// See [`fingerprint`].
    pub fingerprint: u64,
    spans_end: usize,
    rejects_end: usize,
    /// [`Segment::bytes`] once it was appended.
    bytes_end: usize,
    context: Range<usize>,
    has_key: bool,
}

/// Decoded messages of one partition, in order.
#[derive(Debug, Default)]
pub struct Segment {
    spans: SpanBuf,
    rejects: Vec<Reject>,
    /// What the rejects hold, with what their letters repeat of the message.
    reject_bytes: usize,
    entries: Vec<Entry>,
    context: Context,
    /// Entries before this one are settled.
    head: usize,
    first_at: Option<Instant>,
    scratch: Vec<RejectedSpan>,
}

impl Segment {
    /// Decodes a message and appends what it holds. Never fails: what cannot be decoded is a reject.
    pub fn append(&mut self, decoder: &Decoder, message: &Message<'_>) {
        let mark = self.spans.mark();
        match message.payload {
            #[cfg(feature = "planted")]
            None if crate::planted::is(crate::planted::Bug::SkipTombstone) => {}
            None => self.reject_message(Reason::Tombstone, "the message has no value".to_owned(), &[]),
            Some(payload) => match decoder.decode(payload, &mut self.spans, &mut self.scratch) {
                Ok(()) => {
                    if let Some(detail) = self.reject_spans(message) {
                        self.spans.truncate(mark);
                        self.reject_message(Reason::Undecodable, detail, payload);
                    }
                }
                Err(error) => {
                    let reason = match error {
                        DecodeError::TooLarge => Reason::TooLarge,
                        _ => Reason::Undecodable,
                    };
                    self.reject_message(reason, error.to_string(), payload);
                }
            },
        }
        self.end_entry(message);
    }

    /// Takes the spans that the decoder has rejected, unless their letters would repeat too much of the message: then
    /// none, and says so.
    fn reject_spans(&mut self, message: &Message<'_>) -> Option<String> {
        let rejected = std::mem::take(&mut self.scratch);
        let first = rejected.first()?;
        let each = context::letter_bytes(message);
        let copied = each.saturating_mul(rejected.len() - 1);
        if copied > COPIED_BYTES {
            return Some(format!(
                "{} of its spans cannot be rows (the first: {}), and dead letters of their own would repeat {each} bytes \
                 of key and headers each; only {} MiB of such may be",
                rejected.len(),
                first.defect,
                COPIED_BYTES >> 20
            ));
        }
        self.reject_bytes += copied;
        for RejectedSpan { index, defect, trace_id, kind, body } in rejected {
            self.reject(Reject {
                span: Some(RejectSpan { index, trace_id, kind }),
                reason: Reason::InvalidSpan,
                detail: defect.to_string(),
                bytes: body.into_bytes(),
            });
        }
        None
    }

    /// What was decoded since the last entry belongs to this message.
    fn end_entry(&mut self, message: &Message<'_>) {
        let context = self.context.keep(message);
        let bytes_end = self.bytes();
        self.first_at.get_or_insert_with(Instant::now);
        self.entries.push(Entry {
            offset: message.offset,
            timestamp: message.timestamp,
            fingerprint: fingerprint(message),
            spans_end: self.spans.len(),
            rejects_end: self.rejects.len(),
            bytes_end,
            context,
            has_key: message.key.is_some(),
        });
    }

    /// Appends a span that was a dead letter of its own, as a message with that span only. It is the row that it would
    /// have been; where its ids were what is wrong they are looked for anew.
    pub fn append_span(&mut self, decoder: &Decoder, letter: &StoredLetter, headers: &dyn Headers) {
        let body = String::from_utf8_lossy(&letter.bytes);
        let before = SpanRef {
            trace_id: letter.trace_id.as_deref().unwrap_or_default(),
            kind: letter.kind.as_deref().unwrap_or_default(),
            body: &body,
        };
        let ids = if letter.summary.reason == Reason::InvalidSpan.as_str() {
            decoder.ids_again(before)
        } else {
            Ok((Cow::Borrowed(before.trace_id), Cow::Borrowed(before.kind)))
        };
        let pushed = ids.and_then(|(trace_id, kind)| self.spans.push(&trace_id, &kind, &body));
        if let Err(defect) = pushed {
            // With the ids from before: those of its message stand nowhere else.
            self.reject(Reject {
                span: Some(RejectSpan {
                    index: letter.summary.span_index.unwrap_or_default(),
                    trace_id: before.trace_id.to_owned(),
                    kind: before.kind.to_owned(),
                }),
                reason: Reason::InvalidSpan,
                detail: defect.to_string(),
                bytes: letter.bytes.clone(),
            });
        }
        self.end_entry(&letter_message(letter, headers));
    }

    fn reject_message(&mut self, reason: Reason, detail: String, payload: &[u8]) {
        self.reject(Reject { span: None, reason, detail, bytes: payload.to_vec() });
    }

    fn reject(&mut self, reject: Reject) {
        self.reject_bytes += reject.held_bytes();
        self.rejects.push(reject);
    }

    /// Whether every message is settled.
    pub fn is_empty(&self) -> bool {
        self.head == self.entries.len()
    }

    /// Whether no more should be appended.
    pub fn is_full(&self, max_rows: usize) -> bool {
        self.pending() >= max_rows || self.bytes() >= SEGMENT_BYTES || self.entries.len() >= 4 * max_rows
    }

    /// Rows and rejects that wait; a message with neither counts as one.
    pub fn pending(&self) -> usize {
        let (spans, rejects) = self.settled();
        ((self.spans.len() - spans) + (self.rejects.len() - rejects)).max(usize::from(!self.is_empty()))
    }

    /// Bytes held, those of settled messages too while any waits; and what dead letters repeat of their message.
    pub fn bytes(&self) -> usize {
        self.spans.bytes() + self.reject_bytes + self.context.bytes()
    }

    /// How long the first message has waited.
    pub fn age(&self) -> Duration {
        self.first_at.map_or(Duration::ZERO, |at| at.elapsed())
    }

    /// Rows and rejects of the first message that waits, counted as the rate counts them.
    pub fn first_weight(&self) -> usize {
        self.weight(self.head)
    }

    fn weight(&self, index: usize) -> usize {
        let entry = &self.entries[index];
        let (spans, rejects) = self.ends_before(index);
        (entry.spans_end - spans) + (entry.rejects_end - rejects)
    }

    /// How many messages from the front fit into `most` and [`SEGMENT_BYTES`] (at least one), and their weight.
    pub fn cut(&self, most: usize) -> (usize, usize) {
        let settled_bytes = self.head.checked_sub(1).map_or(0, |before| self.entries[before].bytes_end);
        let mut weight = self.weight(self.head);
        let mut messages = 1;
        while let Some(index) = Some(self.head + messages).filter(|index| *index < self.entries.len()) {
            let next = self.weight(index);
            if weight + next > most || self.entries[index].bytes_end - settled_bytes > SEGMENT_BYTES {
                break;
            }
            weight += next;
            messages += 1;
        }
        (weight, messages)
    }

    /// The first `messages` messages that wait.
    pub fn front(&self, messages: usize) -> &[Entry] {
        &self.entries[self.head..self.head + messages]
    }

    /// Spans of the first `messages` messages that wait.
    pub fn front_spans(&self, messages: usize) -> Range<usize> {
        self.settled().0..self.ends_before(self.head + messages).0
    }

    /// Rejects of the first `messages` messages that wait.
    pub fn front_rejects(&self, messages: usize) -> Range<usize> {
        self.settled().1..self.ends_before(self.head + messages).1
    }

    /// The spans that [`Self::front_spans`] counts.
    pub fn spans(&self) -> &SpanBuf {
        &self.spans
    }

    /// The rejects that [`Self::front_rejects`] counts.
    pub fn rejects(&self) -> &[Reject] {
        &self.rejects
    }

    /// Whose span this is: the entry, and the span's index within the message, counting its rejected spans too.
    pub fn entry_of_span(&self, span: usize) -> (&Entry, u32) {
        let index = self.entries.partition_point(|entry| entry.spans_end <= span);
        let entry = &self.entries[index];
        let (first_span, first_reject) = self.ends_before(index);
        let rejects = &self.rejects[first_reject..entry.rejects_end];
        let within = span - first_span;
        // Indices ascend: those before the span are those that its place among rows and them has passed.
        let (mut passed, mut end) = (0, rejects.len());
        while passed < end {
            let middle = passed + (end - passed) / 2;
            match &rejects[middle].span {
                Some(rejected) if rejected.index as usize <= within + middle => passed = middle + 1,
                _ => end = middle,
            }
        }
        (entry, (within + passed) as u32)
    }

    /// The message of a reject.
    pub fn entry_of_reject(&self, reject: usize) -> &Entry {
        &self.entries[self.entries.partition_point(|entry| entry.rejects_end <= reject)]
    }

    /// Key of a message.
    pub fn key(&self, entry: &Entry) -> Option<&[u8]> {
        entry.has_key.then(|| self.context.key(&entry.context))
    }

    /// Headers of a message in order.
    pub fn headers(&self, entry: &Entry) -> impl Headers {
        self.context.headers(&entry.context, entry.has_key)
    }

    /// The first `messages` messages that wait are settled. Frees the memory once all are.
    pub fn settle(&mut self, messages: usize, keep_bytes: usize) {
        self.head += messages;
        if self.is_empty() {
            self.spans.clear(keep_bytes);
            // Rejects are rare: they keep nothing.
            self.rejects = Vec::new();
            self.reject_bytes = 0;
            self.entries.clear();
            self.entries.shrink_to(keep_bytes / size_of::<Entry>());
            self.context.clear(keep_bytes);
            self.head = 0;
            self.first_at = None;
        }
    }

    fn settled(&self) -> (usize, usize) {
        self.ends_before(self.head)
    }

    /// Spans and rejects of all messages before the one at `index`.
    fn ends_before(&self, index: usize) -> (usize, usize) {
        index.checked_sub(1).map_or((0, 0), |before| {
            let entry = &self.entries[before];
            (entry.spans_end, entry.rejects_end)
        })
    }
}

/// The message that a dead letter was, or was a part of.
pub fn letter_message<'a>(letter: &'a StoredLetter, headers: &'a dyn Headers) -> Message<'a> {
    Message {
        offset: letter.summary.offset,
        timestamp: letter.summary.timestamp,
        key: letter.key.as_deref(),
        payload: (letter.summary.reason != Reason::Tombstone.as_str()).then_some(&letter.bytes),
        headers,
    }
}

/// Tells whether a topic was re-created under its name: XXH3-64 of offset, timestamp and what is known of key and
/// value, which is whether there is one, and its own XXH3-64. Each in one go: the streaming form costs more than
/// decoding does where messages are small.
pub fn fingerprint(message: &Message<'_>) -> u64 {
    let mut known = [0; 34];
    known[..8].copy_from_slice(&message.offset.to_le_bytes());
    known[8..16].copy_from_slice(&message.timestamp.unwrap_or(i64::MIN).to_le_bytes());
    for (part, place) in [(message.key, 16), (message.payload, 25)] {
        known[place] = u8::from(part.is_some());
        known[place + 1..place + 9].copy_from_slice(&xxh3_64(part.unwrap_or_default()).to_le_bytes());
    }
    xxh3_64(&known)
}

#[cfg(test)]
mod tests;
