//! Reads one open partition from its own queue.

use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use rdkafka::consumer::Consumer;
use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::context::GroupContext;
use super::group::{Group, list};
use super::headers::KafkaHeaders;
use super::opening::Opening;
use super::{GroupConsumer, unavailable, unavailable_because};
use crate::last_error::LastError;
use crate::source::{Headers, Message, NoHeaders, PartitionReader, ReadEnd, SourceError, TopicPartition};

/// A wake-up may be lost where messages arrived before the callback was set: look again after this.
const POLLED_AGAIN_AFTER: Duration = Duration::from_millis(500);

/// Adds the partition to the client's assignment at `offset`, if anybody still waits for it.
pub fn open(
    consumer: &Arc<GroupConsumer>,
    group: &Arc<Group>,
    at: &TopicPartition,
    offset: u64,
    waiting: &Weak<()>,
) -> Result<Box<dyn PartitionReader>, SourceError> {
    let reader = group.change_open(at, |open| {
        let open = open.filter(|_| waiting.strong_count() > 0);
        let Some(open) = open else { return Err(SourceError::NotOwned(at.clone())) };
        if let Some(before) = open.remove(at) {
            before.end();
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
        let opening = Arc::new(Opening::at(offset));
        queue.set_nonempty_callback({
            let opening = opening.clone();
            move || opening.arrived.notify_one()
        });
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset(&at.topic, at.partition, Offset::Offset(offset as i64))
            .and_then(|()| consumer.incremental_assign(&assignment))
            .map_err(|error| unavailable("cannot open a partition", &error))?;
        open.insert(at.clone(), opening.clone());
        let (at, group) = (at.clone(), group.clone());
        Ok(KafkaReader { queue, opening, at, group, failed: false })
    })?;
    group.trouble.change(|errors| errors.partition_over(at));
    Ok(Box::new(reader))
}

struct KafkaReader {
    queue: PartitionQueue<GroupContext>,
    opening: Arc<Opening>,
    at: TopicPartition,
    group: Arc<Group>,
    /// Whether it has not delivered since an error.
    failed: bool,
}

impl KafkaReader {
    fn fail(&mut self, error: &KafkaError) -> SourceError {
        let offset = self.opening.read_to.load(Relaxed);
        let message = format!("{error}, at {} offset {offset}", self.at);
        let error = unavailable_because("cannot read a partition", error, message);
        self.failed = true;
        self.group.partition_failed(&self.at, &self.opening, LastError::from(&error));
        error
    }
}

#[async_trait]
impl PartitionReader for KafkaReader {
    fn read(
        &mut self,
        limit: usize,
        handle: &mut dyn FnMut(Message<'_>) -> bool,
    ) -> Result<ReadEnd, SourceError> {
        for _ in 0..limit {
            let polled = match self.opening.poll(|| self.queue.poll(Duration::ZERO)) {
                Ok(polled) => polled,
                Err(end) => return Ok(end),
            };
            let message = match polled {
                None => return Ok(ReadEnd::Drained),
                Some(Err(error)) if is_out_of_range(&error) => return Ok(ReadEnd::Reopen),
                Some(Err(error)) => return Err(self.fail(&error)),
                Some(Ok(message)) => message,
            };
            let offset = message.offset().max(0) as u64;
            let headers = message.headers().map(KafkaHeaders);
            let wants_more = handle(Message {
                offset,
                timestamp: message.timestamp().to_millis(),
                key: message.key(),
                payload: message.payload(),
                headers: headers.as_ref().map_or(&NoHeaders as &dyn Headers, |headers| headers),
            });
            drop(message);
            self.opening.read_to.store(offset + 1, Relaxed);
            if std::mem::take(&mut self.failed) {
                self.group.trouble.change(|errors| errors.partition_over(&self.at));
            }
            if !wants_more {
                return Ok(ReadEnd::Limit);
            }
        }
        Ok(ReadEnd::Limit)
    }

    async fn ready(&mut self) {
        // Only a guard against a lost wake-up; a time-out is as good as an arrival.
        if tokio::time::timeout(POLLED_AGAIN_AFTER, self.opening.arrived.notified()).await.is_err() {
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
