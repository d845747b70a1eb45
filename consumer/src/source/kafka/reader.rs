//! Reads one open partition from its own queue.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::consumer::Consumer;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedHeaders, Headers as _, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::Notify;

use super::group::{Group, GroupContext, list};
use super::{GroupConsumer, unavailable};
use crate::source::{Headers, Message, NoHeaders, PartitionReader, ReadEnd, SourceError, TopicPartition};

/// A wake-up may be lost where messages arrived before the callback was set: look again after this.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// Adds the partition to the client's assignment at `offset`.
pub fn open(
    consumer: &Arc<GroupConsumer>,
    group: &Group,
    at: &TopicPartition,
    offset: u64,
) -> Result<Box<dyn PartitionReader>, SourceError> {
    group.change_open(at, |open| {
        let Some(open) = open else { return Err(SourceError::NotOwned(at.clone())) };
        if let Some(ended) = open.remove(at) {
            ended.notify_waiters();
            consumer
                .incremental_unassign(&list([at]))
                .map_err(|error| unavailable("cannot close", &error))?;
        }
        // Before the assignment, so that no message takes the way through the common queue.
        let mut queue = consumer.split_partition_queue(&at.topic, at.partition).ok_or_else(|| {
            SourceError::Unavailable {
                context: "cannot open a partition",
                message: format!("no queue for {at}"),
            }
        })?;
        let arrived = Arc::new(Notify::new());
        queue.set_nonempty_callback({
            let arrived = arrived.clone();
            move || arrived.notify_one()
        });
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(&at.topic, at.partition, Offset::Offset(offset as i64))
            .and_then(|()| consumer.incremental_assign(&assignment))
            .map_err(|error| unavailable("cannot open a partition", &error))?;
        open.insert(at.clone(), arrived.clone());
        Ok(Box::new(KafkaReader { queue, arrived }) as Box<dyn PartitionReader>)
    })
}

struct KafkaReader {
    queue: PartitionQueue<GroupContext>,
    /// Notified when the queue was empty and is not any more, and when the opening has ended.
    arrived: Arc<Notify>,
}

#[async_trait]
impl PartitionReader for KafkaReader {
    fn read(
        &mut self,
        limit: usize,
        handle: &mut dyn FnMut(Message<'_>) -> bool,
    ) -> Result<ReadEnd, SourceError> {
        for _ in 0..limit {
            let message = match self.queue.poll(Duration::ZERO) {
                None => return Ok(ReadEnd::Drained),
                Some(Err(error)) if is_out_of_range(&error) => return Ok(ReadEnd::OffsetOutOfRange),
                Some(Err(error)) => return Err(unavailable("cannot read a partition", &error)),
                Some(Ok(message)) => message,
            };
            let headers = message.headers().map(KafkaHeaders);
            let wants_more = handle(Message {
                offset: message.offset().max(0) as u64,
                timestamp: message.timestamp().to_millis(),
                key: message.key(),
                payload: message.payload(),
                headers: headers.as_ref().map_or(&NoHeaders as &dyn Headers, |headers| headers),
            });
            if !wants_more {
                return Ok(ReadEnd::Limit);
            }
        }
        Ok(ReadEnd::Limit)
    }

    async fn ready(&mut self) {
        // Only a guard against a lost wake-up; a time-out is as good as an arrival.
        if tokio::time::timeout(LOOK_AGAIN, self.arrived.notified()).await.is_err() {
            tracing::trace!("nothing arrived");
        }
    }
}

/// `auto.offset.reset=error` turns an offset that is gone into this error.
fn is_out_of_range(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::AutoOffsetReset | RDKafkaErrorCode::OffsetOutOfRange)
    )
}

struct KafkaHeaders<'a>(&'a BorrowedHeaders);

impl Headers for KafkaHeaders<'_> {
    fn visit(&self, each: &mut dyn FnMut(&str, Option<&[u8]>)) {
        for header in self.0.iter() {
            each(header.key, header.value);
        }
    }
}
