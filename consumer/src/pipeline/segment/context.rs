//! Key and headers of messages, which every dead letter of a message repeats.
//!
//! Bound: a small message may ask for thousands of letters, and have a large key. Copies of both take at most
//! [`COPIED_BYTES`] a message.

use std::ops::Range;

use crate::source::{Headers, Message};
use crate::store::letter::headers_json;

/// Bytes that key and headers may take in the dead letters of one message, all but the first. They are held several
/// times on their way into the database, by each lane. 8,192 spans (the OpenTelemetry Collector's default) with 1 kB each
/// stay below it.
pub const COPIED_BYTES: usize = 8 << 20;

/// Key and headers of messages, one behind the other: name length, name, value length or none, value; the key first,
/// without a name.
#[derive(Debug, Default)]
pub struct Context(Vec<u8>);

impl Context {
    /// Appends those of a message.
    pub fn keep(&mut self, message: &Message<'_>) -> Range<usize> {
        let begin = self.0.len();
        if let Some(key) = message.key {
            put(&mut self.0, key);
        }
        let context = &mut self.0;
        message.headers.visit(&mut |name, value| {
            put(context, name.as_bytes());
            context.push(u8::from(value.is_some()));
            if let Some(value) = value {
                put(context, value);
            }
        });
        begin..self.0.len()
    }

    /// The key of a message that has one.
    pub fn key(&self, range: &Range<usize>) -> &[u8] {
        take(&mut &self.0[range.clone()])
    }

    /// The headers of a message.
    pub fn headers(&self, range: &Range<usize>, has_key: bool) -> impl Headers {
        let mut rest = &self.0[range.clone()];
        if has_key {
            take(&mut rest);
        }
        Kept(rest)
    }

    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.0.len()
    }

    /// Forgets all; keeps up to `keep_bytes` of its memory.
    pub fn clear(&mut self, keep_bytes: usize) {
        self.0.clear();
        self.0.shrink_to(keep_bytes);
    }
}

/// Headers as they were kept.
struct Kept<'a>(&'a [u8]);

impl Headers for Kept<'_> {
    fn visit(&self, each: &mut dyn FnMut(&str, Option<&[u8]>)) {
        let mut rest = self.0;
        while !rest.is_empty() {
            // It was a text when it was put there.
            let name = std::str::from_utf8(take(&mut rest)).unwrap_or_default();
            let has_value = rest[0] == 1;
            rest = &rest[1..];
            each(name, has_value.then(|| take(&mut rest)));
        }
    }
}

/// Bytes that key and headers take in a dead letter.
pub fn letter_bytes(message: &Message<'_>) -> usize {
    message.key.map_or(0, <[u8]>::len) + headers_json(message.headers).len()
}

fn put(context: &mut Vec<u8>, bytes: &[u8]) {
    context.extend_from_slice(&(bytes.len() as u32).to_le_bytes());
    context.extend_from_slice(bytes);
}

fn take<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    let (length, tail) = rest.split_at(4);
    let length = u32::from_le_bytes([length[0], length[1], length[2], length[3]]) as usize;
    let (bytes, tail) = tail.split_at(length);
    *rest = tail;
    bytes
}
