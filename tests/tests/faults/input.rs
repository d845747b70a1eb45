//! Input that is large, or that the table of a user has no place for.

use std::time::Duration;

use anyhow::{Context, ensure};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use sluice_crds::v1alpha1::Format;
use sluice_tests::encode;
use sluice_tests::eventually;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::oracle::FoundDeadLetter;
use sluice_tests::sluice::Sink;

use crate::world::{Case, Engine, unique};
use crate::{GRACE, WAIT, execute};

const MB: u64 = 1_000_000;
/// What is logged of a batch that was inflated.
const INFLATED: &str = "a compressed batch was inflated to far more than its partition may hold, or a message is that \
                        large: memory holds it until it is stored. Smaller batches, by the producer's batch.size, take less";
/// What a consumer may take (`docs/performance.md`).
const LIMIT: u64 = 96 << 20;

/// A dead letter of a message without key and headers.
fn letter(
    topic: &str,
    offset: i64,
    reason: &str,
    span: Option<(i64, &str, &str)>,
    value: &str,
) -> FoundDeadLetter {
    let (span_index, trace_id, kind) =
        span.map_or((None, "", ""), |(index, id, kind)| (Some(index), id, kind));
    FoundDeadLetter {
        topic: topic.to_owned(),
        partition: 0,
        offset,
        span_index,
        trace_id: trace_id.to_owned(),
        kind: kind.to_owned(),
        reason: reason.to_owned(),
        key: None,
        headers: "[]".to_owned(),
        value: value.as_bytes().to_vec(),
    }
}

/// A hundred messages of a megabyte in one batch, which takes some kilobytes on its way.
async fn inflating_batch() -> anyhow::Result<()> {
    // So slow that the batch lies in memory for some of the client's statistics, which come once a second.
    let case = Case::new(Engine::Sqlite, "inflating", 2, |pipeline| pipeline.rate = 20).await?;
    let ledger = Ledger { seed: 101, shape: Shape::Json, spans_per_message: 1, padding: MB as usize };
    let packed = 100;
    let producer: ThreadedProducer<DefaultProducerContext> = case
        .kafka
        .client()
        .set("compression.codec", "zstd")
        .set("message.max.bytes", "1000000000")
        .set("batch.size", "2000000000")
        .set("linger.ms", "3000")
        .create()?;
    for message in 0..packed {
        let payload = ledger.message(message);
        let record = BaseRecord::<[u8], [u8]>::to(&case.topic).partition(0).payload(&payload);
        producer.send(record).map_err(|(error, _)| error)?;
    }
    producer.flush(WAIT)?;
    let mut sluice = case.replica("only").await?;
    eventually("the batch to be told of", WAIT, async || {
        let (_, metrics) = sluice.get("/metrics").await?;
        let held = metrics.lines().find_map(|line| line.strip_prefix("sluice_prefetched_bytes "));
        let held: f64 = held.context("no such metric")?.parse()?;
        Ok((held > (packed * MB / 2) as f64).then_some(()))
    })
    .await?;
    case.wait_settled(packed, WAIT).await?;
    let told = sluice.logged(INFLATED);
    ensure!(told.len() == 1 && told[0]["partition"] == format!("{}/0", case.topic), "{told:?}");
    let peak = sluice.component.memory("VmHWM")?;
    println!("peak memory with a batch of {} MB inflated: {} MB", packed, peak / MB);
    ensure!(peak > packed * MB, "only {} MB were ever used: the messages were not one batch", peak / MB);
    ensure!(peak < LIMIT + packed * MB, "{} MB were used", peak / MB);
    sluice.component.stop(GRACE).await?;
    case.audit(&ledger, packed, &[]).await
}

async fn small_packets() -> anyhow::Result<()> {
    let mariadb = MariaDb::start_with(&["--max-allowed-packet=1M"]).await?;
    let name = unique("packets");
    let sink = Sink::Mysql(mariadb.database(&name).await?);
    let case = Case::with_sink(sink, &name, 1, |_| ()).await?;
    // Three megabytes a message, of which each span alone has its place in a packet.
    let ledger = Ledger { seed: 102, shape: Shape::Json, spans_per_message: 10, padding: 300_000 };
    let giant = format!("{{\"traceId\":\"giant\",\"x\":\"{}\"}}", "y".repeat(2_000_000));
    let sender = case.kafka.producer()?;
    ledger.send(&sender, &case.topic, 0..5, |_| 0).await?;
    let message = format!("{{\"spans\":[{giant}]}}");
    sender.send(&case.topic, 0, Some(message.as_bytes()), None, None).await?;
    ledger.send(&sender, &case.topic, 5..10, |_| 0).await?;
    sender.flush()?;
    let mut sluice = case.replica("only").await?;
    case.wait_settled(11, WAIT).await?;
    sluice.component.stop(GRACE).await?;
    let expected = letter(&case.topic, 5, "TooLarge", Some((0, "giant", "")), &giant);
    case.audit(&ledger, 100, &[expected]).await
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn spans_larger_than_a_packet_together_are_split_and_one_that_is_larger_alone_is_a_dead_letter() {
    small_packets().await.unwrap();
}

/// A server that would cut and replace what does not fit, and a table that can hold Western European letters only.
async fn lax_server() -> anyhow::Result<()> {
    let mariadb = MariaDb::start_with(&["--sql-mode="]).await?;
    let name = unique("lax");
    let sink = Sink::Mysql(mariadb.database(&name).await?);
    let case = Case::with_sink(sink, &name, 1, |_| ()).await?;
    execute(
        &case.pipeline.sink,
        "CREATE TABLE connectivity_trace (id bigint unsigned NOT NULL PRIMARY KEY, trace_id varchar(64) NOT NULL, \
         kind varchar(16) NOT NULL, body mediumtext NOT NULL, created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, \
         KEY (trace_id)) ENGINE=InnoDB DEFAULT CHARSET=latin1",
    )
    .await?;
    let (plain, western) = (r#"{"traceId":"plain"}"#, r#"{"traceId":"Größe","kind":"é","x":"ÿ"}"#);
    let (crab, ohm) = (r#"{"traceId":"🦀"}"#, r#"{"traceId":"plain","kind":"SERVER","note":"Ω"}"#);
    let (escaped, nul) = (r#"{"traceId":"plain","note":"\u03a9\u0000"}"#, r#"{"traceId":"a\u0000b"}"#);
    let messages = [vec![western], vec![crab, plain, ohm, escaped], vec![nul], vec![plain]];
    let sender = case.kafka.producer()?;
    for spans in &messages {
        let message = format!("{{\"spans\":[{}]}}", spans.join(","));
        sender.send(&case.topic, 0, Some(message.as_bytes()), None, None).await?;
    }
    sender.flush()?;
    let mut sluice = case.replica("only").await?;
    case.wait_settled(messages.len() as u64, WAIT).await?;
    sluice.component.stop(GRACE).await?;
    let rows = case.database().await?.rows_after(0).await?;
    let found: Vec<_> = rows.iter().map(|row| (&*row.trace_id, &*row.kind, &*row.body)).collect();
    let expected =
        [("Größe", "é", western), ("plain", "", plain), ("plain", "", escaped), ("plain", "", plain)];
    ensure!(found == expected, "found {found:?}");
    let expected = [
        letter(&case.topic, 1, "Refused", Some((0, "🦀", "")), crab),
        letter(&case.topic, 1, "Refused", Some((2, "plain", "SERVER")), ohm),
        letter(&case.topic, 2, "InvalidSpan", Some((0, "a\0b", "")), nul),
    ];
    let found = case.database().await?.dead_letters().await?;
    ensure!(found == expected, "found {found:?}");
    case.positions_hold().await
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn what_a_latin1_table_of_a_lax_server_cannot_hold_is_a_dead_letter_and_the_rest_is_exact() {
    lax_server().await.unwrap();
}

/// Times at the ends of their types, and beyond what a `timestamp` of the database can hold.
async fn extreme_times() -> anyhow::Result<()> {
    for (format, name) in [(Format::OtlpProto, "OtlpProto"), (Format::ZipkinProto, "ZipkinProto")] {
        let case = Case::new(Engine::Mysql, "times", 1, |pipeline| pipeline.format = name.to_owned()).await?;
        // 2038-01-19T03:14:08Z is the first second that 31 bits cannot count.
        let times =
            [(0, 0), (1, u64::MAX), (u64::MAX, 1), (2_147_483_648_000_000_000, 7), (i64::MAX as u64 + 1, 0)];
        let sender = case.kafka.producer()?;
        for (start, other) in times {
            let message = encode::message_at(format, start, other);
            sender.send(&case.topic, 0, Some(&message), None, None).await?;
        }
        sender.flush()?;
        let mut sluice = case.replica("only").await?;
        case.wait_settled(times.len() as u64, WAIT).await?;
        sluice.component.stop(Duration::from_secs(20)).await?;
        let rows = case.database().await?.rows_after(0).await?;
        ensure!(rows.len() == times.len() && case.database().await?.count_dead_letters().await? == 0);
        for (row, (start, other)) in rows.iter().zip(times) {
            let body: serde_json::Value = serde_json::from_str(&row.body)?;
            let (names, text) = match format {
                Format::OtlpProto => (["startTimeUnixNano", "endTimeUnixNano"], true),
                _ => (["timestamp", "duration"], false),
            };
            for (name, expected) in names.into_iter().zip([start, other]) {
                // What is 0 is not set, in both formats.
                let exact = match (&body[name], expected) {
                    (serde_json::Value::Null, 0) => true,
                    (value, _) if text => value.as_str() == Some(&*expected.to_string()),
                    (value, _) => value.as_u64() == Some(expected),
                };
                ensure!(exact, "{name} of {start} and {other} is {}", row.body);
            }
        }
        case.positions_hold().await?;
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn times_and_durations_at_the_ends_of_their_types_are_stored_exactly() {
    extreme_times().await.unwrap();
}

mod long {
    #[tokio::test]
    #[ignore = "needs Kafka"]
    async fn a_batch_that_inflates_to_a_hundred_megabytes_takes_no_more_than_that_besides_the_limit() {
        super::inflating_batch().await.unwrap();
    }
}
