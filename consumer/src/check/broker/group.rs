//! Whether the consumer group can be described, and whether its members would let this consumer in.

use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use rdkafka::TopicPartitionList;
use rdkafka::consumer::Consumer;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::groups::{GroupInfo, GroupList};

use super::connect::Probe;
use super::{GROUP, LIMIT, STEP, counted};
use crate::check::report::Finding;
use crate::source::kafka::{ASSIGNMENT, remedy};

/// Most events that are looked through for a refusal.
const EVENTS: usize = 100;

/// Only what was tried: brokers tell about a group whoever may describe it, and let join whoever may read it.
fn group_found(group: &str, members: usize) -> String {
    let members = counted(members, "member");
    format!(
        "{group} can be described; it has {members} now. Joining, which needs the right to read it, was not tried"
    )
}

pub fn check_group(consumer: &Probe, group: &str, topic: &str, partition: i32) -> Finding {
    let mut one = TopicPartitionList::new();
    one.add_partition(topic, partition);
    let asked =
        consumer.committed_offsets(one.clone(), STEP).or_else(|error| match poll_until_refused(consumer) {
            true => Err(error),
            false => consumer.committed_offsets(one, LIMIT),
        });
    if let Err(error) = asked {
        return match poll_until_refused(consumer) {
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

/// Whether brokers refuse to tell of the group. Who may not know of it gets no answer: the library asks for the group's
/// broker again and again, and tells of the refusal among its events.
fn poll_until_refused(consumer: &Probe) -> bool {
    let is_refused = || consumer.context().group_denied.load(Relaxed);
    for _ in 0..EVENTS {
        if is_refused() || consumer.poll(Duration::ZERO).is_none() {
            break;
        }
    }
    is_refused()
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

    #[test]
    fn a_group_is_not_said_to_be_more_than_was_tried() {
        let found = group_found("g", 2);
        assert!(
            found.contains("2 members") && found.contains("Joining") && found.contains("not tried"),
            "{found}"
        );
    }

    #[test]
    fn only_a_right_to_the_group_that_is_missing_has_the_remedy_of_rights() {
        let failed = |code| group_failed("g", &KafkaError::MessageConsumption(code)).remedy;
        assert!(failed(RDKafkaErrorCode::GroupAuthorizationFailed).contains("kafka-acls"));
        assert!(failed(RDKafkaErrorCode::OperationTimedOut).contains("look at the brokers"));
    }

    #[test]
    fn a_group_that_divides_by_another_protocol_is_told_from_one_that_agrees() {
        assert!(is_other_protocol("range"));
        assert!(!is_other_protocol("") && !is_other_protocol(ASSIGNMENT));
    }
}
