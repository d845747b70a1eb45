//! From a pipeline file, or from the settings that the operator wrote, to a validated configuration.
//!
//! Guarantees: what [`load`] and [`load_settings`] return can be started without another check of its form; everything wrong is
//! reported at once, each with its path. No I/O besides reading that one file: whether broker, database and
//! credentials exist shows later (`sluice check --connect` tries them).

use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use regex::bytes::Regex;
use sluice_crds::document;
use sluice_crds::live::Live;
use sluice_crds::problem::{Problem, Problems};
use sluice_crds::settings::Settings;
use sluice_crds::v1alpha1::{Encryption, Format, JsonPaths, KafkaSource, SqlServer, TracePipeline};
use sluice_crds::validate::{topic_regex, validate_settings};
use sluice_crds::wire::{self, DocumentError};

use crate::meter::Identity;
use crate::seal::{KeyRing, Sealing};
use crate::secrets::Secrets;

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
        Sealing::new(&self.sink.table, ring)
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

/// Which topics a source reads.
#[derive(Clone, Debug)]
pub enum Topics {
    /// This one.
    Named(String),
    /// All whose whole names match the one and not the other.
    Matching {
        /// `topicPattern`.
        include: Regex,
        /// `excludePattern`.
        exclude: Option<Regex>,
        /// `deadLetter.topic`: what is sent there must not come back.
        dead_letters: Option<String>,
    },
}

impl Topics {
    /// Whether a topic is read.
    pub fn contains(&self, topic: &str) -> bool {
        match self {
            Self::Named(name) => name == topic,
            Self::Matching { include, exclude, dead_letters } => {
                let is_match = |pattern: &Regex| pattern.is_match(topic.as_bytes());
                // Kafka's own topics never match.
                !topic.starts_with("__")
                    && is_match(include)
                    && !exclude.as_ref().is_some_and(is_match)
                    && dead_letters.as_deref() != Some(topic)
            }
        }
    }
}

/// Where rows go, and how.
#[derive(Clone, Debug)]
pub struct SinkConfig {
    /// Which database.
    pub database: Database,
    /// The trace table; an identifier that needs no quoting.
    pub table: String,
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

/// From checked settings to what runs.
fn assemble(settings: Settings, settings_hash: String, live: Live) -> Result<Config, Problems> {
    let Settings { pipeline, source, format, json, sink, encryption, dead_letter, .. } = settings.clone();
    let dead_letter_topic = dead_letter.map(|letters| letters.topic).filter(|topic| !topic.is_empty());
    let no_source = || Problem::new("spec.source", "exactly one kind of source is needed: kafka");
    let kafka = source.kafka.ok_or_else(no_source)?;
    let database = match (sink.mysql, sink.postgres, sink.sqlite) {
        (Some(server), None, None) => Database::Mysql(server),
        (None, Some(server), None) => Database::Postgres(server),
        (None, None, Some(sqlite)) => Database::Sqlite { claim_name: sqlite.claim_name },
        _ => return Err(Problem::new("spec.sink", "exactly one kind of sink is needed").into()),
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
            table: sink.table,
            max_rows: sink.batch.max_rows as usize,
            max_delay: sink.batch.max_delay.into(),
            manage_schema: sink.manage_schema,
        },
        encryption,
        dead_letter_topic,
    })
}

fn topics(kafka: &KafkaSource, dead_letters: Option<&String>) -> Result<Topics, Problems> {
    const PATH: &str = "spec.source.kafka";
    let compile = |field: &str, pattern: &String| {
        topic_regex(pattern).map_err(|message| Problem::new(format!("{PATH}.{field}"), message))
    };
    match (&kafka.topic, &kafka.topic_pattern) {
        (Some(topic), None) => Ok(Topics::Named(topic.clone())),
        (None, Some(include)) => Ok(Topics::Matching {
            include: compile("topicPattern", include)?,
            exclude: kafka
                .exclude_pattern
                .as_ref()
                .map(|exclude| compile("excludePattern", exclude))
                .transpose()?,
            dead_letters: dead_letters.cloned(),
        }),
        _ => Err(Problem::new(PATH, "exactly one of topic and topicPattern is needed").into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATTERN: &str = "
apiVersion: sluice.dev/v1alpha1
kind: TracePipeline
metadata: { name: demo, namespace: shop }
spec:
  source:
    kafka: { bootstrapServers: 'kafka:9092', topicPattern: '(?i)PROFILE-.*', excludePattern: '.*-test', consumerGroup: g }
  rateLimitQPS: 7
  replicas: 1
  sink: { sqlite: { claimName: traces }, batch: { maxDelay: 1s500ms } }
";

    #[test]
    fn patterns_match_whole_topic_names_and_exclude() {
        let config = parse(PATTERN).unwrap();
        for (topic, read) in
            [("profile-a", true), ("profile-a-test", false), ("my-profile-a", false), ("profile", false)]
        {
            assert_eq!(config.topics.contains(topic), read, "{topic}");
        }
    }

    #[test]
    fn a_pattern_does_not_match_the_topics_of_kafka_itself() {
        let everything = parse(&PATTERN.replace("(?i)PROFILE-.*", ".*")).unwrap();
        assert!(everything.topics.contains("_spans"));
        assert!(!everything.topics.contains("__consumer_offsets"));
        assert!(Topics::Named("__mine".to_owned()).contains("__mine"));
    }

    #[test]
    fn a_pattern_does_not_match_the_topic_of_dead_letters() {
        let text = format!("{PATTERN}  deadLetter: {{ topic: profile-dead }}\n");
        let config = parse(&text).unwrap();
        assert_eq!(config.dead_letter_topic.as_deref(), Some("profile-dead"));
        assert!(!config.topics.contains("profile-dead"));
        assert!(config.topics.contains("profile-dead-too"));
        let none = parse(&format!("{PATTERN}  deadLetter: {{ topic: '' }}\n")).unwrap();
        assert_eq!((none.dead_letter_topic, none.settings), (None, parse(PATTERN).unwrap().settings));
    }

    #[test]
    fn the_plain_values_are_what_the_file_says() {
        let config = parse(PATTERN).unwrap();
        assert_eq!(config.pipeline, "shop/demo");
        assert_eq!(config.live.rate_limit_qps, 7);
        assert_eq!(config.sink.max_delay, Duration::from_millis(1500));
        assert_eq!(config.sink.max_rows, 1000);
        assert!(matches!(config.sink.database, Database::Sqlite { claim_name } if claim_name == "traces"));
    }

    #[test]
    fn the_hash_tells_settings_apart_and_ignores_live_fields() {
        let hash = |text: &str| parse(text).unwrap().settings_hash;
        assert_eq!(hash(PATTERN), hash(&PATTERN.replace("QPS: 7", "QPS: 8\n  suspend: true")));
        let keeps = PATTERN.replace("batch:", "retention: 720h, batch:");
        assert_eq!(hash(PATTERN), hash(&keeps));
        assert_eq!(parse(&keeps).unwrap().live.retention, Some("720h".parse().unwrap()));
        assert_ne!(hash(PATTERN), hash(&PATTERN.replace("1s500ms", "1s")));
    }

    #[test]
    fn settings_are_the_pipeline_that_was_written_as_a_file() {
        let file = parse(PATTERN).unwrap();
        let written = wire::write(&file.settings.clone().with_uid("u1")).unwrap();
        let config = parse_settings(&written).unwrap();
        assert_eq!(config.settings, file.settings.clone().with_uid("u1"));
        assert_eq!(config.settings_hash, config.settings.hash().unwrap());
        assert_eq!((config.pipeline.as_str(), &config.live), ("shop/demo", &Live::closed()));
        assert_eq!(config.identity().uid.as_deref(), Some("u1"));
        assert!(config.topics.contains("profile-a"));
    }

    #[test]
    fn everything_wrong_with_settings_is_said() {
        let settings = parse(PATTERN).unwrap().settings;
        let wrong = |text: &str| parse_settings(text).unwrap_err().to_string();
        let without_uid = wire::write(&settings).unwrap();
        assert_eq!(wrong(&without_uid), "uid: expected the pipeline's metadata.uid, found nothing");
        let text =
            wrong(&without_uid.replace("connectivity_trace", "a;b").replace("(?i)PROFILE", "(PROFILE"));
        for path in ["source.kafka.topicPattern", "sink.table", "uid"] {
            assert!(text.contains(path), "{text}");
        }
        let too_new = without_uid.replace("\"minReader\":1", "\"minReader\":4");
        assert!(wrong(&too_new).contains("upgrade the consumers"));
        assert!(wrong("{").contains("cannot read the settings document"));
    }

    #[test]
    fn a_file_that_is_absent_or_broken_names_itself() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipeline.yaml");
        assert!(load(&path).unwrap_err().to_string().contains("pipeline.yaml"));
        std::fs::write(&path, PATTERN.replace("consumerGroup: g", "consumerGroup: ''")).unwrap();
        let error = load(&path).unwrap_err().to_string();
        assert!(
            error.contains("pipeline.yaml") && error.contains("spec.source.kafka.consumerGroup"),
            "{error}"
        );
    }
}
