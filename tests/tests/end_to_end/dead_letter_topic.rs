//! The table of dead letters, and the topic that gets copies of them, while either is away.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, ensure};
use rdkafka::Message;
use rdkafka::message::{Header, Headers, OwnedHeaders, OwnedMessage};
use sluice_tests::eventually;
use sluice_tests::kafka::Reader;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::oracle::FoundDeadLetter;
use sluice_tests::sluice::{Sluice, tells};

use crate::world::{Case, Engine};

const MESSAGES: u64 = 300;
const PARTITIONS: i32 = 3;
const SPANS: u64 = MESSAGES * 10;
const GARBAGE: usize = 2_000;
const WAIT: Duration = Duration::from_secs(90);
/// After which nothing more is expected of a topic.
const QUIET: Duration = Duration::from_secs(1);

/// Sends messages of which none can be decoded; the first is a tombstone.
async fn produce_garbage(case: &Case, count: usize) -> anyhow::Result<()> {
    let sender = case.kafka.producer()?;
    let headers = || {
        OwnedHeaders::new()
            .insert(Header { key: "tenant", value: Some("shop") })
            .insert(Header::<&[u8]> { key: "empty", value: None })
    };
    for number in 0..count {
        let value = format!("no JSON {number}").into_bytes();
        let value = (number > 0).then_some(value.as_slice());
        let partition = number as i32 % PARTITIONS;
        sender.send(&case.topic, partition, value, Some(b"key"), Some(headers())).await?;
    }
    sender.flush()
}

/// What the first message of [`produce_garbage`] to a partition becomes, where nothing was there before.
fn letter(topic: &str, partition: i32) -> FoundDeadLetter {
    FoundDeadLetter {
        topic: topic.to_owned(),
        partition: i64::from(partition),
        offset: 0,
        span_index: None,
        trace_id: String::new(),
        kind: String::new(),
        reason: if partition == 0 { "Tombstone" } else { "Undecodable" }.to_owned(),
        key: Some(b"key".to_vec()),
        headers: r#"[{"name":"tenant","value":"c2hvcA=="},{"name":"empty","value":null}]"#.to_owned(),
        value: if partition == 0 { Vec::new() } else { format!("no JSON {partition}").into_bytes() },
    }
}

/// Headers by name; every copy has each once.
fn headers_of(message: &OwnedMessage) -> BTreeMap<String, Option<String>> {
    let headers = message.headers().into_iter().flat_map(Headers::iter);
    headers
        .map(|header| {
            let value = header.value.map(|value| String::from_utf8_lossy(value).into_owned());
            (header.key.to_owned(), value)
        })
        .collect()
}

/// The ids of the letters whose copies have come, after a look at each copy.
fn ids_of(copies: &[OwnedMessage]) -> anyhow::Result<BTreeSet<String>> {
    let mut ids = BTreeSet::new();
    for copy in copies {
        let headers = headers_of(copy);
        let told =
            |name: &str| headers.get(name).cloned().flatten().context(format!("{name} of {headers:?}"));
        ensure!(copy.key() == Some(b"key"), "{copy:?}");
        ensure!(headers.get("tenant") == Some(&Some("shop".to_owned())), "{headers:?}");
        ensure!(headers.get("empty") == Some(&None), "{headers:?}");
        match told("sluice.reason")?.as_str() {
            "Tombstone" => ensure!(copy.payload().is_none(), "{copy:?}"),
            "Undecodable" => ensure!(copy.payload().is_some_and(|value| value.starts_with(b"no JSON "))),
            other => anyhow::bail!("{other}"),
        }
        told("sluice.offset")?.parse::<u64>()?;
        ids.insert(told("sluice.id")?);
    }
    Ok(ids)
}

async fn ids_in_the_table(case: &Case) -> anyhow::Result<BTreeSet<String>> {
    let letters = case.database().await?.dead_letter_ids().await?;
    Ok(letters.iter().map(ToString::to_string).collect())
}

/// Waits until a copy of every letter has come.
async fn all_come(case: &Case, reader: &Reader, copies: &mut Vec<OwnedMessage>) -> anyhow::Result<()> {
    eventually("a copy of every dead letter", WAIT, async || {
        copies.extend(reader.drain(QUIET)?);
        Ok((ids_of(copies)? == ids_in_the_table(case).await?).then_some(()))
    })
    .await
}

async fn copies_come(engine: Engine) -> anyhow::Result<()> {
    let mut case = Case::new(engine, "copies", PARTITIONS, |pipeline| {
        pipeline.controls = format!("  deadLetter: {{ topic: {}-dead }}\n", pipeline.topic);
        pipeline.notice_deaths_soon();
    })
    .await?;
    let topic = format!("{}-dead", case.topic);
    let ledger = Ledger::new(81, Shape::Json);
    ledger.produce(case.kafka, &case.topic, 0..MESSAGES, |message| (message % 3) as i32).await?;
    produce_garbage(&case, GARBAGE).await?;

    // Without the topic nothing but the copies waits.
    let mut first = case.replica("first").await?;
    case.wait_settled(MESSAGES + GARBAGE as u64, WAIT).await?;
    let status = first.status_where("the error", WAIT, tells("DeadLetterTopicFailed")).await?;
    let error = status["lastError"].as_str().unwrap_or_default();
    ensure!(error.contains(&format!("there is no topic {topic}: create it")), "{error}");
    let waits = |status: &serde_json::Value| status["deadLetterTopic"]["waiting"] == GARBAGE;
    first.status_where("the count", WAIT, waits).await?;

    // It appears; whoever sends is killed on the way, and another one takes over.
    let mut second = case.replica("second").await?;
    case.kafka.create_topic(&topic, 1, &[]).await?;
    let reader = case.kafka.reader(&topic, 1)?;
    let mut copies = Vec::new();
    eventually("a first copy", WAIT, async || {
        copies.extend(reader.drain(Duration::from_millis(50))?);
        Ok((!copies.is_empty()).then_some(()))
    })
    .await?;
    first.kill().await?;
    all_come(&case, &reader, &mut copies).await?;
    let none = |status: &serde_json::Value| status["deadLetterTopic"]["waiting"] == 0;
    let status = second.status_where("nothing that waits", WAIT, none).await?;
    ensure!(status["lastError"].is_null(), "{status}");
    ensure!(case.database().await?.count_dead_letters().await? == GARBAGE as u64, "letters stay");

    // What fails again is a letter of its own, and so is what comes later; without the field nothing is sent.
    produce_garbage(&case, 1).await?;
    case.wait_settled(MESSAGES + GARBAGE as u64 + 1, WAIT).await?;
    all_come(&case, &reader, &mut copies).await?;
    second.component.stop(WAIT).await?;
    case.edit(|pipeline| pipeline.controls.clear())?;
    let mut last = case.replica("last").await?;
    produce_garbage(&case, 2).await?;
    case.wait_settled(MESSAGES + GARBAGE as u64 + 3, WAIT).await?;
    // A sender would have looked three times.
    copies = reader.drain(3 * QUIET)?;
    ensure!(copies.is_empty(), "{copies:?}");
    last.component.stop(WAIT).await?;
    let (database, letters) = (case.database().await?, GARBAGE as u64 + 3);
    let found = (database.count().await?, database.count_dead_letters().await?);
    ensure!(found == (SPANS, letters), "{} rows, {} dead letters", found.0, found.1);
    case.positions_hold().await
}

/// Nobody can see which replica sends, so either is killed.
#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn copies_of_dead_letters_reach_their_topic_whatever_happens_to_it_and_to_consumers() {
    copies_come(Engine::Mysql).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn postgres_copies_of_dead_letters_reach_their_topic_whatever_happens_to_it_and_to_consumers() {
    copies_come(Engine::Postgres).await.unwrap();
}

async fn positions_wait(engine: Engine) -> anyhow::Result<()> {
    let case = Case::new(engine, "no_table", PARTITIONS, |_| ()).await?;
    let ledger = Ledger::new(82, Shape::Json);
    let mut consumer: Sluice = case.replica("consumer").await?;
    let database = case.database().await?;
    case.execute("ALTER TABLE sluice_dead_letter RENAME TO elsewhere").await?;
    // Of each partition the first message cannot be decoded.
    produce_garbage(&case, PARTITIONS as usize).await?;
    ledger.produce(case.kafka, &case.topic, 0..MESSAGES, |message| (message % 3) as i32).await?;
    consumer.status_where("the error", WAIT, |status| !status["lastError"].is_null()).await?;
    for _ in 0..10 {
        case.positions_hold().await?;
        ensure!(case.settled().await? == 0 && database.count().await? == 0, "passed what was not stored");
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    case.execute("ALTER TABLE elsewhere RENAME TO sluice_dead_letter").await?;
    case.wait_stored(SPANS + PARTITIONS as u64, WAIT).await?;
    consumer.status_where("no error", WAIT, |status| status["lastError"].is_null()).await?;
    consumer.component.stop(WAIT).await?;
    let letters: Vec<_> = (0..PARTITIONS).map(|number| letter(&case.topic, number)).collect();
    case.audit(&ledger, SPANS, &letters).await
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn while_dead_letters_cannot_be_stored_positions_do_not_pass_them() {
    positions_wait(Engine::Mysql).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn postgres_while_dead_letters_cannot_be_stored_positions_do_not_pass_them() {
    positions_wait(Engine::Postgres).await.unwrap();
}
