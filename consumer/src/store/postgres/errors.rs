//! What PostgreSQL's error codes (SQLSTATE) mean for a batch.
//!
//! Codes: appendix A of PostgreSQL's manual.

use sqlx::Error;

use crate::store::{ErrorKind, StoreError};

/// Adds to a driver's error what was being done, what it means, and the remedy where the error itself does not tell.
pub fn store_error(doing: &'static str) -> impl Fn(Error) -> StoreError {
    move |error| {
        let remedy = error.as_database_error().and_then(|reported| remedy_for(&reported.code()?));
        let context = remedy.map_or_else(|| doing.to_owned(), |remedy| format!("{doing}: {remedy}"));
        StoreError::with_source(kind_of(&error), context, error)
    }
}

/// A prepared statement that is there already, or is not there: only a pooler changes a client's session.
fn remedy_for(code: &str) -> Option<&'static str> {
    matches!(code, "42P05" | "26000").then_some(
        "a connection pooler gives every transaction another session; have it pool sessions (pool_mode = session), or \
         let it keep prepared statements (PgBouncer 1.21 or newer: max_prepared_statements)",
    )
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
        // Program limit exceeded: a field or row beyond 1 GiB, or a value that an index has no room for.
        "54000" => ErrorKind::TooLarge,
        // NOT NULL, exclusion.
        "23000" | "23502" | "23P01" => ErrorKind::Refused,
        // Foreign key; CHECK and "no partition of relation found for row"; a trigger's RAISE.
        "23503" | "23514" | "P0001" => ErrorKind::Constraint,
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
    fn a_lost_session_has_a_remedy() {
        assert!(["42P05", "26000"].into_iter().all(|code| remedy_for(code).is_some()));
        assert_eq!(remedy_for("42P01"), None);
    }

    #[test]
    fn every_data_exception_is_a_refused_value() {
        for code in ["22001", "22003", "22021", "22P05"] {
            assert_eq!(kind_of_code(code), ErrorKind::Refused);
        }
    }

    #[test]
    fn every_named_code_has_its_meaning() {
        let meanings: [(ErrorKind, &[&str]); 6] = [
            (ErrorKind::Conflict, &["40001", "40P01", "55P03"]),
            (ErrorKind::DuplicateId, &["23505"]),
            (ErrorKind::TooLarge, &["54000"]),
            (ErrorKind::Refused, &["23000", "23502", "23P01"]),
            (ErrorKind::Constraint, &["23503", "23514", "P0001"]),
            (ErrorKind::Unavailable, &["08006", "25006", "28P01", "42501", "42P01", "53100", "57P01"]),
        ];
        for (kind, codes) in meanings {
            for code in codes {
                assert_eq!(kind_of_code(code), kind, "{code}");
            }
        }
    }
}
