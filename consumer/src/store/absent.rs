//! Whether a database has never seen a consumer.

use std::error::Error;

use sqlx::mysql::MySqlDatabaseError;
use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;

use super::sql::driver_error;

/// Whether an error says that a table is not there.
pub fn is_missing_table(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if driver_error(error).is_some_and(says_so) {
            return true;
        }
        cause = error.source();
    }
    false
}

fn says_so(error: &sqlx::Error) -> bool {
    let Some(reported) = error.as_database_error() else { return false };
    if let Some(reported) = reported.try_downcast_ref::<MySqlDatabaseError>() {
        return reported.number() == 1146;
    }
    if let Some(reported) = reported.try_downcast_ref::<PgDatabaseError>() {
        return reported.code() == "42P01";
    }
    // SQLite has one code for every mistake in a statement.
    reported.try_downcast_ref::<SqliteError>().is_some() && reported.message().starts_with("no such table")
}
