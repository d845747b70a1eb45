//! A source cut to ranges of offsets: nothing at or behind a range's end is read, nothing outside the ranges exists.

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;
use sluice_crds::v1alpha1::StartFrom;

use crate::source::{
    Bounds, Message, PartitionReader, ReadEnd, Source, SourceError, SourceEvent, TopicPartition,
};

/// The ends, exclusive, of the ranges: see the module.
pub type Ends = BTreeMap<TopicPartition, u64>;

/// See the module.
pub struct RangeSource {
    inner: Arc<dyn Source>,
    ends: Ends,
}

impl RangeSource {
    /// What `inner` has, before these ends.
    pub fn new(inner: Arc<dyn Source>, ends: Ends) -> Self {
        Self { inner, ends }
    }

    fn ours(&self, partitions: Vec<TopicPartition>) -> Vec<TopicPartition> {
        partitions.into_iter().filter(|at| self.ends.contains_key(at)).collect()
    }
}

#[async_trait]
impl Source for RangeSource {
    async fn cluster_id(&self) -> Result<String, SourceError> {
        self.inner.cluster_id().await
    }

    fn join(&self) -> Result<(), SourceError> {
        self.inner.join()
    }

    async fn next_event(&self) -> Result<SourceEvent, SourceError> {
        Ok(match self.inner.next_event().await? {
            SourceEvent::Assigned(partitions) => SourceEvent::Assigned(self.ours(partitions)),
            SourceEvent::Revoked(partitions) => SourceEvent::Revoked(self.ours(partitions)),
        })
    }

    async fn partitions(&self) -> Result<Vec<TopicPartition>, SourceError> {
        Ok(self.ours(self.inner.partitions().await?))
    }

    async fn resolve_start(&self, at: &TopicPartition, start_from: &StartFrom) -> Result<u64, SourceError> {
        self.inner.resolve_start(at, start_from).await
    }

    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, SourceError> {
        self.inner.bounds(at).await
    }

    async fn written_end(&self, at: &TopicPartition) -> Result<u64, SourceError> {
        self.inner.written_end(at).await
    }

    async fn open(&self, at: &TopicPartition, offset: u64) -> Result<Box<dyn PartitionReader>, SourceError> {
        let end = self.ends.get(at).copied().unwrap_or_default();
        let inner = self.inner.open(at, offset).await?;
        Ok(Box::new(RangeReader { inner, end, over: offset >= end }))
    }

    async fn close(&self, at: &TopicPartition) {
        self.inner.close(at).await;
    }

    async fn confirm_owned(&self, at: &TopicPartition) -> bool {
        self.inner.confirm_owned(at).await
    }

    fn report_position(&self, at: &TopicPartition, next_offset: u64) {
        self.inner.report_position(at, next_offset);
    }

    fn known_end(&self, at: &TopicPartition) -> Option<u64> {
        self.ends.get(at).copied()
    }

    async fn shutdown(&self) {
        self.inner.shutdown().await;
    }
}

struct RangeReader {
    inner: Box<dyn PartitionReader>,
    end: u64,
    /// The end was reached.
    over: bool,
}

#[async_trait]
impl PartitionReader for RangeReader {
    fn read(
        &mut self,
        limit: usize,
        handle: &mut dyn FnMut(Message<'_>) -> bool,
    ) -> Result<ReadEnd, SourceError> {
        if self.over {
            return Ok(ReadEnd::Drained);
        }
        let (end, over) = (self.end, &mut self.over);
        let read = self.inner.read(limit, &mut |message| {
            *over = message.offset + 1 >= end;
            let wants_more = message.offset >= end || handle(message);
            wants_more && !*over
        })?;
        Ok(if self.over { ReadEnd::Drained } else { read })
    }

    async fn ready(&mut self) {
        if self.over {
            std::future::pending::<()>().await;
        }
        self.inner.ready().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::memory::MemorySource;

    fn at(partition: i32) -> TopicPartition {
        TopicPartition { topic: "t".into(), partition }
    }

    async fn reader(source: &RangeSource, from: u64) -> Box<dyn PartitionReader> {
        // Nothing is opened before it is assigned.
        source.next_event().await.unwrap();
        source.open(&at(0), from).await.unwrap()
    }

    fn read(reader: &mut dyn PartitionReader, limit: usize) -> (Vec<u64>, ReadEnd) {
        let mut offsets = Vec::new();
        let end = reader.read(limit, &mut |message| {
            offsets.push(message.offset);
            true
        });
        (offsets, end.unwrap())
    }

    fn source(ends: Ends) -> RangeSource {
        let memory = MemorySource::new("c", "t", 2);
        for number in 0..10 {
            memory.push(&at(0), format!("{number}").as_bytes());
        }
        memory.assign(&[at(0), at(1)]);
        RangeSource::new(Arc::new(memory), ends)
    }

    #[tokio::test]
    async fn nothing_from_the_end_on_is_read() {
        let source = source([(at(0), 7)].into());
        let mut reader = reader(&source, 2).await;
        assert_eq!(read(&mut *reader, 3), (vec![2, 3, 4], ReadEnd::Limit));
        assert_eq!(read(&mut *reader, 9), (vec![5, 6], ReadEnd::Drained));
        assert_eq!(read(&mut *reader, 9), (vec![], ReadEnd::Drained));
        assert_eq!(source.known_end(&at(0)), Some(7));
    }

    #[tokio::test]
    async fn a_range_that_is_over_gives_nothing_and_waits_for_nothing() {
        let source = source([(at(0), 2)].into());
        let mut reader = reader(&source, 2).await;
        assert_eq!(read(&mut *reader, 9), (vec![], ReadEnd::Drained));
        let waited = tokio::time::timeout(std::time::Duration::from_millis(1), reader.ready()).await;
        assert!(waited.is_err());
    }

    #[tokio::test]
    async fn partitions_without_a_range_are_not_there() {
        let source = source([(at(0), 7)].into());
        assert_eq!(source.partitions().await.unwrap(), [at(0)]);
        let event = source.next_event().await.unwrap();
        assert_eq!(event, SourceEvent::Assigned(vec![at(0)]));
    }
}
