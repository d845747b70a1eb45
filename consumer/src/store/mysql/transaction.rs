//! How transactions begin and end.

use sqlx::Executor;
use sqlx::mysql::MySqlConnection;

use super::errors::{number_of, store_error};
use crate::gate::clock::DatabaseTime;
use crate::store::sql::{SHORT_ANSWER, WRITE_ANSWER, within};
use crate::store::{ErrorKind, StoreError};

/// Changes the row instead of only locking it: in a cluster that certifies transactions when they commit (Galera)
/// locks hold on one node, and of two holders on two nodes one is refused only where both have written.
const LOCK: &str = "UPDATE sluice_lock SET turns = turns + 1 WHERE name = ?";
/// Ends with the transaction, whoever ended it.
const MARK: &str = "SAVEPOINT sluice";
const TAKE_MARK: &str = "RELEASE SAVEPOINT sluice";
/// There is no such savepoint.
const NO_MARK: u16 = 1305;
const CREATE_LOCK: &str = "INSERT IGNORE INTO sluice_lock (name) VALUES (?)";
/// The clock as it is (SYSDATE), not as it was when the statement began (NOW).
const NOW: &str = "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)";

pub(super) async fn begin(conn: &mut MySqlConnection) -> Result<(), StoreError> {
    within(SHORT_ANSWER, conn.execute("START TRANSACTION"))
        .await
        .map_err(store_error("cannot begin a transaction"))?;
    Ok(())
}

/// Every rule is checked when a row goes in.
pub(super) async fn check_deferred(_: &mut MySqlConnection) -> Result<(), StoreError> {
    Ok(())
}

/// Begins a transaction whose reads a proxy sends to the primary, as it does with every transaction.
pub(super) async fn begin_reading(conn: &mut MySqlConnection, _table: &str) -> Result<(), StoreError> {
    begin(conn).await
}

/// Begins a transaction in which nobody else gives out stream numbers of this table.
pub(super) async fn begin_numbering(conn: &mut MySqlConnection, table: &str) -> Result<(), StoreError> {
    begin_locked(conn, &format!("streams of {table}")).await
}

/// Begins a transaction in which nobody else renews a lease of this name, be it a rate or a turn.
pub(super) async fn begin_alone(conn: &mut MySqlConnection, name: &str) -> Result<(), StoreError> {
    begin_locked(conn, &format!("rate of {name}")).await
}

/// Begins a transaction that holds the named lock until [`check_lock`] has been asked.
async fn begin_locked(conn: &mut MySqlConnection, name: &str) -> Result<(), StoreError> {
    const DOING: &str = "cannot take a lock";
    loop {
        begin(conn).await?;
        let lock = sqlx::query(LOCK).bind(name);
        let locked = within(SHORT_ANSWER, lock.execute(&mut *conn)).await.map_err(store_error(DOING))?;
        if locked.rows_affected() == 1 {
            within(SHORT_ANSWER, conn.execute(MARK)).await.map_err(store_error(DOING))?;
            return Ok(());
        }
        within(SHORT_ANSWER, conn.execute("ROLLBACK")).await.map_err(store_error(DOING))?;
        let create = sqlx::query(CREATE_LOCK).bind(name);
        within(SHORT_ANSWER, create.execute(&mut *conn)).await.map_err(store_error(DOING))?;
    }
}

/// Whether the lock was held while everything was read since: asked once, before the first write that follows from it.
///
/// A Galera node ends a transaction for another node's at any time, and says so in its answer to the next command; but
/// where that command prepares a SELECT, the answer can be that all is well (MariaDB 10.11.19: of 150 such, 55). The
/// SELECT then sees nothing, and what is written after it is committed statement by statement.
pub(super) async fn check_lock(conn: &mut MySqlConnection) -> Result<(), StoreError> {
    within(SHORT_ANSWER, conn.execute(TAKE_MARK)).await.map(drop).map_err(|error| {
        let lost = number_of(&error) == Some(NO_MARK);
        let mut error = store_error("cannot keep a lock")(error);
        if lost {
            error.kind = ErrorKind::Conflict;
        }
        error
    })
}

/// The server's clock.
pub(super) async fn now(conn: &mut MySqlConnection) -> Result<DatabaseTime, StoreError> {
    within(SHORT_ANSWER, sqlx::query_scalar(NOW).fetch_one(conn))
        .await
        .map(DatabaseTime::told)
        .map_err(store_error("cannot read the clock"))
}

pub(super) async fn commit(conn: &mut MySqlConnection) -> Result<(), StoreError> {
    within(WRITE_ANSWER, conn.execute("COMMIT")).await.map_err(store_error("cannot commit"))?;
    Ok(())
}
