//! Connections that stay checked out of sqlx's pool for as long as they are good.
//!
//! Guarantees: a connection is used again only after everything that was begun on it has ended and was
//! answered; a call that is cancelled, times out or meets an unnamed error drops its connection, so the
//! server rolls back. Every new connection asks for the connect options anew: a rotated password needs no
//! restart. Lanes, claims, leases, upkeep and readers have connections of their own and never wait for each other's.
//!
//! Why not simply give connections back to the pool: it pings on every release, and it keeps connections
//! whose transaction was cancelled half-way.

use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sqlx::pool::{PoolConnection, PoolOptions};
use sqlx::{ConnectOptions, Connection, Database, Pool};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Told;
use crate::lock::lock;
use crate::store::{ErrorKind, StoreError};

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Options<DB> = <<DB as Database>::Connection as Connection>::Options;

/// Gives the options for a new connection; called before each, so it may read files (it must not block for
/// longer), and never logs. Its error says which credential is missing and reaches the user as it is.
pub type ConnectWith<O> = Arc<dyn Fn() -> Result<O, BoxError> + Send + Sync>;

/// Longest wait for a new connection.
const CONNECT: Duration = Duration::from_secs(4);
/// How long a connection may lie unused before it is not trusted any more: shorter than what ends idle ones in practice (a
/// `wait_timeout` of 30 s, HAProxy's 50 s), longer than between two uses of one that is needed.
const MAX_IDLE: Duration = Duration::from_secs(20);
/// Longest wait for connections to say goodbye.
const CLOSE: Duration = Duration::from_secs(2);

/// What a connection is wanted for. Each kind has a fixed number of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// A batch.
    Write,
    /// Claims of streams, and what a replica needs besides before it can write: streams, the schema, keys. All of it is
    /// short, as a partition is silent until it is claimed.
    Control,
    /// What may take long, or wait for somebody's lock, while lanes go on: the removal of old rows, and marks, ends and
    /// copies of dead letters. The two that a replica does all the time have one each.
    Upkeep,
    /// Leases, of the rate and of turns. Without the former nothing is released: there is one connection for each, so
    /// that none queues behind another.
    Lease,
    /// Look-ups.
    Read,
}

/// How many connections each [`Purpose`] has.
#[derive(Clone, Copy, Debug)]
pub struct Widths {
    /// See [`Purpose::Write`].
    pub write: usize,
    /// See [`Purpose::Control`].
    pub control: usize,
    /// See [`Purpose::Upkeep`].
    pub upkeep: usize,
    /// See [`Purpose::Lease`].
    pub lease: usize,
    /// See [`Purpose::Read`].
    pub read: usize,
}

impl Widths {
    /// With a server, which takes many connections: for claims, for upkeep (the removal of old rows, and the notes on dead
    /// letters that were sent), for leases (of the rate, and of the turns to do either: none waits for another one), and
    /// for look-ups.
    pub fn of_server(lanes: usize) -> Self {
        Self { write: lanes.max(1), control: 2, upkeep: 2, lease: 3, read: 4 }
    }
}

struct Kept<DB: Database> {
    /// Taken out by `close` and `drop` only.
    conn: Option<PoolConnection<DB>>,
    unused_since: Instant,
    max_idle: Duration,
}

impl<DB: Database> Drop for Kept<DB> {
    fn drop(&mut self) {
        // Not back into the pool: that would ping, and needs a runtime.
        drop(self.conn.take().map(PoolConnection::detach));
    }
}

/// The connections of one store.
pub struct Sessions<DB: Database> {
    pool: Pool<DB>,
    connect_with: ConnectWith<Options<DB>>,
    kept: Arc<Mutex<Vec<Kept<DB>>>>,
    write: Arc<Semaphore>,
    control: Arc<Semaphore>,
    upkeep: Arc<Semaphore>,
    lease: Arc<Semaphore>,
    read: Arc<Semaphore>,
}

impl<DB: Database> Sessions<DB> {
    /// Connects to nothing yet. `placeholder` is never connected with.
    pub fn new(placeholder: Options<DB>, connect_with: ConnectWith<Options<DB>>, widths: Widths) -> Self {
        let Widths { write, control, upkeep, lease, read } = widths;
        let most = u32::try_from(write + control + upkeep + lease + read).unwrap_or(u32::MAX);
        let pool = PoolOptions::new()
            .max_connections(most)
            .acquire_timeout(CONNECT)
            .idle_timeout(None)
            .max_lifetime(None)
            .connect_lazy_with(placeholder);
        Self {
            pool,
            connect_with,
            kept: Arc::default(),
            write: Arc::new(Semaphore::new(write)),
            control: Arc::new(Semaphore::new(control)),
            upkeep: Arc::new(Semaphore::new(upkeep)),
            lease: Arc::new(Semaphore::new(lease)),
            read: Arc::new(Semaphore::new(read)),
        }
    }

    /// A connection, and whether it is new: then its session must be set up. Waits while all connections of
    /// this purpose are in use.
    ///
    /// # Errors
    /// [`ErrorKind::Unavailable`]: no credentials, or the server cannot be reached.
    pub async fn take(&self, purpose: Purpose) -> Result<(Session<DB>, bool), StoreError> {
        let semaphore = match purpose {
            Purpose::Write => &self.write,
            Purpose::Control => &self.control,
            Purpose::Upkeep => &self.upkeep,
            Purpose::Lease => &self.lease,
            Purpose::Read => &self.read,
        };
        let permit = Arc::clone(semaphore)
            .acquire_owned()
            .await
            .map_err(|_| StoreError::new(ErrorKind::Unavailable, "the store is closed"))?;
        let (conn, max_idle, new) = match self.pop() {
            Some((conn, max_idle)) => (conn, max_idle, false),
            None => (self.connect().await?, MAX_IDLE, true),
        };
        let kept = Arc::clone(&self.kept);
        Ok((Session { conn: Some(conn), purpose, max_idle, kept, _permit: permit }, new))
    }

    fn pop(&self) -> Option<(PoolConnection<DB>, Duration)> {
        let mut kept = lock(&self.kept);
        while let Some(mut last) = kept.pop() {
            if last.unused_since.elapsed() < last.max_idle
                && let Some(conn) = last.conn.take()
            {
                return Some((conn, last.max_idle));
            }
        }
        None
    }

    async fn connect(&self) -> Result<PoolConnection<DB>, StoreError> {
        let options = (self.connect_with)().map_err(|source| StoreError {
            kind: ErrorKind::Unavailable,
            context: "cannot tell how to connect to the database".to_owned(),
            source: Some(source),
        })?;
        // A statement of a thousand rows is no use in a log, and what is in it is none of the log's business.
        let options = options.disable_statement_logging();
        self.pool.set_connect_options(options.clone());
        let cannot = |source: sqlx::Error| {
            StoreError::with_source(ErrorKind::Unavailable, "cannot connect to the database", Told(source))
        };
        match self.pool.acquire().await {
            // The pool has tried for CONNECT and does not tell what stood in the way.
            Err(sqlx::Error::PoolTimedOut) => match within(CONNECT, options.connect()).await {
                Err(reason) => Err(cannot(reason)),
                Ok(late) => {
                    drop(late);
                    Err(cannot(sqlx::Error::PoolTimedOut))
                }
            },
            acquired => acquired.map_err(cannot),
        }
    }

    /// Refuses new calls, waits shortly for those under way, and says goodbye to the server.
    pub async fn close(&self) {
        for semaphore in [&self.write, &self.control, &self.upkeep, &self.lease, &self.read] {
            semaphore.close();
        }
        let kept = std::mem::take(&mut *lock(&self.kept));
        let goodbye = async {
            for mut connection in kept {
                if let Some(conn) = connection.conn.take()
                    && let Err(error) = conn.close().await
                {
                    tracing::debug!(%error, "a connection did not close in order");
                }
            }
        };
        if tokio::time::timeout(CLOSE, goodbye).await.is_err() {
            tracing::debug!("connections did not close in time");
        }
    }
}

/// A connection in use. Dropping it closes the connection; [`Self::keep`] lets it be used again.
pub struct Session<DB: Database> {
    conn: Option<PoolConnection<DB>>,
    purpose: Purpose,
    max_idle: Duration,
    kept: Arc<Mutex<Vec<Kept<DB>>>>,
    _permit: OwnedSemaphorePermit,
}

impl<DB: Database> Session<DB> {
    /// Everything that was begun has ended and was answered.
    pub fn keep(mut self) {
        let Some(conn) = self.conn.take() else { return };
        let kept = Kept { conn: Some(conn), unused_since: Instant::now(), max_idle: self.max_idle };
        lock(&self.kept).push(kept);
    }

    /// The server is gone or has changed: this connection and those lying unused are not trusted any more.
    pub fn distrust_all(self) {
        lock(&self.kept).clear();
    }

    /// For servers that end an idle session soon.
    pub fn set_max_idle(&mut self, max_idle: Duration) {
        self.max_idle = max_idle;
    }
}

impl<DB: Database> Drop for Session<DB> {
    fn drop(&mut self) {
        let Some(conn) = self.conn.take() else { return };
        drop(conn.detach());
        // Whoever renews a lease waits for two seconds only: one unused connection after the other would be tried, all of
        // them as dead as this one, before any other call has waited long enough to tell.
        if self.purpose == Purpose::Lease {
            lock(&self.kept).clear();
        }
    }
}

impl<DB: Database> Deref for Session<DB> {
    type Target = DB::Connection;

    fn deref(&self) -> &Self::Target {
        match &self.conn {
            Some(conn) => conn,
            None => unreachable!("only `keep` and `drop` take the connection, and both end the session"),
        }
    }
}

impl<DB: Database> DerefMut for Session<DB> {
    fn deref_mut(&mut self) -> &mut Self::Target {
        match &mut self.conn {
            Some(conn) => conn,
            None => unreachable!("only `keep` and `drop` take the connection, and both end the session"),
        }
    }
}

/// Waits for one answer of the server, but not for ever: a half-open connection never answers.
pub async fn within<T>(
    limit: Duration,
    answer: impl Future<Output = Result<T, sqlx::Error>>,
) -> Result<T, sqlx::Error> {
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
        let text = format!("no answer within {} s", limit.as_secs());
        Err(sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, text)))
    })
}
