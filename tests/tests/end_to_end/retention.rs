//! Old rows go while new ones come: with the real consumer, through a live edit, by one of two replicas.

use std::time::Duration;

use anyhow::ensure;
use serde_json::Value;
use sluice_tests::eventually;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::sluice::tells;

use crate::world::{Case, Engine};

const MESSAGES: u64 = 600;
const SPANS: u64 = MESSAGES * 10;
const OLD: u64 = 5_000;
const WAIT: Duration = Duration::from_secs(90);

/// Rows of two days ago, as Sluice would have written them: ids of that time, in stream 7.
async fn insert_old(case: &Case, engine: Engine) -> anyhow::Result<()> {
    let (time, rows) = match engine {
        Engine::Mysql => ("CAST(UNIX_TIMESTAMP() * 1000 AS SIGNED)", format!("seq_1_to_{OLD}")),
        Engine::Postgres => (
            "CAST(EXTRACT(EPOCH FROM now()) * 1000 AS BIGINT)",
            format!("generate_series(1, {OLD}) AS numbers(seq)"),
        ),
        Engine::Sqlite => (
            "unixepoch() * 1000",
            format!(
                "(WITH RECURSIVE numbers(seq) AS (SELECT 1 UNION ALL SELECT seq + 1 FROM numbers \
                 WHERE seq < {OLD}) SELECT seq FROM numbers)"
            ),
        ),
    };
    let two_days_ago = match engine {
        Engine::Mysql => "NOW() - INTERVAL 2 DAY",
        Engine::Postgres => "now() - INTERVAL '2 days'",
        Engine::Sqlite => "datetime('now', '-2 days')",
    };
    case.execute(&format!(
        "INSERT INTO connectivity_trace (id, trace_id, kind, body, created_at) \
         SELECT (({time} - 1704067200000 - 172800000 + seq) << 22) + 1792, 'old', 'SERVER', '{{}}', {two_days_ago} \
         FROM {rows}"
    ))
    .await
}

async fn old_rows_go(engine: Engine) -> anyhow::Result<()> {
    let mut case = Case::new(engine, "retention", 3, |_| {}).await?;
    let ledger = Ledger::new(71, Shape::Json);
    ledger.produce(case.kafka, &case.topic, 0..MESSAGES / 2, |message| (message % 3) as i32).await?;
    let one = case.replica("one").await?;
    case.wait_stored(SPANS / 2, WAIT).await?;
    let database = case.database().await?.clone();
    insert_old(&case, engine).await?;
    ensure!(one.status().await?["retention"].is_null(), "without a retention nothing is removed");
    ensure!(database.count().await? == SPANS / 2 + OLD);

    // A live edit: no restart.
    case.edit(|pipeline| pipeline.retention = Some("24h".to_owned()))?;
    let mut replicas = vec![one];
    // A SQLite file has one writer.
    if engine != Engine::Sqlite {
        replicas.push(case.replica("two").await?);
    }
    ledger.produce(case.kafka, &case.topic, MESSAGES / 2..MESSAGES, |message| (message % 3) as i32).await?;
    eventually("the old rows to be gone and the new ones to be there", WAIT, async || {
        // On its way the number of rows may be the right one before its time.
        let settled = case.settled().await? >= MESSAGES;
        Ok((settled && database.count().await? == SPANS).then_some(()))
    })
    .await?;
    case.audit(&ledger, SPANS, &[]).await?;
    let mut said = Vec::new();
    // Who stops gives the turn to remove to the other one: all of them are asked before.
    for replica in &replicas {
        said.push(replica.status().await?);
    }
    for replica in &mut replicas {
        replica.component.stop(WAIT).await?;
    }
    let removed = |status: &Value| status["retention"]["removed"].as_u64().unwrap_or_default();
    ensure!(said.iter().map(removed).sum::<u64>() == OLD, "{said:?}");
    let remove = said.iter().filter(|status| !status["retention"]["behindSeconds"].is_null()).count();
    ensure!(remove <= 1, "one replica removes: {said:?}");
    ensure!(said.iter().all(|status| status["lastError"].is_null()), "{said:?}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn mariadb_old_rows_go_and_young_ones_stay() {
    old_rows_go(Engine::Mysql).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn postgres_old_rows_go_and_young_ones_stay() {
    old_rows_go(Engine::Postgres).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn sqlite_old_rows_go_and_young_ones_stay() {
    old_rows_go(Engine::Sqlite).await.unwrap();
}

/// Rows are still stored, and `/status` says what is missing, until it is granted.
#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn without_the_right_to_remove_rows_are_stored_and_the_status_says_so() {
    let case = Case::new(Engine::Mysql, "retention", 1, |pipeline| {
        pipeline.retention = Some("24h".to_owned());
    })
    .await
    .unwrap();
    let ledger = Ledger::new(72, Shape::Json);
    // The tables exist, and the user may do all but remove rows.
    let mut owner = case.replica("owner").await.unwrap();
    owner.component.stop(WAIT).await.unwrap();
    let database = case.database().await.unwrap().clone();
    insert_old(&case, Engine::Mysql).await.unwrap();
    let name = &case.topic;
    let user = format!("u{}", std::process::id());
    for sql in [
        format!("CREATE USER {user} IDENTIFIED BY 'p'"),
        format!("GRANT SELECT, INSERT, UPDATE, CREATE, INDEX, ALTER ON {name}.* TO {user}"),
        format!("GRANT DELETE ON {name}.sluice_rate TO {user}"),
        format!("GRANT DELETE ON {name}.sluice_redrive TO {user}"),
        format!("GRANT DELETE ON {name}.sluice_dead_letter TO {user}"),
        format!("GRANT DELETE ON {name}.sluice_dead_letter_chunk TO {user}"),
        format!("GRANT DELETE ON {name}.sluice_dead_letter_unsent TO {user}"),
    ] {
        case.execute(&sql).await.unwrap();
    }
    let url = std::fs::read_to_string(case.home.path().join("secrets/db/url")).unwrap();
    let (_, address) = url.rsplit_once('@').or_else(|| url.split_once("://")).unwrap();
    std::fs::write(case.home.path().join("secrets/db/url"), format!("mysql://{user}:p@{address}")).unwrap();

    ledger.produce(case.kafka, &case.topic, 0..30, |_| 0).await.unwrap();
    let mut poor = case.replica("poor").await.unwrap();
    let status = poor.status_where("the error", WAIT, tells("RetentionFailed")).await.unwrap();
    assert!(status["lastError"].as_str().unwrap().contains("grant this user DELETE"), "{status}");
    case.wait_stored(OLD + 300, WAIT).await.unwrap();
    case.execute(&format!("GRANT DELETE ON {name}.connectivity_trace TO {user}")).await.unwrap();
    eventually("the old rows to be gone", WAIT, async || Ok((database.count().await? == 300).then_some(())))
        .await
        .unwrap();
    poor.status_where("no error", WAIT, |status| status["errors"].as_array().is_some_and(Vec::is_empty))
        .await
        .unwrap();
    case.audit(&ledger, 300, &[]).await.unwrap();
    poor.component.stop(WAIT).await.unwrap();
}
