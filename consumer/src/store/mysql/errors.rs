//! What MySQL's and MariaDB's error numbers mean for a batch.
//!
//! Numbers: the server error references of MySQL 8.4 and MariaDB 10.11, and TiDB's list of error codes.

use sqlx::Error;
use sqlx::mysql::MySqlDatabaseError;

use crate::store::{ErrorKind, StoreError};

/// Adds to a driver's error what was being done and what it means.
pub fn store_error(doing: &'static str) -> impl Fn(Error) -> StoreError {
    move |error| {
        let remedy = number_of(&error).and_then(remedy_for);
        let context = remedy.map_or_else(|| doing.to_owned(), |remedy| format!("{doing}: {remedy}"));
        StoreError::with_source(kind_of(&error), context, error)
    }
}

/// What is to be done where the error itself does not tell.
fn remedy_for(number: u16) -> Option<&'static str> {
    // Statements are prepared once a connection, and all clients of the server share the limit.
    (number == 1461).then_some("raise max_prepared_stmt_count on the server")
}

/// SQLSTATE of what a trigger signals, with whatever number it likes (`SET MYSQL_ERRNO`); the server's own errors have
/// others.
const SIGNALLED: &str = "45000";

/// The meaning of an error; a number that nobody has named waits.
pub fn kind_of(error: &Error) -> ErrorKind {
    reported(error).map_or(ErrorKind::Unavailable, |error| kind_of_reported(error.number(), error.code()))
}

/// The number that the server has given an error; none where it is the driver's.
pub fn number_of(error: &Error) -> Option<u16> {
    reported(error).map(MySqlDatabaseError::number)
}

fn reported(error: &Error) -> Option<&MySqlDatabaseError> {
    match error {
        Error::Database(reported) => reported.try_downcast_ref(),
        _ => None,
    }
}

/// See [`kind_of`].
fn kind_of_reported(number: u16, state: Option<&str>) -> ErrorKind {
    if state == Some(SIGNALLED) { ErrorKind::Constraint } else { kind_of_number(number) }
}

/// See [`kind_of`].
pub fn kind_of_number(number: u16) -> ErrorKind {
    match number {
        // Lock wait time-out, deadlock; NOWAIT refused; MariaDB's snapshot conflict; TiDB's write conflicts
        // and schema changes.
        1205 | 1213 | 3572 | 1020 | 8002 | 8005 | 8022 | 8028 | 9007 => ErrorKind::Conflict,
        // Duplicate keys, in all their wordings.
        1022 | 1062 | 1169 | 1586 => ErrorKind::DuplicateId,
        // Packet larger than max_allowed_packet; result of a function likewise; TiDB's limit of a row.
        1153 | 1301 | 8025 => ErrorKind::TooLarge,
        // A value: NULL, out of range, truncated, no default, incorrect in its character set or for its type,
        // too long, row too large, arithmetic overflow, not JSON, unconvertible.
        1048 | 1118 | 1264 | 1265 | 1292 | 1300 | 1364 | 1366 | 1406 | 1411 | 1690 | 3140 | 3854 | 3988
        // No partition for the value: the same for every row, so no probe row is accepted and nothing becomes
        // a dead letter.
        | 1526 => ErrorKind::Refused,
        // Foreign key, CHECK (MySQL, MariaDB), a trigger's SIGNAL.
        1216 | 1452 | 3819 | 4025 | 1644 => ErrorKind::Constraint,
        // Everything else waits. Known members: 1040 and 1203 too many connections, 1044 1045 1142 1143 no
        // right, 1053 shutting down, 1054 and 1146 no such column or table, 1021 1026 1114 full, 1290 1792
        // 1836 read-only, 1317 1969 3024 interrupted, 1927 4031 killed.
        _ => ErrorKind::Unavailable,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_numbers_wait() {
        assert_eq!(kind_of_number(65535), ErrorKind::Unavailable);
        assert_eq!(kind_of(&Error::PoolTimedOut), ErrorKind::Unavailable);
    }

    #[test]
    fn what_a_trigger_signals_is_a_rule_whatever_its_number() {
        assert_eq!(kind_of_reported(5001, Some("45000")), ErrorKind::Constraint);
        assert_eq!(kind_of_reported(5001, Some("HY000")), ErrorKind::Unavailable);
        assert_eq!(kind_of_reported(1213, Some("40001")), ErrorKind::Conflict);
    }

    #[test]
    fn every_named_number_has_its_meaning() {
        let meanings: [(ErrorKind, &[u16]); 7] = [
            (ErrorKind::Conflict, &[1205, 1213, 3572, 1020, 8002, 8005, 8022, 8028, 9007]),
            (ErrorKind::DuplicateId, &[1022, 1062, 1169, 1586]),
            (ErrorKind::TooLarge, &[1153, 1301, 8025]),
            (ErrorKind::Refused, &[1048, 1118, 1264, 1265, 1292, 1300, 1364, 1366, 1406, 1411]),
            (ErrorKind::Refused, &[1526, 1690, 3140, 3854, 3988]),
            (ErrorKind::Constraint, &[1216, 1452, 1644, 3819, 4025]),
            (ErrorKind::Unavailable, &[1040, 1045, 1053, 1054, 1114, 1142, 1146, 1290, 1317, 3024]),
        ];
        for (kind, numbers) in meanings {
            for number in numbers {
                assert_eq!(kind_of_number(*number), kind, "{number}");
            }
        }
    }
}
