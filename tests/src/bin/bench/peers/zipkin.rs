//! Zipkin's server with its Kafka collector and MySQL storage, as released.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use sluice_tests::component::{Component, Launch, Scratch};
use sluice_tests::kafka::Kafka;
use sluice_tests::{cache_dir, eventually, free_port};

use super::turn::{Database, Durability, Turn, bytes, end, execute, measure, number, peak};

/// Of the release that tests/peers/zipkin/pom.xml pins.
const VERSION: &str = "3.5.1";
/// A virtual machine on half a core, with everything that Zipkin has to load.
const START: Duration = Duration::from_secs(180);
/// Of the spans, before which compilers and caches of the virtual machine are still cold.
const WARM: f64 = 0.2;

/// How a turn is run.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Of the server's commits.
    pub durability: Durability,
    /// Threads that consume, as `KAFKA_STREAMS`; Zipkin's default is one.
    pub streams: i32,
    /// Number of the round.
    pub round: usize,
}

/// Stores the first `spans` spans of a topic and more until it is stopped.
///
/// # Errors
/// It does not.
pub async fn turn(
    kafka: &Kafka,
    database: &Database,
    topic: &str,
    spans: u64,
    settings: Settings,
) -> anyhow::Result<Turn> {
    let files = std::env::var_os("SLUICE_TEST_ZIPKIN")
        .map_or_else(|| cache_dir().join(format!("zipkin-{VERSION}")), PathBuf::from);
    let (jar, schema) = (files.join("zipkin-server-exec.jar"), files.join("mysql.sql"));
    ensure!(jar.is_file(), "no Zipkin in {}; run `tests/run --prepare --with-peers`", files.display());
    let schema = std::fs::read_to_string(schema).context("cannot read Zipkin's schema")?;

    let name = format!("zipkin_{}_{:08x}", settings.round, fastrand::u32(..));
    let (url, mut connection) = database.begin(&name, settings.durability).await?;
    execute(&mut connection, &schema).await?;
    let dir = Scratch::new("sluice-zipkin-")?;
    let mut zipkin = Component::start("Zipkin", &launch(kafka, topic, &url, jar, &dir, settings, &name)?)?;
    eventually("Zipkin to store its first spans", START, async || {
        ensure!(zipkin.is_running()?, "Zipkin ended:\n{}", zipkin.log_tail(40));
        Ok((count(&mut connection, "zipkin_spans").await? > 0).then_some(()))
    })
    .await
    .with_context(|| zipkin.log_tail(40))?;
    let from = (spans as f64 * WARM) as u64;
    let stored = async || count(&mut connection, "zipkin_spans").await;
    let measured = measure(&mut zipkin, Some(database.pid), from, spans, stored).await?;
    let peak = peak(&zipkin)?;
    zipkin.kill().await?;

    let stored = count(&mut connection, "zipkin_spans").await? as f64;
    let rows = stored + count(&mut connection, "zipkin_annotations").await? as f64;
    // A row for each of five tags, for the annotation, and for `sr` and `ss`, which Zipkin makes of kind and duration.
    ensure!(rows > stored * 8.0, "{rows} rows of {stored} spans");
    let bytes = bytes(&mut connection).await? as f64 / stored;
    end(connection, &name).await?;
    let (rate, cpu, server_cpu) = (measured.rate, measured.cpu, measured.server_cpu);
    Ok(Turn { spans: rate, rows: rate * rows / stored, cpu, server_cpu, bytes, peak })
}

fn launch(
    kafka: &Kafka,
    topic: &str,
    url: &str,
    jar: PathBuf,
    dir: &Scratch,
    settings: Settings,
    name: &str,
) -> anyhow::Result<Launch> {
    // mysql://USER@HOST:PORT/DATABASE
    let server = url.split_once('@').and_then(|(_, rest)| rest.split_once('/'));
    let (host, port) = server.and_then(|(server, _)| server.split_once(':')).context("a URL with a port")?;
    let environment = [
        ("QUERY_PORT", free_port()?.to_string()),
        ("KAFKA_BOOTSTRAP_SERVERS", kafka.bootstrap().to_owned()),
        ("KAFKA_TOPIC", topic.to_owned()),
        ("KAFKA_GROUP_ID", name.to_owned()),
        ("KAFKA_STREAMS", settings.streams.to_string()),
        ("STORAGE_TYPE", "mysql".to_owned()),
        ("MYSQL_HOST", host.to_owned()),
        ("MYSQL_TCP_PORT", port.to_owned()),
        ("MYSQL_DB", name.to_owned()),
        ("MYSQL_USER", "root".to_owned()),
        ("SEARCH_ENABLED", "false".to_owned()),
    ];
    Ok(Launch {
        program: "java".into(),
        arguments: vec!["-jar".to_owned(), jar.display().to_string()],
        environment: environment.map(|(name, value)| (name.to_owned(), value)).into(),
        log: dir.path().join("zipkin.log"),
    })
}

async fn count(connection: &mut sqlx::MySqlConnection, table: &str) -> anyhow::Result<u64> {
    number(connection, &format!("SELECT COUNT(*) FROM {table}")).await
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_version_is_that_of_the_pom() {
        let pom = include_str!("../../../../peers/zipkin/pom.xml");
        assert!(pom.contains(&format!("<version>{}</version>", super::VERSION)));
    }
}
