//! The trace table's name: the only text of a user that becomes part of a statement.
//!
//! Guarantee: a [`TableName`] is an identifier in every dialect that is spoken here, whatever stands in the
//! pipeline's file; it is quoted all the same, as it may be a reserved word.

use std::fmt;
use std::str::FromStr;

/// Longest name, in bytes: PostgreSQL's limit.
pub const MAX_TABLE_NAME: usize = 63;

/// Prefix of Sluice's own tables.
const OWN_PREFIX: &str = "sluice_";

/// A name matching `^[A-Za-z_][A-Za-z0-9_]{0,62}$` that does not begin with `sluice_` or `sqlite_`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TableName(String);

/// Why a name cannot be the trace table's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TableNameError {
    /// Not an identifier.
    #[error("expected a letter or underscore and up to 62 letters, digits or underscores, found {0:?}")]
    NotAnIdentifier(String),
    /// Taken by Sluice itself or by SQLite.
    #[error("the prefix of {0:?} is reserved")]
    Reserved(String),
}

impl TableName {
    /// Checks a name.
    ///
    /// # Errors
    /// The name is not an identifier, or is reserved.
    pub fn new(name: &str) -> Result<Self, TableNameError> {
        let mut bytes = name.bytes();
        let starts_well = bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_');
        let goes_on_well = bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !starts_well || !goes_on_well || name.len() > MAX_TABLE_NAME {
            return Err(TableNameError::NotAnIdentifier(name.to_owned()));
        }
        let lower = name.to_ascii_lowercase();
        if lower.starts_with(OWN_PREFIX) || lower.starts_with("sqlite_") {
            return Err(TableNameError::Reserved(name.to_owned()));
        }
        Ok(Self(name.to_owned()))
    }

    /// The bare name, as it is stored in `table_name` columns.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Quoted for MySQL.
    pub(super) fn backticked(&self) -> String {
        format!("`{}`", self.0)
    }

    /// Quoted for PostgreSQL and SQLite.
    pub(super) fn double_quoted(&self) -> String {
        format!("\"{}\"", self.0)
    }
}

impl FromStr for TableName {
    type Err = TableNameError;

    fn from_str(name: &str) -> Result<Self, TableNameError> {
        Self::new(name)
    }
}

impl fmt::Display for TableName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn identifiers_are_accepted_up_to_63_characters() {
        for name in ["connectivity_trace", "_t", "Order", "a".repeat(63).as_str()] {
            assert_eq!(TableName::new(name).map(|table| table.to_string()), Ok(name.to_owned()));
        }
    }

    #[test]
    fn whatever_could_leave_its_quotes_is_refused() {
        for name in ["", "1a", "a`b", "a;b", "mysql.user", "a b", "ä", "a\"b", "a\0", "a".repeat(64).as_str()]
        {
            assert_eq!(TableName::new(name), Err(TableNameError::NotAnIdentifier(name.to_owned())));
        }
    }

    #[test]
    fn own_tables_cannot_be_the_trace_table() {
        for name in ["sluice_progress", "SLUICE_x", "sqlite_master"] {
            assert_eq!(TableName::new(name), Err(TableNameError::Reserved(name.to_owned())));
        }
    }
}
