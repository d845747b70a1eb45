//! The way of a span from a source into a store.
//!
//! ```text
//! source ─events─▶ driver ─claims, opens─▶ lane: read ▶ decode ▶ segment ▶ gate ▶ batch ▶ store
//!                    ▲                        │
//!                    └──── handed back ───────┘   (fenced, out of range, re-created)
//! ```
//!
//! Guarantee: every message of an owned partition is settled exactly once, as rows or as dead letters, in the
//! order of offsets within its partition; nothing is acknowledged before the transaction that holds it.
//! Invariant: a partition is in at most one lane, and every opening of it carries a new serial number, so
//! that what belongs to an earlier opening is recognised and dropped.

pub mod batch;
mod dead_letter_topic;
mod driver;
pub mod id;
mod isolate;
mod lane;
mod marks;
mod retention;
pub mod segment;
mod stream;
mod turn;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sluice_crds::v1alpha1::StartFrom;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::decode::Decoder;
use crate::gate::Gate;
use crate::gate::clock::DatabaseClock;
use crate::gate::control::RateControl;
use crate::last_error::LastError;
use crate::live::Applied;
use crate::meter::Meters;
use crate::seal::Sealing;
use crate::source::{Source, SourceError};
use crate::store::{ErrorKind, Store, StoreError};
use dead_letter_topic::DeadLetterSender;
use driver::Driver;
use marks::Marks;
use retention::Retention;
use turn::Turn;

pub use dead_letter_topic::{DeadLetterTopic, NotSent};

/// Most lanes of a replica: as many writers as any raw loop of `tests/bench store` gains from. Each costs a
/// connection and its read-ahead.
pub const MAX_LANES: usize = 4;
/// Pause before the database or the broker is asked again at start.
const START_PAUSE: Duration = Duration::from_secs(1);

/// Everything a pipeline is made of.
pub struct Parts {
    /// Consumer group: part of every stream's key.
    pub group: String,
    /// The table's name: with cluster and group it names what shares one rate.
    pub table: String,
    /// Where messages come from.
    pub source: Arc<dyn Source>,
    /// Where rows go. `prepare` is called by [`run`].
    pub store: Arc<dyn Store>,
    /// What bodies are sealed with.
    pub sealing: Arc<Sealing>,
    /// Where copies of dead letters go; none: nowhere.
    pub dead_letter_topic: Option<Arc<dyn DeadLetterTopic>>,
    /// Bytes to spans.
    pub decoder: Decoder,
    /// Most rows in a transaction.
    pub max_rows: usize,
    /// Longest wait of a batch's first row for others.
    pub max_delay: Duration,
    /// Where the very first start begins.
    pub start_from: StartFrom,
    /// Whether topics come from a pattern: then `start_from` counts for the first start of the whole group,
    /// otherwise for the first start of the topic.
    pub by_pattern: bool,
    /// The rate, live.
    pub live: watch::Receiver<Applied>,
    /// Counters that `/status` and `/metrics` read.
    pub meters: Arc<Meters>,
    /// Set where this is no pipeline of its own; see [`Side`].
    pub side: Option<Side>,
    /// Whether what needs a person, such as a foreign schema, is waited for; otherwise it ends the pipeline.
    pub patient: bool,
}

/// Work beside a pipeline, such as a replay. It takes its share of that pipeline's rate, and leaves to the pipeline what
/// is done once for the table: redriving dead letters, sending copies of them, and removing old rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Side {
    /// Consumer group of the pipeline whose rate it shares.
    pub group: String,
    /// That pipeline's table.
    pub table: String,
    /// Spans per second that it never exceeds, whatever its share.
    pub limit: Option<u32>,
}

/// Why a pipeline ended.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The schema needs a person.
    #[error("cannot use the database")]
    Store(#[from] StoreError),
    /// The source can never work as it is configured.
    #[error("cannot use the source")]
    Source(#[from] SourceError),
    /// A task of the pipeline panicked; what it held is stored by whoever claims its partitions next.
    #[error("a task of the pipeline ended unexpectedly")]
    Panicked(#[source] tokio::task::JoinError),
}

/// Runs until `stop` is cancelled; then finishes or gives back what is under way, and leaves the group.
///
/// # Errors
/// Only what a restart with the same settings would meet again, and panics.
pub async fn run(parts: Parts, stop: CancellationToken) -> Result<(), PipelineError> {
    let owner = replica_name();
    let gate = Arc::new(Gate::new());
    let live = parts.live.borrow().live.clone();
    let clock = Arc::new(DatabaseClock::default());
    let sealed = parts.sealing.counters.clone();
    parts.meters.sealing.get_or_init(|| sealed);
    let control = RateControl::new(gate.clone(), clock.clone(), parts.meters.clone(), live);
    let side = parts.side.clone();
    let control = Arc::new(control.with_limit(side.as_ref().and_then(|side| side.limit)));
    // Lanes finish before the lease is given back: a release must not outlive it.
    let lanes_done = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn({
        let (control, live, stop) = (control.clone(), parts.live.clone(), lanes_done.clone());
        async move { control.follow(live, stop).await }
    });
    tasks.spawn({
        let (meters, stop) = (parts.meters.clone(), lanes_done.clone());
        async move { tick(&meters, &stop).await }
    });
    let source = parts.source.clone();
    // The live document is followed, and told of, while database and broker are waited for.
    let result = match start(&parts, &stop).await {
        Ok(Some(cluster_id)) => {
            let (group, table) =
                side.as_ref().map_or((&parts.group, &parts.table), |side| (&side.group, &side.table));
            let pipeline = format!("{cluster_id}/{group}/{table}");
            let marks = Arc::new(Marks::default());
            if side.is_none() {
                tasks.spawn({
                    let (marks, store, stop) = (marks.clone(), parts.store.clone(), lanes_done.clone());
                    async move { marks.watch(&*store, &stop).await }
                });
                let retention = Retention {
                    store: parts.store.clone(),
                    clock: clock.clone(),
                    meters: parts.meters.clone(),
                    pipeline: pipeline.clone(),
                    holder: owner.clone(),
                    own_time_ms: || jiff::Timestamp::now().as_millisecond(),
                };
                tasks.spawn(retention.run(parts.live.clone(), lanes_done.clone()));
                if let Some(topic) = parts.dead_letter_topic.clone() {
                    let name = format!("dead letters of {pipeline}");
                    let sender = DeadLetterSender {
                        store: parts.store.clone(),
                        sealing: parts.sealing.clone(),
                        topic,
                        meters: parts.meters.clone(),
                        cluster_id: cluster_id.clone(),
                        group: parts.group.clone(),
                        turn: Turn::new(parts.store.clone(), clock.clone(), name, owner.clone()),
                    };
                    tasks.spawn(sender.run(lanes_done.clone()));
                }
            }
            tasks.spawn({
                let (store, stop) = (parts.store.clone(), lanes_done.clone());
                let owner = owner.clone();
                async move { control.renew(&*store, pipeline, owner, stop).await }
            });
            Driver::new(parts, cluster_id, owner, gate, clock, marks).run(stop).await
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    lanes_done.cancel();
    let joined = async {
        let mut joined = Ok(());
        while let Some(ended) = tasks.join_next().await {
            joined = joined.and(ended.map_err(PipelineError::Panicked));
        }
        joined
    };
    // Side by side: the group is left in time also where the database does not answer.
    let (joined, ()) = tokio::join!(joined, source.shutdown());
    result.and(joined)
}

/// Prepares the schema, finds the topic and learns the cluster's id; waits for each for as long as it takes.
async fn start(parts: &Parts, stop: &CancellationToken) -> Result<Option<String>, PipelineError> {
    tokio::select! {
        () = stop.cancelled() => Ok(None),
        cluster_id = preflight(parts) => cluster_id.map(Some),
    }
}

async fn preflight(parts: &Parts) -> Result<String, PipelineError> {
    let meters = &parts.meters;
    while let Err(error) = prepare(parts).await {
        if error.kind == ErrorKind::Schema && !parts.patient {
            return Err(error.into());
        }
        meters.store_failed(None, &error);
        tokio::time::sleep(START_PAUSE).await;
    }
    meters.store_works(None);
    meters.preflight.store_prepared.store(true, Relaxed);
    let cluster_id = loop {
        match reach(&*parts.source).await {
            Ok(cluster_id) => break cluster_id,
            Err(error @ SourceError::Configuration(_)) => return Err(error.into()),
            Err(error) => meters.source_failed(LastError::from(&error)),
        }
        tokio::time::sleep(START_PAUSE).await;
    };
    meters.source_works();
    meters.preflight.source_reached.store(true, Relaxed);
    Ok(cluster_id)
}

/// Tables, and what bodies are sealed with.
async fn prepare(parts: &Parts) -> Result<(), StoreError> {
    parts.store.prepare().await?;
    Ok(parts.sealing.prepare(&*parts.store).await?)
}

/// The cluster's id, where its brokers answer and have the topic. A pattern may match nothing yet.
async fn reach(source: &dyn Source) -> Result<String, SourceError> {
    let cluster_id = source.cluster_id().await?;
    source.partitions().await?;
    Ok(cluster_id)
}

/// Unique for each start of a process: host name, process id and a random part.
fn replica_name() -> String {
    let host = std::env::var("HOSTNAME").unwrap_or_else(|_| "local".to_owned());
    let host: String = host.chars().take(48).collect();
    format!("{host}-{}-{:08x}", std::process::id(), fastrand::u32(..))
}

async fn tick(meters: &Meters, stop: &CancellationToken) {
    let mut seconds = tokio::time::interval(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            _ = seconds.tick() => meters.tick(),
        }
    }
}

#[cfg(test)]
mod tests;
