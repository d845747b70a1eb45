//! Topics that change while they are read: re-created, widened, new ones, truncated.

use std::time::Duration;

use anyhow::ensure;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;
use sluice_tests::eventually;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::oracle::{Problem, report};
use sluice_tests::sluice::{Home, Pipeline, Sink, Sluice};

use crate::world::{Case, Engine, kafka, unique};

const WAIT: Duration = Duration::from_secs(40);
const GRACE: Duration = Duration::from_secs(20);

fn ledger(seed: u64) -> Ledger {
    Ledger { seed, shape: Shape::Json, spans_per_message: 1, padding: 0 }
}

/// The topic is deleted and created again, then holds `second` messages after `first` were stored.
async fn recreated(first: u64, second: u64, running: bool) -> anyhow::Result<()> {
    let case = Case::new(Engine::Sqlite, "recreated", 1, |_| ()).await?;
    let ledger = ledger(61);
    ledger.produce(case.kafka, &case.topic, 0..first, |_| 0).await?;
    let mut sluice = case.replica("only").await?;
    case.wait_stored(first, WAIT).await?;
    if !running {
        sluice.component.stop(GRACE).await?;
    }
    case.kafka.delete_topic(&case.topic).await?;
    case.kafka.create_topic(&case.topic, 1, &[]).await?;
    ledger.produce(case.kafka, &case.topic, first..first + second, |_| 0).await?;
    if !running {
        sluice = case.replica("only").await?;
    }
    case.wait_stored(first + second, WAIT).await?;
    sluice.component.stop(GRACE).await?;
    case.audit(&ledger, first + second, &[]).await?;
    let generations = case.database().await?.positions().await?.len();
    ensure!(generations == 2, "expected a row for each life of the topic, found {generations}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_topic_recreated_while_running_starts_anew() {
    recreated(500, 100, true).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_topic_recreated_while_running_and_longer_than_before_starts_anew() {
    recreated(100, 500, true).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_topic_recreated_while_stopped_and_longer_than_before_starts_anew() {
    recreated(100, 500, false).await.unwrap();
}

/// What an open transaction keeps from readers was stored by a pipeline that read it all the same.
async fn isolation_edited() -> anyhow::Result<()> {
    let mut case = Case::new(Engine::Sqlite, "isolation", 1, |pipeline| {
        pipeline.properties.push(("isolation.level".to_owned(), "read_uncommitted".to_owned()));
    })
    .await?;
    let ledger = ledger(64);
    ledger.produce(case.kafka, &case.topic, 0..10, |_| 0).await?;
    let mut client = case.kafka.client();
    client.set("transactional.id", &case.topic);
    let (topic, messages) =
        (case.topic.clone(), (10..20).map(|number| ledger.message(number)).collect::<Vec<_>>());
    let open = tokio::task::spawn_blocking(move || -> anyhow::Result<BaseProducer> {
        let producer: BaseProducer = client.create()?;
        producer.init_transactions(WAIT)?;
        producer.begin_transaction()?;
        for message in &messages {
            producer
                .send(BaseRecord::<(), _>::to(&topic).partition(0).payload(message))
                .map_err(|(error, _)| error)?;
        }
        producer.flush(WAIT)?;
        Ok(producer)
    });
    let producer = open.await??;
    let mut sluice = case.replica("first").await?;
    case.wait_stored(20, WAIT).await?;
    sluice.component.stop(GRACE).await?;
    case.edit(|pipeline| pipeline.properties.clear())?;
    sluice = case.replica("second").await?;
    let opened = eventually("the partition to be open again", WAIT, async || {
        let status = sluice.status().await?;
        Ok((status["partitions"][0]["position"] == 20).then_some(()))
    });
    opened.await?;
    tokio::task::spawn_blocking(move || producer.commit_transaction(WAIT)).await??;
    ledger.produce(case.kafka, &case.topic, 20..30, |_| 0).await?;
    case.wait_stored(30, WAIT).await?;
    sluice.component.stop(GRACE).await?;
    case.audit(&ledger, 30, &[]).await
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn another_isolation_level_while_a_transaction_is_open_stores_nothing_twice() {
    isolation_edited().await.unwrap();
}

/// A transaction ends with an offset that is no message, and what was aborted is none either.
async fn transactions() -> anyhow::Result<()> {
    let case = Case::new(Engine::Sqlite, "transactions", 1, |_| ()).await?;
    let ledger = ledger(65);
    let mut client = case.kafka.client();
    client.set("transactional.id", &case.topic);
    let topic = case.topic.clone();
    let produce = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        let producer: BaseProducer = client.create()?;
        producer.init_transactions(WAIT)?;
        for (messages, commits) in [(0..10, true), (10..300, false)] {
            producer.begin_transaction()?;
            for message in messages.map(|number| ledger.message(number)) {
                producer
                    .send(BaseRecord::<(), _>::to(&topic).partition(0).payload(&message))
                    .map_err(|(error, _)| error)?;
            }
            producer.flush(WAIT)?;
            if commits { producer.commit_transaction(WAIT)? } else { producer.abort_transaction(WAIT)? }
        }
        Ok(())
    });
    produce.await??;
    // In the second life nothing is left to be read.
    for life in ["first", "second"] {
        let mut sluice = case.replica(life).await?;
        case.wait_stored(10, WAIT).await?;
        let drained = |status: &Value| status["partitions"][0]["lag"] == 0;
        sluice.status_where("no lag", WAIT, drained).await?;
        sluice.component.stop(GRACE).await?;
    }
    case.audit(&ledger, 10, &[]).await
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn the_ends_of_transactions_and_what_was_aborted_are_no_lag() {
    transactions().await.unwrap();
}

async fn partitions_added() -> anyhow::Result<()> {
    let case = Case::new(Engine::Sqlite, "widened", 2, |_| ()).await?;
    let ledger = ledger(62);
    ledger.produce(case.kafka, &case.topic, 0..200, |message| (message % 2) as i32).await?;
    let mut sluice = case.replica("only").await?;
    case.wait_stored(200, WAIT).await?;
    case.kafka.add_partitions(&case.topic, 4).await?;
    // Produced before the consumer can know of them.
    ledger.produce(case.kafka, &case.topic, 200..600, |message| (message % 4) as i32).await?;
    case.wait_stored(600, WAIT).await?;
    sluice.component.stop(GRACE).await?;
    case.audit(&ledger, 600, &[]).await
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn partitions_added_while_running_are_read_from_their_beginning() {
    partitions_added().await.unwrap();
}

async fn matching_topic_created() -> anyhow::Result<()> {
    let family = unique("profile");
    let case = Case::new(Engine::Sqlite, &family, 1, |pipeline| {
        pipeline.topic = format!("{family}.*");
        pipeline.pattern = true;
    })
    .await?;
    let ledger = ledger(63);
    ledger.produce(case.kafka, &case.topic, 0..100, |_| 0).await?;
    let mut sluice = case.replica("only").await?;
    case.wait_stored(100, WAIT).await?;
    let later = format!("{}-later", case.topic);
    case.kafka.create_topic(&later, 2, &[]).await?;
    let began = std::time::Instant::now();
    ledger.produce(case.kafka, &later, 100..300, |message| (message % 2) as i32).await?;
    case.wait_stored(300, WAIT).await?;
    let found = began.elapsed();
    println!("a topic created while running was stored after {found:?}");
    sluice.component.stop(GRACE).await?;
    case.audit(&ledger, 300, &[]).await
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_matching_topic_created_while_running_is_stored() {
    matching_topic_created().await.unwrap();
}

/// A client divides its prefetch when it is made: topics that come later would each hold as much as the first one.
async fn pattern_outgrown() -> anyhow::Result<()> {
    const TOPICS: u64 = 6;
    let family = unique("tenant");
    let case = Case::new(Engine::Sqlite, &family, 1, |pipeline| {
        pipeline.topic = format!("{family}.*");
        pipeline.pattern = true;
    })
    .await?;
    let ledger = ledger(65);
    ledger.produce(case.kafka, &case.topic, 0..100, |_| 0).await?;
    let mut sluice = case.replica("only").await?;
    case.wait_stored(100, WAIT).await?;
    for topic in 0..TOPICS {
        let later = format!("{}-{topic}", case.topic);
        case.kafka.create_topic(&later, 6, &[]).await?;
        let messages = 100 * (topic + 1)..100 * (topic + 2);
        ledger.produce(case.kafka, &later, messages, |message| (message % 6) as i32).await?;
    }
    eventually("another client", WAIT, async || {
        let log = sluice.component.log_tail(10_000);
        Ok(log.contains("the prefetch was divided for: connecting anew").then_some(()))
    })
    .await?;
    case.wait_stored(100 * (TOPICS + 1), WAIT).await?;
    sluice.component.stop(GRACE).await?;
    case.audit(&ledger, 100 * (TOPICS + 1), &[]).await
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_pattern_that_has_come_to_match_many_topics_divides_its_prefetch_anew() {
    pattern_outgrown().await.unwrap();
}

async fn retention_gap() -> anyhow::Result<()> {
    let case = Case::new(Engine::Sqlite, "truncated", 1, |_| ()).await?;
    let ledger = ledger(64);
    ledger.produce(case.kafka, &case.topic, 0..100, |_| 0).await?;
    let mut sluice = case.replica("only").await?;
    case.wait_stored(100, WAIT).await?;
    sluice.component.stop(GRACE).await?;
    ledger.produce(case.kafka, &case.topic, 100..1_000, |_| 0).await?;
    case.kafka.truncate_before(&case.topic, 0, 500).await?;
    let mut sluice = case.replica("only").await?;
    case.wait_stored(600, WAIT).await?;
    let status = sluice.status().await?;
    ensure!(status["skippedOffsets"] == 400, "the gap of 400 messages is not counted: {status}");
    sluice.component.stop(GRACE).await?;
    let problems = case.database().await?.audit(&ledger, 1_000, &[]).await?;
    let unexpected: Vec<Problem> = problems
        .iter()
        .filter(|problem| !matches!(problem, Problem::Missing(number) if (100..500).contains(number)))
        .cloned()
        .collect();
    ensure!(unexpected.is_empty() && problems.len() == 400, "{}", report(&unexpected));
    case.positions_hold().await
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn messages_that_expired_before_their_turn_are_counted() {
    retention_gap().await.unwrap();
}

/// The client holds what a second of this rate never empties, so it fetches nothing of what comes later.
async fn backlog_grows() -> anyhow::Result<()> {
    let case = Case::new(Engine::Sqlite, "unfetched", 2, |pipeline| pipeline.rate = 1).await?;
    let ledger = Ledger { padding: 4_000, ..ledger(66) };
    let mut sluice = case.replica("only").await?;
    for messages in [2_000, 4_000, 6_000] {
        ledger
            .produce(case.kafka, &case.topic, messages - 2_000..messages, |number| (number % 2) as i32)
            .await?;
        let lags = |status: &Value| {
            let lag = |number: usize| status["partitions"][number]["lag"].as_u64().unwrap_or(0);
            // A few were stored.
            (messages - 200..=messages).contains(&(lag(0) + lag(1)))
        };
        sluice.status_where(&format!("a lag of {messages} messages"), WAIT, lags).await?;
    }
    sluice.component.stop(GRACE).await
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_backlog_that_a_slow_pipeline_has_not_fetched_is_told() {
    backlog_grows().await.unwrap();
}

/// The shortest retention of what is read, as the operator compares it with the time to drain.
async fn retention_is_told() -> anyhow::Result<()> {
    let (kafka, name) = (kafka().await?, unique("kept"));
    for (topic, settings) in [
        ("long", ("retention.ms", "7200000")),
        ("short", ("retention.ms", "3600500")),
        ("compacted", ("cleanup.policy", "compact")),
    ] {
        kafka.create_topic(&format!("{name}-{topic}"), 1, &[settings]).await?;
    }
    let told = async |pattern: &str, expected: u64| {
        let mut pipeline =
            Pipeline::new(kafka.bootstrap(), &format!("{name}-{pattern}"), Sink::Sqlite("t".into()));
        (pipeline.pattern, pipeline.group) = (true, format!("{name}-{pattern}"));
        let home = Home::new(&pipeline)?;
        let mut sluice = Sluice::ready(&home, "only").await?;
        let what = format!("a retention of {expected} s");
        let is_told = |status: &Value| status["retentionSeconds"] == expected;
        sluice.status_where(&what, WAIT, is_told).await?;
        sluice.component.stop(GRACE).await
    };
    // A topic that is only compacted has none, and says nothing of the others.
    told("(long|short|compacted)", 3_600).await?;
    told("long", 7_200).await
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn the_shortest_retention_of_the_topics_is_told() {
    retention_is_told().await.unwrap();
}
