//! What a consumer is started with: a pipeline's resource as a file, its Secrets, and the folder that holds them.

use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::component::Scratch;
use crate::oracle::unseal::RingKey;

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
    /// As in the resource; none: its default.
    pub start_from: Option<String>,
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
    /// Further lines of `source.kafka`, each indented by six spaces.
    pub security: String,
    /// Whether the database must show a certificate of the authority that the Secret `db` holds under `ca`.
    pub verify_database: bool,
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
            start_from: None,
            format: "Json".to_owned(),
            rate: 10_000_000,
            rate_override: None,
            suspend: false,
            controls: String::new(),
            sink,
            max_rows: 1_000,
            retention: None,
            properties: Vec::new(),
            security: String::new(),
            verify_database: false,
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
        let ca =
            if self.verify_database { format!(", caFrom: {}", secret(SECRET, "ca")) } else { String::new() };
        let url = format!("{{ urlFrom: {}{ca} }}", secret(SECRET, "url"));
        let sink = match &self.sink {
            Sink::Mysql(_) => format!("mysql: {url}"),
            Sink::Postgres(_) => format!("postgres: {url}"),
            Sink::Sqlite(claim) => format!("sqlite: {{ claimName: {claim} }}"),
        };
        let rate_override = self.rate_override.as_ref().map_or_else(String::new, |(rate, until)| {
            format!("  override: {{ rateLimitQPS: {rate}, until: {until} }}\n")
        });
        let start_from = self
            .start_from
            .as_ref()
            .map_or_else(String::new, |start_from| format!("      startFrom: {start_from:?}\n"));
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
{start_from}      properties: {properties}
{}  format: {}
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
            self.security,
            self.format,
            self.rate,
            self.controls,
            self.suspend,
            self.max_rows
        )
    }
}

/// A reference to a value, as YAML.
pub fn secret(name: &str, key: &str) -> String {
    format!("{{ secretKeyRef: {{ name: {name}, key: {key} }} }}")
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
        self.save_secret(SECRET, "url", url)
    }

    /// Puts a value into a mounted Secret, whole or not at all.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn save_secret(&self, name: &str, key: &str, value: &str) -> anyhow::Result<()> {
        let (new, secret) = (self.dir.path().join(".secret.new"), self.dir.path().join("secrets").join(name));
        std::fs::create_dir_all(&secret)?;
        std::fs::write(&new, value)?;
        Ok(std::fs::rename(new, secret.join(key))?)
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
