//! The stores' twin in memory, for tests: the same contract, and hooks to look inside and to make it fail. Without rows
//! it is the floor for benchmarks: it accepts everything and keeps nothing but positions.
//!
//! Guarantees: as [`super::Store`], but nothing outlives the process. Its clock is tokio's, so it stands
//! still and jumps with a paused runtime.

mod keys;
mod letters;
mod state;

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use async_trait::async_trait;
use tokio::time::Instant;

use super::retention::{Reached, Sweep, Swept};
use super::{Claim, ErrorKind, Row, Store, StoreError, StoredSpan, StreamKey, TRACE_BYTES, WriteBatch};
use crate::gate::clock::DatabaseTime;
use crate::gate::lease::{Decide, LeaseGrant, LeaseRequest};
use crate::lock::lock;
use state::State;
pub use state::{OwnedDeadLetter, OwnedLetterSpan, Progress};

/// Where the clock of a new store stands: 2026-11-21, milliseconds since 1970.
pub const CLOCK_START_MS: i64 = 1_795_219_200_000;

/// The methods of [`Store`], for hooks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Call {
    /// [`Store::prepare`]
    Prepare,
    /// [`Store::streams`]
    Streams,
    /// [`Store::create_streams`]
    CreateStreams,
    /// [`Store::claim`]
    Claim,
    /// [`Store::supersede`]
    Supersede,
    /// [`Store::write`], before anything is stored.
    Write,
    /// [`Store::write`], after the commit: an error here is an ambiguous commit.
    Committed,
    /// [`Store::probe`]
    Probe,
    /// [`Store::lease`]
    Lease,
    /// [`Store::end_lease`]
    EndLease,
    /// [`Store::trace`]
    Trace,
    /// [`Store::positions`]
    Positions,
    /// [`Store::remove_older`]
    RemoveOlder,
    /// [`LetterStore::marked`](super::letter::LetterStore::marked)
    Marked,
    /// [`LetterStore::letter`](super::letter::LetterStore::letter)
    Letter,
    /// [`LetterStore::sent`](super::letter::LetterStore::sent)
    Sent,
    /// [`LetterStore::redrive`](super::letter::LetterStore::redrive), before anything is stored.
    Redrive,
    /// Likewise, after the commit.
    Redriven,
    /// [`KeyStore::data_key`](super::key::KeyStore::data_key)
    DataKey,
    /// [`KeyStore::add_data_key`](super::key::KeyStore::add_data_key)
    AddDataKey,
}

type CallHook = Box<dyn FnMut(Call) -> Option<StoreError> + Send>;
type RowHook = Box<dyn FnMut(&Row<'_>) -> Option<ErrorKind> + Send>;

#[derive(Default)]
struct Hooks {
    call: Option<CallHook>,
    row: Option<RowHook>,
    write_latency: Duration,
}

/// A store in memory. See the module.
pub struct MemoryStore {
    state: Mutex<State>,
    hooks: Mutex<Hooks>,
    lanes: usize,
    max_body_bytes: usize,
    keeps_rows: bool,
    started: Instant,
}

impl MemoryStore {
    /// An empty store that takes `lanes` transactions side by side, and bodies of up to `max_body_bytes`.
    pub fn new(lanes: usize, max_body_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            hooks: Mutex::default(),
            lanes,
            max_body_bytes,
            keeps_rows: true,
            started: Instant::now(),
        }
    }

    /// One that forgets rows and dead letters at once.
    pub fn without_rows(lanes: usize) -> Self {
        Self { keeps_rows: false, ..Self::new(lanes, usize::MAX) }
    }

    /// `hook` is asked at every call; what it returns is the call's error.
    pub fn on_call(&self, hook: impl FnMut(Call) -> Option<StoreError> + Send + 'static) {
        self.hooks().call = Some(Box::new(hook));
    }

    /// `hook` is asked for every row that is written or probed; what it returns is the error's kind.
    pub fn on_row(&self, hook: impl FnMut(&Row<'_>) -> Option<ErrorKind> + Send + 'static) {
        self.hooks().row = Some(Box::new(hook));
    }

    /// No hook is asked any more.
    pub fn clear_hooks(&self) {
        *self.hooks() = Hooks::default();
    }

    /// How long a write takes from now on.
    pub fn set_write_latency(&self, latency: Duration) {
        self.hooks().write_latency = latency;
    }

    /// All rows, by id.
    pub fn rows(&self) -> Vec<StoredSpan> {
        self.state().rows.values().cloned().collect()
    }

    /// Number of rows.
    pub fn row_count(&self) -> usize {
        self.state().rows.len()
    }

    /// All dead letters, by id.
    pub fn dead_letters(&self) -> Vec<OwnedDeadLetter> {
        self.state().dead_letters.values().cloned().collect()
    }

    /// All streams, in the order of their numbers.
    pub fn progress(&self) -> Vec<Progress> {
        self.state().progress.clone()
    }

    /// Shares of this name that are leased now, each with its holder.
    pub fn leases(&self, name: &str) -> Vec<(String, u32)> {
        let now = self.now_ms();
        let state = self.state();
        state.live_leases(name, now).map(|(holder, lease)| (holder.to_owned(), lease.share)).collect()
    }

    /// The store's clock, milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        CLOCK_START_MS + i64::try_from(self.started.elapsed().as_millis()).unwrap_or(i64::MAX)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn hooks(&self) -> MutexGuard<'_, Hooks> {
        lock(&self.hooks)
    }

    fn ask(&self, call: Call) -> Result<(), StoreError> {
        match self.hooks().call.as_mut().and_then(|hook| hook(call)) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    fn check_rows(&self, rows: &[Row<'_>]) -> Result<(), StoreError> {
        if let Some(row) = rows.iter().find(|row| row.body.len() > self.max_body_bytes) {
            let context = format!("a body of {} bytes", row.body.len());
            return Err(StoreError::new(ErrorKind::TooLarge, context));
        }
        let mut hooks = self.hooks();
        let refused = hooks.row.as_mut().and_then(|hook| rows.iter().find_map(hook));
        match refused {
            Some(kind) => Err(StoreError::new(kind, "a row was refused by a hook")),
            None => self.state().check_ids(rows),
        }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn prepare(&self) -> Result<(), StoreError> {
        self.ask(Call::Prepare)
    }

    async fn streams(&self, cluster_id: &str, group: &str) -> Result<Vec<StreamKey>, StoreError> {
        self.ask(Call::Streams)?;
        Ok(self.state().streams(cluster_id, group))
    }

    async fn create_streams(&self, starts: &[(StreamKey, u64)]) -> Result<(), StoreError> {
        self.ask(Call::CreateStreams)?;
        self.state().create_missing(starts)
    }

    async fn create_groups(&self, starts: &[(StreamKey, u64)]) -> Result<(), StoreError> {
        self.ask(Call::CreateStreams)?;
        let mut state = self.state();
        let is_begun = starts.iter().any(|(key, _)| !state.streams(&key.cluster_id, &key.group).is_empty());
        if is_begun { Ok(()) } else { state.create_missing(starts) }
    }

    async fn claim(&self, key: &StreamKey, owner: &str) -> Result<Claim, StoreError> {
        self.ask(Call::Claim)?;
        let database_time = DatabaseTime::told(self.now_ms());
        let mut state = self.state();
        let progress = state.newest(key).ok_or_else(|| super::sql::unknown_stream(key))?;
        progress.epoch += 1;
        progress.owner = owner.to_owned();
        Ok(Claim {
            stream: progress.stream,
            epoch: progress.epoch,
            position: progress.position,
            fingerprint: progress.fingerprint,
            database_time,
        })
    }

    async fn supersede(&self, key: &StreamKey, claim: &Claim, start: u64) -> Result<(), StoreError> {
        self.ask(Call::Supersede)?;
        let mut state = self.state();
        let progress = state.newest(key).ok_or_else(|| super::sql::unknown_stream(key))?;
        if (progress.stream, progress.epoch) != (claim.stream, claim.epoch) {
            return Err(super::sql::fenced(claim.stream, claim.epoch));
        }
        progress.epoch += 1;
        let generation = progress.generation + 1;
        state.add_stream(key, generation, start)
    }

    async fn write(&self, batch: &WriteBatch<'_>) -> Result<(), StoreError> {
        self.ask(Call::Write)?;
        let latency = self.hooks().write_latency;
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        if !self.keeps_rows {
            return self.state().write(&WriteBatch { rows: &[], dead_letters: &[], ..*batch }, 0);
        }
        self.check_rows(batch.rows)?;
        let now = self.now_ms();
        self.state().write(batch, now)?;
        self.ask(Call::Committed)
    }

    async fn probe(&self, rows: &[Row<'_>]) -> Result<(), StoreError> {
        self.ask(Call::Probe)?;
        self.check_rows(rows)
    }

    async fn lease(&self, request: &LeaseRequest, decide: &mut Decide<'_>) -> Result<LeaseGrant, StoreError> {
        self.ask(Call::Lease)?;
        let now = self.now_ms();
        let share = self.state().lease(request, now, decide);
        Ok(LeaseGrant { share, database_time: DatabaseTime::told(now) })
    }

    async fn end_lease(&self, name: &str, holder: &str) -> Result<(), StoreError> {
        self.ask(Call::EndLease)?;
        self.state().leases.remove(&(name.to_owned(), holder.to_owned()));
        Ok(())
    }

    async fn trace(&self, trace_id: &str, limit: u32) -> Result<Vec<StoredSpan>, StoreError> {
        self.ask(Call::Trace)?;
        let state = self.state();
        let mut rows = state.rows.values().filter(|row| row.trace_id == trace_id).take(limit as usize);
        let (mut found, mut bytes) = (Vec::new(), 0);
        while bytes <= TRACE_BYTES
            && let Some(row) = rows.next()
        {
            bytes += row.body.len();
            found.push(row.clone());
        }
        // Another one tells that these are not all.
        found.extend(rows.next().cloned());
        Ok(found)
    }

    async fn rows_after(&self, after: i64, limit: u32) -> Result<Vec<StoredSpan>, StoreError> {
        let state = self.state();
        let later = state.rows.range(after.saturating_add(1)..).map(|(_, row)| row.clone());
        Ok(later.take(limit as usize).collect())
    }

    async fn positions(&self, cluster_id: &str, group: &str) -> Result<Vec<(StreamKey, u64)>, StoreError> {
        self.ask(Call::Positions)?;
        let mut state = self.state();
        let streams = state.streams(cluster_id, group);
        let position = |key: StreamKey| {
            let next_offset = state.newest(&key)?.position.next_offset;
            Some((key, next_offset))
        };
        Ok(streams.into_iter().filter_map(position).collect())
    }

    async fn remove_older(&self, sweep: &Sweep) -> Result<Swept, StoreError> {
        self.ask(Call::RemoveOlder)?;
        let mut state = self.state();
        let (after, before) = (sweep.after, sweep.before_id(true).max(sweep.after + 1));
        let looked_at: Vec<(i64, i64)> = state
            .rows
            .range(after + 1..before)
            .take(sweep.rows as usize)
            .map(|(id, row)| (*id, row.created_at_ms))
            .collect();
        let old = |created_at_ms: i64| created_at_ms < sweep.created_before_ms(true);
        let gone: Vec<i64> = looked_at.iter().filter(|row| old(row.1)).map(|row| row.0).collect();
        for id in &gone {
            state.rows.remove(id);
        }
        let last = looked_at.last().filter(|_| looked_at.len() == sweep.rows as usize);
        Ok(Swept {
            removed: gone.len() as u64,
            reached: last.map(|(id, created_at_ms)| Reached { id: *id, created_at_ms: Some(*created_at_ms) }),
            took: Duration::from_millis(1),
        })
    }

    fn max_body_bytes(&self) -> usize {
        self.max_body_bytes
    }

    fn max_lanes(&self) -> usize {
        self.lanes
    }

    async fn close(&self) {}
}
