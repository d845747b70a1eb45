//! Kafka's password is rotated while a consumer reads.

use std::path::Path;
use std::time::Duration;

use anyhow::ensure;
use sluice_tests::eventually;
use sluice_tests::kafka::{Kafka, USER};
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::oracle::database::Database;
use sluice_tests::oracle::{PositionWatch, Positions, report};
use sluice_tests::sluice::{Home, Pipeline, Sink, Sluice, read_partitions, secret, tells};

use crate::world::unique;

const WAIT: Duration = Duration::from_secs(60);
const PARTITIONS: i32 = 3;
const QPS: u32 = 1_000;
const MESSAGES: u64 = 2_000;
/// Ten a message.
const SPANS: u64 = 10 * MESSAGES;
const ANEW: &str =
    "brokers refuse the credentials of the Kafka client, and others are there: connecting anew";

async fn stored(database: &Database, at_least: u64) -> anyhow::Result<()> {
    eventually(&format!("{at_least} rows"), WAIT, async || {
        Ok(database.count().await.is_ok_and(|rows| rows >= at_least).then_some(()))
    })
    .await
}

async fn connect(file: &Path) -> anyhow::Result<Database> {
    let url = format!("sqlite:{}", file.display());
    eventually("the SQLite file", WAIT, async || Ok(Database::connect(&url).await.ok())).await
}

async fn rotated() -> anyhow::Result<()> {
    let (mut kafka, topic) = (Kafka::start().await?, unique("rotated"));
    kafka.create_topic(&topic, PARTITIONS, &[]).await?;
    let ledger = Ledger::new(131, Shape::Json);
    ledger.produce(&kafka, &topic, 0..MESSAGES, |message| (message % 3) as i32).await?;
    let mut pipeline =
        Pipeline::new(&kafka.protected_bootstrap()?, &topic, Sink::Sqlite("traces".to_owned()));
    pipeline.rate = QPS;
    pipeline.notice_deaths_soon();
    pipeline.security = format!(
        "      sasl: {{ mechanism: PLAIN, usernameFrom: {}, passwordFrom: {} }}\n",
        secret("kafka", "user"),
        secret("kafka", "password")
    );
    let home = Home::new(&pipeline)?;
    home.save_secret("kafka", "user", USER.0)?;
    home.save_secret("kafka", "password", USER.1)?;
    let mut sluice = Sluice::ready(&home, "only").await?;
    let database = connect(&home.sqlite_file("traces")).await?;
    stored(&database, 1_000).await?;

    // The broker first: the old password is refused until the new one is mounted.
    kafka.set_password("canary-second-password")?;
    kafka.kill().await?;
    kafka.restart().await?;
    sluice.status_where("the refusal", WAIT, tells("SourceDenied")).await?;
    let before = database.count().await?;
    ensure!(before < SPANS / 2, "{before} rows: too few are left to show anything");
    home.save_secret("kafka", "password", "canary-second-password")?;
    stored(&database, before + 2_000).await?;
    let status = sluice.status().await?;
    ensure!(status["errors"].as_array().is_some_and(Vec::is_empty), "{status}");
    ensure!(read_partitions(&status).len() == PARTITIONS as usize, "{status}");
    ensure!(sluice.logged(ANEW).len() == 1, "connected anew {} times", sluice.logged(ANEW).len());

    // The mount first, as somebody would who rotates without a gap.
    home.save_secret("kafka", "password", "canary-third-password")?;
    kafka.set_password("canary-third-password")?;
    kafka.kill().await?;
    kafka.restart().await?;
    stored(&database, SPANS).await?;
    ensure!(sluice.logged(ANEW).len() == 2, "connected anew {} times", sluice.logged(ANEW).len());
    ensure!(sluice.logged("started").len() == 1, "the process was started again");
    let (code, body) = sluice.get("/readyz").await?;
    ensure!(code == 200, "/readyz answered {code}: {body}");
    sluice.component.stop(WAIT).await?;
    let problems = database.audit(&ledger, SPANS, &[]).await?;
    ensure!(problems.is_empty(), "{}", report(&problems));
    let whose = Positions { group: &pipeline.group, topic: &topic, partitions: PARTITIONS };
    PositionWatch::default().look(whose, &kafka, &database).await?;
    ensure!(!sluice.component.log_tail(100_000).contains("canary"), "a password is in the log");
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn kafkas_password_is_rotated_without_a_restart_and_without_a_lost_or_doubled_row() {
    rotated().await.unwrap();
}
