//! Disks that are full: nothing is lost, nothing becomes a dead letter, and it goes on once there is room again.

use std::time::Duration;

use anyhow::ensure;
use sluice_tests::disk::Disk;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::passes;
use sluice_tests::postgres::Postgres;
use sluice_tests::sluice::Sink;

use crate::world::{Case, Engine, unique};
use crate::{GRACE, WAIT, is_degraded};

const MIB: u64 = 1 << 20;
const QPS: u32 = 1_000;
/// Bodies of two kilobytes: there is soon no room left for them.
const PADDING: usize = 2_000;
const MESSAGES: u64 = 3_000;

/// What fills a disk, and what makes room again.
trait Place {
    fn fill(&mut self) -> anyhow::Result<()>;
    async fn free(&mut self) -> anyhow::Result<()>;
}

async fn full_disk(mut case: Case, mut place: impl Place) -> anyhow::Result<()> {
    let ledger = Ledger { seed: 96, shape: Shape::Json, spans_per_message: 10, padding: PADDING };
    ledger.produce(case.kafka, &case.topic, 0..MESSAGES, |_| 0).await?;
    let mut sluice = case.replica("only").await?;
    case.wait_settled(100, WAIT).await?;
    place.fill()?;
    sluice.status_where("the full disk to be told of", WAIT, is_degraded).await?;
    // Whatever room the server had set aside is used up by then.
    let mut stood = None;
    for _ in 0..30 {
        let before = case.settled().await.ok();
        passes(Duration::from_secs(2)).await?;
        if before == case.settled().await.ok() {
            stood = before;
            break;
        }
    }
    let status = sluice.status().await?;
    println!("stood at {stood:?} with {}", status["lastError"]);
    ensure!(is_degraded(&status), "a full disk that nobody is told of any more: {status}");
    ensure!(sluice.component.is_running()?, "the consumer ended: {}", sluice.component.log_tail(20));
    ensure!(stood.is_none_or(|stood| stood < MESSAGES), "the backlog ended before the disk was full");
    place.free().await?;
    case.edit(|pipeline| pipeline.rate = 20 * QPS)?;
    case.wait_settled(MESSAGES, Duration::from_secs(120)).await?;
    sluice.component.stop(GRACE).await?;
    case.audit(&ledger, MESSAGES * ledger.spans_per_message, &[]).await
}

impl Place for MariaDb {
    fn fill(&mut self) -> anyhow::Result<()> {
        self.server()?.disk()?.fill()
    }

    async fn free(&mut self) -> anyhow::Result<()> {
        self.server()?.disk()?.free()?;
        self.restart().await
    }
}

impl Place for Postgres {
    fn fill(&mut self) -> anyhow::Result<()> {
        self.server()?.disk()?.fill()
    }

    /// Where it cannot write its log it ends; somebody has to start it again.
    async fn free(&mut self) -> anyhow::Result<()> {
        self.server()?.disk()?.free()?;
        self.restart().await
    }
}

impl Place for Disk {
    fn fill(&mut self) -> anyhow::Result<()> {
        Self::fill(self)
    }

    async fn free(&mut self) -> anyhow::Result<()> {
        Self::free(self)
    }
}

mod long {
    use super::*;

    #[tokio::test]
    #[ignore = "needs Kafka, MariaDB and root"]
    async fn a_full_disk_under_mariadb_is_waited_out() {
        let options = ["--innodb-log-file-size=16M", "--innodb-buffer-pool-size=32M"];
        let mariadb = MariaDb::start_on_disk(400 * MIB, &options).await.unwrap();
        let name = unique("full");
        let sink = Sink::Mysql(mariadb.database(&name).await.unwrap());
        let case = Case::with_sink(sink, &name, 1, |pipeline| pipeline.rate = QPS).await.unwrap();
        full_disk(case, mariadb).await.unwrap();
    }

    #[tokio::test]
    #[ignore = "needs Kafka, PostgreSQL and root"]
    async fn a_full_disk_under_postgres_is_waited_out() {
        let postgres = Postgres::start_on_disk(400 * MIB, &["shared_buffers=32MB"]).await.unwrap();
        let name = unique("full");
        let sink = Sink::Postgres(postgres.database(&name).await.unwrap());
        let case = Case::with_sink(sink, &name, 1, |pipeline| pipeline.rate = QPS).await.unwrap();
        full_disk(case, postgres).await.unwrap();
    }

    #[tokio::test]
    #[ignore = "needs Kafka and root"]
    async fn a_full_disk_under_sqlite_is_waited_out() {
        let case = Case::new(Engine::Sqlite, "full", 1, |pipeline| pipeline.rate = QPS).await.unwrap();
        let disk = Disk::mount(&case.home.path().join("data"), 200 * MIB).unwrap();
        full_disk(case, disk).await.unwrap();
    }
}
