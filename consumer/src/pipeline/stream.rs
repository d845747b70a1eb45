//! Claiming a partition's stream and opening the partition where the stream stands.
//!
//! The position comes from the database, never from the queue. Before anything is fetched, the stream exists
//! with its start, and its epoch was counted up, so whoever held it before is fenced.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sluice_crds::v1alpha1::StartFrom;
use tokio::time::Instant;

use super::segment::fingerprint;
use crate::backoff::Backoff;
use crate::gate::clock::{DatabaseClock, own_time_ms};
use crate::last_error::LastError;
use crate::meter::{Meters, PartitionMeter};
use crate::source::{Bounds, Message, PartitionReader, Source, SourceError, TopicPartition};
use crate::store::{Claim, ErrorKind, Position, Store, StoreError, StreamKey, WriteBatch, id};

/// Why a partition has to be claimed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reclaim {
    /// Another replica claimed the stream, or an earlier try of the batch was committed after all.
    Fenced,
    /// An id existed already.
    DuplicateId,
    /// The reader cannot go on: see [`crate::source::ReadEnd::Reopen`].
    Reopen,
    /// The last message that this stream stored is another one in the queue: the topic was deleted and created
    /// again.
    Recreated {
        /// [`Claim::stream`]: whoever has noticed it before has begun another one.
        stream: u16,
    },
}

impl Reclaim {
    /// Whether an error of a write means that the stream is to be claimed again.
    pub fn after(error: ErrorKind) -> Option<Self> {
        match error {
            ErrorKind::Fenced => Some(Self::Fenced),
            ErrorKind::DuplicateId => Some(Self::DuplicateId),
            _ => None,
        }
    }
}

/// A claimed stream with a reader at its position.
pub struct OpenStream {
    /// Which partition.
    pub at: TopicPartition,
    /// Distinguishes this opening from earlier ones of the same partition.
    pub serial: u64,
    /// The right to move the position.
    pub claim: Claim,
    /// Where the stream stands.
    pub position: Position,
    /// Reads from there.
    pub reader: Box<dyn PartitionReader>,
    /// What must come first.
    pub expected: Expected,
}

/// Tells whether a message belongs to the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    stream: u16,
    next_offset: u64,
    /// Of the message before, while that one has not been seen again.
    fingerprint: Option<u64>,
}

impl Expected {
    /// The first offset that was not read yet.
    #[cfg(feature = "planted")]
    pub fn next_offset(&self) -> u64 {
        self.next_offset
    }

    /// Whether the message is to be stored; false for the last stored one, which is only read to compare.
    pub fn admit(&mut self, message: &Message<'_>) -> Result<bool, Reclaim> {
        if message.offset >= self.next_offset {
            // The one before has expired or was compacted away: that is no mismatch.
            self.fingerprint = None;
            self.next_offset = message.offset + 1;
            return Ok(true);
        }
        match self.fingerprint {
            #[cfg(feature = "planted")]
            _ if crate::planted::is(crate::planted::Bug::IgnoreFingerprint) => Ok(false),
            Some(known) if message.offset + 1 == self.next_offset && known != fingerprint(message) => {
                Err(Reclaim::Recreated { stream: self.stream })
            }
            _ => Ok(false),
        }
    }
}

/// Offsets already counted as skipped, so that a repeated try does not count them again.
#[derive(Debug, Default)]
struct Gap {
    stream: u16,
    end: u64,
}

impl Gap {
    /// How many of the stream's offsets in `from..to` were not counted yet.
    fn skip(&mut self, stream: u16, from: u64, to: u64) -> u64 {
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Bug::ForgetGap) {
            return 0;
        }
        let counted = if self.stream == stream { self.end } else { 0 };
        *self = Self { stream, end: to.max(counted) };
        to.saturating_sub(from.max(counted))
    }
}

/// What opening needs.
#[derive(Clone)]
pub struct Opener {
    /// The queue.
    pub source: Arc<dyn Source>,
    /// The database.
    pub store: Arc<dyn Store>,
    /// Learns the database's time from claims.
    pub clock: Arc<DatabaseClock>,
    pub meters: Arc<Meters>,
    /// The queue's identity.
    pub cluster_id: String,
    /// Consumer group.
    pub group: String,
    /// This replica.
    pub replica: String,
    /// Where the very first start begins.
    pub start_from: StartFrom,
    /// See [`super::Parts::by_pattern`].
    pub by_pattern: bool,
    /// Whether what it reads ends with the topic as it was, see [`super::Parts::shares_rate_of`].
    pub is_replay: bool,
    /// Streams that exist, which go on existing. Held while starts are resolved: of many partitions that are opened at
    /// once, one does it for all.
    pub known: Arc<tokio::sync::Mutex<HashSet<StreamKey>>>,
}

/// Why opening failed.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The queue's fault.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// The database's fault.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// A partition that ends before the position for this long was created again. Longer than a change of leader.
const SHRUNK_FOR: Duration = Duration::from_secs(10);
/// Pause before a stream is claimed again whose ids existed already: claiming alone may not change that.
const DUPLICATE_PAUSE: Duration = Duration::from_secs(1);
/// Between two looks at an end that seems to have gone back.
const END_LOOKED_AT_EVERY: Duration = Duration::from_millis(100);
/// Between two tries of opening.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));

/// How far the last id is ahead of both clocks. Where it is ahead of the database's alone, that one is behind: new rows with
/// ids of its time would be old as soon as it is set right.
fn ahead_ms(last_id: i64, database_ms: i64, own_ms: i64) -> i64 {
    id::time_ms(last_id) - database_ms.max(own_ms)
}

impl Opener {
    /// Tries until the partition is open; none where it is no longer ours. Cancelled by its caller when the
    /// partition is revoked.
    pub async fn open(
        &self,
        at: TopicPartition,
        serial: u64,
        because: Option<Reclaim>,
    ) -> Option<OpenStream> {
        let mut backoff = BACKOFF;
        let mut because = because;
        let mut gap = Gap::default();
        if because == Some(Reclaim::DuplicateId) {
            tokio::time::sleep(DUPLICATE_PAUSE).await;
        }
        loop {
            if because == Some(Reclaim::Fenced) && !self.source.confirm_owned(&at).await {
                return None;
            }
            match self.try_open(&at, serial, because, &mut gap).await {
                Ok(open) => {
                    self.meters.opened(&at);
                    return Some(open);
                }
                Err(OpenError::Source(SourceError::NotOwned(_))) => return None,
                Err(OpenError::Source(error)) => {
                    tracing::warn!(partition = %at, %error, "the partition cannot be opened yet");
                    self.meters.partition_failed(&at, LastError::from(&error));
                }
                Err(OpenError::Store(error)) => {
                    self.meters.store_failed(Some(&at), &error);
                    match error.kind {
                        // Somebody else claims at the same time: look again who owns it.
                        ErrorKind::Fenced => because = Some(Reclaim::Fenced),
                        // A database that was restored may lack streams that it had.
                        ErrorKind::Schema => self.known.lock().await.clear(),
                        _ => {}
                    }
                }
            }
            tokio::time::sleep(backoff.pause()).await;
        }
    }

    async fn try_open(
        &self,
        at: &TopicPartition,
        serial: u64,
        because: Option<Reclaim>,
        gap: &mut Gap,
    ) -> Result<OpenStream, OpenError> {
        self.check_cluster().await?;
        let key = self.key(at);
        self.ensure_stream(at, &key).await?;
        let claim = self.claim(&key).await?;
        // Only now: before the claim another owner could go on past an end that was asked for earlier, and
        // its position would look like that of a topic that was re-created.
        let bounds = self.bounds_at(at, claim.position.next_offset).await?;
        let claim = self.supersede_if_due(at, &key, claim, bounds, because).await?;
        let position = self.pass_gap(at, &claim, bounds.low, gap).await?;
        let next_offset = position.next_offset;
        // The last stored message is read once more, to see that it is still the same one.
        let begin = match claim.fingerprint {
            Some(_) if next_offset > bounds.low => next_offset - 1,
            _ => next_offset,
        };
        let reader = self.source.open(at, begin).await?;
        // An owner that was killed may have stored more than it told the broker.
        self.source.report_position(at, next_offset);
        self.meters.set_partition(at, PartitionMeter { position: next_offset, end: Some(bounds.high) });
        let expected = Expected { stream: claim.stream, next_offset, fingerprint: claim.fingerprint };
        tracing::info!(partition = %at, stream = claim.stream, epoch = claim.epoch, offset = next_offset, "reading");
        Ok(OpenStream { at: at.clone(), serial, claim, position, reader, expected })
    }

    /// Whether the queue is the one whose streams these are: the same address may have come to be another cluster's, and a
    /// stream that went on there would hold its rows under the wrong name. The pipeline begins anew with that cluster's
    /// streams when the client is replaced.
    async fn check_cluster(&self) -> Result<(), SourceError> {
        let now = self.source.cluster_id().await?;
        if now == self.cluster_id {
            return Ok(());
        }
        let message = format!("it has the id {now:?}, and the one before had {:?}", self.cluster_id);
        Err(SourceError::Unavailable { context: "another cluster answers at this address", message })
    }

    /// What the queue has of a partition whose stream stands at `next_offset`.
    async fn bounds_at(&self, at: &TopicPartition, next_offset: u64) -> Result<Bounds, SourceError> {
        let mut bounds = self.source.bounds(at).await?;
        // A new leader may not know yet how far consumers were allowed to read: ask again before believing it.
        let shrunk_at = Instant::now();
        while next_offset > bounds.high && shrunk_at.elapsed() < SHRUNK_FOR {
            tokio::time::sleep(END_LOOKED_AT_EVERY).await;
            bounds = self.source.bounds(at).await?;
        }
        Ok(bounds)
    }

    /// The claim, or where its stream cannot go on that of a new one.
    ///
    /// A replay has none in a topic that was created again: whenever it is run again it would go on there, over messages that
    /// it was never to read.
    async fn supersede_if_due(
        &self,
        at: &TopicPartition,
        key: &StreamKey,
        claim: Claim,
        bounds: Bounds,
        because: Option<Reclaim>,
    ) -> Result<Claim, OpenError> {
        let recreated = because == Some(Reclaim::Recreated { stream: claim.stream });
        let next_offset = claim.position.next_offset;
        let ahead_ms = ahead_ms(claim.position.last_id, claim.database_time.ms, own_time_ms());
        // What an open transaction keeps from readers was read where the isolation level was another one.
        if recreated || next_offset > bounds.high && next_offset > self.source.written_end(at).await? {
            self.check_cluster().await?;
            if self.is_replay {
                self.meters.recreated.fetch_add(1, Relaxed);
                return Err(SourceError::UnknownTopic(format!("the topic of {at} is another one now")).into());
            }
            tracing::warn!(partition = %at, position = claim.position.next_offset, ?bounds,
                "the topic was deleted and created again: a new stream begins at its oldest message");
            self.store.supersede(key, &claim, bounds.low).await?;
            self.meters.recreated.fetch_add(1, Relaxed);
        } else if ahead_ms > id::MOST_AHEAD_MS {
            tracing::warn!(partition = %at, ahead_ms,
                "the database's clock was ahead when the last ids were given out: a new stream goes on with ids of today");
            self.store.supersede(key, &claim, next_offset).await?;
        } else {
            return Ok(claim);
        }
        Ok(self.claim(key).await?)
    }

    /// Moves the position to the oldest message that the queue still has, and counts what it no longer has: the
    /// move is committed, so that whoever opens the partition next does not meet the same gap.
    async fn pass_gap(
        &self,
        at: &TopicPartition,
        claim: &Claim,
        low: u64,
        gap: &mut Gap,
    ) -> Result<Position, StoreError> {
        let from = claim.position;
        if from.next_offset >= low {
            return Ok(from);
        }
        let skipped = gap.skip(claim.stream, from.next_offset, low);
        if skipped > 0 {
            tracing::error!(partition = %at, from = from.next_offset, to = low,
                "{skipped} offsets were deleted from the queue before they could be stored");
            self.meters.skipped_offsets.fetch_add(skipped, Relaxed);
        }
        let to = Position { next_offset: low, ..from };
        let batch = WriteBatch {
            stream: claim.stream,
            epoch: claim.epoch,
            from,
            to,
            fingerprint: None,
            rows: &[],
            dead_letters: &[],
            queue_copies: false,
        };
        self.store.write(&batch).await?;
        Ok(to)
    }

    async fn claim(&self, key: &StreamKey) -> Result<Claim, StoreError> {
        let asked_at = Instant::now();
        let claim = self.store.claim(key, &self.replica).await?;
        self.clock.correct(asked_at, claim.database_time);
        Ok(claim)
    }

    /// Commits the resolved start of every partition that is new, before anything is fetched.
    async fn ensure_stream(&self, at: &TopicPartition, key: &StreamKey) -> Result<(), OpenError> {
        let mut known = self.known.lock().await;
        if known.contains(key) {
            return Ok(());
        }
        known.extend(self.store.streams(&self.cluster_id, &self.group).await?);
        if known.contains(key) {
            return Ok(());
        }
        let is_first_start = known.is_empty();
        let starts = if known.iter().any(|stream| stream.topic == key.topic) {
            // Added to a topic that is read: whatever came into it came after the pipeline began. What has expired since is
            // a gap.
            vec![(key.clone(), 0)]
        } else if self.by_pattern && !is_first_start {
            // A topic that the pattern had not found before: new, or old and only now ours to see. What it no longer has
            // was never to be read.
            self.starts_of(Some(&at.topic), &StartFrom::Earliest).await?
        } else {
            self.starts_of((!self.by_pattern).then_some(&*at.topic), &self.start_from).await?
        };
        self.store.create_streams(&starts).await?;
        known.extend(starts.into_iter().map(|(key, _)| key));
        Ok(())
    }

    /// Where all partitions of a topic begin, or of all topics. All at once: another replica that starts at the same time
    /// must not take the rest for partitions that were added later.
    async fn starts_of(
        &self,
        topic: Option<&str>,
        from: &StartFrom,
    ) -> Result<Vec<(StreamKey, u64)>, OpenError> {
        let mut starts = Vec::new();
        for partition in self.source.partitions().await? {
            if topic.is_none_or(|topic| &*partition.topic == topic) {
                let start = self.source.resolve_start(&partition, from).await?;
                starts.push((self.key(&partition), start));
            }
        }
        Ok(starts)
    }

    fn key(&self, at: &TopicPartition) -> StreamKey {
        StreamKey {
            cluster_id: self.cluster_id.clone(),
            group: self.group.clone(),
            topic: at.topic.to_string(),
            partition: at.partition,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_ahead_only_where_both_clocks_say_so() {
        const YEAR_MS: i64 = 365 * 24 * 3_600_000;
        let (now, last_id) = (1_800_000_000_000, id::first_at(1_800_000_000_000));
        assert_eq!(ahead_ms(last_id, now, now), 0);
        assert_eq!(ahead_ms(last_id, now - YEAR_MS, now - YEAR_MS), YEAR_MS);
        assert_eq!(ahead_ms(last_id, now - YEAR_MS, now), 0, "the database's is behind");
        assert_eq!(ahead_ms(last_id, now, now - YEAR_MS), 0, "the replica's is behind");
    }
}
