//! Shares of the rate.

use super::SqliteStore;
use super::dialect::DIALECT;
use super::errors::store_error;
use super::transaction::{begin_alone, check_lock, commit, now};
use crate::store::sql::lease_queries::{ON_CONFLICT, lease_store};

lease_store! { store: SqliteStore, database: sqlx::Sqlite, dialect: DIALECT, replace: ON_CONFLICT }
