//! Questions about a partition's offsets: where it begins and ends, and where a start lies.

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use sluice_crds::v1alpha1::StartFrom;

use super::topics::Silent;
use super::{KafkaSource, QUERY_TIMEOUT, unavailable};
use crate::source::{Bounds, SourceError, TopicPartition};

/// The offset that `start_from` means for a partition now.
pub async fn of_start(
    source: &KafkaSource,
    at: &TopicPartition,
    start_from: &StartFrom,
) -> Result<u64, SourceError> {
    let bounds = bounds(source, at).await?;
    let asked = at.clone();
    let list = move |offset| {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&asked.topic, asked.partition, offset)?;
        Ok::<_, KafkaError>(list)
    };
    let found = match start_from {
        StartFrom::Earliest => return Ok(bounds.low),
        StartFrom::Latest => return Ok(bounds.high),
        StartFrom::Committed => {
            source
                .ask("cannot read the group's committed offset", move |consumer| {
                    consumer.committed_offsets(list(Offset::Invalid)?, QUERY_TIMEOUT)
                })
                .await?
        }
        StartFrom::Timestamp(time) => {
            let milliseconds = time.as_millisecond();
            let answer = source
                .ask("cannot find the offset of a time", move |consumer| {
                    consumer.offsets_for_times(list(Offset::Offset(milliseconds))?, QUERY_TIMEOUT)
                })
                .await?;
            // No message that late yet: begin with the next one.
            return Ok(only_offset(&answer, "cannot find the offset of a time")?.unwrap_or(bounds.high));
        }
    };
    Ok(only_offset(&found, "cannot read the group's committed offset")?.unwrap_or(bounds.low))
}

/// Oldest and next offset of a partition.
pub async fn bounds(source: &KafkaSource, at: &TopicPartition) -> Result<Bounds, SourceError> {
    let asked = at.clone();
    let (low, high) = source
        .ask("cannot read a partition's bounds", move |consumer| {
            consumer.fetch_watermarks(&asked.topic, asked.partition, QUERY_TIMEOUT)
        })
        .await
        .map_err(|error| error.of(at))?;
    let bounds = Bounds { low: low.max(0) as u64, high: high.max(0) as u64 };
    source.group.set_ends([(at.clone(), bounds.high)]);
    Ok(bounds)
}

/// Where a partition's next message will be written.
///
/// Of a client for this question, which happens hardly ever: the answer depends on the client's isolation level.
pub async fn written_end(client: &ClientConfig, at: &TopicPartition) -> Result<u64, SourceError> {
    const CONTEXT: &str = "cannot read a partition's end";
    let (mut client, asked) = (client.clone(), at.clone());
    client.set("isolation.level", "read_uncommitted").set("allow.auto.create.topics", "false");
    let asking = tokio::task::spawn_blocking(move || {
        let consumer: BaseConsumer<Silent> = client.create_with_context(Silent)?;
        consumer.fetch_watermarks(&asked.topic, asked.partition, QUERY_TIMEOUT)
    });
    match asking.await {
        Ok(Ok((_, high))) => Ok(high.max(0) as u64),
        Ok(Err(error)) => Err(unavailable(CONTEXT, &error)),
        Err(error) => Err(SourceError::Unavailable { context: CONTEXT, message: error.to_string() }),
    }
}

fn only_offset(list: &TopicPartitionList, context: &'static str) -> Result<Option<u64>, SourceError> {
    for element in list.elements() {
        element.error().map_err(|error| unavailable(context, &error))?;
        if let Offset::Offset(offset) = element.offset() {
            return Ok(u64::try_from(offset).ok());
        }
    }
    Ok(None)
}
