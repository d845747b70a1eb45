//! Databases with a replica that lags behind: it takes the primary's place, or is read by a proxy.

use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, ensure};
use sluice_consumer::store::Store;
use sluice_consumer::store::key::{KeyStore, SealedDictionary, WrappedKey};
use sluice_consumer::store::letter::{LetterFilter, LetterStore};
use sluice_consumer::store::postgres::{PostgresOptions, PostgresStore};
use sluice_tests::eventually;
use sluice_tests::mariadb::MariaDb;
use sluice_tests::oracle::database::Database;
use sluice_tests::pgpool::Pgpool;
use sluice_tests::postgres::Postgres;
use sluice_tests::proxy::Proxy;
use sluice_tests::sluice::{Sink, binary};
use sqlx::postgres::PgConnectOptions;

use crate::database::{PARTITIONS, QPS, RECOVERY, finish, ledger};
use crate::world::{Case, unique};
use crate::{WAIT, execute};

/// What a standby follows no longer, once it has read it.
const DETACH: &str = "ALTER SYSTEM SET primary_conninfo = ''";
const RELOAD: &str = "SELECT pg_reload_conf()";

/// The address in a URL with a user.
fn address_of(url: &str) -> anyhow::Result<&str> {
    url.split(['@', '/']).nth(3).context("no address in the URL")
}

/// Has the standby follow its primary no longer.
async fn detach(standby: &Postgres) -> anyhow::Result<()> {
    standby.execute(DETACH).await?;
    standby.execute(RELOAD).await?;
    let gone = "DO $$ BEGIN ASSERT (SELECT COUNT(*) = 0 FROM pg_stat_wal_receiver); END $$";
    eventually("the standby to be on its own", WAIT, async || Ok(standby.execute(gone).await.ok())).await
}

/// The address behind a proxy becomes that of a replica, which has not got everything that the primary had
/// committed: rows and position are behind together, and what is missing is stored again.
async fn failed_over(
    [primary, replica]: [Sink; 2],
    name: &str,
    detach: impl AsyncFn() -> anyhow::Result<()>,
    promote: impl AsyncFnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let (Sink::Mysql(url) | Sink::Postgres(url)) = &primary else { unreachable!("a server") };
    let (Sink::Mysql(other_url) | Sink::Postgres(other_url)) = &replica else { unreachable!("a server") };
    let (address, other) = (address_of(url)?, address_of(other_url)?.parse()?);
    let proxy = Proxy::start(address.parse()?).await?;
    let database = Database::connect(url).await?;
    // The oracle looks at the one that is left at the end.
    let case = Case::with_sink(replica.clone(), name, PARTITIONS, |pipeline| pipeline.rate = QPS).await?;
    case.home.save_url(&url.replace(address, &proxy.address().to_string()))?;
    let (ledger, messages) = (ledger(95), 6_000);
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 2) as i32).await?;
    let sluice = case.replica("only").await?;
    eventually("rows in the primary", WAIT, async || Ok((database.count().await? > 2_000).then_some(())))
        .await?;
    detach().await?;
    let behind = case.settled().await?;
    eventually("the primary to get ahead", WAIT, async || {
        let ahead: i64 = database.positions().await?.iter().map(|position| position.next_offset).sum();
        Ok((ahead as u64 > behind + 100).then_some(()))
    })
    .await?;
    promote().await?;
    let stood = case.settled().await?;
    proxy.redirect(other);
    case.wait_settled(stood + 1, RECOVERY).await?;
    finish(case, sluice, &ledger, messages).await.map(drop)
}

/// Pgpool-II gives reads to a standby that knows the positions of the beginning only.
async fn read_from_a_standby() -> anyhow::Result<()> {
    let primary = Postgres::start().await?;
    let standby = primary.start_replica().await?;
    let pgpool = Pgpool::start(&primary, &standby).await?;
    let name = unique("lagging");
    let url = primary.database(&name).await?;
    let sink = Sink::Postgres(url.clone());
    let case = Case::with_sink(sink, &name, PARTITIONS, |pipeline| {
        pipeline.rate = QPS;
        pipeline.notice_deaths_soon();
    })
    .await?;
    case.home.save_url(&pgpool.url(&name))?;
    let (ledger, messages) = (ledger(96), 2_000);
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 2) as i32).await?;
    let mut sluice = case.replica("first").await?;
    let behind = Database::connect(&standby.url(&name)).await?;
    eventually("rows in the standby", WAIT, async || {
        Ok(behind.count().await.is_ok_and(|rows| rows > 100).then_some(()))
    })
    .await?;
    detach(&standby).await?;
    let lags = behind.count().await?;
    for name in ["second", "third"] {
        let stood = case.settled().await?;
        case.wait_settled(stood + 50, WAIT).await?;
        sluice.component.kill().await?;
        sluice = case.replica(name).await?;
    }
    let case = finish(case, sluice, &ledger, messages).await?;
    ensure!(behind.count().await? == lags, "the standby has followed");

    // How far the pipeline is, and where a replay is to end, are positions, too.
    let home = |part: &str| case.home.path().join(part);
    let output = Command::new(binary()?)
        .args(["replay", "--name", "again", "--from", "earliest", "--table", "connectivity_trace_copy"])
        .arg("-f")
        .arg(home("pipeline.yaml"))
        .arg("--secrets-dir")
        .arg(home("secrets"))
        .output()?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    execute(
        &case.pipeline.sink,
        "DO $$ BEGIN ASSERT (SELECT COUNT(*) FROM connectivity_trace_copy) = (SELECT COUNT(*) FROM connectivity_trace); END $$",
    )
    .await?;
    finds_what_it_stored(&pgpool.url(&name)).await
}

/// A key and a dictionary that were stored a moment ago are not lost, and a dead letter is there.
async fn finds_what_it_stored(url: &str) -> anyhow::Result<()> {
    let options: PgConnectOptions = url.parse()?;
    let connect = Arc::new(move || Ok(options.clone()));
    let table = "connectivity_trace".parse()?;
    let store = PostgresStore::new(PostgresOptions { connect, table, lanes: 1, manage_schema: false });
    let key = WrappedKey { id: 7, wrapped_by: "k".to_owned(), wrapped: vec![1], created_at_ms: 0 };
    let dictionary = SealedDictionary { id: 1, sealed: vec![1], permille: 300, created_at_ms: 0 };
    ensure!(store.add_data_key(&key).await? && store.add_dictionary(&dictionary).await?, "they are there");
    ensure!(store.data_key(7).await?.is_some(), "the key looks lost");
    ensure!(store.dictionary(1).await?.is_some(), "the dictionary looks lost");
    execute(
        &Sink::Postgres(url.to_owned()),
        "INSERT INTO sluice_dead_letter (table_name, id, stream, topic, \"partition\", \"offset\", reason, detail) \
         VALUES ('connectivity_trace', 1, 0, 'topic', 0, 0, 'Tombstone', '')",
    )
    .await?;
    ensure!(store.letters(&LetterFilter::default(), 0, 9).await?.len() == 1, "the letter looks gone");
    store.close().await;
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka, PostgreSQL and Pgpool-II"]
async fn a_proxy_that_reads_from_a_standby_that_lags_makes_no_position_stale() {
    read_from_a_standby().await.unwrap();
}

mod long {
    use super::*;

    /// Two servers, the second one a replica of the first.
    async fn primary_and_replica() -> anyhow::Result<(MariaDb, MariaDb)> {
        let common = ["--log-bin=log", "--sync-binlog=1", "--binlog-format=ROW", "--gtid-strict-mode=ON"];
        let with = |id: &'static str| common.into_iter().chain([id]).collect::<Vec<_>>();
        let primary = MariaDb::start_with(&with("--server-id=1")).await?;
        let replica = MariaDb::start_with(&with("--server-id=2")).await?;
        let url = primary.pod_url("");
        let port = url.trim_end_matches('/').rsplit(':').next().context("no port")?.to_owned();
        replica.execute("RESET MASTER; SET GLOBAL gtid_slave_pos = ''").await?;
        primary.execute("RESET MASTER").await?;
        replica
            .execute(&format!(
                "CHANGE MASTER TO MASTER_HOST='127.0.0.1', MASTER_PORT={port}, MASTER_USER='root', \
                 MASTER_USE_GTID=slave_pos; START SLAVE; SET GLOBAL read_only = ON"
            ))
            .await?;
        Ok((primary, replica))
    }

    async fn mariadb_failed_over() -> anyhow::Result<()> {
        let (mut primary, replica) = primary_and_replica().await?;
        let name = unique("failover");
        let sinks = [primary.database(&name).await?, replica.url(&name)].map(Sink::Mysql);
        let promote = async || {
            // It still thinks that it is the primary; nobody talks to it any more.
            primary.server()?.freeze()?;
            replica.execute("RESET SLAVE ALL; SET GLOBAL read_only = OFF").await
        };
        failed_over(sinks, &name, async || replica.execute("STOP SLAVE").await, promote).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs Kafka and MariaDB"]
    async fn a_replica_that_becomes_the_primary_behind_its_address_gets_what_it_had_missed() {
        mariadb_failed_over().await.unwrap();
    }

    async fn postgres_failed_over() -> anyhow::Result<()> {
        let mut primary = Postgres::start().await?;
        let standby = primary.start_replica().await?;
        let name = unique("failover");
        let sinks = [primary.database(&name).await?, standby.url(&name)].map(Sink::Postgres);
        let promote = async || {
            primary.server()?.freeze()?;
            standby.execute("SELECT pg_promote()").await
        };
        failed_over(sinks, &name, async || detach(&standby).await, promote).await
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs Kafka and PostgreSQL"]
    async fn a_standby_that_becomes_the_primary_behind_its_address_gets_what_it_had_missed() {
        postgres_failed_over().await.unwrap();
    }
}
