//! Tries brokers, topics, the right to read them, and the consumer group. Joins nothing, creates nothing.

mod connect;
mod group;
mod topics;

use std::time::Duration;

use rdkafka::consumer::Consumer;

use super::report::Finding;
use crate::config::{Config, Topics};
use crate::secrets::Secrets;
use connect::{Probe, connect};
use group::check_group;
use topics::{check_named, check_pattern, check_reads};

/// Time limit of each step.
const LIMIT: Duration = Duration::from_secs(10);
/// One try within it; between two, errors are collected.
const STEP: Duration = Duration::from_millis(500);

const BROKERS: &str = "spec.source.kafka.bootstrapServers";
const GROUP: &str = "spec.source.kafka.consumerGroup";
const DEAD_LETTERS: &str = "spec.deadLetter.topic";

/// What is not tried, and what it needs.
pub fn skip(needs: &str) -> Vec<Finding> {
    vec![Finding::skipped(BROKERS, needs)]
}

/// Tries everything of the source.
pub async fn check(config: &Config, secrets: &Secrets) -> Vec<Finding> {
    let (config, secrets) = (config.clone(), secrets.clone());
    // librdkafka's questions block.
    let findings = tokio::task::spawn_blocking(move || check_source(&config, &secrets));
    findings.await.unwrap_or_else(|error| vec![Finding::failed(BROKERS, error.to_string())])
}

fn check_source(config: &Config, secrets: &Secrets) -> Vec<Finding> {
    let topics = match config.topics {
        Topics::Named(_) => "spec.source.kafka.topic",
        Topics::Matching { .. } => "spec.source.kafka.topicPattern",
    };
    let (consumer, metadata) = match connect(config, secrets) {
        Ok(connected) => connected,
        Err(finding) => {
            let skipped = |path| Finding::skipped(path, "needs the brokers");
            let dead_letters = config.dead_letter_topic.as_ref().map(|_| skipped(DEAD_LETTERS));
            return [finding, skipped(topics), skipped(GROUP)].into_iter().chain(dead_letters).collect();
        }
    };
    let brokers = counted(metadata.brokers().len(), "broker");
    let first = metadata.brokers().first().map(|broker| format!("{}:{}", broker.host(), broker.port()));
    let mut findings =
        vec![Finding::ok(BROKERS, format!("{brokers}, such as {}", first.unwrap_or_default()))];
    let (found, tried) = match &config.topics {
        Topics::Named(name) => {
            let (found, one) = check_named(topics, name, "Read", consumer.fetch_metadata(Some(name), LIMIT));
            (found, Vec::from_iter(one))
        }
        Topics::Matching { .. } => check_pattern(topics, &config.topics, &metadata),
    };
    findings.push(found);
    if let Some((topic, partition)) = tried.first() {
        findings.extend(check_reads(topics, &consumer, &tried));
        findings.push(check_group(&consumer, &config.kafka.consumer_group, topic, *partition));
    } else {
        findings.push(Finding::skipped(GROUP, "needs a topic"));
    }
    findings.extend(config.dead_letter_topic.as_ref().map(|name| check_dead_letters(name, &consumer)));
    findings
}

/// Whether the topic of dead letters exists; nothing is written to it.
fn check_dead_letters(name: &str, consumer: &Probe) -> Finding {
    let (found, one) = check_named(DEAD_LETTERS, name, "Write", consumer.fetch_metadata(Some(name), LIMIT));
    if one.is_none() {
        return found;
    }
    let detail = format!("{}. Writing, which needs the right to, was not tried", found.detail);
    Finding::ok(DEAD_LETTERS, detail)
}

fn counted(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}
