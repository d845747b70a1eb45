//! Dead letters, for people and for redriving.

use super::PostgresStore;
use super::dialect::DIALECT;
use super::errors::store_error;
use super::transaction::{begin, begin_reading, commit};
use crate::store::sql::letter_calls::letter_calls;
use crate::store::sql::letter_queries::letter_queries;

letter_queries! { store: PostgresStore, database: sqlx::Postgres, dialect: DIALECT }
letter_calls! { store: PostgresStore }
