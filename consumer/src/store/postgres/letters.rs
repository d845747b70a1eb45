//! Dead letters, for people and for redriving.

use super::PostgresStore;
use super::errors::store_error;
use super::transaction::{begin, begin_reading, commit};
use crate::store::sql::letter_queries::{Dialect, letter_store};

pub(super) const DIALECT: Dialect = Dialect {
    quote: '"',
    int8: "BIGINT",
    text: ("", ""),
    epoch_ms: ("CAST(EXTRACT(EPOCH FROM ", ") * 1000 AS BIGINT)"),
};

letter_store! { store: PostgresStore, database: sqlx::Postgres, dialect: DIALECT }
