//! Faults that the end-to-end tests leave out, each with real processes. Which test shows which row of the list of
//! faults is in `docs/reliability.md`, which [`map`] keeps true.
//!
//! At its end the oracle compares everything that was produced with what is stored ([`world::Case::audit`]); two tests
//! of [`input`] compare it one by one, as no ledger has such spans. In each, positions have only grown, Kafka is not
//! ahead of them ([`world::Case::positions_hold`]), no process has panicked, and those that were asked to stop ended
//! with 0 (`sluice_tests::component`).
//!
//! What takes longer than about twenty seconds lies in a module `long`: `tests/run` leaves it out, and
//! `tests/run --faults` does not.

#![allow(clippy::unwrap_used, reason = "the helpers of tests are tests, too")]

mod answers;
mod canary;
mod clock;
mod clusters;
mod database;
mod disk;
mod fleet;
mod galera;
mod input;
mod lease;
mod map;
mod packets;
mod replica;
#[path = "../end_to_end/world.rs"]
#[allow(dead_code, reason = "shared with the end-to-end tests")]
mod world;

use std::time::Duration;

use anyhow::bail;
use serde_json::Value;
use sluice_tests::sluice::{Sink, read_partitions};
use sqlx::{AssertSqlSafe, Connection};

/// How long anything is waited for that has no bound of its own.
const WAIT: Duration = Duration::from_secs(60);
/// Kubernetes' `terminationGracePeriodSeconds`.
const GRACE: Duration = Duration::from_secs(30);

/// Runs statements in the database of a sink, as whoever its URL names.
async fn execute(sink: &Sink, sql: &str) -> anyhow::Result<()> {
    let sql = AssertSqlSafe(sql.to_owned());
    match sink {
        Sink::Mysql(url) => {
            let mut connection = sqlx::MySqlConnection::connect(url).await?;
            sqlx::raw_sql(sql).execute(&mut connection).await?;
            Ok(connection.close().await?)
        }
        Sink::Postgres(url) => {
            let mut connection = sqlx::PgConnection::connect(url).await?;
            sqlx::raw_sql(sql).execute(&mut connection).await?;
            Ok(connection.close().await?)
        }
        Sink::Sqlite(_) => bail!("no server"),
    }
}

/// Whether `/status` tells of any trouble.
fn is_degraded(status: &Value) -> bool {
    status["lastError"].is_string()
}

/// How many partitions `/status` names.
fn owned(status: &Value) -> usize {
    read_partitions(status).len()
}
