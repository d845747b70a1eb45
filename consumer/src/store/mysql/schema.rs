//! Tables: created, migrated, adopted or verified.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::migrate::MigrateError;
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Executor};

use super::MySqlStore;
use super::adopt::{self, Adopted, Table};
use super::dialect::DIALECT;
use super::errors::{kind_of, number_of, store_error};
use super::write::RowInsert;
use crate::span::{MAX_KIND_CHARS, MAX_TRACE_ID_CHARS};
use crate::store::inspect::WRITE_RIGHTS;
use crate::store::sql::adopt::{Found, unusable};
use crate::store::sql::{MISSING_TABLES, SHORT_ANSWER, WRITE_ANSWER, migrations, missing_rights, within};
use crate::store::{ErrorKind, StoreError, TableName};

const DATABASE: &str = "SELECT CAST(DATABASE() AS CHAR)";
const VERSION: &str = "SELECT VERSION()";
/// How long a starting replica waits for another one's migrations.
const LOCK_SECONDS: u32 = 30;
/// Names are short. MySQL 9.6 has no MD5 any more.
const LOCK: &str = "SELECT GET_LOCK(CONCAT('sluice ', LEFT(SHA2(DATABASE(), 256), 16)), ?)";
const UNLOCK: &str =
    "SET @sluice_unlocked = RELEASE_LOCK(CONCAT('sluice ', LEFT(SHA2(DATABASE(), 256), 16)))";
/// The lock is the session's and no transaction's. A session that stands idle for longer, as that of a replica that is
/// frozen, ends and gives it back; one whose statement takes long is not idle.
const LIMIT: &str = "SET @sluice_wait_timeout = @@SESSION.wait_timeout, SESSION wait_timeout = 8";
const UNLIMIT: &str = "SET SESSION wait_timeout = @sluice_wait_timeout";
/// The server's numbers for a function that it will not have: Percona XtraDB Cluster in its strict mode (an error of no
/// kind), one that is not supported, one that does not exist.
const NO_LOCKS: [u16; 3] = [1105, 1235, 1305];

const TABLE: &str = "SELECT CAST(t.TABLE_TYPE AS CHAR) AS table_type, \
     CAST(COALESCE(t.ENGINE, '') AS CHAR) AS engine, COALESCE(e.TRANSACTIONS = 'YES', FALSE) AS transactional \
     FROM information_schema.TABLES t LEFT JOIN information_schema.ENGINES e ON e.ENGINE = t.ENGINE \
     WHERE t.TABLE_SCHEMA = DATABASE() AND t.TABLE_NAME = ?";
const COLUMNS: &str = "SELECT CAST(LOWER(COLUMN_NAME) AS CHAR) AS name, \
     CAST(LOWER(COLUMN_TYPE) AS CHAR) AS column_type, CAST(LOWER(DATA_TYPE) AS CHAR) AS data_type, \
     CAST(COALESCE(CHARACTER_MAXIMUM_LENGTH, 0) AS UNSIGNED) AS length, \
     CAST(LOWER(COALESCE(CHARACTER_SET_NAME, '')) AS CHAR) AS character_set, \
     IS_NULLABLE = 'YES' AS nullable, CAST(LOWER(CASE WHEN COLUMN_DEFAULT IS NULL OR COLUMN_DEFAULT = 'NULL' THEN '' \
     WHEN COLUMN_DEFAULT = '' THEN '''''' ELSE COLUMN_DEFAULT END) AS CHAR) AS default_value, \
     CAST(LOWER(EXTRA) AS CHAR) AS extra \
     FROM information_schema.COLUMNS WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?";
/// About how many rows the trace table has.
const ROWS: &str = "SELECT CAST(COALESCE(TABLE_ROWS, 0) AS UNSIGNED) FROM information_schema.TABLES \
     WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ?";
/// An index on no more rows is built in seconds.
const FEW_ROWS: u64 = 100_000;
const LEADING_COLUMNS: &str = "SELECT CAST(LOWER(COLUMN_NAME) AS CHAR) FROM information_schema.STATISTICS \
     WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND SEQ_IN_INDEX = 1";
const FOREIGN_UNIQUE: &str = "SELECT CAST(INDEX_NAME AS CHAR) FROM information_schema.STATISTICS \
     WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND NON_UNIQUE = 0 \
     GROUP BY INDEX_NAME HAVING SUM(LOWER(COALESCE(COLUMN_NAME, '')) = 'id') = 0 ORDER BY INDEX_NAME";

/// The lock's columns, which each kind of server has its own of.
const VERIFY_LOCK: &str = "SELECT name, turns FROM sluice_lock LIMIT 0";
/// MySQL's numbers for a table and for a column that do not exist.
const NO_TABLE: u16 = 1146;
const NO_COLUMN: u16 = 1054;

/// Parts of the schema that are missing.
struct Parts {
    /// Migrations are left to do.
    migrations: bool,
    /// There is no trace table.
    table: bool,
    /// Columns of the trace table, which is small, without an index.
    indexes: Vec<&'static str>,
}

impl Parts {
    fn any(&self) -> bool {
        self.migrations || self.table || !self.indexes.is_empty()
    }
}

impl MySqlStore {
    pub(super) async fn prepare_schema(&self, conn: &mut MySqlConnection) -> Result<(), StoreError> {
        expect_database(conn).await?;
        let version: String = within(SHORT_ANSWER, sqlx::query_scalar(VERSION).fetch_one(&mut *conn))
            .await
            .map_err(store_error("cannot read the server's version"))?;
        // Looked at without the lock: where nothing is left to do, nobody who has it is waited for.
        if self.options.manage_schema && self.missing_parts(conn).await?.any() {
            self.create_locked(conn, &version).await?;
        }
        for select in migrations::verify(DIALECT.quote).chain([VERIFY_LOCK.to_owned()]) {
            within(SHORT_ANSWER, conn.execute(AssertSqlSafe(select))).await.map_err(missing)?;
        }
        let adopted = self.adopted(conn).await?;
        for column in &adopted.missing_indexes {
            // Built here in a large table it would keep this replica, and a Galera cluster, waiting for as long as it takes.
            let statement = self.index_statement(column);
            tracing::warn!(table = %self.options.table, column, "the table has no index on this column; add one with {statement}");
        }
        missing_rights(self.missing_rights(conn, WRITE_RIGHTS, &|_| true).await?)?;
        self.max_column.store(adopted.max_body_bytes, Ordering::Relaxed);
        let as_bytes = adopted.is_utf8 && version.contains("MariaDB");
        self.insert.get_or_init(|| RowInsert::new(&self.options.table, adopted.fills_created_at, as_bytes));
        Ok(())
    }

    /// Creates what is missing, with nobody else at it.
    async fn create_locked(&self, conn: &mut MySqlConnection, version: &str) -> Result<(), StoreError> {
        within(SHORT_ANSWER, conn.execute(LIMIT)).await.map_err(store_error("cannot limit the session"))?;
        let lock = sqlx::query_scalar(LOCK).bind(LOCK_SECONDS);
        let patience = Duration::from_secs(LOCK_SECONDS.into()) + SHORT_ANSWER;
        let created = match within(patience, lock.fetch_one(&mut *conn)).await {
            Ok(Some(1i64)) => {
                let created = self.create_parts(conn, version).await;
                let unlocked = within(SHORT_ANSWER, conn.execute(UNLOCK)).await;
                created.and(unlocked.map(drop).map_err(store_error("cannot unlock the schema")))
            }
            Ok(_) => {
                let context = "another replica has been changing the schema for long";
                Err(StoreError::new(ErrorKind::Conflict, context))
            }
            // On a Galera cluster the lock is one node's anyway: every statement may be repeated, also by two at once.
            Err(error) if number_of(&error).is_some_and(|number| NO_LOCKS.contains(&number)) => {
                tracing::warn!(%error, "the server knows no locks by name: the schema is created without one");
                self.create_parts(conn, version).await
            }
            Err(error) => Err(store_error("cannot lock the schema")(error)),
        };
        let unlimited = within(SHORT_ANSWER, conn.execute(UNLIMIT))
            .await
            .map_err(store_error("cannot put the session's limit back"));
        created.and(unlimited.map(drop))
    }

    /// Looks again what is missing, now that nobody else creates it.
    async fn create_parts(&self, conn: &mut MySqlConnection, version: &str) -> Result<(), StoreError> {
        let missing = self.missing_parts(conn).await?;
        if missing.migrations {
            self.migrate(conn).await?;
        }
        if missing.table {
            let sql = trace_table(&self.options.table, version.contains("TiDB"));
            within(WRITE_ANSWER, conn.execute(AssertSqlSafe(sql)))
                .await
                .map_err(store_error("cannot create the trace table"))?;
        }
        for column in missing.indexes {
            self.add_index(conn, column).await?;
        }
        Ok(())
    }

    /// What is to be created. Asked before anything is: even `IF NOT EXISTS` needs the right to create.
    async fn missing_parts(&self, conn: &mut MySqlConnection) -> Result<Parts, StoreError> {
        let migrations = !self.is_migrated(conn).await?;
        let rows = sqlx::query_scalar(ROWS).bind(self.options.table.as_str());
        let rows: Option<u64> = within(SHORT_ANSWER, rows.fetch_optional(&mut *conn))
            .await
            .map_err(store_error("cannot look for the trace table"))?;
        let indexes = match rows {
            Some(rows) if rows <= FEW_ROWS => self.adopted(conn).await?.missing_indexes,
            _ => Vec::new(),
        };
        Ok(Parts { migrations, table: rows.is_none(), indexes })
    }

    /// Only reads need it: where the server refuses, rows are stored all the same, and [`Self::prepare_schema`] tells.
    async fn add_index(&self, conn: &mut MySqlConnection, column: &'static str) -> Result<(), StoreError> {
        tracing::info!(table = %self.options.table, column, "adding an index");
        let statement = AssertSqlSafe(self.index_statement(column));
        match within(WRITE_ANSWER, conn.execute(statement)).await {
            Err(error) if error.as_database_error().is_none() => {
                Err(store_error("cannot add an index")(error))
            }
            Err(error) => {
                tracing::warn!(table = %self.options.table, column, %error, "cannot add an index");
                Ok(())
            }
            Ok(_) => Ok(()),
        }
    }

    fn index_statement(&self, column: &str) -> String {
        let table = self.options.table.backticked();
        format!("ALTER TABLE {table} ADD INDEX `idx_{column}` (`{column}`)")
    }

    /// Whether no migration is left to do.
    pub(super) async fn is_migrated(&self, conn: &mut MySqlConnection) -> Result<bool, StoreError> {
        let select = AssertSqlSafe(migrations::select_done(&migrations::MYSQL));
        match within(SHORT_ANSWER, sqlx::query_scalar::<_, i64>(select).fetch_one(conn)).await {
            Ok(done) => Ok(done == migrations::MYSQL.len() as i64),
            // There is no such table yet, or this user may not look.
            Err(error) if error.as_database_error().is_some() => Ok(false),
            Err(error) => Err(store_error("cannot look for migrations")(error)),
        }
    }

    async fn migrate(&self, conn: &mut MySqlConnection) -> Result<(), StoreError> {
        let mut done = migrations::run(&migrations::MYSQL, conn).await;
        if let Err(MigrateError::Dirty(_)) = done {
            // Somebody died in the middle of a migration, and DDL does not roll back here. Every migration is
            // written so that it may run again.
            within(SHORT_ANSWER, conn.execute("DELETE FROM sluice_migrations WHERE success = FALSE"))
                .await
                .map_err(store_error("cannot repeat a migration"))?;
            done = migrations::run(&migrations::MYSQL, conn).await;
        }
        done.map_err(|error| migrations::migrate_error(error, kind_of))
    }

    /// Looks at the trace table as it is.
    pub(super) async fn adopted(&self, conn: &mut MySqlConnection) -> Result<Adopted, StoreError> {
        const DOING: &str = "cannot look at the trace table";
        let name = self.options.table.as_str();
        let query = sqlx::query_as(TABLE).bind(name);
        let table: Option<Table> =
            within(SHORT_ANSWER, query.fetch_optional(&mut *conn)).await.map_err(store_error(DOING))?;
        let query = sqlx::query_as(COLUMNS).bind(name);
        let columns = within(SHORT_ANSWER, query.fetch_all(&mut *conn)).await.map_err(store_error(DOING))?;
        let query = sqlx::query_scalar(LEADING_COLUMNS).bind(name);
        let leading = within(SHORT_ANSWER, query.fetch_all(&mut *conn)).await.map_err(store_error(DOING))?;
        let query = sqlx::query_scalar(FOREIGN_UNIQUE).bind(name);
        let foreign_unique =
            within(SHORT_ANSWER, query.fetch_all(&mut *conn)).await.map_err(store_error(DOING))?;
        adopt::check(table.as_ref(), &Found { columns, leading, foreign_unique })
            .map_err(unusable(&self.options.table))
    }
}

/// A URL may name none, and everything that follows would fail for another reason.
pub(super) async fn expect_database(conn: &mut MySqlConnection) -> Result<(), StoreError> {
    let database: Option<String> = within(SHORT_ANSWER, sqlx::query_scalar(DATABASE).fetch_one(conn))
        .await
        .map_err(store_error("cannot ask for the database"))?;
    match database {
        Some(_) => Ok(()),
        None => {
            let context = "the connection names no database: add one to the URL, as in mysql://HOST/DATABASE";
            Err(StoreError::new(ErrorKind::Schema, context))
        }
    }
}

fn missing(error: sqlx::Error) -> StoreError {
    if matches!(number_of(&error), Some(NO_TABLE | NO_COLUMN)) {
        return StoreError::with_source(ErrorKind::Schema, MISSING_TABLES, error);
    }
    store_error("cannot verify the schema")(error)
}

/// TiDB would put every insert of time-ordered ids into one region: there rows are scattered instead. (No test
/// here runs against TiDB.)
fn trace_table(table: &TableName, is_tidb: bool) -> String {
    let (key, scatter) =
        if is_tidb { (" NONCLUSTERED", " SHARD_ROW_ID_BITS=4 PRE_SPLIT_REGIONS=4") } else { ("", "") };
    format!(
        "CREATE TABLE IF NOT EXISTS {} (`id` BIGINT UNSIGNED NOT NULL, \
         `trace_id` VARCHAR({MAX_TRACE_ID_CHARS}) NOT NULL, `kind` VARCHAR({MAX_KIND_CHARS}) NOT NULL, \
         `body` LONGTEXT NOT NULL, `created_at` TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP, \
         PRIMARY KEY (`id`){key}, KEY `idx_trace_id` (`trace_id`), KEY `idx_created_at` (`created_at`)) \
         ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 COLLATE=utf8mb4_bin{scatter}",
        table.backticked()
    )
}
