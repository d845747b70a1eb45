//! Whether a database refuses who asks, rather than what is asked.

use std::error::Error;

use sqlx::mysql::MySqlDatabaseError;
use sqlx::postgres::PgDatabaseError;

use super::driver_error;
use crate::store::{ErrorKind, StoreError};

/// Rights that the user lacks on tables that exist.
#[derive(Debug, thiserror::Error)]
#[error("the user lacks {}", .0.join(", "))]
pub struct MissingRights(pub Vec<String>);

/// The error of a store that was made ready but could not be written to.
pub fn missing_rights(missing: Vec<String>) -> Result<(), StoreError> {
    if missing.is_empty() {
        return Ok(());
    }
    let context = "the rights in the database do not suffice: grant them; rows are held";
    Err(StoreError::with_source(ErrorKind::Unavailable, context, MissingRights(missing)))
}

/// Whether this error, without its causes, says that the credentials or the rights do not suffice.
pub fn is_denied(error: &(dyn Error + 'static)) -> bool {
    if error.is::<MissingRights>() {
        return true;
    }
    let Some(sqlx::Error::Database(reported)) = driver_error(error) else { return false };
    if let Some(reported) = reported.try_downcast_ref::<MySqlDatabaseError>() {
        return is_denied_number(reported.number());
    }
    if let Some(reported) = reported.try_downcast_ref::<PgDatabaseError>() {
        return is_denied_code(reported.code());
    }
    false
}

/// Whether this error, or one of its causes, is what the server has answered.
pub fn is_of_server(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        if matches!(driver_error(error), Some(sqlx::Error::Database(_))) {
            return true;
        }
        cause = error.source();
    }
    false
}

/// MySQL and MariaDB: access to the database or by this user denied (1044, 1045, 1698), no right to a command,
/// a column or a routine (1142, 1143, 1370), a privilege is needed (1227), the password has expired (1820, 1862), the
/// account is locked (3118, MariaDB: 4151).
fn is_denied_number(number: u16) -> bool {
    matches!(number, 1044 | 1045 | 1142 | 1143 | 1227 | 1370 | 1698 | 1820 | 1862 | 3118 | 4151)
}

/// PostgreSQL: class 28, invalid authorization; 42501, insufficient privilege.
fn is_denied_code(code: &str) -> bool {
    code.starts_with("28") || code == "42501"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_asks_is_told_apart_from_what_is_asked() {
        assert!(is_denied_number(1045) && is_denied_number(4151) && !is_denied_number(1146));
        assert!(is_denied_code("28P01") && is_denied_code("42501") && !is_denied_code("42P01"));
        assert!(!is_denied(&sqlx::Error::PoolTimedOut));
        assert!(!is_of_server(&sqlx::Error::PoolTimedOut));
        assert!(is_denied(&MissingRights(vec!["INSERT on sluice_rate".to_owned()])));
    }
}
