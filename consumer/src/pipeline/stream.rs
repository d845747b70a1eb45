//! Claiming a partition's stream and opening the partition where the stream stands.
//!
//! The position comes from the database, never from the queue. Before anything is fetched, the stream exists
//! with its start, and its epoch was counted up, so whoever held it before is fenced.

use std::sync::Arc;
use std::time::Duration;

use sluice_crds::v1alpha1::StartFrom;
use tokio::time::Instant;

use super::segment::fingerprint;
use crate::gate::clock::DatabaseClock;
use crate::last_error::LastError;
use crate::meter::{Meters, PartitionMeter};
use crate::source::{Message, PartitionReader, Source, SourceError, TopicPartition};
use crate::store::{Claim, Position, Store, StoreError, StreamKey};

/// Why a partition has to be claimed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// Another replica claimed the stream, or an earlier try of the batch was committed after all.
    Fenced,
    /// An id existed already.
    DuplicateId,
    /// The queue no longer has the offset that was to be read.
    OutOfRange,
    /// The last stored message is another one in the queue: the topic was deleted and created again.
    Recreated,
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
    next_offset: u64,
    /// Of the message before, while that one has not been seen again.
    fingerprint: Option<u64>,
}

impl Expected {
    /// Whether the message is to be stored; false for the last stored one, which is only read to compare.
    pub fn admit(&mut self, message: &Message<'_>) -> Result<bool, Trouble> {
        if message.offset >= self.next_offset {
            // The one before has expired or was compacted away: that is no mismatch.
            self.fingerprint = None;
            self.next_offset = message.offset + 1;
            return Ok(true);
        }
        match self.fingerprint {
            Some(known) if message.offset + 1 == self.next_offset && known != fingerprint(message) => {
                Err(Trouble::Recreated)
            }
            _ => Ok(false),
        }
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
    /// Counters.
    pub meters: Arc<Meters>,
    /// The queue's identity.
    pub cluster_id: String,
    /// Consumer group.
    pub group: String,
    /// This replica.
    pub owner: String,
    /// Where the very first start begins.
    pub start_from: StartFrom,
    /// See [`super::Parts::by_pattern`].
    pub by_pattern: bool,
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
/// First and longest pause between two tries of opening.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

impl Opener {
    /// Tries until the partition is open; none where it is no longer ours. Cancelled by its caller when the
    /// partition is revoked.
    pub async fn open(
        &self,
        at: TopicPartition,
        serial: u64,
        trouble: Option<Trouble>,
    ) -> Option<OpenStream> {
        let mut backoff = BACKOFF.0;
        let mut trouble = trouble;
        loop {
            if trouble == Some(Trouble::Fenced) && !self.source.confirm_owned(&at).await {
                return None;
            }
            match self.try_open(&at, serial, trouble).await {
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
                    // Somebody else claims at the same time: look again who owns it.
                    if error.kind == crate::store::ErrorKind::Fenced {
                        trouble = Some(Trouble::Fenced);
                    }
                }
            }
            tokio::time::sleep(backoff.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
            backoff = (backoff * 2).min(BACKOFF.1);
        }
    }

    async fn try_open(
        &self,
        at: &TopicPartition,
        serial: u64,
        trouble: Option<Trouble>,
    ) -> Result<OpenStream, OpenError> {
        let key = self.key(at);
        self.ensure_stream(at, &key).await?;
        let mut claim = self.claim(&key).await?;
        // Only now: before the claim another owner could go on past an end that was asked for earlier, and
        // its position would look like that of a topic that was re-created.
        let mut bounds = self.source.bounds(at).await?;
        // A new leader may not know yet how far consumers were allowed to read: ask again before believing it.
        let shrunk_at = Instant::now();
        while claim.position.next_offset > bounds.high && shrunk_at.elapsed() < SHRUNK_FOR {
            tokio::time::sleep(BACKOFF.0).await;
            bounds = self.source.bounds(at).await?;
        }
        if trouble == Some(Trouble::Recreated) || claim.position.next_offset > bounds.high {
            tracing::warn!(partition = %at, position = claim.position.next_offset, ?bounds,
                "the topic was deleted and created again: a new stream begins at its oldest message");
            self.meters.recreated.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            self.store.supersede(&key, &claim, bounds.low).await?;
            claim = self.claim(&key).await?;
        }
        let position = claim.position;
        let skipped = bounds.low.saturating_sub(position.next_offset);
        if skipped > 0 {
            tracing::error!(partition = %at, from = position.next_offset, to = bounds.low,
                "{skipped} offsets were deleted from the queue before they could be stored");
            self.meters.skipped_offsets.fetch_add(skipped, std::sync::atomic::Ordering::Relaxed);
        }
        let next_offset = position.next_offset.max(bounds.low);
        // The last stored message is read once more, to see that it is still the same one.
        let begin = match claim.fingerprint {
            Some(_) if next_offset > bounds.low => next_offset - 1,
            _ => next_offset,
        };
        let reader = self.source.open(at, begin).await?;
        // An owner that was killed may have stored more than it told the broker.
        self.source.report_position(at, position.next_offset);
        self.meters
            .set_partition(at, PartitionMeter { position: position.next_offset, end: Some(bounds.high) });
        let expected = Expected { next_offset, fingerprint: claim.fingerprint };
        tracing::info!(partition = %at, stream = claim.stream, epoch = claim.epoch, offset = next_offset, "reading");
        Ok(OpenStream { at: at.clone(), serial, claim, position, reader, expected })
    }

    async fn claim(&self, key: &StreamKey) -> Result<Claim, StoreError> {
        let asked_at = Instant::now();
        let claim = self.store.claim(key, &self.owner).await?;
        self.clock.read(asked_at, claim.database_time_ms);
        Ok(claim)
    }

    /// Commits the resolved start of every partition that is new, before anything is fetched.
    async fn ensure_stream(&self, at: &TopicPartition, key: &StreamKey) -> Result<(), OpenError> {
        let known = self.store.streams(&self.cluster_id, &self.group).await?;
        if known.iter().any(|stream| stream.topic == key.topic && stream.partition == key.partition) {
            return Ok(());
        }
        let first_start = if self.by_pattern {
            known.is_empty()
        } else {
            known.iter().all(|stream| stream.topic != key.topic)
        };
        if !first_start {
            // Found later: whatever came into it came after the pipeline began, so it begins with the oldest.
            let low = self.source.bounds(at).await?.low;
            self.store.create_streams(&[(key.clone(), low)]).await?;
            return Ok(());
        }
        // All partitions at once: another replica that starts at the same time must not take the rest for
        // partitions that were found later.
        let mut starts = Vec::new();
        for partition in self.source.partitions().await? {
            if self.by_pattern || partition.topic == at.topic {
                let start = self.source.resolve_start(&partition, &self.start_from).await?;
                starts.push((self.key(&partition), start));
            }
        }
        self.store.create_streams(&starts).await?;
        Ok(())
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
