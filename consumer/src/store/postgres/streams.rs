//! Streams: listing, creating, claiming, superseding.

use super::PostgresStore;
use super::dialect::DIALECT;
use super::errors::store_error;
use super::transaction::{begin, begin_numbering, begin_reading, check_lock, commit, now};
use crate::store::sql::stream_queries::stream_store;

stream_store! { store: PostgresStore, database: sqlx::Postgres, dialect: DIALECT, lock: " FOR UPDATE" }
