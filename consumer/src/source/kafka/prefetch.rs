//! What the client library holds of messages that nobody has read yet.
//!
//! librdkafka inflates a compressed batch as a whole before it hands out its first message, whatever the prefetch
//! allows. Nothing here can refuse that; it is told, as it may be what drives a pod to its memory limit.

use std::collections::HashSet;

use rdkafka::ClientConfig;

use crate::source::TopicPartition;

/// More than this besides a partition's prefetch is no remainder of a response, which has a megabyte of a partition.
const BESIDES: u64 = 16 << 20;

/// Which partitions have more than their prefetch.
#[derive(Debug, Default)]
pub struct Prefetch {
    /// Bytes that are told of.
    large: u64,
    told: HashSet<TopicPartition>,
}

impl Prefetch {
    /// By the settings of a client that has its limits.
    pub fn new(client: &ClientConfig) -> Self {
        let kibibytes = client.get("queued.max.messages.kbytes").and_then(|text| text.parse().ok());
        Self { large: kibibytes.unwrap_or(0u64) * 1024 + BESIDES, told: HashSet::new() }
    }

    /// A partition's messages have so many bytes; what is more than it should be is told once, until it is read.
    pub fn observe(&mut self, at: &TopicPartition, held: u64) {
        if !self.is_news(at, held) {
            return;
        }
        tracing::warn!(
            partition = %at,
            bytes = held,
            "a compressed batch was inflated to far more than its partition may hold, or a message is that large: memory \
             holds it until it is stored. Smaller batches, by the producer's batch.size, take less"
        );
    }

    /// The partition is somebody else's.
    pub fn forget(&mut self, at: &TopicPartition) {
        self.told.remove(at);
    }

    fn is_news(&mut self, at: &TopicPartition, held: u64) -> bool {
        if held > self.large {
            return self.told.insert(at.clone());
        }
        self.told.remove(at);
        false
    }
}

#[cfg(test)]
mod tests {
    use super::super::limits;
    use super::*;

    #[test]
    fn a_batch_is_told_once_and_the_next_one_again() {
        let mut client = ClientConfig::new();
        limits::apply(&mut client);
        let mut prefetch = Prefetch::new(&client);
        let at = TopicPartition { topic: "spans".into(), partition: 0 };
        // A full prefetch and a response on top.
        assert!(!prefetch.is_news(&at, 3 << 20));
        assert!(prefetch.is_news(&at, 100 << 20));
        assert!(!prefetch.is_news(&at, 50 << 20));
        assert!(!prefetch.is_news(&at, 1 << 20));
        assert!(prefetch.is_news(&at, 100 << 20));
    }

    #[test]
    fn a_larger_prefetch_by_the_pipelines_own_settings_is_none() {
        let mut client = ClientConfig::new();
        client.set("queued.max.messages.kbytes", "65536");
        limits::apply(&mut client);
        let at = TopicPartition { topic: "spans".into(), partition: 0 };
        assert!(!Prefetch::new(&client).is_news(&at, 64 << 20));
    }
}
