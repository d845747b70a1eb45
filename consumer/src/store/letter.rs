//! Dead letters as people look at them, and as lanes store them after all.
//!
//! Redriving is asked for by a mark ([`LetterStore::mark`]); nothing else happens then. The lane that owns the
//! letter's partition reads it, decodes it again, and stores its rows, removes the letter and moves the stream's
//! last id in one transaction ([`LetterStore::redrive`]): under the same fence as a batch, so a letter is stored
//! once, and at the pipeline's rate. What fails again is a new letter that carries the history of the old one.

use async_trait::async_trait;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

use super::{ErrorKind, Reason, StoreError, WriteBatch};
use crate::source::Headers;
use crate::store::id::first_at;

/// Which dead letters are meant: everything that is given must fit.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LetterFilter {
    /// Exactly this topic.
    pub topic: Option<String>,
    /// Exactly this partition.
    pub partition: Option<i32>,
    /// Exactly this reason.
    pub reason: Option<Reason>,
    /// Stored at this time or later, milliseconds since 1970, by the database's clock.
    pub since_ms: Option<i64>,
    /// Stored before this time, likewise.
    pub until_ms: Option<i64>,
    /// Whether they wait to be redriven.
    pub pending: Option<bool>,
}

impl LetterFilter {
    /// The ids that `since_ms` and `until_ms` leave, the first included and the second excluded; after `after`.
    pub fn ids(&self, after: i64) -> (i64, i64) {
        let first = self.since_ms.map_or(0, first_at).max(after.saturating_add(1));
        (first, self.until_ms.map_or(i64::MAX, first_at))
    }
}

/// What is known of a dead letter besides its bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterSummary {
    /// Unique within the table; carries the time.
    pub id: i64,
    /// Topic it came from.
    pub topic: String,
    /// Partition it came from.
    pub partition: i32,
    /// Offset of its message.
    pub offset: u64,
    /// Index of the span within its message; none where the whole message is meant.
    pub span_index: Option<u32>,
    /// The message's timestamp, milliseconds since 1970.
    pub timestamp: Option<i64>,
    /// Name of a [`Reason`].
    pub reason: String,
    /// Why, in words.
    pub detail: String,
    /// Whether it waits to be redriven.
    pub pending: bool,
    /// How often it was redriven and failed again.
    pub attempts: u32,
    /// Those before this one, oldest first.
    pub history: Vec<Failure>,
}

/// A dead letter with everything needed to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredLetter {
    /// What is known of it.
    pub summary: LetterSummary,
    /// The span's trace id, where a single span is meant.
    pub trace_id: Option<String>,
    /// The span's kind, likewise.
    pub kind: Option<String>,
    /// The message's key.
    pub key: Option<Vec<u8>>,
    /// The message's headers, as [`headers_json`] writes them.
    pub headers: Vec<u8>,
    /// The original bytes: the message's value, or the span's body.
    pub bytes: Vec<u8>,
    /// Whether key, headers and bytes are sealed, each by itself.
    pub sealed: bool,
}

/// The headers of a letter's message, by name, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LetterHeaders(pub Vec<(String, Option<Vec<u8>>)>);

/// A header as [`headers_json`] writes it.
#[derive(Deserialize)]
struct StoredHeader {
    name: String,
    /// In base64.
    value: Option<String>,
}

impl LetterHeaders {
    /// Those of an opened letter.
    ///
    /// # Errors
    /// [`ErrorKind::Schema`] where somebody has stored what [`headers_json`] never writes.
    pub fn of(letter: &StoredLetter) -> Result<Self, StoreError> {
        let damaged = |error: Box<dyn std::error::Error + Send + Sync>| StoreError {
            kind: ErrorKind::Schema,
            context: format!("dead letter {} has headers that cannot be read", letter.summary.id),
            source: Some(error),
        };
        let stored: Vec<StoredHeader> =
            serde_json::from_slice(&letter.headers).map_err(|error| damaged(error.into()))?;
        let header = |StoredHeader { name, value }| {
            let value = value.map(|text: String| BASE64.decode(text)).transpose();
            Ok((name, value.map_err(|error| damaged(error.into()))?))
        };
        stored.into_iter().map(header).collect::<Result<_, _>>().map(Self)
    }
}

impl Headers for LetterHeaders {
    fn visit(&self, each: &mut dyn FnMut(&str, Option<&[u8]>)) {
        for (name, value) in &self.0 {
            each(name, value.as_deref());
        }
    }
}

/// Headers as a letter has them: a JSON list of `{"name": …, "value": base64 or null}`.
pub fn headers_json(headers: &dyn Headers) -> Vec<u8> {
    let mut list = Vec::new();
    headers.visit(&mut |name, value| {
        list.push(serde_json::json!({ "name": name, "value": value.map(|bytes| BASE64.encode(bytes)) }));
    });
    serde_json::Value::Array(list).to_string().into_bytes()
}

/// An earlier failure of a letter that was redriven.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Failure {
    /// The letter's id at that time; tells when.
    pub id: i64,
    /// Name of a [`Reason`].
    pub reason: String,
    /// Why, in words.
    pub detail: String,
}

/// What one transaction of redriving does.
#[derive(Clone, Copy, Debug)]
pub struct RedriveBatch<'a> {
    /// Rows, the letters that failed again, and the move of the last id; its offset stays where it is.
    pub write: WriteBatch<'a>,
    /// Letters that this settles: they must all be there still.
    pub settled: &'a [i64],
    /// For each of `write.dead_letters`: what it inherits.
    pub histories: &'a [History],
}

/// What a letter that failed again inherits from the one that was redriven.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct History {
    /// Of the new letter.
    pub attempts: u32,
    /// Oldest first.
    pub failures: Vec<Failure>,
}

/// The dead letters of one trace table.
#[async_trait]
pub trait LetterStore: Send + Sync {
    /// Letters that fit, in the order of their ids, those after `after` (0: from the first), at most `limit`.
    async fn letters(
        &self,
        filter: &LetterFilter,
        after: i64,
        limit: u32,
    ) -> Result<Vec<LetterSummary>, StoreError>;

    /// The largest id of a letter; 0 where there is none. What is stored later has a larger one, but for what is being
    /// stored now.
    async fn last_letter(&self) -> Result<i64, StoreError>;

    /// One letter with its bytes; none where there is no such one (any more).
    async fn letter(&self, id: i64) -> Result<Option<StoredLetter>, StoreError>;

    /// Asks for letters to be redriven; returns how many were not waiting already.
    async fn mark(&self, ids: &[i64]) -> Result<u64, StoreError>;

    /// Removes letters for good; returns how many there were.
    async fn purge(&self, ids: &[i64]) -> Result<u64, StoreError>;

    /// Letters of the group's streams that no topic has taken yet ([`WriteBatch::queue_copies`]), in the order of their
    /// ids, those after `after` (0: from the first), at most `limit`.
    async fn unsent(
        &self,
        cluster_id: &str,
        group: &str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<i64>, StoreError>;

    /// How many those are.
    async fn count_unsent(&self, cluster_id: &str, group: &str) -> Result<u64, StoreError>;

    /// A topic has taken these letters.
    async fn sent(&self, ids: &[i64]) -> Result<(), StoreError>;

    /// Topics and partitions with letters that wait to be redriven.
    async fn marked(&self) -> Result<Vec<(String, i32)>, StoreError>;

    /// Stores letters after all, completely or not at all.
    ///
    /// # Errors
    /// As [`super::Store::write`]; [`super::ErrorKind::Conflict`] where a letter was purged meanwhile.
    async fn redrive(&self, batch: &RedriveBatch<'_>) -> Result<(), StoreError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn letter(headers: &[u8]) -> StoredLetter {
        let summary = LetterSummary {
            id: 7,
            topic: "spans".to_owned(),
            partition: 0,
            offset: 0,
            span_index: None,
            timestamp: None,
            reason: Reason::Undecodable.as_str().to_owned(),
            detail: String::new(),
            pending: true,
            attempts: 0,
            history: Vec::new(),
        };
        StoredLetter {
            summary,
            trace_id: None,
            kind: None,
            key: None,
            headers: headers.to_owned(),
            bytes: Vec::new(),
            sealed: false,
        }
    }

    #[test]
    fn headers_are_read_as_they_were_written() {
        let headers = LetterHeaders(vec![("a".into(), Some(vec![0, 255])), ("b".into(), None)]);
        assert_eq!(LetterHeaders::of(&letter(&headers_json(&headers))).unwrap(), headers);
    }

    #[test]
    fn damaged_headers_are_not_taken_for_none() {
        for damaged in ["", "{}", "[{}]", r#"[{"name":"a","value":"?"}]"#] {
            let error = LetterHeaders::of(&letter(damaged.as_bytes())).unwrap_err();
            assert_eq!(error.kind, ErrorKind::Schema, "{damaged}");
            assert!(error.context.contains("dead letter 7"), "{}", error.context);
        }
    }
}
