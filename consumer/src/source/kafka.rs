//! Kafka, through librdkafka.
//!
//! How the promises of [`Source`] are kept:
//!
//! - *Polling never stops*: a thread of its own polls the consumer for rebalances, errors and statistics,
//!   and nothing else. Messages come through one queue per partition, which lanes read when they have room, so
//!   a slow sink never costs the group membership; librdkafka's prefetch is bounded ([`limits`]).
//! - *Explicit offsets*: the group's assignment is answered at once and empty. A partition is added with its
//!   offset from the database when [`Source::open`] is called, which may be much later; nothing is sought.
//! - *Topics by pattern* are found from the cluster's metadata by a thread of its own, with the regex crate:
//!   librdkafka knows POSIX syntax only, no exclusion, and looks every five minutes.

mod broker_contact;
mod client_errors;
pub mod config;
mod context;
mod ends;
mod group;
mod headers;
pub mod limits;
mod offsets;
mod opening;
mod poll;
mod prefetch;
mod reader;
pub mod remedy;
mod statistics;
mod topic_retention;
mod topics;
mod trouble;

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use rdkafka::ClientConfig;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use sluice_crds::error_reason::ErrorReason;
use sluice_crds::v1alpha1::StartFrom;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{Bounds, PartitionReader, Source, SourceError, SourceEvent, TopicPartition};
use crate::config::Topics;
use crate::last_error::LastError;
use crate::lock::lock;
use crate::meter::Meters;
use broker_contact::BrokerContact;
use context::GroupContext;
use ends::Ends;
use group::Group;
use prefetch::Prefetch;
use statistics::Isolation;
use topic_retention::TopicRetention;

/// How long a question to the broker may take.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two heartbeats, where the client's settings say nothing of it.
const HEARTBEAT: Duration = Duration::from_millis(limits::HEARTBEAT_MS as u64);
/// What an answer to a heartbeat may take besides.
const HEARTBEAT_ANSWER: Duration = Duration::from_millis(500);
/// How long the client may take to end.
const STOP_WITHIN: Duration = Duration::from_secs(5);

/// How members of a group divide partitions.
pub const ASSIGNMENT: &str = "cooperative-sticky";

type GroupConsumer = BaseConsumer<GroupContext>;

/// A client of Kafka; a member of its consumer group once it has joined.
pub struct KafkaSource {
    /// How brokers are reached.
    client: ClientConfig,
    /// None after the shutdown.
    consumer: Mutex<Option<Arc<GroupConsumer>>>,
    /// Id of the cluster that answered first.
    cluster: OnceLock<String>,
    group: Arc<Group>,
    topics: Arc<Topics>,
    events: tokio::sync::Mutex<mpsc::UnboundedReceiver<SourceEvent>>,
    stop: CancellationToken,
    threads: Mutex<Vec<std::thread::JoinHandle<()>>>,
    has_joined: AtomicBool,
    /// An owner that was fenced asks the group this long whether it still owns the partition: longer than the interval
    /// of heartbeats, whose answers tell a zombie that it has lost its membership.
    confirm_after: Duration,
}

impl KafkaSource {
    /// Creates the client, which joins the group with [`Source::join`]. Must be called within a runtime.
    ///
    /// `client` holds how brokers are reached; what the guarantees need is set here, on top of it.
    ///
    /// # Errors
    /// [`SourceError::Configuration`] for settings that librdkafka refuses.
    pub fn start(
        client: ClientConfig,
        consumer_group: &str,
        topics: Topics,
        meters: Arc<Meters>,
    ) -> Result<Self, SourceError> {
        let (sender, receiver) = mpsc::unbounded_channel();
        let topics = Arc::new(topics);
        let mut config = client.clone();
        limits::apply(&mut config);
        let ends = Ends::new(Isolation::of(&config));
        let (prefetch, brokers) = (Prefetch::new(&config), BrokerContact::new(&config));
        let group = Arc::new(Group::new(sender, meters, topics.clone(), prefetch, ends, brokers));
        let heartbeat = config.get("heartbeat.interval.ms").and_then(|text| text.parse().ok());
        config
            .set("group.id", consumer_group)
            .set("partition.assignment.strategy", ASSIGNMENT)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Never silently begin elsewhere: an offset that is gone is counted, see `ReadEnd::Reopen`.
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "false")
            .set("allow.auto.create.topics", "false")
            // Not to be read by people: see `GroupContext::log`.
            .set("debug", GroupContext::DEBUG)
            .set_log_level(RDKafkaLogLevel::Debug);
        let consumer: GroupConsumer =
            config.create_with_context(GroupContext::new(group.clone())).map_err(|error| {
                let refused = remedy::without_value(&error);
                SourceError::Configuration(format!("the Kafka client refuses its settings: {refused}"))
            })?;
        let source = Self {
            client,
            consumer: Mutex::new(Some(Arc::new(consumer))),
            cluster: OnceLock::new(),
            group,
            topics,
            events: tokio::sync::Mutex::new(receiver),
            stop: CancellationToken::new(),
            threads: Mutex::default(),
            has_joined: AtomicBool::new(false),
            confirm_after: heartbeat.map_or(HEARTBEAT, Duration::from_millis) + HEARTBEAT_ANSWER,
        };
        source.spawn("kafka-poll", |consumer, group, _, stop| poll::serve(&consumer, &group, &stop))?;
        Ok(source)
    }

    /// Whether brokers have refused a connection since the client was made, maybe because its credentials are old ones:
    /// it goes on with them for as long as it lives.
    pub fn is_refused(&self) -> bool {
        self.group.trouble.refused.load(Relaxed)
    }

    /// Whether another cluster answers at this address than at first. It is what the client knows: nobody is asked.
    pub fn has_other_cluster(&self) -> bool {
        let now = || self.consumer().ok()?.client().fetch_cluster_id(Duration::ZERO);
        self.cluster.get().is_some_and(|first| now().is_some_and(|now| now != *first))
    }

    /// Whether the client asks no broker any more, which it does not do again for as long as it lives.
    pub fn has_lost_brokers(&self) -> bool {
        self.group.trouble.brokers.is_lost(Instant::now())
    }

    /// How many partitions there have come to be, where these are so many that the prefetch, which was divided when the
    /// client was made, takes far more memory than all of them may have.
    pub fn outgrown_by(&self) -> Option<usize> {
        Some(self.group.outgrown_by.load(Relaxed)).filter(|partitions| *partitions > 0)
    }

    /// Divides the prefetch that `client` may hold among the partitions that there are now. Waits for a broker a few
    /// seconds; without an answer it expects as many as were `known` before, or else many.
    pub async fn share_prefetch(client: &mut ClientConfig, topics: &Topics, known: Option<usize>) {
        let (asked, topics) = (client.clone(), topics.clone());
        let counting = tokio::task::spawn_blocking(move || topics::count(&asked, &topics));
        let partitions = match tokio::time::timeout(QUERY_TIMEOUT, counting).await {
            Ok(Ok(partitions)) => partitions,
            Ok(Err(_)) | Err(_) => None,
        };
        limits::share(client, partitions.or(known));
    }

    fn spawn(
        &self,
        name: &str,
        body: impl FnOnce(Arc<GroupConsumer>, Arc<Group>, Arc<Topics>, CancellationToken) + Send + 'static,
    ) -> Result<(), SourceError> {
        let (consumer, group) = (self.consumer()?, self.group.clone());
        let (topics, stop) = (self.topics.clone(), self.stop.clone());
        let thread = std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || body(consumer, group, topics, stop))
            .map_err(|error| SourceError::Configuration(format!("cannot start a thread: {error}")))?;
        lock(&self.threads).push(thread);
        Ok(())
    }

    fn consumer(&self) -> Result<Arc<GroupConsumer>, SourceError> {
        lock(&self.consumer).clone().ok_or_else(|| SourceError::Unavailable {
            context: "the Kafka client has stopped",
            message: "nothing is asked any more".to_owned(),
        })
    }

    /// Asks the broker on a thread that may block.
    async fn ask<T: Send + 'static>(
        &self,
        context: &'static str,
        question: impl FnOnce(&GroupConsumer) -> Result<T, KafkaError> + Send + 'static,
    ) -> Result<T, SourceError> {
        let consumer = self.consumer()?;
        match tokio::task::spawn_blocking(move || question(&consumer)).await {
            Ok(answer) => answer.map_err(|error| unavailable(context, &error)),
            Err(error) => Err(SourceError::Unavailable { context, message: error.to_string() }),
        }
    }
}

#[async_trait]
impl Source for KafkaSource {
    async fn cluster_id(&self) -> Result<String, SourceError> {
        let id = self
            .ask("cannot reach the brokers", |consumer| Ok(consumer.client().fetch_cluster_id(QUERY_TIMEOUT)))
            .await?;
        if let Some(id) = &id {
            self.cluster.get_or_init(|| id.clone());
        }
        let context = "cannot reach the brokers";
        id.ok_or_else(|| match self.group.trouble.explanation() {
            Some(LastError { reason: ErrorReason::SourceDenied, message }) => {
                SourceError::Denied { context, message }
            }
            Some(LastError { message, .. }) => SourceError::Unavailable { context, message },
            None => {
                SourceError::Unavailable { context, message: format!("no answer within {QUERY_TIMEOUT:?}") }
            }
        })
    }

    fn join(&self) -> Result<(), SourceError> {
        if self.has_joined.swap(true, Relaxed) {
            return Ok(());
        }
        let retention = TopicRetention::new(self.client.clone());
        let most_partitions = limits::most_partitions(&self.client);
        self.spawn("kafka-topics", move |consumer, group, topics, stop| {
            topics::follow(&topics, &consumer, &group, retention, most_partitions, &stop);
        })
    }

    async fn next_event(&self) -> Result<SourceEvent, SourceError> {
        self.events.lock().await.recv().await.ok_or(SourceError::Unavailable {
            context: "the Kafka client has stopped",
            message: "no more events".to_owned(),
        })
    }

    async fn partitions(&self) -> Result<Vec<TopicPartition>, SourceError> {
        let topics = self.topics.clone();
        let found = self
            .ask("cannot read the topics' metadata", move |consumer| topics::partitions(&topics, consumer))
            .await;
        if found.is_ok() {
            self.group.trouble.change(client_errors::ClientErrors::topics_found);
        }
        match (found, &*self.topics) {
            (Err(SourceError::UnknownTopic(_)), Topics::Named(name)) => {
                Err(SourceError::UnknownTopic(format!("the topic {name} does not exist")))
            }
            (Err(SourceError::Denied { context, message }), Topics::Named(name)) => {
                Err(SourceError::Denied { context, message: format!("{name}: {message}") })
            }
            (found, _) => found,
        }
    }

    async fn resolve_start(&self, at: &TopicPartition, start_from: &StartFrom) -> Result<u64, SourceError> {
        offsets::of_start(self, at, start_from).await
    }

    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, SourceError> {
        offsets::bounds(self, at).await
    }

    async fn written_end(&self, at: &TopicPartition) -> Result<u64, SourceError> {
        offsets::written_end(&self.client, at).await
    }

    async fn open(&self, at: &TopicPartition, offset: u64) -> Result<Box<dyn PartitionReader>, SourceError> {
        let (consumer, group, at) = (self.consumer()?, self.group.clone(), at.clone());
        // Alive while somebody waits: a thread that comes late must not end what was opened since.
        let waits = Arc::new(());
        let waiting = Arc::downgrade(&waits);
        // Both change the assignment in librdkafka's main thread and wait for it: milliseconds.
        let opening = move || reader::open(&consumer, &group, &at, offset, &waiting);
        let opened = tokio::task::spawn_blocking(opening).await;
        drop(waits);
        opened.map_err(|error| SourceError::Unavailable {
            context: "cannot open a partition",
            message: error.to_string(),
        })?
    }

    async fn close(&self, at: &TopicPartition) {
        let Ok(consumer) = self.consumer() else { return };
        let (group, at) = (self.group.clone(), at.clone());
        let closed = tokio::task::spawn_blocking(move || group.close(&consumer, &at)).await;
        if let Err(error) = closed {
            tracing::warn!(%error, "a partition was not closed");
        }
    }

    async fn confirm_owned(&self, at: &TopicPartition) -> bool {
        let polls = self.group.polls.load(Relaxed);
        tokio::time::sleep(self.confirm_after).await;
        // Two more polls have begun and ended since.
        while self.group.polls.load(Relaxed) < polls + 2 && !self.stop.is_cancelled() {
            tokio::time::sleep(poll::POLL).await;
        }
        self.group.owns(at)
    }

    fn report_position(&self, at: &TopicPartition, next_offset: u64) {
        self.group.settled(at, next_offset);
    }

    fn known_end(&self, at: &TopicPartition) -> Option<u64> {
        self.group.end(at)
    }

    async fn shutdown(&self) {
        self.stop.cancel();
        self.group.trouble.fall_silent();
        let threads = std::mem::take(&mut *lock(&self.threads));
        let consumer = lock(&self.consumer).take();
        let (ended, end) = tokio::sync::oneshot::channel();
        // A thread of its own, which nothing waits for: dropping the client waits for brokers, for as long as they take.
        let ending = std::thread::Builder::new().name("kafka-end".to_owned()).spawn(move || {
            for thread in threads {
                if thread.join().is_err() {
                    tracing::error!("a thread of the Kafka client panicked");
                }
            }
            drop(consumer);
            // Nobody waits any more: that is no error.
            let _ = ended.send(());
        });
        if let Err(error) = ending {
            tracing::warn!(%error, "the Kafka client was not stopped in order");
            return;
        }
        if tokio::time::timeout(STOP_WITHIN, end).await.is_err() {
            tracing::warn!(
                "the Kafka client has not ended within {STOP_WITHIN:?}; its group notices it later"
            );
        }
    }
}

fn unavailable(context: &'static str, error: &KafkaError) -> SourceError {
    unavailable_because(context, error, error.to_string())
}

fn unavailable_because(context: &'static str, error: &KafkaError, message: String) -> SourceError {
    let message = remedy::told(error.rdkafka_error_code(), &message);
    match client_errors::reason(error.rdkafka_error_code()) {
        ErrorReason::SourceDenied => SourceError::Denied { context, message },
        ErrorReason::TopicUnknown => SourceError::UnknownTopic(format!("{context}: {message}")),
        _ => SourceError::Unavailable { context, message },
    }
}
