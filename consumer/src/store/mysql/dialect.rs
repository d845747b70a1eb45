//! MySQL's answers to what shared queries leave open.

use crate::store::sql::Dialect;

pub(super) const DIALECT: Dialect = Dialect {
    quote: '`',
    int8: "SIGNED",
    text: ("CONVERT(", " USING utf8mb4)"),
    epoch_ms: ("CAST(UNIX_TIMESTAMP(", ") * 1000 AS SIGNED)"),
};
