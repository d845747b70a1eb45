//! A `sluice consume` process: its pipeline file, its administration port, its death.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use nix::sys::signal::Signal;

use crate::component::{Component, Launch, Scratch};
use crate::oracle::unseal::RingKey;
use crate::{eventually, free_port};

/// How long a consumer may take until its administration port answers.
const START: Duration = Duration::from_secs(30);
/// Name of the Secret, and of the file's folder, that holds the database's URL.
const SECRET: &str = "db";

/// Where a pipeline stores.
#[derive(Clone, Debug)]
pub enum Sink {
    /// A URL `mysql://…`.
    Mysql(String),
    /// A URL `postgres://…`.
    Postgres(String),
    /// The folder that lies in the place of a volume, below the data directory.
    Sqlite(String),
}

/// A pipeline, to be written as `pipeline.yaml`. What is not a field has its default.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// Bootstrap servers.
    pub bootstrap: String,
    /// A topic, or a pattern where [`Self::pattern`] is set.
    pub topic: String,
    /// Whether `topic` is a pattern.
    pub pattern: bool,
    /// Consumer group.
    pub group: String,
    /// As in the resource.
    pub format: String,
    /// Spans per second.
    pub rate: u32,
    /// Rate and end (RFC 3339) of an override.
    pub rate_override: Option<(u32, String)>,
    /// As in the resource.
    pub suspend: bool,
    /// Further lines of the spec, each indented by two spaces.
    pub controls: String,
    /// Database.
    pub sink: Sink,
    /// Most rows of a transaction.
    pub max_rows: u32,
    /// As in the resource; none: rows stay for ever.
    pub retention: Option<String>,
    /// Settings of librdkafka.
    pub properties: Vec<(String, String)>,
    /// What seals bodies; the last one is the primary key. None: they are stored as they are.
    pub ring: Vec<RingKey>,
}

/// Name of the Secret that holds the ring.
const RING: &str = "ring";

impl Pipeline {
    /// Adds a key, which is the primary one then.
    pub fn seal_with(&mut self, name: &str) {
        let bytes = std::iter::repeat_with(|| fastrand::u8(..)).take(32).collect();
        self.ring.push(RingKey { name: name.to_owned(), bytes });
    }

    /// `encryption` as YAML, or nothing.
    fn encryption(&self) -> String {
        let Some(primary) = self.ring.last() else { return String::new() };
        let key =
            |key: &RingKey| format!("{{ name: {0}, secretKeyRef: {{ name: {RING}, key: {0} }} }}", key.name);
        let keys: Vec<String> = self.ring.iter().map(key).collect();
        format!("  encryption: {{ keys: [{}], primaryKey: {} }}\n", keys.join(", "), primary.name)
    }

    /// A pipeline of `Json` messages without an effective limit.
    pub fn new(bootstrap: &str, topic: &str, sink: Sink) -> Self {
        Self {
            bootstrap: bootstrap.to_owned(),
            topic: topic.to_owned(),
            pattern: false,
            group: format!("{topic}-to-db"),
            format: "Json".to_owned(),
            rate: 10_000_000,
            rate_override: None,
            suspend: false,
            controls: String::new(),
            sink,
            max_rows: 1_000,
            retention: None,
            properties: Vec::new(),
            ring: Vec::new(),
        }
    }

    /// Partitions of a killed replica move after 3 s.
    pub fn notice_deaths_soon(&mut self) {
        for (name, value) in [("session.timeout.ms", "3000"), ("heartbeat.interval.ms", "500")] {
            self.properties.push((name.to_owned(), value.to_owned()));
        }
    }

    /// The resource as YAML.
    pub fn yaml(&self) -> String {
        let topic = if self.pattern { "topicPattern" } else { "topic" };
        let url = format!("{{ urlFrom: {{ secretKeyRef: {{ name: {SECRET}, key: url }} }} }}");
        let sink = match &self.sink {
            Sink::Mysql(_) => format!("mysql: {url}"),
            Sink::Postgres(_) => format!("postgres: {url}"),
            Sink::Sqlite(claim) => format!("sqlite: {{ claimName: {claim} }}"),
        };
        let rate_override = self.rate_override.as_ref().map_or_else(String::new, |(rate, until)| {
            format!("  override: {{ rateLimitQPS: {rate}, until: {until} }}\n")
        });
        let encryption = self.encryption();
        let retention = self
            .retention
            .as_ref()
            .map_or_else(String::new, |retention| format!("    retention: {retention}\n"));
        let properties: String =
            self.properties.iter().map(|(name, value)| format!("        {name}: {value:?}\n")).collect();
        let properties = if properties.is_empty() { "{}".to_owned() } else { format!("\n{properties}") };
        format!(
            "apiVersion: sluice.dev/v1alpha1
kind: TracePipeline
metadata: {{ name: traces, namespace: tests }}
spec:
  source:
    kafka:
      bootstrapServers: {:?}
      {topic}: {:?}
      consumerGroup: {:?}
      properties: {properties}
  format: {}
  rateLimitQPS: {}
  replicas: 1
{encryption}{rate_override}{}  suspend: {}
  sink:
    {sink}
    batch: {{ maxRows: {} }}
{retention}",
            self.bootstrap,
            self.topic,
            self.group,
            self.format,
            self.rate,
            self.controls,
            self.suspend,
            self.max_rows
        )
    }
}

/// The folder of one pipeline: its file, its secrets, its SQLite files. Shared by its replicas.
pub struct Home {
    dir: Scratch,
}

impl Home {
    /// Writes the pipeline's file and secrets.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn new(pipeline: &Pipeline) -> anyhow::Result<Self> {
        let home = Self { dir: Scratch::new("sluice-home-")? };
        if let Sink::Mysql(url) | Sink::Postgres(url) = &pipeline.sink {
            let secret = home.dir.path().join("secrets").join(SECRET);
            std::fs::create_dir_all(&secret)?;
            std::fs::write(secret.join("url"), url)?;
        }
        home.save_ring(pipeline)?;
        home.save(&pipeline.yaml())?;
        Ok(home)
    }

    /// Writes the keys of a pipeline, as [`Self::new`] does.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_ring(&self, pipeline: &Pipeline) -> anyhow::Result<()> {
        let secret = self.dir.path().join("secrets").join(RING);
        std::fs::create_dir_all(&secret)?;
        for key in &pipeline.ring {
            std::fs::write(secret.join(&key.name), format!("{}\n", STANDARD.encode(&key.bytes)))?;
        }
        Ok(())
    }

    /// The folder.
    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Replaces the database's URL, as a rotated Secret does.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_url(&self, url: &str) -> anyhow::Result<()> {
        let (new, secret) = (self.dir.path().join(".url.new"), self.dir.path().join("secrets").join(SECRET));
        std::fs::write(&new, url)?;
        Ok(std::fs::rename(new, secret.join("url"))?)
    }

    /// Replaces the pipeline's file in one step, as editors do.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save(&self, text: &str) -> anyhow::Result<()> {
        let new = self.dir.path().join(".pipeline.yaml.new");
        std::fs::write(&new, text)?;
        Ok(std::fs::rename(new, self.dir.path().join("pipeline.yaml"))?)
    }

    /// The file in which SQLite rows lie.
    pub fn sqlite_file(&self, claim: &str) -> PathBuf {
        self.dir.path().join("data").join(claim).join("sluice.db")
    }
}

/// A running consumer.
pub struct Sluice {
    /// Its process.
    pub component: Component,
    admin: u16,
}

impl Sluice {
    /// Starts a consumer of a pipeline; `name` distinguishes the logs of replicas. Returns at once.
    ///
    /// # Errors
    /// The binary has not been built (`cargo build --workspace`).
    pub fn start(home: &Home, name: &str) -> anyhow::Result<Self> {
        Self::start_with(home, name, &[])
    }

    /// As [`Self::start`], with variables besides the test's own.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(home: &Home, name: &str, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let file = home.path().join("pipeline.yaml").display().to_string();
        Self::start_from(home, name, &["-f", &file], variables)
    }

    /// As [`Self::start`], with the arguments that say where the pipeline comes from, and variables besides the
    /// test's own.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_from(
        home: &Home,
        name: &str,
        from: &[&str],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let admin = free_port()?;
        let program = binary()?;
        let path = |part: &str| home.path().join(part).display().to_string();
        let arguments = ["consume", "--admin", &format!("127.0.0.1:{admin}")]
            .into_iter()
            .chain(from.iter().copied())
            .chain(["--secrets-dir", &path("secrets"), "--data-dir", &path("data")])
            .map(str::to_owned)
            .collect();
        let environment = [("RUST_LOG", "info,sluice_consumer=debug,kube_client=off,kube_runtime=off")];
        let environment = environment.iter().chain(variables);
        let launch = Launch {
            program,
            arguments,
            environment: environment.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            log: home.path().join(format!("{name}.log")),
        };
        Ok(Self { component: Component::start(&format!("sluice {name}"), &launch)?, admin })
    }

    /// Starts a consumer and waits until it is ready: configuration loaded, group joined.
    ///
    /// # Errors
    /// It ended, or is not ready in time.
    pub async fn ready(home: &Home, name: &str) -> anyhow::Result<Self> {
        let mut sluice = Self::start(home, name)?;
        sluice.wait_ready().await?;
        Ok(sluice)
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Errors
    /// It ended, or is not ready in time.
    pub async fn wait_ready(&mut self) -> anyhow::Result<()> {
        eventually("the consumer to be ready", START, async || {
            ensure!(
                self.component.is_running()?,
                "the consumer ended; its log:\n{}",
                self.component.log_tail(40)
            );
            Ok(self.get("/readyz").await.ok().filter(|(code, _)| *code == 200).map(|_| ()))
        })
        .await
    }

    /// The administration port, to be asked while the process itself is in other hands.
    pub fn admin(&self) -> Admin {
        Admin(self.admin)
    }

    /// Asks the administration port; returns status code and body.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        self.admin().get(path).await
    }

    /// The document of `/status`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self) -> anyhow::Result<serde_json::Value> {
        self.admin().status().await
    }

    /// Waits until `/status` satisfies a condition.
    ///
    /// # Errors
    /// It did not within `deadline`; the message holds the last status.
    pub async fn status_where(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl Fn(&serde_json::Value) -> bool,
    ) -> anyhow::Result<serde_json::Value> {
        let mut last = serde_json::Value::Null;
        let waited = eventually(what, deadline, async || {
            // Between start and listening, and while frozen, there is no answer.
            if let Ok(status) = self.status().await {
                last = status;
            }
            Ok(condition(&last).then(|| last.clone()))
        })
        .await;
        waited.with_context(|| format!("the last status was {last}"))
    }

    /// Lines of its log with this message, as JSON, in their order.
    pub fn logged(&self, message: &str) -> Vec<serde_json::Value> {
        let log = std::fs::read_to_string(self.component.log()).unwrap_or_default();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|line| line["message"] == message).collect()
    }

    /// Kills it at once (kill -9).
    ///
    /// # Errors
    /// It does not go.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.component.kill().await
    }

    /// Freezes it (SIGSTOP).
    ///
    /// # Errors
    /// It has ended.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.component.signal(Signal::SIGSTOP)
    }

    /// Ends [`Self::freeze`].
    ///
    /// # Errors
    /// It has ended.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.component.signal(Signal::SIGCONT)
    }
}

/// The administration port of a consumer.
#[derive(Clone, Copy, Debug)]
pub struct Admin(u16);

impl Admin {
    /// Asks it; returns status code and body.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let address = format!("http://127.0.0.1:{}{path}", self.0).parse()?;
        let answer = tokio::time::timeout(Duration::from_secs(5), client.get(address)).await??;
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok((code, String::from_utf8(body.to_vec())?))
    }

    /// The document of `/status`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self) -> anyhow::Result<serde_json::Value> {
        let (code, body) = self.get("/status").await?;
        ensure!(code == 200, "/status answered {code}: {body}");
        serde_json::from_str(&body).with_context(|| format!("/status is no JSON: {body}"))
    }
}

/// Whether `/status` tells of an error with this reason, whatever else is wrong.
pub fn tells(reason: &str) -> impl Fn(&serde_json::Value) -> bool {
    move |status| {
        status["errors"].as_array().is_some_and(|errors| errors.iter().any(|error| error["reason"] == reason))
    }
}

/// When a line of a log was written, in milliseconds since 1970.
///
/// # Errors
/// It has no time.
pub fn logged_at(line: &serde_json::Value) -> anyhow::Result<i64> {
    let time = line["timestamp"].as_str().with_context(|| format!("no time in {line}"))?;
    Ok(time.parse::<jiff::Timestamp>()?.as_millisecond())
}

/// The `sluice` binary of the build that the test belongs to, or the one that `SLUICE_TEST_BINARY` names.
///
/// # Errors
/// It has not been built.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(given) = std::env::var_os("SLUICE_TEST_BINARY") {
        return Ok(given.into());
    }
    let test = std::env::current_exe()?;
    // target/debug/deps/TEST-HASH, or target/debug/DRIVER.
    let beside = test.ancestors().skip(1).take(2).map(|dir| dir.join("sluice")).find(|path| path.is_file());
    beside.with_context(|| format!("no `sluice` near {}; run `cargo build --workspace`", test.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pipeline_written_is_the_resource() {
        let mut pipeline = Pipeline::new("127.0.0.1:9092", "spans", Sink::Mysql("mysql://x".into()));
        pipeline.rate_override = Some((5, "2026-11-21T06:00:00Z".to_owned()));
        pipeline.properties.push(("fetch.max.bytes".to_owned(), "1000".to_owned()));
        let resource: sluice_crds::v1alpha1::TracePipeline =
            sluice_crds::yaml::from_str(&pipeline.yaml()).unwrap();
        assert_eq!(resource.spec.rate_limit_qps, 10_000_000);
        assert_eq!(resource.spec.rate_override.unwrap().rate_limit_qps, 5);
        assert!(resource.spec.sink.mysql.is_some());
    }
}
