//! Where rows go: the contract between the pipeline and a database.
//!
//! Guarantee: rows, dead letters and the position of a batch are one transaction, which moves the position only
//! where epoch, offset and last id are still those that the batch was built on, and stores nothing where it does not
//! move. So a batch is stored once or not at all, however often it is tried and by whomever.
//!
//! This module knows no driver. Each backend classifies its own errors by named codes ([`ErrorKind`]) and
//! passes the same test suite (`tests/tests/store.rs`); [`memory::MemoryStore`] is the twin for tests, and without
//! rows the floor for benchmarks.

mod absent;
mod address;
pub mod id;
pub mod inspect;
pub mod key;
pub mod letter;
pub mod memory;
pub mod mysql;
pub mod postgres;
pub mod retention;
mod sql;
pub mod sqlite;
pub mod table;

use async_trait::async_trait;

pub use absent::is_missing_table;
pub use sql::{ConnectWith, is_denied, is_of_server};
pub use table::{TableName, TableNameError};

use crate::gate::clock::DatabaseTime;
use crate::gate::lease::{Decide, LeaseGrant, LeaseRequest};
use id::STREAM_BITS;
use key::KeyStore;
use letter::LetterStore;
use retention::{Sweep, Swept};

/// Most streams (rows of `sluice_progress`) that one table can have: as many as the row id tells apart.
pub const MAX_STREAMS: u16 = 1 << STREAM_BITS;
/// Most bytes of stored bodies in an answer about one trace; the last body may exceed it. They are in memory two or three
/// times, and opened ones are larger.
pub const TRACE_BYTES: usize = 16 << 20;

/// Names one row of `sluice_progress`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct StreamKey {
    /// The queue's own identity, so that equal names on two clusters are not mixed up.
    pub cluster_id: String,
    /// Consumer group.
    pub group: String,
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
}

/// The settled prefix of a stream. Both parts move together in the batch's transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The offset of the first message that is not settled.
    pub next_offset: u64,
    /// The largest id that the stream has given out; 0 before the first.
    pub last_id: i64,
}

/// What claiming a stream gives: the right to move its position until somebody else claims it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Number of the stream within its table, below [`MAX_STREAMS`].
    pub stream: u16,
    /// Counts the claims; the number that the position may be moved with.
    pub epoch: u64,
    /// Where to go on.
    pub position: Position,
    /// Fingerprint of the message at `next_offset - 1`, where that one was stored by this stream.
    pub fingerprint: Option<u64>,
    /// The database's wall clock. Ids take their time from it.
    pub database_time: DatabaseTime,
}

/// One row of the trace table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Row<'a> {
    /// See [`id`].
    pub id: i64,
    /// Trace id.
    pub trace_id: &'a str,
    /// Span kind.
    pub kind: &'a str,
    /// JSON text.
    pub body: &'a str,
}

/// Why something is a dead letter. A closed set: it labels metrics and is stored by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The message is not what its format says.
    Undecodable,
    /// The message has no value.
    Tombstone,
    /// A single span breaks a limit of the table or of its format (see [`crate::span::SpanDefect`]).
    InvalidSpan,
    /// The database refused this row while it accepted one of equal size.
    Refused,
    /// The row is larger than the database accepts in one statement, or the spans of the message than may be held.
    TooLarge,
}

impl Reason {
    /// The name under which it is stored and counted.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Undecodable => "Undecodable",
            Self::Tombstone => "Tombstone",
            Self::InvalidSpan => "InvalidSpan",
            Self::Refused => "Refused",
            Self::TooLarge => "TooLarge",
        }
    }

    /// Every reason, in the order of the variants.
    pub const ALL: [Self; 5] =
        [Self::Undecodable, Self::Tombstone, Self::InvalidSpan, Self::Refused, Self::TooLarge];
}

/// The span that a dead letter is, if it is a single one: with the bytes, everything that its row is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LetterSpan<'a> {
    /// Index within its message, counting all spans of it.
    pub index: u32,
    /// Trace id, of any length and with any characters; empty where there is none.
    pub trace_id: &'a str,
    /// Span kind, likewise.
    pub kind: &'a str,
}

/// A message or a single span that cannot become a row, with everything needed to try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter<'a> {
    /// Unique within the table, from the same sequence as row ids.
    pub id: i64,
    /// Topic it came from.
    pub topic: &'a str,
    /// Partition it came from.
    pub partition: i32,
    /// Offset of its message.
    pub offset: u64,
    /// The span; none where the whole message is meant.
    pub span: Option<LetterSpan<'a>>,
    /// The message's timestamp, milliseconds since 1970.
    pub timestamp: Option<i64>,
    /// Why.
    pub reason: Reason,
    /// Why, in words.
    pub detail: &'a str,
    /// The message's key.
    pub key: Option<&'a [u8]>,
    /// The message's headers: a JSON list of `{"name": …, "value": base64 or null}`.
    pub headers: &'a [u8],
    /// The original bytes: the message's value, or the span's body.
    pub bytes: &'a [u8],
    /// Whether key, headers and bytes are sealed, each by itself.
    pub sealed: bool,
}

/// Everything that one transaction writes.
#[derive(Clone, Copy, Debug)]
pub struct WriteBatch<'a> {
    /// From [`Claim::stream`].
    pub stream: u16,
    /// From [`Claim::epoch`].
    pub epoch: u64,
    /// What the stream's row must still hold.
    pub from: Position,
    /// What it will hold.
    pub to: Position,
    /// Fingerprint of the message at `to.next_offset - 1`, where that one is known.
    pub fingerprint: Option<u64>,
    /// Ids ascend.
    pub rows: &'a [Row<'a>],
    /// Ids ascend.
    pub dead_letters: &'a [DeadLetter<'a>],
    /// Whether its dead letters wait to be sent to a topic; see [`letter::LetterStore::unsent`].
    pub queue_copies: bool,
}

/// A row as a reader gets it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredSpan {
    /// Row id.
    pub id: i64,
    /// Trace id.
    pub trace_id: String,
    /// Span kind.
    pub kind: String,
    /// JSON text.
    pub body: String,
    /// Database time of the insert, milliseconds since 1970.
    pub created_at_ms: i64,
}

/// What an error means for the batch that met it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorKind {
    /// Database away, read-only, full, overloaded, misconfigured, or a code that nobody has named: wait, with
    /// backoff, for as long as it takes.
    Unavailable,
    /// Deadlock, lock wait time-out, serialisation failure: try again promptly.
    Conflict,
    /// A value was refused: find the row.
    Refused,
    /// A value breaks a rule of the table (CHECK, foreign key, trigger), which a harmless row may break as well:
    /// find the row, and hold it against one that is accepted.
    Constraint,
    /// The statement is larger than the server accepts.
    TooLarge,
    /// Epoch, offset or last id are no longer those of the claim: the stream has another owner, or an earlier
    /// try of this batch was committed after all. Claim again.
    Fenced,
    /// An id exists already: position and ids must be read again.
    DuplicateId,
    /// The schema is missing, foreign, or of a form that cannot be adopted, or tables contradict each other; needs a
    /// person.
    Schema,
}

impl ErrorKind {
    /// Every kind, in the order of the variants.
    pub const ALL: [Self; 8] = [
        Self::Unavailable,
        Self::Conflict,
        Self::Refused,
        Self::Constraint,
        Self::TooLarge,
        Self::Fenced,
        Self::DuplicateId,
        Self::Schema,
    ];

    /// The name under which it is counted.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::Conflict => "conflict",
            Self::Refused => "refused",
            Self::Constraint => "constraint",
            Self::TooLarge => "too_large",
            Self::Fenced => "fenced",
            Self::DuplicateId => "duplicate_id",
            Self::Schema => "schema",
        }
    }

    /// Whether it is the rows that are to blame.
    pub fn is_refusal(self) -> bool {
        matches!(self, Self::Refused | Self::Constraint | Self::TooLarge)
    }
}

/// An error of a store.
#[derive(Debug, thiserror::Error)]
#[error("{context}")]
pub struct StoreError {
    /// What it means for the caller.
    pub kind: ErrorKind,
    /// What was tried, and the remedy where there is one.
    pub context: String,
    /// The driver's error.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl StoreError {
    /// An error that no driver reported.
    pub fn new(kind: ErrorKind, context: impl Into<String>) -> Self {
        Self { kind, context: context.into(), source: None }
    }

    /// Adds what was being done to a driver's error.
    pub fn with_source(
        kind: ErrorKind,
        context: impl Into<String>,
        source: impl std::error::Error + Send + Sync + 'static,
    ) -> Self {
        Self { kind, context: context.into(), source: Some(Box::new(source)) }
    }
}

/// A database that holds the trace table and Sluice's own tables.
///
/// Every method may be cancelled at an await point; an open transaction is then rolled back. No method
/// retries: the pipeline does, in one place. Calls of [`Self::write`] for different streams may run side by
/// side; nothing before a transaction's last statement locks a row that another stream needs.
#[async_trait]
pub trait Store: LetterStore + KeyStore {
    /// Connects and brings the schema up to date; several replicas may do so at once. Adopts an existing
    /// trace table, or creates it. With `manageSchema: false` only verifies.
    async fn prepare(&self) -> Result<(), StoreError>;

    /// The streams that exist for this cluster and group in this table, newest generation of each.
    async fn streams(&self, cluster_id: &str, group: &str) -> Result<Vec<StreamKey>, StoreError>;

    /// Creates the streams that do not exist yet, each at its start; leaves the others alone. One transaction.
    async fn create_streams(&self, starts: &[(StreamKey, u64)]) -> Result<(), StoreError>;

    /// Creates all of these streams, or none of them where their groups have any stream in this table. One transaction.
    async fn create_groups(&self, starts: &[(StreamKey, u64)]) -> Result<(), StoreError>;

    /// Takes the stream over: counts its epoch up and reads it under a lock, on the primary.
    ///
    /// # Errors
    /// [`ErrorKind::Schema`] where the stream was never created.
    async fn claim(&self, key: &StreamKey, owner: &str) -> Result<Claim, StoreError>;

    /// Starts a new generation of a stream whose topic was re-created: a new row, with a new stream number, at
    /// `start`. Only for the holder of the claim.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] where the claim is no longer the newest.
    async fn supersede(&self, key: &StreamKey, claim: &Claim, start: u64) -> Result<(), StoreError>;

    /// Writes a batch, completely or not at all.
    ///
    /// # Errors
    /// [`ErrorKind::Fenced`] or [`ErrorKind::DuplicateId`] where the stream is to be claimed again;
    /// [`ErrorKind::Refused`], [`ErrorKind::Constraint`] or [`ErrorKind::TooLarge`] where a part of it may be
    /// accepted; else it is to be tried again as it is. After an error of the connection it may have been committed.
    async fn write(&self, batch: &WriteBatch<'_>) -> Result<(), StoreError>;

    /// Inserts rows and rolls back: would they be accepted? Moves nothing.
    ///
    /// # Errors
    /// As [`Self::write`], but for those of the stream.
    async fn probe(&self, rows: &[Row<'_>]) -> Result<(), StoreError>;

    /// Renews a share of the rate, or a turn. `decide` is called between the locking read of all holders and the write,
    /// so that a share is given up in effect before another replica can see that it is free.
    async fn lease(&self, request: &LeaseRequest, decide: &mut Decide<'_>) -> Result<LeaseGrant, StoreError>;

    /// Gives a share back at once, when a replica stops.
    async fn end_lease(&self, name: &str, holder: &str) -> Result<(), StoreError>;

    /// Rows of a trace, oldest first, at most `limit`. Stops one row after the row whose body takes the total over
    /// [`TRACE_BYTES`]; that extra row shows that there are more.
    async fn trace(&self, trace_id: &str, limit: u32) -> Result<Vec<StoredSpan>, StoreError>;

    /// Rows of the trace table as they are stored, in the order of their ids, those after `after`, at most `limit`.
    async fn rows_after(&self, after: i64, limit: u32) -> Result<Vec<StoredSpan>, StoreError>;

    /// Where each stream of this cluster and group stands: the first offset that is not settled, of the newest
    /// generation. Takes nothing over.
    async fn positions(&self, cluster_id: &str, group: &str) -> Result<Vec<(StreamKey, u64)>, StoreError>;

    /// Removes old rows, one short step; see [`retention`]. Locks no row that a lane needs.
    async fn remove_older(&self, sweep: &Sweep) -> Result<Swept, StoreError>;

    /// Largest body, in bytes, that a single row may have here.
    fn max_body_bytes(&self) -> usize;

    /// How many transactions may usefully run side by side (SQLite: 1).
    fn max_lanes(&self) -> usize;

    /// Closes the connections.
    async fn close(&self);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_that_are_kept_by_variant_are_shown_by_its_name() {
        assert_eq!(Reason::ALL.map(|reason| reason as usize), std::array::from_fn(|index| index));
        assert_eq!(ErrorKind::ALL.map(|kind| kind as usize), std::array::from_fn(|index| index));
    }
}
