//! Counters of the data path, read by `/status` and `/metrics`.
//!
//! Writers of the data path touch atomics and short locks; what is derived (rates, time to drain) is computed when
//! somebody asks.

mod dead_letter_topic;
mod errors;
mod history;
mod lanes;
mod open_errors;
mod quota;
mod redrive;
mod retention;
mod status;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use tokio::time::Instant;

use crate::last_error::LastError;
use crate::live::{Applied, Origin};
use crate::lock::lock;
use crate::seal;
use crate::source::TopicPartition;
use crate::store::{ErrorKind, Reason};

use history::{History, Sample};
use lanes::LaneTime;
use open_errors::OpenErrors;
use quota::Quota;

pub use dead_letter_topic::{DeadLetterTopicMeter, DeadLetterTopicStatus};
pub use lanes::{ACTIVITIES, Activity, LaneMeter};
pub use redrive::RedriveMeter;
pub use retention::{RetentionMeter, RetentionStatus};
pub use status::{ErrorStatus, Identity, PartitionStatus, StatusDocument};

/// Counters of one pipeline in this process.
#[derive(Debug)]
pub struct Meters {
    /// Messages settled.
    pub messages: AtomicU64,
    /// Rows stored.
    pub stored: AtomicU64,
    /// Bytes of the bodies stored.
    pub stored_bytes: AtomicU64,
    /// Transactions committed.
    pub batches: AtomicU64,
    /// Offsets that the broker no longer had when it was their turn.
    pub skipped_offsets: AtomicU64,
    /// Dead letters that were stored after all, or dead-lettered again.
    pub redriven: AtomicU64,
    /// Partitions that were found to have been created anew.
    pub recreated: AtomicU64,
    /// Bytes of messages that the source holds and nobody has read.
    pub prefetched_bytes: AtomicU64,
    /// What was sealed; set where a pipeline runs.
    pub sealing: OnceLock<Arc<seal::Counters>>,
    dead_letters: [AtomicU64; Reason::ALL.len()],
    errors: [AtomicU64; ErrorKind::ALL.len()],
    /// By how many offsets positions have moved with settled messages: those of no message between them count as well.
    settled_offsets: AtomicU64,
    /// Spans that went out before their time and are not paid for yet.
    owed: AtomicU64,
    /// Rows and dead letters that the settled messages became, without those of redriven dead letters.
    settled_spans: AtomicU64,
    lanes: Mutex<Vec<LaneTime>>,
    guard_lowered: AtomicU64,
    lease_renewals: AtomicU64,
    rate: Mutex<Rate>,
    /// Owned ones; none while they are being opened.
    partitions: Mutex<BTreeMap<TopicPartition, Option<PartitionMeter>>>,
    /// By topic.
    topic_retention: Mutex<BTreeMap<String, Duration>>,
    open_errors: Mutex<OpenErrors>,
    history: Mutex<History>,
    /// Old rows that are removed.
    pub retention: RetentionMeter,
    /// Dead letters that are to be redriven.
    pub redrive: RedriveMeter,
    /// Copies of dead letters.
    pub dead_letter_topic: DeadLetterTopicMeter,
    /// For `/readyz`.
    pub preflight: Preflight,
}

#[derive(Debug, Default)]
struct Rate {
    whole: u32,
    effective: f64,
    fraction: f64,
    suspended: bool,
    /// What the guard holds the whole rate down to.
    guard: Option<f64>,
    revision: u64,
    origin: Option<Origin>,
    refused: Option<LastError>,
    sources: Vec<(Origin, bool)>,
}

/// What has been reached at least once since the start; nothing takes it back.
#[derive(Debug, Default)]
pub struct Preflight {
    /// The schema was verified or made.
    pub store_prepared: AtomicBool,
    /// Brokers answered, and they have the topic.
    pub source_reached: AtomicBool,
    /// An assignment, even an empty one, arrived.
    pub group_joined: AtomicBool,
}

/// What a transaction settled of the queue; nothing where it redrove dead letters.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settled {
    /// Messages.
    pub messages: u64,
    /// By how much the position moved: also over compacted messages and transactions' markers.
    pub offsets: u64,
}

/// Position and end of a partition that this replica owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PartitionMeter {
    /// Offset of the first message that is not settled.
    pub position: u64,
    /// Offset that the next message will get, as last heard.
    pub end: Option<u64>,
}

impl Default for Meters {
    fn default() -> Self {
        let zeros = || AtomicU64::new(0);
        Self {
            messages: zeros(),
            stored: zeros(),
            stored_bytes: zeros(),
            batches: zeros(),
            skipped_offsets: zeros(),
            redriven: zeros(),
            recreated: zeros(),
            prefetched_bytes: zeros(),
            sealing: OnceLock::new(),
            dead_letters: std::array::from_fn(|_| zeros()),
            errors: std::array::from_fn(|_| zeros()),
            settled_offsets: zeros(),
            owed: zeros(),
            settled_spans: zeros(),
            lanes: Mutex::default(),
            guard_lowered: zeros(),
            lease_renewals: zeros(),
            rate: Mutex::default(),
            partitions: Mutex::default(),
            topic_retention: Mutex::default(),
            open_errors: Mutex::default(),
            history: Mutex::default(),
            retention: RetentionMeter::default(),
            redrive: RedriveMeter::default(),
            dead_letter_topic: DeadLetterTopicMeter::default(),
            preflight: Preflight::default(),
        }
    }
}

impl Meters {
    /// Counts a committed transaction of a partition; ends the partition's run of errors of the store.
    pub fn committed(
        &self,
        at: &TopicPartition,
        settled: Settled,
        rows: u64,
        bytes: u64,
        dead: impl Iterator<Item = Reason>,
    ) {
        self.messages.fetch_add(settled.messages, Relaxed);
        self.stored.fetch_add(rows, Relaxed);
        self.stored_bytes.fetch_add(bytes, Relaxed);
        self.batches.fetch_add(1, Relaxed);
        let mut spans = rows;
        for reason in dead {
            self.dead_letters[reason as usize].fetch_add(1, Relaxed);
            spans += 1;
        }
        // Redriven dead letters are no messages that the lag counts.
        if settled.messages > 0 {
            self.settled_offsets.fetch_add(settled.offsets, Relaxed);
            self.settled_spans.fetch_add(spans, Relaxed);
        }
        self.store_works(Some(at));
    }

    /// What the live document says and where it came from.
    pub fn set_applied(&self, applied: &Applied) {
        let mut rate = lock(&self.rate);
        rate.revision = applied.revision;
        rate.origin = applied.origin;
        rate.refused.clone_from(&applied.refused);
        rate.sources.clone_from(&applied.sources);
    }

    /// Whether a live document has been applied since the start.
    pub fn has_live(&self) -> bool {
        lock(&self.rate).origin.is_some()
    }

    /// Whether the newest live document was refused or cannot be found.
    pub fn live_refused(&self) -> bool {
        lock(&self.rate).refused.is_some()
    }

    /// Every place that the live document is read from, and whether it holds a usable one now.
    pub fn live_sources(&self) -> Vec<(Origin, bool)> {
        lock(&self.rate).sources.clone()
    }

    /// The rate in effect: of the pipeline, of this replica, and the replica's share.
    pub fn set_rate(&self, whole: u32, effective: f64, fraction: f64, suspended: bool) {
        let mut rate = lock(&self.rate);
        (rate.whole, rate.effective, rate.fraction, rate.suspended) = (whole, effective, fraction, suspended);
    }

    /// What is owed to the rate; see [`crate::gate::Usage::owed`].
    pub fn set_owed(&self, spans: u64) {
        self.owed.store(spans, Relaxed);
    }

    /// The rate that the guard holds the pipeline's down to, if it does, and how often it has lowered it.
    pub fn set_guard(&self, held: Option<f64>, lowered: u64) {
        self.guard_lowered.store(lowered, Relaxed);
        let before = std::mem::replace(&mut lock(&self.rate).guard, held);
        match (before, held) {
            (None, Some(held)) => {
                tracing::info!(
                    spans_per_second = held.round(),
                    "the database suffers; the guard lowers the rate"
                );
            }
            (Some(_), None) => tracing::info!("the guard holds nothing back any more"),
            _ => {}
        }
    }

    /// Position and end of a partition that is read from now on; nothing where it has left meanwhile.
    pub fn set_partition(&self, at: &TopicPartition, meter: PartitionMeter) {
        if let Some(place) = lock(&self.partitions).get_mut(at) {
            *place = Some(meter);
        }
    }

    /// The partition's position after a commit; nothing where its answer came after the partition had left, or after
    /// it was opened again.
    pub fn advance_partition(&self, at: &TopicPartition, meter: PartitionMeter) {
        if let Some(Some(current)) = lock(&self.partitions).get_mut(at)
            && current.position <= meter.position
        {
            *current = meter;
        }
    }

    /// Asks again where the owned partitions end.
    pub fn update_ends(&self, end: impl Fn(&TopicPartition) -> Option<u64>) {
        for (at, meter) in lock(&self.partitions).iter_mut() {
            if let Some(meter) = meter {
                meter.end = end(at).or(meter.end);
            }
        }
    }

    /// The partition is this replica's from now on.
    pub fn add_partition(&self, at: &TopicPartition) {
        lock(&self.partitions).entry(at.clone()).or_default();
        lock(&self.open_errors).add(at);
    }

    /// The partition belongs to another replica now; its errors are no longer ours.
    pub fn remove_partition(&self, at: &TopicPartition) {
        lock(&self.partitions).remove(at);
        lock(&self.open_errors).remove(at);
    }

    /// How long the broker keeps messages of topics with owned partitions; those of which that is unknown or without end
    /// are left out.
    pub fn set_topic_retention(&self, kept: BTreeMap<String, Duration>) {
        *lock(&self.topic_retention) = kept;
    }

    /// Owned partitions; none of one that is being opened, and perhaps has to wait for the database.
    pub fn partitions(&self) -> BTreeMap<TopicPartition, Option<PartitionMeter>> {
        lock(&self.partitions).clone()
    }

    /// Dead letters of a reason since the start.
    pub fn dead_letters(&self, reason: Reason) -> u64 {
        self.dead_letters[reason as usize].load(Relaxed)
    }

    /// Dead letters since the start.
    pub fn all_dead_letters(&self) -> u64 {
        Reason::ALL.iter().map(|reason| self.dead_letters(*reason)).sum()
    }

    /// Errors of a kind since the start, in the order of [`ErrorKind::ALL`].
    pub fn errors(&self) -> [u64; ErrorKind::ALL.len()] {
        std::array::from_fn(|index| self.errors[index].load(Relaxed))
    }

    /// Nanoseconds spent by all lanes up to now, in the order of [`ACTIVITIES`].
    pub fn busy_nanoseconds(&self) -> [u64; ACTIVITIES.len()] {
        let lanes = lock(&self.lanes);
        std::array::from_fn(|index| lanes.iter().map(|lane| lane.spent()[index].as_nanos() as u64).sum())
    }

    /// Times that the guard has lowered the rate since the start.
    pub fn guard_lowered(&self) -> u64 {
        self.guard_lowered.load(Relaxed)
    }

    /// Renewals of the lease since the start.
    pub fn lease_renewals(&self) -> u64 {
        self.lease_renewals.load(Relaxed)
    }

    /// Takes a sample for the achieved rate; called about once a second.
    pub fn tick(&self) {
        // In this order: spans without their offsets would be some too few.
        let settled_spans = self.settled_spans.load(Relaxed);
        let (whole, effective) = {
            let rate = lock(&self.rate);
            (rate.whole, rate.effective)
        };
        let sample = Sample {
            at: Instant::now(),
            written: self.stored.load(Relaxed) + self.all_dead_letters(),
            offsets: self.settled_offsets.load(Relaxed),
            settled_spans,
            whole,
            effective,
            lanes: lock(&self.lanes).iter().map(LaneTime::spent).collect(),
            quota: Quota::now(),
        };
        lock(&self.history).push(sample);
    }
}
