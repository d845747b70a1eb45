//! What the group has given us, and librdkafka's callbacks.
//!
//! Rebalances are answered inside the callback, at once: an assignment with nothing, a revocation with what
//! is open of it. So no rebalance ever waits for a database, and other members never wait for us.
//!
//! Order of locks: `state`, an [`Opening`], `troubles`. A reader holds its opening while librdkafka calls back
//! with an error.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::mpsc;

use super::opening::Opening;
use super::statistics::Statistics;
use super::trouble::{Troubles, is_of_a_partition, may_be_credentials};
use super::{GroupConsumer, lock};
use crate::config::Topics;
use crate::last_error::LastError;
use crate::meter::Meters;
use crate::source::{SourceEvent, TopicPartition};

/// State shared by the callbacks, the poll thread and the readers.
pub struct Group {
    /// Polls that have ended.
    pub polls: AtomicU64,
    /// Commits that were begun and not answered.
    pub commits: AtomicU64,
    /// Whether brokers have refused a connection, maybe for its credentials.
    pub refused: AtomicBool,
    /// Whether the client is being stopped: what it says then concerns nobody.
    silent: AtomicBool,
    state: Mutex<State>,
    troubles: Mutex<Troubles>,
    /// Whether trouble was told, so that its end is told once.
    told: AtomicBool,
    events: mpsc::UnboundedSender<SourceEvent>,
    meters: Arc<Meters>,
    topics: Arc<Topics>,
}

#[derive(Default)]
struct State {
    owned: HashSet<TopicPartition>,
    /// Owned and added to librdkafka's assignment.
    open: HashMap<TopicPartition, Arc<Opening>>,
    settled: HashMap<TopicPartition, u64>,
    /// Offset that the next message will get.
    ends: HashMap<TopicPartition, u64>,
    /// The id by which the cluster tells a topic from an earlier one of the same name.
    topic_ids: HashMap<String, String>,
}

impl Group {
    pub fn new(events: mpsc::UnboundedSender<SourceEvent>, meters: Arc<Meters>, topics: Arc<Topics>) -> Self {
        Self {
            polls: AtomicU64::new(0),
            commits: AtomicU64::new(0),
            refused: AtomicBool::new(false),
            silent: AtomicBool::new(false),
            state: Mutex::default(),
            troubles: Mutex::default(),
            told: AtomicBool::new(false),
            events,
            meters,
            topics,
        }
    }

    pub fn owns(&self, at: &TopicPartition) -> bool {
        self.lock().owned.contains(at)
    }

    pub fn owns_any(&self) -> bool {
        !self.lock().owned.is_empty()
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
        self.lock().ends.get(at).copied()
    }

    pub fn set_end(&self, at: &TopicPartition, end: u64) {
        self.lock().ends.insert(at.clone(), end);
    }

    /// What may explain that an answer did not come.
    pub fn explanation(&self) -> Option<LastError> {
        lock(&self.troubles).explanation().cloned()
    }

    /// An error of the client; `message` says more than it.
    pub fn failed(&self, error: &KafkaError, message: &str) {
        let code = error.rdkafka_error_code();
        if may_be_credentials(code) {
            self.refused.store(true, Relaxed);
        }
        let message = match (code, &*self.topics) {
            (
                Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic),
                Topics::Named(name),
            ) => format!("the topic {name} does not exist"),
            _ => message.to_owned(),
        };
        lock(&self.troubles).failed(code, message, Instant::now());
        self.tell();
    }

    /// Changes what is known of trouble, and tells it.
    pub fn troubles<T>(&self, change: impl FnOnce(&mut Troubles) -> T) -> T {
        let changed = change(&mut lock(&self.troubles));
        self.tell();
        changed
    }

    /// Shows what is wrong, again and again: whoever else has reached a broker ends what it shows, and cannot
    /// know whether other trouble goes on.
    pub fn tell(&self) {
        if self.silent.load(Relaxed) {
            return;
        }
        let current = lock(&self.troubles).current().cloned();
        match current {
            Some(error) => {
                self.told.store(true, Relaxed);
                self.meters.source_failed(error);
            }
            None => {
                if self.told.swap(false, Relaxed) {
                    self.meters.source_works();
                }
            }
        }
    }

    /// Tells nothing any more.
    pub fn fall_silent(&self) {
        self.silent.store(true, Relaxed);
    }

    /// Topics of the partitions that are ours.
    pub fn topics(&self) -> BTreeSet<String> {
        self.lock().owned.iter().map(|at| at.topic.to_string()).collect()
    }

    /// The shortest time for which the broker keeps what is ours, where that is known.
    pub fn set_retention(&self, retention: Option<Duration>) {
        self.meters.set_topic_retention(retention);
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
        self.troubles(|troubles| troubles.partition_over(at));
    }

    /// An opening cannot be read; nothing is told of one that has ended.
    pub fn partition_failed(&self, at: &TopicPartition, opening: &Arc<Opening>, error: LastError) {
        let state = self.lock();
        if state.open.get(at).is_some_and(|open| Arc::ptr_eq(open, opening)) {
            lock(&self.troubles).partition_failed(at, error);
        }
        drop(state);
        self.tell();
    }

    fn assigned(&self, consumer: &BaseConsumer<GroupContext>, partitions: Vec<TopicPartition>) {
        // Answered with nothing: each partition is added when its position is known.
        if let Err(error) = consumer.incremental_assign(&TopicPartitionList::new()) {
            tracing::warn!(%error, "an assignment was not accepted by the client");
        }
        self.lock().owned.extend(partitions.iter().cloned());
        self.troubles(Troubles::assigned);
        self.send(SourceEvent::Assigned(partitions));
    }

    fn revoked(&self, consumer: &BaseConsumer<GroupContext>, partitions: Vec<TopicPartition>) {
        {
            let mut state = self.lock();
            let mut closed = TopicPartitionList::new();
            for at in &partitions {
                state.owned.remove(at);
                state.ends.remove(at);
                if let Some(opening) = state.open.remove(at) {
                    opening.end();
                    closed.add_partition(&at.topic, at.partition);
                }
            }
            if let Err(error) = consumer.incremental_unassign(&closed) {
                tracing::warn!(%error, "a revocation was not accepted by the client");
            }
        }
        self.troubles(|troubles| partitions.iter().for_each(|at| troubles.partition_over(at)));
        self.send(SourceEvent::Revoked(partitions));
    }

    /// The client has learned a topic's id. Under another one it would go on at the old offset, in the middle of a
    /// topic that it has never read: what is open of it is opened again, which compares the last stored message.
    fn learned(&self, TopicId { topic, before, id }: &TopicId<'_>) {
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

/// What librdkafka logs when metadata give a topic another id than it knew: its only sign of it.
#[derive(Debug, PartialEq, Eq)]
struct TopicId<'a> {
    topic: &'a str,
    /// None where the topic was new to the client.
    before: Option<&'a str>,
    id: &'a str,
}

impl<'a> TopicId<'a> {
    /// The debug context of librdkafka in which it is logged.
    const CONTEXT: &'static str = "metadata";
    /// Sixteen zero bytes.
    const NONE: &'static str = "AAAAAAAAAAAAAAAAAAAAAA";

    /// `[thrd:main]: Topic NAME changed id from ID to ID`; a topic's name holds no blank.
    fn in_log(message: &'a str) -> Option<Self> {
        let (head, ids) = message.split_once(" changed id from ")?;
        let (_, topic) = head.rsplit_once("Topic ")?;
        let (before, id) = ids.split_once(" to ")?;
        Some(Self { topic, before: Some(before).filter(|id| *id != Self::NONE), id })
    }
}

/// librdkafka's callbacks.
pub struct GroupContext {
    group: Arc<Group>,
}

impl GroupContext {
    /// What the client must log for [`ClientContext::log`] below.
    pub const DEBUG: &'static str = TopicId::CONTEXT;

    pub fn new(group: Arc<Group>) -> Self {
        Self { group }
    }
}

impl ClientContext for GroupContext {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        use RDKafkaLogLevel as Level;
        if let Some(found) = TopicId::in_log(message) {
            self.group.learned(&found);
        }
        match level {
            Level::Emerg | Level::Alert | Level::Critical | Level::Error => {
                tracing::error!(target: "librdkafka", "{facility}: {message}");
            }
            Level::Warning => tracing::warn!(target: "librdkafka", "{facility}: {message}"),
            Level::Notice | Level::Info => tracing::info!(target: "librdkafka", "{facility}: {message}"),
            // Some lines a topic at every refresh of metadata.
            Level::Debug => tracing::trace!(target: "librdkafka", "{facility}: {message}"),
        }
    }

    fn stats_raw(&self, statistics: &[u8]) {
        let statistics = match serde_json::from_slice::<Statistics>(statistics) {
            Ok(statistics) => statistics,
            Err(error) => return tracing::debug!(%error, "the client's statistics cannot be read"),
        };
        self.group.troubles(|troubles| troubles.observe(statistics.answering(), Instant::now()));
        let mut state = self.group.lock();
        let State { owned, ends, .. } = &mut *state;
        for (topic, partition, end) in statistics.ends() {
            let at = TopicPartition { topic: topic.into(), partition };
            if owned.contains(&at) {
                ends.insert(at, end);
            }
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if is_of_a_partition(error.rdkafka_error_code()) {
            tracing::debug!(%error, reason, "a partition cannot be read");
            return;
        }
        tracing::debug!(%error, reason, "the client has an error");
        self.group.failed(&error, reason);
    }
}

impl ConsumerContext for GroupContext {
    fn rebalance(
        &self,
        consumer: &BaseConsumer<Self>,
        kind: RDKafkaRespErr,
        partitions: &mut TopicPartitionList,
    ) {
        let partitions = partitions
            .elements()
            .iter()
            .map(|element| TopicPartition { topic: element.topic().into(), partition: element.partition() })
            .collect();
        match kind {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => self.group.assigned(consumer, partitions),
            _ => self.group.revoked(consumer, partitions),
        }
    }

    fn commit_callback(&self, result: rdkafka::error::KafkaResult<()>, _: &TopicPartitionList) {
        self.group.commits.fetch_sub(1, Relaxed);
        if let Err(error) = result {
            tracing::debug!(%error, "offsets for lag tools were not committed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn group() -> Group {
        let (events, _) = mpsc::unbounded_channel();
        Group::new(events, Arc::default(), Arc::new(Topics::Named("spans".to_owned())))
    }

    fn open(group: &Group, topic: &str) -> Arc<Opening> {
        let (at, opening) = (TopicPartition { topic: topic.into(), partition: 0 }, Arc::<Opening>::default());
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

    #[test]
    fn other_lines_of_the_log_tell_no_id() {
        assert_eq!(TopicId::in_log("[thrd:main]: Topic spans [0] Leader 1 Epoch 0"), None);
    }

    #[test]
    fn a_missing_topic_is_named() {
        let group = group();
        let error = KafkaError::Global(RDKafkaErrorCode::UnknownTopicOrPartition);
        group.failed(&error, "Subscribed topic not available");
        assert_eq!(group.explanation().unwrap().message, "the topic spans does not exist");
    }
}
