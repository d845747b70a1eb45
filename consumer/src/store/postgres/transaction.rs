//! How transactions begin and end.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor};

use super::errors::store_error;
use crate::gate::clock::DatabaseTime;
use crate::store::StoreError;
use crate::store::sql::{SHORT_ANSWER, WRITE_ANSWER, within};

/// SQLSTATE for a syntax error and for what is not supported: CockroachDB has no LOCK TABLE and no SET CONSTRAINTS, by
/// its documentation.
const NOT_KNOWN: [&str; 2] = ["42601", "0A000"];
const LOCK: &str = "SELECT 1 FROM sluice_lock WHERE name = $1 FOR UPDATE";
const CREATE_LOCK: &str = "INSERT INTO sluice_lock (name) VALUES ($1) ON CONFLICT DO NOTHING";
/// The clock as it is, not as it was when the transaction began.
const NOW: &str = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";

/// What the session was told of the isolation is told again: behind a pooler that pools transactions it is another session by
/// now, and in an older snapshot two replicas could hold more than the whole rate. Not so its limits of time: with several
/// statements in one message Pgpool-II takes its standby for broken, and each message more is a round trip.
const BEGIN: &str = "BEGIN ISOLATION LEVEL READ COMMITTED";

pub(super) async fn begin(conn: &mut PgConnection) -> Result<(), StoreError> {
    within(SHORT_ANSWER, conn.execute(BEGIN)).await.map_err(store_error("cannot begin a transaction"))?;
    Ok(())
}

/// Has the rules checked that wait for the commit (DEFERRABLE INITIALLY DEFERRED), in a transaction that will have none.
/// One that does not know how is of no more use than to be rolled back.
pub(super) async fn check_deferred(conn: &mut PgConnection) -> Result<(), StoreError> {
    match within(WRITE_ANSWER, conn.execute("SET CONSTRAINTS ALL IMMEDIATE")).await {
        Err(error) if !is_not_known(&error) => Err(store_error("cannot check deferred constraints")(error)),
        _ => Ok(()),
    }
}

fn is_not_known(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|reported| reported.code());
    code.is_some_and(|code| NOT_KNOWN.contains(&&*code))
}

/// Begins a transaction whose reads, of `table` first, a proxy sends to the primary. Pgpool-II gives reads to replicas
/// until the first statement of a transaction that is none (ADR 16): here the lock that every SELECT takes anyway.
pub(super) async fn begin_reading(conn: &mut PgConnection, table: &'static str) -> Result<(), StoreError> {
    begin(conn).await?;
    let lock = AssertSqlSafe(format!("LOCK TABLE {table} IN ACCESS SHARE MODE"));
    let Err(error) = within(SHORT_ANSWER, conn.execute(lock)).await else { return Ok(()) };
    if !is_not_known(&error) {
        return Err(store_error("cannot begin to read")(error));
    }
    // There all nodes of a cluster give the same answer.
    within(SHORT_ANSWER, conn.execute("ROLLBACK")).await.map_err(store_error("cannot begin to read"))?;
    begin(conn).await
}

/// Begins a transaction in which nobody else gives out stream numbers of this table.
pub(super) async fn begin_numbering(conn: &mut PgConnection, table: &str) -> Result<(), StoreError> {
    begin_locked(conn, &format!("streams of {table}")).await
}

/// Begins a transaction in which nobody else renews a lease of this name, be it a rate or a turn.
pub(super) async fn begin_alone(conn: &mut PgConnection, name: &str) -> Result<(), StoreError> {
    begin_locked(conn, &format!("rate of {name}")).await
}

/// Begins a transaction that holds the named lock.
async fn begin_locked(conn: &mut PgConnection, name: &str) -> Result<(), StoreError> {
    const DOING: &str = "cannot take a lock";
    loop {
        begin(conn).await?;
        let lock = sqlx::query(LOCK).bind(name);
        let locked =
            within(SHORT_ANSWER, lock.fetch_optional(&mut *conn)).await.map_err(store_error(DOING))?;
        if locked.is_some() {
            return Ok(());
        }
        within(SHORT_ANSWER, conn.execute("ROLLBACK")).await.map_err(store_error(DOING))?;
        let create = sqlx::query(CREATE_LOCK).bind(name);
        within(SHORT_ANSWER, create.execute(&mut *conn)).await.map_err(store_error(DOING))?;
    }
}

/// A transaction that ends takes every later statement with it.
pub(super) async fn check_lock(_: &mut PgConnection) -> Result<(), StoreError> {
    Ok(())
}

/// The server's clock.
pub(super) async fn now(conn: &mut PgConnection) -> Result<DatabaseTime, StoreError> {
    within(SHORT_ANSWER, sqlx::query_scalar(NOW).fetch_one(conn))
        .await
        .map(DatabaseTime::told)
        .map_err(store_error("cannot read the clock"))
}

pub(super) async fn commit(conn: &mut PgConnection) -> Result<(), StoreError> {
    within(WRITE_ANSWER, conn.execute("COMMIT")).await.map_err(store_error("cannot commit"))?;
    Ok(())
}
