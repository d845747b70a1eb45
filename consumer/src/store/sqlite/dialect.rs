//! SQLite's answers to what shared queries leave open.

use crate::store::sql::Dialect;

pub(super) const DIALECT: Dialect = Dialect {
    quote: '"',
    int8: "INTEGER",
    text: ("", ""),
    epoch_ms: ("CAST(ROUND(unixepoch(", ", 'subsec') * 1000) AS INTEGER)"),
};
