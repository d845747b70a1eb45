//! A password that stands in every URL is told nowhere, while everything that reads it fails. In a cluster, with all
//! that an operator writes, it is `a_password_is_told_nowhere_while_everything_that_reads_it_fails`.

use anyhow::ensure;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::postgres::Postgres;
use sluice_tests::sluice::{Sink, Sluice, tells};

use crate::world::{Case, unique};
use crate::{GRACE, WAIT, execute, is_degraded};

const CANARY: &str = "c4n4ry0p3ns3s4m3";

/// What a replica tells, to whoever asks or reads its log.
async fn told(sluice: &Sluice) -> anyhow::Result<Vec<(String, String)>> {
    let mut told = vec![("log".to_owned(), std::fs::read_to_string(sluice.component.log())?)];
    for path in ["/status", "/metrics", "/readyz", "/livez"] {
        told.push((path.to_owned(), sluice.get(path).await?.1));
    }
    Ok(told)
}

async fn is_told_nowhere(sluice: &Sluice) -> anyhow::Result<()> {
    for (what, text) in told(sluice).await? {
        let line = text.lines().find(|line| line.contains(CANARY));
        ensure!(line.is_none(), "{what}: {}", line.unwrap_or_default());
    }
    Ok(())
}

/// Every way in which a database's URL can be of no use, one after the other, in a process that runs on.
async fn forced_errors() -> anyhow::Result<()> {
    let mut mariadb = MariaDb::start().await?;
    let name = unique("canary");
    let root = mariadb.database(&name).await?;
    mariadb
        .execute(&format!(
            "CREATE USER app@'127.0.0.1' IDENTIFIED BY '{CANARY}'; GRANT ALL ON *.* TO app@'127.0.0.1'"
        ))
        .await?;
    let good = root.replace("root@", &format!("app:{CANARY}@"));
    let case = Case::with_sink(Sink::Mysql(root.clone()), &name, 1, |pipeline| pipeline.rate = 200).await?;
    case.home.save_url(&good)?;
    let ledger = Ledger { seed: 103, shape: Shape::Json, spans_per_message: 10, padding: 0 };
    let messages = 400;
    ledger.produce(case.kafka, &case.topic, 0..messages, |_| 0).await?;
    let sluice = case.replica("only").await?;
    case.wait_settled(10, WAIT).await?;

    let port = good.rsplit(':').next().unwrap_or_default().split('/').next().unwrap_or_default().to_owned();
    let wrong = [
        (good.replace("app:", "nobody:"), "StoreDenied"),
        (good.replace(&format!(":{port}/"), ":port/"), "SecretUnusable"),
        (format!("{good}?password={CANARY}"), "SecretUnusable"),
        (good.replace("mysql://", "http://"), "SecretUnusable"),
        (good.replace(&format!(":{port}/"), ":1/"), "StoreUnavailable"),
        (CANARY.to_owned(), "SecretUnusable"),
    ];
    for (url, reason) in wrong {
        case.home.save_url(&url)?;
        mariadb.execute("KILL USER app").await?;
        sluice.status_where(reason, WAIT, tells(reason)).await?;
        is_told_nowhere(&sluice).await?;
        case.home.save_url(&good)?;
        let stood = case.settled().await?;
        case.wait_settled(stood + 5, WAIT).await?;
    }
    case.kill_database(mariadb.server()?).await?;
    sluice.status_where("a database that is away", WAIT, is_degraded).await?;
    mariadb.restart().await?;
    case.wait_settled(messages, WAIT).await?;
    is_told_nowhere(&sluice).await?;
    let mut sluice = sluice;
    sluice.component.stop(GRACE).await?;
    case.audit(&ledger, messages * ledger.spans_per_message, &[]).await
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn a_password_is_in_no_log_status_or_metric_while_every_error_is_forced() {
    forced_errors().await.unwrap();
}

/// The other driver says things in its own words.
async fn forced_errors_of_postgres() -> anyhow::Result<()> {
    let postgres = Postgres::start().await?;
    let name = unique("canary");
    let root = postgres.database(&name).await?;
    let case =
        Case::with_sink(Sink::Postgres(root.clone()), &name, 1, |pipeline| pipeline.rate = 200).await?;
    // Whoever comes from this machine is believed, whatever the password.
    let good = root.replace("postgres@", &format!("postgres:{CANARY}@"));
    case.home.save_url(&good)?;
    let ledger = Ledger { seed: 104, shape: Shape::Json, spans_per_message: 10, padding: 0 };
    let messages = 200;
    ledger.produce(case.kafka, &case.topic, 0..messages, |_| 0).await?;
    let mut sluice = case.replica("only").await?;
    case.wait_settled(10, WAIT).await?;
    for (url, reason) in [
        (good.replace("postgres:", "nobody:").replace("nobody://", "postgres://"), "StoreDenied"),
        (format!("{good}?sslmode={CANARY}"), "SecretUnusable"),
        (good.replace("127.0.0.1", "127.0.0.1:1"), "SecretUnusable"),
    ] {
        case.home.save_url(&url)?;
        let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'sluice'";
        execute(&case.pipeline.sink, end).await?;
        sluice.status_where(reason, WAIT, tells(reason)).await?;
        is_told_nowhere(&sluice).await?;
        case.home.save_url(&good)?;
        let stood = case.settled().await?;
        case.wait_settled(stood + 5, WAIT).await?;
    }
    case.wait_settled(messages, WAIT).await?;
    is_told_nowhere(&sluice).await?;
    sluice.component.stop(GRACE).await?;
    case.audit(&ledger, messages * ledger.spans_per_message, &[]).await
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn a_password_of_postgres_is_in_no_log_status_or_metric_while_every_error_is_forced() {
    forced_errors_of_postgres().await.unwrap();
}
