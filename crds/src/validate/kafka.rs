//! Rules about Kafka: what is read, and the topic of dead letters.

use jiff::Timestamp;

use super::{Check, DEFAULT_SESSION_MS, Quoted, topic_regex};
use crate::v1alpha1::{
    DeadLetter, JAVA_NAMES, KAFKA_PROPERTIES, KafkaSource, KafkaTls, MAX_KAFKA_NAME, MAX_TIME, Source,
    StartFrom,
};

/// Longest list of brokers.
const MAX_BROKERS_BYTES: usize = 1024;
/// Longest pattern of topics.
const MAX_PATTERN_CHARS: usize = 512;
/// Most of librdkafka's settings, and the longest value of one.
const MAX_PROPERTIES: usize = 32;
const MAX_PROPERTY_CHARS: usize = 256;
/// What a consumer's `max.poll.interval.ms` is where the pipeline sets none.
const DEFAULT_MAX_POLL_INTERVAL_MS: u32 = 300_000;

impl Check {
    pub(super) fn source(&mut self, path: &str, source: &Source) {
        match &source.kafka {
            Some(kafka) => self.kafka(&format!("{path}.kafka"), kafka),
            None => self.report(path.into(), "exactly one kind of source is needed: kafka"),
        }
    }

    fn kafka(&mut self, path: &str, kafka: &KafkaSource) {
        self.brokers(format!("{path}.bootstrapServers"), &kafka.bootstrap_servers);
        if kafka.topic.is_some() == kafka.topic_pattern.is_some() {
            self.report(path.into(), "exactly one of topic and topicPattern is needed");
        }
        if let Some(topic) = &kafka.topic {
            let path = format!("{path}.topic");
            match pattern_of(topic) {
                Some(pattern) => {
                    self.report(path, format!("expected one topic; several are topicPattern: '{pattern}'"));
                }
                None => self.topic(&path, topic),
            }
        }
        self.pattern(format!("{path}.topicPattern"), kafka.topic_pattern.as_deref());
        self.pattern(format!("{path}.excludePattern"), kafka.exclude_pattern.as_deref());
        if kafka.exclude_pattern.is_some() && kafka.topic_pattern.is_none() {
            self.report(format!("{path}.excludePattern"), "allowed only together with topicPattern");
        }
        let legal = |letter: char| letter.is_ascii_graphic();
        let expected = "printable ASCII without spaces";
        self.text(format!("{path}.consumerGroup"), &kafka.consumer_group, MAX_KAFKA_NAME, legal, expected);
        if let StartFrom::Timestamp(time) = kafka.start_from {
            let good = (Timestamp::UNIX_EPOCH..MAX_TIME).contains(&time);
            let expected = format!("a time from 1970 and before {MAX_TIME}");
            self.expect(good, format!("{path}.startFrom"), &expected, time);
        }
        if let Some(tls) = &kafka.tls {
            self.tls(&format!("{path}.tls"), tls);
        }
        if let Some(sasl) = &kafka.sasl {
            self.secret(&format!("{path}.sasl.usernameFrom"), Some(&sasl.username_from));
            self.secret(&format!("{path}.sasl.passwordFrom"), Some(&sasl.password_from));
        }
        self.properties(&format!("{path}.properties"), kafka);
    }

    fn topic(&mut self, path: &str, topic: &str) {
        let expected = "a topic name (letters, digits, '.', '_', '-')";
        self.text(path.into(), topic, MAX_KAFKA_NAME, is_of_topic, expected);
        self.expect(!matches!(topic, "." | ".."), path.into(), expected, Quoted(topic));
    }

    pub(super) fn dead_letter(&mut self, path: &str, dead_letter: Option<&DeadLetter>, source: &Source) {
        let Some(DeadLetter { topic }) = dead_letter.filter(|letters| !letters.topic.is_empty()) else {
            return;
        };
        let path = format!("{path}.topic");
        self.topic(&path, topic);
        let read = source.kafka.as_ref().and_then(|kafka| kafka.topic.as_ref());
        let expected = "another topic than the one that is read (dead letters would come back for ever)";
        self.expect(read != Some(topic), path, expected, Quoted(topic));
    }

    fn brokers(&mut self, path: String, brokers: &str) {
        let legal = |letter: char| letter.is_ascii_alphanumeric() || "-._:[]".contains(letter);
        let is_broker = |broker: &str| {
            broker.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && host.chars().all(legal) && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        };
        let good = brokers.len() <= MAX_BROKERS_BYTES && brokers.split(',').all(is_broker);
        self.expect(good, path, "host:port, several separated by commas without spaces", Quoted(brokers));
    }

    fn pattern(&mut self, path: String, pattern: Option<&str>) {
        let Some(pattern) = pattern else { return };
        let length = pattern.chars().count();
        if !(1..=MAX_PATTERN_CHARS).contains(&length) {
            self.report(path, format!("expected 1 to {MAX_PATTERN_CHARS} characters, found {length}"));
        } else if let Err(message) = topic_regex(pattern) {
            self.report(path, message);
        }
    }

    fn tls(&mut self, path: &str, tls: &KafkaTls) {
        self.secret(&format!("{path}.caFrom"), tls.ca_from.as_ref());
        self.secret(&format!("{path}.certFrom"), tls.cert_from.as_ref());
        self.secret(&format!("{path}.keyFrom"), tls.key_from.as_ref());
        if tls.cert_from.is_some() != tls.key_from.is_some() {
            self.report(path.into(), "certFrom and keyFrom are needed both or not at all");
        }
    }

    fn properties(&mut self, path: &str, kafka: &KafkaSource) {
        let count = kafka.properties.len();
        self.expect(
            count <= MAX_PROPERTIES,
            path.into(),
            &format!("at most {MAX_PROPERTIES} settings"),
            count,
        );
        for (name, value) in &kafka.properties {
            let path = format!("{path}[{name}]");
            let Some(property) = KAFKA_PROPERTIES.iter().find(|property| property.name == name) else {
                self.report(path, not_allowed(name));
                continue;
            };
            let length = value.chars().count();
            if !(1..=MAX_PROPERTY_CHARS).contains(&length) {
                self.report(path, format!("expected 1 to {MAX_PROPERTY_CHARS} characters, found {length}"));
            } else if let Err(expected) = property.value.check(value) {
                self.expect(false, path, &expected, Quoted(value));
            }
        }
        self.order_of_times(path, kafka);
    }

    /// What the library refuses only when a client is made; and what it takes, though the group puts a consumer out whose
    /// heartbeats are further apart than its session lasts.
    fn order_of_times(&mut self, path: &str, kafka: &KafkaSource) {
        for (small, large, otherwise, word) in [
            ("heartbeat.interval.ms", "session.timeout.ms", DEFAULT_SESSION_MS, "less than"),
            ("session.timeout.ms", "max.poll.interval.ms", DEFAULT_MAX_POLL_INTERVAL_MS, "at most"),
            ("reconnect.backoff.ms", "reconnect.backoff.max.ms", u32::MAX, "at most"),
        ] {
            let number = |name| kafka.properties.get(name).and_then(|text: &String| text.parse::<u32>().ok());
            let (Some(least), most) = (number(small), number(large).unwrap_or(otherwise)) else { continue };
            if least > most || least == most && word == "less than" {
                let message = format!("expected {word} {large}, {most}, found {least}");
                self.report(format!("{path}[{small}]"), message);
            }
        }
    }
}

/// Whether a letter may be part of a topic's name.
fn is_of_topic(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-')
}

/// The pattern of several topics that are separated by commas; none where it is no such list.
fn pattern_of(topics: &str) -> Option<String> {
    let names: Vec<_> = topics.split(',').map(str::trim).collect();
    let is_list = names.len() > 1
        && topics.len() <= MAX_KAFKA_NAME
        && names.iter().all(|name| !name.is_empty() && name.chars().all(is_of_topic));
    is_list.then(|| names.join("|").replace('.', "\\."))
}

/// Why a setting of Kafka is refused.
fn not_allowed(name: &str) -> String {
    match JAVA_NAMES.iter().find(|(java, _)| *java == name) {
        Some((_, ours)) => {
            format!("that is its name in Kafka's Java client; librdkafka's, which is used here, is {ours}")
        }
        None => "not allowed: it would break a guarantee, or has a field of its own".into(),
    }
}
