//! Where partitions end, which gives the lag.
//!
//! librdkafka learns an end with every response to a fetch, and tells it with its statistics; it does not fetch while a
//! partition's prefetch is full. At a rate far below that of the producers this takes minutes or hours, in which the
//! backlog grows unseen. So the broker is asked where messages wait in the client.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use rdkafka::Offset;
use rdkafka::consumer::Consumer;
use rdkafka::error::KafkaError;
use rdkafka::topic_partition_list::TopicPartitionList;

use super::GroupConsumer;
use super::statistics::{Isolation, Partition};
use crate::source::TopicPartition;

/// How long brokers may take to answer. A stop may have to wait for it.
const ANSWERED_WITHIN: Duration = Duration::from_secs(3);

/// What is known of the ends.
pub struct Ends {
    isolation: Isolation,
    known: HashMap<TopicPartition, End>,
}

#[derive(Default)]
struct End {
    /// Offset behind the last message that is to be read.
    offset: Option<u64>,
    /// The same by the last statistics.
    told: Option<u64>,
    /// The broker to ask, where messages wait in the client.
    waits_of: Option<i32>,
}

impl Ends {
    /// Of a client that reads so.
    pub fn new(isolation: Isolation) -> Self {
        Self { isolation, known: HashMap::new() }
    }

    pub fn get(&self, at: &TopicPartition) -> Option<u64> {
        self.known.get(at)?.offset
    }

    /// A broker was asked.
    pub fn set(&mut self, at: &TopicPartition, offset: u64) {
        self.known.entry(at.clone()).or_default().offset = Some(offset);
    }

    /// The client's statistics, and the offset behind the last message that was read. An end that they have told before
    /// is no news: it may be older than an answer.
    pub fn observe(&mut self, at: TopicPartition, partition: &Partition, read: Option<u64>) {
        let end = self.known.entry(at).or_default();
        end.waits_of = (partition.prefetched > 0).then_some(partition.leader);
        let told = partition.end(self.isolation, read);
        if told != end.told {
            end.told = told;
            end.offset = end.told.or(end.offset);
        }
    }

    /// The partition is somebody else's. The client goes on telling what it told last.
    pub fn forget(&mut self, at: &TopicPartition) {
        if let Some(end) = self.known.get_mut(at) {
            *end = End { told: end.told, ..End::default() };
        }
    }

    /// Partitions of which the client may have stopped to learn, those of each broker apart: one that does not answer
    /// spoils the whole question.
    pub fn unsure(&self) -> Vec<Vec<TopicPartition>> {
        let mut unsure = BTreeMap::<_, Vec<_>>::new();
        for (at, end) in &self.known {
            if let Some(leader) = end.waits_of {
                unsure.entry(leader).or_default().push(at.clone());
            }
        }
        unsure.into_values().collect()
    }
}

/// Asks for the ends of partitions of one broker. May block.
///
/// # Errors
/// No answer, or that one of them is refused.
pub fn ask(
    consumer: &GroupConsumer,
    partitions: &[TopicPartition],
) -> Result<Vec<(TopicPartition, u64)>, KafkaError> {
    let mut list = TopicPartitionList::new();
    for at in partitions {
        // The protocol's name of the end among times: KIP-79.
        list.add_partition_offset(&at.topic, at.partition, Offset::End)?;
    }
    let answers = consumer.offsets_for_times(list, ANSWERED_WITHIN)?;
    Ok(answers
        .elements()
        .iter()
        .filter_map(|answer| {
            let (Ok(()), Offset::Offset(offset)) = (answer.error(), answer.offset()) else { return None };
            let at = TopicPartition { topic: answer.topic().into(), partition: answer.partition() };
            Some((at, u64::try_from(offset).ok()?))
        })
        .collect())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn told(end: i64, bytes: u64) -> Partition {
        told_by(1, end, bytes)
    }

    fn told_by(leader: i32, end: i64, bytes: u64) -> Partition {
        serde_json::from_value(json!({ "leader": leader, "hi_offset": end, "fetchq_size": bytes })).unwrap()
    }

    #[test]
    fn an_answer_is_newer_than_statistics_that_repeat_themselves_and_older_than_others() {
        let (mut ends, at) =
            (Ends::new(Isolation::ReadCommitted), TopicPartition { topic: "spans".into(), partition: 0 });
        ends.observe(at.clone(), &told(-1, 0), None);
        assert_eq!(ends.get(&at), None);
        ends.observe(at.clone(), &told(100, 1), None);
        ends.set(&at, 900);
        ends.observe(at.clone(), &told(100, 1), None);
        assert_eq!(ends.get(&at), Some(900));
        ends.observe(at.clone(), &told(950, 1), None);
        assert_eq!(ends.get(&at), Some(950));
        // Of a topic that was created again.
        ends.observe(at.clone(), &told(3, 1), None);
        assert_eq!(ends.get(&at), Some(3));
        ends.forget(&at);
        assert_eq!(ends.get(&at), None);
        // It is ours again, and the client has not fetched since.
        ends.set(&at, 70);
        ends.observe(at.clone(), &told(3, 0), None);
        assert_eq!(ends.get(&at), Some(70));
    }

    #[test]
    fn what_a_transaction_holds_back_is_no_backlog_of_who_reads_committed_messages() {
        let partition: Partition =
            serde_json::from_value(json!({ "hi_offset": 10, "ls_offset": 6 })).unwrap();
        let at = TopicPartition { topic: "spans".into(), partition: 0 };
        for (isolation, end) in [(Isolation::ReadCommitted, 6), (Isolation::ReadUncommitted, 10)] {
            let mut ends = Ends::new(isolation);
            ends.observe(at.clone(), &partition, None);
            assert_eq!(ends.get(&at), Some(end));
        }
    }

    #[test]
    fn what_is_no_message_is_no_backlog_once_it_was_fetched() {
        let at = TopicPartition { topic: "spans".into(), partition: 0 };
        let mut ends = Ends::new(Isolation::ReadCommitted);
        // The last message has offset 8, and its transaction's marker 9.
        for (next, prefetched, end) in [(7, 0, 10), (10, 50, 10), (10, 0, 9), (7, 0, 10)] {
            let told =
                json!({ "hi_offset": 10, "ls_offset": 10, "fetchq_size": prefetched, "next_offset": next });
            ends.observe(at.clone(), &serde_json::from_value(told).unwrap(), Some(9));
            assert_eq!(ends.get(&at), Some(end), "{next} {prefetched}");
        }
    }

    #[test]
    fn what_has_no_messages_in_the_client_is_fetched_and_need_not_be_asked_for() {
        let mut ends = Ends::new(Isolation::ReadCommitted);
        let at = |partition| TopicPartition { topic: "spans".into(), partition };
        for partition in 0..3 {
            ends.observe(at(partition), &told_by(partition % 2, 100, 1), None);
        }
        let mut unsure = ends.unsure();
        unsure.iter_mut().for_each(|asked| asked.sort());
        assert_eq!(unsure, [vec![at(0), at(2)], vec![at(1)]]);
        (0..3).for_each(|partition| ends.observe(at(partition), &told(100, 0), None));
        assert!(ends.unsure().is_empty());
    }
}
