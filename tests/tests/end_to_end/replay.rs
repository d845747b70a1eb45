//! A part of a topic once more: the real command, after rows were lost, through kill -9, at its own rate.

use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use rdkafka::Message;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use serde_json::Value;
use sluice_tests::component::{Component, Launch};
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::rate::bound;
use sluice_tests::sluice::binary;
use sluice_tests::{eventually, now_ms};

use crate::world::{Case, Engine};

const MESSAGES: u64 = 900;
const PARTITIONS: i32 = 3;
const SPANS: u64 = MESSAGES * 10;
const WAIT: Duration = Duration::from_secs(120);
const RATE: u32 = 1_500;

fn arguments(case: &Case, more: &[&str]) -> Vec<String> {
    let path = |part: &str| case.home.path().join(part).display().to_string();
    let place = [
        ["-f".to_owned(), path("pipeline.yaml")],
        ["--secrets-dir".to_owned(), path("secrets")],
        ["--data-dir".to_owned(), path("data")],
    ];
    let more = more.iter().map(|text| (*text).to_owned());
    ["replay".to_owned()].into_iter().chain(place.into_iter().flatten()).chain(more).collect()
}

/// Runs `sluice replay` to its end; returns whether it succeeded, and what it printed.
pub fn replay(case: &Case, more: &[&str]) -> anyhow::Result<(bool, String)> {
    let output = Command::new(binary()?).args(arguments(case, more)).output()?;
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned());
    Ok((output.status.success(), text.concat()))
}

fn start(case: &Case, name: &str, more: &[&str]) -> anyhow::Result<Component> {
    let launch = Launch {
        program: binary()?,
        arguments: arguments(case, more),
        environment: Vec::new(),
        log: case.home.path().join(format!("{name}.log")),
    };
    Component::start(&format!("sluice replay {name}"), &launch)
}

async fn lost_rows_come_back(engine: Engine) -> anyhow::Result<()> {
    let case = Case::new(engine, "replay", PARTITIONS, |pipeline| pipeline.notice_deaths_soon()).await?;
    let ledger = Ledger::new(81, Shape::Json);
    ledger.produce(case.kafka, &case.topic, 0..MESSAGES, |message| (message % 3) as i32).await?;
    let mut pipeline = case.replica("pipeline").await?;
    case.wait_stored(SPANS, WAIT).await?;
    pipeline.component.stop(WAIT).await?;
    let database = case.database().await?.clone();
    let before = database.positions().await?;
    case.execute("DELETE FROM connectivity_trace").await?;
    // What comes now, the pipeline stores itself.
    ledger.produce(case.kafka, &case.topic, MESSAGES..MESSAGES + 30, |message| (message % 3) as i32).await?;

    let all = ["--name", "lost", "--from", "earliest", "--rate", "1500"];
    let (good, text) = replay(&case, &[&all[..], &["--dry-run"]].concat())?;
    ensure!(good && text.contains("900 messages into the table connectivity_trace"), "{text}");
    let (good, text) = replay(&case, &all)?;
    ensure!(!good && text.contains("--yes"), "its own table needs a yes: {text}");
    let (good, text) = replay(&case, &["--name", "lost", "--from", "5", "--yes"])?;
    ensure!(!good && text.contains("--partition"), "{text}");
    ensure!(database.positions().await? == before && database.count().await? == 0, "nothing has happened");

    // Killed in the middle, and run again beside the running pipeline, with a larger end, which changes nothing.
    let yes = [&all[..], &["--yes"]].concat();
    let began = now_ms();
    let mut killed = start(&case, "killed", &yes)?;
    case.wait_stored(SPANS / 4, WAIT).await?;
    killed.kill().await?;
    let stored = database.count().await?;
    ensure!(stored < SPANS, "it was killed in the middle, at {stored}");
    let mut pipeline = case.replica("again").await?;
    let (good, text) = replay(&case, &[&yes[..], &["--to", "latest", "-o", "json"]].concat())?;
    ensure!(good && text.contains("going on with the replay"), "{text}");
    let line = text.lines().rfind(|line| line.contains("\"state\"")).context("JSON")?;
    let last: Value = serde_json::from_str(line)?;
    ensure!(last["state"] == "finished", "{text}");
    case.wait_stored(SPANS + 300, WAIT).await?;
    case.audit(&ledger, SPANS + 300, &[]).await?;

    // At its own rate, which is far below the pipeline's. (The pipeline's own 300 come on top.)
    let releases = database.released().await?;
    let most = bound(f64::from(RATE), 8, ledger.spans_per_message) + 300.0;
    releases.check_bound(began, now_ms(), most, "replay")?;

    // Finished is finished; and the same rows once more go where they are told to.
    let (good, text) = replay(&case, &yes)?;
    ensure!(good && text.contains("finished before"), "{text}");
    let piece = ["--name", "piece", "--partition", "1", "--from", "10", "--to", "20", "--table", "copy"];
    let (good, text) = replay(&case, &piece)?;
    ensure!(good && text.contains("10 of 10 messages"), "{text}");
    let (good, text) = replay(&case, &piece)?;
    ensure!(good && text.contains("finished before"), "{text}");
    // Of the same name, but with more to read.
    let longer = piece.map(|word| if word == "20" { "25" } else { word });
    let (good, text) = replay(&case, &longer)?;
    ensure!(!good && text.contains("it ends at 20, not at 25"), "{text}");
    let all = ["--name", "piece", "--from", "earliest", "--to", "latest", "--table", "copy"];
    let (good, text) = replay(&case, &all)?;
    let told = format!("reads nothing of {0}/0, {0}/2", case.topic);
    ensure!(
        good && text.contains(&told),
        "other partitions than the one that it was begun for are told: {text}"
    );
    let earlier = piece.map(|word| if word == "10" { "5" } else { word });
    let (good, text) = replay(&case, &earlier)?;
    ensure!(!good && text.contains("it begins at 10, not at 5"), "{text}");
    pipeline.component.stop(WAIT).await?;
    case.audit(&ledger, SPANS + 300, &[]).await?;
    let positions = database.positions().await?;
    ensure!(positions.iter().any(|position| position.next_offset == 20), "{positions:?}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn mariadb_rows_that_were_lost_come_back_exactly_once() {
    lost_rows_come_back(Engine::Mysql).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn postgres_rows_that_were_lost_come_back_exactly_once() {
    lost_rows_come_back(Engine::Postgres).await.unwrap();
}

/// The replay's process and the pipeline's take turns at writing the file.
#[tokio::test]
#[ignore = "needs Kafka"]
async fn sqlite_rows_that_were_lost_come_back_exactly_once() {
    lost_rows_come_back(Engine::Sqlite).await.unwrap();
}

/// A replay shares the pipeline's rate, and a suspended pipeline suspends it.
#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn a_replay_stays_within_the_pipelines_rate_and_stops_with_it() {
    const QPS: u32 = 1_000;
    let mut case = Case::new(Engine::Mysql, "replay", PARTITIONS, |_| {}).await.unwrap();
    let ledger = Ledger::new(82, Shape::Json);
    ledger.produce(case.kafka, &case.topic, 0..MESSAGES, |message| (message % 3) as i32).await.unwrap();
    let mut pipeline = case.replica("pipeline").await.unwrap();
    case.wait_stored(SPANS, WAIT).await.unwrap();
    let database = case.database().await.unwrap().clone();
    case.execute("TRUNCATE TABLE connectivity_trace").await.unwrap();
    case.edit(|pipeline| pipeline.rate = QPS).unwrap();
    let slow = pipeline.status_where("the edit", WAIT, |status| status["rateLimitQPS"] == QPS);
    slow.await.unwrap();
    // From now on both have work, and share the rate.
    ledger
        .produce(case.kafka, &case.topic, MESSAGES..2 * MESSAGES, |message| (message % 3) as i32)
        .await
        .unwrap();
    let to = now_ms();
    let all = ["--name", "shared", "--from", "earliest", "--to", "latest", "--yes", "-o", "json"];
    let mut side = start(&case, "side", &all).unwrap();
    case.wait_stored(u64::from(QPS) * 4, WAIT).await.unwrap();
    case.edit(|pipeline| pipeline.suspend = true).unwrap();
    case.stands_still(Duration::from_secs(2)).await.unwrap();
    assert!(side.is_running().unwrap(), "a suspended replay waits");
    case.edit(|pipeline| pipeline.suspend = false).unwrap();
    eventually("the replay to finish", WAIT, async || Ok((!side.is_running()?).then_some(()))).await.unwrap();
    let releases = database.released().await.unwrap();
    let most = bound(f64::from(QPS), 8, ledger.spans_per_message);
    releases.check_bound(to, now_ms(), most, "replay and pipeline").unwrap();
    pipeline.component.stop(WAIT).await.unwrap();
}

/// Which of them begins is open; the other one must not take its range for its own.
#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn of_two_replays_of_one_name_that_begin_at_once_one_says_that_the_range_is_another() {
    let case = Case::new(Engine::Mysql, "replay", 1, |_| {}).await.unwrap();
    let ledger = Ledger::new(86, Shape::Json);
    ledger.produce(case.kafka, &case.topic, 0..40, |_| 0).await.unwrap();
    let mut pipeline = case.replica("pipeline").await.unwrap();
    case.wait_stored(400, WAIT).await.unwrap();
    pipeline.component.stop(WAIT).await.unwrap();
    for round in 0..6 {
        let (name, table) = (format!("same{round}"), format!("copy{round}"));
        let begin = |from, to| {
            let range = ["--name", &name, "--partition", "0", "--from", from, "--to", to, "--table", &table];
            start(&case, &format!("{name}-{from}"), &range).unwrap()
        };
        let (mut one, mut other) = (begin("0", "20"), begin("20", "40"));
        let ends = (one.ended(WAIT).await.unwrap(), other.ended(WAIT).await.unwrap());
        let refused = match ends {
            (0, 1) => &other,
            (1, 0) => &one,
            _ => panic!("{ends:?}: {}, {}", one.log_tail(5), other.log_tail(5)),
        };
        assert!(refused.log_tail(5).contains("was begun with another range"), "{}", refused.log_tail(5));
    }
}

/// The broker looks a time up as the first message with that time or a later one.
#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn a_range_that_a_producers_clock_ends_early_says_so() {
    let case = Case::new(Engine::Mysql, "replay", 1, |_| {}).await.unwrap();
    let (ledger, producer) = (Ledger::new(85, Shape::Json), case.kafka.producer().unwrap());
    let began = now_ms() - 3_600_000;
    for number in 0..20 {
        let ahead = if number == 5 { 1_800_000 } else { 0 };
        let made_at = began + number * 1_000 + ahead;
        producer.send_made_at(&case.topic, 0, &ledger.message(number as u64), made_at).await.unwrap();
    }
    producer.flush().unwrap();
    let mut pipeline = case.replica("pipeline").await.unwrap();
    case.wait_stored(200, WAIT).await.unwrap();
    pipeline.component.stop(WAIT).await.unwrap();
    let end = jiff::Timestamp::from_millisecond(began + 600_000).unwrap().to_string();
    let arguments = ["--name", "early", "--from", "earliest", "--to", &end, "--table", "copy"];
    let (good, text) = replay(&case, &arguments).unwrap();
    assert!(good && text.contains("ends at offset 5") && text.contains("50 rows"), "{text}");
    assert!(!text.contains("ERROR"), "{text}");
}

/// A transaction ends with a marker, which takes an offset and is no message: the range's end never comes.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs Kafka and MariaDB"]
async fn a_range_that_ends_in_a_transactions_marker_is_over() {
    let case = Case::new(Engine::Mysql, "replay", 1, |_| {}).await.unwrap();
    let ledger = Ledger::new(83, Shape::Json);
    let (mut client, topic) = (case.kafka.client(), case.topic.clone());
    client.set("transactional.id", &topic);
    let messages: Vec<_> = (0..20).map(|number| ledger.message(number)).collect();
    let sent = tokio::task::spawn_blocking(move || -> anyhow::Result<()> {
        let producer: BaseProducer = client.create()?;
        producer.init_transactions(WAIT)?;
        producer.begin_transaction()?;
        for message in &messages {
            let record = BaseRecord::<(), _>::to(&topic).partition(0).payload(message);
            producer.send(record).map_err(|(error, _)| error)?;
        }
        Ok(producer.commit_transaction(WAIT)?)
    });
    sent.await.unwrap().unwrap();
    let mut pipeline = case.replica("pipeline").await.unwrap();
    case.wait_stored(200, WAIT).await.unwrap();
    pipeline.component.stop(WAIT).await.unwrap();
    let arguments = ["--name", "marker", "--from", "earliest", "--to", "latest", "--table", "copy"];
    let (good, text) = replay(&case, &arguments).unwrap();
    assert!(good && text.contains("at most 21 messages") && text.contains("200 rows"), "{text}");
    assert!(!text.contains("ERROR"), "{text}");
}

/// Of a range of eight, compaction leaves five; what comes next lies behind its end.
async fn compacted() -> anyhow::Result<()> {
    let case = Case::new(Engine::Mysql, "replay", 1, |_| {}).await?;
    let soon = [("cleanup.policy", "compact"), ("segment.ms", "100"), ("min.cleanable.dirty.ratio", "0.001")];
    case.kafka.configure_topic(&case.topic, &soon).await?;
    let ledger = Ledger::new(84, Shape::Json);
    let producer = case.kafka.producer()?;
    for number in 0..15 {
        // Offsets 5 to 9 have the keys of 10 to 14.
        let key = if number < 10 { number } else { number - 5 }.to_string();
        let message = ledger.message(number);
        producer.send(&case.topic, 0, Some(message.as_ref()), Some(key.as_bytes()), None).await?;
    }
    producer.flush()?;
    let mut pipeline = case.replica("pipeline").await?;
    case.wait_stored(150, WAIT).await?;
    pipeline.component.stop(WAIT).await?;
    eventually("the topic to be compacted", WAIT, async || {
        // What is written to is not compacted: each of these begins a new segment.
        producer.send(&case.topic, 0, Some(b"{}"), Some(b"last"), None).await?;
        producer.flush()?;
        let messages = case.kafka.reader(&case.topic, 1)?.drain(Duration::from_secs(1))?;
        let left: Vec<_> = messages.iter().map(Message::offset).filter(|offset| *offset < 11).collect();
        Ok((left == [0, 1, 2, 3, 4, 10]).then_some(()))
    })
    .await?;
    let piece = ["--name", "gap", "--partition", "0", "--from", "0", "--to", "8", "--table", "copy"];
    let (good, text) = replay(&case, &piece)?;
    ensure!(good && text.contains("50 rows"), "{text}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn a_range_that_ends_in_what_compaction_removed_is_over() {
    compacted().await.unwrap();
}
