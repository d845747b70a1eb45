//! Connections, and what becomes of one after an error.

use sqlx::{Executor, Sqlite};

use super::SqliteStore;
use super::errors::kind_of;
use crate::store::sql::{Purpose, SHORT_ANSWER, Session, driver_error, within};
use crate::store::{ErrorKind, StoreError};

impl SqliteStore {
    /// A connection; its options say how it is set up. Claims, upkeep and leases write, too: they share the one
    /// connection that does.
    pub(super) async fn session(&self, purpose: Purpose) -> Result<Session<Sqlite>, StoreError> {
        let purpose = match purpose {
            Purpose::Control | Purpose::Upkeep | Purpose::Lease => Purpose::Write,
            Purpose::Write | Purpose::Read => purpose,
        };
        match self.sessions.take(purpose).await {
            Ok((session, _new)) => Ok(session),
            Err(error) => Err(as_conflict_when_busy(error)),
        }
    }

    /// Ends a call: rolls back after an error that leaves the connection in order, drops it after others.
    pub(super) async fn settle<T>(
        &self,
        mut session: Session<Sqlite>,
        done: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &done {
            Ok(_) => session.keep(),
            Err(error) if error.kind == ErrorKind::Unavailable => session.distrust_all(),
            // SQLite rolls some errors back by itself and then knows no transaction to roll back.
            Err(_) => match within(SHORT_ANSWER, session.execute("ROLLBACK")).await {
                Ok(_) => session.keep(),
                Err(error) => tracing::debug!(%error, "cannot roll back, the connection is dropped"),
            },
        }
        done
    }
}

/// Opening a new file switches it to WAL, and SQLite does not wait for another connection that is doing the
/// same: it reports BUSY at once, which is no more than a conflict.
fn as_conflict_when_busy(mut error: StoreError) -> StoreError {
    let cause = error.source.as_deref().and_then(|source| driver_error(source));
    if cause.map(kind_of) == Some(ErrorKind::Conflict) {
        error.kind = ErrorKind::Conflict;
    }
    error
}
