//! Decoded spans, as they travel from the decoder to the store.
//!
//! A [`SpanBuf`] keeps the texts of many spans in one arena: decoding allocates nothing per span, and a
//! batch is a range of it. The limits that the table sets are checked in one place, [`SpanBuf::push`].

use std::fmt;

/// Longest trace id, in characters: the width of `connectivity_trace.trace_id`.
pub const MAX_TRACE_ID_CHARS: usize = 64;
/// Longest span kind, in characters: the width of `connectivity_trace.kind`.
pub const MAX_KIND_CHARS: usize = 16;

/// Spare bytes that [`SpanBuf::truncate`] leaves: what an ordinary message may have grown the buffer by.
const TRUNCATED_KEEPS: usize = 4 << 20;

/// One span, borrowed from the arena that holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpanRef<'a> {
    /// 64-bit, 128-bit or free-form trace id; 1 to [`MAX_TRACE_ID_CHARS`] characters.
    pub trace_id: &'a str,
    /// Span kind (`SERVER`, `CLIENT`, …), or empty where the producer gave none.
    pub kind: &'a str,
    /// The span as JSON text, verbatim where the producer sent JSON.
    pub body: &'a str,
}

/// Why a single span cannot become a row although its message could be decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanDefect {
    /// No trace id, or an empty one.
    MissingTraceId,
    /// More than [`MAX_TRACE_ID_CHARS`] characters.
    TraceIdTooLong,
    /// More than [`MAX_KIND_CHARS`] characters.
    KindTooLong,
    /// A NUL in trace id or kind: PostgreSQL's text cannot hold it.
    NulCharacter,
    /// An escaped half of a surrogate pair in trace id or kind: no text can hold it.
    HalfSurrogate,
    /// A trace id or span id of zeros only, which its format calls invalid.
    ZeroId,
}

impl fmt::Display for SpanDefect {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::MissingTraceId => write!(formatter, "the span has no trace id"),
            Self::TraceIdTooLong => write!(formatter, "trace id longer than {MAX_TRACE_ID_CHARS} characters"),
            Self::KindTooLong => write!(formatter, "kind longer than {MAX_KIND_CHARS} characters"),
            Self::NulCharacter => write!(formatter, "a NUL character in trace id or kind"),
            Self::HalfSurrogate => write!(formatter, "half a surrogate pair in trace id or kind"),
            Self::ZeroId => {
                write!(formatter, "a trace id or span id of zeros only, which OTLP calls invalid")
            }
        }
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: usize,
    trace_id_len: u16,
    kind_len: u16,
    body_len: usize,
}

/// Many spans in one arena, in the order in which they were decoded.
#[derive(Debug, Default)]
pub struct SpanBuf {
    text: String,
    entries: Vec<Entry>,
}

/// A length of a [`SpanBuf`] to go back to when the rest of a message turns out to be broken.
#[derive(Clone, Copy, Debug)]
pub struct SpanMark {
    text: usize,
    entries: usize,
}

impl SpanBuf {
    /// Appends a span whose body exists already.
    ///
    /// # Errors
    /// The span breaks a limit of the table; nothing was appended.
    pub fn push(&mut self, trace_id: &str, kind: &str, body: &str) -> Result<(), SpanDefect> {
        self.push_with(trace_id, kind, |text| text.push_str(body))
    }

    /// Appends a span whose body `write_body` appends to the text that it is given (and must not shorten).
    ///
    /// # Errors
    /// The span breaks a limit of the table; nothing was appended and `write_body` was not called.
    pub fn push_with(
        &mut self,
        trace_id: &str,
        kind: &str,
        write_body: impl FnOnce(&mut String),
    ) -> Result<(), SpanDefect> {
        #[cfg(feature = "planted")]
        let (trace_id, kind) = match crate::planted::is(crate::planted::Bug::Truncate) {
            true => (cut(trace_id, MAX_TRACE_ID_CHARS), cut(kind, MAX_KIND_CHARS)),
            false => (trace_id, kind),
        };
        check(trace_id, kind)?;
        let start = self.text.len();
        self.text.push_str(trace_id);
        self.text.push_str(kind);
        let body_start = self.text.len();
        write_body(&mut self.text);
        self.entries.push(Entry {
            start,
            // `check` bounds both well below 65,536 bytes.
            trace_id_len: trace_id.len() as u16,
            kind_len: kind.len() as u16,
            body_len: self.text.len() - body_start,
        });
        Ok(())
    }

    /// The span at `index`.
    ///
    /// # Panics
    /// `index` is not below [`Self::len`].
    pub fn get(&self, index: usize) -> SpanRef<'_> {
        let entry = self.entries[index];
        let kind_start = entry.start + usize::from(entry.trace_id_len);
        let body_start = kind_start + usize::from(entry.kind_len);
        SpanRef {
            trace_id: &self.text[entry.start..kind_start],
            kind: &self.text[kind_start..body_start],
            body: &self.text[body_start..body_start + entry.body_len],
        }
    }

    /// All spans in order.
    pub fn iter(&self) -> impl Iterator<Item = SpanRef<'_>> {
        (0..self.len()).map(|index| self.get(index))
    }

    /// Number of spans.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is no span.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of text held.
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    /// The present length, for [`Self::truncate`].
    pub fn mark(&self) -> SpanMark {
        SpanMark { text: self.text.len(), entries: self.entries.len() }
    }

    /// Forgets every span pushed after `mark` was taken, and gives back memory that only a giant needs.
    pub fn truncate(&mut self, mark: SpanMark) {
        self.text.truncate(mark.text);
        self.entries.truncate(mark.entries);
        self.shrink_to(self.text.len() + TRUNCATED_KEEPS);
    }

    /// Empties the buffer; keeps up to `keep_bytes` of its memory, so that one giant does not stay for ever.
    pub fn clear(&mut self, keep_bytes: usize) {
        self.text.clear();
        self.entries.clear();
        self.shrink_to(keep_bytes);
    }

    fn shrink_to(&mut self, keep_bytes: usize) {
        if self.text.capacity() > keep_bytes {
            self.text.shrink_to(keep_bytes);
        }
        self.entries.shrink_to(keep_bytes / size_of::<Entry>());
    }
}

fn check(trace_id: &str, kind: &str) -> Result<(), SpanDefect> {
    if trace_id.is_empty() {
        return Err(SpanDefect::MissingTraceId);
    }
    if longer_than(trace_id, MAX_TRACE_ID_CHARS) {
        return Err(SpanDefect::TraceIdTooLong);
    }
    if longer_than(kind, MAX_KIND_CHARS) {
        return Err(SpanDefect::KindTooLong);
    }
    if trace_id.as_bytes().contains(&0) || kind.as_bytes().contains(&0) {
        return Err(SpanDefect::NulCharacter);
    }
    Ok(())
}

#[cfg(feature = "planted")]
fn cut(text: &str, characters: usize) -> &str {
    text.char_indices().nth(characters).map_or(text, |(end, _)| &text[..end])
}

/// Bytes first: counting characters is only needed where bytes alone do not decide.
fn longer_than(text: &str, characters: usize) -> bool {
    text.len() > characters && text.chars().count() > characters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_come_back_as_they_were_pushed() {
        let mut spans = SpanBuf::default();
        spans.push("a1", "SERVER", r#"{"x":1}"#).unwrap();
        spans.push("ü", "", "{}").unwrap();
        assert_eq!(spans.get(0), SpanRef { trace_id: "a1", kind: "SERVER", body: r#"{"x":1}"# });
        assert_eq!(spans.get(1), SpanRef { trace_id: "ü", kind: "", body: "{}" });
    }

    #[test]
    fn truncating_to_a_mark_forgets_what_came_after_it() {
        let mut spans = SpanBuf::default();
        spans.push("a", "", "{}").unwrap();
        let mark = spans.mark();
        spans.push("b", "", "{}").unwrap();
        spans.truncate(mark);
        assert_eq!(spans.iter().map(|span| span.trace_id).collect::<Vec<_>>(), ["a"]);
    }

    #[test]
    fn limits_count_characters_and_leave_nothing_behind() {
        let mut spans = SpanBuf::default();
        assert!(spans.push(&"ü".repeat(64), &"ä".repeat(16), "{}").is_ok());
        for (trace_id, kind, defect) in [
            ("", "", SpanDefect::MissingTraceId),
            ("x".repeat(65).as_str(), "", SpanDefect::TraceIdTooLong),
            ("x", "k".repeat(17).as_str(), SpanDefect::KindTooLong),
            ("x\0", "", SpanDefect::NulCharacter),
        ] {
            assert_eq!(spans.push(trace_id, kind, "{}"), Err(defect));
        }
        assert_eq!(spans.len(), 1);
    }
}
