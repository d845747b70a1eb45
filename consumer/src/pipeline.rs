//! The way of a span from a source into a store.
//!
//! ```text
//! source ─events─▶ driver ─claims, opens─▶ lane: read ▶ decode ▶ segment ▶ gate ▶ batch ▶ seal ▶ store
//!                    ▲                        │
//!                    └──── handed back ───────┘   (fenced, out of range, re-created)
//! ```
//!
//! Guarantee: every message of an owned partition is settled exactly once, as rows or as dead letters, in the
//! order of offsets within its partition; nothing is acknowledged before the transaction that holds it.
//! Invariant: a partition is in at most one lane, and every opening of it carries a new serial number, so
//! that what belongs to an earlier opening is recognised and dropped.

mod background;
pub mod batch;
mod dead_letter_topic;
mod driver;
mod exclusive_lease;
mod isolate;
mod lane;
mod letter;
mod marks;
mod retention;
pub mod segment;
mod stream;

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sluice_crds::v1alpha1::StartFrom;
use tokio::sync::watch;
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
use background::{BackgroundTasks, Names};
use driver::Driver;
use marks::Marks;

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
    /// Set where this is no pipeline of its own; see [`SharedRate`].
    pub shares_rate_of: Option<SharedRate>,
    /// Whether to wait for problems that only a person can fix, such as a foreign schema, instead of ending with an error.
    pub patient: bool,
}

/// The pipeline whose rate this one shares. Work beside a pipeline, such as a replay, takes its share of that rate, and
/// leaves to the pipeline what is done once for the table: redriving dead letters, sending copies of them, and removing
/// old rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedRate {
    /// That pipeline's consumer group.
    pub group: String,
    /// That pipeline's table.
    pub table: String,
    /// Spans per second that this one never exceeds, whatever its share.
    pub limit: Option<u32>,
}

/// Why a pipeline ended.
#[derive(Debug, thiserror::Error)]
pub enum PipelineError {
    /// The schema must be repaired by hand.
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
    let (gate, clock) = (Arc::new(Gate::new()), Arc::new(DatabaseClock::default()));
    let sealed = parts.sealing.counters.clone();
    parts.meters.sealing.get_or_init(|| sealed);
    let live = parts.live.borrow().live.clone();
    let control = RateControl::new(gate.clone(), clock.clone(), parts.meters.clone(), live);
    let control = Arc::new(control.with_limit(parts.shares_rate_of.as_ref().and_then(|other| other.limit)));
    let mut background = BackgroundTasks::default();
    let (following, live) = (control.clone(), parts.live.clone());
    background.spawn(|stop| async move { following.follow(live, stop).await });
    let meters = parts.meters.clone();
    background.spawn(|stop| async move { tick(&meters, &stop).await });
    let source = parts.source.clone();
    // The live document is followed, and told of, while database and broker are waited for.
    let result = match start(&parts, &stop).await {
        Ok(Some(Ready { cluster_id, start_from })) => {
            let names = Names::new(&parts, cluster_id);
            let marks = Arc::new(Marks::default());
            if parts.shares_rate_of.is_none() {
                background.keep_table(&parts, &names, &clock, &marks);
            }
            let Names { cluster_id, pipeline, replica } = names;
            let (store, holder) = (parts.store.clone(), replica.clone());
            background.spawn(|stop| async move { control.renew(&*store, pipeline, holder, stop).await });
            let parts = Parts { start_from, ..parts };
            Driver::new(parts, cluster_id, replica, &gate, clock, &marks).run(stop).await
        }
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    // Side by side: the group is left in time also where the database does not answer.
    let (joined, ()) = tokio::join!(background.end(), source.shutdown());
    result.and(joined)
}

/// What is known before the group is joined.
struct Ready {
    /// The queue's identity.
    cluster_id: String,
    /// Where the very first start begins. Not as configured where the topic was made only now.
    start_from: StartFrom,
}

/// Prepares the schema, finds the topic, learns the cluster's id, waits for a live document, and only then joins the group:
/// waits for each for as long as it takes, while other replicas keep all partitions.
async fn start(parts: &Parts, stop: &CancellationToken) -> Result<Option<Ready>, PipelineError> {
    tokio::select! {
        () = stop.cancelled() => Ok(None),
        ready = preflight(parts) => ready.map(Some),
    }
}

async fn preflight(parts: &Parts) -> Result<Ready, PipelineError> {
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
    let mut nothing_yet = false;
    let cluster_id = loop {
        match reach(&*parts.source).await {
            Ok(reached) => {
                nothing_yet |= reached.has_no_topic;
                break reached.cluster_id;
            }
            Err(error @ SourceError::Configuration(_)) => return Err(error.into()),
            Err(error) => {
                nothing_yet |= matches!(error, SourceError::UnknownTopic(_));
                meters.source_failed(LastError::from(&error));
            }
        }
        tokio::time::sleep(START_PAUSE).await;
    };
    let start_from = match &parts.start_from {
        // Whatever comes into a topic that is made later comes after the pipeline has begun.
        StartFrom::Latest if nothing_yet => StartFrom::Earliest,
        configured => configured.clone(),
    };
    meters.source_works();
    meters.preflight.source_reached.store(true, Relaxed);
    // Without a document the rate is 0: partitions stay with those who have one.
    if parts.live.clone().wait_for(|applied| applied.origin.is_some()).await.is_ok() {
        parts.source.join()?;
    }
    Ok(Ready { cluster_id, start_from })
}

/// Tables, and what bodies are sealed with.
async fn prepare(parts: &Parts) -> Result<(), StoreError> {
    parts.store.prepare().await?;
    Ok(parts.sealing.prepare(&*parts.store).await?)
}

/// The cluster's id, where its brokers answer and have the topic. A pattern may match nothing yet.
async fn reach(source: &dyn Source) -> Result<Reached, SourceError> {
    let cluster_id = source.cluster_id().await?;
    Ok(Reached { cluster_id, has_no_topic: source.partitions().await?.is_empty() })
}

struct Reached {
    cluster_id: String,
    has_no_topic: bool,
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
