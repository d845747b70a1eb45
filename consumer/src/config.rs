//! From a pipeline file, or from the settings that the operator wrote, to a validated configuration.
//!
//! Guarantees: what [`load`] and [`load_settings`] return can be started without another check of its form; everything wrong is
//! reported at once, each with its path. No I/O besides reading that one file: whether broker, database and
//! credentials exist shows later (`sluice check --connect` tries them).

mod topics;

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sluice_crds::document;
use sluice_crds::live::Live;
use sluice_crds::problem::{Problem, Problems};
use sluice_crds::settings::Settings;
use sluice_crds::v1alpha1::{Encryption, Format, JsonPaths, KafkaSource, SqlServer, TracePipeline};
use sluice_crds::validate::validate_settings;
use sluice_crds::wire::{self, DocumentError};

use crate::meter::Identity;
use crate::seal::{KeyRing, Sealing};
use crate::secrets::Secrets;
use crate::store::TableName;

use topics::topics;

pub use topics::Topics;

/// Larger files are refused unread: an API server takes no object of that size either.
const MOST_BYTES: u64 = 1024 * 1024;

/// Why a pipeline file, or a settings file, cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read {}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is not valid.
    #[error("{} is not a valid {kind}:\n{}", path.display(), lines(problems))]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What was expected.
        kind: &'static str,
        /// Everything wrong with it.
        problems: Problems,
    },
}

fn lines(problems: &Problems) -> String {
    problems.0.iter().map(|problem| format!("  {problem}")).collect::<Vec<_>>().join("\n")
}

/// A pipeline that passed every check.
#[derive(Clone, Debug)]
pub struct Config {
    /// `namespace/name`.
    pub pipeline: String,
    /// What needs a restart to change.
    pub settings: Settings,
    /// Tells settings apart; shown in `/status`.
    pub settings_hash: String,
    /// What is applied without a restart, as it was at loading; rate 0 where settings were loaded.
    pub live: Live,
    /// The Kafka source.
    pub kafka: KafkaSource,
    /// Which topics it reads.
    pub topics: Topics,
    /// How messages are encoded.
    pub format: Format,
    /// Where the `Json` format finds its parts.
    pub json: JsonPaths,
    /// The database.
    pub sink: SinkConfig,
    /// How bodies are sealed; none where they are not.
    pub encryption: Option<Encryption>,
    /// Topic that copies of dead letters go to; none where there is none.
    pub dead_letter_topic: Option<String>,
}

impl Config {
    /// What seals and opens the bodies of its table.
    pub fn sealing(&self, secrets: &Secrets) -> Sealing {
        let ring = self.encryption.as_ref().map(|encryption| KeyRing::new(encryption, secrets.clone()));
        Sealing::new(self.sink.table.as_str(), ring)
    }

    /// What `/status` calls it.
    pub fn identity(&self) -> Identity {
        Identity {
            pipeline: self.pipeline.clone(),
            uid: self.settings.uid.clone(),
            settings_hash: self.settings_hash.clone(),
        }
    }
}

/// Where rows go, and how.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    /// Which database.
    pub database: Database,
    /// The trace table.
    pub table: TableName,
    /// Most rows in a transaction, 1 to 10,000.
    pub max_rows: usize,
    /// Longest wait of a batch's first row.
    pub max_delay: Duration,
    /// Whether tables are created and migrated.
    pub manage_schema: bool,
}

/// Which database.
#[derive(Clone, Debug)]
pub enum Database {
    /// One that speaks the MySQL protocol; see [`crate::secrets::mysql`].
    Mysql(SqlServer),
    /// One that speaks the PostgreSQL protocol; see [`crate::secrets::postgres`].
    Postgres(SqlServer),
    /// The file `sluice.db` in the folder of this name.
    Sqlite {
        /// Name of the claim, and of the folder.
        claim_name: String,
    },
}

/// Reads and checks a pipeline file.
///
/// # Errors
/// The file cannot be read, or everything that is wrong with it.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    load_text(path, read(path))
}

/// As [`load`], but `-` is standard input: for a command that reads its pipeline once.
///
/// # Errors
/// As [`load`].
pub fn load_once(path: &Path) -> Result<Config, ConfigError> {
    if path != Path::new("-") {
        return load(path);
    }
    load_text(Path::new("standard input"), read_from(io::stdin().lock()))
}

fn load_text(path: &Path, text: io::Result<String>) -> Result<Config, ConfigError> {
    let text = text.map_err(|source| ConfigError::Unreadable { path: path.into(), source })?;
    let invalid = |problems| ConfigError::Invalid { path: path.into(), kind: "TracePipeline", problems };
    parse(&text).map_err(invalid)
}

/// Reads and checks a settings file: the document that the operator writes.
///
/// # Errors
/// The file cannot be read, or everything that is wrong with it.
pub fn load_settings(path: &Path) -> Result<Config, ConfigError> {
    let text = read(path).map_err(|source| ConfigError::Unreadable { path: path.into(), source })?;
    let invalid = |problems| ConfigError::Invalid { path: path.into(), kind: "settings document", problems };
    parse_settings(&text).map_err(invalid)
}

/// The content of a pipeline file, unchecked.
///
/// # Errors
/// The file cannot be read, is larger than 1 MiB, or is not UTF-8 text.
pub fn read(path: &Path) -> io::Result<String> {
    read_from(std::fs::File::open(path)?)
}

fn read_from(from: impl Read) -> io::Result<String> {
    let mut bytes = Vec::new();
    from.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "expected at most 1 MiB"));
    }
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "expected text in UTF-8, found other bytes"))
}

/// Checks the text of a pipeline file.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse(text: &str) -> Result<Config, Problems> {
    let resource: TracePipeline = document::read(text)?;
    let pipeline = document::full_name(&resource);
    let spec = resource.spec;
    let settings = Settings::of(&pipeline, &spec);
    let settings_hash = settings.hash().map_err(|error| Problem::new("spec", error.to_string()))?;
    assemble(settings, settings_hash, Live::of(&spec))
}

/// Checks the text of a settings document, by the same rules.
///
/// # Errors
/// Everything that is wrong with it.
pub fn parse_settings(text: &str) -> Result<Config, Problems> {
    let unreadable = |error: DocumentError| Problem::new("", error.to_string());
    let settings: Settings = wire::read(text).map_err(unreadable)?;
    let mut problems = validate_settings(&settings);
    if settings.uid.is_none() {
        problems.push(Problem::new("uid", "expected the pipeline's metadata.uid, found nothing"));
    }
    if !problems.is_empty() {
        return Err(Problems(problems));
    }
    let settings_hash = wire::hash_as_written::<Settings>(text).map_err(unreadable)?;
    assemble(settings, settings_hash, Live::closed())
}

/// A value that the checks of both documents refuse with its path, so that it never comes this far.
fn unchecked(field: &str) -> Problem {
    Problem::new(field, "expected what the checks let pass: please report this as a bug")
}

/// From checked settings to what runs.
fn assemble(settings: Settings, settings_hash: String, live: Live) -> Result<Config, Problems> {
    let Settings { pipeline, source, format, json, sink, encryption, dead_letter, .. } = settings.clone();
    let dead_letter_topic = dead_letter.map(|letters| letters.topic).filter(|topic| !topic.is_empty());
    let kafka = source.kafka.ok_or_else(|| unchecked("source"))?;
    let table = TableName::new(&sink.table).map_err(|_| unchecked("sink.table"))?;
    let database = match (sink.mysql, sink.postgres, sink.sqlite) {
        (Some(server), None, None) => Database::Mysql(server),
        (None, Some(server), None) => Database::Postgres(server),
        (None, None, Some(sqlite)) => Database::Sqlite { claim_name: sqlite.claim_name },
        _ => return Err(unchecked("sink").into()),
    };
    Ok(Config {
        pipeline,
        settings,
        settings_hash,
        live,
        topics: topics(&kafka, dead_letter_topic.as_ref())?,
        kafka,
        format,
        json,
        sink: SinkConfig {
            database,
            table,
            max_rows: sink.batch.max_rows as usize,
            max_delay: sink.batch.max_delay.into(),
            manage_schema: sink.manage_schema,
        },
        encryption,
        dead_letter_topic,
    })
}

#[cfg(test)]
mod tests;
