//! The dead letters of a batch.
//!
//! Each repeats key and headers of its message. Their JSON is made once a message, and what letters of refused spans
//! repeat is bounded: how many of a message's spans a database refuses, nobody knows when the message is decoded.

use std::borrow::Cow;
use std::sync::Arc;

use super::RefusedSpan;
use crate::pipeline::segment::context::COPIED_BYTES;
use crate::pipeline::segment::{Entry, Segment};
use crate::source::TopicPartition;
use crate::store::letter::headers_json;
use crate::store::{DeadLetter, LetterSpan, Reason};

/// What stands before the reason of a letter that has neither.
const ELSEWHERE: &str = "key and headers are with the message's first letter; ";

/// Dead letters in the order in which they were added.
pub struct Letters<'a> {
    at: &'a TopicPartition,
    segment: &'a Segment,
    letters: Vec<Letter<'a>>,
    /// Of the message that the last letter was made of.
    context: Option<(&'a Entry, Context<'a>)>,
    /// Bytes that letters of refused spans may still repeat.
    copies_left: usize,
}

struct Letter<'a> {
    id: i64,
    entry: &'a Entry,
    span: Option<LetterSpan<'a>>,
    reason: Reason,
    detail: Cow<'a, str>,
    context: Context<'a>,
    bytes: &'a [u8],
}

/// Key and headers.
#[derive(Clone)]
struct Context<'a> {
    key: Option<&'a [u8]>,
    headers: Arc<[u8]>,
}

impl<'a> Letters<'a> {
    /// None yet, of messages in `segment` that came from `at`.
    pub fn new(at: &'a TopicPartition, segment: &'a Segment) -> Self {
        Self { at, segment, letters: Vec::new(), context: None, copies_left: COPIED_BYTES }
    }

    /// Adds a row that must be a dead letter instead.
    pub fn refuse(&mut self, id: i64, refusal: &'a RefusedSpan) {
        let content = self.segment.spans().get(refusal.span);
        let (entry, index) = self.segment.entry_of_span(refusal.span);
        let (mut context, is_first) = self.context_of(entry);
        let mut detail = Cow::Borrowed(&*refusal.detail);
        if !is_first {
            let bytes = context.key.map_or(0, <[u8]>::len) + context.headers.len();
            match self.copies_left.checked_sub(bytes) {
                Some(left) => self.copies_left = left,
                // The message's value is no longer there: it cannot be one letter as a whole.
                None => {
                    context = Context { key: None, headers: Arc::from(&b"[]"[..]) };
                    detail = Cow::Owned(format!("{ELSEWHERE}{detail}"));
                }
            }
        }
        self.letters.push(Letter {
            id,
            entry,
            span: Some(LetterSpan { index, trace_id: content.trace_id, kind: content.kind }),
            reason: refusal.reason,
            detail,
            context,
            bytes: content.body.as_bytes(),
        });
    }

    /// Adds what could not be a row from the start, by its index among the segment's rejects.
    pub fn reject(&mut self, id: i64, index: usize) {
        let (reject, entry) = (&self.segment.rejects()[index], self.segment.entry_of_reject(index));
        let context = self.context_of(entry).0;
        self.letters.push(Letter {
            id,
            entry,
            span: reject.span(),
            reason: reject.reason,
            detail: Cow::Borrowed(&reject.detail),
            context,
            bytes: &reject.bytes,
        });
    }

    /// Key and headers of a message, and whether the last letter was of another one.
    fn context_of(&mut self, entry: &'a Entry) -> (Context<'a>, bool) {
        match &self.context {
            Some((last, context)) if std::ptr::eq(*last, entry) => (context.clone(), false),
            _ => {
                let headers = headers_json(&self.segment.headers(entry)).into();
                let context = Context { key: self.segment.key(entry), headers };
                self.context = Some((entry, context.clone()));
                (context, true)
            }
        }
    }

    /// Their reasons.
    pub fn reasons(&self) -> impl Iterator<Item = Reason> {
        self.letters.iter().map(|letter| letter.reason)
    }

    /// Their messages.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.letters.iter().map(|letter| letter.entry)
    }

    /// In the store's form.
    pub fn in_stores_form(&self) -> Vec<DeadLetter<'_>> {
        self.letters
            .iter()
            .map(|letter| DeadLetter {
                id: letter.id,
                topic: &self.at.topic,
                partition: self.at.partition,
                offset: letter.entry.offset,
                span: letter.span,
                timestamp: letter.entry.timestamp,
                reason: letter.reason,
                detail: &letter.detail,
                key: letter.context.key,
                headers: &letter.context.headers,
                bytes: letter.bytes,
                sealed: false,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use sluice_crds::v1alpha1::{Format, JsonPaths};

    use super::*;
    use crate::decode::Decoder;
    use crate::source::{Message, NoHeaders};

    #[test]
    fn letters_of_a_message_share_its_headers() {
        let mut segment = Segment::default();
        let decoder = Decoder::new(Format::Json, &JsonPaths::default()).unwrap();
        let payload = Some(&br#"{"spans":[{},{},{}]}"#[..]);
        let message = Message { offset: 0, timestamp: None, key: None, payload, headers: &NoHeaders };
        segment.append(&decoder, &message);
        let at = TopicPartition { topic: "t".into(), partition: 0 };
        let mut letters = Letters::new(&at, &segment);
        for index in 0..3 {
            letters.reject(1, index);
        }
        let places: Vec<_> = letters.in_stores_form().iter().map(|letter| letter.headers.as_ptr()).collect();
        assert_eq!(places, [places[0]; 3]);
    }
}
