use super::*;

const PIPELINE: &str = "
apiVersion: sluice.dev/v1alpha1
kind: TracePipeline
metadata: { name: demo }
spec:
  source:
    kafka:
      bootstrapServers: 127.0.0.1:1
      topic: spans
      consumerGroup: sluice
      sasl:
        mechanism: PLAIN
        usernameFrom: { secretKeyRef: { name: kafka, key: user } }
        passwordFrom: { secretKeyRef: { name: kafka, key: password } }
  rateLimitQPS: 5000
  sink: { mysql: { urlFrom: { secretKeyRef: { name: db, key: url } } } }
";

fn checked(text: &str) -> Report {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("pipeline.yaml");
    std::fs::write(&file, text).unwrap();
    let mut report = Report::new(&file);
    check_file(&file, &mut report);
    report
}

#[test]
fn a_good_file_is_one_line() {
    let report = checked(PIPELINE);
    assert_eq!((report.failed(), report.len()), (0, 1));
    assert!(report.to_string().starts_with("OK      file  default/demo is a valid TracePipeline"));
}

#[test]
fn everything_wrong_with_a_file_is_a_line_with_path_and_remedy() {
    let report = checked(&PIPELINE.replace("5000", "-1").replace("topic: spans", "topic: 'a b'"));
    assert_eq!(report.failed(), 2);
    let text = report.to_string();
    for part in [
        "FAILED  spec.rateLimitQPS",
        "spec.source.kafka.topic  expected a topic name",
        "means: The topic to read.",
    ] {
        assert!(text.contains(part), "{part} is not in\n{text}");
    }
}

#[tokio::test]
async fn what_a_wrong_file_keeps_from_being_tried_is_told() {
    let mut report = checked(&PIPELINE.replace("5000", "-1"));
    let folders = Folders { secrets_dir: None, data_dir: "none".into() };
    connect(None, &folders, &mut report).await;
    let text = report.to_string();
    assert_eq!(text.matches("SKIPPED").count(), 2, "{text}");
    assert!(text.contains("needs a valid file"), "{text}");
}

#[test]
fn the_json_report_names_state_path_detail_and_remedy() {
    let json = serde_json::to_value(checked("a: [")).unwrap();
    assert_eq!(json["ok"], false);
    assert_eq!(json["checks"][0]["state"], "Failed");
    assert_eq!(json["checks"][0]["path"], "file");
}

#[test]
fn an_override_that_has_ended_is_told_and_no_fault() {
    let over = "rateLimitQPS: 5000\n  override: { rateLimitQPS: 7, until: 2020-01-01T00:00:00Z }";
    let report = checked(&PIPELINE.replace("rateLimitQPS: 5000", over));
    let text = report.to_string();
    assert_eq!((report.failed(), report.len()), (0, 2), "{text}");
    assert!(
        text.contains("NOTICE  spec.override.until  the override ended at 2020-01-01T00:00:00Z"),
        "{text}"
    );
}

#[test]
fn a_fault_of_the_whole_file_is_one_line_that_names_it_and_no_field() {
    let twice = PIPELINE.replace("  rateLimitQPS: 5000", "  rateLimitQPS: 5000\n  rateLimitQPS: 6000");
    let several = format!("{PIPELINE}---\n{PIPELINE}");
    for text in ["a: [", "", "\u{0}\u{1}", &twice, &several] {
        let report = checked(text);
        let shown = report.to_string();
        assert_eq!((report.failed(), report.len()), (1, 1), "{shown}");
        assert!(shown.contains("pipeline.yaml: ") && !shown.contains("remedy"), "{shown}");
    }
    assert_eq!(checked(&format!("{PIPELINE}---\n")).failed(), 0);
}

#[test]
fn a_rule_of_ours_about_a_field_of_kubernetes_is_not_explained_by_kubernetes_words() {
    let report = checked(&PIPELINE.replace("name: demo", "name: 7up"));
    let shown = report.to_string();
    assert!(shown.contains("metadata.name") && !shown.contains("which means"), "{shown}");
}

#[test]
fn keys_that_are_missing_or_no_keys_are_named_by_their_field() {
    let names = ["good", "short", "none"];
    let keys =
        names.map(|name| format!("{{ name: {name}, secretKeyRef: {{ name: k, key: {name} }} }}")).join(", ");
    let text = format!("{PIPELINE}  encryption: {{ keys: [{keys}], primaryKey: good }}\n");
    let config = config::parse(&text).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("k")).unwrap();
    for (name, value) in [("good", "AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8="), ("short", "AAEC")] {
        std::fs::write(folder.path().join("k").join(name), value).unwrap();
    }
    let mut report = Report::new(Path::new("pipeline.yaml"));
    report.extend(check_keys(&config, &Secrets::new(Some(folder.path().to_owned()))));
    let shown = report.to_string();
    assert_eq!((report.len(), report.failed()), (3, 2), "{shown}");
    for path in ["keys[1].secretKeyRef", "keys[2].secretKeyRef", "openssl rand -base64 32"] {
        assert!(shown.contains(path), "{path} is not in\n{shown}");
    }
}

#[test]
fn every_missing_credential_is_named_by_its_field() {
    let config = config::parse(PIPELINE).unwrap();
    let mut report = Report::new(Path::new("pipeline.yaml"));
    report.extend(check_credentials(&config, &Secrets::new(None)));
    let text = report.to_string();
    for path in ["sasl.usernameFrom", "sasl.passwordFrom", "spec.sink.mysql.urlFrom"] {
        assert!(text.contains(path), "{path} is not in\n{text}");
    }
    assert_eq!(report.failed(), 3);
}
