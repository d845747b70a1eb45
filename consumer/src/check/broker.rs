//! Tries brokers, topics, the right to read them, and the consumer group. Joins nothing, creates nothing.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::groups::{GroupInfo, GroupList};
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::{Offset, TopicPartitionList};

use sluice_crds::problem::chain;

use super::report::Finding;
use crate::config::{Config, Topics};
use crate::lock::lock;
use crate::secrets::Secrets;
use crate::source::kafka::config::client_config;
use crate::source::kafka::{ASSIGNMENT, remedy};

/// Time limit of each step.
const LIMIT: Duration = Duration::from_secs(10);
/// How long topics are tried, of many.
const READS: Duration = Duration::from_secs(20);
/// How long brokers that are all unreachable are tried.
const UNREACHABLE: Duration = Duration::from_secs(3);
/// One try within it; between two, errors are collected.
const STEP: Duration = Duration::from_millis(500);

/// Most events that are looked through for a refusal.
const EVENTS: usize = 100;

const BROKERS: &str = "spec.source.kafka.bootstrapServers";
const GROUP: &str = "spec.source.kafka.consumerGroup";
const DEAD_LETTERS: &str = "spec.deadLetter.topic";

/// What is not tried without credentials.
pub fn skip() -> Vec<Finding> {
    vec![Finding::skipped(BROKERS, "needs the credentials")]
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
            let (found, one) = check_named(topics, name, consumer.fetch_metadata(Some(name), LIMIT));
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
    let (found, one) = check_named(DEAD_LETTERS, name, consumer.fetch_metadata(Some(name), LIMIT));
    if one.is_none() {
        return found;
    }
    let detail = format!("{}. Writing, which needs the right to, was not tried", found.detail);
    Finding::ok(DEAD_LETTERS, detail)
}

/// What librdkafka says of its own accord. A refusal is the telling one, as who refuses may hang up first; else what came
/// first.
#[derive(Clone, Default)]
struct Complaints {
    broken: Arc<Mutex<Vec<String>>>,
    group_denied: Arc<AtomicBool>,
}

impl Complaints {
    fn add(&self, text: &str) {
        lock(&self.broken).push(text.to_owned());
    }

    fn telling(&self) -> Option<String> {
        let broken = lock(&self.broken);
        let refusal = broken.iter().find(|said| remedy::of_credentials(said).is_some());
        refusal.or(broken.first()).cloned()
    }
}

impl ClientContext for Complaints {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        // A broken connection; "[thrd:…]: " in front names a thread of the library.
        if facility == "FAIL" {
            self.add(message.split_once("]: ").map_or(message, |(_, message)| message));
        }
    }

    // What else comes here is in the log before, and there with its cause.
    fn error(&self, error: KafkaError, _reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed) {
            self.group_denied.store(true, Relaxed);
        }
    }
}

impl ConsumerContext for Complaints {}

type Probe = BaseConsumer<Complaints>;

/// Asks for all topics until a broker answers.
fn connect(config: &Config, secrets: &Secrets) -> Result<(Probe, Metadata), Finding> {
    let refused = |detail: String| Finding::failed(BROKERS, detail);
    let mut client = client_config(&config.kafka, secrets)
        .map_err(|error| refused(chain(&error)).remedy("set the credential or the property that is named"))?;
    client
        .set("group.id", &config.kafka.consumer_group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        // The end of a partition is told only after that; many may be tried.
        .set("fetch.wait.max.ms", "10")
        .set("allow.auto.create.topics", "false")
        .set_log_level(RDKafkaLogLevel::Info);
    let complaints = Complaints::default();
    let consumer: Probe = client.create_with_context(complaints.clone()).map_err(|error| {
        refused(remedy::without_value(&error))
            .remedy("correct the certificate, the key or the property that is named")
    })?;
    let begin = Instant::now();
    loop {
        let error = match consumer.fetch_metadata(None, STEP) {
            Ok(metadata) if !metadata.brokers().is_empty() => return Ok((consumer, metadata)),
            Ok(_) => "no broker is known".to_owned(),
            Err(error) => error.to_string(),
        };
        // Hands over what the library has to complain about.
        let event = consumer.poll(Duration::ZERO).and_then(Result::err);
        let all_down =
            event.and_then(|error| error.rdkafka_error_code()) == Some(RDKafkaErrorCode::AllBrokersDown);
        let detail = complaints.telling().unwrap_or(error);
        let handshake =
            ["SSL handshake failed", "SASL", "authentication"].iter().any(|word| detail.contains(word));
        let waited = begin.elapsed();
        if handshake || (all_down && waited > UNREACHABLE) || waited > LIMIT {
            let remedy = connection_remedy(&detail, config);
            return Err(refused(detail).remedy(remedy));
        }
    }
}

/// What to do about a connection that does not come about, from librdkafka's own words.
fn connection_remedy(detail: &str, config: &Config) -> &'static str {
    if let Some(remedy) = remedy::of_credentials(detail) {
        return remedy;
    }
    let detail = remedy::without_broker(detail).to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| detail.contains(word));
    if config.kafka.sasl.is_none() && has(&["ssl connection closed by peer (after"]) {
        "check whether this port wants SASL (spec.source.kafka.sasl), and tls.certFrom and keyFrom"
    } else if has(&["ssl", "tls"]) {
        "check that this port speaks TLS, and tls.caFrom, certFrom and keyFrom"
    } else if has(&["resolve"]) {
        "check the host names in bootstrapServers, and DNS"
    } else if config.kafka.tls.is_none() && has(&["disconnected", "timed out", "timeout"]) {
        "check the port, and whether it wants TLS (spec.source.kafka.tls) or SASL"
    } else {
        "check bootstrapServers, whether the brokers run, and firewalls"
    }
}

/// Whether the topic exists, and one partition to try.
fn check_named(
    path: &str,
    name: &str,
    metadata: Result<Metadata, KafkaError>,
) -> (Finding, Option<(String, i32)>) {
    let metadata = match metadata {
        Ok(metadata) => metadata,
        Err(error) => return (Finding::failed(path, format!("cannot ask for {name}: {error}")), None),
    };
    let topic = metadata.topics().iter().find(|topic| topic.name() == name);
    let error = topic.and_then(MetadataTopic::error).map(RDKafkaErrorCode::from);
    let finding = match (topic, error) {
        (_, Some(RDKafkaErrorCode::TopicAuthorizationFailed)) => {
            let right = if path == DEAD_LETTERS { "Write" } else { "Read" };
            Finding::failed(path, format!("this user may not see {name}"))
                .remedy(format!("allow it (kafka-acls --operation Describe --operation {right} --topic)"))
        }
        (None, _) | (_, Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic)) => {
            Finding::failed(path, format!("the topic {name} does not exist"))
                .remedy("create it, or correct the name")
        }
        (_, Some(error)) => Finding::failed(path, format!("the topic {name} cannot be used: {error}")),
        (Some(topic), None) => match partition_of(topic) {
            Some(one) => {
                let finding = Finding::ok(
                    path,
                    format!("{name} has {}", counted(topic.partitions().len(), "partition")),
                );
                return (finding, Some(one));
            }
            None => Finding::failed(path, format!("no partition of {name} has a leader"))
                .remedy("look at the brokers: those that hold this topic are down"),
        },
    };
    (finding, None)
}

/// Which topics match, and one partition of each to try.
fn check_pattern(path: &str, topics: &Topics, metadata: &Metadata) -> (Finding, Vec<(String, i32)>) {
    const SHOWN: usize = 5;
    let is_read = |topic: &&MetadataTopic| topics.contains(topic.name());
    let found: Vec<_> = metadata.topics().iter().filter(is_read).collect();
    if found.is_empty() {
        let detail = "no topic matches yet; those that are created later are found within 10 s";
        return (Finding::ok(path, detail), Vec::new());
    }
    let partitions: usize = found.iter().map(|topic| topic.partitions().len()).sum();
    let names: Vec<_> = found.iter().take(SHOWN).map(|topic| topic.name()).collect();
    let more = if found.len() > SHOWN { ", …" } else { "" };
    let (topics, partitions) = (counted(found.len(), "topic"), counted(partitions, "partition"));
    let detail = format!("{topics} with {partitions}: {}{more}", names.join(", "));
    (Finding::ok(path, detail), found.into_iter().filter_map(partition_of).collect())
}

fn counted(number: usize, noun: &str) -> String {
    if number == 1 { format!("1 {noun}") } else { format!("{number} {noun}s") }
}

/// A partition that can be asked.
fn partition_of(topic: &MetadataTopic) -> Option<(String, i32)> {
    let led = topic.partitions().iter().find(|partition| partition.leader() >= 0)?;
    Some((topic.name().to_owned(), led.id()))
}

/// Tries to read each topic, as rights may be of one topic each, and for no longer than a few of them may take.
fn check_reads(path: &str, consumer: &Probe, tried: &[(String, i32)]) -> Vec<Finding> {
    let begin = Instant::now();
    let (mut read, mut failed, mut left) = (Vec::new(), Vec::new(), 0);
    for (topic, partition) in tried {
        if begin.elapsed() > READS {
            left += 1;
            continue;
        }
        match try_read(consumer, topic, *partition) {
            Ok(()) => read.push(topic.as_str()),
            Err(error) => failed.push(cannot_read(path, topic, error.as_ref())),
        }
    }
    let mut findings = Vec::new();
    match read[..] {
        [] => {}
        [topic] => findings.push(Finding::ok(path, format!("{topic} can be read"))),
        _ => findings.push(Finding::ok(path, format!("{} can be read", counted(read.len(), "topic")))),
    }
    findings.extend(failed);
    if left > 0 {
        findings
            .push(Finding::skipped(path, format!("{} more: not tried, for time", counted(left, "topic"))));
    }
    findings
}

/// What an error, or no answer, says of the right to read a topic.
fn cannot_read(path: &str, topic: &str, error: Option<&KafkaError>) -> Finding {
    let why = error.map_or_else(|| format!("no answer within {} s", LIMIT.as_secs()), ToString::to_string);
    let finding = Finding::failed(path, format!("cannot read {topic}: {why}"));
    match error.and_then(KafkaError::rdkafka_error_code) {
        Some(RDKafkaErrorCode::TopicAuthorizationFailed) => {
            finding.remedy("allow this user to read it (kafka-acls --operation Read --topic)")
        }
        _ => finding
            .remedy("look at the brokers: that which leads this partition does not answer as it should"),
    }
}

/// Fetches at the end of a partition: nothing is read, but the right to read is needed.
///
/// # Errors
/// Why it cannot be read; none where nothing came.
fn try_read(consumer: &Probe, topic: &str, partition: i32) -> Result<(), Option<KafkaError>> {
    let mut assignment = TopicPartitionList::new();
    assignment.add_partition_offset(topic, partition, Offset::End)?;
    consumer.assign(&assignment)?;
    let begin = Instant::now();
    while begin.elapsed() < LIMIT {
        match consumer.poll(STEP) {
            // A message that came this moment proves the right, too.
            Some(Err(KafkaError::PartitionEOF(_)) | Ok(_)) => return Ok(()),
            Some(Err(error))
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::TopicAuthorizationFailed) =>
            {
                return Err(Some(error));
            }
            _ => {}
        }
    }
    Err(None)
}

/// Only what was tried: brokers tell about a group whoever may describe it, and let join whoever may read it.
fn group_found(group: &str, members: usize) -> String {
    let members = counted(members, "member");
    format!(
        "{group} can be described; it has {members} now. Joining, which needs the right to read it, was not tried"
    )
}

fn check_group(consumer: &Probe, group: &str, topic: &str, partition: i32) -> Finding {
    // Who may not know of the group gets no answer: the library asks for the group's broker again and again, and tells
    // of the refusal among its events.
    let is_refused = || {
        let events = (0..EVENTS).map_while(|_| consumer.poll(Duration::ZERO)).count();
        tracing::trace!(events, "looked for a refusal");
        consumer.context().group_denied.load(Relaxed)
    };
    let mut one = TopicPartitionList::new();
    one.add_partition(topic, partition);
    let asked = consumer.committed_offsets(one.clone(), STEP).or_else(|error| match is_refused() {
        true => Err(error),
        false => consumer.committed_offsets(one, LIMIT),
    });
    if let Err(error) = asked {
        return match is_refused() {
            true => group_denied(group, &RDKafkaErrorCode::GroupAuthorizationFailed.to_string()),
            false => group_failed(group, &error),
        };
    }
    let begin = Instant::now();
    loop {
        match consumer.fetch_group_list(Some(group), LIMIT) {
            Ok(groups) => return judge_group(group, &groups),
            Err(error) if !is_between_coordinators(&error) || begin.elapsed() > LIMIT => {
                return group_failed(group, &error);
            }
            // The client's events are served meanwhile.
            Err(_) => drop(consumer.poll(STEP)),
        }
    }
}

/// Members that divide partitions in another way let no consumer in.
fn judge_group(group: &str, found: &GroupList) -> Finding {
    let members: usize = found.groups().iter().map(|group| group.members().len()).sum();
    // Empty while they agree on one.
    let other = found.groups().iter().map(GroupInfo::protocol).find(|protocol| is_other_protocol(protocol));
    match other {
        Some(protocol) if members > 0 => {
            let detail = format!("{} of {group} divide partitions by {protocol}", counted(members, "member"));
            Finding::failed(GROUP, detail).remedy(remedy::OTHER_PROTOCOL)
        }
        _ => Finding::ok(GROUP, group_found(group, members)),
    }
}

fn is_other_protocol(protocol: &str) -> bool {
    !protocol.is_empty() && protocol != ASSIGNMENT
}

fn group_denied(group: &str, why: &str) -> Finding {
    Finding::failed(GROUP, format!("cannot describe the group {group}: {why}"))
        .remedy("allow this user to read the group (kafka-acls --operation Read --group)")
}

/// By what is wrong: a right that is missing, or a broker that does not answer.
fn group_failed(group: &str, error: &KafkaError) -> Finding {
    if error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed) {
        return group_denied(group, &error.to_string());
    }
    Finding::failed(GROUP, format!("cannot describe the group {group}: {error}"))
        .remedy("the broker that coordinates it is not ready: try again, or look at the brokers")
}

/// Whether the group is about to have a coordinator: the first of a cluster, or another than before.
fn is_between_coordinators(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::NotCoordinator
                | RDKafkaErrorCode::CoordinatorLoadInProgress
                | RDKafkaErrorCode::CoordinatorNotAvailable
        )
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What librdkafka 2.12 says, and a word of the remedy.
    const SAID: [(&str, &str); 7] = [
        ("SSL handshake failed: error:0A000086:SSL routines::certificate verify failed", "tls.caFrom"),
        ("SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?", "speaks TLS"),
        ("Disconnected: SSL connection closed by peer (after 1ms in state UP)", "wants SASL"),
        ("Failed to resolve 'nohost.invalid:9092': Name or service not known", "DNS"),
        ("Disconnected: connection closed by peer: receive 0 after POLLIN", "wants TLS"),
        ("Connect to ipv4#127.0.0.1:1 failed: Connection refused", "firewalls"),
        ("sasl_ssl://k:9092/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused", "firewalls"),
    ];

    #[test]
    fn a_group_is_not_said_to_be_more_than_was_tried() {
        let found = group_found("g", 2);
        assert!(
            found.contains("2 members") && found.contains("Joining") && found.contains("not tried"),
            "{found}"
        );
    }

    #[test]
    fn only_a_right_that_is_missing_has_the_remedy_of_rights() {
        let of = KafkaError::MessageConsumption;
        let denied = of(RDKafkaErrorCode::TopicAuthorizationFailed);
        for (error, expected) in
            [(Some(denied), true), (None, false), (Some(of(RDKafkaErrorCode::OperationTimedOut)), false)]
        {
            let finding = cannot_read("spec.source.kafka.topic", "spans", error.as_ref());
            assert_eq!(finding.remedy.contains("kafka-acls"), expected, "{finding:?}");
        }
        let failed = |code| group_failed("g", &of(code)).remedy;
        assert!(failed(RDKafkaErrorCode::GroupAuthorizationFailed).contains("kafka-acls"));
        assert!(failed(RDKafkaErrorCode::OperationTimedOut).contains("look at the brokers"));
    }

    #[test]
    fn a_group_that_divides_by_another_protocol_is_told_from_one_that_agrees() {
        assert!(is_other_protocol("range"));
        assert!(!is_other_protocol("") && !is_other_protocol(ASSIGNMENT));
    }

    #[test]
    fn each_kind_of_broken_connection_has_its_remedy() {
        let text = include_str!("../../../crds/examples/mysql.yaml");
        let config = crate::config::parse(text).unwrap();
        for (said, word) in SAID {
            let remedy = connection_remedy(said, &config);
            assert!(remedy.contains(word), "{said}: {remedy}");
        }
    }
}
