//! What is known of removing old rows.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Serialize;
use sluice_crds::error_reason::ErrorReason;
use sluice_crds::problem::chain;

use super::Meters;
use crate::last_error::LastError;
use crate::lock::lock;
use crate::store::StoreError;

/// So many errors in a row are trouble; fewer are a race that was lost, or a database that restarts.
const LASTING: u32 = 3;

/// Counters of retention.
#[derive(Debug, Default)]
pub struct RetentionMeter {
    removed: AtomicU64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    kept: Option<Duration>,
    /// None while another replica removes, and before the first step.
    behind: Option<Duration>,
    error: Option<LastError>,
    /// Errors without a success between.
    failures: u32,
}

/// Retention in `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct RetentionStatus {
    /// How long rows stay.
    pub seconds: u64,
    /// Rows removed by this replica since the start of the process.
    pub removed: u64,
    /// How much longer than that the oldest row has stayed; none where another replica removes.
    pub behind_seconds: Option<u64>,
}

impl RetentionMeter {
    /// How long rows stay from now on; none: for ever.
    pub fn set(&self, kept: Option<Duration>) {
        let mut state = lock(&self.state);
        state.kept = kept;
        if kept.is_none() {
            (state.behind, state.error, state.failures) = (None, None, 0);
        }
    }

    /// Counts rows that were removed.
    pub fn removed(&self, rows: u64) {
        self.removed.fetch_add(rows, Relaxed);
    }

    /// Rows removed since the start.
    pub fn all_removed(&self) -> u64 {
        self.removed.load(Relaxed)
    }

    /// How much too old the oldest row is.
    pub fn set_behind(&self, behind: Duration) {
        lock(&self.state).behind = Some(behind);
    }

    /// Another replica removes.
    pub fn not_ours(&self) {
        lock(&self.state).behind = None;
    }

    /// What `/status` says; none without a retention.
    pub fn status(&self) -> Option<RetentionStatus> {
        let state = lock(&self.state);
        Some(RetentionStatus {
            seconds: state.kept?.as_secs(),
            removed: self.all_removed(),
            behind_seconds: state.behind.map(|behind| behind.as_secs()),
        })
    }

    /// An error that lasts, and that no step has followed yet.
    pub fn error(&self) -> Option<LastError> {
        lock(&self.state).error.clone()
    }
}

impl Meters {
    /// Counts an error that keeps old rows, and shows it once it lasts, or at once where waiting does not help; the first
    /// that is shown is logged.
    pub fn retention_failed(&self, error: &StoreError) {
        self.count_store_error(error);
        let denied = LastError::from(error).reason == ErrorReason::StoreDenied;
        let remedy = if denied { "; grant this user DELETE on the table" } else { "" };
        let message = format!("rows older than the retention are not removed: {}{remedy}", chain(error));
        let mut state = lock(&self.retention.state);
        state.failures += 1;
        if state.failures < LASTING && !denied {
            return;
        }
        if state.error.is_none() {
            tracing::warn!(error = %message, "old rows stay for now");
        }
        state.error = Some(LastError::new(ErrorReason::RetentionFailed, message));
    }

    /// A step was done, or another replica does it.
    pub fn retention_works(&self) {
        let mut state = lock(&self.retention.state);
        state.failures = 0;
        if state.error.take().is_some() {
            tracing::info!("old rows are removed again");
        }
    }
}
