//! A network that loses packets on the way to the database: slower, and nothing else.

use std::time::Duration;

use anyhow::{Context, ensure};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::packets::Loss;
use sluice_tests::postgres::Postgres;
use sluice_tests::sluice::Sink;

use crate::WAIT;
use crate::database::{PARTITIONS, QPS, finish, ledger};
use crate::world::{Case, unique};

/// Of all packets, each way. A transaction has some ten of them: most of them lose one.
const SHARE: f64 = 0.1;

async fn a_way_that_loses_packets(sink: Sink, port: u16) -> anyhow::Result<()> {
    let case = Case::with_sink(sink, &unique("packets"), PARTITIONS, |pipeline| pipeline.rate = QPS).await?;
    let (ledger, messages) = (ledger(96), 4_000);
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 2) as i32).await?;
    let mut sluice = case.replica("first").await?;
    case.wait_settled(100, WAIT).await?;
    let loss = Loss::start(port, SHARE)?;
    let before = case.settled().await?;
    case.wait_settled(before + 200, WAIT).await?;
    // Its last answer may have been on the way.
    sluice.kill().await?;
    let before = case.settled().await?;
    let sluice = case.replica("second").await?;
    case.wait_settled(before + 200, WAIT).await?;
    drop(loss);
    let letters = case.database().await?.count_dead_letters().await?;
    ensure!(letters == 0, "{letters} dead letters");
    let before = case.settled().await?;
    case.wait_settled(before + 100, Duration::from_secs(10)).await?;
    finish(case, sluice, &ledger, messages).await.map(drop)
}

async fn mariadb() -> anyhow::Result<()> {
    let server = MariaDb::start().await?;
    let sink = Sink::Mysql(server.database("packets").await?);
    a_way_that_loses_packets(sink, server.address()?.port()).await
}

#[tokio::test]
#[ignore = "needs root, Kafka and MariaDB"]
async fn a_tenth_of_the_packets_to_mariadb_lost_costs_time_and_nothing_else() {
    mariadb().await.unwrap();
}

async fn postgres() -> anyhow::Result<()> {
    let server = Postgres::start().await?;
    let sink = Sink::Postgres(server.database("packets").await?);
    a_way_that_loses_packets(sink, server.own_port().context("a server of our own")?).await
}

#[tokio::test]
#[ignore = "needs root, Kafka and PostgreSQL"]
async fn a_tenth_of_the_packets_to_postgres_lost_costs_time_and_nothing_else() {
    postgres().await.unwrap();
}
