//! A store that accepts everything and keeps nothing but positions: the floor for benchmarks.
//!
//! Positions are fenced as in every store, so a benchmark with this one still runs the whole pipeline.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;

use super::key::{KeyStore, SealedDictionary, WrappedKey};
use super::letter::{LetterFilter, LetterStore, LetterSummary, RedriveBatch, StoredLetter};
use super::memory::MemoryStore;
use super::retention::{Sweep, Swept};
use super::{Claim, Row, Store, StoreError, StoredSpan, StreamKey, WriteBatch};
use crate::gate::lease::{Decide, LeaseGrant, LeaseRequest};

/// A store without rows.
pub struct NullStore {
    /// Positions and leases; never given a row.
    positions: MemoryStore,
    rows: AtomicU64,
    dead_letters: AtomicU64,
    lanes: usize,
}

impl NullStore {
    /// A store that takes `lanes` transactions side by side.
    pub fn new(lanes: usize) -> Self {
        Self {
            positions: MemoryStore::new(lanes, usize::MAX),
            rows: AtomicU64::new(0),
            dead_letters: AtomicU64::new(0),
            lanes,
        }
    }

    /// Rows accepted so far.
    pub fn rows(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    /// Dead letters accepted so far.
    pub fn dead_letters(&self) -> u64 {
        self.dead_letters.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl LetterStore for NullStore {
    async fn letters(
        &self,
        filter: &LetterFilter,
        after: i64,
        limit: u32,
    ) -> Result<Vec<LetterSummary>, StoreError> {
        self.positions.letters(filter, after, limit).await
    }

    async fn letter(&self, id: i64) -> Result<Option<StoredLetter>, StoreError> {
        self.positions.letter(id).await
    }

    async fn mark(&self, ids: &[i64]) -> Result<u64, StoreError> {
        self.positions.mark(ids).await
    }

    async fn purge(&self, ids: &[i64]) -> Result<u64, StoreError> {
        self.positions.purge(ids).await
    }

    async fn marked(&self) -> Result<Vec<(String, i32)>, StoreError> {
        self.positions.marked().await
    }

    async fn redrive(&self, batch: &RedriveBatch<'_>) -> Result<(), StoreError> {
        self.positions.redrive(batch).await
    }
}

#[async_trait]
impl KeyStore for NullStore {
    async fn data_keys(&self) -> Result<Vec<WrappedKey>, StoreError> {
        self.positions.data_keys().await
    }

    async fn data_key(&self, id: u32) -> Result<Option<WrappedKey>, StoreError> {
        self.positions.data_key(id).await
    }

    async fn add_data_key(&self, key: &WrappedKey) -> Result<bool, StoreError> {
        self.positions.add_data_key(key).await
    }

    async fn rewrap(&self, old: &WrappedKey, new: &WrappedKey) -> Result<bool, StoreError> {
        self.positions.rewrap(old, new).await
    }

    async fn dictionaries(&self) -> Result<Vec<SealedDictionary>, StoreError> {
        self.positions.dictionaries().await
    }

    async fn dictionary(&self, id: u16) -> Result<Option<SealedDictionary>, StoreError> {
        self.positions.dictionary(id).await
    }

    async fn add_dictionary(&self, dictionary: &SealedDictionary) -> Result<bool, StoreError> {
        self.positions.add_dictionary(dictionary).await
    }

    async fn rows_after(&self, _after: i64, _limit: u32) -> Result<Vec<StoredSpan>, StoreError> {
        Ok(Vec::new())
    }
}

#[async_trait]
impl Store for NullStore {
    async fn prepare(&self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn streams(&self, cluster_id: &str, group: &str) -> Result<Vec<StreamKey>, StoreError> {
        self.positions.streams(cluster_id, group).await
    }

    async fn create_streams(&self, starts: &[(StreamKey, u64)]) -> Result<(), StoreError> {
        self.positions.create_streams(starts).await
    }

    async fn claim(&self, key: &StreamKey, owner: &str) -> Result<Claim, StoreError> {
        self.positions.claim(key, owner).await
    }

    async fn supersede(&self, key: &StreamKey, claim: &Claim, start: u64) -> Result<(), StoreError> {
        self.positions.supersede(key, claim, start).await
    }

    async fn write(&self, batch: &WriteBatch<'_>) -> Result<(), StoreError> {
        self.positions.write(&WriteBatch { rows: &[], dead_letters: &[], ..*batch }).await?;
        self.rows.fetch_add(batch.rows.len() as u64, Ordering::Relaxed);
        self.dead_letters.fetch_add(batch.dead_letters.len() as u64, Ordering::Relaxed);
        Ok(())
    }

    async fn probe(&self, _rows: &[Row<'_>]) -> Result<(), StoreError> {
        Ok(())
    }

    async fn lease(&self, request: &LeaseRequest, decide: &mut Decide<'_>) -> Result<LeaseGrant, StoreError> {
        self.positions.lease(request, decide).await
    }

    async fn end_lease(&self, pipeline: &str, holder: &str) -> Result<(), StoreError> {
        self.positions.end_lease(pipeline, holder).await
    }

    async fn trace(&self, _trace_id: &str, _limit: u32) -> Result<Vec<StoredSpan>, StoreError> {
        Ok(Vec::new())
    }

    async fn positions(&self, cluster_id: &str, group: &str) -> Result<Vec<(StreamKey, u64)>, StoreError> {
        self.positions.positions(cluster_id, group).await
    }

    async fn remove_older(&self, sweep: &Sweep) -> Result<Swept, StoreError> {
        self.positions.remove_older(sweep).await
    }

    fn max_body_bytes(&self) -> usize {
        usize::MAX
    }

    fn max_lanes(&self) -> usize {
        self.lanes
    }

    async fn close(&self) {}
}
