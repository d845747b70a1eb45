//! The in-memory twin of a queue, for tests: messages are pushed, ownership is scripted.
//!
//! Delivery is as [`super::Source`] promises. Besides, tests can lose messages ([`MemorySource::expire`]),
//! leave gaps ([`MemorySource::skip`]), re-create a topic ([`MemorySource::recreate`]) and let reads fail.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};

use async_trait::async_trait;
use sluice_crds::v1alpha1::StartFrom;
use tokio::sync::watch;

use super::{
    Bounds, Message, NoHeaders, PartitionReader, ReadEnd, Source, SourceError, SourceEvent, TopicPartition,
};
use crate::lock::lock;

/// A queue in memory. Clones share it.
#[derive(Clone)]
pub struct MemorySource {
    shared: Arc<Shared>,
}

struct Shared {
    cluster_id: Mutex<String>,
    state: Mutex<State>,
    /// Counts changes; whoever waits for anything waits for a change.
    changes: watch::Sender<u64>,
    opened: AtomicU64,
    resolved: AtomicU64,
}

#[derive(Default)]
struct State {
    partitions: BTreeMap<TopicPartition, Partition>,
    events: VecDeque<SourceEvent>,
}

#[derive(Default)]
struct Partition {
    messages: VecDeque<Stored>,
    low: u64,
    high: u64,
    owned: bool,
    /// Number of the reader that may read; 0 while none is open.
    reader: u64,
    reported: Option<u64>,
    failures: VecDeque<String>,
}

#[derive(Clone)]
struct Stored {
    offset: u64,
    timestamp: i64,
    key: Option<Vec<u8>>,
    payload: Option<Vec<u8>>,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.changes.send_modify(|count| *count += 1);
        result
    }
}

impl MemorySource {
    /// A queue with these partitions, none of them owned.
    pub fn new(cluster_id: &str, topic: &str, partitions: i32) -> Self {
        let state = State {
            partitions: (0..partitions)
                .map(|partition| (TopicPartition { topic: topic.into(), partition }, Partition::default()))
                .collect(),
            ..State::default()
        };
        let shared = Shared {
            cluster_id: Mutex::new(cluster_id.to_owned()),
            state: Mutex::new(state),
            changes: watch::Sender::new(0),
            opened: AtomicU64::new(0),
            resolved: AtomicU64::new(0),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Adds a partition, of this topic or another one; it is not owned.
    pub fn add_partition(&self, at: &TopicPartition) {
        self.shared.change(|state| {
            state.partitions.entry(at.clone()).or_default();
        });
    }

    fn with<T>(&self, at: &TopicPartition, change: impl FnOnce(&mut Partition) -> T) -> Option<T> {
        self.shared.change(|state| state.partitions.get_mut(at).map(change))
    }

    /// Appends a message and returns its offset; none where there is no such partition.
    pub fn push(&self, at: &TopicPartition, payload: &[u8]) -> Option<u64> {
        self.push_stored(at, None, Some(payload))
    }

    /// Appends a message with a key, or a tombstone.
    pub fn push_stored(
        &self,
        at: &TopicPartition,
        key: Option<&[u8]>,
        payload: Option<&[u8]>,
    ) -> Option<u64> {
        self.with(at, |partition| {
            let offset = partition.high;
            partition.high += 1;
            partition.messages.push_back(Stored {
                offset,
                // One millisecond apart, so that a start from a timestamp can be tested.
                timestamp: offset as i64,
                key: key.map(<[u8]>::to_vec),
                payload: payload.map(<[u8]>::to_vec),
            });
            offset
        })
    }

    /// Leaves a gap of `count` offsets, as transaction markers do.
    pub fn skip(&self, at: &TopicPartition, count: u64) {
        self.with(at, |partition| partition.high += count);
    }

    /// Deletes every message below `low`, as retention does.
    pub fn expire(&self, at: &TopicPartition, low: u64) {
        self.with(at, |partition| {
            partition.low = partition.low.max(low);
            partition.high = partition.high.max(low);
            partition.messages.retain(|message| message.offset >= low);
        });
    }

    /// Empties the partition and starts again at offset 0, as deleting and creating the topic does.
    pub fn recreate(&self, at: &TopicPartition) {
        self.with(at, |partition| {
            (partition.low, partition.high) = (0, 0);
            partition.messages.clear();
        });
    }

    /// From now on it is another cluster, with what was there before; topics that it has anew are [`Self::recreate`]d.
    pub fn become_cluster(&self, cluster_id: &str) {
        cluster_id.clone_into(&mut lock(&self.shared.cluster_id));
    }

    /// Lets the next read of the partition fail.
    pub fn fail_next_read(&self, at: &TopicPartition, message: &str) {
        self.with(at, |partition| partition.failures.push_back(message.to_owned()));
    }

    /// Gives partitions to the replica that reads this source.
    pub fn assign(&self, partitions: &[TopicPartition]) {
        self.change_owner(partitions, true);
    }

    /// Takes partitions away; their readers give nothing from now on.
    pub fn revoke(&self, partitions: &[TopicPartition]) {
        self.change_owner(partitions, false);
    }

    fn change_owner(&self, partitions: &[TopicPartition], owned: bool) {
        let event = if owned { SourceEvent::Assigned } else { SourceEvent::Revoked };
        self.shared.change(|state| {
            for at in partitions {
                if let Some(partition) = state.partitions.get_mut(at) {
                    partition.owned = owned;
                    partition.reader = 0;
                }
            }
            state.events.push_back(event(partitions.to_vec()));
        });
    }

    /// The position reported last.
    pub fn reported(&self, at: &TopicPartition) -> Option<u64> {
        self.shared.state().partitions.get(at).and_then(|partition| partition.reported)
    }

    /// How many starts were resolved.
    pub fn resolved(&self) -> u64 {
        self.shared.resolved.load(Relaxed)
    }

    fn bounds_of(&self, at: &TopicPartition) -> Result<Bounds, SourceError> {
        let state = self.shared.state();
        let partition = state.partitions.get(at).ok_or_else(|| SourceError::NotOwned(at.clone()))?;
        Ok(Bounds { low: partition.low, high: partition.high })
    }
}

#[async_trait]
impl Source for MemorySource {
    async fn cluster_id(&self) -> Result<String, SourceError> {
        Ok(lock(&self.shared.cluster_id).clone())
    }

    async fn next_event(&self) -> Result<SourceEvent, SourceError> {
        let mut changes = self.shared.changes.subscribe();
        loop {
            changes.mark_unchanged();
            let event = self.shared.state().events.pop_front();
            if let Some(event) = event {
                return Ok(event);
            }
            if changes.changed().await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    async fn partitions(&self) -> Result<Vec<TopicPartition>, SourceError> {
        Ok(self.shared.state().partitions.keys().cloned().collect())
    }

    async fn resolve_start(&self, at: &TopicPartition, start_from: &StartFrom) -> Result<u64, SourceError> {
        self.shared.resolved.fetch_add(1, Relaxed);
        let Bounds { low, high } = self.bounds_of(at)?;
        let state = self.shared.state();
        let messages = state.partitions.get(at).map(|partition| &partition.messages);
        Ok(match start_from {
            StartFrom::Earliest | StartFrom::Committed => low,
            StartFrom::Latest => high,
            StartFrom::Timestamp(time) => messages
                .and_then(|messages| messages.iter().find(|found| found.timestamp >= time.as_millisecond()))
                .map_or(high, |found| found.offset),
        })
    }

    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, SourceError> {
        self.bounds_of(at)
    }

    async fn written_end(&self, at: &TopicPartition) -> Result<u64, SourceError> {
        Ok(self.bounds_of(at)?.high)
    }

    async fn open(&self, at: &TopicPartition, offset: u64) -> Result<Box<dyn PartitionReader>, SourceError> {
        let number = self.shared.opened.fetch_add(1, Relaxed) + 1;
        let opened = self.with(at, |partition| {
            let owned = partition.owned;
            if owned {
                partition.reader = number;
            }
            owned
        });
        if opened != Some(true) {
            return Err(SourceError::NotOwned(at.clone()));
        }
        Ok(Box::new(Reader {
            shared: self.shared.clone(),
            changes: self.shared.changes.subscribe(),
            at: at.clone(),
            number,
            next: offset,
        }))
    }

    async fn close(&self, at: &TopicPartition) {
        self.with(at, |partition| partition.reader = 0);
    }

    async fn confirm_owned(&self, at: &TopicPartition) -> bool {
        self.shared.state().partitions.get(at).is_some_and(|partition| partition.owned)
    }

    fn report_position(&self, at: &TopicPartition, next_offset: u64) {
        self.with(at, |partition| partition.reported = Some(next_offset));
    }

    fn known_end(&self, at: &TopicPartition) -> Option<u64> {
        self.bounds_of(at).ok().map(|bounds| bounds.high)
    }

    async fn shutdown(&self) {
        self.shared.change(|state| {
            for partition in state.partitions.values_mut() {
                partition.reader = 0;
            }
        });
    }
}

struct Reader {
    shared: Arc<Shared>,
    changes: watch::Receiver<u64>,
    at: TopicPartition,
    number: u64,
    next: u64,
}

impl Reader {
    /// The next message; the end of reading where there is none.
    fn take(&mut self) -> Result<Result<Stored, ReadEnd>, SourceError> {
        let mut state = self.shared.state();
        let Some(partition) = state.partitions.get_mut(&self.at).filter(|found| found.reader == self.number)
        else {
            return Ok(Err(ReadEnd::Drained));
        };
        if let Some(message) = partition.failures.pop_front() {
            return Err(SourceError::Unavailable { context: "read", message });
        }
        if !(partition.low..=partition.high).contains(&self.next) {
            return Ok(Err(ReadEnd::Reopen));
        }
        let at = partition.messages.partition_point(|message| message.offset < self.next);
        Ok(partition.messages.get(at).cloned().ok_or(ReadEnd::Drained))
    }
}

#[async_trait]
impl PartitionReader for Reader {
    fn read(
        &mut self,
        limit: usize,
        handle: &mut dyn FnMut(Message<'_>) -> bool,
    ) -> Result<ReadEnd, SourceError> {
        for _ in 0..limit {
            // Before looking, so that a change after it wakes `ready`.
            self.changes.mark_unchanged();
            let stored = match self.take()? {
                Ok(stored) => stored,
                Err(end) => return Ok(end),
            };
            self.next = stored.offset + 1;
            let message = Message {
                offset: stored.offset,
                timestamp: Some(stored.timestamp),
                key: stored.key.as_deref(),
                payload: stored.payload.as_deref(),
                headers: &NoHeaders,
            };
            if !handle(message) {
                break;
            }
        }
        self.changes.mark_changed();
        Ok(ReadEnd::Limit)
    }

    async fn ready(&mut self) {
        if self.changes.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at() -> TopicPartition {
        TopicPartition { topic: "t".into(), partition: 0 }
    }

    fn offsets(reader: &mut dyn PartitionReader, limit: usize) -> (Vec<u64>, ReadEnd) {
        let mut found = Vec::new();
        let end = reader.read(limit, &mut |message| {
            found.push(message.offset);
            true
        });
        (found, end.unwrap())
    }

    #[tokio::test]
    async fn messages_come_in_order_over_gaps_until_the_partition_is_revoked() {
        let source = MemorySource::new("c", "t", 1);
        source.push(&at(), b"a");
        source.skip(&at(), 3);
        source.push(&at(), b"b");
        source.assign(&[at()]);
        assert_eq!(source.next_event().await.unwrap(), SourceEvent::Assigned(vec![at()]));
        let mut reader = source.open(&at(), 0).await.unwrap();
        assert_eq!(offsets(&mut *reader, 1), (vec![0], ReadEnd::Limit));
        reader.ready().await;
        assert_eq!(offsets(&mut *reader, 9), (vec![4], ReadEnd::Drained));
        source.push(&at(), b"c");
        reader.ready().await;
        source.revoke(&[at()]);
        assert_eq!(offsets(&mut *reader, 9), (vec![], ReadEnd::Drained));
        assert!(matches!(source.open(&at(), 5).await, Err(SourceError::NotOwned(_))));
    }

    #[tokio::test]
    async fn expired_messages_are_out_of_range() {
        let source = MemorySource::new("c", "t", 1);
        source.push(&at(), b"a");
        source.push(&at(), b"b");
        source.assign(&[at()]);
        source.expire(&at(), 1);
        let mut reader = source.open(&at(), 0).await.unwrap();
        assert_eq!(offsets(&mut *reader, 9), (vec![], ReadEnd::Reopen));
    }
}
