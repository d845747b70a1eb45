use super::*;

const GOOD: &str = "
apiVersion: sluice.dev/v1alpha1
kind: TracePipeline
metadata: { name: demo }
spec:
  source: { kafka: { bootstrapServers: 'kafka:9092', topic: spans, consumerGroup: sluice } }
  rateLimitQPS: 5000
  replicas: 1
  sink: { sqlite: { claimName: demo } }
";

fn problems(text: &str) -> Vec<String> {
    read(text).expect_err("refused").0.iter().map(ToString::to_string).collect()
}

#[test]
fn a_minimal_pipeline_is_read_with_its_defaults() {
    let pipeline = read(GOOD).unwrap();
    assert_eq!(pipeline.spec.rate_limit_qps, 5000);
    assert_eq!(pipeline.spec.sink.table, "connectivity_trace");
    assert_eq!(pipeline.spec.sink.batch.max_delay.as_millis(), 200);
    assert_eq!(full_name(&pipeline), "default/demo");
}

/// `kubectl get -o yaml` of a cluster whose operator is newer.
#[test]
fn what_the_api_server_has_written_is_not_judged() {
    let written = "
status: { ready: yes, unforwarded: 0 }
metadata: { name: demo, uid: 1-2, managedFields: [{ manager: x, of: tomorrow }] }
";
    let pipeline = read(&GOOD.replace("\nmetadata: { name: demo }\n", written)).unwrap();
    assert_eq!(pipeline.metadata.uid.as_deref(), Some("1-2"));
}

#[test]
fn everything_wrong_is_reported_at_once_with_its_path() {
    let found = problems(
        "
apiVersion: sluice.dev/v1alpha1
kind: TracePipelin
metadata: { name: Demo }
spec:
  source: { kafka: { bootstrapServers: kafka, topc: spans, consumerGroup: 7, startFrom: 2026-02-30T00:00:00Z } }
  format: Xml
  override: { rateLimitQPS: 99999999, until: soon }
  replicas: 1
  sink: { sqlite: { claimName: ../demo }, table: 'a`b', batch: { maxRows: 0, maxDelay: 1 day } }
",
    );
    let expected = [
        "kind: expected TracePipeline, found the text \"TracePipelin\"",
        "spec.format: expected Json, OtlpProto, OtlpJson, ZipkinJson, ZipkinProto, JaegerProto, Auto, found the text \"Xml\"",
        "spec.override.rateLimitQPS: expected a whole number from 0 to 10000000, found 99999999",
        "spec.override.until: expected a timestamp like 2026-11-21T06:00:00Z, found the text \"soon\"",
        "spec.sink.batch.maxRows: expected a whole number from 1 to 10000, found 0",
        "spec.source.kafka.consumerGroup: expected text, found the number 7; put it in quotes",
        "spec.source.kafka.topc: unknown field; did you mean topic?",
        "spec.rateLimitQPS: missing; expected a whole number from 0 to 10000000",
        "spec.source.kafka.startFrom: expected Earliest, Latest, Committed or a timestamp like 2026-11-21T06:00:00Z, found \"2026-02-30T00:00:00Z\"",
        "spec.sink.batch.maxDelay: expected a duration like 200ms, 30s or 1h30m, found \"1 day\"",
        "metadata.name: expected a name",
        "spec.source.kafka.bootstrapServers: expected host:port",
        "spec.source.kafka: exactly one of topic and topicPattern is needed",
        "spec.sink.sqlite.claimName: expected the name of a PersistentVolumeClaim",
        "spec.sink.table: expected a table name",
    ];
    for line in expected {
        assert!(found.iter().any(|problem| problem.starts_with(line)), "{line}\nis not in\n{found:#?}");
    }
    assert_eq!(found.len(), expected.len(), "{found:#?}");
}

#[test]
fn several_topics_lead_to_a_pattern() {
    let found = problems(&GOOD.replace("topic: spans", "topic: 'spans.eu, other'"));
    assert_eq!(
        found,
        [r"spec.source.kafka.topic: expected one topic; several are topicPattern: 'spans\.eu|other'"]
    );
    let found = problems(&GOOD.replace("topic: spans", "topics: [spans, other]"));
    assert!(found.iter().any(|problem| problem.contains("topicPattern: 'a|b'")), "{found:?}");
}

#[test]
fn a_missing_part_is_reported_once_not_with_all_that_it_would_hold() {
    let found = problems(
        "apiVersion: sluice.dev/v1alpha1\nkind: TracePipeline\nmetadata: { name: demo }\nspec: {}\n",
    );
    let paths: Vec<_> = found.iter().map(|problem| problem.split(':').next().unwrap()).collect();
    assert_eq!(paths, ["spec.rateLimitQPS", "spec.sink", "spec.source"]);
}

#[test]
fn every_path_of_a_problem_leads_to_what_the_field_is_for() {
    for (path, begins) in [
        ("spec.rateLimitQPS", "Spans per second"),
        ("spec.schedule", "Windows of time"),
        ("spec.schedule[3].cron", "When it begins"),
        ("spec.schedule[0]", "A time that comes again"),
        ("spec.source.kafka.properties[client.id]", "Settings of the client"),
    ] {
        let text = describe(path).expect(path);
        assert!(text.starts_with(begins), "{path}: {text}");
    }
    assert_eq!(describe("spec.schedule[0].corn"), None);
    assert_eq!(describe(""), None);
}

#[test]
fn a_null_counts_as_absent() {
    let text = GOOD.replace("rateLimitQPS: 5000", "rateLimitQPS: 5000\n  suspend: null\n  override: null");
    assert!(!read(&text).unwrap().spec.suspend);
}

#[test]
fn text_that_is_no_mapping_is_refused_without_a_panic() {
    for text in ["", "~", "[]", "7", "a: [", "a: 1\na: 2", "--- 1\n--- 2", "\u{0}", "&a [*a]", "!tag {}"] {
        assert!(!problems(text).is_empty(), "{text:?}");
    }
}

#[test]
fn a_document_that_is_no_mapping_is_one_problem() {
    for (text, found) in
        [("[]", "a list"), ("- 7", "a list"), ("7", "a number"), ("spans", "a text"), ("no: 1", "")]
    {
        let problems = problems(text);
        if found.is_empty() {
            assert!(problems.len() > 1, "{problems:?}");
            continue;
        }
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].starts_with("expected an object with apiVersion"), "{problems:?}");
        assert!(problems[0].ends_with(&format!("found {found}")), "{problems:?}");
    }
}

#[test]
fn a_number_that_is_none_is_a_problem_and_no_default() {
    let batch = |batch: &str| {
        GOOD.replace("{ claimName: demo } }", &format!("{{ claimName: demo }}, batch: {batch} }}"))
    };
    assert!(read(&batch("{ maxRows: 7 }")).is_ok());
    for number in [".inf", "-.inf", ".nan"] {
        let found = problems(&batch(&format!("{{ maxRows: {number} }}")));
        assert_eq!(found, [format!("spec.sink.batch.maxRows: expected a finite number, found {number}")]);
    }
    let found = problems(&GOOD.replace("5000", ".inf"));
    assert_eq!(
        found,
        ["spec.rateLimitQPS: expected a finite number, found .inf"],
        "and not that it is missing"
    );
    let found =
        problems(&GOOD.replace("5000", "-1").replace("replicas: 1", "replicas: 1\n  schedule: [.inf]"));
    assert_eq!(found.len(), 2, "{found:?}");
    assert!(
        found.contains(&"spec.schedule[0]: expected a finite number, found .inf".to_owned()),
        "{found:?}"
    );
    assert_eq!(problems(".inf"), ["expected a finite number, found .inf"]);
}

#[test]
fn a_namespace_is_a_dns_label_and_a_name_may_have_dots() {
    let named = |names: &str| GOOD.replace("{ name: demo }", names);
    let longest = "n".repeat(63);
    assert!(read(&named(&format!("{{ name: a.b, namespace: {longest} }}"))).is_ok());
    for wrong in ["a.b", &"n".repeat(64), "Demo", "-a"] {
        let found = problems(&named(&format!("{{ name: demo, namespace: {wrong} }}")));
        assert_eq!(found.len(), 1, "{found:?}");
        assert!(
            found[0].starts_with("metadata.namespace: expected a name (lower-case letters, digits, '-', 63"),
            "{found:?}"
        );
    }
}

#[test]
fn empty_documents_do_not_count_and_a_second_one_is_refused() {
    for around in [format!("{GOOD}---\n"), format!("---\n{GOOD}"), format!("{GOOD}---\n# nothing\n...\n")] {
        assert!(read(&around).is_ok(), "{around}");
    }
    let found = problems(&format!("{GOOD}---\n{GOOD}"));
    assert_eq!(found, ["expected one document, found several (a line `---` begins another)"]);
    assert_eq!(problems("# nothing\n"), ["expected a TracePipeline, found nothing"]);
}

#[test]
fn a_byte_order_mark_is_no_content() {
    assert!(read(&format!("\u{feff}{GOOD}")).is_ok());
    assert!(crate::yaml::from_str::<serde_json::Value>("\u{feff}a: 1").is_ok());
}

/// As Python's `json.dumps` writes what is not ASCII.
#[test]
fn json_may_write_a_letter_as_a_pair_of_surrogates() {
    let read = crate::yaml::to_json;
    assert_eq!(
        read(r#"{"a": "\ud83d\ude00", "b": [1]}"#).unwrap(),
        serde_json::json!({ "a": "😀", "b": [1] })
    );
    for wrong in [
        r#"{"a": "\ud83d"}"#,
        r#"{"a": "\ud83d\ude00", "a": 1}"#,
        r#"{"b": {"a": 1, "a": 2}}"#,
        r#"{"a": "\ud83d\ude00"} {}"#,
    ] {
        assert!(read(wrong).is_err(), "{wrong}");
    }
    let pipeline: serde_json::Value = crate::yaml::from_str(GOOD).unwrap();
    let text = pipeline.to_string();
    let named = text.replace(r#""replicas":1"#, r#""replicas":1,"\ud83d\ude00":1"#);
    assert!(super::read(&text).is_ok());
    let found = problems(&named);
    assert!(found.len() == 1 && found[0].starts_with("spec.😀: unknown field"), "{found:?}");
}

#[test]
fn a_credential_in_the_wrong_place_is_not_repeated() {
    let sink = |server: &str| GOOD.replace("sqlite: { claimName: demo }", &format!("mysql: {{ {server} }}"));
    let brokers = |brokers: &str| GOOD.replace("'kafka:9092'", &format!("'{brokers}'"));
    let far = format!("mysql://user:{}CANARY@db/x", "x".repeat(200));
    let documents = [
        sink("urlFrom: 'mysql://user:CANARY@db/x'"),
        sink("urlFrom: CANARY"),
        sink("urlFrom: ['CANARY']"),
        sink("urlFrom: { secretKeyRef: CANARY }"),
        sink("urlFrom: { secretKeyRef: { name: 'mysql://user:CANARY@db/x', key: url } }"),
        sink("urlFrom: { secretKeyRef: { name: db, key: 'mysql://user:CANARY@db/x' } }"),
        sink("url: 'mysql://user:CANARY@db/x'"),
        sink("host: 'user:CANARY@db'"),
        sink("host: 'db?password=CANARY'"),
        sink("database: 'user:p@ss@CANARY@db'"),
        sink(&format!("host: '{far}'")),
        sink("port: 'user:CANARY@db'"),
        brokers("user:CANARY@kafka:9092"),
        brokers("user:CANARY@kafka-0:9092,user:CANARY@kafka-1:9092"),
        GOOD.replace("rateLimitQPS: 5000", "rateLimitQPS: 'user:CANARY@db'"),
    ];
    for document in documents {
        let found = problems(&document).join("\n");
        assert!(!found.contains("CANARY"), "{found}");
    }
    let number = problems(&sink("passwordFrom: 918273645")).join("\n");
    assert!(!number.contains("918273645"), "{number}");
    assert!(
        number.contains("spec.sink.mysql.passwordFrom: expected an object with secretKeyRef, found a number")
    );
}
