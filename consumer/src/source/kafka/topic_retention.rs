//! For how long the broker keeps what this replica reads; whoever compares it with the time to drain sees messages expire
//! before they do.
//!
//! Asked seldom, by a client that lives as long as the question: the settings of a topic hardly change. Without the right
//! to read them nothing is known, which is no error.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{
    AdminClient, AdminOptions, ConfigResource, ConfigResourceResult, OwnedResourceSpecifier,
    ResourceSpecifier,
};
use rdkafka::error::KafkaError;
use tokio::runtime::Handle;

use super::topics::Silent;

/// How long an answer counts.
const REMEMBER: Duration = Duration::from_secs(300);
/// Pause after a question that was not answered.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// How long the broker may take to answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

/// What is known of the topics' retention.
pub struct TopicRetention {
    client: ClientConfig,
    runtime: Handle,
    asked: BTreeSet<String>,
    due: Option<Instant>,
    /// By topic.
    kept: BTreeMap<String, Duration>,
    told: bool,
}

impl TopicRetention {
    /// Knows nothing yet. Must be made within a runtime.
    pub fn new(client: ClientConfig) -> Self {
        let runtime = Handle::current();
        Self { client, runtime, asked: BTreeSet::new(), due: None, kept: BTreeMap::new(), told: false }
    }

    /// The retention of each of these topics that has one; asks where they are others than before, or after a while. May
    /// block.
    pub fn of(&mut self, topics: BTreeSet<String>) -> &BTreeMap<String, Duration> {
        let now = Instant::now();
        let is_answered = topics == self.asked && self.due.is_none_or(|due| now < due);
        if !is_answered {
            if topics != self.asked {
                (self.asked, self.kept) = (topics, BTreeMap::new());
            }
            self.due = None;
            if !self.asked.is_empty() {
                self.ask(now);
            }
        }
        &self.kept
    }

    fn ask(&mut self, now: Instant) {
        match self.describe() {
            Ok(answers) => {
                self.due = Some(now + REMEMBER);
                self.kept = answers.iter().flatten().filter_map(retention).collect();
                if let Some(code) = answers.iter().find_map(|answer| answer.as_ref().err()) {
                    self.tell(&code.to_string());
                }
            }
            Err(error) => {
                // What was known still holds.
                self.due = Some(now + ASK_AGAIN);
                self.tell(&error.to_string());
            }
        }
    }

    fn describe(&self) -> Result<Vec<ConfigResourceResult>, KafkaError> {
        let admin: AdminClient<Silent> = self.client.create_with_context(Silent)?;
        let topics: Vec<_> = self.asked.iter().map(|topic| ResourceSpecifier::Topic(topic)).collect();
        let options = AdminOptions::new().request_timeout(Some(ANSWERED_WITHIN));
        self.runtime.block_on(admin.describe_configs(&topics, &options))
    }

    fn tell(&mut self, error: &str) {
        if !std::mem::replace(&mut self.told, true) {
            tracing::info!(
                error,
                "the topics' retention cannot be read: it is not compared with the time to drain"
            );
        }
    }
}

/// A topic's name, and after how long its messages are deleted; none where they never are.
fn retention(topic: &ConfigResource) -> Option<(String, Duration)> {
    let OwnedResourceSpecifier::Topic(name) = &topic.specifier else { return None };
    let settings =
        topic.entries.iter().filter_map(|entry| Some((entry.name.as_str(), entry.value.as_deref()?)));
    Some((name.clone(), kept_for(&settings.collect())?))
}

/// A topic that is only compacted keeps the last message of every key; -1 is without end.
fn kept_for(settings: &BTreeMap<&str, &str>) -> Option<Duration> {
    let deletes = settings.get("cleanup.policy")?.split(',').any(|policy| policy.trim() == "delete");
    let milliseconds: u64 = settings.get("retention.ms")?.parse().ok()?;
    deletes.then_some(Duration::from_millis(milliseconds))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kept(policy: &str, milliseconds: &str) -> Option<Duration> {
        kept_for(&BTreeMap::from([("cleanup.policy", policy), ("retention.ms", milliseconds)]))
    }

    #[test]
    fn only_what_is_deleted_after_a_time_has_a_retention() {
        assert_eq!(kept("delete", "90000"), Some(Duration::from_secs(90)));
        assert_eq!(kept("compact,delete", "90000"), Some(Duration::from_secs(90)));
        assert_eq!(kept("compact", "90000"), None);
        assert_eq!(kept("delete", "-1"), None);
        assert_eq!(kept("delete", "soon"), None);
        assert_eq!(kept_for(&BTreeMap::from([("cleanup.policy", "delete")])), None);
    }

    #[tokio::test]
    async fn nobody_is_asked_about_no_topics() {
        let mut retention = TopicRetention::new(ClientConfig::new());
        assert!(retention.of(BTreeSet::new()).is_empty());
        assert!(!retention.told);
    }
}
