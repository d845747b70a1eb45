//! Bad input: one dead letter each, with coordinates and original bytes; the neighbours are stored.

use std::time::Duration;

use rdkafka::message::{Header, OwnedHeaders};
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::oracle::FoundDeadLetter;

use crate::raw;
use crate::world::{Case, Engine};

/// Larger than MariaDB takes in one packet (16 MiB by default).
const GIANT: usize = 20_000_000;

/// A bad message: why it is refused, which span of it (none: all of it), the message, and the bytes to be kept.
struct Bad {
    reason: &'static str,
    span_index: Option<i64>,
    trace_id: String,
    kind: String,
    message: Option<Vec<u8>>,
    kept: Vec<u8>,
}

impl Bad {
    fn message(reason: &'static str, message: impl Into<Vec<u8>>) -> Self {
        let message = message.into();
        let (trace_id, kind) = Default::default();
        Self { reason, span_index: None, trace_id, kind, kept: message.clone(), message: Some(message) }
    }

    /// The only span of its message.
    fn span(reason: &'static str, trace_id: &str, kind: &str, span: &str) -> Self {
        let message = format!("{{\"spans\":[{span}]}}").into_bytes();
        let (trace_id, kind) = (trace_id.to_owned(), kind.to_owned());
        let kept = span.as_bytes().to_vec();
        Self { reason, span_index: Some(0), trace_id, kind, kept, message: Some(message) }
    }
}

fn bad_messages(engine: Engine) -> Vec<Bad> {
    let nested =
        format!("{{\"spans\":[{{\"traceId\":\"a\",\"x\":{}{}}}]}}", "[".repeat(10_000), "]".repeat(10_000));
    let mut giant = br#"{"spans":[{"traceId":"a","x":""#.to_vec();
    giant.resize(GIANT, b'x');
    let (long_id, long_kind) = ("t".repeat(65), "k".repeat(17));
    let mut bad = vec![
        Bad::message("Undecodable", r#"{"spans":[{"traceId":"a""#),
        Bad::message("Undecodable", b"{\"spans\":[{\"traceId\":\"a\",\"x\":\"\xff\xfe\"}]}".to_vec()),
        Bad::message("Undecodable", ""),
        Bad { message: None, ..Bad::message("Tombstone", "") },
        Bad::message("Undecodable", nested),
        Bad::message("Undecodable", giant),
        Bad::span("InvalidSpan", &long_id, "", &format!("{{\"traceId\":\"{long_id}\"}}")),
        Bad::span("InvalidSpan", "a", &long_kind, &format!("{{\"traceId\":\"a\",\"kind\":\"{long_kind}\"}}")),
        Bad::span("InvalidSpan", "", "SERVER", r#"{"kind":"SERVER"}"#),
    ];
    if engine == Engine::Mysql {
        bad.push(Bad::span(
            "TooLarge",
            "a",
            "",
            &format!(r#"{{"traceId":"a","x":"{}"}}"#, "y".repeat(GIANT)),
        ));
    }
    bad
}

async fn isolates_bad_input(engine: Engine) -> anyhow::Result<()> {
    let case = Case::new(engine, "hostile", 1, |_| ()).await?;
    let ledger = Ledger::new(51, Shape::Json);
    let sender = case.kafka.producer()?;
    let mut expected = Vec::new();
    let bad = bad_messages(engine);
    let neighbours = bad.len() as u64 + 1;
    // A good message before, between and after the bad ones.
    for (index, bad) in bad.into_iter().enumerate() {
        let index = index as u64;
        ledger.send(&sender, &case.topic, index..index + 1, |_| 0).await?;
        let headers = OwnedHeaders::new()
            .insert(Header { key: "origin", value: Some("caf\u{e9}") })
            .insert(Header { key: "nothing", value: None::<&str> });
        sender.send(&case.topic, 0, bad.message.as_deref(), Some(b"key"), Some(headers)).await?;
        expected.push(FoundDeadLetter {
            topic: case.topic.clone(),
            partition: 0,
            offset: index as i64 * 2 + 1,
            span_index: bad.span_index,
            trace_id: bad.trace_id,
            kind: bad.kind,
            reason: bad.reason.to_owned(),
            key: Some(b"key".to_vec()),
            headers: r#"[{"name":"origin","value":"Y2Fmw6k="},{"name":"nothing","value":null}]"#.to_owned(),
            value: bad.kept,
        });
    }
    ledger.send(&sender, &case.topic, neighbours - 1..neighbours, |_| 0).await?;
    sender.flush()?;

    let mut sluice = case.replica("only").await?;
    case.wait_settled(neighbours * 2 - 1, Duration::from_secs(60)).await?;
    case.audit(&ledger, neighbours * ledger.spans_per_message, &expected).await?;
    let all = expected.len();
    sluice
        .status_where("dead letters to be counted", Duration::from_secs(5), |status| {
            status["deadLetters"] == all
        })
        .await?;
    sluice.component.stop(Duration::from_secs(20)).await?;
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn mariadb_gets_a_dead_letter_for_each_bad_message_and_every_neighbour() {
    isolates_bad_input(Engine::Mysql).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn postgres_gets_a_dead_letter_for_each_bad_message_and_every_neighbour() {
    isolates_bad_input(Engine::Postgres).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn sqlite_gets_a_dead_letter_for_each_bad_message_and_every_neighbour() {
    isolates_bad_input(Engine::Sqlite).await.unwrap();
}

/// The client library's own headers panic over such a name.
async fn survives_a_header_name_that_is_no_text() -> anyhow::Result<()> {
    let case = Case::new(Engine::Sqlite, "header", 1, |_| ()).await?;
    let ledger = Ledger::new(52, Shape::Json);
    ledger.produce(case.kafka, &case.topic, 0..1, |_| 0).await?;
    let value = b"no JSON";
    raw::send(case.kafka.bootstrap(), &case.topic, b"key", value, (b"caf\xe9", b"value"))?;
    ledger.produce(case.kafka, &case.topic, 1..2, |_| 0).await?;
    let mut sluice = case.replica("only").await?;
    case.wait_settled(3, Duration::from_secs(60)).await?;
    sluice.component.stop(Duration::from_secs(20)).await?;
    let expected = FoundDeadLetter {
        topic: case.topic.clone(),
        partition: 0,
        offset: 1,
        span_index: None,
        trace_id: String::new(),
        kind: String::new(),
        reason: "Undecodable".to_owned(),
        key: Some(b"key".to_vec()),
        headers: "[{\"name\":\"\u{fffd}\",\"value\":null}]".to_owned(),
        value: value.to_vec(),
    };
    case.audit(&ledger, 2 * ledger.spans_per_message, &[expected]).await
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_header_name_that_is_not_utf_8_costs_neither_the_process_nor_the_message() {
    survives_a_header_name_that_is_no_text().await.unwrap();
}
