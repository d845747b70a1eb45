//! What is known of looking for dead letters that are to be redriven.

use std::sync::Mutex;

use sluice_crds::error_reason::ErrorReason;
use sluice_crds::problem::chain;

use super::Meters;
use crate::last_error::LastError;
use crate::lock::lock;
use crate::store::StoreError;

/// So many failed looks in a row are trouble; fewer are a database that restarts.
const LASTING: u32 = 3;

/// Whether marked letters are found.
#[derive(Debug, Default)]
pub struct RedriveMeter {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    error: Option<LastError>,
    /// Errors without a success between.
    failures: u32,
}

impl RedriveMeter {
    /// An error that lasts, and that no look has followed yet.
    pub fn error(&self) -> Option<LastError> {
        lock(&self.state).error.clone()
    }
}

impl Meters {
    /// Counts a look for marked letters that failed, and shows its error once it lasts; the first that is shown is logged.
    pub fn redrive_failed(&self, error: &StoreError) {
        self.count_store_error(error);
        let mut state = lock(&self.redrive.state);
        state.failures += 1;
        if state.failures < LASTING {
            return;
        }
        let message =
            format!("marked dead letters are not found, so they are not redriven: {}", chain(error));
        if state.error.is_none() {
            tracing::warn!(error = %message, "marked dead letters wait");
        }
        state.error = Some(LastError::new(ErrorReason::RedriveFailed, message));
    }

    /// A look for marked letters was answered.
    pub fn redrive_works(&self) {
        let mut state = lock(&self.redrive.state);
        state.failures = 0;
        if state.error.take().is_some() {
            tracing::info!("marked dead letters are found again");
        }
    }
}
