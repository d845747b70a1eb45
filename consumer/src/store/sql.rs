//! What the three SQL backends share: connections that are kept while they are good (`sessions`), batches cut into
//! statements of fixed sizes (`sizes`), numbered changes of the schema (`migrations`), whether a table that exists can be
//! used (`adopt`), which rights are missing (`denied`), how a driver's error is told (`driver`), dead
//! letters as rows (`letters`), the calls of a store (`store_calls`, `letter_calls`), and the queries that differ in their dialect only
//! (`dialect`: `key_queries`, `lease_queries`, `letter_queries`, `stream_queries`).

pub(super) mod adopt;
mod denied;
mod dialect;
mod driver;
pub(super) mod key_queries;
pub(super) mod lease_queries;
pub(super) mod letter_calls;
pub(super) mod letter_queries;
mod letters;
pub(super) mod migrations;
mod sessions;
mod sizes;
pub(super) mod store_calls;
pub(super) mod stream_queries;

pub(super) use denied::missing_rights;
pub use denied::{is_denied, is_of_server};
pub(super) use dialect::Dialect;
pub(super) use driver::{Told, driver_error};
pub(super) use letters::{SummaryRow, assembled, detail_of, history_json, parts_of, summary_of};
pub use sessions::ConnectWith;
pub(super) use sessions::{Purpose, Session, Sessions, Widths, within};
pub(super) use sizes::FixedSizes;

use std::time::Duration;

use futures_util::{Stream, TryStreamExt};

use super::{ErrorKind, MAX_STREAMS, StoreError, StoredSpan, StreamKey, TRACE_BYTES};
use crate::gate::lease::{Decide, Holder, WHOLE};

/// Longest wait for the answer to one statement of a batch, and to a commit of anything: it waits for disks, and perhaps
/// for other servers. Then the connection counts as dead.
pub(super) const WRITE_ANSWER: Duration = Duration::from_secs(30);
/// Longest wait for the answer to any other statement of a claim, lease or look-up.
pub(super) const SHORT_ANSWER: Duration = Duration::from_secs(10);
/// Longest wait for the end of migrations. Those that there are create empty tables, which takes seconds; what comes may
/// change tables with many dead letters. A connection that died meanwhile is noticed after it.
pub(super) const MIGRATION_ANSWER: Duration = Duration::from_secs(10 * 60);

/// What [`ErrorKind::Schema`] says where Sluice's own tables are not there.
pub(super) const MISSING_TABLES: &str = "a table of Sluice is missing or too old: let it create them with \
     `manageSchema: true`, or apply the files of its folder `migrations` for this kind of database";

/// A row of the trace table: id, trace id, kind, body, milliseconds since 1970.
pub(super) type SpanRow = (i64, String, String, String, i64);

/// The spans that rows of the trace table tell of.
pub(super) fn stored_spans(rows: Vec<SpanRow>) -> Vec<StoredSpan> {
    let span =
        |(id, trace_id, kind, body, created_at_ms)| StoredSpan { id, trace_id, kind, body, created_at_ms };
    rows.into_iter().map(span).collect()
}

/// The rows of a query, up to the one with which their bodies exceed [`TRACE_BYTES`]: a trace may have any number of
/// spans of any size.
pub(super) async fn bounded(
    mut rows: impl Stream<Item = Result<SpanRow, sqlx::Error>> + Unpin,
) -> Result<Vec<SpanRow>, sqlx::Error> {
    let (mut found, mut bytes) = (Vec::new(), 0);
    while bytes <= TRACE_BYTES
        && let Some(row) = rows.try_next().await?
    {
        bytes += row.3.len();
        found.push(row);
    }
    // Another one tells that these are not all.
    found.extend(rows.try_next().await?);
    Ok(found)
}

/// A free number as the number of a stream.
///
/// # Errors
/// There are no more.
pub(super) fn stream_number(number: i64) -> Result<u16, StoreError> {
    u16::try_from(number).ok().filter(|number| *number < MAX_STREAMS).ok_or_else(|| {
        StoreError::new(
            ErrorKind::Schema,
            format!("all {MAX_STREAMS} stream numbers of this table are taken: use another table"),
        )
    })
}

/// Asks `decide` and holds its answer to the invariant that all shares together are at most [`WHOLE`].
pub(super) fn share_of(others: &[Holder], decide: &mut Decide<'_>) -> u32 {
    let taken: u64 = others.iter().map(|holder| u64::from(holder.share)).sum();
    let free = u64::from(WHOLE).saturating_sub(taken);
    let wanted = decide(others);
    debug_assert!(u64::from(wanted) <= free, "a share of {wanted} was taken where {free} is free");
    // `free` is at most WHOLE.
    wanted.min(free as u32)
}

/// The error for a claim of a stream that was never created.
pub(super) fn unknown_stream(key: &StreamKey) -> StoreError {
    StoreError::new(
        ErrorKind::Schema,
        format!("there is no stream of {}[{}] for group {:?}", key.topic, key.partition, key.group),
    )
}

/// The error for a batch or a claim that came too late.
pub(super) fn fenced(stream: u16, epoch: u64) -> StoreError {
    StoreError::new(
        ErrorKind::Fenced,
        format!("stream {stream} has moved on since epoch {epoch} claimed this position"),
    )
}

/// A number as a backend without unsigned ones stores it.
///
/// # Errors
/// Somebody has stored a number that Sluice never stores.
pub(super) fn unsigned<T: TryFrom<i64>>(stored: i64, column: &str) -> Result<T, StoreError> {
    T::try_from(stored).map_err(|_| {
        StoreError::new(ErrorKind::Schema, format!("sluice_progress.{column} is {stored}, out of its range"))
    })
}

/// An offset as a backend without unsigned numbers stores it.
///
/// # Errors
/// It is beyond what any queue counts to (2^63).
pub(super) fn signed(offset: u64) -> Result<i64, StoreError> {
    i64::try_from(offset)
        .map_err(|_| StoreError::new(ErrorKind::Refused, format!("offset {offset} is beyond 63 bits")))
}
