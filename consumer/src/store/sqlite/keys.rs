//! Data keys and dictionaries.

use super::SqliteStore;
use super::dialect::DIALECT;
use super::errors::store_error;
use super::transaction::{begin_reading, commit};
use crate::store::sql::key_queries::key_store;

key_store! { store: SqliteStore, database: sqlx::Sqlite, dialect: DIALECT }
