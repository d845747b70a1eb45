//! Shares of the rate.

use super::SqliteStore;
use super::errors::store_error;
use super::letters::DIALECT;
use super::transaction::{begin, commit, now};
use crate::store::sql::lease_queries::{ON_CONFLICT, lease_store};

/// There is one writer at a time.
async fn begin_alone(conn: &mut Conn, _pipeline: &str) -> Result<(), StoreError> {
    begin(conn).await
}

lease_store! { store: SqliteStore, database: sqlx::Sqlite, dialect: DIALECT, replace: ON_CONFLICT }
