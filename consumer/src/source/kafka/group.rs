//! What the group has given us.
//!
//! Rebalances are answered inside librdkafka's callback, at once: an assignment with nothing, a revocation with what
//! is open of it. So no rebalance ever waits for a database, and other members never wait for us.
//!
//! Order of locks: `state`, an [`Opening`], those of [`Trouble`]. A reader holds its opening while librdkafka calls back
//! with an error.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::topic_partition_list::TopicPartitionList;
use tokio::sync::mpsc;

use super::GroupConsumer;
use super::broker_contact::BrokerContact;
use super::client_errors::{Answering, ClientErrors};
use super::context::{GroupContext, TopicId};
use super::ends::Ends;
use super::opening::Opening;
use super::prefetch::Prefetch;
use super::statistics::Statistics;
use super::trouble::Trouble;
use crate::config::Topics;
use crate::last_error::LastError;
use crate::lock::lock;
use crate::meter::Meters;
use crate::source::{SourceEvent, TopicPartition};

/// State shared by the callbacks, the poll thread and the readers.
pub struct Group {
    /// Polls that have ended.
    pub polls: AtomicU64,
    /// Commits that were begun and not answered.
    pub commits: AtomicU64,
    /// How many partitions there are, where these are far more than the prefetch was divided for; 0 where they are not.
    pub outgrown_by: AtomicUsize,
    /// What is wrong with the client.
    pub trouble: Trouble,
    state: Mutex<State>,
    events: mpsc::UnboundedSender<SourceEvent>,
    meters: Arc<Meters>,
}

struct State {
    owned: HashSet<TopicPartition>,
    /// Owned and added to librdkafka's assignment.
    open: HashMap<TopicPartition, Arc<Opening>>,
    settled: HashMap<TopicPartition, u64>,
    ends: Ends,
    /// The id by which the cluster tells a topic from an earlier one of the same name.
    topic_ids: HashMap<String, String>,
    prefetch: Prefetch,
}

impl Group {
    pub fn new(
        events: mpsc::UnboundedSender<SourceEvent>,
        meters: Arc<Meters>,
        topics: Arc<Topics>,
        prefetch: Prefetch,
        ends: Ends,
        brokers: BrokerContact,
    ) -> Self {
        let state = State {
            owned: HashSet::new(),
            open: HashMap::new(),
            settled: HashMap::new(),
            ends,
            topic_ids: HashMap::new(),
            prefetch,
        };
        Self {
            polls: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            outgrown_by: AtomicUsize::new(0),
            trouble: Trouble::new(brokers, meters.clone(), topics),
            state: Mutex::new(state),
            events,
            meters,
        }
    }

    pub fn owns(&self, at: &TopicPartition) -> bool {
        self.lock().owned.contains(at)
    }

    /// There are so many partitions; `most` is the number from which on the prefetch is to be divided anew.
    pub fn counted(&self, partitions: usize, most: usize) {
        if partitions > most {
            self.outgrown_by.fetch_max(partitions, Relaxed);
        }
    }

    /// How many partitions are ours.
    pub fn owned(&self) -> usize {
        self.lock().owned.len()
    }

    /// Whether nothing of what is ours was settled since it was taken the last time.
    #[cfg(feature = "planted")]
    pub fn stands_still(&self) -> bool {
        let state = self.lock();
        !state.owned.is_empty() && state.settled.is_empty()
    }

    pub fn settled(&self, at: &TopicPartition, next_offset: u64) {
        self.lock().settled.insert(at.clone(), next_offset);
    }

    /// Positions to commit; those of partitions that are not ours any more are dropped.
    pub fn take_settled(&self) -> HashMap<TopicPartition, u64> {
        let mut state = self.lock();
        let State { owned, settled, .. } = &mut *state;
        settled.retain(|at, _| owned.contains(at));
        std::mem::take(settled)
    }

    pub fn end(&self, at: &TopicPartition) -> Option<u64> {
        self.lock().ends.get(at)
    }

    /// Partitions whose ends should be asked for, by broker.
    pub fn unsure_ends(&self) -> Vec<Vec<TopicPartition>> {
        self.lock().ends.unsure()
    }

    /// A broker has told where partitions end; what is not ours any more is dropped.
    pub fn set_ends(&self, told: impl IntoIterator<Item = (TopicPartition, u64)>) {
        let mut state = self.lock();
        let State { owned, ends, .. } = &mut *state;
        told.into_iter().filter(|(at, _)| owned.contains(at)).for_each(|(at, end)| ends.set(&at, end));
    }

    /// Topics of the partitions that are ours.
    pub fn topics(&self) -> BTreeSet<String> {
        self.lock().owned.iter().map(|at| at.topic.to_string()).collect()
    }

    /// For how long the broker keeps topics, where that is known.
    pub fn set_retention(&self, kept: BTreeMap<String, Duration>) {
        self.meters.set_topic_retention(kept);
    }

    /// Runs `change` with the set of open partitions while no rebalance can change it. `change` gets none where
    /// the partition is not ours.
    pub fn change_open<T>(
        &self,
        at: &TopicPartition,
        change: impl FnOnce(Option<&mut HashMap<TopicPartition, Arc<Opening>>>) -> T,
    ) -> T {
        let mut state = self.lock();
        let State { owned, open, .. } = &mut *state;
        change(owned.contains(at).then_some(open))
    }

    /// Takes a partition out of librdkafka's assignment; it stays ours.
    pub fn close(&self, consumer: &GroupConsumer, at: &TopicPartition) {
        {
            let mut state = self.lock();
            let Some(opening) = state.open.remove(at) else { return };
            opening.end();
            if let Err(error) = consumer.incremental_unassign(&list([at])) {
                tracing::warn!(partition = %at, %error, "a partition was not closed");
            }
        }
        self.trouble.change(|errors| errors.partition_over(at));
    }

    /// An opening cannot be read; nothing is told of one that has ended.
    pub fn partition_failed(&self, at: &TopicPartition, opening: &Arc<Opening>, error: LastError) {
        let state = self.lock();
        if state.open.get(at).is_some_and(|open| Arc::ptr_eq(open, opening)) {
            self.trouble.lock().partition_failed(at, error);
        }
        drop(state);
        self.trouble.tell();
    }

    pub fn assigned(&self, consumer: &BaseConsumer<GroupContext>, partitions: Vec<TopicPartition>) {
        // Answered with nothing: each partition is added when its position is known.
        if let Err(error) = consumer.incremental_assign(&TopicPartitionList::new()) {
            tracing::warn!(%error, "an assignment was not accepted by the client");
        }
        self.lock().owned.extend(partitions.iter().cloned());
        self.trouble.change(ClientErrors::assigned);
        self.send(SourceEvent::Assigned(partitions));
    }

    pub fn revoked(&self, consumer: &BaseConsumer<GroupContext>, partitions: Vec<TopicPartition>) {
        {
            let mut state = self.lock();
            let mut closed = TopicPartitionList::new();
            for at in &partitions {
                state.owned.remove(at);
                state.ends.forget(at);
                state.prefetch.forget(at);
                if let Some(opening) = state.open.remove(at) {
                    opening.end();
                    closed.add_partition(&at.topic, at.partition);
                }
            }
            if let Err(error) = consumer.incremental_unassign(&closed) {
                tracing::warn!(%error, "a revocation was not accepted by the client");
            }
        }
        self.trouble.change(|errors| partitions.iter().for_each(|at| errors.partition_over(at)));
        self.send(SourceEvent::Revoked(partitions));
    }

    /// The client has learned a topic's id. Under another one it would go on at the old offset, in the middle of a
    /// topic that it has never read: what is open of it is opened again, which compares the last stored message.
    pub fn learned(&self, TopicId { topic, before, id }: &TopicId<'_>) {
        let mut state = self.lock();
        let State { open, topic_ids, .. } = &mut *state;
        let known = topic_ids.insert((*topic).to_owned(), (*id).to_owned());
        if known.as_deref().or(*before).is_none_or(|known| known == *id) {
            return;
        }
        tracing::warn!(topic, "the topic was deleted and created again: its partitions are opened again");
        for (_, opening) in open.iter().filter(|(at, _)| *at.topic == **topic) {
            opening.doubt();
        }
    }

    /// What the client tells of itself once a second.
    pub fn observe(&self, statistics: &Statistics) {
        self.trouble.brokers.observe(statistics.contact(), Instant::now());
        self.trouble.change(|errors| {
            let (answering, now) = (statistics.answering(), Instant::now());
            errors.observe(answering, now);
            let others_answer = answering == Answering::Yes;
            errors.observe_coordinator(statistics.is_coordinated() || !others_answer, now);
        });
        let mut state = self.lock();
        let State { owned, open, ends, prefetch, .. } = &mut *state;
        let (mut held, mut readable) = (0, Vec::new());
        let mut client_errors = self.trouble.lock();
        for (topic, number, partition) in statistics.partitions() {
            let at = TopicPartition { topic: topic.into(), partition: number };
            if !owned.contains(&at) {
                continue;
            }
            held += partition.prefetched;
            prefetch.observe(&at, partition.prefetched);
            if !partition.is_known() {
                client_errors.partition_unknown(&at);
            } else if client_errors.partition_known(&at) {
                readable.push(at.clone());
            }
            let read = open.get(&at).map(|opening| opening.read_to.load(Relaxed));
            ends.observe(at, partition, read);
        }
        drop((client_errors, state));
        // Whoever reads the partition learns nothing of it without a message.
        readable.iter().for_each(|at| self.meters.partition_works(at));
        self.trouble.tell();
        self.meters.prefetched_bytes.store(held, Relaxed);
    }

    fn send(&self, event: SourceEvent) {
        if self.events.send(event).is_err() {
            tracing::debug!("the pipeline has stopped");
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

/// A list of partitions without offsets.
pub fn list<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for at in partitions {
        list.add_partition(&at.topic, at.partition);
    }
    list
}

#[cfg(test)]
mod tests {
    use super::super::statistics::Isolation;
    use super::*;

    fn group() -> Group {
        let (events, _) = mpsc::unbounded_channel();
        let topics = Arc::new(Topics::Named("spans".to_owned()));
        let ends = Ends::new(Isolation::default());
        Group::new(events, Arc::default(), topics, Prefetch::default(), ends, BrokerContact::default())
    }

    fn open(group: &Group, topic: &str) -> Arc<Opening> {
        let (at, opening) = (TopicPartition { topic: topic.into(), partition: 0 }, Arc::new(Opening::at(0)));
        group.lock().open.insert(at, opening.clone());
        opening
    }

    #[test]
    fn a_topic_with_another_id_is_opened_again_and_others_are_not() {
        let group = group();
        let (changed, kept) = (open(&group, "spans"), open(&group, "other"));
        let learn = |text| group.learned(&TopicId::in_log(text).unwrap());
        learn("[thrd:main]: Topic spans changed id from AAAAAAAAAAAAAAAAAAAAAA to tBTfIf-gS9m0Ub1yXlvJdQ");
        learn("[thrd:main]: Topic other changed id from AAAAAAAAAAAAAAAAAAAAAA to 0Ub1yXlvJdQtBTfIf-gS9m");
        assert!(!changed.is_doubtful() && !kept.is_doubtful());
        learn("[thrd:main]: Topic spans changed id from tBTfIf-gS9m0Ub1yXlvJdQ to Zg3kXlvJdQtBTfIf-gS9m0");
        assert!(changed.is_doubtful() && !kept.is_doubtful());
    }
}
