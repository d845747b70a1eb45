//! The tables as plain SQL shows them, for each of the three databases.

use std::time::Duration;

use anyhow::bail;
use sqlx::AssertSqlSafe;
use sqlx::mysql::MySqlPool;
use sqlx::postgres::PgPool;
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool};

use super::unseal::{RingKey, Unsealer};
use super::{Account, FoundDeadLetter, FoundPosition, FoundRow, Problem};
use crate::ledger::Ledger;
use crate::rate::{ID_EPOCH_MS, Releases};

/// The trace table that all tests use.
pub const TABLE: &str = "connectivity_trace";
/// Rows read at once.
const PAGE: usize = 20_000;

/// A connection of the oracle's own.
#[derive(Clone, Debug)]
pub enum Database {
    /// MySQL protocol.
    Mysql(MySqlPool),
    /// PostgreSQL protocol.
    Postgres(PgPool),
    /// A SQLite file.
    Sqlite(SqlitePool),
}

/// Runs the same query on whichever database it is; the tuple's types are those that all three have.
macro_rules! rows {
    ($database:expr, $sql:expr, $row:ty) => {
        match $database {
            Database::Mysql(pool) => sqlx::query_as::<_, $row>(AssertSqlSafe($sql)).fetch_all(pool).await,
            Database::Postgres(pool) => sqlx::query_as::<_, $row>(AssertSqlSafe($sql)).fetch_all(pool).await,
            Database::Sqlite(pool) => sqlx::query_as::<_, $row>(AssertSqlSafe($sql)).fetch_all(pool).await,
        }
    };
}

mod letters;

impl Database {
    /// Connects to `mysql://…`, `postgres://…` or the SQLite file at `sqlite:PATH`.
    ///
    /// # Errors
    /// No connection.
    pub async fn connect(url: &str) -> anyhow::Result<Self> {
        Ok(match url.split_once(':') {
            Some(("mysql", _)) => Self::Mysql(MySqlPool::connect(url).await?),
            Some(("postgres", _)) => Self::Postgres(PgPool::connect(url).await?),
            Some(("sqlite", path)) => {
                let options = SqliteConnectOptions::new().filename(path).read_only(true);
                Self::Sqlite(SqlitePool::connect_with(options).await?)
            }
            _ => bail!("expected mysql:, postgres: or sqlite:, found {url}"),
        })
    }

    /// An identifier that some database reserves.
    fn quoted(&self, name: &str) -> String {
        match self {
            Self::Mysql(_) => format!("`{name}`"),
            _ => format!("\"{name}\""),
        }
    }

    /// A column of any integer type, as a 64-bit one.
    fn int(&self, column: &str) -> String {
        match self {
            Self::Mysql(_) => format!("CAST({column} AS SIGNED)"),
            _ => format!("CAST({column} AS BIGINT)"),
        }
    }

    /// A column of any character type, as text.
    fn text(&self, column: &str) -> String {
        match self {
            Self::Mysql(_) => format!("CONVERT({column} USING utf8mb4)"),
            _ => format!("CAST({column} AS TEXT)"),
        }
    }

    /// Number of rows of the trace table; 0 while there is no such table.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn count(&self) -> anyhow::Result<u64> {
        self.count_of(TABLE).await
    }

    /// Number of dead letters; 0 while there is no such table.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn count_dead_letters(&self) -> anyhow::Result<u64> {
        self.count_of("sluice_dead_letter").await
    }

    async fn count_of(&self, table: &str) -> anyhow::Result<u64> {
        self.number(format!("SELECT COUNT(*) FROM {table}")).await
    }

    /// The number that a query gives; 0 while there is no such table.
    async fn number(&self, sql: String) -> anyhow::Result<u64> {
        let rows = none_without_table(rows!(self, sql, (i64,)))?;
        Ok(rows.first().map_or(0, |row| row.0 as u64))
    }

    /// Every id of the trace table, ascending.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn ids(&self) -> anyhow::Result<Vec<i64>> {
        let sql = format!("SELECT {} FROM {TABLE} ORDER BY id", self.int("id"));
        Ok(rows!(self, sql, (i64,))?.into_iter().map(|row| row.0).collect())
    }

    /// The next rows after an id, in the order of ids; none at the end.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn rows_after(&self, id: i64) -> anyhow::Result<Vec<FoundRow>> {
        let sql = format!(
            "SELECT {}, {}, {}, {} FROM {TABLE} WHERE id > {id} ORDER BY id LIMIT {PAGE}",
            self.int("id"),
            self.text("trace_id"),
            self.text("kind"),
            self.text("body"),
        );
        let rows = rows!(self, sql, (i64, String, String, String))?;
        Ok(rows.into_iter().map(|(id, trace_id, kind, body)| FoundRow { id, trace_id, kind, body }).collect())
    }

    /// What the rate has let through: rows, and dead letters, each of which counts as one.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn released(&self) -> anyhow::Result<Releases> {
        Ok(Releases::from_ids([self.ids().await?, self.dead_letter_ids().await?].concat()))
    }

    /// How many rows have a time in their id that is not within `tolerance` of when they were inserted, by the server's
    /// own clock (`created_at`).
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn misdated(&self, tolerance: Duration) -> anyhow::Result<u64> {
        let inserted = match self {
            Self::Mysql(_) => "UNIX_TIMESTAMP(created_at)",
            Self::Postgres(_) => "EXTRACT(EPOCH FROM created_at)",
            Self::Sqlite(_) => "unixepoch(created_at)",
        };
        // The time is in the bits above the lowest 22.
        let told = format!("({} / 4194304 + {ID_EPOCH_MS})", self.int("id"));
        let apart = format!("ABS({inserted} * 1000 - {told})");
        self.number(format!("SELECT COUNT(*) FROM {TABLE} WHERE {apart} > {}", tolerance.as_millis())).await
    }

    /// How many data keys a key of the ring wraps.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn data_keys_of(&self, ring_key: &str) -> anyhow::Result<u64> {
        self.number(format!("SELECT COUNT(*) FROM sluice_data_key WHERE wrapped_by = '{ring_key}'")).await
    }

    /// Every row of `sluice_progress`; none while there is no such table.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn positions(&self) -> anyhow::Result<Vec<FoundPosition>> {
        let columns = ["generation", "owner_epoch", "next_offset", "last_id"].map(|name| self.int(name));
        let sql = format!(
            "SELECT {}, {}, {}, {}, {} FROM sluice_progress",
            self.text("cluster_id"),
            self.text("consumer_group"),
            self.text("topic"),
            self.int(&self.quoted("partition")),
            columns.join(", "),
        );
        type Found = (String, String, String, i64, i64, i64, i64, i64);
        let rows = none_without_table(rows!(self, sql, Found))?;
        let position =
            |(cluster, group, topic, partition, generation, epoch, next_offset, last_id): Found| {
                FoundPosition { cluster, group, topic, partition, generation, epoch, next_offset, last_id }
            };
        Ok(rows.into_iter().map(position).collect())
    }

    /// Makes durable what was seen. InnoDB shows a transaction before its end is on the disk, and a kill takes it
    /// back; the log is written in the order of the ends, so that one of ours, once answered, has every earlier one
    /// behind it. The others show what is durable only.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn make_durable(&self) -> anyhow::Result<()> {
        if let Self::Mysql(pool) = self {
            sqlx::query("CREATE TABLE IF NOT EXISTS oracle_mark (id INT)").execute(pool).await?;
            sqlx::query("INSERT INTO oracle_mark VALUES (1)").execute(pool).await?;
        }
        Ok(())
    }

    /// Compares everything with the first `spans` spans of a ledger and the expected dead letters.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn audit(
        &self,
        ledger: &Ledger,
        spans: u64,
        dead_letters: &[FoundDeadLetter],
    ) -> anyhow::Result<Vec<Problem>> {
        self.audit_opened(ledger, spans, dead_letters, None).await
    }

    /// The same for a table in which everything is sealed.
    ///
    /// # Errors
    /// The database does not answer, or something is not sealed, or does not open.
    pub async fn audit_sealed(
        &self,
        ledger: &Ledger,
        spans: u64,
        dead_letters: &[FoundDeadLetter],
        ring: &[RingKey],
    ) -> anyhow::Result<Vec<Problem>> {
        let unsealer = self.unsealer(ring).await?;
        self.audit_opened(ledger, spans, dead_letters, Some(&unsealer)).await
    }

    /// Opens every data key and every dictionary.
    ///
    /// # Errors
    /// The database does not answer, or one of them does not open.
    pub async fn unsealer(&self, ring: &[RingKey]) -> anyhow::Result<Unsealer> {
        let sql =
            format!("SELECT {}, {}, wrapped FROM sluice_data_key", self.int("id"), self.text("wrapped_by"));
        let data_keys = rows!(self, sql, (i64, String, Vec<u8>))?;
        let sql = format!("SELECT {}, sealed FROM sluice_dictionary", self.int("id"));
        let dictionaries = rows!(self, sql, (i64, Vec<u8>))?;
        Unsealer::new(TABLE, ring, data_keys, dictionaries)
    }

    async fn audit_opened(
        &self,
        ledger: &Ledger,
        spans: u64,
        dead_letters: &[FoundDeadLetter],
        unsealer: Option<&Unsealer>,
    ) -> anyhow::Result<Vec<Problem>> {
        let mut account = Account::new(ledger, spans);
        let mut last = 0;
        loop {
            let rows = self.rows_after(last).await?;
            let Some(end) = rows.last() else { break };
            last = end.id;
            for row in rows {
                let opened = match unsealer {
                    Some(unsealer) => unsealer.row(row)?,
                    None => row,
                };
                account.row(&opened);
            }
        }
        Ok(account.finish(&self.opened_letters(unsealer).await?, dead_letters))
    }
}

/// Before a consumer's first start there is no table, and so no row. Any other error is one: a database that is
/// away must not look like an empty one.
fn none_without_table<T>(rows: Result<Vec<T>, sqlx::Error>) -> Result<Vec<T>, sqlx::Error> {
    let missing = rows.as_ref().err().and_then(sqlx::Error::as_database_error).is_some_and(|error| {
        // SQLSTATE in MySQL and in PostgreSQL; SQLite has no code of its own for it.
        matches!(error.code().as_deref(), Some("42S02" | "42P01"))
            || error.message().contains("no such table")
    });
    if missing { Ok(Vec::new()) } else { rows }
}

#[cfg(test)]
mod tests {
    use sqlx::sqlite::SqlitePoolOptions;

    use super::*;

    #[tokio::test]
    async fn without_tables_there_is_no_row_and_without_a_database_no_answer() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("spans.db");
        let create = SqliteConnectOptions::new().filename(&file).create_if_missing(true);
        let pool = SqlitePool::connect_with(create).await.unwrap();
        let database = Database::Sqlite(pool.clone());
        assert_eq!(database.count().await.unwrap(), 0);
        assert_eq!(database.positions().await.unwrap(), []);
        pool.close().await;
        assert!(database.count().await.is_err());
        assert!(database.count_dead_letters().await.is_err());
        assert!(database.positions().await.is_err());
    }

    #[tokio::test]
    async fn dead_letters_are_released_as_rows_are_and_ids_of_another_time_are_found() {
        let create = SqliteConnectOptions::new().in_memory(true);
        let pool = SqlitePoolOptions::new().max_connections(1).connect_with(create).await.unwrap();
        let id = |millis: i64| millis << 22;
        for sql in [
            format!("CREATE TABLE {TABLE} (id, created_at)"),
            format!("INSERT INTO {TABLE} VALUES ({}, '2024-01-01 00:00:10')", id(10_999)),
            format!("INSERT INTO {TABLE} VALUES ({}, '2024-01-01 00:00:10')", id(13_000)),
            "CREATE TABLE sluice_dead_letter (id)".to_owned(),
            format!("INSERT INTO sluice_dead_letter VALUES ({})", id(12_000)),
        ] {
            sqlx::query(AssertSqlSafe(sql)).execute(&pool).await.unwrap();
        }
        let database = Database::Sqlite(pool);
        let released = database.released().await.unwrap();
        assert_eq!(
            released.between(0, i64::MAX),
            [10_999, 12_000, 13_000].map(|millis| ID_EPOCH_MS + millis)
        );
        assert_eq!(database.misdated(Duration::from_secs(2)).await.unwrap(), 1);
    }
}
