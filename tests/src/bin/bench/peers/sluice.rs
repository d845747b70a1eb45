//! `sluice consume`, the process that also runs in pods.

use std::process::Command;

use anyhow::{Context, ensure};
use sluice_tests::kafka::Kafka;
use sluice_tests::sluice::{Home, Pipeline, Sink, Sluice, binary};
use sqlx::AssertSqlSafe;

use super::turn::{Database, Durability, Turn, bytes, end, measure, number, peak};

/// A secret of 32 bytes, in base64: fine for a benchmark, for nothing else.
const KEY: &str = "c2x1aWNlIGJlbmNobWFyayBrZXkgb2YgMzIgYnl0ZXM=";
/// Belongs to `spec`, with which [`Pipeline::yaml`] ends.
const ENCRYPTION: &str = "  encryption:
    keys: [{ name: k1, secretKeyRef: { name: bench-keys, key: k1 } }]
    primaryKey: k1
";

/// How bodies are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bodies {
    /// As they came.
    Plain,
    /// Compressed and encrypted.
    Sealed,
}

fn pipeline(kafka: &Kafka, topic: &str, url: &str) -> Pipeline {
    let mut pipeline = Pipeline::new(kafka.bootstrap(), topic, Sink::Mysql(url.to_owned()));
    pipeline.group = format!("bench-{:08x}", fastrand::u32(..));
    pipeline.format = "ZipkinJson".to_owned();
    pipeline
}

fn home(pipeline: &Pipeline, bodies: Bodies) -> anyhow::Result<Home> {
    let home = Home::new(pipeline)?;
    if bodies == Bodies::Sealed {
        let keys = home.path().join("secrets/bench-keys");
        std::fs::create_dir_all(&keys)?;
        std::fs::write(keys.join("k1"), KEY)?;
        home.save(&(pipeline.yaml() + ENCRYPTION))?;
    }
    Ok(home)
}

/// Whether this build of `sluice` has `spec.encryption`. Says so where it has not.
///
/// # Errors
/// It refuses a pipeline without it, too.
pub fn knows_sealing(kafka: &Kafka) -> anyhow::Result<bool> {
    let pipeline = pipeline(kafka, "any", "mysql://root@127.0.0.1/any");
    let check = |bodies| {
        let home = home(&pipeline, bodies)?;
        let mut command = Command::new(binary()?);
        let file = home.path().join("pipeline.yaml");
        let output = command.args(["check", "-f"]).arg(file).output().context("cannot run sluice check")?;
        anyhow::Ok((output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned()))
    };
    let (is_plain_known, said) = check(Bodies::Plain)?;
    ensure!(is_plain_known, "`sluice check` refuses the pipeline:\n{said}");
    let (is_known, said) = check(Bodies::Sealed)?;
    if !is_known {
        println!("# sealed bodies are left out, as `sluice check` says:\n{said}");
    }
    Ok(is_known)
}

/// Stores all spans of a topic.
///
/// # Errors
/// It does not, or what is stored is not what was to be stored.
pub async fn turn(
    kafka: &Kafka,
    database: &Database,
    topic: &str,
    spans: u64,
    bodies: Bodies,
) -> anyhow::Result<Turn> {
    let name = format!("sluice_{:08x}", fastrand::u32(..));
    let (url, mut connection) = database.begin(&name, Durability::Equal).await?;
    let home = home(&pipeline(kafka, topic, &url), bodies)?;
    let file = home.path().join("pipeline.yaml").display().to_string();
    let mut sluice = Sluice::start_from(&home, "bench", &["-f", &file], &[("RUST_LOG", "info")])?;
    sluice.wait_ready().await?;
    let admin = sluice.admin();
    let stored = async || Ok(admin.status().await?["stored"].as_u64().unwrap_or(0));
    // The last spans of a partition wait for their batch to fill.
    let measured =
        measure(&mut sluice.component, Some(database.pid), spans / 10, spans / 10 * 9, stored).await?;
    sluice
        .status_where("every span to be stored", std::time::Duration::from_secs(60), |status| {
            status["stored"] == spans
        })
        .await?;
    let peak = peak(&sluice.component)?;
    sluice.component.stop(std::time::Duration::from_secs(20)).await?;

    let rows = number(&mut connection, "SELECT COUNT(*) FROM connectivity_trace").await?;
    ensure!(rows == spans, "{rows} rows of {spans} spans");
    let sample = "SELECT CONVERT(body USING utf8mb4) FROM connectivity_trace LIMIT 1";
    let sample: String = sqlx::query_scalar(AssertSqlSafe(sample)).fetch_one(&mut connection).await?;
    let is_plain = sample.contains("traceId");
    ensure!(is_plain == (bodies == Bodies::Plain), "{bodies:?} bodies look like this: {sample}");
    let bytes = bytes(&mut connection).await? as f64 / spans as f64;
    end(connection, &name).await?;
    let (rate, cpu, server_cpu) = (measured.rate, measured.cpu, measured.server_cpu);
    Ok(Turn { spans: rate, rows: rate, cpu, server_cpu, bytes, peak })
}
