//! PostgreSQL's answers to what shared queries leave open.

use crate::store::sql::Dialect;

pub(super) const DIALECT: Dialect = Dialect {
    quote: '"',
    int8: "BIGINT",
    text: ("", ""),
    epoch_ms: ("CAST(EXTRACT(EPOCH FROM ", ") * 1000 AS BIGINT)"),
};
