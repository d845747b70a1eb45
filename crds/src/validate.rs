//! The rules of a `TracePipeline` in code.
//!
//! The API server applies the same rules from the schema (`crds/tracepipelines.yaml`). They are repeated here,
//! independently of it, because files never meet an API server, and because a schema can be older than the
//! program or edited. The order of the checks is that of the fields.

mod control;
mod workload;

use std::fmt::Display;

use jiff::Timestamp;
use regex::bytes::{Regex, RegexBuilder};

use crate::duration::Duration;
use crate::live::Live;
use crate::problem::{Problem, without_credentials};
use crate::settings::Settings;
use crate::v1alpha1::{
    Batch, DeadLetter, Encryption, JAVA_NAMES, JsonPaths, KAFKA_PROPERTIES, KafkaSource, KafkaTls,
    MAX_ENCRYPTION_KEYS, MAX_KAFKA_NAME, MAX_RATE_LIMIT_QPS, MAX_TIME, SecretKeyRef, SecretSource, Sink,
    Source, SqlServer, StartFrom, TracePipelineSpec,
};

/// Longest wait of a batch's first row.
pub const MAX_BATCH_DELAY: Duration = Duration::from_millis(10_000);
/// Shortest retention: whoever writes less has mistaken the unit, and what is removed is gone.
pub const MIN_RETENTION: Duration = Duration::from_millis(60_000);
/// Longest name of a pipeline: it becomes the value of a label.
pub const MAX_PIPELINE_NAME: usize = 63;
/// What a consumer's `session.timeout.ms` is where the pipeline sets none.
pub const DEFAULT_SESSION_MS: u32 = 10_000;
/// Most rows of a transaction.
pub const MAX_BATCH_ROWS: u32 = 10_000;

/// Everything that is wrong with a spec, with paths that begin with `spec`.
pub fn validate(spec: &TracePipelineSpec) -> Vec<Problem> {
    let mut check = Check::default();
    check.source("spec.source", &spec.source);
    check.json("spec.json", &spec.json);
    check.live("spec.", &Live::of(spec));
    check.sink("spec.sink", &spec.sink);
    check.encryption("spec.encryption", spec.encryption.as_ref());
    check.dead_letter("spec.deadLetter", spec.dead_letter.as_ref(), &spec.source);
    check.workload("spec", spec);
    check.problems
}

/// Everything that is wrong with a settings document, by the same rules as a spec. Who wrote it has checked
/// them; a reader does not rely on that.
pub fn validate_settings(settings: &Settings) -> Vec<Problem> {
    let mut check = Check::default();
    let names = settings.pipeline.split_once('/');
    let named = names.is_some_and(|(namespace, name)| is_object_name(namespace) && is_object_name(name));
    check.expect(named, "pipeline".into(), "namespace/name", Quoted(&settings.pipeline));
    if let Some(uid) = &settings.uid {
        let legal = |letter: char| letter.is_ascii_graphic();
        check.text("uid".into(), uid, 128, legal, "the pipeline's metadata.uid");
    }
    check.source("source", &settings.source);
    check.json("json", &settings.json);
    check.sink("sink", &settings.sink);
    check.encryption("encryption", settings.encryption.as_ref());
    check.dead_letter("deadLetter", settings.dead_letter.as_ref(), &settings.source);
    check.problems
}

/// Everything that is wrong with the content of a live document, by the same rules as a spec.
pub fn validate_live(live: &Live) -> Vec<Problem> {
    let mut check = Check::default();
    check.live("", live);
    check.retention("retention", live.retention);
    check.problems
}

/// The pattern as it is applied: to whole topic names. Those are ASCII, so that classes such as `\w` are, too.
///
/// # Errors
/// What is wrong with the expression.
pub fn topic_regex(pattern: &str) -> Result<Regex, String> {
    let compile = |pattern: &str| RegexBuilder::new(pattern).unicode(false).build();
    // Compiled as it stands first: `a)(b` must not become valid by the parentheses around it.
    compile(pattern)
        .and_then(|_| compile(&format!("^(?:{pattern})$")))
        .map_err(|error| format!("not a regular expression: {}", last_line(&error.to_string())))
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or(text).trim_start_matches("error: ")
}

/// Whether a text is a JSON Pointer (RFC 6901).
pub fn is_json_pointer(text: &str) -> bool {
    let escapes_are_whole =
        || text.split('~').skip(1).all(|after| after.starts_with('0') || after.starts_with('1'));
    text.is_empty() || (text.starts_with('/') && escapes_are_whole())
}

/// Whether a text can name a trace table in every backend, and is none of ours or SQLite's.
pub fn is_table_name(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=63).contains(&text.len())
        && !text.as_bytes()[0].is_ascii_digit()
        && text.bytes().all(word)
        && !["sluice_", "sqlite_"].iter().any(|taken| text.to_ascii_lowercase().starts_with(taken))
}

/// Whether a text is a DNS subdomain (RFC 1123), as names of Kubernetes objects are.
pub fn is_object_name(text: &str) -> bool {
    let label = |label: &str| {
        let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        !label.is_empty() && label.bytes().all(inner) && !label.starts_with('-') && !label.ends_with('-')
    };
    text.len() <= 253 && text.split('.').all(label)
}

/// Whether a text can name a pipeline: one of the objects whose children are called after it is a Service, whose name
/// begins with a letter.
pub fn is_pipeline_name(text: &str) -> bool {
    is_object_name(text) && text.len() <= MAX_PIPELINE_NAME && text.as_bytes()[0].is_ascii_lowercase()
}

/// Whether a text can be a key of a Secret, and so the name of a file.
pub fn is_secret_key(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=253).contains(&text.len()) && text.bytes().all(allowed) && text != "." && !text.starts_with("..")
}

#[derive(Default)]
struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn report(&mut self, path: String, message: impl Into<String>) {
        self.problems.push(Problem::new(path, message));
    }

    fn expect(&mut self, good: bool, path: String, expected: &str, found: impl Display) {
        if !good {
            self.report(path, format!("expected {expected}, found {found}"));
        }
    }

    fn text(&mut self, path: String, value: &str, most: usize, allowed: fn(char) -> bool, expected: &str) {
        let length = value.chars().count();
        if length > most {
            self.report(path, format!("expected at most {most} characters, found {length}"));
        } else {
            self.expect(length > 0 && value.chars().all(allowed), path, expected, Quoted(value));
        }
    }

    fn rate(&mut self, path: &str, rate: u32) {
        let expected = format!("0 to {MAX_RATE_LIMIT_QPS} spans per second");
        self.expect(rate <= MAX_RATE_LIMIT_QPS, path.into(), &expected, rate);
    }

    fn time(&mut self, path: &str, time: Timestamp) {
        let expected = format!("a time before {MAX_TIME}");
        self.expect(time < MAX_TIME, path.into(), &expected, time);
    }

    fn source(&mut self, path: &str, source: &Source) {
        match &source.kafka {
            Some(kafka) => self.kafka(&format!("{path}.kafka"), kafka),
            None => self.report(path.into(), "exactly one kind of source is needed: kafka"),
        }
    }

    fn kafka(&mut self, path: &str, kafka: &KafkaSource) {
        self.brokers(format!("{path}.bootstrapServers"), &kafka.bootstrap_servers);
        if kafka.topic.is_some() == kafka.topic_pattern.is_some() {
            self.report(path.into(), "exactly one of topic and topicPattern is needed");
        }
        if let Some(topic) = &kafka.topic {
            let path = format!("{path}.topic");
            match pattern_of(topic) {
                Some(pattern) => {
                    self.report(path, format!("expected one topic; several are topicPattern: '{pattern}'"));
                }
                None => self.topic(&path, topic),
            }
        }
        self.pattern(format!("{path}.topicPattern"), kafka.topic_pattern.as_deref());
        self.pattern(format!("{path}.excludePattern"), kafka.exclude_pattern.as_deref());
        if kafka.exclude_pattern.is_some() && kafka.topic_pattern.is_none() {
            self.report(format!("{path}.excludePattern"), "allowed only together with topicPattern");
        }
        let legal = |letter: char| letter.is_ascii_graphic();
        let expected = "printable ASCII without spaces";
        self.text(format!("{path}.consumerGroup"), &kafka.consumer_group, MAX_KAFKA_NAME, legal, expected);
        if let StartFrom::Timestamp(time) = kafka.start_from {
            let good = (Timestamp::UNIX_EPOCH..MAX_TIME).contains(&time);
            let expected = format!("a time from 1970 and before {MAX_TIME}");
            self.expect(good, format!("{path}.startFrom"), &expected, time);
        }
        if let Some(tls) = &kafka.tls {
            self.tls(&format!("{path}.tls"), tls);
        }
        if let Some(sasl) = &kafka.sasl {
            self.secret(&format!("{path}.sasl.usernameFrom"), Some(&sasl.username_from));
            self.secret(&format!("{path}.sasl.passwordFrom"), Some(&sasl.password_from));
        }
        self.properties(&format!("{path}.properties"), kafka);
    }

    fn topic(&mut self, path: &str, topic: &str) {
        let expected = "a topic name (letters, digits, '.', '_', '-')";
        self.text(path.into(), topic, MAX_KAFKA_NAME, is_of_topic, expected);
        self.expect(!matches!(topic, "." | ".."), path.into(), expected, Quoted(topic));
    }

    fn dead_letter(&mut self, path: &str, dead_letter: Option<&DeadLetter>, source: &Source) {
        let Some(DeadLetter { topic }) = dead_letter.filter(|letters| !letters.topic.is_empty()) else {
            return;
        };
        let path = format!("{path}.topic");
        self.topic(&path, topic);
        let read = source.kafka.as_ref().and_then(|kafka| kafka.topic.as_ref());
        let expected = "another topic than the one that is read (dead letters would come back for ever)";
        self.expect(read != Some(topic), path, expected, Quoted(topic));
    }

    fn brokers(&mut self, path: String, brokers: &str) {
        let legal = |letter: char| letter.is_ascii_alphanumeric() || "-._:[]".contains(letter);
        let is_broker = |broker: &str| {
            broker.rsplit_once(':').is_some_and(|(host, port)| {
                !host.is_empty() && host.chars().all(legal) && port.parse::<u16>().is_ok_and(|port| port > 0)
            })
        };
        let good = brokers.len() <= 1024 && brokers.split(',').all(is_broker);
        self.expect(good, path, "host:port, several separated by commas without spaces", Quoted(brokers));
    }

    fn pattern(&mut self, path: String, pattern: Option<&str>) {
        let Some(pattern) = pattern else { return };
        let length = pattern.chars().count();
        if !(1..=512).contains(&length) {
            self.report(path, format!("expected 1 to 512 characters, found {length}"));
        } else if let Err(message) = topic_regex(pattern) {
            self.report(path, message);
        }
    }

    fn tls(&mut self, path: &str, tls: &KafkaTls) {
        self.secret(&format!("{path}.caFrom"), tls.ca_from.as_ref());
        self.secret(&format!("{path}.certFrom"), tls.cert_from.as_ref());
        self.secret(&format!("{path}.keyFrom"), tls.key_from.as_ref());
        if tls.cert_from.is_some() != tls.key_from.is_some() {
            self.report(path.into(), "certFrom and keyFrom are needed both or not at all");
        }
    }

    fn properties(&mut self, path: &str, kafka: &KafkaSource) {
        let count = kafka.properties.len();
        self.expect(count <= 32, path.into(), "at most 32 settings", count);
        for (name, value) in &kafka.properties {
            let path = format!("{path}[{name}]");
            let Some(property) = KAFKA_PROPERTIES.iter().find(|property| property.name == name) else {
                self.report(path, not_allowed(name));
                continue;
            };
            let length = value.chars().count();
            if !(1..=256).contains(&length) {
                self.report(path, format!("expected 1 to 256 characters, found {length}"));
            } else if let Err(expected) = property.value.check(value) {
                self.expect(false, path, &expected, Quoted(value));
            }
        }
        self.order_of_times(path, kafka);
    }

    /// What the library refuses only when a client is made; and what it takes, though the group puts a consumer out whose
    /// heartbeats are further apart than its session lasts.
    fn order_of_times(&mut self, path: &str, kafka: &KafkaSource) {
        for (small, large, otherwise, word) in [
            ("heartbeat.interval.ms", "session.timeout.ms", DEFAULT_SESSION_MS, "less than"),
            ("session.timeout.ms", "max.poll.interval.ms", 300_000, "at most"),
            ("reconnect.backoff.ms", "reconnect.backoff.max.ms", u32::MAX, "at most"),
        ] {
            let number = |name| kafka.properties.get(name).and_then(|text: &String| text.parse::<u32>().ok());
            let (Some(least), most) = (number(small), number(large).unwrap_or(otherwise)) else { continue };
            if least > most || least == most && word == "less than" {
                let message = format!("expected {word} {large}, {most}, found {least}");
                self.report(format!("{path}[{small}]"), message);
            }
        }
    }

    fn secret(&mut self, path: &str, source: Option<&SecretSource>) {
        if let Some(SecretSource { secret_key_ref }) = source {
            self.secret_key(&format!("{path}.secretKeyRef"), secret_key_ref);
        }
    }

    fn secret_key(&mut self, path: &str, reference: &SecretKeyRef) {
        let SecretKeyRef { name, key } = reference;
        let expected =
            "the name of a Secret in the pipeline's own namespace (lower-case letters, digits, '-', '.')";
        self.expect(is_object_name(name), format!("{path}.name"), expected, Quoted(name));
        let expected = "a key of a Secret (letters, digits, '-', '_', '.')";
        self.expect(is_secret_key(key), format!("{path}.key"), expected, Quoted(key));
    }

    fn json(&mut self, path: &str, json: &JsonPaths) {
        let pointers = [("spans", &json.spans), ("traceId", &json.trace_id), ("kind", &json.kind)];
        for (field, pointer) in pointers {
            let good = is_json_pointer(pointer)
                && pointer.chars().count() <= 256
                && (field != "traceId" || !pointer.is_empty());
            self.expect(good, format!("{path}.{field}"), "a JSON Pointer like /data/spans", Quoted(pointer));
        }
    }

    fn sink(&mut self, path: &str, sink: &Sink) {
        let kinds = [sink.mysql.is_some(), sink.postgres.is_some(), sink.sqlite.is_some()];
        if kinds.into_iter().filter(|set| *set).count() != 1 {
            self.report(path.into(), "exactly one kind of sink is needed: mysql, postgres or sqlite");
        }
        if let Some(server) = &sink.mysql {
            self.server(&format!("{path}.mysql"), server);
        }
        if let Some(server) = &sink.postgres {
            self.server(&format!("{path}.postgres"), server);
        }
        if let Some(sqlite) = &sink.sqlite {
            let expected = "the name of a PersistentVolumeClaim (lower-case letters, digits, '-', '.')";
            let name = &sqlite.claim_name;
            self.expect(is_object_name(name), format!("{path}.sqlite.claimName"), expected, Quoted(name));
        }
        let expected = "a table name (a letter or '_', then letters, digits and '_', 63 at most, not beginning with sluice_ or sqlite_)";
        self.expect(is_table_name(&sink.table), format!("{path}.table"), expected, Quoted(&sink.table));
        self.batch(&format!("{path}.batch"), &sink.batch);
        self.retention(&format!("{path}.retention"), sink.retention);
    }

    fn retention(&mut self, path: &str, retention: Option<Duration>) {
        let Some(retention) = retention else { return };
        self.expect(retention >= MIN_RETENTION, path.into(), &format!("at least {MIN_RETENTION}"), retention);
    }

    fn encryption(&mut self, path: &str, encryption: Option<&Encryption>) {
        let Some(Encryption { keys, primary_key }) = encryption else { return };
        let good = (1..=MAX_ENCRYPTION_KEYS as usize).contains(&keys.len());
        let expected = format!("1 to {MAX_ENCRYPTION_KEYS} keys");
        self.expect(good, format!("{path}.keys"), &expected, keys.len());
        for (index, key) in keys.iter().enumerate() {
            let path = format!("{path}.keys[{index}]");
            let good = key.name.len() <= 63 && !key.name.contains('.') && is_object_name(&key.name);
            let expected = "a name (lower-case letters, digits and '-', 63 at most)";
            self.expect(good, format!("{path}.name"), expected, Quoted(&key.name));
            let new = keys[..index].iter().all(|before| before.name != key.name);
            self.expect(new, format!("{path}.name"), "a name of its own", Quoted(&key.name));
            self.secret_key(&format!("{path}.secretKeyRef"), &key.secret_key_ref);
        }
        let known = keys.iter().any(|key| key.name == *primary_key);
        self.expect(known, format!("{path}.primaryKey"), "the name of one of the keys", Quoted(primary_key));
    }

    fn server(&mut self, path: &str, server: &SqlServer) {
        let apart = [
            ("host", server.host.is_some()),
            ("database", server.database.is_some()),
            ("usernameFrom", server.username_from.is_some()),
            ("passwordFrom", server.password_from.is_some()),
        ];
        let missing: Vec<_> = apart.iter().filter(|(_, set)| !set).map(|(field, _)| *field).collect();
        if server.url_from.is_some() && (missing.len() < apart.len() || server.port.is_some()) {
            self.report(path.into(), "urlFrom excludes host, port, database, usernameFrom and passwordFrom");
        } else if server.url_from.is_none() && !missing.is_empty() {
            let missing = missing.join(", ");
            self.report(
                path.into(),
                format!(
                    "either urlFrom is needed, or host, database, usernameFrom and passwordFrom; missing: {missing}"
                ),
            );
        }
        self.secret(&format!("{path}.urlFrom"), server.url_from.as_ref());
        if let Some(host) = &server.host {
            let legal = |letter: char| letter.is_ascii_alphanumeric() || "-._:".contains(letter);
            self.text(format!("{path}.host"), host, 253, legal, "a host name or address");
        }
        if server.port == Some(0) {
            self.report(format!("{path}.port"), "expected 1 to 65535, found 0");
        }
        if let Some(database) = &server.database {
            let legal = |letter: char| letter.is_ascii_alphanumeric() || "-_$.".contains(letter);
            self.text(format!("{path}.database"), database, 63, legal, "the name of a database");
        }
        self.secret(&format!("{path}.usernameFrom"), server.username_from.as_ref());
        self.secret(&format!("{path}.passwordFrom"), server.password_from.as_ref());
        self.secret(&format!("{path}.caFrom"), server.ca_from.as_ref());
    }

    fn batch(&mut self, path: &str, batch: &Batch) {
        let expected = format!("1 to {MAX_BATCH_ROWS} rows");
        let rows = batch.max_rows;
        self.expect((1..=MAX_BATCH_ROWS).contains(&rows), format!("{path}.maxRows"), &expected, rows);
        let expected = format!("at most {MAX_BATCH_DELAY}");
        let delay = batch.max_delay;
        self.expect(delay <= MAX_BATCH_DELAY, format!("{path}.maxDelay"), &expected, delay);
    }
}

/// Whether a letter may be part of a topic's name.
fn is_of_topic(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || matches!(letter, '.' | '_' | '-')
}

/// The pattern of several topics that are separated by commas; none where it is no such list.
fn pattern_of(topics: &str) -> Option<String> {
    let names: Vec<_> = topics.split(',').map(str::trim).collect();
    let is_list = names.len() > 1
        && topics.len() <= MAX_KAFKA_NAME
        && names.iter().all(|name| !name.is_empty() && name.chars().all(is_of_topic));
    is_list.then(|| names.join("|").replace('.', "\\."))
}

/// Why a setting of Kafka is refused.
fn not_allowed(name: &str) -> String {
    match JAVA_NAMES.iter().find(|(java, _)| *java == name) {
        Some((_, ours)) => {
            format!("that is its name in Kafka's Java client; librdkafka's, which is used here, is {ours}")
        }
        None => "not allowed: it would break a guarantee, or has a field of its own".into(),
    }
}

/// A found value, quoted, never longer than a line, and without credentials.
struct Quoted<'a>(&'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const MOST: usize = 80;
        let text = without_credentials(self.0);
        match text.char_indices().nth(MOST) {
            Some((end, _)) => write!(formatter, "{:?}… ({} characters)", &text[..end], text.chars().count()),
            None => write!(formatter, "{text:?}"),
        }
    }
}
