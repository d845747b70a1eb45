//! Guarantee 1: every span exactly once, through kills and rebalances.

use std::time::Duration;

use anyhow::ensure;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::oracle::PositionWatch;
use sluice_tests::sluice::Sluice;

use crate::world::{Case, Engine};

const PARTITIONS: i32 = 6;
const SPANS: u64 = 200_000;
/// How long a consumer may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(20);
const DEADLINE: Duration = Duration::from_secs(240);

/// What happens when so many parts of a hundred are settled.
enum Step {
    /// kill -9 and start again.
    Kill,
    /// A second replica starts.
    Join,
    /// It stops as asked (SIGTERM).
    Leave,
}

async fn drains_exactly_once(engine: Engine, steps: &[(u64, Step)]) -> anyhow::Result<()> {
    let case = Case::new(engine, "exactly_once", PARTITIONS, |pipeline| {
        pipeline.notice_deaths_soon();
    })
    .await?;
    let ledger = Ledger::new(11, Shape::Json);
    let messages = SPANS / ledger.spans_per_message;
    // Uneven on purpose: one partition is longer than the others.
    let partition_of = |message: u64| if message.is_multiple_of(4) { 0 } else { (message % 6) as i32 };
    ledger.produce(case.kafka, &case.topic, 0..messages, partition_of).await?;

    let mut watch = PositionWatch::default();
    let mut first = case.replica("first").await?;
    let mut second: Option<Sluice> = None;
    let began = std::time::Instant::now();
    let mut steps = steps.iter().peekable();
    loop {
        let settled = case.settled().await?;
        case.observe(&mut watch, PARTITIONS).await?;
        if settled >= messages && steps.peek().is_none() {
            break;
        }
        ensure!(began.elapsed() < DEADLINE, "only {settled} of {messages} messages after {DEADLINE:?}");
        ensure!(first.component.is_running()?, "the consumer ended:\n{}", first.component.log_tail(40));
        match steps.next_if(|(percent, _)| settled * 100 >= messages * percent) {
            Some((_, Step::Kill)) => {
                first.kill().await?;
                first = Sluice::start(&case.home, "first")?;
            }
            Some((_, Step::Join)) => second = Some(Sluice::start(&case.home, "second")?),
            Some((_, Step::Leave)) => {
                if let Some(mut second) = second.take() {
                    second.wait_ready().await?;
                    let code = second.component.stop(GRACE).await?;
                    ensure!(code == 0, "the second replica ended with {code}");
                }
            }
            None => {}
        }
    }
    let code = first.component.stop(GRACE).await?;
    ensure!(code == 0, "the first replica ended with {code}");
    case.audit(&ledger, SPANS, &[]).await?;
    case.observe(&mut watch, PARTITIONS).await?;
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

#[tokio::test]
#[ignore = "needs Kafka"]
async fn sqlite_gets_every_span_once_through_five_kills() {
    drains_exactly_once(Engine::Sqlite, &KILLS).await.unwrap();
}
