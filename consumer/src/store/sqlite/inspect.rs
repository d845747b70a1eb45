//! Looks at a database without changing it.

use sqlx::Executor;
use sqlx::sqlite::SqliteConnection;

use super::SqliteStore;
use super::errors::store_error;
use super::transaction::begin;
use crate::store::StoreError;
use crate::store::inspect::{Inspection, OWN_TABLES, TableState};
use crate::store::sql::Purpose;

const SERVER: &str = "SELECT 'SQLite ' || sqlite_version()";
const TABLES: &str = "SELECT name FROM sqlite_schema";
/// One process has only one writer, which takes no server's lock: this table is not needed.
const NOT_HERE: &str = "sluice_lock";

impl SqliteStore {
    /// What [`crate::store::Store::prepare`] would meet. Changes nothing in a file that exists.
    ///
    /// # Errors
    /// The file cannot be opened, is no database, or cannot be locked for writing.
    pub async fn inspect(&self) -> Result<Inspection, StoreError> {
        let mut session = self.session(Purpose::Write).await?;
        let done = self.look(&mut session).await;
        self.settle(session, done).await
    }

    async fn look(&self, conn: &mut SqliteConnection) -> Result<Inspection, StoreError> {
        const DOING: &str = "cannot look at the file";
        // Takes the write lock, so that a file that cannot be written is noticed.
        begin(conn).await?;
        let server: String =
            sqlx::query_scalar(SERVER).fetch_one(&mut *conn).await.map_err(store_error(DOING))?;
        let tables: Vec<String> =
            sqlx::query_scalar(TABLES).fetch_all(&mut *conn).await.map_err(store_error(DOING))?;
        let exists = |name: &str| tables.iter().any(|table| table == name);
        let table = if exists(self.table.as_str()) {
            TableState::of(self.missing_indexes(conn).await)?
        } else {
            TableState::Missing
        };
        conn.execute("ROLLBACK").await.map_err(store_error(DOING))?;
        let own = OWN_TABLES.map(|(table, _)| table).into_iter().filter(|table| *table != NOT_HERE);
        Ok(Inspection {
            server,
            read_only: false,
            settings: Vec::new(),
            table,
            missing_tables: own.filter(|table| !exists(table)).collect(),
            // Who may write to the file may create tables in it.
            is_migrated: false,
            cannot_create: None,
            missing_rights: Vec::new(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Store;
    use crate::store::sqlite::SqliteOptions;
    use sqlx::{ConnectOptions, Connection};

    #[tokio::test]
    async fn a_look_leaves_every_byte_of_a_file_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sluice.db");
        let options = sqlx::sqlite::SqliteConnectOptions::new().filename(&path).create_if_missing(true);
        let mut conn = options.connect().await.unwrap();
        conn.execute(
            "CREATE TABLE connectivity_trace (id INTEGER PRIMARY KEY, trace_id TEXT, kind TEXT, body TEXT, \
             created_at TEXT DEFAULT CURRENT_TIMESTAMP)",
        )
        .await
        .unwrap();
        conn.close().await.unwrap();
        let before = std::fs::read(&path).unwrap();
        let table = "connectivity_trace".parse().unwrap();
        let store = SqliteStore::new(SqliteOptions { path: path.clone(), table, manage_schema: false });
        assert!(matches!(store.inspect().await.unwrap().table, TableState::Usable(_)));
        assert_eq!(store.trace("none", 9).await.unwrap(), []);
        store.close().await;
        assert!(before == std::fs::read(&path).unwrap(), "the file was changed");
    }
}
