//! PostgreSQL, CockroachDB and whatever else speaks their protocol.
//!
//! Guarantees: as [`super::Store`]. A batch is one prepared statement that moves the position and inserts the rows from
//! arrays (`unnest`); one that is large or has dead letters is a transaction with binary `COPY`. Sessions are READ
//! COMMITTED whatever the server's default is, and hold locks for a few seconds at most. How durable a commit is stays
//! the server's choice (`synchronous_commit` is left alone). No session-wide lock is taken, so a pooler in transaction
//! mode is no obstacle to the schema.

mod adopt;
mod connect;
mod copy;
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
mod unnest;
mod write;

use std::sync::OnceLock;

use sqlx::Postgres;
use sqlx::postgres::PgConnectOptions;

use self::errors::store_error;
use self::transaction::{begin, check_deferred};
use super::sql::store_calls::sql_store;
use super::sql::{ConnectWith, Purpose, Sessions, Widths};
use super::{Store, StoreError, TableName};

/// A field has at most 1 GiB; what a row needs besides, and what is made of it on the way, stays below that.
const MAX_BODY_BYTES: usize = 900_000_000;

/// What a [`PostgresStore`] is made of.
#[derive(Clone)]
pub struct PostgresOptions {
    /// Gives host, database and credentials for each new connection.
    pub connect: ConnectWith<PgConnectOptions>,
    /// The trace table.
    pub table: TableName,
    /// How many batches are written side by side.
    pub lanes: usize,
    /// Whether tables and indexes may be created; otherwise they are only verified.
    pub manage_schema: bool,
}

/// A store in a database that speaks PostgreSQL's protocol.
pub struct PostgresStore {
    options: PostgresOptions,
    sessions: Sessions<Postgres>,
    statements: write::Statements,
    /// Whether `created_at` tells an instant; known once retention has looked.
    tells_zone: OnceLock<bool>,
}

impl PostgresStore {
    /// Connects to nothing yet; see [`Store::prepare`].
    pub fn new(options: PostgresOptions) -> Self {
        let widths = Widths::of_server(options.lanes);
        let sessions = Sessions::new(PgConnectOptions::new_without_pgpass(), options.connect.clone(), widths);
        let statements = write::Statements::new(&options.table);
        Self { sessions, statements, tells_zone: OnceLock::new(), options }
    }

    fn table_name(&self) -> &str {
        self.options.table.as_str()
    }
}

sql_store! {
    store: PostgresStore,
    database: sqlx::Postgres,
    looks: Purpose::Control,
    own: {
        async fn prepare(&self) -> Result<(), StoreError> {
            let mut session = self.session(Purpose::Control).await?;
            let done = self.prepare_schema(&mut session).await;
            self.settle(session, done).await
        }

        fn max_body_bytes(&self) -> usize {
            MAX_BODY_BYTES
        }

        fn max_lanes(&self) -> usize {
            self.options.lanes.max(1)
        }
    }
}
