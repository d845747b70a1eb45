//! MySQL, MariaDB, TiDB and whatever else speaks their protocol.
//!
//! Guarantees: as [`super::Store`]. Rows go in as multi-row `INSERT`s of fixed sizes, prepared once a
//! connection and cut to the server's `max_allowed_packet`. Sessions are strict, READ COMMITTED and in UTC,
//! whatever the server's defaults are, and hold locks for a few seconds at most. `LOCAL INFILE` is neither
//! used nor answered.

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

use std::sync::OnceLock;
use std::sync::atomic::AtomicUsize;

use sqlx::MySql;
use sqlx::mysql::MySqlConnectOptions;

use self::errors::store_error;
use self::transaction::{begin, check_deferred};
use super::sql::store_calls::sql_store;
use super::sql::{ConnectWith, Purpose, Sessions, Widths};
use super::{Store, StoreError, TableName};

/// Statement overhead that a row's body must leave room for: the other columns and the packet's own parts.
const ROW_OVERHEAD_BYTES: usize = 4096;

/// What a [`MySqlStore`] is made of.
#[derive(Clone)]
pub struct MySqlOptions {
    /// Gives host, database and credentials for each new connection.
    pub connect: ConnectWith<MySqlConnectOptions>,
    /// The trace table.
    pub table: TableName,
    /// How many batches are written side by side.
    pub lanes: usize,
    /// Whether tables and indexes may be created; otherwise they are only verified.
    pub manage_schema: bool,
}

/// A store in a database that speaks the MySQL protocol.
pub struct MySqlStore {
    options: MySqlOptions,
    sessions: Sessions<MySql>,
    statements: write::Statements,
    /// Known once [`Store::prepare`] has seen the table.
    insert: OnceLock<write::RowInsert>,
    /// `@@max_allowed_packet` of the newest connection.
    max_packet: AtomicUsize,
    /// What the body column had room for when it was last looked at.
    max_column: AtomicUsize,
    /// Whether `created_at` tells an instant; known once retention has looked.
    tells_zone: OnceLock<bool>,
}

impl MySqlStore {
    /// Connects to nothing yet; see [`Store::prepare`].
    pub fn new(options: MySqlOptions) -> Self {
        let widths = Widths::of_server(options.lanes);
        let sessions = Sessions::new(MySqlConnectOptions::new(), options.connect.clone(), widths);
        Self {
            sessions,
            statements: write::Statements::new(),
            insert: OnceLock::new(),
            // Until the server has told: the smallest that is met in practice.
            max_packet: AtomicUsize::new(1024 * 1024),
            max_column: AtomicUsize::new(usize::MAX),
            tells_zone: OnceLock::new(),
            options,
        }
    }

    fn table_name(&self) -> &str {
        self.options.table.as_str()
    }
}

sql_store! {
    store: MySqlStore,
    database: sqlx::MySql,
    looks: Purpose::Control,
    own: {
        async fn prepare(&self) -> Result<(), StoreError> {
            let mut session = self.session(Purpose::Control).await?;
            let done = self.prepare_schema(&mut session).await;
            self.settle(session, done).await
        }

        fn max_body_bytes(&self) -> usize {
            self.max_statement_bytes().saturating_sub(ROW_OVERHEAD_BYTES)
        }

        fn max_lanes(&self) -> usize {
            self.options.lanes.max(1)
        }
    }
}
