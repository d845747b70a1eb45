//! Dead letters as rows: one row that says what and why, and the bytes in chunk rows, so that a giant fits
//! under a server's limit for one statement.

use crate::store::letter::{Failure, LetterSummary, StoredLetter};
use crate::store::{DeadLetter, ErrorKind, StoreError};

/// Most bytes of a chunk row: well below the smallest `max_allowed_packet` that is met in practice (1 MiB).
pub const LETTER_CHUNK_BYTES: usize = 256 * 1024;
/// Most bytes of the reason in words: MySQL's `TEXT` has room for more.
const DETAIL_BYTES: usize = 4096;

/// What stands before the name of a part that is sealed. Not in the bytes, which may be any.
const SEALED: &str = "sealed:";

/// A chunk of what a dead letter consists of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetterPart<'a> {
    /// `value`, `key`, `headers`, `trace_id` or `kind`; the first three with [`SEALED`] before them where they are.
    pub part: &'static str,
    /// Position among the chunks of its part, from 0.
    pub seq: i32,
    /// The bytes.
    pub data: &'a [u8],
}

/// The chunks of a dead letter. An empty key has one empty chunk, so that it differs from none; trace id and kind of a
/// span have none where they are empty. They are no columns: what makes a span invalid may be that no column
/// takes them.
pub fn parts_of<'a>(letter: &DeadLetter<'a>) -> Vec<LetterPart<'a>> {
    let mut parts = Vec::new();
    let [value, key_name, headers] = if letter.sealed {
        ["sealed:value", "sealed:key", "sealed:headers"]
    } else {
        ["value", "key", "headers"]
    };
    cut(value, letter.bytes, &mut parts);
    if let Some(key) = letter.key {
        cut(key_name, key, &mut parts);
    }
    cut(headers, letter.headers, &mut parts);
    if let Some(span) = letter.span {
        for (part, text) in [("trace_id", span.trace_id), ("kind", span.kind)] {
            if !text.is_empty() {
                cut(part, text.as_bytes(), &mut parts);
            }
        }
    }
    parts
}

fn cut<'a>(part: &'static str, bytes: &'a [u8], parts: &mut Vec<LetterPart<'a>>) {
    if bytes.is_empty() {
        parts.push(LetterPart { part, seq: 0, data: bytes });
    }
    parts.extend(bytes.chunks(LETTER_CHUNK_BYTES).zip(0..).map(|(data, seq)| LetterPart { part, seq, data }));
}

/// A row of [`super::dialect::Dialect::select_summaries`].
pub type SummaryRow = (i64, String, i64, i64, Option<i64>, Option<i64>, String, String, i64, i64, String);

/// The letter that a row tells of.
///
/// # Errors
/// Somebody has stored a number that Sluice never stores.
pub fn summary_of(row: SummaryRow) -> Result<LetterSummary, StoreError> {
    let (id, topic, partition, offset, span_index, timestamp, reason, detail, pending, attempts, history) =
        row;
    Ok(LetterSummary {
        id,
        topic,
        partition: number(id, partition, "partition")?,
        offset: number(id, offset, "offset")?,
        span_index: span_index.map(|index| number(id, index, "span_index")).transpose()?,
        timestamp,
        reason,
        detail,
        pending: pending == 1,
        attempts: number(id, attempts, "attempts")?,
        history: failures(id, &history),
    })
}

fn number<T: TryFrom<i64>>(id: i64, stored: i64, column: &str) -> Result<T, StoreError> {
    T::try_from(stored).map_err(|_| {
        StoreError::new(
            ErrorKind::Schema,
            format!("dead letter {id} has the {column} {stored}, out of its range"),
        )
    })
}

/// A history as it is stored: a JSON list of [`Failure`].
pub fn history_json(failures: &[Failure]) -> String {
    serde_json::json!(failures).to_string()
}

/// From [`history_json`]. Text that somebody has damaged is told of and left out: it only informs, and the letter is to be
/// listed, redriven and purged as ever.
fn failures(id: i64, history: &str) -> Vec<Failure> {
    serde_json::from_str(history).unwrap_or_else(|error| {
        tracing::warn!(id, %error, "the history of a dead letter in sluice_redrive cannot be read");
        Vec::new()
    })
}

/// Joins the chunks (part and bytes, in order) of a letter. `None` where its value is not among them: every letter has
/// one, if an empty one.
pub fn assembled(summary: LetterSummary, mut chunks: Vec<(String, Vec<u8>)>) -> Option<StoredLetter> {
    let mut sealed = false;
    for (part, _) in &mut chunks {
        if let Some(name) = part.strip_prefix(SEALED) {
            (*part, sealed) = (name.to_owned(), true);
        }
    }
    let part = |name: &str| {
        let mut chunks = chunks.iter().filter(|(part, _)| part == name).peekable();
        chunks.peek()?;
        Some(chunks.flat_map(|(_, data)| data).copied().collect::<Vec<u8>>())
    };
    let text = |name| part(name).map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Some(StoredLetter {
        trace_id: text("trace_id"),
        kind: text("kind"),
        key: part("key"),
        headers: part("headers").unwrap_or_else(|| b"[]".to_vec()),
        bytes: part("value")?,
        sealed,
        summary,
    })
}

/// The reason in words, of a length and of characters that every database takes.
pub fn detail_of(letter: &DeadLetter<'_>) -> String {
    let end = letter.detail.floor_char_boundary(DETAIL_BYTES);
    letter.detail[..end].replace('\0', "\u{fffd}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{LetterSpan, Reason};

    fn letter<'a>(key: Option<&'a [u8]>, bytes: &'a [u8]) -> DeadLetter<'a> {
        DeadLetter {
            id: 1,
            topic: "t",
            partition: 0,
            offset: 0,
            span: None,
            timestamp: None,
            reason: Reason::Undecodable,
            detail: "",
            key,
            headers: b"[]",
            bytes,
            sealed: false,
        }
    }

    #[test]
    fn a_giant_is_cut_and_its_chunks_join_to_the_same_bytes() {
        let bytes = vec![7; 3 * 1024 * 1024 + 1];
        let parts = parts_of(&letter(Some(b"k"), &bytes));
        let value: Vec<_> = parts.iter().filter(|part| part.part == "value").collect();
        assert_eq!(value.len(), 13);
        assert!(value.iter().zip(0..).all(|(part, seq)| part.seq == seq));
        assert_eq!(value.iter().flat_map(|part| part.data).copied().collect::<Vec<_>>(), bytes);
    }

    #[test]
    fn a_span_keeps_trace_id_and_kind_where_it_has_them() {
        let parts = |trace_id, kind| {
            let span = Some(LetterSpan { index: 1, trace_id, kind });
            let letter = DeadLetter { span, ..letter(None, b"{}") };
            parts_of(&letter).iter().map(|part| (part.part, part.data.to_vec())).collect::<Vec<_>>()
        };
        assert_eq!(
            parts("a\0", "SERVER")[2..],
            [("trace_id", b"a\0".to_vec()), ("kind", b"SERVER".to_vec())]
        );
        assert_eq!(parts("", "").len(), 2);
    }

    #[test]
    fn no_key_differs_from_an_empty_one() {
        let keys = |key| parts_of(&letter(key, b"v")).iter().filter(|part| part.part == "key").count();
        assert_eq!((keys(None), keys(Some(b""))), (0, 1));
    }

    fn stored(offset: i64, span_index: Option<i64>, history: &str) -> SummaryRow {
        let (reason, detail) = ("InvalidSpan".to_owned(), String::new());
        (7, "t".to_owned(), 0, offset, span_index, None, reason, detail, 0, 1, history.to_owned())
    }

    #[test]
    fn a_span_with_an_impossible_index_is_not_taken_for_a_whole_message() {
        for damaged in [stored(-1, None, "[]"), stored(0, Some(-1), "[]")] {
            let error = summary_of(damaged).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Schema);
            assert!(error.context.contains("dead letter 7"), "{}", error.context);
        }
        assert_eq!(summary_of(stored(0, Some(3), "[]")).unwrap().span_index, Some(3));
    }

    #[test]
    fn a_history_is_read_as_it_was_written_and_a_damaged_one_hides_no_letter() {
        let before = vec![Failure { id: 2, reason: "Refused".to_owned(), detail: "x".to_owned() }];
        assert_eq!(summary_of(stored(0, None, &history_json(&before))).unwrap().history, before);
        assert_eq!(summary_of(stored(0, None, "damaged")).unwrap().history, []);
    }
}
