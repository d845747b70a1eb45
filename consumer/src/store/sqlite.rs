//! A SQLite file.
//!
//! Guarantees: as [`super::Store`], for one process. WAL from [`Store::prepare`] on, so that readers never wait for the
//! writer; every commit is synced to the disk (`synchronous=FULL`). One connection writes, as SQLite knows one writer
//! at a time; its transactions take the write lock when they begin, so none of them fails half-way because of another.

mod adopt;
mod connect;
mod dialect;
mod errors;
mod inspect;
mod keys;
mod lease;
mod letters;
mod read;
mod retention;
mod schema;
mod streams;
mod transaction;
mod write;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sqlx::Sqlite;
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqliteSynchronous};

use self::errors::store_error;
use self::transaction::{begin, check_deferred};
use super::sql::store_calls::sql_store;
use super::sql::{Purpose, Sessions, Widths};
use super::{Store, StoreError, TableName};

/// SQLite's limit for a row is 10^9 bytes.
const MAX_BODY_BYTES: usize = 900_000_000;
const READERS: usize = 4;
/// What the file beside the database is cut to once its contents are in it: a large batch makes it larger.
const WAL_BYTES: &str = "67108864";

/// What a [`SqliteStore`] is made of.
#[derive(Clone, Debug)]
pub struct SqliteOptions {
    /// The file; [`Store::prepare`] creates it where it does not exist, in a folder that does. Nothing else does.
    pub path: PathBuf,
    /// The trace table.
    pub table: TableName,
    /// Whether tables and indexes may be created; otherwise they are only verified.
    pub manage_schema: bool,
}

/// A store in a SQLite file.
pub struct SqliteStore {
    table: TableName,
    manage_schema: bool,
    sessions: Sessions<Sqlite>,
    insert: write::RowInsert,
    /// Whether a connection may create the file, and switch it to WAL: a look into a database must leave it as it is.
    creates: Arc<AtomicBool>,
}

impl SqliteStore {
    /// Opens nothing yet; see [`Store::prepare`].
    pub fn new(options: SqliteOptions) -> Self {
        let connect = connect_options(&options.path);
        let creates = Arc::new(AtomicBool::new(false));
        let connect_with = {
            let (connect, creates) = (connect.clone(), creates.clone());
            Arc::new(move || {
                let connect = connect.clone();
                if !creates.load(Ordering::Relaxed) {
                    return Ok(connect);
                }
                let connect = connect.create_if_missing(true).journal_mode(SqliteJournalMode::Wal);
                Ok(connect.pragma("journal_size_limit", WAL_BYTES))
            })
        };
        // Claims, upkeep and leases: see `session`.
        let widths = Widths { write: 1, control: 0, upkeep: 0, lease: 0, read: READERS };
        Self {
            sessions: Sessions::new(connect, connect_with, widths),
            insert: write::RowInsert::new(&options.table),
            table: options.table,
            manage_schema: options.manage_schema,
            creates,
        }
    }

    fn table_name(&self) -> &str {
        self.table.as_str()
    }
}

fn connect_options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new().filename(path).synchronous(SqliteSynchronous::Full).foreign_keys(false)
}

sql_store! {
    store: SqliteStore,
    database: sqlx::Sqlite,
    looks: Purpose::Read,
    own: {
        async fn prepare(&self) -> Result<(), StoreError> {
            self.creates.store(true, Ordering::Relaxed);
            let mut session = self.session(Purpose::Control).await?;
            let done = self.prepare_schema(&mut session).await;
            self.settle(session, done).await
        }

        fn max_body_bytes(&self) -> usize {
            MAX_BODY_BYTES
        }

        fn max_lanes(&self) -> usize {
            1
        }
    }
}
