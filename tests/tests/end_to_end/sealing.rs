//! Guarantee 6: bodies and dead letters are sealed, and can be read again: through kills, through a rotation under load,
//! by a checker that knows only the keys and the documented format.

use std::collections::HashSet;
use std::process::{Command, Output};
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde_json::Value;
use sluice_tests::component::{Component, Launch};
use sluice_tests::eventually;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::oracle::database::Database;
use sluice_tests::oracle::{FoundDeadLetter, report};
use sluice_tests::sluice::{Sluice, binary};

use crate::world::{Case, Engine};

const PARTITIONS: i32 = 3;
const MESSAGES: u64 = 3_000;
const SPANS: u64 = MESSAGES * 10;
const GARBAGE: i64 = 5;
/// Slow enough that every step finds spans still to be stored.
const QPS: u32 = 3_000;
/// Spans per second while something else goes on that may take long.
const CRAWL: u32 = 50;
/// Bodies that one data key seals: a replica makes several.
const BUDGET: &str = "1000";
const DEADLINE: Duration = Duration::from_secs(90);
const GRACE: Duration = Duration::from_secs(20);

fn arguments_of(case: &Case, command: &str) -> Vec<String> {
    let path = |part: &str| case.home.path().join(part).display().to_string();
    let place = ["--secrets-dir".to_owned(), path("secrets"), "--data-dir".to_owned(), path("data")];
    let command = ["keys".to_owned(), command.to_owned(), "-f".to_owned(), path("pipeline.yaml")];
    command.into_iter().chain(place).collect()
}

fn keys(case: &Case, command: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    Ok(Command::new(binary()?).args(arguments_of(case, command)).args(arguments).output()?)
}

fn good(output: &Output) -> anyhow::Result<String> {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    ensure!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    Ok(text)
}

fn json(output: &Output) -> anyhow::Result<Value> {
    serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

fn consumer(case: &Case, name: &str) -> anyhow::Result<Sluice> {
    consumer_with(case, name, BUDGET)
}

fn consumer_with(case: &Case, name: &str, bodies_per_data_key: &str) -> anyhow::Result<Sluice> {
    let file = case.home.path().join("pipeline.yaml").display().to_string();
    Sluice::start_from(&case.home, name, &["-f", &file, "--bodies-per-data-key", bodies_per_data_key], &[])
}

/// Adds messages that cannot be decoded behind the others; returns the dead letters that they must become.
async fn produce_garbage(case: &Case) -> anyhow::Result<Vec<FoundDeadLetter>> {
    let sender = case.kafka.producer()?;
    let mut expected = Vec::new();
    for number in 0..GARBAGE {
        let value = format!("no JSON {number}").into_bytes();
        sender.send(&case.topic, 0, Some(&value), Some(b"key"), None).await?;
        expected.push(FoundDeadLetter {
            topic: case.topic.clone(),
            partition: 0,
            offset: (MESSAGES as i64) / i64::from(PARTITIONS) + number,
            span_index: None,
            trace_id: String::new(),
            kind: String::new(),
            reason: "Undecodable".to_owned(),
            key: Some(b"key".to_vec()),
            headers: "[]".to_owned(),
            value,
        });
    }
    sender.flush()?;
    Ok(expected)
}

/// Which data key sealed each row, and with which nonce.
async fn nonces(database: &Database) -> anyhow::Result<Vec<(u32, u64)>> {
    let (mut found, mut last) = (Vec::new(), 0);
    loop {
        let rows = database.rows_after(last).await?;
        let Some(end) = rows.last() else { return Ok(found) };
        last = end.id;
        for row in rows {
            let sealed = STANDARD_NO_PAD.decode(row.body.strip_prefix("s1:").context("a plain body")?)?;
            let nonce = [&[0, 0], &sealed[6..12]].concat();
            found.push((
                u32::from_be_bytes(sealed[..4].try_into()?),
                u64::from_be_bytes(nonce.as_slice().try_into()?),
            ));
        }
    }
}

async fn seals_through_kills_and_a_rotation(engine: Engine) -> anyhow::Result<()> {
    let mut case = Case::new(engine, "sealing", PARTITIONS, |pipeline| {
        pipeline.rate = QPS;
        pipeline.seal_with("k1");
        pipeline.notice_deaths_soon();
    })
    .await?;
    let ledger = Ledger::new(71, Shape::Json);
    ledger.produce(case.kafka, &case.topic, 0..MESSAGES, |message| (message % 3) as i32).await?;
    let letters = produce_garbage(&case).await?;

    let mut replica = consumer(&case, "sealing")?;
    case.wait_settled(MESSAGES / 5, DEADLINE).await?;
    replica.kill().await?;
    replica = consumer(&case, "sealing")?;
    case.wait_settled(MESSAGES * 2 / 5, DEADLINE).await?;
    // A second key, which wraps what is made from now on; then what was made before. kill -9 in the midst of both, so slowly
    // that something is left to be stored.
    case.pipeline.seal_with("k2");
    case.home.save_ring(&case.pipeline)?;
    case.edit(|_| ())?;
    replica.kill().await?;
    replica = consumer(&case, "sealing")?;
    case.wait_settled(MESSAGES * 3 / 5, DEADLINE).await?;
    case.edit(|pipeline| pipeline.rate = CRAWL)?;
    let dry = good(&keys(&case, "rotate", &["--dry-run"])?)?;
    ensure!(dry.contains("would be wrapped by k2"), "{dry}");
    let dry = json(&keys(&case, "rotate", &["--dry-run", "-o", "json"])?)?;
    ensure!(dry["dryRun"] == true && dry["primaryKey"] == "k2" && dry["wrapped"].as_u64() > Some(0), "{dry}");
    let status = json(&keys(&case, "status", &["-o", "json"])?)?;
    ensure!(status["keys"][0]["dataKeys"].as_u64() > Some(0), "{status}");
    let rotated = json(&keys(&case, "rotate", &["-o", "json"])?)?;
    ensure!(rotated["wrapped"] == dry["wrapped"] && rotated["failed"] == 0, "{rotated}");
    replica.kill().await?;
    ensure!(case.settled().await? < MESSAGES, "nothing was left to be stored when it was killed");
    // The first key is not needed any more.
    case.edit(|pipeline| {
        pipeline.ring.remove(0);
        pipeline.rate = QPS;
    })?;
    std::fs::remove_file(case.home.path().join("secrets/ring/k1"))?;
    replica = consumer(&case, "sealing")?;
    case.wait_stored(SPANS + letters.len() as u64, DEADLINE).await?;
    replica.component.stop(GRACE).await?;

    let database = case.database().await?;
    let problems = database.audit_sealed(&ledger, SPANS, &letters, &case.pipeline.ring).await?;
    ensure!(problems.is_empty(), "{}", report(&problems));
    case.positions_hold().await?;
    let nonces = nonces(database).await?;
    ensure!(nonces.iter().all(|(_, nonce)| *nonce < 1_000), "a data key sealed more than it may");
    ensure!(nonces.iter().collect::<HashSet<_>>().len() == nonces.len(), "a nonce was used twice");
    let made = nonces.iter().map(|(key, _)| key).collect::<HashSet<_>>().len();
    ensure!(made >= SPANS as usize / 1_000, "only {made} data keys");

    let status = json(&keys(&case, "status", &["-o", "json"])?)?;
    ensure!(status["keys"].as_array().map(Vec::len) == Some(1), "{status}");
    let verified = json(&keys(&case, "verify", &["--rows", "100000", "-o", "json"])?)?;
    ensure!(verified["sealedRows"] == SPANS && verified["problems"] == 0, "{verified}");
    notices_what_was_tampered_with(&case, database).await
}

/// Two rows swap their bodies; a data key's row is altered.
async fn notices_what_was_tampered_with(case: &Case, database: &Database) -> anyhow::Result<()> {
    let rows = database.rows_after(0).await?;
    let (first, second) = (&rows[0], &rows[1]);
    for (row, other) in [(first, second), (second, first)] {
        let sql = format!("UPDATE connectivity_trace SET body = '{}' WHERE id = {}", other.body, row.id);
        case.execute(&sql).await?;
    }
    let verify = keys(case, "verify", &["--rows", "100000"])?;
    let text = String::from_utf8_lossy(&verify.stdout).into_owned();
    ensure!(verify.status.code() == Some(1), "{text}");
    for row in [first, second] {
        ensure!(text.contains(&format!("row {}: it is not what was sealed", row.id)), "{text}");
    }
    ensure!(text.contains("2 cannot be read"), "{text}");
    let newest = nonces(database).await?.last().context("no row")?.0;
    case.execute(&format!("DELETE FROM sluice_data_key WHERE id = {newest}")).await?;
    let verify = keys(case, "verify", &["--rows", "100000"])?;
    let text = String::from_utf8_lossy(&verify.stdout).into_owned();
    ensure!(text.contains(&format!("data key {newest} is not in sluice_data_key")), "{text}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn mariadb_gets_every_span_sealed_through_kills_and_a_rotation_of_keys() {
    seals_through_kills_and_a_rotation(Engine::Mysql).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn postgres_gets_every_span_sealed_through_kills_and_a_rotation_of_keys() {
    seals_through_kills_and_a_rotation(Engine::Postgres).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn sqlite_gets_every_span_sealed_through_kills_and_a_rotation_of_keys() {
    seals_through_kills_and_a_rotation(Engine::Sqlite).await.unwrap();
}

/// As many data keys as make a rotation long: every hundred bodies have one, and each takes 150 ms to be wrapped anew.
const SMALL_BUDGET: &str = "100";
const SLOW_MARIADB: [&str; 2] =
    ["CREATE TRIGGER slow BEFORE UPDATE ON sluice_data_key FOR EACH ROW DO SLEEP(0.15)", "DROP TRIGGER slow"];
const SLOW_POSTGRES: [&str; 2] = [
    "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.15); RETURN NEW; END'; \
     CREATE TRIGGER slow BEFORE UPDATE ON sluice_data_key FOR EACH ROW EXECUTE FUNCTION slow()",
    "DROP TRIGGER slow ON sluice_data_key",
];

/// Starts a rotation, and kills it when half of what it has to do is done.
async fn rotation_killed_half_way(case: &Case) -> anyhow::Result<()> {
    let database = case.database().await?;
    let before = database.data_keys_of("k1").await?;
    ensure!(before >= 20, "only {before} data keys to be wrapped anew");
    let mut rotation = Component::start(
        "sluice keys rotate",
        &Launch {
            program: binary()?,
            arguments: arguments_of(case, "rotate"),
            environment: Vec::new(),
            log: case.home.path().join("rotation.log"),
        },
    )?;
    eventually("half of the data keys to be wrapped anew", DEADLINE, async || {
        Ok((database.data_keys_of("k1").await? <= before / 2).then_some(()))
    })
    .await?;
    rotation.kill().await?;
    let left = database.data_keys_of("k1").await?;
    ensure!(left > 0, "it was killed when it had ended");
    println!("killed with {left} of {before} data keys still to be wrapped anew");
    Ok(())
}

async fn a_killed_rotation_is_repeated(engine: Engine, [slow, fast]: [&str; 2]) -> anyhow::Result<()> {
    let mut case = Case::new(engine, "rotation", PARTITIONS, |pipeline| {
        pipeline.rate = QPS / 2;
        pipeline.seal_with("k1");
    })
    .await?;
    let ledger = Ledger::new(73, Shape::Json);
    ledger.produce(case.kafka, &case.topic, 0..MESSAGES, |message| (message % 3) as i32).await?;
    let mut replica = consumer_with(&case, "first", SMALL_BUDGET)?;
    case.wait_settled(MESSAGES / 5, DEADLINE).await?;
    case.pipeline.seal_with("k2");
    case.home.save_ring(&case.pipeline)?;
    replica.component.stop(GRACE).await?;
    case.edit(|_| ())?;
    // It makes data keys under the second key while those under the first one are wrapped anew.
    replica = consumer_with(&case, "second", SMALL_BUDGET)?;
    case.wait_settled(MESSAGES / 4, DEADLINE).await?;
    case.edit(|pipeline| pipeline.rate = CRAWL)?;
    case.execute(slow).await?;
    rotation_killed_half_way(&case).await?;
    let verified = json(&keys(&case, "verify", &["--rows", "100000", "-o", "json"])?)?;
    ensure!(verified["problems"] == 0, "between two rotations: {verified}");
    case.execute(fast).await?;
    good(&keys(&case, "rotate", &[])?)?;
    ensure!(case.database().await?.data_keys_of("k1").await? == 0, "the second rotation has left some out");

    // The first key is not needed any more: by those who read, and by who goes on storing.
    replica.component.stop(GRACE).await?;
    ensure!(case.settled().await? < MESSAGES, "nothing was left to be stored");
    case.edit(|pipeline| {
        pipeline.ring.remove(0);
        pipeline.rate = QPS;
    })?;
    std::fs::remove_file(case.home.path().join("secrets/ring/k1"))?;
    replica = consumer_with(&case, "third", SMALL_BUDGET)?;
    case.wait_stored(SPANS, DEADLINE).await?;
    replica.component.stop(GRACE).await?;
    let problems = case.database().await?.audit_sealed(&ledger, SPANS, &[], &case.pipeline.ring).await?;
    ensure!(problems.is_empty(), "{}", report(&problems));
    let verified = json(&keys(&case, "verify", &["--rows", "100000", "-o", "json"])?)?;
    ensure!(verified["sealedRows"] == SPANS && verified["problems"] == 0, "{verified}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn a_rotation_in_mariadb_killed_half_way_is_repeated_and_every_body_can_be_read() {
    a_killed_rotation_is_repeated(Engine::Mysql, SLOW_MARIADB).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn a_rotation_in_postgres_killed_half_way_is_repeated_and_every_body_can_be_read() {
    a_killed_rotation_is_repeated(Engine::Postgres, SLOW_POSTGRES).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn a_missing_key_holds_everything_is_named_and_is_not_waited_for_in_vain() {
    holds_without_its_key().await.unwrap();
}

async fn holds_without_its_key() -> anyhow::Result<()> {
    let case = Case::new(Engine::Mysql, "keyless", 1, |pipeline| pipeline.seal_with("k1")).await?;
    let ledger = Ledger::new(72, Shape::Json);
    ledger.produce(case.kafka, &case.topic, 0..10, |_| 0).await?;
    let key = case.home.path().join("secrets/ring/k1");
    let value = std::fs::read(&key)?;
    std::fs::remove_file(&key)?;
    let replica = consumer(&case, "keyless")?;
    replica
        .status_where("the missing key to be named", DEADLINE, |status| {
            status["lastError"].to_string().contains("ring/k1 was not found")
        })
        .await?;
    ensure!(case.database().await?.count().await? == 0);
    std::fs::write(&key, value)?;
    case.wait_stored(100, DEADLINE).await?;
    let problems = case.database().await?.audit_sealed(&ledger, 100, &[], &case.pipeline.ring).await?;
    ensure!(problems.is_empty(), "{}", report(&problems));
    another_key_of_its_name_is_told(&case)
}

/// As on the machine of somebody who has made a key of his own: it would wrap what no consumer opens.
fn another_key_of_its_name_is_told(case: &Case) -> anyhow::Result<()> {
    good(&keys(case, "status", &[])?)?;
    std::fs::write(case.home.path().join("secrets/ring/k1"), "A".repeat(43) + "=")?;
    let status = json(&keys(case, "status", &["-o", "json"])?)?;
    ensure!(status["keys"][0]["problem"].to_string().contains("put the former one back"), "{status}");
    let rotate = keys(case, "rotate", &[])?;
    let said = String::from_utf8_lossy(&rotate.stderr).into_owned();
    ensure!(!rotate.status.success() && said.contains("the primary key is of no use"), "{said}");
    let place = arguments_of(case, "status").split_off(2);
    let check = Command::new(binary()?).args(["check", "--connect"]).args(place).output()?;
    let said = String::from_utf8_lossy(&check.stdout).into_owned();
    ensure!(
        !check.status.success() && said.contains("FAILED  spec.encryption.keys[0].secretKeyRef"),
        "{said}"
    );
    Ok(())
}
