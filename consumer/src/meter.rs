//! Counters of the data path, read by `/status` and `/metrics`.
//!
//! Writers touch atomics only; what is derived (rates, time to drain) is computed when somebody asks.

mod status;

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::last_error::LastError;
use crate::live::{Applied, Origin};
use crate::source::TopicPartition;
use crate::store::{ErrorKind, Reason, StoreError};

pub use status::{ErrorStatus, Identity, PartitionStatus, StatusDocument};

/// Span over which the achieved rate is measured.
const ACHIEVED_OVER: Duration = Duration::from_secs(5);

/// A store whose leases are renewed and that has refused nothing for this long works: a lane that waits for it
/// tries more often. Only where no row is there to prove it.
const CALM: Duration = Duration::from_secs(60);

/// What a lane spends its time with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Activity {
    /// No message is there.
    Idle,
    /// Reading and decoding.
    Decode,
    /// Waiting at the gate.
    Gate,
    /// Waiting for the database.
    Store,
}

/// Every activity, in the order of [`Activity`]'s numbers.
pub const ACTIVITIES: [(Activity, &str); 4] = [
    (Activity::Idle, "idle"),
    (Activity::Decode, "decode"),
    (Activity::Gate, "gate"),
    (Activity::Store, "store"),
];

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
    /// Times that a topic was found re-created.
    pub recreated: AtomicU64,
    dead_letters: [AtomicU64; Reason::ALL.len()],
    errors: [AtomicU64; ERROR_KINDS.len()],
    busy_nanoseconds: [AtomicU64; ACTIVITIES.len()],
    lease_renewals: AtomicU64,
    rate: Mutex<Rate>,
    partitions: Mutex<BTreeMap<TopicPartition, PartitionMeter>>,
    errors_now: Mutex<Errors>,
    stored_history: Mutex<VecDeque<(Instant, u64, [u64; ACTIVITIES.len()])>>,
    degraded: AtomicBool,
    /// For `/readyz`.
    pub preflight: Preflight,
}

/// Kinds of errors as metric labels.
pub const ERROR_KINDS: [(ErrorKind, &str); 7] = [
    (ErrorKind::Unavailable, "unavailable"),
    (ErrorKind::Conflict, "conflict"),
    (ErrorKind::Refused, "refused"),
    (ErrorKind::TooLarge, "too_large"),
    (ErrorKind::Fenced, "fenced"),
    (ErrorKind::DuplicateId, "duplicate_id"),
    (ErrorKind::Schema, "schema"),
];

#[derive(Debug, Default)]
struct Rate {
    whole: u32,
    effective: f64,
    fraction: f64,
    suspended: bool,
    revision: u64,
    origin: Option<Origin>,
    refused: Option<LastError>,
    sources: Vec<(Origin, bool)>,
}

#[derive(Debug, Default)]
struct Errors {
    store: Option<LastError>,
    store_failed_at: Option<Instant>,
    lease: Option<LastError>,
    source: Option<LastError>,
}

/// What has been reached at least once since the start; nothing takes it back.
#[derive(Debug, Default)]
pub struct Preflight {
    /// The schema was verified or made.
    pub store_prepared: AtomicBool,
    /// Brokers answered, and they have the topic.
    pub source_reached: AtomicBool,
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
            dead_letters: std::array::from_fn(|_| zeros()),
            errors: std::array::from_fn(|_| zeros()),
            busy_nanoseconds: std::array::from_fn(|_| zeros()),
            lease_renewals: zeros(),
            rate: Mutex::default(),
            partitions: Mutex::default(),
            errors_now: Mutex::default(),
            stored_history: Mutex::default(),
            degraded: AtomicBool::new(false),
            preflight: Preflight::default(),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Meters {
    /// Counts a committed transaction; ends a spell of errors of the store.
    pub fn committed(&self, messages: u64, rows: u64, bytes: u64, dead: impl Iterator<Item = Reason>) {
        self.messages.fetch_add(messages, Relaxed);
        self.stored.fetch_add(rows, Relaxed);
        self.stored_bytes.fetch_add(bytes, Relaxed);
        self.batches.fetch_add(1, Relaxed);
        for reason in dead {
            self.dead_letters[reason as usize].fetch_add(1, Relaxed);
        }
        self.store_works();
    }

    /// Ends a spell of errors of the store.
    pub fn store_works(&self) {
        if self.degraded.swap(false, Relaxed) {
            lock(&self.errors_now).store = None;
            tracing::info!("the database works again");
        }
    }

    /// Counts an error of the store; the first of a spell is logged as a warning.
    pub fn store_failed(&self, error: &StoreError) {
        self.count_error(error.kind);
        // These are part of normal work: another replica was faster.
        if matches!(error.kind, ErrorKind::Fenced | ErrorKind::Conflict) {
            return;
        }
        let last = LastError::from(error);
        if !self.degraded.swap(true, Relaxed) {
            let reason = last.reason.as_str();
            tracing::warn!(reason, kind = ?error.kind, error = %last.message, "rows wait for the database");
        }
        let mut errors = lock(&self.errors_now);
        (errors.store, errors.store_failed_at) = (Some(last), Some(Instant::now()));
    }

    /// Counts a failed renewal of the lease; the first of a spell is logged.
    pub fn lease_failed(&self, error: &StoreError) {
        self.count_error(error.kind);
        let last = LastError::from(error);
        let mut errors = lock(&self.errors_now);
        if errors.lease.is_none() {
            tracing::warn!(error = %last.message, "the lease of the rate was not renewed; releases stop when it ends");
        }
        errors.lease = Some(last);
    }

    /// Counts a renewal and ends a spell of failed ones.
    pub fn lease_renewed(&self) {
        self.lease_renewals.fetch_add(1, Relaxed);
        let calm = {
            let mut errors = lock(&self.errors_now);
            errors.lease = None;
            errors.store.is_some() && errors.store_failed_at.is_none_or(|at| at.elapsed() >= CALM)
        };
        if calm {
            self.store_works();
        }
    }

    /// Remembers an error of the source. The first of a spell, and the first for another reason, is logged.
    pub fn source_failed(&self, error: LastError) {
        let mut errors = lock(&self.errors_now);
        if errors.source.as_ref().map(|known| known.reason) != Some(error.reason) {
            tracing::warn!(reason = error.reason.as_str(), error = %error.message, "the source has trouble");
        }
        errors.source = Some(error);
    }

    /// Ends a spell of errors of the source.
    pub fn source_works(&self) {
        if lock(&self.errors_now).source.take().is_some() {
            tracing::info!("the source works again");
        }
    }

    fn count_error(&self, kind: ErrorKind) {
        if let Some(index) = ERROR_KINDS.iter().position(|(known, _)| *known == kind) {
            self.errors[index].fetch_add(1, Relaxed);
        }
    }

    /// Adds time spent by a lane.
    pub fn spent(&self, activity: Activity, time: Duration) {
        self.busy_nanoseconds[activity as usize].fetch_add(time.as_nanos() as u64, Relaxed);
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

    /// Position and end of an owned partition.
    pub fn set_partition(&self, at: &TopicPartition, meter: PartitionMeter) {
        lock(&self.partitions).insert(at.clone(), meter);
    }

    /// Asks again where the owned partitions end.
    pub fn update_ends(&self, end: impl Fn(&TopicPartition) -> Option<u64>) {
        for (at, meter) in lock(&self.partitions).iter_mut() {
            meter.end = end(at).or(meter.end);
        }
    }

    /// The partition belongs to another replica now.
    pub fn remove_partition(&self, at: &TopicPartition) {
        lock(&self.partitions).remove(at);
    }

    /// Owned partitions.
    pub fn partitions(&self) -> BTreeMap<TopicPartition, PartitionMeter> {
        lock(&self.partitions).clone()
    }

    /// Dead letters of a reason since the start.
    pub fn dead_letters(&self, reason: Reason) -> u64 {
        self.dead_letters[reason as usize].load(Relaxed)
    }

    /// Errors of a kind since the start, in the order of [`ERROR_KINDS`].
    pub fn errors(&self) -> [u64; ERROR_KINDS.len()] {
        std::array::from_fn(|index| self.errors[index].load(Relaxed))
    }

    /// Nanoseconds spent by all lanes, in the order of [`ACTIVITIES`].
    pub fn busy_nanoseconds(&self) -> [u64; ACTIVITIES.len()] {
        std::array::from_fn(|index| self.busy_nanoseconds[index].load(Relaxed))
    }

    /// Renewals of the lease since the start.
    pub fn lease_renewals(&self) -> u64 {
        self.lease_renewals.load(Relaxed)
    }

    /// Takes a sample for the achieved rate; called about once a second.
    pub fn tick(&self) {
        let now = Instant::now();
        let mut history = lock(&self.stored_history);
        history.push_back((now, self.stored.load(Relaxed), self.busy_nanoseconds()));
        while history.len() > 2 && now.duration_since(history[1].0) >= ACHIEVED_OVER {
            history.pop_front();
        }
    }
}
