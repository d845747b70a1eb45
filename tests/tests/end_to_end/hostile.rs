//! Bad input: one dead letter each, with coordinates and original bytes; the neighbours are stored.

use std::time::Duration;

use anyhow::{Context, ensure};
use rdkafka::message::{Header, OwnedHeaders};
use sluice_crds::v1alpha1::Format;
use sluice_tests::encode;
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

/// What is wrong with JSON.
fn bad_json(engine: Engine) -> Vec<Bad> {
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

/// What is wrong with protobuf: a message that ends after its first byte, soon after it, in its last span, before its last
/// byte; a text that is not UTF-8 within frames that fit; random bytes; nothing.
fn bad_protobuf(format: Format) -> anyhow::Result<Vec<Bad>> {
    let whole = encode::message(&Ledger::new(53, Shape::Json), format, 1_000);
    let mut bad = Vec::new();
    for length in [1, 5, whole.len() - 20, whole.len() - 1] {
        bad.push(Bad::message("Undecodable", &whole[..length]));
    }
    let mut not_text = whole.clone();
    let name = b"get /cart";
    let at = whole.windows(name.len()).rposition(|part| part == name).context("no name in the last span")?;
    not_text[at] = 0xff;
    bad.push(Bad::message("Undecodable", not_text));
    let mut random = fastrand::Rng::with_seed(53);
    for length in [40, 400, 4_000] {
        let bytes: Vec<u8> = std::iter::repeat_with(|| random.u8(..)).take(length).collect();
        bad.push(Bad::message("Undecodable", bytes));
    }
    bad.push(Bad::message("Undecodable", ""));
    bad.push(Bad { message: None, ..Bad::message("Tombstone", "") });
    Ok(bad)
}

async fn isolates(engine: Engine, format: Format, bad: Vec<Bad>) -> anyhow::Result<()> {
    let (_, name) = encode::FORMATS.into_iter().find(|(one, _)| *one == format).context("no such format")?;
    let case = Case::new(engine, "hostile", 1, |pipeline| pipeline.format = name.to_owned()).await?;
    let ledger = Ledger::new(51, Shape::Json);
    let sender = case.kafka.producer()?;
    let good = async |number| {
        let message = encode::message(&ledger, format, number);
        sender.send(&case.topic, 0, Some(&message), None, None).await
    };
    let mut expected = Vec::new();
    let neighbours = bad.len() as u64 + 1;
    // A good message before, between and after the bad ones.
    for (index, bad) in bad.into_iter().enumerate() {
        good(index as u64).await?;
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
    good(neighbours - 1).await?;
    sender.flush()?;

    let mut sluice = case.replica("only").await?;
    case.wait_settled(neighbours * 2 - 1, Duration::from_secs(60)).await?;
    let spans = neighbours * ledger.spans_per_message;
    match format {
        Format::Json => case.audit(&ledger, spans, &expected).await?,
        _ => holds_translated(&case, &ledger, spans, &expected).await?,
    }
    let all = expected.len();
    sluice
        .status_where("dead letters to be counted", Duration::from_secs(30), |status| {
            status["deadLetters"] == all
        })
        .await?;
    sluice.component.stop(Duration::from_secs(20)).await?;
    Ok(())
}

/// As [`Case::audit`], where bodies are not what was sent: each span is there once, in its place, with its own number.
async fn holds_translated(
    case: &Case,
    ledger: &Ledger,
    spans: u64,
    expected: &[FoundDeadLetter],
) -> anyhow::Result<()> {
    let database = case.database().await?;
    let rows = database.rows_after(0).await?;
    ensure!(rows.len() as u64 == spans, "{} rows of {spans} spans", rows.len());
    for (number, row) in (0..).zip(&rows) {
        let span = ledger.span(number);
        let same = (&*row.trace_id, &*row.kind) == (&*span.trace_id, span.kind);
        ensure!(same && row.body.contains(&format!("\"{:016x}\"", number + 1)), "span {number} is {row:?}");
    }
    let letters = database.dead_letters().await?;
    ensure!(letters == expected, "found {letters:?}");
    Ok(())
}

async fn isolates_bad_input(engine: Engine) -> anyhow::Result<()> {
    isolates(engine, Format::Json, bad_json(engine)).await
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

async fn isolates_broken_protobuf() -> anyhow::Result<()> {
    for format in [Format::OtlpProto, Format::ZipkinProto, Format::JaegerProto] {
        let isolated = isolates(Engine::Sqlite, format, bad_protobuf(format)?).await;
        isolated.with_context(|| format!("{format:?}"))?;
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn broken_protobuf_of_every_kind_is_a_dead_letter_each_with_its_bytes_and_every_neighbour_is_stored() {
    isolates_broken_protobuf().await.unwrap();
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
