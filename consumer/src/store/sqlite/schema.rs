//! Tables: created, migrated, adopted or verified, in one transaction.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};

use super::SqliteStore;
use super::adopt::{self, Table};
use super::dialect::DIALECT;
use super::errors::{kind_of, store_error};
use crate::span::{MAX_KIND_CHARS, MAX_TRACE_ID_CHARS};
use crate::store::sql::adopt::{Found, unusable};
use crate::store::sql::{MISSING_TABLES, migrations};
use crate::store::{ErrorKind, StoreError};

const TABLE: &str = "SELECT type AS kind, COALESCE(sql, '') AS sql FROM sqlite_schema WHERE name = ? \
     AND type IN ('table', 'view')";
/// `hidden` is 2 or 3 for computed columns.
const COLUMNS: &str = "SELECT lower(name) AS name, type AS data_type, \"notnull\" = 0 AS nullable, \
     COALESCE(dflt_value, '') AS default_value, hidden IN (2, 3) AS generated \
     FROM pragma_table_xinfo(?)";
/// An INTEGER PRIMARY KEY is the table itself, and no index is listed for it.
const LEADING_COLUMNS: &str = "SELECT lower(info.name) FROM pragma_index_list(?1) AS list, \
     pragma_index_info(list.name) AS info WHERE info.seqno = 0 AND NOT list.partial AND info.name IS NOT NULL \
     UNION SELECT lower(name) FROM pragma_table_xinfo(?1) WHERE pk = 1";
const FOREIGN_UNIQUE: &str = "SELECT list.name FROM pragma_index_list(?) AS list WHERE list.\"unique\" \
     AND NOT EXISTS (SELECT 1 FROM pragma_index_info(list.name) AS info WHERE lower(info.name) = 'id')";

impl SqliteStore {
    pub(super) async fn prepare_schema(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        // sqlx's own transaction: the migrator begins another one, which must become a savepoint.
        let mut transaction =
            conn.begin_with("BEGIN IMMEDIATE").await.map_err(store_error("cannot begin a transaction"))?;
        let conn = &mut *transaction;
        if self.manage_schema {
            self.create_tables(conn).await?;
        }
        for select in migrations::verify(DIALECT.quote) {
            conn.execute(AssertSqlSafe(select)).await.map_err(missing)?;
        }
        let missing_indexes = self.missing_indexes(conn).await?;
        if !missing_indexes.is_empty() {
            tracing::warn!(table = %self.table, columns = ?missing_indexes, "the table has no index on these columns");
        }
        transaction.commit().await.map_err(store_error("cannot commit the schema"))
    }

    async fn create_tables(&self, conn: &mut SqliteConnection) -> Result<(), StoreError> {
        migrations::run(&migrations::SQLITE, conn)
            .await
            .map_err(|error| migrations::migrate_error(error, kind_of))?;
        let table = self.table.double_quoted();
        let sql = format!(
            "CREATE TABLE IF NOT EXISTS {table} (id INTEGER NOT NULL PRIMARY KEY, \
             trace_id VARCHAR({MAX_TRACE_ID_CHARS}) NOT NULL, kind VARCHAR({MAX_KIND_CHARS}) NOT NULL, \
             body TEXT NOT NULL, \
             created_at TEXT NOT NULL DEFAULT (strftime('%Y-%m-%d %H:%M:%f', 'now')))"
        );
        conn.execute(AssertSqlSafe(sql)).await.map_err(store_error("cannot create the trace table"))?;
        for column in self.missing_indexes(conn).await? {
            tracing::info!(table = %self.table, column, "adding an index");
            // Names of indexes are shared by all tables of the file.
            let sql = format!("CREATE INDEX \"{}_{column}_idx\" ON {table} ({column})", self.table);
            conn.execute(AssertSqlSafe(sql)).await.map_err(store_error("cannot add an index"))?;
        }
        Ok(())
    }

    /// Looks at the trace table as it is.
    pub(super) async fn missing_indexes(
        &self,
        conn: &mut SqliteConnection,
    ) -> Result<Vec<&'static str>, StoreError> {
        const DOING: &str = "cannot look at the trace table";
        let name = self.table.as_str();
        let table: Option<Table> =
            sqlx::query_as(TABLE).bind(name).fetch_optional(&mut *conn).await.map_err(store_error(DOING))?;
        let columns =
            sqlx::query_as(COLUMNS).bind(name).fetch_all(&mut *conn).await.map_err(store_error(DOING))?;
        let leading = sqlx::query_scalar(LEADING_COLUMNS)
            .bind(name)
            .fetch_all(&mut *conn)
            .await
            .map_err(store_error(DOING))?;
        let foreign_unique = sqlx::query_scalar(FOREIGN_UNIQUE)
            .bind(name)
            .fetch_all(&mut *conn)
            .await
            .map_err(store_error(DOING))?;
        let found = Found { columns, leading, foreign_unique };
        let unusable = unusable(&self.table);
        let missing = adopt::check(table.as_ref(), &found).map_err(unusable)?;
        let created_at = found.column("created_at").map_err(unusable)?;
        // An expression of the table's own; the line break ends a comment in it.
        let sql = format!(
            "SELECT unixepoch((\n{}\n), 'auto', 'subsec') - unixepoch('now', 'subsec')",
            created_at.default_value
        );
        let seconds_off =
            sqlx::query_scalar(AssertSqlSafe(sql)).fetch_one(conn).await.map_err(store_error(DOING))?;
        adopt::check_default(seconds_off).map_err(unusable)?;
        Ok(missing)
    }
}

/// SQLite has one code for every mistake in a statement; here the only one possible is a missing name.
fn missing(error: sqlx::Error) -> StoreError {
    const GENERIC: &str = "1";
    let code = error.as_database_error().and_then(|reported| reported.code());
    if code.as_deref() == Some(GENERIC) {
        return StoreError::with_source(ErrorKind::Schema, MISSING_TABLES, error);
    }
    store_error("cannot verify the schema")(error)
}
