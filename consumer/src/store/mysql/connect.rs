//! Sessions: how a connection is set up, and what becomes of it after an error.

use std::sync::atomic::Ordering;
use std::time::Duration;

use sqlx::mysql::MySqlConnection;
use sqlx::{Executor, MySql};

use super::MySqlStore;
use super::errors::store_error;
use crate::store::sql::{Purpose, SHORT_ANSWER, Session, within};
use crate::store::{ErrorKind, StoreError};

/// Strict whatever the server's default is, so that nothing is cut or replaced silently. READ COMMITTED, so
/// that inserts of different lanes lock no gaps. Short waits, for rows and for a table that is being altered.
/// A client that stops in the middle of a statement is not waited for. Texts are UTF-8 whatever the URL says:
/// another character set would not hold them all. Reads are whole, transactions may write, and a commit ends no
/// session: a server that may not be written to says so by other means (read_only).
macro_rules! session {
    (isolation: $isolation:literal, access: $access:literal $(, also: $also:literal)?) => {
        concat!(
            "SET NAMES utf8mb4, SESSION sql_mode = 'STRICT_ALL_TABLES,STRICT_TRANS_TABLES,NO_ENGINE_SUBSTITUTION,\
             NO_ZERO_DATE,NO_ZERO_IN_DATE,ERROR_FOR_DIVISION_BY_ZERO', \
             SESSION ", $isolation, " = 'READ-COMMITTED', SESSION autocommit = 1, \
             SESSION innodb_lock_wait_timeout = 5, SESSION lock_wait_timeout = 5, \
             SESSION net_read_timeout = 10, SESSION net_write_timeout = 10, \
             SESSION sql_select_limit = 18446744073709551615, SESSION completion_type = 0, \
             SESSION ", $access, " = 0"
            $(, ", SESSION ", $also)?
        )
    };
}
const SESSION: &str = session!(isolation: "transaction_isolation", access: "transaction_read_only");
/// MariaDB before 11.1 knows the isolation level and the access mode by other names.
const SESSION_MARIADB: &str =
    session!(isolation: "tx_isolation", access: "tx_read_only", also: "idle_transaction_timeout = 5");

/// MySQL has no limit for a transaction without activity, only for a session: a frozen owner is cut off by
/// this one, and connections are renewed before it strikes.
const SESSION_MYSQL_IDLE: &str = "SET SESSION wait_timeout = 8";
const MYSQL_MAX_IDLE: Duration = Duration::from_secs(5);

/// Longest statement that is sent even where the server takes more: bounds the memory of a connection.
const MAX_STATEMENT_BYTES: usize = 4 * 1024 * 1024;

/// Of the largest packet that the server takes: left for what the protocol adds to the parameters of a statement, its
/// own header and the command's fixed fields, which take a few dozen bytes.
const PACKET_OVERHEAD_BYTES: usize = 1024;

impl MySqlStore {
    /// A connection that is set up.
    pub(super) async fn session(&self, purpose: Purpose) -> Result<Session<MySql>, StoreError> {
        let taken = self.sessions.take(purpose).await;
        let (mut session, new) = taken.map_err(|error| error.where_to((self.options.connect)().ok()))?;
        if new {
            let is_mariadb = within(SHORT_ANSWER, self.set_up(&mut session))
                .await
                .map_err(store_error("cannot set up a database session"))?;
            if !is_mariadb {
                session.set_max_idle(MYSQL_MAX_IDLE);
            }
        }
        Ok(session)
    }

    async fn set_up(&self, conn: &mut MySqlConnection) -> Result<bool, sqlx::Error> {
        let (version, max_packet): (String, u64) =
            sqlx::query_as("SELECT VERSION(), CAST(@@max_allowed_packet AS UNSIGNED)")
                .fetch_one(&mut *conn)
                .await?;
        self.max_packet.store(usize::try_from(max_packet).unwrap_or(usize::MAX), Ordering::Relaxed);
        let is_mariadb = version.contains("MariaDB");
        if is_mariadb {
            conn.execute(SESSION_MARIADB).await?;
        } else {
            conn.execute(SESSION).await?;
            conn.execute(SESSION_MYSQL_IDLE).await?;
        }
        Ok(is_mariadb)
    }

    /// Ends a call: rolls back after an error that leaves the connection in order, drops it after others.
    pub(super) async fn settle<T>(
        &self,
        mut session: Session<MySql>,
        done: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        match &done {
            Ok(_) => session.keep(),
            Err(error) => match error.kind {
                ErrorKind::Unavailable => session.distrust_all(),
                // The server hangs up after a packet that is too large.
                ErrorKind::TooLarge => drop(session),
                _ => match within(SHORT_ANSWER, session.execute("ROLLBACK")).await {
                    Ok(_) => session.keep(),
                    Err(error) => tracing::debug!(%error, "cannot roll back, the connection is dropped"),
                },
            },
        }
        done
    }

    /// Longest statement that the server takes, or that is worth its memory.
    pub(super) fn chunk_bytes(&self) -> usize {
        self.max_statement_bytes().min(MAX_STATEMENT_BYTES)
    }

    /// Longest statement that the server takes.
    pub(super) fn max_statement_bytes(&self) -> usize {
        self.max_packet.load(Ordering::Relaxed).saturating_sub(PACKET_OVERHEAD_BYTES)
    }
}
