//! What is wrong with brokers, topics and partitions, until something shows that it is over.
//!
//! librdkafka tells of an error once and falls silent, so time alone never ends one: a dead broker would look
//! well after a while. Each kind of trouble has its own proof of being over.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::error::RDKafkaErrorCode as Code;
use sluice_crds::error_reason::ErrorReason;

use crate::last_error::LastError;
use crate::source::TopicPartition;

/// Without another error for this long, trouble that nothing else can end is over.
const CALM: Duration = Duration::from_secs(10);
/// Without any connection for this long, brokers are out of reach. The client itself falls silent for as long as nothing
/// answers its attempt to connect (`socket.connection.setup.timeout.ms`, 30 s), as where packets are dropped.
const UNCONNECTED: Duration = Duration::from_secs(10);

/// Whether brokers answer, by the client's statistics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answering {
    /// One does.
    Yes,
    /// A connection stands, and nothing has come through it for longer than any answer takes.
    Silent,
    /// There is no connection; at the start, none yet.
    No,
}

/// A partition that cannot be read.
#[derive(Debug)]
struct Broken {
    error: LastError,
    /// How often statistics have known where the partition ends, since.
    known: u8,
}

/// Everything that is wrong now.
#[derive(Debug, Default)]
pub struct ClientErrors {
    /// What a broker said last while others may be well; the cause once none is left.
    broker: Option<LastError>,
    /// Over when a broker answers.
    brokers: Option<LastError>,
    /// Since when there is no connection.
    unconnected: Option<Instant>,
    /// Over when the topics are found.
    topics: Option<LastError>,
    /// Over when the group assigns partitions.
    group: Option<LastError>,
    /// Since when the group's coordinator, one of the brokers, is away, though others answer.
    uncoordinated: Option<Instant>,
    coordinator: Option<LastError>,
    /// Over when the partition delivers again or is closed; a refusal also when brokers tell of the partition again.
    partitions: BTreeMap<TopicPartition, Broken>,
    other: Option<(LastError, Instant)>,
}

impl ClientErrors {
    /// An error that the client tells of.
    pub fn failed(&mut self, code: Option<Code>, message: String, now: Instant) {
        let error = LastError::new(reason(code), message);
        match code {
            Some(Code::AllBrokersDown) => {
                // "1/1 brokers are down" says less than the error before it.
                let error = self.broker.get_or_insert(error);
                self.brokers = Some(error.clone());
            }
            Some(
                Code::BrokerTransportFailure
                | Code::OperationTimedOut
                | Code::RequestTimedOut
                | Code::Resolve
                | Code::SSL
                | Code::Authentication
                | Code::SaslAuthenticationFailed
                | Code::ClusterAuthorizationFailed,
            ) => {
                self.broker = Some(error.clone());
                // One broker of several is no news: the client goes on with the others.
                if self.brokers.is_some() {
                    self.brokers = Some(error);
                }
            }
            Some(
                Code::UnknownTopicOrPartition
                | Code::UnknownTopic
                | Code::UnknownPartition
                | Code::TopicAuthorizationFailed,
            ) => self.topics = Some(error),
            Some(Code::GroupAuthorizationFailed) => self.group = Some(error),
            _ => self.other = Some((error, now)),
        }
    }

    /// What the statistics say.
    pub fn observe(&mut self, answering: Answering, now: Instant) {
        if answering != Answering::No {
            self.unconnected = None;
        }
        match answering {
            Answering::Yes => (self.broker, self.brokers) = (None, None),
            Answering::Silent => {
                let silent = || {
                    LastError::new(
                        ErrorReason::SourceUnreachable,
                        "a broker is connected and does not answer",
                    )
                };
                self.brokers = Some(self.broker.get_or_insert_with(silent).clone());
            }
            Answering::No => {
                let since = *self.unconnected.get_or_insert(now);
                if self.broker.is_none() && now.saturating_duration_since(since) >= UNCONNECTED {
                    let text = "there is no connection to any broker, and no answer to attempts to connect";
                    self.broker = Some(LastError::new(ErrorReason::SourceUnreachable, text));
                }
                self.brokers = self.broker.clone();
            }
        }
        let calm = |(_, at): &(LastError, Instant)| now.saturating_duration_since(*at) >= CALM;
        if answering == Answering::Yes && self.other.as_ref().is_some_and(calm) {
            self.other = None;
        }
    }

    /// Whether the group's coordinator is there, or none of the brokers is. Without it partitions are neither given nor
    /// kept for longer than the group's session, and the client says nothing of it.
    pub fn observe_coordinator(&mut self, is_there: bool, now: Instant) {
        if is_there {
            (self.uncoordinated, self.coordinator) = (None, None);
            return;
        }
        let since = *self.uncoordinated.get_or_insert(now);
        if now.saturating_duration_since(since) >= UNCONNECTED {
            let text = "the coordinator of the consumer group does not answer: is the broker that leads the group's \
                        partition of __consumer_offsets away?";
            self.coordinator = Some(LastError::new(ErrorReason::SourceUnreachable, text));
        }
    }

    /// The topics cannot be read, or none matches.
    pub fn topics_failed(&mut self, error: LastError) {
        self.topics = Some(error);
    }

    /// The topics are there.
    pub fn topics_found(&mut self) {
        self.topics = None;
    }

    /// Whether topics are looked for.
    pub fn topics_missing(&self) -> bool {
        self.topics.is_some()
    }

    /// The group has answered.
    pub fn assigned(&mut self) {
        self.group = None;
    }

    /// A partition cannot be read.
    pub fn partition_failed(&mut self, at: &TopicPartition, error: LastError) {
        self.partitions.insert(at.clone(), Broken { error, known: 0 });
    }

    /// Statistics know where a partition ends: a fetch has told, and one that is refused takes it back. The first of
    /// them may be older than the refusal, so the second ends it, also where no message is there to do so. Whether it
    /// has.
    pub fn partition_known(&mut self, at: &TopicPartition) -> bool {
        let Some(broken) = self.partitions.get_mut(at) else { return false };
        broken.known = broken.known.saturating_add(1);
        let is_over = broken.error.reason == ErrorReason::SourceDenied && broken.known >= 2;
        if is_over {
            self.partitions.remove(at);
        }
        is_over
    }

    /// Statistics do not know where a partition ends: its fetches are refused, or were not answered yet.
    pub fn partition_unknown(&mut self, at: &TopicPartition) {
        if let Some(broken) = self.partitions.get_mut(at) {
            broken.known = 0;
        }
    }

    /// A partition has delivered a message, or is not read any more.
    pub fn partition_over(&mut self, at: &TopicPartition) {
        self.partitions.remove(at);
    }

    /// What matters most.
    pub fn current(&self) -> Option<&LastError> {
        let other = self.other.as_ref().map(|(error, _)| error);
        let most = [&self.brokers, &self.topics, &self.group, &self.coordinator];
        let most = most.into_iter().find_map(Option::as_ref);
        most.or_else(|| self.partitions.values().next().map(|broken| &broken.error)).or(other)
    }

    /// What may explain that an answer did not come.
    pub fn explanation(&self) -> Option<&LastError> {
        self.current().or(self.broker.as_ref())
    }
}

/// Whether an error concerns one partition: its reader tells of it, with the place.
pub fn is_of_a_partition(code: Option<Code>) -> bool {
    matches!(
        code,
        Some(
            Code::AutoOffsetReset
                | Code::OffsetOutOfRange
                | Code::BadCompression
                | Code::BadMessage
                | Code::InvalidMessage
                | Code::InvalidMessageSize
                | Code::MessageSizeTooLarge
                | Code::PartitionEOF
        )
    )
}

/// Whether other credentials might mend an error. A broker that does not like a certificate may just hang up.
pub fn may_be_credentials(code: Option<Code>) -> bool {
    matches!(
        code,
        Some(Code::Authentication | Code::SaslAuthenticationFailed | Code::SSL | Code::AllBrokersDown)
    )
}

/// What an error of the client library means.
pub fn reason(code: Option<Code>) -> ErrorReason {
    match code {
        Some(
            Code::AllBrokersDown
            | Code::BrokerTransportFailure
            | Code::OperationTimedOut
            | Code::RequestTimedOut
            | Code::Resolve
            | Code::SSL,
        ) => ErrorReason::SourceUnreachable,
        Some(
            Code::Authentication
            | Code::SaslAuthenticationFailed
            | Code::TopicAuthorizationFailed
            | Code::GroupAuthorizationFailed
            | Code::ClusterAuthorizationFailed,
        ) => ErrorReason::SourceDenied,
        Some(Code::UnknownTopicOrPartition | Code::UnknownTopic | Code::UnknownPartition) => {
            ErrorReason::TopicUnknown
        }
        _ => ErrorReason::SourceFailed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(errors: &ClientErrors) -> Option<&str> {
        errors.current().map(|error| error.message.as_str())
    }

    fn fail(errors: &mut ClientErrors, code: Code, message: &str) {
        errors.failed(Some(code), message.to_owned(), Instant::now());
    }

    #[test]
    fn a_dead_broker_is_trouble_for_as_long_as_none_answers() {
        let mut errors = ClientErrors::default();
        let begin = Instant::now();
        errors.observe(Answering::Yes, begin);
        fail(&mut errors, Code::BrokerTransportFailure, "connection refused");
        fail(&mut errors, Code::AllBrokersDown, "1/1 brokers are down");
        assert_eq!(message(&errors), Some("connection refused"));
        errors.observe(Answering::No, begin + Duration::from_secs(3_600));
        assert_eq!(message(&errors), Some("connection refused"));
        errors.observe(Answering::Yes, begin + Duration::from_secs(3_601));
        assert_eq!(message(&errors), None);
    }

    #[test]
    fn a_frozen_broker_is_trouble_without_any_error() {
        let mut errors = ClientErrors::default();
        errors.observe(Answering::Silent, Instant::now());
        assert_eq!(errors.current().map(|error| error.reason), Some(ErrorReason::SourceUnreachable));
    }

    #[test]
    fn brokers_that_are_out_of_reach_for_a_while_are_trouble_without_any_error() {
        let mut errors = ClientErrors::default();
        let begin = Instant::now();
        errors.observe(Answering::No, begin);
        errors.observe(Answering::Yes, begin + UNCONNECTED);
        errors.observe(Answering::No, begin + 2 * UNCONNECTED);
        assert_eq!(message(&errors), None);
        errors.observe(Answering::No, begin + 3 * UNCONNECTED);
        assert_eq!(errors.current().map(|error| error.reason), Some(ErrorReason::SourceUnreachable));
        fail(&mut errors, Code::BrokerTransportFailure, "connection setup timed out");
        assert_eq!(message(&errors), Some("connection setup timed out"));
        errors.observe(Answering::Yes, begin + 4 * UNCONNECTED);
        assert_eq!(message(&errors), None);
    }

    #[test]
    fn one_unreachable_broker_of_several_is_no_trouble() {
        let mut errors = ClientErrors::default();
        errors.observe(Answering::Yes, Instant::now());
        fail(&mut errors, Code::BrokerTransportFailure, "connection refused");
        fail(&mut errors, Code::Authentication, "wrong password");
        assert_eq!(message(&errors), None);
        assert!(errors.explanation().is_some());
    }

    #[test]
    fn a_coordinator_that_is_away_for_a_while_is_trouble_though_brokers_answer() {
        let mut errors = ClientErrors::default();
        let begin = Instant::now();
        for (seconds, is_there, told) in
            [(0, false, false), (9, false, false), (10, false, true), (20, true, false), (30, false, false)]
        {
            let now = begin + Duration::from_secs(seconds);
            errors.observe(Answering::Yes, now);
            errors.observe_coordinator(is_there, now);
            assert_eq!(message(&errors).is_some_and(|text| text.contains("coordinator")), told, "{seconds}");
        }
    }

    #[test]
    fn refused_credentials_at_the_start_are_told_before_all_brokers_count_as_down() {
        let mut errors = ClientErrors::default();
        fail(&mut errors, Code::Authentication, "wrong password");
        errors.observe(Answering::No, Instant::now());
        assert_eq!(errors.current().map(|error| error.reason), Some(ErrorReason::SourceDenied));
    }

    #[test]
    fn a_missing_topic_and_a_broken_partition_end_by_their_own_proof_only() {
        let mut errors = ClientErrors::default();
        let later = Instant::now() + 100 * CALM;
        let at = TopicPartition { topic: "spans".into(), partition: 3 };
        fail(&mut errors, Code::UnknownTopicOrPartition, "the topic spans does not exist");
        errors.partition_failed(&at, LastError::new(ErrorReason::SourceFailed, "spans/3"));
        errors.observe(Answering::Yes, later);
        assert_eq!(message(&errors), Some("the topic spans does not exist"));
        errors.topics_found();
        assert_eq!(message(&errors), Some("spans/3"));
        errors.partition_over(&at);
        assert_eq!(message(&errors), None);
    }

    #[test]
    fn a_refusal_to_read_a_partition_is_over_when_fetches_are_answered_and_a_broken_one_is_not() {
        let mut errors = ClientErrors::default();
        let at = |partition| TopicPartition { topic: "spans".into(), partition };
        errors.partition_failed(&at(0), LastError::new(ErrorReason::SourceDenied, "denied"));
        errors.partition_failed(&at(1), LastError::new(ErrorReason::SourceFailed, "broken"));
        // Of before the refusal, and while it lasts.
        assert!(!errors.partition_known(&at(0)));
        errors.partition_unknown(&at(0));
        assert!(!errors.partition_known(&at(0)));
        assert_eq!(message(&errors), Some("denied"));
        assert!(errors.partition_known(&at(0)));
        for _ in 0..3 {
            assert!(!errors.partition_known(&at(1)));
        }
        assert_eq!(message(&errors), Some("broken"));
    }

    #[test]
    fn what_has_no_proof_of_its_own_is_over_after_a_while_with_a_broker_that_answers() {
        let mut errors = ClientErrors::default();
        let begin = Instant::now();
        errors.failed(Some(Code::Fail), "something".to_owned(), begin);
        errors.observe(Answering::No, begin + 2 * CALM);
        assert_eq!(message(&errors), Some("something"));
        errors.observe(Answering::Yes, begin + CALM / 2);
        assert_eq!(message(&errors), Some("something"));
        errors.observe(Answering::Yes, begin + CALM);
        assert_eq!(message(&errors), None);
    }
}
