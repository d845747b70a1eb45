//! What SQLite's result codes mean for a batch.
//!
//! Codes: "Result and Error Codes" of SQLite's documentation; the low byte is the primary code.

use sqlx::Error;

use crate::store::{ErrorKind, StoreError};

/// Adds to a driver's error what was being done and what it means.
pub fn store_error(doing: &'static str) -> impl Fn(Error) -> StoreError {
    move |error| StoreError::with_source(kind_of(&error), doing, error)
}

/// The meaning of an error; a code that nobody has named waits.
pub fn kind_of(error: &Error) -> ErrorKind {
    match error {
        Error::Database(reported) => {
            reported.code().and_then(|code| code.parse().ok()).map_or(ErrorKind::Unavailable, kind_of_code)
        }
        _ => ErrorKind::Unavailable,
    }
}

/// See [`kind_of`].
pub fn kind_of_code(code: u32) -> ErrorKind {
    const BUSY: u32 = 5;
    const LOCKED: u32 = 6;
    const TOOBIG: u32 = 18;
    const CONSTRAINT: u32 = 19;
    const MISMATCH: u32 = 20;
    const CONSTRAINT_CHECK: u32 = 275;
    const CONSTRAINT_FOREIGNKEY: u32 = 787;
    const CONSTRAINT_PRIMARYKEY: u32 = 1555;
    const CONSTRAINT_TRIGGER: u32 = 1811;
    const CONSTRAINT_UNIQUE: u32 = 2067;
    const CONSTRAINT_ROWID: u32 = 2579;
    match code {
        CONSTRAINT_PRIMARYKEY | CONSTRAINT_UNIQUE | CONSTRAINT_ROWID => ErrorKind::DuplicateId,
        CONSTRAINT_CHECK | CONSTRAINT_FOREIGNKEY | CONSTRAINT_TRIGGER => ErrorKind::Constraint,
        code => match code & 0xff {
            BUSY | LOCKED => ErrorKind::Conflict,
            TOOBIG => ErrorKind::TooLarge,
            CONSTRAINT | MISMATCH => ErrorKind::Refused,
            // Everything else waits. Known members: 8 READONLY, 10 IOERR, 11 CORRUPT, 13 FULL, 14 CANTOPEN,
            // 26 NOTADB.
            _ => ErrorKind::Unavailable,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_codes_wait() {
        assert_eq!(kind_of_code(9999), ErrorKind::Unavailable);
        assert_eq!(kind_of(&Error::PoolTimedOut), ErrorKind::Unavailable);
    }

    #[test]
    fn extended_codes_count_as_their_primary_code() {
        // BUSY_SNAPSHOT, IOERR_WRITE, CONSTRAINT_NOTNULL
        assert_eq!(
            [517, 778, 1299].map(kind_of_code),
            [ErrorKind::Conflict, ErrorKind::Unavailable, ErrorKind::Refused]
        );
    }

    #[test]
    fn a_rule_of_the_table_is_told_apart_from_a_value_of_the_wrong_form() {
        // CONSTRAINT_CHECK, CONSTRAINT_FOREIGNKEY, CONSTRAINT_TRIGGER
        assert_eq!([275, 787, 1811].map(kind_of_code), [ErrorKind::Constraint; 3]);
    }
}
