//! MySQL, MariaDB, TiDB and whatever else speaks their protocol.
//!
//! Guarantees: as [`super::Store`]. Rows go in as multi-row `INSERT`s of fixed sizes, prepared once a
//! connection and cut to the server's `max_allowed_packet`. Sessions are strict, READ COMMITTED and in UTC,
//! whatever the server's defaults are, and hold locks for a few seconds at most. `LOCAL INFILE` is neither
//! used nor answered.

mod adopt;
mod connect;
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

use async_trait::async_trait;
use sqlx::MySql;
use sqlx::mysql::MySqlConnectOptions;

use super::retention::{Sweep, Swept};
use super::sql::{ConnectWith, Purpose, Sessions, Widths};
use super::{Claim, Row, Store, StoreError, StoredSpan, StreamKey, TableName, WriteBatch};
use crate::gate::lease::{Decide, LeaseGrant, LeaseRequest};

/// Statement overhead that a row's body must leave room for: the other columns and the packet's own parts.
const ROW_OVERHEAD_BYTES: usize = 4096;
/// Connections for claims, for leases (of the rate, and of the turns to remove old rows and to send dead letters: none
/// waits for another one), and for look-ups.
const CONTROL: usize = 2;
const LEASE: usize = 3;
const READERS: usize = 4;

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
        let widths = Widths { write: options.lanes.max(1), control: CONTROL, lease: LEASE, read: READERS };
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

#[async_trait]
impl Store for MySqlStore {
    async fn prepare(&self) -> Result<(), StoreError> {
        let mut session = self.session(Purpose::Control).await?;
        let done = self.prepare_schema(&mut session).await;
        self.settle(session, done).await
    }

    async fn streams(&self, cluster_id: &str, group: &str) -> Result<Vec<StreamKey>, StoreError> {
        let mut session = self.session(Purpose::Control).await?;
        let done = self.streams_of(&mut session, cluster_id, group).await;
        self.settle(session, done).await
    }

    async fn create_streams(&self, starts: &[(StreamKey, u64)]) -> Result<(), StoreError> {
        let mut session = self.session(Purpose::Control).await?;
        let done = self.create_missing(&mut session, starts).await;
        self.settle(session, done).await
    }

    async fn claim(&self, key: &StreamKey, owner: &str) -> Result<Claim, StoreError> {
        let mut session = self.session(Purpose::Control).await?;
        let done = self.claim_stream(&mut session, key, owner).await;
        self.settle(session, done).await
    }

    async fn supersede(&self, key: &StreamKey, claim: &Claim, start: u64) -> Result<(), StoreError> {
        let mut session = self.session(Purpose::Control).await?;
        let done = self.next_generation(&mut session, key, claim, start).await;
        self.settle(session, done).await
    }

    async fn write(&self, batch: &WriteBatch<'_>) -> Result<(), StoreError> {
        let mut session = self.session(Purpose::Write).await?;
        let done = self.write_batch(&mut session, batch).await;
        self.settle(session, done).await
    }

    async fn probe(&self, rows: &[Row<'_>]) -> Result<(), StoreError> {
        let mut session = self.session(Purpose::Write).await?;
        let done = self.try_rows(&mut session, rows).await;
        self.settle(session, done).await
    }

    async fn lease(&self, request: &LeaseRequest, decide: &mut Decide<'_>) -> Result<LeaseGrant, StoreError> {
        let mut session = self.session(Purpose::Lease).await?;
        let done = self.renew_share(&mut session, request, decide).await;
        self.settle(session, done).await
    }

    async fn end_lease(&self, pipeline: &str, holder: &str) -> Result<(), StoreError> {
        let mut session = self.session(Purpose::Lease).await?;
        let done = self.give_share_back(&mut session, pipeline, holder).await;
        self.settle(session, done).await
    }

    async fn trace(&self, trace_id: &str, limit: u32) -> Result<Vec<StoredSpan>, StoreError> {
        let mut session = self.session(Purpose::Read).await?;
        let done = self.read_trace(&mut session, trace_id, limit).await;
        self.settle(session, done).await
    }

    async fn positions(&self, cluster_id: &str, group: &str) -> Result<Vec<(StreamKey, u64)>, StoreError> {
        let mut session = self.session(Purpose::Control).await?;
        let done = self.positions_of(&mut session, cluster_id, group).await;
        self.settle(session, done).await
    }

    async fn remove_older(&self, sweep: &Sweep) -> Result<Swept, StoreError> {
        let mut session = self.session(Purpose::Control).await?;
        let done = self.sweep(&mut session, sweep).await;
        // Whatever stands in the way of this concerns no other connection.
        if done.is_ok() {
            session.keep();
        }
        done
    }

    fn max_body_bytes(&self) -> usize {
        self.max_statement_bytes().saturating_sub(ROW_OVERHEAD_BYTES)
    }

    fn max_lanes(&self) -> usize {
        self.options.lanes.max(1)
    }

    async fn close(&self) {
        self.sessions.close().await;
    }
}
