//! What a case runs on: an empty database of its own, and stores of several replicas in it.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::Context;
use sluice_consumer::store::memory::MemoryStore;
use sluice_consumer::store::mysql::{MySqlOptions, MySqlStore};
use sluice_consumer::store::postgres::{PostgresOptions, PostgresStore};
use sluice_consumer::store::sqlite::{SqliteOptions, SqliteStore};
use sluice_consumer::store::{
    Claim, DeadLetter, LetterSpan, Position, Row, Store, StoreError, StreamKey, WriteBatch,
};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::oracle::FoundDeadLetter;
use sluice_tests::oracle::database::{Database, TABLE};
use sluice_tests::postgres::Postgres;
use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;
use tokio::sync::OnceCell;

/// Small, as some are in practice: batches and dead letters must be cut to it.
const MAX_ALLOWED_PACKET: &str = "--max-allowed-packet=1M";
const LANES: usize = 4;

/// Servers that cases share; they die with the test process.
static MARIADB: OnceCell<MariaDb> = OnceCell::const_new();
static POSTGRES: OnceCell<Postgres> = OnceCell::const_new();

/// An empty database.
pub struct Bed {
    place: Place,
}

enum Place {
    Memory(Arc<MemoryStore>),
    Sqlite(tempfile::TempDir),
    /// With the URL of the database.
    MySql(String),
    Postgres(String),
}

/// A name that no other case uses, also on a server that outlives the tests.
fn unique_name() -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    format!("case_{now}_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

impl Bed {
    pub async fn memory() -> anyhow::Result<Self> {
        Ok(Self { place: Place::Memory(Arc::new(MemoryStore::new(LANES, 8 << 20))) })
    }

    pub async fn sqlite() -> anyhow::Result<Self> {
        Ok(Self { place: Place::Sqlite(tempfile::tempdir()?) })
    }

    pub async fn mariadb() -> anyhow::Result<Self> {
        let server = MARIADB.get_or_try_init(|| MariaDb::start_with(&[MAX_ALLOWED_PACKET])).await?;
        Self::on_mariadb(server).await
    }

    pub async fn postgres() -> anyhow::Result<Self> {
        let server = POSTGRES.get_or_try_init(Postgres::start).await?;
        Self::on_postgres(server).await
    }

    pub async fn on_mariadb(server: &MariaDb) -> anyhow::Result<Self> {
        Ok(Self { place: Place::MySql(server.database(&unique_name()).await?) })
    }

    pub async fn on_postgres(server: &Postgres) -> anyhow::Result<Self> {
        Ok(Self { place: Place::Postgres(server.database(&unique_name()).await?) })
    }

    /// A database that exists already, as another user.
    pub fn mariadb_at(url: &str) -> Self {
        Self { place: Place::MySql(url.to_owned()) }
    }

    /// The database's URL.
    pub fn url(&self) -> anyhow::Result<String> {
        match &self.place {
            Place::Memory(_) => anyhow::bail!("no database"),
            Place::Sqlite(dir) => Ok(format!("sqlite:{}", dir.path().join("sluice.db").display())),
            Place::MySql(url) | Place::Postgres(url) => Ok(url.clone()),
        }
    }

    /// A connection besides the stores'.
    pub async fn database(&self) -> anyhow::Result<Database> {
        Database::connect(&self.url()?).await
    }

    /// The store of one more replica, not prepared.
    pub fn replica(&self) -> anyhow::Result<Arc<dyn Store>> {
        self.replica_with(TABLE, true)
    }

    /// As [`Self::replica`], with another table or another `manageSchema`.
    pub fn replica_with(&self, table: &str, manage_schema: bool) -> anyhow::Result<Arc<dyn Store>> {
        let table = table.parse()?;
        Ok(match &self.place {
            Place::Memory(store) => Arc::<MemoryStore>::clone(store),
            Place::Sqlite(dir) => {
                let path = dir.path().join("sluice.db");
                Arc::new(SqliteStore::new(SqliteOptions { path, table, manage_schema }))
            }
            Place::MySql(url) => {
                let options: MySqlConnectOptions = url.parse()?;
                let connect = Arc::new(move || Ok(options.clone()));
                Arc::new(MySqlStore::new(MySqlOptions { connect, table, lanes: LANES, manage_schema }))
            }
            Place::Postgres(url) => {
                let options: PgConnectOptions = url.parse()?;
                let connect = Arc::new(move || Ok(options.clone()));
                Arc::new(PostgresStore::new(PostgresOptions { connect, table, lanes: LANES, manage_schema }))
            }
        })
    }

    /// A store that is ready.
    pub async fn store(&self) -> anyhow::Result<Arc<dyn Store>> {
        let store = self.replica()?;
        store.prepare().await?;
        Ok(store)
    }

    /// Ids of all rows, ascending.
    pub async fn ids(&self) -> anyhow::Result<Vec<i64>> {
        match &self.place {
            Place::Memory(store) => Ok(store.rows().iter().map(|row| row.id).collect()),
            _ => self.database().await?.ids().await,
        }
    }

    /// All dead letters.
    pub async fn dead_letters(&self) -> anyhow::Result<Vec<FoundDeadLetter>> {
        let Place::Memory(store) = &self.place else { return self.database().await?.dead_letters().await };
        let found = |letter: sluice_consumer::store::memory::OwnedDeadLetter| FoundDeadLetter {
            topic: letter.topic,
            partition: i64::from(letter.partition),
            offset: letter.offset as i64,
            span_index: letter.span.as_ref().map(|span| i64::from(span.index)),
            trace_id: letter.span.as_ref().map(|span| span.trace_id.clone()).unwrap_or_default(),
            kind: letter.span.map(|span| span.kind).unwrap_or_default(),
            reason: letter.reason.as_str().to_owned(),
            key: letter.key,
            headers: String::from_utf8_lossy(&letter.headers).into_owned(),
            value: letter.bytes,
        };
        Ok(store.dead_letters().into_iter().map(found).collect())
    }
}

pub fn key(partition: i32) -> StreamKey {
    StreamKey {
        cluster_id: "cluster-1".to_owned(),
        group: "group".to_owned(),
        topic: "topic".to_owned(),
        partition,
    }
}

/// Creates and claims the streams of partitions 0 to `count`.
pub async fn claims(store: &dyn Store, count: i32) -> Result<Vec<Claim>, StoreError> {
    let starts: Vec<_> = (0..count).map(|partition| (key(partition), 0)).collect();
    store.create_streams(&starts).await?;
    let mut claims = Vec::new();
    for partition in 0..count {
        claims.push(store.claim(&key(partition), "replica").await?);
    }
    Ok(claims)
}

/// A plain row.
pub fn row(id: i64) -> Row<'static> {
    Row { id, trace_id: "t", kind: "SERVER", body: "{}" }
}

/// A plain dead letter.
pub fn dead_letter(id: i64, bytes: &[u8]) -> DeadLetter<'_> {
    DeadLetter {
        id,
        topic: "topic",
        partition: 0,
        offset: 7,
        span: Some(LetterSpan { index: 3, trace_id: "t\0", kind: "a kind of seventeen" }),
        timestamp: Some(-1),
        reason: sluice_consumer::store::Reason::Undecodable,
        detail: "no brace\0",
        key: Some(b"\x00\xff"),
        headers: br#"[{"name":"h","value":null}]"#,
        sealed: false,
        bytes,
    }
}

/// The batch that moves a claimed stream on by `messages`, with these rows and dead letters.
pub fn batch<'a>(
    claim: &Claim,
    messages: u64,
    rows: &'a [Row<'a>],
    dead_letters: &'a [DeadLetter<'a>],
) -> WriteBatch<'a> {
    let last_id = rows.iter().map(|row| row.id).chain(dead_letters.iter().map(|letter| letter.id)).max();
    WriteBatch {
        stream: claim.stream,
        epoch: claim.epoch,
        from: claim.position,
        to: Position {
            next_offset: claim.position.next_offset + messages,
            last_id: last_id.unwrap_or(claim.position.last_id),
        },
        fingerprint: Some(u64::MAX - messages),
        rows,
        dead_letters,
        queue_copies: false,
    }
}

/// The kind of an error, for assertions.
pub fn kind<T: std::fmt::Debug>(
    done: Result<T, StoreError>,
) -> anyhow::Result<sluice_consumer::store::ErrorKind> {
    let error = done.err().context("expected an error")?;
    Ok(error.kind)
}
