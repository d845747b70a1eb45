//! The little of librdkafka's statistics (STATISTICS.md) that lag, trouble and memory need.

use std::collections::HashMap;

use rdkafka::ClientConfig;
use serde::Deserialize;

use super::broker_contact::Contact;
use super::client_errors::Answering;

/// A broker with a request under way from which nothing came for this long, microseconds, is frozen: metadata is
/// asked for every 5 s, and nothing that a healthy broker answers takes longer, but for joining a group, which
/// has a connection of its own.
const SILENT_MICROSECONDS: i64 = 15_000_000;

/// The statistics of a client.
#[derive(Deserialize)]
pub struct Statistics {
    #[serde(default)]
    brokers: HashMap<String, Broker>,
    #[serde(default)]
    topics: HashMap<String, Topic>,
    /// None of a client without a group.
    cgrp: Option<ConsumerGroup>,
}

#[derive(Deserialize)]
struct ConsumerGroup {
    /// `up` where the group's coordinator is connected.
    #[serde(default)]
    state: String,
}

#[derive(Deserialize)]
struct Broker {
    /// `internal` for one that is none, `logical` for one that only stands for another, such as the group's coordinator.
    #[serde(default)]
    source: String,
    #[serde(default)]
    state: String,
    /// Requests that wait for an answer.
    #[serde(default)]
    waitresp_cnt: i64,
    /// Microseconds since the last answer; negative before the first.
    #[serde(default)]
    rxidle: i64,
    /// Tries to connect, whether they succeeded or not.
    #[serde(default)]
    connects: u64,
}

impl Broker {
    fn is_connected(&self) -> bool {
        self.source != "internal" && matches!(self.state.as_str(), "UP" | "REAUTH")
    }

    /// Whether it is one that the client could ask.
    fn is_real(&self) -> bool {
        !matches!(self.source.as_str(), "internal" | "logical")
    }
}

#[derive(Deserialize)]
struct Topic {
    #[serde(default)]
    partitions: HashMap<i32, Partition>,
}

/// A partition that the client knows.
#[derive(Deserialize)]
pub struct Partition {
    /// High watermark; negative while unknown.
    hi_offset: i64,
    /// Where the first transaction begins that is not ended yet; negative while unknown.
    #[serde(default = "unknown")]
    ls_offset: i64,
    /// Id of the broker that is asked for it.
    #[serde(default)]
    pub leader: i32,
    /// Bytes of messages that were fetched and not yet read.
    #[serde(default, rename = "fetchq_size")]
    pub prefetched: u64,
    /// Where the next fetch begins: behind messages, and behind what is none (the end of a transaction, messages of one
    /// that was aborted). Never ahead of the rest of this.
    #[serde(default = "unknown")]
    next_offset: i64,
}

impl Partition {
    /// Whether a broker has answered for it.
    pub fn is_known(&self) -> bool {
        self.hi_offset >= 0
    }

    /// Offset behind the last message that is to be read, where that is known. `read` is the one behind the last message
    /// that was read.
    pub fn end(&self, isolation: Isolation, read: Option<u64>) -> Option<u64> {
        let end = match isolation {
            Isolation::ReadCommitted if self.ls_offset >= 0 => self.ls_offset,
            _ => self.hi_offset,
        };
        // All was fetched, and nothing of it waits: no message lies between.
        let is_read = self.next_offset >= end && self.prefetched == 0;
        let end = u64::try_from(end).ok()?;
        Some(read.filter(|_| is_read).map_or(end, |read| read.min(end)))
    }
}

fn unknown() -> i64 {
    -1
}

/// Which messages of transactions are read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Isolation {
    /// librdkafka's default.
    #[default]
    ReadCommitted,
    ReadUncommitted,
}

impl Isolation {
    /// That of a client.
    pub fn of(client: &ClientConfig) -> Self {
        match client.get("isolation.level") {
            Some("read_uncommitted") => Self::ReadUncommitted,
            _ => Self::ReadCommitted,
        }
    }
}

impl Statistics {
    /// Whether brokers answer.
    pub fn answering(&self) -> Answering {
        let mut connected = self.brokers.values().filter(|broker| broker.is_connected()).peekable();
        if connected.peek().is_none() {
            return Answering::No;
        }
        let silent = |broker: &Broker| broker.waitresp_cnt > 0 && broker.rxidle > SILENT_MICROSECONDS;
        if connected.all(silent) { Answering::Silent } else { Answering::Yes }
    }

    /// What the client has of its brokers.
    pub fn contact(&self) -> Contact {
        if self.brokers.values().any(Broker::is_connected) {
            return Contact::Connected;
        }
        let known = self.brokers.values().filter(|broker| broker.is_real());
        known
            .map(|broker| broker.connects)
            .reduce(|sum, tries| sum + tries)
            .map_or(Contact::KnowsNone, |tries| Contact::Away { tries })
    }

    /// Whether the group's coordinator is there: one of the brokers, and the client never tells that it has none.
    pub fn is_coordinated(&self) -> bool {
        self.cgrp.as_ref().is_none_or(|group| group.state == "up")
    }

    /// Every partition that the client knows, with its topic and number.
    pub fn partitions(&self) -> impl Iterator<Item = (&str, i32, &Partition)> {
        self.topics.iter().flat_map(|(topic, found)| {
            found.partitions.iter().map(move |(number, partition)| (topic.as_str(), *number, partition))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statistics(brokers: &str) -> Statistics {
        let text =
            format!(r#"{{ "name": "sluice#consumer-1", "brokers": {{ {brokers} }}, "topics": {{}} }}"#);
        serde_json::from_str(&text).unwrap()
    }

    fn answering(brokers: &str) -> Answering {
        statistics(brokers).answering()
    }

    fn broker(name: &str, source: &str, state: &str, waiting: u32, idle: i64) -> String {
        format!(
            r#""{name}": {{ "name": "{name}", "source": "{source}", "state": "{state}",
                "waitresp_cnt": {waiting}, "rxidle": {idle} }}"#
        )
    }

    #[test]
    fn one_broker_that_answers_is_enough() {
        let (up, down) =
            (broker("a:1/1", "learned", "UP", 1, 90_000), broker("b:1/2", "learned", "DOWN", 0, -1));
        assert_eq!(answering(&format!("{up}, {down}")), Answering::Yes);
        assert_eq!(answering(&down), Answering::No);
        assert_eq!(answering(""), Answering::No);
    }

    #[test]
    fn a_group_without_its_coordinator_is_told_from_one_that_has_it() {
        for (group, expected) in [
            (r#", "cgrp": { "state": "up", "stateage": 7, "join_state": "steady" }"#, true),
            (r#", "cgrp": { "state": "wait-coord", "stateage": 7 }"#, false),
            ("", true),
        ] {
            let statistics: Statistics =
                serde_json::from_str(&format!(r#"{{ "brokers": {{}}, "topics": {{}}{group} }}"#)).unwrap();
            assert_eq!(statistics.is_coordinated(), expected, "{group}");
        }
    }

    #[test]
    fn the_librarys_own_broker_proves_nothing() {
        assert_eq!(answering(&broker(":0/internal", "internal", "UP", 0, -1)), Answering::No);
    }

    #[test]
    fn a_client_that_is_left_with_its_own_brokers_knows_none() {
        let own = format!(
            "{}, {}",
            broker("GroupCoordinator", "logical", "DOWN", 0, -1),
            broker(":0/internal", "internal", "UP", 0, -1)
        );
        let contact = |brokers: &str| statistics(brokers).contact();
        assert_eq!((contact(&own), contact("")), (Contact::KnowsNone, Contact::KnowsNone));
        for known in [
            broker("a:1/bootstrap", "configured", "DOWN", 0, -1),
            broker("a:1/1", "learned", "TRY_CONNECT", 0, -1),
        ] {
            assert_eq!(contact(&format!("{own}, {known}")), Contact::Away { tries: 0 }, "{known}");
        }
    }

    #[test]
    fn tries_to_connect_count_only_those_to_brokers_that_could_be_asked() {
        let with = |name: &str, source: &str, state: &str, connects: u64| {
            format!(r#""{name}": {{ "source": "{source}", "state": "{state}", "connects": {connects} }}"#)
        };
        let (first, second) =
            (with("a:1/1", "learned", "INIT", 3), with("b:1/2", "configured", "CONNECT", 4));
        let coordinator = with("GroupCoordinator", "logical", "INIT", 70);
        let away = format!("{first}, {second}, {coordinator}");
        assert_eq!(statistics(&away).contact(), Contact::Away { tries: 7 });
        let connected = with("GroupCoordinator", "logical", "UP", 71);
        assert_eq!(statistics(&format!("{first}, {second}, {connected}")).contact(), Contact::Connected);
    }

    #[test]
    fn a_connection_through_which_nothing_comes_is_no_answer() {
        let frozen = broker("a:1/1", "learned", "UP", 2, 16_000_000);
        assert_eq!(answering(&frozen), Answering::Silent);
        let idle = broker("a:1/1", "learned", "UP", 0, 16_000_000);
        assert_eq!(answering(&idle), Answering::Yes);
    }
}
