//! Why a reconcile has failed, and when it is repeated.

use std::sync::Arc;
use std::time::Duration;

use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use sluice_crds::v1alpha1::TracePipeline;

use super::apply::{self, ApplyError};
use super::{Context, LIMIT, RETRY_SOON};

/// How soon after somebody else's write, at first.
const RETRY_CONFLICT: Duration = Duration::from_millis(50);
/// How soon after any other failure, at first.
const RETRY_FAILURE: Duration = Duration::from_millis(500);
/// So many conflicts in a row happen to everybody; more of them are a failure.
pub(super) const ORDINARY_CONFLICTS: u32 = 6;
/// So many failures of the API server in a row pass by themselves: within four seconds nobody has to know.
pub(super) const PASSING_FAILURES: u32 = 3;

/// Why a reconcile must be repeated.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Children were not written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The status was not written.
    #[error("cannot write the status")]
    Status(#[source] Box<kube::Error>),
    /// The API server has not answered.
    #[error("the API server has not answered within {} s", LIMIT.as_secs())]
    TimedOut,
}

impl ReconcileError {
    /// Somebody has written at the same time: what is there must be looked at again, and nothing is wrong.
    pub(super) fn is_conflict(&self) -> bool {
        match self {
            Self::Apply(error) => error.is_conflict(),
            Self::Status(error) => matches!(&**error, kube::Error::Api(status) if status.code == 409),
            Self::TimedOut => false,
        }
    }

    /// See [`apply::may_pass`].
    pub(super) fn may_pass(&self) -> bool {
        match self {
            Self::Apply(error) => error.may_pass(),
            Self::Status(error) => apply::may_pass(error),
            Self::TimedOut => false,
        }
    }
}

/// How soon after a failure, by the number of failures in a row.
pub fn retry(pipeline: Arc<TracePipeline>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let name = ObjectRef::from_obj(&*pipeline);
    if error.is_conflict() {
        let wait = context.backoffs.next(&name, RETRY_CONFLICT).min(RETRY_SOON);
        if context.backoffs.count(&name) <= ORDINARY_CONFLICTS {
            tracing::debug!(pipeline = %name, retry_in = ?wait, "somebody has written at the same time");
        } else {
            tracing::warn!(pipeline = %name, error = %crate::problem::chain(error), retry_in = ?wait,
                "somebody writes at the same time, again and again");
        }
        return Action::requeue(wait);
    }
    let wait = context.backoffs.next(&name, RETRY_FAILURE);
    let told = crate::problem::chain(error);
    if error.may_pass() && context.backoffs.count(&name) <= PASSING_FAILURES {
        tracing::info!(pipeline = %name, reason = told, retry_in = ?wait, "cannot reconcile now");
    } else {
        tracing::warn!(pipeline = %name, error = told, retry_in = ?wait, "cannot reconcile");
    }
    Action::requeue(wait)
}
