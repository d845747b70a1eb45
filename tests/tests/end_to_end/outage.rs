//! Guarantee 5: a database that is away is waited for, without loss, dead letters, growth or a burst afterwards.

use std::time::Duration;

use anyhow::ensure;
use sluice_tests::eventually;
use sluice_tests::kafka::Kafka;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::oracle::database::Database;
use sluice_tests::postgres::Postgres;
use sluice_tests::rate::{Releases, bound};
use sluice_tests::sluice::{Home, Pipeline, Sink, Sluice};

use crate::world::{Case, now_ms, unique};

const QPS: u32 = 2_000;
/// Twenty minutes, scaled.
const OUTAGE_MS: i64 = 8_000;
/// "Recovers within 10 s".
const RECOVERY: Duration = Duration::from_secs(10);
const MIB: u64 = 1 << 20;

/// A server that can be taken away.
enum Server {
    Mysql(MariaDb),
    Postgres(Postgres),
}

impl Server {
    fn inner(&mut self) -> anyhow::Result<&mut sluice_tests::server::Server> {
        match self {
            Self::Mysql(server) => server.server(),
            Self::Postgres(server) => server.server(),
        }
    }

    async fn restart(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Mysql(server) => server.restart().await,
            Self::Postgres(server) => server.restart().await,
        }
    }
}

async fn passes(milliseconds: i64) -> anyhow::Result<()> {
    let end = now_ms() + milliseconds;
    let deadline = Duration::from_millis(milliseconds as u64 + 5_000);
    eventually("the outage to pass", deadline, async || Ok((now_ms() >= end).then_some(()))).await
}

async fn waits_out_outages(mut server: Server, sink: Sink) -> anyhow::Result<()> {
    let case = Case::with_sink(sink, &unique("outage"), 6, |pipeline| pipeline.rate = QPS).await?;
    let ledger = Ledger { seed: 31, shape: Shape::Json, spans_per_message: 10, padding: 0 };
    let messages = 6_000;
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 6) as i32).await?;
    let began = now_ms();
    let mut sluice = case.replica("only").await?;
    case.wait_settled(messages / 10, Duration::from_secs(60)).await?;
    let memory_before = sluice.component.memory("VmHWM")?;

    // Killed in mid-batch, away for long.
    server.inner()?.kill().await?;
    passes(OUTAGE_MS).await?;
    let status = sluice.status().await?;
    ensure!(status["lastError"].is_string(), "an outage that nobody is told of: {status}");
    let (code, _) = sluice.get("/readyz").await?;
    ensure!(code == 200, "database trouble must not show as not ready, but /readyz answered {code}");
    server.restart().await?;
    let back = case.settled().await?;
    case.wait_settled(back + 100, RECOVERY).await?;

    // Frozen: connections stay open, nothing answers.
    server.inner()?.freeze()?;
    passes(OUTAGE_MS).await?;
    server.inner()?.thaw()?;
    let thawed = case.settled().await?;
    case.wait_settled(thawed + 100, RECOVERY).await?;

    let memory_after = sluice.component.memory("VmHWM")?;
    println!("peak memory before {} MiB, after {} MiB", memory_before / MIB, memory_after / MIB);
    ensure!(
        memory_after <= memory_before + 8 * MIB,
        "memory grew from {memory_before} to {memory_after} bytes during outages"
    );
    case.wait_settled(messages, Duration::from_secs(120)).await?;
    sluice.component.stop(Duration::from_secs(20)).await?;
    case.audit(&ledger, messages * ledger.spans_per_message, &[]).await?;
    let releases = Releases::from_ids(case.database().await?.ids().await?);
    let fullest = releases.fullest_second(began, now_ms());
    ensure!(
        fullest.count as f64 <= bound(f64::from(QPS), 6, 10),
        "{} releases in one second after an outage",
        fullest.count
    );
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn mariadb_killed_and_frozen_costs_no_span_and_no_burst() {
    let mariadb = MariaDb::start().await.unwrap();
    let sink = Sink::Mysql(mariadb.database("outage").await.unwrap());
    waits_out_outages(Server::Mysql(mariadb), sink).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn postgres_killed_and_frozen_costs_no_span_and_no_burst() {
    let postgres = Postgres::start().await.unwrap();
    let sink = Sink::Postgres(postgres.database("outage").await.unwrap());
    waits_out_outages(Server::Postgres(postgres), sink).await.unwrap();
}

async fn broker_killed_and_restarted() -> anyhow::Result<()> {
    let mut kafka = Kafka::start().await?;
    kafka.create_topic("spans", 3, &[]).await?;
    let mut pipeline = Pipeline::new(kafka.bootstrap(), "spans", Sink::Sqlite("traces".to_owned()));
    pipeline.rate = QPS;
    let home = Home::new(&pipeline)?;
    let ledger = Ledger { seed: 32, shape: Shape::Json, spans_per_message: 10, padding: 0 };
    ledger.produce(&kafka, "spans", 0..2_000, |message| (message % 3) as i32).await?;
    let mut sluice = Sluice::ready(&home, "only").await?;
    let database = Database::connect(&format!("sqlite:{}", home.sqlite_file("traces").display())).await?;
    let stored = async |rows: u64, deadline: Duration| {
        eventually(&format!("{rows} rows"), deadline, async || {
            Ok((database.count().await >= rows).then_some(()))
        })
        .await
    };
    stored(4_000, Duration::from_secs(30)).await?;
    kafka.kill().await?;
    kafka.restart().await?;
    ledger.produce(&kafka, "spans", 2_000..3_000, |message| (message % 3) as i32).await?;
    // "Resumes within 30 s", and then the rest at the rate.
    stored(30_000, Duration::from_secs(30 + 15)).await?;
    sluice.component.stop(Duration::from_secs(20)).await?;
    let problems = database.audit(&ledger, 30_000, &[]).await?;
    ensure!(problems.is_empty(), "{}", sluice_tests::oracle::report(&problems));
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_broker_killed_and_restarted_costs_no_span() {
    broker_killed_and_restarted().await.unwrap();
}
