//! MariaDB and PostgreSQL over TLS, with the server's certificate verified.

use std::time::Duration;

use anyhow::{bail, ensure};
use serde_json::Value;
use sluice_tests::certificates::Authority;
use sluice_tests::component::Scratch;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::oracle::database::Database;
use sluice_tests::postgres::Postgres;
use sluice_tests::sluice::{Checked, Sink, Sluice, tells};

use crate::world::{Case, unique};

const WAIT: Duration = Duration::from_secs(60);
const MESSAGES: u64 = 200;
const SPANS: u64 = 10 * MESSAGES;

/// How many connections of the pipeline there are, and how many of them are encrypted.
const SESSIONS: &str =
    "SELECT COUNT(*), COUNT(*) FILTER (WHERE ssl) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
     WHERE application_name = 'sluice'";

/// Only a server whose certificate is of the pipeline's authority, and of the name that the URL has, gets rows.
async fn verified(sink: Sink, path: &str, ours: &Authority, others: &Authority) -> anyhow::Result<()> {
    let case =
        Case::with_sink(sink, &unique("verified"), 1, |pipeline| pipeline.verify_database = true).await?;
    let ledger = Ledger::new(157, Shape::Json);
    ledger.produce(case.kafka, &case.topic, 0..MESSAGES, |_| 0).await?;
    let trust = |authority: &Authority| {
        case.home.save_secret("db", "ca", &std::fs::read_to_string(authority.certificate())?)
    };
    let (Sink::Mysql(url) | Sink::Postgres(url)) = &case.pipeline.sink else { bail!("no server") };
    let refused = async |sluice: &Sluice, said: &str| {
        let says = |status: &Value| {
            tells("StoreUnavailable")(status) && status["lastError"].to_string().contains(said)
        };
        sluice.status_where(said, WAIT, says).await?;
        ensure!(case.database().await?.count().await? == 0, "something was stored");
        anyhow::Ok(())
    };

    trust(others)?;
    Checked::of(&case.home)?.expect_told(&[(path, &["UnknownIssuer", "caFrom holds the authority"])]);
    let mut sluice = Sluice::start(&case.home, "only")?;
    refused(&sluice, "UnknownIssuer").await?;

    // The right authority, and a name that the certificate has not.
    case.home.save_url(&url.replace("127.0.0.1", "localhost"))?;
    trust(ours)?;
    Checked::of(&case.home)?.expect_told(&[(path, &["not valid for name", "name the host"])]);
    refused(&sluice, "not valid for name").await?;

    case.home.save_url(url)?;
    case.wait_stored(SPANS, WAIT).await?;
    let calm = |status: &Value| status["errors"].as_array().is_some_and(Vec::is_empty);
    sluice.status_where("no error", WAIT, calm).await?;
    if let Database::Postgres(pool) = case.database().await? {
        let (all, encrypted): (i64, i64) = sqlx::query_as(SESSIONS).fetch_one(pool).await?;
        ensure!(all > 0 && all == encrypted, "{encrypted} of {all} sessions are encrypted");
    }
    Checked::of(&case.home)?.expect_failed(&[]);
    ensure!(sluice.logged("started").len() == 1, "the process was started again");
    sluice.component.stop(WAIT).await?;
    case.audit(&ledger, SPANS, &[]).await
}

/// Two authorities that know nothing of each other.
fn authorities(dir: &Scratch) -> anyhow::Result<[Authority; 2]> {
    let authority = |name| Authority::new(&dir.path().join(name));
    Ok([authority("ours")?, authority("others")?])
}

async fn mariadb() -> anyhow::Result<()> {
    let dir = Scratch::new("sluice-tls-")?;
    let [ours, others] = authorities(&dir)?;
    let server = ours.identity("server", "mariadb", "", &[], &[[127, 0, 0, 1].into()])?;
    let mariadb = MariaDb::start_secure(&server).await?;
    let url = mariadb.database("verified").await?;
    verified(Sink::Mysql(url), "spec.sink.mysql: ", &ours, &others).await
}

async fn postgres() -> anyhow::Result<()> {
    let dir = Scratch::new("sluice-tls-")?;
    let [ours, others] = authorities(&dir)?;
    let server = ours.identity("server", "postgres", "", &[], &[[127, 0, 0, 1].into()])?;
    let postgres = Postgres::start_secure(&server).await?;
    let url = postgres.database("verified").await?;
    verified(Sink::Postgres(url), "spec.sink.postgres: ", &ours, &others).await
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn rows_go_only_to_a_mariadb_with_a_certificate_of_the_pipelines_authority() {
    mariadb().await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn rows_go_only_to_a_postgres_with_a_certificate_of_the_pipelines_authority() {
    postgres().await.unwrap();
}
