//! Shares of the rate.

use super::PostgresStore;
use super::errors::store_error;
use super::letters::DIALECT;
use super::transaction::{begin_locked, commit, now};
use crate::store::sql::lease_queries::{ON_CONFLICT, lease_store};

async fn begin_alone(conn: &mut Conn, pipeline: &str) -> Result<(), StoreError> {
    begin_locked(conn, &format!("rate of {pipeline}")).await
}

lease_store! { store: PostgresStore, database: sqlx::Postgres, dialect: DIALECT, replace: ON_CONFLICT }
