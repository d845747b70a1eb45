//! Looks at a database without changing it.

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Executor};

use super::MySqlStore;
use super::errors::{number_of, store_error};
use super::schema::expect_database;
use crate::store::StoreError;
use crate::store::inspect::{BadSetting, Inspection, OWN_TABLES, TableState, trace_rights};
use crate::store::sql::{Purpose, SHORT_ANSWER, within};

const SERVER: &str = "SELECT CAST(VERSION() AS CHAR), CAST(@@global.read_only AS SIGNED)";
const TABLES: &str =
    "SELECT CAST(TABLE_NAME AS CHAR) FROM information_schema.TABLES WHERE TABLE_SCHEMA = DATABASE()";
/// Each where the server has it.
const SETTINGS: &str =
    "SHOW VARIABLES WHERE Variable_name IN ('log_bin', 'binlog_format', 'innodb_default_row_format')";
/// Fails in either case: for lack of the right, which is looked at first, or because a column comes twice.
const CREATE: &str = "CREATE TABLE sluice_check (a INT, a INT)";
/// The server's numbers for no right on a database, table, column, or to do this at all.
const DENIED: [u16; 4] = [1044, 1142, 1143, 1227];
/// A column comes twice.
const DUPLICATE_COLUMN: u16 = 1060;

impl MySqlStore {
    /// What [`crate::store::Store::prepare`] would meet; with a retention, also whether rows may be removed. Changes nothing.
    ///
    /// # Errors
    /// The server cannot be reached or asked.
    pub async fn inspect(&self, has_retention: bool) -> Result<Inspection, StoreError> {
        let mut session = self.session(Purpose::Control).await?;
        let done = self.look(&mut session, has_retention).await;
        self.settle(session, done).await
    }

    async fn look(&self, conn: &mut MySqlConnection, has_retention: bool) -> Result<Inspection, StoreError> {
        const DOING: &str = "cannot look at the server";
        expect_database(conn).await?;
        let (server, read_only): (String, i64) =
            within(SHORT_ANSWER, sqlx::query_as(SERVER).fetch_one(&mut *conn))
                .await
                .map_err(store_error(DOING))?;
        let tables: Vec<String> = within(SHORT_ANSWER, sqlx::query_scalar(TABLES).fetch_all(&mut *conn))
            .await
            .map_err(store_error(DOING))?;
        let exists = |name: &str| tables.iter().any(|table| table == name);
        let name = self.options.table.as_str();
        let table = if exists(name) {
            TableState::of(self.adopted(conn).await.map(|adopted| adopted.missing_indexes))?
        } else {
            TableState::Missing
        };

        let cannot_create = match within(SHORT_ANSWER, conn.execute(CREATE)).await {
            Err(error) if number_of(&error) == Some(DUPLICATE_COLUMN) => None,
            Err(error) => Some(error.to_string()),
            Ok(_) => None,
        };
        // The server tells it of tables, too, that will be made.
        let is_asked = |table: &str| exists(table) || cannot_create.is_none();
        let missing_rights = self.missing_rights(conn, trace_rights(has_retention), &is_asked).await?;
        let is_migrated = self.is_migrated(conn).await?;
        let missing_tables: Vec<_> =
            OWN_TABLES.map(|(table, _)| table).into_iter().filter(|table| !exists(table)).collect();
        let settings = within(SHORT_ANSWER, sqlx::query_as(SETTINGS).fetch_all(&mut *conn))
            .await
            .map_err(store_error(DOING))?;
        Ok(Inspection {
            server,
            read_only: read_only != 0,
            settings: bad_settings(&settings, !missing_tables.is_empty()),
            table,
            missing_tables,
            is_migrated,
            cannot_create,
            missing_rights,
        })
    }

    /// The rights that this user lacks on the tables that are asked about.
    pub(super) async fn missing_rights(
        &self,
        conn: &mut MySqlConnection,
        of_trace: &'static [&'static str],
        is_asked: &(impl Fn(&str) -> bool + Sync),
    ) -> Result<Vec<String>, StoreError> {
        let mut missing = Vec::new();
        let trace = (self.options.table.as_str(), of_trace);
        for (table, rights) in OWN_TABLES.into_iter().chain([trace]).filter(|(table, _)| is_asked(table)) {
            for right in rights {
                // The table's name has been checked to be an identifier.
                let statement = AssertSqlSafe(harmless(right, table));
                match within(SHORT_ANSWER, conn.execute(statement)).await {
                    Err(error) if number_of(&error).is_some_and(|number| DENIED.contains(&number)) => {
                        missing.push(format!("{right} on {table}"));
                    }
                    // What the server says is no answer about rights; what it does not say is none at all.
                    Err(error) if number_of(&error).is_none() => {
                        return Err(store_error("cannot look at the rights on a table")(error));
                    }
                    _ => {}
                }
            }
        }
        Ok(missing)
    }
}

/// What of these settings, names with values, would keep rows from being stored, or Sluice's tables from being made.
fn bad_settings(settings: &[(String, String)], makes_tables: bool) -> Vec<BadSetting> {
    let is = |name: &str, values: &[&str]| {
        let is_one_of = |found: &str| values.iter().any(|value| found.eq_ignore_ascii_case(value));
        settings.iter().any(|(found, value)| found.eq_ignore_ascii_case(name) && is_one_of(value))
    };
    let mut bad = Vec::new();
    if is("log_bin", &["ON", "1"]) && is("binlog_format", &["STATEMENT"]) {
        bad.push(BadSetting {
            detail: "binlog_format is STATEMENT, with which a server refuses what is written at READ COMMITTED",
            remedy: "set binlog_format to ROW or MIXED",
        });
    }
    if makes_tables && is("innodb_default_row_format", &["COMPACT", "REDUNDANT"]) {
        bad.push(BadSetting {
            detail: "innodb_default_row_format has no room for the keys of Sluice's tables",
            remedy: "SET GLOBAL innodb_default_row_format = DYNAMIC, at least until they are made",
        });
    }
    bad
}

/// A statement that needs the right and does nothing: it meets no row, or fails after rights were looked at.
fn harmless(right: &str, table: &str) -> String {
    match right {
        "INSERT" => format!("INSERT INTO `{table}` SELECT NULL FROM DUAL WHERE 1 = 0"),
        "UPDATE" => format!("UPDATE `{table}` SET `sluice_no_such_column` = 1 WHERE 1 = 0"),
        "DELETE" => format!("DELETE FROM `{table}` WHERE 1 = 0"),
        _ => format!("SELECT 1 FROM `{table}` WHERE 1 = 0"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_with_which_nothing_is_stored_are_told() {
        let found = |settings: &[(&str, &str)], makes_tables| {
            let settings: Vec<_> = settings.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
            bad_settings(&settings, makes_tables).len()
        };
        assert_eq!(found(&[("log_bin", "ON"), ("binlog_format", "STATEMENT")], false), 1);
        assert_eq!(found(&[("log_bin", "OFF"), ("binlog_format", "STATEMENT")], true), 0);
        assert_eq!(found(&[("log_bin", "ON"), ("binlog_format", "MIXED")], true), 0);
        assert_eq!(found(&[("innodb_default_row_format", "compact")], true), 1);
        assert_eq!(found(&[("innodb_default_row_format", "compact")], false), 0, "they are there");
    }
}
