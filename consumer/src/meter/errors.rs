//! What the data path tells of errors and of their ends: counted, logged once in a run of errors, and kept for `/status`.

use std::sync::atomic::Ordering::Relaxed;

use super::Meters;
use crate::last_error::LastError;
use crate::lock::lock;
use crate::source::TopicPartition;
use crate::store::StoreError;

impl Meters {
    /// Ends a run of errors of the store: a partition's, or those that concern the whole process.
    pub fn store_works(&self, at: Option<&TopicPartition>) {
        if lock(&self.open_errors).store_works(at) {
            tracing::info!("the database works again");
        }
    }

    /// Counts an error of the store that holds up a partition, or the whole process; the first in a run is logged
    /// as a warning.
    pub fn store_failed(&self, at: Option<&TopicPartition>, error: &StoreError) {
        self.count_store_error(error);
        if lock(&self.open_errors).store_failed(at, error) {
            let last = LastError::from(error);
            let reason = last.reason.as_str();
            let waits = at.map_or_else(|| "the start".to_owned(), |at| format!("partition {at}"));
            tracing::warn!(reason, kind = ?error.kind, error = %last.message, "{waits} waits for the database");
        }
    }

    /// A batch of the partition is tried until it is committed: until then its error stays.
    pub fn batch_held(&self, at: &TopicPartition) {
        lock(&self.open_errors).batch_held(at);
    }

    /// Counts a dead letter of the partition that cannot be opened, and so cannot be redriven. It holds up nothing, and is
    /// told like an error of the store that does.
    pub fn letter_not_opened(&self, at: &TopicPartition, error: StoreError) {
        self.count_store_error(&error);
        let what = "a dead letter cannot be opened, this one and others perhaps; it stays marked";
        let error = StoreError::with_source(error.kind, what, error);
        lock(&self.open_errors).store_failed(Some(at), &error);
    }

    /// Counts an error of the store, of whatever kind. Alone, for one that holds up nothing, such as a row that becomes a
    /// dead letter.
    pub fn count_store_error(&self, error: &StoreError) {
        self.errors[error.kind as usize].fetch_add(1, Relaxed);
    }

    /// Counts a failed renewal of the lease; the first in a run is logged.
    pub fn lease_failed(&self, error: &StoreError) {
        self.count_store_error(error);
        let last = LastError::from(error);
        let mut open_errors = lock(&self.open_errors);
        if open_errors.lease.is_none() {
            tracing::warn!(error = %last.message, "the lease of the rate was not renewed; releases stop when it ends");
        }
        open_errors.lease = Some(last);
    }

    /// Counts a renewal and ends a run of failed ones.
    pub fn lease_renewed(&self) {
        self.lease_renewals.fetch_add(1, Relaxed);
        if lock(&self.open_errors).renewed() {
            tracing::info!("the database works again");
        }
    }

    /// Remembers an error of the source as a whole. The first in a run, and the first for another reason, is logged.
    pub fn source_failed(&self, error: LastError) {
        self.any_source_failed(None, error);
    }

    /// Remembers an error of the source that holds up one partition; logged likewise.
    pub fn partition_failed(&self, at: &TopicPartition, error: LastError) {
        self.any_source_failed(Some(at), error);
    }

    fn any_source_failed(&self, at: Option<&TopicPartition>, error: LastError) {
        if lock(&self.open_errors).source_failed(at, error.clone()) {
            tracing::warn!(reason = error.reason.as_str(), error = %error.message, "the source has trouble");
        }
    }

    /// Ends a run of errors of the source as a whole.
    pub fn source_works(&self) {
        if lock(&self.open_errors).source_works(None) {
            tracing::info!("the source works again");
        }
    }

    /// The partition is open: brokers and database have answered for it, so neither is away.
    pub fn opened(&self, at: &TopicPartition) {
        self.store_works(Some(at));
        self.partition_works(at);
        self.source_works();
    }

    /// Ends a partition's run of errors of the source.
    pub fn partition_works(&self, at: &TopicPartition) {
        if lock(&self.open_errors).source_works(Some(at)) {
            tracing::info!("the source works again");
        }
    }
}
