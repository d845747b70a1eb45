//! Documents of the neighbouring versions, in `crds/golden/`: `*-1.json` is what the first version writes, and this
//! one where nothing newer is used; `live-2.json` has what came since; `*-next.json` what a later one adds without a
//! change of meaning, `*-too-new.json` what only later ones understand.
#![allow(clippy::unwrap_used, reason = "a failed helper is a failed test")]

use sluice_crds::document;
use sluice_crds::live::{Live, LiveDocument};
use sluice_crds::settings::Settings;
use sluice_crds::validate::{validate_live, validate_settings};
use sluice_crds::wire::{Document, DocumentError, hash_as_written, read, write};

const UID: &str = "6f0c4a52-93a5-4b7e-8d0e-2f1b6c9a7d31";

fn golden(name: &str) -> String {
    std::fs::read_to_string(format!("{}/golden/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn example(name: &str) -> sluice_crds::v1alpha1::TracePipeline {
    let path = format!("{}/examples/{name}", env!("CARGO_MANIFEST_DIR"));
    document::read(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn same_json(left: &str, right: &str) {
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(parse(left), parse(right));
}

fn settings() -> Settings {
    let pipeline = example("mysql.yaml");
    Settings::of(&document::full_name(&pipeline), &pipeline.spec).with_uid(UID)
}

fn live() -> LiveDocument {
    LiveDocument { uid: UID.to_owned(), revision: 7, live: Live::of(&example("postgres-tls-sasl.yaml").spec) }
}

/// With a schedule and a guard.
fn controlled() -> LiveDocument {
    LiveDocument { uid: UID.to_owned(), revision: 7, live: Live::of(&example("production.yaml").spec) }
}

#[test]
fn what_is_written_today_is_the_golden_document() {
    same_json(&write(&settings()).unwrap(), &golden("settings-1.json"));
    same_json(&write(&live()).unwrap(), &golden("live-1.json"));
    same_json(&write(&controlled()).unwrap(), &golden("live-2.json"));
}

#[test]
fn settings_that_seal_need_a_reader_that_knows_it() {
    let pipeline = example("production.yaml");
    let sealed = Settings::of(&document::full_name(&pipeline), &pipeline.spec).with_uid(UID);
    same_json(&write(&sealed).unwrap(), &golden("settings-2.json"));
    assert_eq!(read::<Settings>(&golden("settings-2.json")).unwrap(), sealed);
    // What every reader up to now looks at first.
    assert!(golden("settings-2.json").contains("\"minReader\": 2"));
}

#[test]
fn settings_with_a_topic_for_dead_letters_need_a_reader_that_feeds_it() {
    let pipeline = example("topic-pattern.yaml");
    let settings = Settings::of(&document::full_name(&pipeline), &pipeline.spec).with_uid(UID);
    same_json(&write(&settings).unwrap(), &golden("settings-3.json"));
    assert_eq!(read::<Settings>(&golden("settings-3.json")).unwrap(), settings);
}

#[test]
fn documents_of_this_and_the_next_version_mean_the_same_to_this_reader() {
    for name in ["settings-1.json", "settings-next.json"] {
        assert_eq!(read::<Settings>(&golden(name)).unwrap(), settings(), "{name}");
    }
    assert_eq!(read::<LiveDocument>(&golden("live-1.json")).unwrap(), live());
    for name in ["live-2.json", "live-next.json"] {
        assert_eq!(read::<LiveDocument>(&golden(name)).unwrap(), controlled(), "{name}");
    }
}

#[test]
fn a_document_of_another_meaning_is_refused_with_a_clear_message() {
    fn refused<D: Document + std::fmt::Debug>(name: &str) -> String {
        let error = read::<D>(&golden(name)).unwrap_err();
        let next = D::READER + 1;
        assert!(
            matches!(error, DocumentError::TooNew { needed, reader, .. }
            if needed == u64::from(next) && reader == D::READER),
            "{error:?}"
        );
        error.to_string()
    }
    assert!(
        refused::<Settings>("settings-too-new.json")
            .contains("settings document needs a reader of version 4")
    );
    assert!(
        refused::<LiveDocument>("live-too-new.json").contains("live document needs a reader of version 2")
    );
}

#[test]
fn text_that_is_no_document_is_refused() {
    for text in ["", "null", "[]", "{}", r#"{"minReader":"1"}"#, r#"{"minReader":-1}"#, r#"{"minReader":1}"#]
    {
        assert!(matches!(read::<LiveDocument>(text), Err(DocumentError::Malformed { .. })), "{text}");
    }
}

#[test]
fn the_hash_of_the_settings_is_stable_across_versions_of_this_program() {
    // A changed value rolls every consumer at the upgrade: change it only on purpose.
    assert_eq!(settings().hash().unwrap(), "1c9cef7d034f98df");
    let file = Settings { uid: None, ..settings() };
    assert_eq!(file.hash().unwrap(), "cd505033fd6e626b");
}

#[test]
fn a_reader_calls_settings_by_the_hash_that_their_writer_gave_them() {
    let own = hash_as_written::<Settings>(&golden("settings-1.json")).unwrap();
    assert_eq!(own, settings().hash().unwrap());
    // Fields that this program does not know count.
    assert_ne!(own, hash_as_written::<Settings>(&golden("settings-next.json")).unwrap());
}

#[test]
fn a_pipeline_made_again_under_the_same_name_has_other_settings() {
    assert_ne!(settings().hash().unwrap(), settings().with_uid("another").hash().unwrap());
}

#[test]
fn a_live_document_without_a_uid_is_read_and_belongs_to_no_pipeline() {
    let old = r#"{"minReader":1,"revision":3,"rateLimitQPS":5}"#;
    assert_eq!(read::<LiveDocument>(old).unwrap().uid, "");
}

#[test]
fn a_reader_checks_documents_by_the_rules_of_a_spec() {
    assert_eq!(validate_settings(&settings()), []);
    assert_eq!(validate_live(&live().live), []);
    let mut wrong = settings();
    wrong.pipeline = "no-namespace".to_owned();
    wrong.uid = Some(String::new());
    wrong.sink.table = "sluice_progress".to_owned();
    let kafka = wrong.source.kafka.as_mut().unwrap();
    kafka.properties.insert("enable.auto.commit".to_owned(), "true".to_owned());
    let paths: Vec<_> = validate_settings(&wrong).into_iter().map(|problem| problem.path).collect();
    assert_eq!(paths, ["pipeline", "uid", "source.kafka.properties[enable.auto.commit]", "sink.table"]);
    let mut fast = live().live;
    fast.rate_limit_qps = u32::MAX;
    assert_eq!(validate_live(&fast)[0].path, "rateLimitQPS");
    let mut odd = controlled().live;
    odd.schedule[1].cron = "never".to_owned();
    assert_eq!(validate_live(&odd)[0].path, "schedule[1].cron");
}
