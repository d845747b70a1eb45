//! What administrators and servers do to a database while it is written to.

use std::time::Duration;

use anyhow::{Context, ensure};
use sluice_tests::eventually;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::oracle::database::Database;
use sluice_tests::postgres::Postgres;
use sluice_tests::proxy::Proxy;
use sluice_tests::sluice::{Sink, Sluice, tells};
use sqlx::Connection;

use crate::world::{Case, Engine, unique};
use crate::{GRACE, WAIT, execute, is_degraded, passes};

const PARTITIONS: i32 = 2;
const QPS: u32 = 1_000;
/// What is left at the end need not take as long.
const QUICK: u32 = 20_000;
/// "Recovers within 10 s".
const RECOVERY: Duration = Duration::from_secs(10);

fn ledger(seed: u64) -> Ledger {
    Ledger { seed, shape: Shape::Json, spans_per_message: 10, padding: 0 }
}

/// The address in a URL with a user, and the URL of the same database by way of a proxy.
fn address_of(url: &str) -> anyhow::Result<&str> {
    url.split(['@', '/']).nth(3).context("no address in the URL")
}

/// Nothing moves for two seconds, and somebody is told why.
async fn stands_still(case: &Case, sluice: &Sluice) -> anyhow::Result<u64> {
    sluice.status_where("trouble to be told of", WAIT, is_degraded).await?;
    // Transactions that had begun.
    passes(Duration::from_millis(500)).await?;
    let before = case.settled().await?;
    passes(Duration::from_secs(2)).await?;
    let after = case.settled().await?;
    ensure!(before == after, "the position moved from {before} to {after}");
    Ok(after)
}

/// The rest is stored quickly; every span of the ledger must be there once.
async fn finish(mut case: Case, mut sluice: Sluice, ledger: &Ledger, messages: u64) -> anyhow::Result<Case> {
    ensure!(case.settled().await? < messages, "the backlog ended before the last fault");
    case.edit(|pipeline| pipeline.rate = QUICK)?;
    case.wait_settled(messages, WAIT).await?;
    ensure!(sluice.component.is_running()?, "the consumer ended: {}", sluice.component.log_tail(20));
    sluice.component.stop(GRACE).await?;
    case.audit(ledger, messages * ledger.spans_per_message, &[]).await?;
    Ok(case)
}

async fn read_only_and_another_password() -> anyhow::Result<()> {
    let server = MariaDb::start().await?;
    let name = unique("rotated");
    let root = server.database(&name).await?;
    // Whoever may do everything may also write to a read-only server.
    server
        .execute(
            "CREATE USER app@'127.0.0.1' IDENTIFIED BY 'first'; GRANT ALL ON *.* TO app@'127.0.0.1'; \
             REVOKE SUPER, READ_ONLY ADMIN ON *.* FROM app@'127.0.0.1'",
        )
        .await?;
    let case =
        Case::with_sink(Sink::Mysql(root.clone()), &name, PARTITIONS, |pipeline| pipeline.rate = QPS).await?;
    let url = |password: &str| root.replace("root@", &format!("app:{password}@"));
    case.home.save_url(&url("first"))?;
    let (ledger, messages) = (ledger(92), 4_000);
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 2) as i32).await?;
    let sluice = case.replica("only").await?;
    case.wait_settled(100, WAIT).await?;

    server.execute("SET GLOBAL read_only = ON").await?;
    let stood = stands_still(&case, &sluice).await?;
    server.execute("SET GLOBAL read_only = OFF").await?;
    case.wait_settled(stood + 50, RECOVERY).await?;

    server.execute("ALTER USER app@'127.0.0.1' IDENTIFIED BY 'second'; KILL USER app").await?;
    sluice.status_where("the refused password to be told of", WAIT, tells("StoreDenied")).await?;
    let stood = stands_still(&case, &sluice).await?;
    case.home.save_url(&url("second"))?;
    case.wait_settled(stood + 50, RECOVERY).await?;
    finish(case, sluice, &ledger, messages).await.map(drop)
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn a_read_only_database_and_a_rotated_password_are_waited_out_without_a_restart() {
    read_only_and_another_password().await.unwrap();
}

async fn read_only_postgres() -> anyhow::Result<()> {
    let postgres = Postgres::start().await?;
    let name = unique("readonly");
    let url = postgres.database(&name).await?;
    let administrator = Sink::Postgres(postgres.database(&format!("{name}_aside")).await?);
    let case =
        Case::with_sink(Sink::Postgres(url), &name, PARTITIONS, |pipeline| pipeline.rate = QPS).await?;
    let (ledger, messages) = (ledger(105), 3_000);
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 2) as i32).await?;
    let sluice = case.replica("only").await?;
    case.wait_settled(100, WAIT).await?;
    // Sessions that are open keep what they began with.
    let ends = format!("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'");
    let read_only = format!("ALTER DATABASE \"{name}\" SET default_transaction_read_only = on; {ends}");
    execute(&administrator, &read_only).await?;
    let stood = stands_still(&case, &sluice).await?;
    execute(
        &administrator,
        &format!("ALTER DATABASE \"{name}\" RESET default_transaction_read_only; {ends}"),
    )
    .await?;
    case.wait_settled(stood + 50, RECOVERY).await?;
    finish(case, sluice, &ledger, messages).await.map(drop)
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn a_read_only_postgres_is_waited_out_without_a_restart() {
    read_only_postgres().await.unwrap();
}

async fn a_table_without_a_place_for_rows() -> anyhow::Result<()> {
    let case = Case::new(Engine::Mysql, "unplaced", PARTITIONS, |pipeline| pipeline.rate = QPS).await?;
    execute(
        &case.pipeline.sink,
        "CREATE TABLE connectivity_trace (id bigint unsigned NOT NULL, trace_id varchar(64) NOT NULL, \
         kind varchar(16) NOT NULL, body longtext NOT NULL, created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, \
         PRIMARY KEY (id, created_at)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 \
         PARTITION BY RANGE (UNIX_TIMESTAMP(created_at)) (PARTITION old VALUES LESS THAN (1000))",
    )
    .await?;
    let (ledger, messages) = (ledger(93), 300);
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 2) as i32).await?;
    let sluice = case.replica("only").await?;
    sluice.status_where("a table that takes nothing to be told of", WAIT, is_degraded).await?;
    passes(Duration::from_secs(3)).await?;
    let database = case.database().await?;
    let (settled, letters) = (case.settled().await?, database.count_dead_letters().await?);
    ensure!(settled == 0 && letters == 0, "{settled} messages settled, {letters} of them dead letters");
    execute(
        &case.pipeline.sink,
        "ALTER TABLE connectivity_trace ADD PARTITION (PARTITION rest VALUES LESS THAN MAXVALUE)",
    )
    .await?;
    case.wait_settled(10, RECOVERY).await?;
    finish(case, sluice, &ledger, messages).await.map(drop)
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn a_table_that_takes_no_row_holds_the_topic_until_it_is_mended() {
    a_table_without_a_place_for_rows().await.unwrap();
}

/// Another session holds the positions for so long that every wait for them times out.
async fn locks_of_somebody_else() -> anyhow::Result<()> {
    let case = Case::new(Engine::Mysql, "locked", PARTITIONS, |pipeline| pipeline.rate = QPS).await?;
    let (ledger, messages) = (ledger(94), 4_000);
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 2) as i32).await?;
    let sluice = case.replica("only").await?;
    case.wait_settled(100, WAIT).await?;
    let Sink::Mysql(url) = &case.pipeline.sink else { unreachable!("MariaDB") };
    let mut other = sqlx::MySqlConnection::connect(url).await?;
    for _ in 0..2 {
        let mut transaction = other.begin().await?;
        sqlx::query("SELECT stream FROM sluice_progress FOR UPDATE").fetch_all(&mut *transaction).await?;
        stands_still(&case, &sluice).await?;
        passes(Duration::from_secs(4)).await?;
        let stood = case.settled().await?;
        transaction.rollback().await?;
        case.wait_settled(stood + 50, Duration::from_secs(5)).await?;
    }
    finish(case, sluice, &ledger, messages).await.map(drop)
}

mod long {
    use super::*;

    #[tokio::test]
    #[ignore = "needs Kafka and MariaDB"]
    async fn locks_that_somebody_else_holds_cost_no_dead_letter_and_no_time_once_they_are_gone() {
        locks_of_somebody_else().await.unwrap();
    }

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

    /// The address behind a proxy becomes that of a replica, which has not got everything that the primary had
    /// committed: rows and position are behind together, and what is missing is stored again.
    async fn failed_over() -> anyhow::Result<()> {
        let (mut primary, replica) = primary_and_replica().await?;
        let name = unique("failover");
        let url = primary.database(&name).await?;
        let other_url = format!("{}{name}", replica.pod_url(""));
        let (address, other) = (address_of(&url)?, address_of(&other_url)?);
        let proxy = Proxy::start(address.parse()?).await?;
        // The oracle looks at the one that is left at the end.
        let case = Case::with_sink(Sink::Mysql(other_url.clone()), &name, PARTITIONS, |pipeline| {
            pipeline.rate = QPS;
        })
        .await?;
        case.home.save_url(&url.replace(address, &proxy.address().to_string()))?;
        let (ledger, messages) = (ledger(95), 6_000);
        ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 2) as i32).await?;
        let sluice = case.replica("only").await?;
        let database = Database::connect(&url).await?;
        eventually("rows in the primary", WAIT, async || Ok((database.count().await? > 2_000).then_some(())))
            .await?;
        replica.execute("STOP SLAVE").await?;
        let behind = case.settled().await?;
        eventually("the primary to get ahead", WAIT, async || {
            let ahead: i64 = database.positions().await?.iter().map(|position| position.next_offset).sum();
            Ok((ahead as u64 > behind + 100).then_some(()))
        })
        .await?;
        primary.server()?.freeze()?;
        replica.execute("RESET SLAVE ALL; SET GLOBAL read_only = OFF").await?;
        let stood = case.settled().await?;
        proxy.redirect(other.parse()?);
        case.wait_settled(stood + 50, RECOVERY).await?;
        // It still thinks that it is the primary; nobody talks to it any more.
        primary.server()?.thaw()?;
        finish(case, sluice, &ledger, messages).await.map(drop)
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs Kafka and MariaDB"]
    async fn a_replica_that_becomes_the_primary_behind_its_address_gets_what_it_had_missed() {
        failed_over().await.unwrap();
    }
}
