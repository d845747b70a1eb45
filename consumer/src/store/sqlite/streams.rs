//! Streams: listing, creating, claiming, superseding.

use super::SqliteStore;
use super::dialect::DIALECT;
use super::errors::store_error;
use super::transaction::{begin, begin_numbering, begin_reading, check_lock, commit, now};
use crate::store::sql::stream_queries::stream_store;

stream_store! { store: SqliteStore, database: sqlx::Sqlite, dialect: DIALECT, lock: "" }
