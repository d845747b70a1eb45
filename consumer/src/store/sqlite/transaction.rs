//! How transactions begin and end.

use sqlx::Executor;
use sqlx::sqlite::SqliteConnection;

use super::errors::store_error;
use crate::gate::clock::DatabaseTime;
use crate::store::StoreError;
use crate::store::sql::{SHORT_ANSWER, WRITE_ANSWER, within};

const NOW: &str = "SELECT CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER)";

/// Takes the write lock at once: there is one writer at a time.
pub(super) async fn begin(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    within(SHORT_ANSWER, conn.execute("BEGIN IMMEDIATE"))
        .await
        .map_err(store_error("cannot begin a transaction"))?;
    Ok(())
}

/// The one kind of rule that can wait for the commit, a foreign key, is off in these connections.
pub(super) async fn check_deferred(_: &mut SqliteConnection) -> Result<(), StoreError> {
    Ok(())
}

/// Begins a transaction that sees one state of the file, and keeps nobody from writing.
pub(super) async fn begin_reading(conn: &mut SqliteConnection, _table: &str) -> Result<(), StoreError> {
    within(SHORT_ANSWER, conn.execute("BEGIN")).await.map_err(store_error("cannot begin a transaction"))?;
    Ok(())
}

/// Begins a transaction in which nobody else writes anything.
pub(super) async fn begin_numbering(conn: &mut SqliteConnection, _table: &str) -> Result<(), StoreError> {
    begin(conn).await
}

/// Begins a transaction in which nobody else renews a lease: there is one writer at a time.
pub(super) async fn begin_alone(conn: &mut SqliteConnection, _name: &str) -> Result<(), StoreError> {
    begin(conn).await
}

/// A transaction that ends takes every later statement with it.
pub(super) async fn check_lock(_: &mut SqliteConnection) -> Result<(), StoreError> {
    Ok(())
}

/// The machine's clock.
pub(super) async fn now(conn: &mut SqliteConnection) -> Result<DatabaseTime, StoreError> {
    within(SHORT_ANSWER, sqlx::query_scalar(NOW).fetch_one(conn))
        .await
        .map(DatabaseTime::told)
        .map_err(store_error("cannot read the clock"))
}

pub(super) async fn commit(conn: &mut SqliteConnection) -> Result<(), StoreError> {
    within(WRITE_ANSWER, conn.execute("COMMIT")).await.map_err(store_error("cannot commit"))?;
    Ok(())
}
