//! librdkafka's callbacks.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use super::client_errors::is_of_a_partition;
use super::group::Group;
use crate::source::TopicPartition;

/// What librdkafka logs when metadata give a topic another id than it knew: its only sign of it.
#[derive(Debug, PartialEq, Eq)]
pub struct TopicId<'a> {
    pub topic: &'a str,
    /// None where the topic was new to the client.
    pub before: Option<&'a str>,
    pub id: &'a str,
}

impl<'a> TopicId<'a> {
    /// The debug context of librdkafka in which it is logged.
    const CONTEXT: &'static str = "metadata";
    /// Sixteen zero bytes.
    const NONE: &'static str = "AAAAAAAAAAAAAAAAAAAAAA";

    /// `[thrd:main]: Topic NAME changed id from ID to ID`; a topic's name holds no blank.
    pub fn in_log(message: &'a str) -> Option<Self> {
        let (head, ids) = message.split_once(" changed id from ")?;
        let (_, topic) = head.rsplit_once("Topic ")?;
        let (before, id) = ids.split_once(" to ")?;
        Some(Self { topic, before: Some(before).filter(|id| *id != Self::NONE), id })
    }
}

/// Hands on what librdkafka calls back with.
pub struct GroupContext {
    group: Arc<Group>,
}

impl GroupContext {
    /// What the client must log for [`ClientContext::log`] below.
    pub const DEBUG: &'static str = TopicId::CONTEXT;

    pub fn new(group: Arc<Group>) -> Self {
        Self { group }
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel as Level;
        if let Some(found) = TopicId::in_log(message) {
            self.group.learned(&found);
        }
        match level {
            Level::Emerg | Level::Alert | Level::Critical | Level::Error => {
                tracing::error!(target: "librdkafka", "{facility}: {message}");
            }
            Level::Warning => tracing::warn!(target: "librdkafka", "{facility}: {message}"),
            Level::Notice | Level::Info => tracing::info!(target: "librdkafka", "{facility}: {message}"),
            // Some lines a topic at every refresh of metadata.
            Level::Debug => tracing::trace!(target: "librdkafka", "{facility}: {message}"),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        match serde_json::from_slice(statistics) {
            Ok(statistics) => self.group.observe(&statistics),
            Err(error) => tracing::debug!(%error, "the client's statistics cannot be read"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if is_of_a_partition(error.rdkafka_error_code()) {
            tracing::debug!(%error, reason, "a partition cannot be read");
            return;
        }
        tracing::debug!(%error, reason, "the client has an error");
        self.group.trouble.failed(&error, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        kind: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let partitions = partitions
            .elements()
            .iter()
            .map(|element| TopicPartition { topic: element.topic().into(), partition: element.partition() })
            .collect();
        match kind {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.group.assigned(consumer, partitions),
            _ => self.group.revoked(consumer, partitions),
        }
    }

    fn commit_callback(&self, result: rdkafka::error::KafkaResult<()>, _: &TopicPartitionList) {
        self.group.commits.fetch_sub(1, Relaxed);
        if let Err(error) = result {
            tracing::debug!(%error, "offsets for lag tools were not committed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_lines_of_the_log_tell_no_id() {
        assert_eq!(TopicId::in_log("[thrd:main]: Topic spans [0] Leader 1 Epoch 0"), None);
    }
}
