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

#[test]
fn the_json_report_names_state_path_detail_and_remedy() {
    let json = serde_json::to_value(checked("a: [")).unwrap();
    assert_eq!(json["ok"], false);
    assert_eq!(json["checks"][0]["state"], "Failed");
    assert_eq!(json["checks"][0]["path"], "file");
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
