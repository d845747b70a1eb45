//! Which topics a pipeline reads.

use std::collections::BTreeSet;
use std::time::Duration;

use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::metadata::MetadataTopic;
use rdkafka::{ClientConfig, ClientContext};
use sluice_crds::error_reason::ErrorReason;
use tokio_util::sync::CancellationToken;

use super::client_errors::ClientErrors;
use super::ends;
use super::group::Group;
use super::topic_retention::TopicRetention;
use super::{GroupConsumer, QUERY_TIMEOUT};
use crate::config::Topics;
use crate::last_error::LastError;
use crate::source::TopicPartition;

/// How often topics and ends are looked for. With the metadata's own delay a new topic is consumed within 10 s.
const LOOK_EVERY: Duration = Duration::from_secs(4);
/// How long a start waits to learn how many partitions there are.
const COUNT_WITHIN: Duration = Duration::from_secs(5);
/// How often a stop is noticed while waiting.
const STOP_NOTICED_WITHIN: Duration = Duration::from_millis(100);

/// Every partition of the topics that exist now. Kafka's internal topics (`__…`) never match a pattern.
///
/// # Errors
/// No answer; or that of a topic that is named: it does not exist, or may not be seen.
pub fn partitions(topics: &Topics, consumer: &GroupConsumer) -> Result<Vec<TopicPartition>, KafkaError> {
    partitions_within(topics, consumer, QUERY_TIMEOUT)
}

fn partitions_within<C: ConsumerContext>(
    topics: &Topics,
    consumer: &BaseConsumer<C>,
    timeout: Duration,
) -> Result<Vec<TopicPartition>, KafkaError> {
    let name = match topics {
        Topics::Named(name) => Some(name.as_str()),
        Topics::Matching { .. } => None,
    };
    let metadata = consumer.fetch_metadata(name, timeout)?;
    if let Some(error) = name.and_then(|_| metadata.topics().iter().find_map(MetadataTopic::error)) {
        return Err(KafkaError::MetadataFetch(error.into()));
    }
    Ok(metadata
        .topics()
        .iter()
        .filter(|topic| topic.error().is_none() && topics.contains(topic.name()))
        .flat_map(|topic| {
            let name: std::sync::Arc<str> = topic.name().into();
            topic
                .partitions()
                .iter()
                .map(move |partition| TopicPartition { topic: name.clone(), partition: partition.id() })
        })
        .collect())
}

/// Subscribes, and follows until `stop`: new and deleted topics, whether there are more than `most_partitions`, and of topics
/// that are read the retention and the ends.
pub fn follow(
    topics: &Topics,
    consumer: &GroupConsumer,
    group: &Group,
    mut retention: TopicRetention,
    most_partitions: usize,
    stop: &CancellationToken,
) {
    if let Topics::Named(name) = topics {
        subscribe(consumer, group, &BTreeSet::from([name.clone()]));
    }
    let mut subscribed = BTreeSet::new();
    while !stop.is_cancelled() {
        let named = matches!(topics, Topics::Named(_));
        // The client tells once that a topic is not there, and never that it has come.
        if !named || group.trouble.change(|errors| errors.topics_missing()) {
            match partitions(topics, consumer) {
                Ok(_) if named => group.trouble.change(ClientErrors::topics_found),
                Ok(partitions) => {
                    group.counted(partitions.len(), most_partitions);
                    let found = partitions.into_iter().map(|at| at.topic.to_string()).collect();
                    look(consumer, group, &found, &subscribed);
                    subscribed = found;
                }
                Err(error) => group.trouble.failed(&error, &error.to_string()),
            }
        }
        // A topic that is named may be widened, too.
        group.counted(group.owned(), most_partitions);
        group.set_retention(retention.of(group.topics()).clone());
        for partitions in group.unsure_ends() {
            if stop.is_cancelled() {
                break;
            }
            match ends::ask(consumer, &partitions) {
                Ok(told) => group.set_ends(told),
                // Whoever needs the broker for more than the lag tells of it.
                Err(error) => tracing::debug!(%error, ?partitions, "the ends of partitions are not known"),
            }
        }
        let begin = std::time::Instant::now();
        while begin.elapsed() < LOOK_EVERY && !stop.is_cancelled() {
            std::thread::park_timeout(STOP_NOTICED_WITHIN);
        }
    }
}

/// Subscribes to what a pattern matches now, where that is something else than before.
fn look(consumer: &GroupConsumer, group: &Group, found: &BTreeSet<String>, subscribed: &BTreeSet<String>) {
    if found.is_empty() {
        let none = LastError::new(ErrorReason::TopicUnknown, "no topic matches the pattern yet");
        return group.trouble.change(|errors| errors.topics_failed(none));
    }
    group.trouble.change(ClientErrors::topics_found);
    if found != subscribed {
        tracing::info!(topics = ?found, "the pattern matches");
        subscribe(consumer, group, found);
    }
}

fn subscribe(consumer: &GroupConsumer, group: &Group, topics: &BTreeSet<String>) {
    let names: Vec<&str> = topics.iter().map(String::as_str).collect();
    if let Err(error) = consumer.subscribe(&names) {
        group.trouble.failed(&error, &error.to_string());
    }
}

/// How many partitions there are, where a broker tells within [`COUNT_WITHIN`].
pub fn count(client: &ClientConfig, topics: &Topics) -> Option<usize> {
    let mut client = client.clone();
    client.set("allow.auto.create.topics", "false");
    let consumer: BaseConsumer<Silent> = client.create_with_context(Silent).ok()?;
    partitions_within(topics, &consumer, COUNT_WITHIN).ok().map(|partitions| partitions.len())
}

/// Of a client for one question: what goes wrong is told by whoever asks.
pub struct Silent;

impl ClientContext for Silent {
    fn log(&self, _: RDKafkaLogLevel, _: &str, _: &str) {}
    fn error(&self, _: KafkaError, _: &str) {}
}

impl ConsumerContext for Silent {}
