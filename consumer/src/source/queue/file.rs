//! The queue's SQLite file: its form and every statement on it.
//!
//! A record's rowid is `partition << 48 | offset`, so that a partition is one ascending range of the table's
//! own B-tree: appends go to its end, reads and deletions are range scans, and there is no second index.

use std::path::Path;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteAutoVacuum, SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Connection, Row, SqliteConnection, SqlitePool};

use super::{QueueError, QueueOptions, RECORD_OVERHEAD};
use crate::backoff::Backoff;

const VERSION: i64 = 1;
/// What the WAL file may keep of a size that it once had.
const WAL_BYTES: &str = "67108864";
const OFFSET_BITS: u32 = 48;
/// Between two tries to open the file on a full disk.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));

/// One row of `partition`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct PartitionRow {
    pub(super) next_offset: u64,
    pub(super) low_offset: u64,
    pub(super) bytes: u64,
}

/// What a queue file says of itself.
pub(super) struct Contents {
    pub(super) cluster_id: String,
    pub(super) topic: String,
    pub(super) partitions: Vec<PartitionRow>,
}

/// A record as it lies in the file.
#[derive(Debug)]
pub(super) struct StoredRecord {
    pub(super) offset: u64,
    pub(super) at_ms: i64,
    pub(super) key: Option<Vec<u8>>,
    pub(super) payload: Vec<u8>,
    /// A JSON list of `[name, value]`.
    pub(super) headers: String,
}

impl StoredRecord {
    /// Bytes of its parts.
    pub(super) fn bytes(&self) -> usize {
        self.payload.len() + self.key.as_ref().map_or(0, Vec::len) + self.headers.len()
    }
}

/// How long the database may take to be asked.
const ASKED_WITHIN: Duration = Duration::from_millis(200);

fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(Duration::from_secs(10))
        // Keeps what is on its way to a reader small, whatever the size of the records.
        .row_buffer_size(4)
        .disable_statement_logging()
}

/// The writer's connection, and what the file says. As the writer waits for room, so does this: opening writes, too.
pub(super) async fn open_patiently(
    path: &Path,
    options: &QueueOptions,
) -> Result<(SqliteConnection, Contents), QueueError> {
    let mut backoff = BACKOFF;
    loop {
        match open(path, options).await {
            Err(QueueError::File(error)) if is_full(&error) => {
                tracing::warn!(%error, file = %path.display(), "the disk is full: it starts once there is room");
                tokio::time::sleep(backoff.pause()).await;
            }
            done => return done,
        }
    }
}

async fn open(path: &Path, options: &QueueOptions) -> Result<(SqliteConnection, Contents), QueueError> {
    let mut connection = connect(path).await?;
    let contents = prepare(&mut connection, options).await?;
    Ok((connection, contents))
}

/// Whether the disk has no room, be it for the file, its log, or what maps that into memory.
fn is_full(error: &sqlx::Error) -> bool {
    const FULL: &str = "13";
    const IOERR_SHMSIZE: &str = "4874";
    let code = error.as_database_error().and_then(|reported| reported.code());
    matches!(code.as_deref(), Some(FULL | IOERR_SHMSIZE))
}

/// The writer's connection; creates the file.
pub(super) async fn connect(path: &Path) -> Result<SqliteConnection, sqlx::Error> {
    let options = options(path)
        .create_if_missing(true)
        .auto_vacuum(SqliteAutoVacuum::Incremental)
        .journal_mode(SqliteJournalMode::Wal)
        .pragma("journal_size_limit", WAL_BYTES)
        .synchronous(SqliteSynchronous::Full);
    SqliteConnection::connect_with(&options).await
}

/// Connections that never write.
pub(super) fn readers(path: &Path) -> SqlitePool {
    SqlitePoolOptions::new().max_connections(4).connect_lazy_with(options(path).pragma("query_only", "ON"))
}

/// A connection for [`free_bytes`], which the writer does not wait for.
pub(super) fn beside(database: &Path) -> SqlitePool {
    let options = options(database).busy_timeout(Duration::ZERO).pragma("query_only", "ON");
    SqlitePoolOptions::new().max_connections(1).acquire_timeout(ASKED_WITHIN).connect_lazy_with(options)
}

/// Bytes of the database's pages that hold nothing. Asked through SQLite: whoever opens and closes the file besides gives up
/// the locks that this process has on it (sqlite.org/howtocorrupt.html, 2.2).
pub(super) async fn free_bytes(database: &SqlitePool) -> Result<u64, sqlx::Error> {
    let free = "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size";
    sqlx::query_scalar::<_, i64>(free).fetch_one(database).await.map(|bytes| bytes.max(0) as u64)
}

/// Creates the tables where they are missing and reads the state.
async fn prepare(connection: &mut SqliteConnection, options: &QueueOptions) -> Result<Contents, QueueError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let found: i64 = sqlx::query_scalar("PRAGMA user_version").fetch_one(&mut *transaction).await?;
    match found {
        0 => create(&mut transaction, options.partitions.max(1)).await?,
        VERSION => {}
        found => return Err(QueueError::Version { found, known: VERSION }),
    }
    let cluster_id = sqlx::query_scalar("SELECT cluster_id FROM queue").fetch_one(&mut *transaction).await?;
    let topic = first_topic(&mut transaction, &options.topic).await?;
    let partitions = partition_rows(&mut transaction).await?;
    transaction.commit().await?;
    Ok(Contents { cluster_id, topic, partitions })
}

/// The topic that the queue had first: under another one all that is left would be read again. Older versions know
/// nothing of this table.
async fn first_topic(connection: &mut SqliteConnection, topic: &str) -> Result<String, sqlx::Error> {
    sqlx::query("CREATE TABLE IF NOT EXISTS topic (name TEXT NOT NULL)").execute(&mut *connection).await?;
    let known = sqlx::query_scalar("SELECT name FROM topic").fetch_optional(&mut *connection).await?;
    if let Some(known) = known {
        return Ok(known);
    }
    sqlx::query("INSERT INTO topic VALUES (?)").bind(topic).execute(connection).await?;
    Ok(topic.to_owned())
}

async fn create(connection: &mut SqliteConnection, partitions: u16) -> Result<(), sqlx::Error> {
    sqlx::raw_sql(
        "CREATE TABLE queue (cluster_id TEXT NOT NULL);
         INSERT INTO queue VALUES (lower(hex(randomblob(16))));
         CREATE TABLE partition (
             partition INTEGER PRIMARY KEY, next_offset INTEGER NOT NULL, low_offset INTEGER NOT NULL,
             bytes INTEGER NOT NULL);
         CREATE TABLE record (
             id INTEGER PRIMARY KEY, at_ms INTEGER NOT NULL, key BLOB, headers TEXT NOT NULL,
             payload BLOB NOT NULL);
         PRAGMA user_version = 1;",
    )
    .execute(&mut *connection)
    .await?;
    for partition in 0..i64::from(partitions) {
        sqlx::query("INSERT INTO partition VALUES (?, 0, 0, 0)")
            .bind(partition)
            .execute(&mut *connection)
            .await?;
    }
    Ok(())
}

/// The rows of `partition`, in order.
pub(super) async fn partition_rows(
    connection: &mut SqliteConnection,
) -> Result<Vec<PartitionRow>, sqlx::Error> {
    let rows = sqlx::query_as("SELECT next_offset, low_offset, bytes FROM partition ORDER BY partition");
    let rows: Vec<(i64, i64, i64)> = rows.fetch_all(connection).await?;
    let unsigned = |(next, low, bytes): (i64, i64, i64)| PartitionRow {
        next_offset: next as u64,
        low_offset: low as u64,
        bytes: bytes.max(0) as u64,
    };
    Ok(rows.into_iter().map(unsigned).collect())
}

/// Writes the row of a partition.
pub(super) async fn update_partition(
    connection: &mut SqliteConnection,
    partition: usize,
    row: &PartitionRow,
) -> Result<(), sqlx::Error> {
    sqlx::query("UPDATE partition SET next_offset = ?, low_offset = ?, bytes = ? WHERE partition = ?")
        .bind(row.next_offset as i64)
        .bind(row.low_offset as i64)
        .bind(row.bytes as i64)
        .bind(partition as i64)
        .execute(connection)
        .await?;
    Ok(())
}

fn rowid(partition: i64, offset: u64) -> i64 {
    partition << OFFSET_BITS | offset as i64
}

/// Inserts a record.
pub(super) async fn insert(
    connection: &mut SqliteConnection,
    partition: u16,
    record: &StoredRecord,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO record (id, at_ms, key, headers, payload) VALUES (?, ?, ?, ?, ?)")
        .bind(rowid(partition.into(), record.offset))
        .bind(record.at_ms)
        .bind(record.key.as_deref())
        .bind(&record.headers)
        .bind(&record.payload)
        .execute(connection)
        .await?;
    Ok(())
}

/// Deletes the records of `offsets`; returns the bytes that they were counted with.
pub(super) async fn delete(
    connection: &mut SqliteConnection,
    partition: usize,
    offsets: std::ops::Range<u64>,
) -> Result<u64, sqlx::Error> {
    let partition = partition as i64;
    let (from, to) = (rowid(partition, offsets.start), rowid(partition, offsets.end));
    // `length` of a BLOB is read off the record's header; its pages are not.
    let counted = "SELECT coalesce(sum(length(payload) + coalesce(length(key), 0) + length(CAST(headers AS BLOB)) + ?), 0)
        FROM record WHERE id >= ? AND id < ?";
    let bytes: i64 = sqlx::query_scalar(counted)
        .bind(RECORD_OVERHEAD as i64)
        .bind(from)
        .bind(to)
        .fetch_one(&mut *connection)
        .await?;
    sqlx::query("DELETE FROM record WHERE id >= ? AND id < ?")
        .bind(from)
        .bind(to)
        .execute(connection)
        .await?;
    Ok(bytes as u64)
}

/// Gives some free pages back to the file system; returns how many are left.
pub(super) async fn give_pages_back(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    sqlx::raw_sql("PRAGMA incremental_vacuum(4096)").execute(&mut *connection).await?;
    sqlx::query_scalar("PRAGMA freelist_count").fetch_one(connection).await
}

/// Records from `offset` on: at most `records`, and no further one once `bytes` are reached.
pub(super) async fn fetch(
    readers: &SqlitePool,
    partition: i32,
    offset: u64,
    records: usize,
    bytes: usize,
) -> Result<Vec<StoredRecord>, sqlx::Error> {
    let partition = i64::from(partition);
    let mut connection = readers.acquire().await?;
    let statement =
        "SELECT id, at_ms, key, headers, payload FROM record WHERE id >= ? AND id < ? ORDER BY id LIMIT ?";
    let mut rows = sqlx::query(statement)
        .bind(rowid(partition, offset))
        .bind(rowid(partition + 1, 0))
        .bind(records as i64)
        .fetch(&mut *connection);
    let (mut fetched, mut fetched_bytes) = (Vec::new(), 0);
    while fetched_bytes < bytes
        && let Some(row) =
            std::future::poll_fn(|context| rows.as_mut().poll_next(context)).await.transpose()?
    {
        let record = StoredRecord {
            offset: (row.try_get::<i64, _>(0)? - rowid(partition, 0)) as u64,
            at_ms: row.try_get(1)?,
            key: row.try_get(2)?,
            headers: row.try_get(3)?,
            payload: row.try_get(4)?,
        };
        fetched_bytes += record.bytes();
        fetched.push(record);
    }
    Ok(fetched)
}
