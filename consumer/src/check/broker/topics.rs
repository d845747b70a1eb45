//! Whether topics are there, and whether they can be read.

use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::{Offset, TopicPartitionList};

use super::connect::Probe;
use super::{LIMIT, STEP, counted};
use crate::check::report::Finding;
use crate::config::Topics;

/// How long topics are tried, of many.
const READS: Duration = Duration::from_secs(20);

/// Whether the topic exists, and one partition to try. `right` is what the pipeline needs on it besides seeing it.
pub fn check_named(
    path: &str,
    name: &str,
    right: &str,
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
pub fn check_pattern(path: &str, topics: &Topics, metadata: &Metadata) -> (Finding, Vec<(String, i32)>) {
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

/// A partition that can be asked.
fn partition_of(topic: &MetadataTopic) -> Option<(String, i32)> {
    let led = topic.partitions().iter().find(|partition| partition.leader() >= 0)?;
    Some((topic.name().to_owned(), led.id()))
}

/// Tries to read each topic, as rights may be of one topic each, and for no longer than a few of them may take.
pub fn check_reads(path: &str, consumer: &Probe, tried: &[(String, i32)]) -> Vec<Finding> {
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

#[cfg(test)]
mod tests {
    use super::*;

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
    }
}
