//! Shares of the rate.

use super::MySqlStore;
use super::dialect::DIALECT;
use super::errors::store_error;
use super::transaction::{begin_alone, check_lock, commit, now};
use crate::store::sql::lease_queries::lease_store;

const REPLACE: &str = " ON DUPLICATE KEY UPDATE share = VALUES(share), demand = VALUES(demand), \
     expires_at_ms = VALUES(expires_at_ms)";

lease_store! { store: MySqlStore, database: sqlx::MySql, dialect: DIALECT, replace: REPLACE }
