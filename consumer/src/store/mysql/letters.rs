//! Dead letters, for people and for redriving.

use super::MySqlStore;
use super::dialect::DIALECT;
use super::errors::store_error;
use super::transaction::{begin, begin_reading, commit};
use crate::store::sql::letter_calls::letter_calls;
use crate::store::sql::letter_queries::letter_queries;

letter_queries! { store: MySqlStore, database: sqlx::MySql, dialect: DIALECT }
letter_calls! { store: MySqlStore }
