//! Dead letters, for people and for redriving.

use super::MySqlStore;
use super::errors::store_error;
use super::transaction::{begin, begin_reading, commit};
use crate::store::sql::letter_queries::{Dialect, letter_store};

pub(super) const DIALECT: Dialect = Dialect {
    quote: '`',
    int8: "SIGNED",
    text: ("CONVERT(", " USING utf8mb4)"),
    epoch_ms: ("CAST(UNIX_TIMESTAMP(", ") * 1000 AS SIGNED)"),
};

letter_store! { store: MySqlStore, database: sqlx::MySql, dialect: DIALECT }
