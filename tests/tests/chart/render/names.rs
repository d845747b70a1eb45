//! Names of objects: long ones, those of tests, and those that look like numbers.

use serde_json::Value;
use sluice_tests::helm::Helm;

use super::documents;

/// Whether it is a DNS subdomain, as most names of objects have to be.
fn is_subdomain(name: &str) -> bool {
    let is_label = |label: &str| {
        let legal = |one: char| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '-';
        !label.is_empty() && label.chars().all(legal) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.split('.').all(is_label)
}

#[tokio::test]
#[ignore = "needs helm"]
async fn long_names_stay_legal() {
    let helm = Helm::new(3).unwrap();
    for (namespace, release) in [
        ("n".repeat(63), "r".repeat(53)),
        // It is cut behind what no name may end with.
        ("n".repeat(53), format!("{}-{}", "r".repeat(37), "s".repeat(15))),
        // The name of a Service begins with a letter.
        ("7".repeat(63), "1".repeat(53)),
        ("7".to_owned(), "1".to_owned()),
    ] {
        let rendered = helm.template_of(&release, &namespace, &["--set=demo.enabled=true"]).await.unwrap();
        for document in documents(&rendered) {
            let kind = document["kind"].as_str().unwrap();
            let name = document["metadata"]["name"].as_str().unwrap();
            let wide = kind.starts_with("ClusterRole");
            // That of a pod names nothing else.
            assert!(name.len() <= if wide || kind == "Pod" { 253 } else { 63 }, "{kind} {name}");
            assert!(wide || is_subdomain(name), "{kind} {name}");
            let needs_letter = ["Service", "TracePipeline"].contains(&kind);
            assert!(!needs_letter || name.starts_with(|one: char| one.is_ascii_lowercase()), "{kind} {name}");
            let arguments =
                document.pointer("/spec/template/spec/containers/0/args").and_then(Value::as_array);
            for argument in arguments.into_iter().flatten() {
                if let Some(installation) = argument.as_str().unwrap().strip_prefix("--installation=") {
                    assert!(installation.len() <= 63 && is_subdomain(installation), "{installation}");
                }
            }
        }
    }
}

/// helm deletes what has the name of a hook before it makes the hook.
#[tokio::test]
#[ignore = "needs helm"]
async fn a_test_has_names_that_nobody_chooses_and_pods_that_a_quota_takes() {
    let helm = Helm::new(4).unwrap();
    let mut names = std::collections::BTreeSet::new();
    for namespace in ["one", "two"] {
        let rendered = helm.template(namespace, &["--set=demo.enabled=true"]).await.unwrap();
        let hooks = documents(&rendered);
        let hooks = hooks.iter().filter(|document| {
            document["metadata"]["annotations"]["helm.sh/hook"].as_str().is_some_and(|hook| hook == "test")
        });
        for hook in hooks {
            let name = hook["metadata"]["name"].as_str().unwrap();
            let rest = name.strip_prefix("chart-sluice-helm-test-").unwrap_or_else(|| panic!("{name}"));
            let hash = rest.split('-').next().unwrap();
            assert!(hash.len() == 8 && hash.bytes().all(|one| one.is_ascii_hexdigit()), "{name}");
            assert!(names.insert(name.to_owned()), "another release has {name}, too");
            for container in hook["spec"]["containers"].as_array().into_iter().flatten() {
                for bound in ["requests", "limits"] {
                    for resource in ["cpu", "memory"] {
                        assert!(container["resources"][bound][resource].is_string(), "{name}: {container}");
                    }
                }
            }
        }
    }
    assert_eq!(names.len(), 6, "a pipeline and two pods of each: {names:?}");
}

#[tokio::test]
#[ignore = "needs helm"]
async fn names_that_look_like_numbers_stay_texts() {
    let helm = Helm::new(4).unwrap();
    let on = "demo.enabled=true,monitoring.rules.enabled=true,monitoring.operatorMonitor=PodMonitor";
    let names = "nameOverride=789,operator.serviceAccount.name=321";
    for arguments in [&["--set", on][..], &["--set", on, "--set-string", names]] {
        for document in documents(&helm.template_of("1e3", "456", arguments).await.unwrap()) {
            let kind = document["kind"].as_str().unwrap();
            let wide = kind.starts_with("ClusterRole") || kind == "CustomResourceDefinition";
            assert!(document["metadata"]["name"].is_string(), "{document}");
            assert!(wide || document["metadata"]["namespace"].is_string(), "{document}");
            let account = document.pointer("/spec/template/spec/serviceAccountName");
            assert!(account.is_none_or(Value::is_string), "{document}");
            for place in ["/metadata", "/spec/selector", "/spec/podSelector", "/spec/template/metadata"] {
                for labels in ["labels", "matchLabels"] {
                    let labels = document.pointer(&format!("{place}/{labels}")).and_then(Value::as_object);
                    let mut labels = labels.into_iter().flatten();
                    assert!(labels.all(|(_, value)| value.is_string()), "{document}");
                }
            }
        }
    }
}
