//! What PostgreSQL's error codes (SQLSTATE) mean for a batch.
//!
//! Codes: appendix A of PostgreSQL's manual.

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
            reported.code().map_or(ErrorKind::Unavailable, |code| kind_of_code(&code))
        }
        _ => ErrorKind::Unavailable,
    }
}

/// See [`kind_of`].
pub fn kind_of_code(code: &str) -> ErrorKind {
    match code {
        // Serialisation failure, deadlock, lock time-out.
        "40001" | "40P01" | "55P03" => ErrorKind::Conflict,
        "23505" => ErrorKind::DuplicateId,
        // Program limit exceeded: a field or row beyond 1 GiB.
        "54000" => ErrorKind::TooLarge,
        // NOT NULL, CHECK and "no partition of relation found for row" (the same for every row, so no probe
        // row is accepted and nothing becomes a dead letter), foreign key, exclusion; a trigger's RAISE.
        "23000" | "23502" | "23503" | "23514" | "23P01" | "P0001" => ErrorKind::Refused,
        // Class 22, data exception: too long, out of range, a character that the encoding lacks, NUL.
        code if code.starts_with("22") => ErrorKind::Refused,
        // Everything else waits. Known members: 08 connection, 25006 read-only, 25P03 idle in transaction for
        // too long, 28 authentication, 3D000 no such database, 42501 no right, 42703 and 42P01 no such column
        // or table, 53 resources (disk full, out of memory, too many connections), 57 intervention (shutting
        // down, statement time-out), 58 system error, XX internal error.
        _ => ErrorKind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_codes_wait() {
        assert_eq!(kind_of_code("ZZ999"), ErrorKind::Unavailable);
        assert_eq!(kind_of(&Error::PoolTimedOut), ErrorKind::Unavailable);
    }

    #[test]
    fn every_data_exception_is_a_refused_value() {
        for code in ["22001", "22003", "22021", "22P05"] {
            assert_eq!(kind_of_code(code), ErrorKind::Refused);
        }
    }
}
