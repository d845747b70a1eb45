//! Whether anything is left of a range whose end does not come, and when a message was made.
//!
//! The last offsets of a range may hold no message: transactions end with a marker, and compaction removes. A reader then
//! waits for a message that never comes. A client that is told of a partition's end knows.

use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::{ClientConfig, ClientContext};

use crate::source::TopicPartition;

/// How long the broker may take.
const WITHIN: Duration = Duration::from_secs(10);
const NO_ANSWER: KafkaError = KafkaError::MessageConsumption(RDKafkaErrorCode::OperationTimedOut);

/// A partition's end, which is what is asked for, comes as an error, too.
struct Quiet;

impl ClientContext for Quiet {
    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "the client that looks for the end of a range");
    }
}

impl ConsumerContext for Quiet {}

/// Whether no message lies at `from` or behind it and before `end`; false where nobody knows. Blocks.
///
/// `group` is one that the user may read: brokers are asked for its coordinator, though nobody joins it here.
pub fn nothing_left(client: &ClientConfig, group: &str, at: &TopicPartition, from: u64, end: u64) -> bool {
    match look(client, group, at, from, end) {
        Ok(nothing) => nothing,
        Err(error) => {
            tracing::debug!(partition = %at, %error, "cannot tell whether the range is over");
            false
        }
    }
}

/// When the first message at `from` or behind it was made, milliseconds since 1970; none where nobody knows. Blocks.
pub fn made_at(client: &ClientConfig, group: &str, at: &TopicPartition, from: u64) -> Option<i64> {
    match first(client, group, at, from, |message| message.timestamp().to_millis()) {
        Ok(found) => found.flatten(),
        Err(error) => {
            tracing::debug!(partition = %at, %error, "cannot tell when a message was made");
            None
        }
    }
}

fn look(
    client: &ClientConfig,
    group: &str,
    at: &TopicPartition,
    from: u64,
    end: u64,
) -> Result<bool, KafkaError> {
    let offset = first(client, group, at, from, |message| message.offset())?;
    Ok(offset.is_none_or(|offset| offset >= end as i64))
}

/// Something of the first message at `from` or behind it; none where the partition ends before.
fn first<T>(
    client: &ClientConfig,
    group: &str,
    at: &TopicPartition,
    from: u64,
    of: impl Fn(&BorrowedMessage<'_>) -> T,
) -> Result<Option<T>, KafkaError> {
    let mut client = client.clone();
    client
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error");
    let consumer: BaseConsumer<Quiet> = client.create_with_context(Quiet)?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&at.topic, at.partition, Offset::Offset(from as i64))?;
    consumer.assign(&list)?;
    let (began, mut failed) = (Instant::now(), NO_ANSWER);
    while began.elapsed() < WITHIN {
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Ok(message)) => return Ok(Some(of(&message))),
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(None),
            // Such as a broker that restarts: the client goes on by itself.
            Some(Err(error)) => failed = error,
        }
    }
    Err(failed)
}
