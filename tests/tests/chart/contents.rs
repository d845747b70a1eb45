//! What lies in the chart's folder; needs no helm.

use std::collections::BTreeSet;

use serde_json::Value;
use sluice_tests::helm::chart;
use sluice_tests::operator::CRD;

fn read(path: &str) -> String {
    std::fs::read_to_string(chart().join(path)).unwrap()
}

#[test]
fn the_charts_copy_of_the_crd_is_up_to_date() {
    let copy = read("files/tracepipelines.yaml");
    assert!(copy == CRD, "out of date: cp crds/tracepipelines.yaml charts/sluice/files/tracepipelines.yaml");
}

#[test]
fn the_chart_has_the_version_of_the_programs() {
    let chart = sluice_crds::yaml::to_json(&read("Chart.yaml")).unwrap();
    assert_eq!(chart["version"], env!("CARGO_PKG_VERSION"));
    assert_eq!(chart["appVersion"], env!("CARGO_PKG_VERSION"));
}

#[test]
fn the_builds_that_people_are_told_to_run_name_their_packages() {
    let root = chart().parent().unwrap().parent().unwrap().to_owned();
    // Cargo looks for binaries in these alone, where no package is named.
    let members = std::fs::read_to_string(root.join("Cargo.toml")).unwrap();
    assert!(members.contains(r#"default-members = ["crds", "consumer"]"#), "{members}");
    let mut builds = 0;
    for page in ["README.md", "docs/operations.md"] {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        for command in text.lines().filter(|line| line.starts_with("cargo build ")) {
            builds += 1;
            let is_found = !command.contains("operator") || command.contains("--package sluice-operator");
            assert!(is_found, "{page}: {command}");
        }
    }
    assert_eq!(builds, 2);
}

#[test]
fn every_right_carries_its_reason() {
    for file in ["templates/operator/rbac.yaml", "templates/user-roles.yaml"] {
        let text = read(file);
        let lines: Vec<_> = text.lines().collect();
        let rules = (0..lines.len()).filter(|number| lines[*number].starts_with("- apiGroups:"));
        let mut count = 0;
        for rule in rules {
            count += 1;
            // Roles for people say it at their head.
            let told = match file.contains("user-roles") {
                true => text.lines().filter(|line| line.starts_with("# Whoever may")).count() == 2,
                false => lines[rule - 1].starts_with("# "),
            };
            assert!(told, "{file}:{}: no reason", rule + 1);
        }
        assert!(count > 2, "{file}: {count} rules");
    }
}

/// Words of a text that look like a metric of ours.
fn metrics(text: &str) -> BTreeSet<&str> {
    let words = text.split(|letter: char| !(letter.is_ascii_alphanumeric() || letter == '_'));
    words.filter(|word| word.starts_with("sluice_") && !word.starts_with("sluice_dead_letter_")).collect()
}

#[test]
fn alerts_and_dashboard_name_only_metrics_that_exist() {
    let known = include_str!("../../../docs/metrics.md");
    let operators = include_str!("../../../operator/src/metrics.rs");
    let (rules, dashboard) = (read("templates/monitoring/rules.yaml"), read("files/dashboard.json"));
    serde_json::from_str::<Value>(&dashboard).unwrap();
    let mut used = metrics(&dashboard);
    // A table and a word of the log filter are no metrics.
    used.extend(metrics(&rules).into_iter().filter(|name| *name != "sluice_dead_letter"));
    assert!(used.len() > 15, "{used:?}");
    for name in used {
        let exists = match name.strip_prefix("sluice_operator_") {
            Some(rest) => operators.contains(&format!("\"{}\"", rest.trim_end_matches("_total"))),
            None => known.contains(&format!("`{name}`")),
        };
        assert!(exists, "{name} is not a metric");
    }
}

/// The expressions of the rules, with a number in the place of what helm fills in.
fn rule_expressions(rules: &str) -> Vec<String> {
    let mut lines = rules.lines();
    let mut found = Vec::new();
    while let Some(line) = lines.next() {
        let Some(rest) = line.trim_start().strip_prefix("expr: ") else { continue };
        let inside = |further: &&str| further.len() - further.trim_start().len() > line.find("expr").unwrap();
        let text = match rest {
            "|" => lines.clone().take_while(inside).collect::<Vec<_>>().join("\n"),
            inline => inline.to_owned(),
        };
        let mut parts = text.split("{{");
        let mut filled = parts.next().unwrap().to_owned();
        for part in parts {
            filled += "1";
            filled += part.split_once("}}").unwrap().1;
        }
        found.push(filled);
    }
    found
}

/// Those of the dashboard, with a duration in the place of what Grafana fills in.
fn panel_expressions(dashboard: &Value, found: &mut Vec<String>) {
    if let Some(expression) = dashboard["expr"].as_str() {
        found.push(expression.replace("$__rate_interval", "1m").replace("$__range", "1h"));
    }
    let (fields, items) = (dashboard.as_object(), dashboard.as_array());
    let inner = fields.into_iter().flat_map(|fields| fields.values()).chain(items.into_iter().flatten());
    inner.for_each(|value| panel_expressions(value, found));
}

/// Those of alerts and dashboard.
fn all_expressions() -> Vec<String> {
    let rules = read("templates/monitoring/rules.yaml");
    let mut expressions = rule_expressions(&rules);
    assert_eq!(expressions.len(), rules.matches("- alert: ").count());
    panel_expressions(&serde_json::from_str(&read("files/dashboard.json")).unwrap(), &mut expressions);
    assert!(expressions.len() > 30, "{expressions:?}");
    expressions
}

#[test]
fn prometheus_understands_alerts_and_dashboard() {
    for expression in all_expressions() {
        if let Err(why) = promql_parser::parser::parse(&expression) {
            panic!("{why}: {expression}");
        }
    }
}

/// The labels that a metric has by its table.
fn labels_of(metric: &str) -> impl Iterator<Item = &'static str> {
    let tables = include_str!("../../../docs/metrics.md");
    let row = tables.lines().find(|line| line.starts_with(&format!("| `{metric}` |")));
    let column = row.unwrap_or_else(|| panic!("{metric} is in no table")).split('|').nth(3).unwrap();
    column.split('`').skip(1).step_by(2)
}

/// What an expression selects and groups by.
fn labels_in(expression: &str) -> BTreeSet<&str> {
    let lists = |begin: &'static str, end: char| {
        let parts = expression.split(begin).skip(1);
        parts.flat_map(move |part| part.split(end).next().unwrap().split(','))
    };
    let labels = lists("{", '}').chain(lists("by (", ')')).chain(lists("on (", ')'));
    labels.map(|label| label.split(['=', '!']).next().unwrap().trim()).collect()
}

#[test]
fn alerts_and_dashboard_go_by_labels_that_their_metrics_have() {
    for expression in all_expressions() {
        // What Prometheus adds by where it scrapes.
        let mut known = BTreeSet::from(["namespace", "job", "pod"]);
        known.extend(metrics(&expression).into_iter().flat_map(labels_of));
        let used = labels_in(&expression);
        assert!(used.is_subset(&known), "{used:?} of {known:?}: {expression}");
    }
}

#[test]
fn every_alert_has_its_paragraph() {
    let operations = include_str!("../../../docs/operations.md");
    let rules = read("templates/monitoring/rules.yaml");
    let alerts: Vec<_> = rules.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
    assert!(alerts.len() >= 8);
    for alert in alerts {
        let anchor = format!("#{}", alert.to_lowercase());
        assert!(rules.contains(&anchor), "{alert}: the runbook's address is another one's");
        assert!(
            operations.contains(&format!("### {alert}\n")),
            "docs/operations.md does not explain {alert}"
        );
    }
}

#[test]
fn an_operator_that_sees_nothing_is_told() {
    let rules = read("templates/monitoring/rules.yaml");
    let (_, alert) = rules.split_once("- alert: SluiceNamespaceNotListed").unwrap();
    let (expression, _) = alert.split_once("labels:").unwrap();
    assert!(expression.contains("min by (namespace, watched_namespace) (sluice_operator_namespace_listed{"));
    assert!(expression.contains("== 0") && expression.contains("for: 10m"), "{expression}");
}

/// The expression of an alert, on one line.
fn expression(rules: &str, alert: &str) -> String {
    let (_, rest) = rules.split_once(&format!("- alert: {alert}\n")).unwrap();
    rule_expressions(rest)[0].split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn what_was_counted_before_a_pod_was_first_scraped_is_told() {
    let rules = read("templates/monitoring/rules.yaml");
    for (alert, counter) in [
        ("SluiceDataLost", "sluice_skipped_offsets_total"),
        ("SluiceDeadLetters", "sluice_dead_letters_total"),
    ] {
        let said = expression(&rules, alert);
        let is_new = format!("({counter} unless {counter} offset 15m) > 0");
        let grows = format!("or increase({counter}[15m]) > 0");
        assert!(said.contains(&is_new) && said.contains(&grows), "{alert}: {said}");
    }
}

#[test]
fn an_error_that_comes_and_goes_is_told() {
    let said = expression(&read("templates/monitoring/rules.yaml"), "SluiceDegraded");
    assert!(said.contains("max_over_time(sluice_degraded["), "{said}");
}

#[test]
fn what_leaves_consumers_ready_and_only_the_operator_knows_is_told() {
    let rules = read("templates/monitoring/rules.yaml");
    let said = expression(&rules, "SluicePipelineDegraded");
    let operations = include_str!("../../../docs/operations.md");
    let (_, reasons) = said.split_once("reason=~\"").unwrap();
    let (reasons, _) = reasons.split_once('"').unwrap();
    for reason in reasons.split('|') {
        assert!(operations.contains(&format!("`{reason}`")), "docs/operations.md does not explain {reason}");
    }
    assert!(reasons.split('|').count() > 3, "{said}");
}

#[test]
fn a_pipeline_that_nobody_mends_hides_no_later_outage() {
    let rules = read("templates/monitoring/rules.yaml");
    for (alert, condition) in
        [("SluicePipelineNotReady", "Ready"), ("SluiceRateNotConfirmed", "RateConfirmed")]
    {
        let said = expression(&rules, alert);
        let by = "time() - min by (namespace, reason) (sluice_operator_pipeline_condition_since_timestamp_seconds{";
        assert!(
            said.starts_with(by) && said.contains(&format!("condition=\"{condition}\"")),
            "{alert}: {said}"
        );
    }
    // Those of the same reason.
    let said = expression(&rules, "SluiceMorePipelinesFail");
    let count = "sum by (namespace, condition, reason) (sluice_operator_pipeline_conditions{namespace=\"1\", \
                 pod=~\"1\", condition=~\"Ready|RateConfirmed\", status=\"False\"})";
    let before = format!("quantile_over_time(0.5, {count}[15m:1m] offset 1h)");
    assert_eq!(said, format!("{count} > 1 unless {count} <= {before}"));
}

/// Values that a schema takes and a person does not find in `values.yaml`.
fn unsaid(schema: &Value, values: &Value, path: &str, found: &mut Vec<String>) {
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        match values.get(name) {
            Some(value) => unsaid(inner, value, &path, found),
            None => found.push(path),
        }
    }
}

#[test]
fn every_value_that_the_schema_takes_is_in_the_file_that_people_read() {
    let schema = serde_json::from_str(&read("values.schema.json")).unwrap();
    let values = sluice_crds::yaml::to_json(&read("values.yaml")).unwrap();
    let mut found = Vec::new();
    unsaid(&schema, &values, "", &mut found);
    assert_eq!(found, [".global"], "Helm's own alone is not");
}

#[test]
fn an_operator_that_is_not_ready_holds_up_no_drain() {
    let budget = read("templates/operator/disruption-budget.yaml");
    assert!(budget.contains("unhealthyPodEvictionPolicy: AlwaysAllow"), "{budget}");
}
