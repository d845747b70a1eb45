//! Dead letters, for people and for redriving.

use super::SqliteStore;
use super::errors::store_error;
use super::transaction::{begin, begin_reading, commit};
use crate::store::sql::letter_queries::{Dialect, letter_store};

pub(super) const DIALECT: Dialect = Dialect {
    quote: '"',
    int8: "INTEGER",
    text: ("", ""),
    epoch_ms: ("CAST(ROUND(unixepoch(", ", 'subsec') * 1000) AS INTEGER)"),
};

letter_store! { store: SqliteStore, database: sqlx::Sqlite, dialect: DIALECT, marks: Purpose::Write }
