//! What the three SQL backends share: connections that are kept while they are good, and batches cut into
//! statements of fixed sizes.

mod denied;
pub(super) mod key_queries;
pub(super) mod lease_queries;
pub(super) mod letter_queries;
mod letters;
pub(super) mod migrations;
mod sessions;
mod sizes;

pub use denied::is_denied;
pub(super) use denied::missing_rights;
pub(super) use letters::{detail_of, parts_of};
pub use sessions::ConnectWith;
pub(super) use sessions::{Purpose, Session, Sessions, Widths, within};
pub(super) use sizes::FixedSizes;

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use super::{ErrorKind, MAX_STREAMS, StoreError, StoredSpan, StreamKey};
use crate::gate::lease::{Decide, Holder, WHOLE};

/// Longest wait for the answer to one statement of a batch; then the connection counts as dead.
pub(super) const WRITE_ANSWER: Duration = Duration::from_secs(30);
/// Longest wait for the answer to one statement of a claim, lease or look-up.
pub(super) const SHORT_ANSWER: Duration = Duration::from_secs(10);

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

/// The streams among `starts` that `existing` lacks, with the numbers that they get.
///
/// # Errors
/// The numbers do not suffice.
pub(super) fn number_missing<'a>(
    starts: &'a [(StreamKey, u64)],
    existing: &HashSet<StreamKey>,
    first_free: u32,
) -> Result<Vec<(u16, &'a StreamKey, u64)>, StoreError> {
    let mut seen = HashSet::new();
    starts
        .iter()
        .filter(|(key, _)| !existing.contains(key) && seen.insert(key))
        .zip(first_free..)
        .map(|((key, start), number)| Ok((stream_number(number)?, key, *start)))
        .collect()
}

/// The last position of each partition, from rows in the order of generations.
pub(super) fn newest_positions(
    cluster_id: &str,
    group: &str,
    rows: impl IntoIterator<Item = (String, i32, u64)>,
) -> Vec<(StreamKey, u64)> {
    let newest: BTreeMap<_, _> =
        rows.into_iter().map(|(topic, partition, next_offset)| ((topic, partition), next_offset)).collect();
    let key = |(topic, partition)| StreamKey {
        cluster_id: cluster_id.to_owned(),
        group: group.to_owned(),
        topic,
        partition,
    };
    newest.into_iter().map(|(at, next_offset)| (key(at), next_offset)).collect()
}

/// A free number as the number of a stream.
///
/// # Errors
/// There are no more.
pub(super) fn stream_number(number: u32) -> Result<u16, StoreError> {
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
