//! Old rows go while new ones come: with the real consumer, through a live edit, by one of two replicas.

use std::time::Duration;

use anyhow::ensure;
use sluice_tests::eventually;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::oracle::database::Database;
use sluice_tests::sluice::tells;

use crate::world::{Case, Engine, execute};

const MESSAGES: u64 = 600;
const SPANS: u64 = MESSAGES * 10;
const OLD: u64 = 5_000;
const WAIT: Duration = Duration::from_secs(90);

/// Rows of two days ago, as Sluice would have written them: ids of that time, in stream 7.
async fn insert_old(engine: Engine, database: &Database) -> anyhow::Result<()> {
    let first = "(CAST(EXTRACT(EPOCH FROM now()) * 1000 AS BIGINT) - 1704067200000 - 172800000)";
    let sql = match engine {
        Engine::Mysql => format!(
            "INSERT INTO connectivity_trace (id, trace_id, kind, body, created_at) \
             SELECT ((CAST(UNIX_TIMESTAMP() * 1000 AS SIGNED) - 1704067200000 - 172800000 + seq) << 22) + 1792, \
             'old', 'SERVER', '{{}}', NOW() - INTERVAL 2 DAY FROM seq_1_to_{OLD}"
        ),
        _ => format!(
            "INSERT INTO connectivity_trace (id, trace_id, kind, body, created_at) \
             SELECT (({first} + number) << 22) + 1792, 'old', 'SERVER', '{{}}', now() - INTERVAL '2 days' \
             FROM generate_series(1, {OLD}) AS number"
        ),
    };
    execute(database, sql).await
}

async fn old_rows_go(engine: Engine) -> anyhow::Result<()> {
    let mut case = Case::new(engine, "retention", 3, |_| {}).await?;
    let ledger = Ledger::new(71, Shape::Json);
    ledger.produce(case.kafka, &case.topic, 0..MESSAGES / 2, |message| (message % 3) as i32).await?;
    let mut one = case.replica("one").await?;
    case.wait_stored(SPANS / 2, WAIT).await?;
    let database = case.database().await?.clone();
    insert_old(engine, &database).await?;
    ensure!(one.status().await?["retention"].is_null(), "without a retention nothing is removed");
    ensure!(database.count().await? == SPANS / 2 + OLD);

    // A live edit: no restart.
    case.edit(|pipeline| pipeline.retention = Some("24h".to_owned()))?;
    let mut two = case.replica("two").await?;
    ledger.produce(case.kafka, &case.topic, MESSAGES / 2..MESSAGES, |message| (message % 3) as i32).await?;
    eventually("the old rows to be gone and the new ones to be there", WAIT, async || {
        Ok((database.count().await? == SPANS).then_some(()))
    })
    .await?;
    case.audit(&ledger, SPANS, &[]).await?;
    let (one_says, two_says) = (one.status().await?, two.status().await?);
    let removed = |status: &serde_json::Value| status["retention"]["removed"].as_u64().unwrap_or_default();
    ensure!(removed(&one_says) + removed(&two_says) == OLD, "{one_says} {two_says}");
    let both = [&one_says, &two_says].map(|status| !status["retention"]["behindSeconds"].is_null());
    ensure!(both != [true, true], "one replica removes: {one_says} {two_says}");
    ensure!(one_says["lastError"].is_null() && two_says["lastError"].is_null(), "{one_says} {two_says}");
    one.component.stop(WAIT).await?;
    two.component.stop(WAIT).await?;
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
    insert_old(Engine::Mysql, &database).await.unwrap();
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
        execute(&database, sql).await.unwrap();
    }
    let url = std::fs::read_to_string(case.home.path().join("secrets/db/url")).unwrap();
    let (_, address) = url.rsplit_once('@').or_else(|| url.split_once("://")).unwrap();
    std::fs::write(case.home.path().join("secrets/db/url"), format!("mysql://{user}:p@{address}")).unwrap();

    ledger.produce(case.kafka, &case.topic, 0..30, |_| 0).await.unwrap();
    let mut poor = case.replica("poor").await.unwrap();
    let status = poor.status_where("the error", WAIT, tells("RetentionFailed")).await.unwrap();
    assert!(status["lastError"].as_str().unwrap().contains("grant this user DELETE"), "{status}");
    case.wait_stored(OLD + 300, WAIT).await.unwrap();
    execute(&database, format!("GRANT DELETE ON {name}.connectivity_trace TO {user}")).await.unwrap();
    eventually("the old rows to be gone", WAIT, async || Ok((database.count().await? == 300).then_some(())))
        .await
        .unwrap();
    poor.status_where("no error", WAIT, |status| status["errors"].as_array().is_some_and(Vec::is_empty))
        .await
        .unwrap();
    case.audit(&ledger, 300, &[]).await.unwrap();
    poor.component.stop(WAIT).await.unwrap();
}
