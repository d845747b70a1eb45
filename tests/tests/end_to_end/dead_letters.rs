//! Dead letters come back: with the real command, while consumers run, through kill -9, at the pipeline's rate.

use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::now_ms;
use sluice_tests::rate::bound;
use sluice_tests::sluice::binary;

use crate::world::{Case, Engine};

const MESSAGES: u64 = 300;
const PARTITIONS: i32 = 3;
const SPANS: u64 = MESSAGES * 10;
const WAIT: Duration = Duration::from_secs(60);
const QPS: u32 = 1_000;

/// Runs `sluice dead-letters ARGUMENTS` on the case's pipeline.
fn dead_letters(case: &Case, command: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = run(case, command, arguments)?;
    let text = String::from_utf8(output.stdout)?;
    ensure!(
        output.status.success(),
        "{command} {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text)
}

fn run(case: &Case, command: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    let home = case.home.path();
    let output = Command::new(binary()?)
        .args(["dead-letters", command])
        .arg("-f")
        .arg(home.join("pipeline.yaml"))
        .arg("--secrets-dir")
        .arg(home.join("secrets"))
        .arg("--data-dir")
        .arg(home.join("data"))
        .args(arguments)
        .output()?;
    Ok(output)
}

/// What a command tells programs: one document, and nothing else.
fn json(output: &Output) -> anyhow::Result<Value> {
    serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stdout).into_owned())
}

fn listed(case: &Case, arguments: &[&str]) -> anyhow::Result<Vec<Value>> {
    let text = dead_letters(case, "list", &[arguments, &["-o", "json", "--limit", "100000"]].concat())?;
    let json: Value = serde_json::from_str(&text).with_context(|| text.clone())?;
    Ok(json["letters"].as_array().cloned().unwrap_or_default())
}

async fn come_back(engine: Engine) -> anyhow::Result<()> {
    // A pipeline with the wrong format: every message is a dead letter.
    let mut case = Case::new(engine, "letters", PARTITIONS, |pipeline| {
        pipeline.format = "OtlpProto".to_owned();
        pipeline.rate = QPS;
        pipeline.notice_deaths_soon();
    })
    .await?;
    let ledger = Ledger::new(61, Shape::Json);
    ledger.produce(case.kafka, &case.topic, 0..MESSAGES, |message| (message % 3) as i32).await?;
    let mut wrong = case.replica("wrong").await?;
    case.wait_stored(MESSAGES, WAIT).await?;
    let letters = listed(&case, &["--reason", "Undecodable"])?;
    ensure!(letters.len() as u64 == MESSAGES, "{} letters are listed", letters.len());
    ensure!(
        listed(&case, &["--until", "1h"])?.is_empty() && listed(&case, &["--topic", "other"])?.is_empty()
    );
    let id = letters[0]["id"].as_str().context("an id")?;
    let shown: Value = serde_json::from_str(&dead_letters(&case, "show", &[id, "-o", "json"])?)?;
    ensure!(shown["value"].as_str().is_some_and(|value| !value.is_empty()), "{shown}");
    let text = dead_letters(&case, "show", &[id])?;
    ensure!(text.contains("{\"spans\":["), "{text}");

    // Redriven before anything is mended: a letter again, with its history, and no success.
    let in_vain = run(&case, "redrive", &[id, "--wait"])?;
    let text = String::from_utf8(in_vain.stdout)?;
    ensure!(text.contains("1 marked") && text.contains("1 of 1 failed again"), "{text}");
    ensure!(in_vain.status.code() == Some(1), "{:?}: {text}", in_vain.status);
    let again = listed(&case, &[])?;
    ensure!(again.len() as u64 == MESSAGES, "{} letters", again.len());
    let failed = again.iter().find(|letter| letter["attempts"] == 1).context("one that failed again")?;
    ensure!(failed["history"][0]["reason"] == "Undecodable", "{failed}");
    let dry = dead_letters(&case, "redrive", &["--all", "--dry-run", "--max-attempts", "1"])?;
    ensure!(
        dry.contains(&format!("{} would be marked", MESSAGES - 1)) && dry.contains("1 left alone"),
        "{dry}"
    );
    let dry = json(&run(&case, "redrive", &["--all", "--dry-run", "--max-attempts", "1", "-o", "json"])?)?;
    ensure!(dry["dryRun"] == true && dry["marked"] == MESSAGES - 1 && dry["leftAlone"] == 1, "{dry}");
    wrong.component.stop(WAIT).await?;

    // Mended: all come back, at the rate, though the consumer is killed on the way.
    case.edit(|pipeline| pipeline.format = "Json".to_owned())?;
    let began = now_ms();
    let mut killed = case.replica("killed").await?;
    dead_letters(&case, "redrive", &["--all", "--rate", "500"])?;
    case.wait_stored(SPANS / 3, WAIT).await?;
    killed.kill().await?;
    let mut last = case.replica("last").await?;
    // What is told meanwhile does not get between the figures.
    let redriven = run(&case, "redrive", &["--all", "--wait", "-o", "json"])?;
    let text = String::from_utf8_lossy(&redriven.stderr).into_owned();
    ensure!(redriven.status.success() && text.contains("wait for their consumers"), "{text}");
    let figures = json(&redriven)?;
    ensure!(figures["stillWaiting"] == 0 && figures["failedAgain"] == 0, "{figures}");
    let left = listed(&case, &[])?;
    ensure!(left.is_empty(), "{left:?}");
    case.audit(&ledger, SPANS, &[]).await?;
    let releases = case.database().await?.released().await?;
    let allowed = bound(f64::from(QPS), 6, ledger.spans_per_message);
    releases.check_bound(began, now_ms(), allowed, "with what is redriven")?;

    // New messages go on, and purging removes for good.
    ledger.produce(case.kafka, &case.topic, MESSAGES..MESSAGES + 3, |message| (message % 3) as i32).await?;
    case.wait_stored(SPANS + 30, WAIT).await?;
    let sender = case.kafka.producer()?;
    sender.send(&case.topic, 0, Some(b"not json"), None, None).await?;
    sender.flush()?;
    case.wait_stored(SPANS + 31, WAIT).await?;
    let dry = json(&run(&case, "purge", &["--reason", "Undecodable", "--dry-run", "-o", "json"])?)?;
    ensure!(dry == json!({ "dryRun": true, "removed": 1, "missing": 0 }), "{dry}");
    let text = dead_letters(&case, "purge", &["--reason", "Undecodable", "--yes"])?;
    ensure!(text.contains("1 removed"), "{text}");
    let gone = run(&case, "purge", &[id, "--yes", "-o", "json"])?;
    ensure!(gone.status.code() == Some(1), "{id} is not there any more: {:?}", gone.status);
    ensure!(json(&gone)? == json!({ "dryRun": false, "removed": 0, "missing": 1 }));
    last.component.stop(WAIT).await?;
    case.audit(&ledger, SPANS + 30, &[]).await
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn mariadb_dead_letters_come_back_exactly_once_at_the_rate() {
    come_back(Engine::Mysql).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn postgres_dead_letters_come_back_exactly_once_at_the_rate() {
    come_back(Engine::Postgres).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn sqlite_dead_letters_come_back_exactly_once_at_the_rate() {
    come_back(Engine::Sqlite).await.unwrap();
}
