//! What the group has given us, and librdkafka's callbacks.
//!
//! Rebalances are answered inside the callback, at once: an assignment with nothing, a revocation with what
//! is open of it. So no rebalance ever waits for a database, and other members never wait for us.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use serde::Deserialize;
use tokio::sync::{Notify, mpsc};

use super::{GroupConsumer, lock};
use crate::last_error::{ErrorReason, LastError};
use crate::meter::Meters;
use crate::source::{SourceEvent, TopicPartition};

/// State shared by the callbacks, the poll thread and the readers.
pub struct Group {
    /// Polls that have ended.
    pub polls: AtomicU64,
    /// Whether an assignment has arrived.
    pub joined: AtomicBool,
    state: Mutex<State>,
    events: mpsc::UnboundedSender<SourceEvent>,
    meters: Arc<Meters>,
}

#[derive(Default)]
struct State {
    owned: HashSet<TopicPartition>,
    /// Owned and added to librdkafka's assignment; woken when the opening ends.
    open: HashMap<TopicPartition, Arc<Notify>>,
    settled: HashMap<TopicPartition, u64>,
    /// Offset that the next message will get.
    ends: HashMap<TopicPartition, u64>,
    last_error: Option<LastError>,
    failed_at: Option<Instant>,
}

/// Without another error for this long, trouble is over.
const CALM: Duration = Duration::from_secs(10);

impl Group {
    pub fn new(events: mpsc::UnboundedSender<SourceEvent>, meters: Arc<Meters>) -> Self {
        Self {
            polls: AtomicU64::new(0),
            joined: AtomicBool::new(false),
            state: Mutex::default(),
            events,
            meters,
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

    pub fn last_error(&self) -> Option<LastError> {
        self.lock().last_error.clone()
    }

    /// An error that concerns the client as a whole.
    pub fn failed(&self, error: &KafkaError) {
        let error = LastError::new(reason(error), error.to_string());
        {
            let mut state = self.lock();
            state.last_error = Some(error.clone());
            state.failed_at = Some(Instant::now());
        }
        self.meters.source_failed(error);
    }

    /// Ends a spell of errors when none has come for a while.
    pub fn calm(&self) {
        let mut state = self.lock();
        if state.failed_at.is_some_and(|at| at.elapsed() >= CALM) {
            state.failed_at = None;
            state.last_error = None;
            drop(state);
            self.meters.source_works();
        }
    }

    /// Runs `change` with the set of open partitions while no rebalance can change it. `change` gets none where
    /// the partition is not ours.
    pub fn change_open<T>(
        &self,
        at: &TopicPartition,
        change: impl FnOnce(Option<&mut HashMap<TopicPartition, Arc<Notify>>>) -> T,
    ) -> T {
        let mut state = self.lock();
        let State { owned, open, .. } = &mut *state;
        change(owned.contains(at).then_some(open))
    }

    /// Takes a partition out of librdkafka's assignment; it stays ours.
    pub fn close(&self, consumer: &GroupConsumer, at: &TopicPartition) {
        let mut state = self.lock();
        let Some(ended) = state.open.remove(at) else { return };
        ended.notify_waiters();
        if let Err(error) = consumer.incremental_unassign(&list([at])) {
            tracing::warn!(partition = %at, %error, "a partition was not closed");
        }
    }

    fn assigned(&self, consumer: &BaseConsumer<GroupContext>, partitions: Vec<TopicPartition>) {
        // Answered with nothing: each partition is added when its position is known.
        if let Err(error) = consumer.incremental_assign(&TopicPartitionList::new()) {
            tracing::warn!(%error, "an assignment was not accepted by the client");
        }
        self.lock().owned.extend(partitions.iter().cloned());
        self.joined.store(true, Relaxed);
        self.send(SourceEvent::Assigned(partitions));
    }

    fn revoked(&self, consumer: &BaseConsumer<GroupContext>, partitions: Vec<TopicPartition>) {
        {
            let mut state = self.lock();
            let mut closed = TopicPartitionList::new();
            for at in &partitions {
                state.owned.remove(at);
                state.ends.remove(at);
                if let Some(ended) = state.open.remove(at) {
                    ended.notify_waiters();
                    closed.add_partition(&at.topic, at.partition);
                }
            }
            if let Err(error) = consumer.incremental_unassign(&closed) {
                tracing::warn!(%error, "a revocation was not accepted by the client");
            }
        }
        self.send(SourceEvent::Revoked(partitions));
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

/// What an error of the client library means.
pub fn reason(error: &KafkaError) -> ErrorReason {
    use RDKafkaErrorCode as Code;
    match error.rdkafka_error_code() {
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

/// A list of partitions without offsets.
pub fn list<'a>(partitions: impl IntoIterator<Item = &'a TopicPartition>) -> TopicPartitionList {
    let mut list = TopicPartitionList::new();
    for at in partitions {
        list.add_partition(&at.topic, at.partition);
    }
    list
}

/// librdkafka's callbacks.
pub struct GroupContext {
    group: Arc<Group>,
}

impl GroupContext {
    pub fn new(group: Arc<Group>) -> Self {
        Self { group }
    }
}

impl ClientContext for GroupContext {
    fn stats_raw(&self, statistics: &[u8]) {
        match serde_json::from_slice::<Statistics>(statistics) {
            Ok(statistics) => statistics.keep(&self.group),
            Err(error) => tracing::debug!(%error, "the client's statistics cannot be read"),
        }
    }

    fn error(&self, error: KafkaError, reason: &str) {
        // One broker of several is no news: the client goes on with the others.
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::BrokerTransportFailure) {
            tracing::debug!(%error, reason, "a broker is out of reach");
            self.group.lock().last_error = Some(LastError::new(ErrorReason::SourceUnreachable, reason));
            return;
        }
        self.group.failed(&error);
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
        if let Err(error) = result {
            tracing::debug!(%error, "offsets for lag tools were not committed");
        }
    }
}

/// The little of librdkafka's statistics (STATISTICS.md) that lag needs.
#[derive(Deserialize)]
struct Statistics {
    #[serde(default)]
    topics: HashMap<String, TopicStatistics>,
}

#[derive(Deserialize)]
struct TopicStatistics {
    #[serde(default)]
    partitions: HashMap<i32, PartitionStatistics>,
}

#[derive(Deserialize)]
struct PartitionStatistics {
    /// High watermark; negative while unknown.
    hi_offset: i64,
}

impl Statistics {
    fn keep(self, group: &Group) {
        let mut state = group.lock();
        let State { owned, ends, .. } = &mut *state;
        for (topic, statistics) in self.topics {
            let topic: Arc<str> = topic.into();
            for (partition, found) in statistics.partitions {
                let at = TopicPartition { topic: topic.clone(), partition };
                if let (Ok(end), true) = (u64::try_from(found.hi_offset), owned.contains(&at)) {
                    ends.insert(at, end);
                }
            }
        }
    }
}
