//! Whether anything is left of a range whose end does not come.
//!
//! The last offsets of a range may hold no message: transactions end with a marker, and compaction removes. A reader then
//! waits for a message that never comes. A client that is told of a partition's end knows.

use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::source::TopicPartition;

/// How long the broker may take.
const WITHIN: Duration = Duration::from_secs(10);

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

fn look(
    client: &ClientConfig,
    group: &str,
    at: &TopicPartition,
    from: u64,
    end: u64,
) -> Result<bool, KafkaError> {
    let mut client = client.clone();
    client
        .set("group.id", group)
        .set("enable.auto.commit", "false")
        .set("enable.partition.eof", "true")
        .set("auto.offset.reset", "error");
    let consumer: BaseConsumer = client.create()?;
    let mut list = TopicPartitionList::new();
    list.add_partition_offset(&at.topic, at.partition, Offset::Offset(from as i64))?;
    consumer.assign(&list)?;
    let (began, mut failed) = (Instant::now(), None);
    while began.elapsed() < WITHIN {
        match consumer.poll(Duration::from_millis(200)) {
            None => {}
            Some(Ok(message)) => return Ok(message.offset() >= end as i64),
            Some(Err(KafkaError::PartitionEOF(_))) => return Ok(true),
            // Such as a broker that restarts: the client goes on by itself.
            Some(Err(error)) => failed = Some(error),
        }
    }
    failed.map_or(Ok(false), Err)
}
