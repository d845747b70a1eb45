use sluice_crds::validate::is_table_name;

use super::*;

/// A pipeline that reads topics by pattern.
pub(super) const PATTERN: &str = "
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
    let text = wrong(&without_uid.replace("connectivity_trace", "a;b").replace("(?i)PROFILE", "(PROFILE"));
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
    assert!(error.contains("pipeline.yaml") && error.contains("spec.source.kafka.consumerGroup"), "{error}");
}

#[test]
fn what_the_checks_take_for_the_name_of_a_table_is_one() {
    let (longest, too_long) = ("a".repeat(63), "a".repeat(64));
    for name in [
        "connectivity_trace",
        "_t",
        "Order",
        "",
        "1a",
        "a;b",
        "\u{e4}",
        "sluice_x",
        "SQLITE_y",
        &longest,
        &too_long,
    ] {
        assert_eq!(is_table_name(name), TableName::new(name).is_ok(), "{name}");
    }
}
