//! Sessions: how a connection is set up, and what becomes of it after an error.

use sqlx::{Executor, Postgres};

use super::PostgresStore;
use super::errors::store_error;
use crate::store::sql::{Purpose, SHORT_ANSWER, Session, within};
use crate::store::{ErrorKind, StoreError};

/// Set by statements, not as start-up parameters, which poolers refuse. A frozen owner is cut off whether it
/// stopped between two statements or in the middle of one. Names that the catalogue tells are quoted where they must be,
/// and only there; a server without that setting has nothing to set.
const SESSION: &str = "SET default_transaction_isolation = 'read committed'; SET lock_timeout = '5s'; \
     SET idle_in_transaction_session_timeout = '5s'; SET statement_timeout = '60s'; \
     SELECT set_config(name, 'off', false) FROM pg_settings WHERE name = 'quote_all_identifiers' AND setting = 'on'";

impl PostgresStore {
    /// A connection that is set up.
    pub(super) async fn session(&self, purpose: Purpose) -> Result<Session<Postgres>, StoreError> {
        let taken = self.sessions.take(purpose).await;
        let (mut session, new) = taken.map_err(|error| error.where_to((self.options.connect)().ok()))?;
        if new {
            within(SHORT_ANSWER, session.execute(SESSION))
                .await
                .map_err(store_error("cannot set up a database session"))?;
        }
        Ok(session)
    }

    /// Ends a call: rolls back after an error that leaves the connection in order, drops it after others.
    pub(super) async fn settle<T>(
        &self,
        mut session: Session<Postgres>,
        done: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &done {
            Ok(_) => session.keep(),
            Err(error) if error.kind == ErrorKind::Unavailable => session.distrust_all(),
            Err(_) => match within(SHORT_ANSWER, session.execute("ROLLBACK")).await {
                Ok(_) => session.keep(),
                Err(error) => tracing::debug!(%error, "cannot roll back, the connection is dropped"),
            },
        }
        done
    }
}
