//! Which topics a pipeline reads.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::metadata::MetadataTopic;
use tokio_util::sync::CancellationToken;

use super::group::Group;
use super::{GroupConsumer, QUERY_TIMEOUT};
use crate::config::Topics;
use crate::source::TopicPartition;

/// How often topics are looked for. With the metadata's own delay a new topic is consumed within 10 s.
const LOOK_EVERY: Duration = Duration::from_secs(4);
/// How often a stop is noticed while waiting.
const STEP: Duration = Duration::from_millis(100);

/// Every partition of the topics that exist now. Kafka's internal topics (`__…`) never match a pattern.
///
/// # Errors
/// No answer; or that of a topic that is named: it does not exist, or may not be seen.
pub fn partitions(topics: &Topics, consumer: &GroupConsumer) -> Result<Vec<TopicPartition>, KafkaError> {
    let name = match topics {
        Topics::Named(name) => Some(name.as_str()),
        Topics::Matching { .. } => None,
    };
    let belongs = |topic: &str| topics.contains(topic) && (name.is_some() || !topic.starts_with("__"));
    let metadata = consumer.fetch_metadata(name, QUERY_TIMEOUT)?;
    if let Some(error) = name.and_then(|_| metadata.topics().iter().find_map(MetadataTopic::error)) {
        return Err(KafkaError::MetadataFetch(error.into()));
    }
    Ok(metadata
        .topics()
        .iter()
        .filter(|topic| topic.error().is_none() && belongs(topic.name()))
        .flat_map(|topic| {
            let name: std::sync::Arc<str> = topic.name().into();
            topic
                .partitions()
                .iter()
                .map(move |partition| TopicPartition { topic: name.clone(), partition: partition.id() })
        })
        .collect())
}

/// Subscribes, and follows new and deleted topics until `stop`.
pub fn follow(topics: &Topics, consumer: &GroupConsumer, group: &Group, stop: &CancellationToken) {
    if let Topics::Named(name) = topics {
        subscribe(consumer, group, &BTreeSet::from([name.clone()]));
        return;
    }
    let mut subscribed = BTreeSet::new();
    while !stop.is_cancelled() {
        match partitions(topics, consumer) {
            Ok(partitions) => {
                let found: BTreeSet<String> = partitions.into_iter().map(|at| at.topic.to_string()).collect();
                if found.is_empty() {
                    group.failed(&KafkaError::Subscription("no topic matches the pattern yet".to_owned()));
                } else if found != subscribed {
                    tracing::info!(topics = ?found, "the pattern matches");
                    subscribe(consumer, group, &found);
                }
                subscribed = found;
            }
            Err(error) => group.failed(&error),
        }
        let begin = std::time::Instant::now();
        while begin.elapsed() < LOOK_EVERY && !stop.is_cancelled() {
            std::thread::park_timeout(STEP);
        }
    }
}

fn subscribe(consumer: &GroupConsumer, group: &Group, topics: &BTreeSet<String>) {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    if let Err(error) = consumer.subscribe(&names) {
        group.failed(&error);
    }
}
