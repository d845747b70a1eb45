//! Replicas that come and go every five seconds, on a database that takes its time.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::now_ms;
use sluice_tests::rate::bound;
use sluice_tests::sluice::Sluice;

use crate::world::{Case, Engine};
use crate::{GRACE, WAIT};

const PARTITIONS: i32 = 6;
const QPS: u32 = 500;
/// What every answer of the database takes besides.
const DELAY: Duration = Duration::from_millis(100);
/// Between two changes.
const STEP: Duration = Duration::from_secs(5);
const STEPS: u32 = 12;
/// "No partition silent for over 30 s".
const SILENT: Duration = Duration::from_secs(30);

/// Since when each partition stands where it does.
struct Silence {
    moved: HashMap<i64, (i64, Instant)>,
    longest: Duration,
}

impl Silence {
    fn new() -> Self {
        let now = Instant::now();
        let moved = (0..i64::from(PARTITIONS)).map(|partition| (partition, (0, now))).collect();
        Self { moved, longest: Duration::ZERO }
    }

    async fn observe(&mut self, case: &Case) -> anyhow::Result<()> {
        for position in case.database().await?.positions().await? {
            let (offset, since) = self.moved.get_mut(&position.partition).context("an unknown partition")?;
            if *offset != position.next_offset {
                (*offset, *since) = (position.next_offset, Instant::now());
            }
        }
        let longest = self.moved.values().map(|(_, since)| since.elapsed()).max().unwrap_or_default();
        self.longest = self.longest.max(longest);
        Ok(())
    }
}

async fn comings_and_goings() -> anyhow::Result<()> {
    let mut case = Case::new(Engine::Mysql, "fleet", PARTITIONS, |pipeline| {
        pipeline.rate = QPS;
        pipeline.notice_deaths_soon();
    })
    .await?;
    let proxy = case.behind_a_proxy("").await?;
    proxy.delay(DELAY);
    let ledger = Ledger { seed: 99, shape: Shape::Json, spans_per_message: 10, padding: 0 };
    let messages = 6_000;
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 6) as i32).await?;

    let began = now_ms();
    let mut replicas = vec![case.replica("0").await?];
    let mut silence = Silence::new();
    for step in 1..=STEPS {
        let until = Instant::now() + STEP;
        while Instant::now() < until {
            silence.observe(&case).await?;
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        case.positions_hold().await?;
        // One more, one more, the oldest is asked to go, the oldest is killed.
        match step % 4 {
            1 | 2 => replicas.push(Sluice::start(&case.home, &step.to_string())?),
            3 => replicas.remove(0).component.stop(GRACE).await?,
            _ => replicas.remove(0).kill().await?,
        }
    }
    println!("the longest silence of a partition: {:?}", silence.longest);
    ensure!(silence.longest < SILENT, "a partition was silent for {:?}", silence.longest);
    ensure!(case.settled().await? < messages, "the backlog ended before the measurement");

    let edited = case.edit(|pipeline| pipeline.rate = 40 * QPS)?;
    proxy.delay(Duration::ZERO);
    case.wait_settled(messages, WAIT).await?;
    for replica in &mut replicas {
        replica.component.stop(GRACE).await?;
    }
    case.audit(&ledger, messages * ledger.spans_per_message, &[]).await?;
    let releases = case.database().await?.released().await?;
    let allowed = bound(f64::from(QPS), PARTITIONS as u32, ledger.spans_per_message);
    releases.check_bound(began, edited - 3_000, allowed, "until the edit")
}

mod long {
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    #[ignore = "needs Kafka and MariaDB"]
    async fn replicas_that_come_and_go_on_a_slow_database_leave_no_partition_silent_and_keep_the_rate() {
        super::comings_and_goings().await.unwrap();
    }
}
