//! The rules of a `TracePipeline` in code.
//!
//! The API server applies the same rules from the schema (`crds/tracepipelines.yaml`). They are repeated here,
//! independently of it, because files never meet an API server, and because a schema can be older than the
//! program or edited. The order of the checks is that of the fields.

mod control;
mod kafka;
mod sink;
mod text;
mod workload;

use std::fmt::Display;

use jiff::Timestamp;

use crate::duration::Duration;
use crate::live::Live;
use crate::problem::Problem;
use crate::settings::Settings;
use crate::v1alpha1::{
    Encryption, JsonPaths, MAX_ENCRYPTION_KEYS, MAX_RATE_LIMIT_QPS, MAX_TIME, SecretKeyRef, SecretSource,
    TracePipelineSpec,
};
use text::Quoted;
pub use text::{
    is_json_pointer, is_namespace_name, is_object_name, is_pipeline_name, is_secret_key, is_table_name,
    topic_regex,
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
/// Longest `metadata.uid`: the API server's own have 36 characters.
const MAX_UID_CHARS: usize = 128;
/// Longest JSON Pointer.
const MAX_POINTER_CHARS: usize = 256;
/// Longest name of an encryption key: a DNS label.
const MAX_KEY_NAME: usize = 63;

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
    let named = names.is_some_and(|(namespace, name)| is_namespace_name(namespace) && is_object_name(name));
    check.expect(named, "pipeline".into(), "namespace/name", Quoted(&settings.pipeline));
    if let Some(uid) = &settings.uid {
        let legal = |letter: char| letter.is_ascii_graphic();
        check.text("uid".into(), uid, MAX_UID_CHARS, legal, "the pipeline's metadata.uid");
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
                && pointer.chars().count() <= MAX_POINTER_CHARS
                && (field != "traceId" || !pointer.is_empty());
            self.expect(good, format!("{path}.{field}"), "a JSON Pointer like /data/spans", Quoted(pointer));
        }
    }

    fn encryption(&mut self, path: &str, encryption: Option<&Encryption>) {
        let Some(Encryption { keys, primary_key }) = encryption else { return };
        let good = (1..=MAX_ENCRYPTION_KEYS as usize).contains(&keys.len());
        let expected = format!("1 to {MAX_ENCRYPTION_KEYS} keys");
        self.expect(good, format!("{path}.keys"), &expected, keys.len());
        for (index, key) in keys.iter().enumerate() {
            let path = format!("{path}.keys[{index}]");
            let good = key.name.len() <= MAX_KEY_NAME && !key.name.contains('.') && is_object_name(&key.name);
            let expected = "a name (lower-case letters, digits and '-', 63 at most)";
            self.expect(good, format!("{path}.name"), expected, Quoted(&key.name));
            let new = keys[..index].iter().all(|before| before.name != key.name);
            self.expect(new, format!("{path}.name"), "a name of its own", Quoted(&key.name));
            self.secret_key(&format!("{path}.secretKeyRef"), &key.secret_key_ref);
        }
        let known = keys.iter().any(|key| key.name == *primary_key);
        self.expect(known, format!("{path}.primaryKey"), "the name of one of the keys", Quoted(primary_key));
    }
}
