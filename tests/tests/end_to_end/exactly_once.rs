//! Guarantee 1: every span exactly once, through kills and rebalances.

use std::time::Duration;

use anyhow::{Context, ensure};
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::sluice::{Sluice, read_partitions};

use crate::world::{Case, Engine};

const PARTITIONS: i32 = 6;
const SPANS: u64 = 200_000;
/// Slow enough that every step finds spans still to be stored.
const QPS: u32 = 5_000;
/// Within which a replica that has started stores its first row, a dead member's partitions included.
const TAKES_PART: Duration = Duration::from_secs(40);
/// How long a consumer may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(20);
const DEADLINE: Duration = Duration::from_secs(240);
/// Each look asks Kafka and the database; QPS leaves time for hundreds of them between two steps.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// What happens when so many parts of a hundred are settled.
enum Step {
    /// kill -9 in the midst of storing, and start again.
    Kill,
    /// A second replica starts.
    Join,
    /// It has stored something and stops as asked (SIGTERM).
    Leave,
}

/// Waits until a replica has stored rows and owns partitions: whatever is done to it then hits it at work.
async fn takes_part(replica: &Sluice) -> anyhow::Result<()> {
    let at_work = |status: &serde_json::Value| {
        status["stored"].as_u64() > Some(0) && !read_partitions(status).is_empty()
    };
    replica.status_where("the replica to store rows", TAKES_PART, at_work).await.map(drop)
}

async fn drains_exactly_once(engine: Engine, steps: &[(u64, Step)]) -> anyhow::Result<()> {
    let case = Case::new(engine, "exactly_once", PARTITIONS, |pipeline| {
        pipeline.rate = QPS;
        pipeline.notice_deaths_soon();
    })
    .await?;
    let ledger = Ledger::new(11, Shape::Json);
    let messages = SPANS / ledger.spans_per_message;
    // Uneven on purpose: one partition is longer than the others.
    let partition_of = |message: u64| if message.is_multiple_of(4) { 0 } else { (message % 6) as i32 };
    ledger.produce(case.kafka, &case.topic, 0..messages, partition_of).await?;

    let mut first = case.replica("first").await?;
    let mut second: Option<Sluice> = None;
    let began = std::time::Instant::now();
    let mut steps = steps.iter().peekable();
    loop {
        let settled = case.settled().await?;
        case.positions_hold().await?;
        if settled >= messages && steps.peek().is_none() {
            break;
        }
        ensure!(began.elapsed() < DEADLINE, "only {settled} of {messages} messages after {DEADLINE:?}");
        ensure!(first.component.is_running()?, "the consumer ended:\n{}", first.component.log_tail(40));
        let Some((percent, step)) = steps.next_if(|(percent, _)| settled * 100 >= messages * percent) else {
            tokio::time::sleep(BETWEEN_LOOKS).await;
            continue;
        };
        match step {
            Step::Kill => {
                takes_part(&first).await?;
                first.kill().await?;
            }
            Step::Join => second = Some(Sluice::start(&case.home, "second")?),
            Step::Leave => {
                let mut second = second.take().context("no second replica")?;
                takes_part(&second).await?;
                second.component.stop(GRACE).await?;
            }
        }
        // A step at the end of the backlog would prove nothing.
        let settled = case.settled().await?;
        ensure!(settled < messages, "nothing was left to be stored at the step of {percent} %");
        if matches!(step, Step::Kill) {
            first = Sluice::start(&case.home, "first")?;
        }
    }
    first.component.stop(GRACE).await?;
    case.audit(&ledger, SPANS, &[]).await?;
    // After a clean end lag tools see the truth.
    let committed = case.kafka.committed(&case.pipeline.group, &case.topic, PARTITIONS).await?;
    ensure!(committed.iter().flatten().sum::<u64>() == messages, "committed {committed:?} of {messages}");
    Ok(())
}

const KILLS_AND_REPLICAS: [(u64, Step); 7] = [
    (8, Step::Kill),
    (18, Step::Join),
    (28, Step::Kill),
    (40, Step::Kill),
    (52, Step::Leave),
    (64, Step::Kill),
    (80, Step::Kill),
];
const KILLS: [(u64, Step); 5] =
    [(8, Step::Kill), (24, Step::Kill), (40, Step::Kill), (60, Step::Kill), (80, Step::Kill)];

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn mariadb_gets_every_span_once_through_five_kills_and_a_second_replica() {
    drains_exactly_once(Engine::Mysql, &KILLS_AND_REPLICAS).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn postgres_gets_every_span_once_through_five_kills_and_a_second_replica() {
    drains_exactly_once(Engine::Postgres, &KILLS_AND_REPLICAS).await.unwrap();
}

/// A SQLite file has one writer, and its pipeline one replica: there is no second one that could join.
#[tokio::test]
#[ignore = "needs Kafka"]
async fn sqlite_gets_every_span_once_through_five_kills_of_its_only_replica() {
    drains_exactly_once(Engine::Sqlite, &KILLS).await.unwrap();
}
