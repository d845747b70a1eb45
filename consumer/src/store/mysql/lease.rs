//! Shares of the rate.

use super::MySqlStore;
use super::errors::store_error;
use super::letters::DIALECT;
use super::transaction::{begin_locked, commit, now};
use crate::store::sql::lease_queries::lease_store;

const REPLACE: &str = " ON DUPLICATE KEY UPDATE share = VALUES(share), demand = VALUES(demand), \
     expires_at_ms = VALUES(expires_at_ms)";

async fn begin_alone(conn: &mut Conn, pipeline: &str) -> Result<(), StoreError> {
    begin_locked(conn, &format!("rate of {pipeline}")).await
}

lease_store! { store: MySqlStore, database: sqlx::MySql, dialect: DIALECT, replace: REPLACE }
