//! What the chart renders, and what it refuses; needs helm, no cluster.

use serde_json::{Value, json};
use sluice_tests::helm::{Helm, chart};

/// The files of values under `ci`, and none for the defaults.
pub fn values_files() -> Vec<Option<String>> {
    let files = std::fs::read_dir(chart().join("ci")).unwrap();
    let mut files: Vec<_> = files.map(|file| Some(file.unwrap().path().display().to_string())).collect();
    files.sort();
    assert!(files.len() >= 3);
    files.push(None);
    files
}

/// The arguments that name a file of values.
pub fn with(file: Option<&String>) -> Vec<&str> {
    file.map(|file| vec!["--values", file]).unwrap_or_default()
}

fn documents(rendered: &str) -> Vec<Value> {
    let documents = rendered.split("\n---").map(|text| sluice_crds::yaml::to_json(text).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn helm_3_and_4_find_no_fault_in_any_of_the_values() {
    for major in [3, 4] {
        let helm = Helm::new(major).unwrap();
        let chart = chart().display().to_string();
        for file in values_files() {
            let values = with(file.as_ref());
            helm.run(&[&["lint", "--strict", &chart], &values[..]].concat()).await.unwrap();
            let rendered = documents(&helm.template("sluice-system", &values).await.unwrap());
            assert!(rendered.len() > 5, "{file:?}");
            for document in rendered {
                assert!(
                    document["kind"].is_string() && document["metadata"]["name"].is_string(),
                    "{document}"
                );
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn values_that_do_not_fit_are_refused() {
    for major in [3, 4] {
        let helm = Helm::new(major).unwrap();
        for bad in [
            "replicas=2",
            "operator.replica=2",
            "operator.replicas=two",
            "operator.replicas=-1",
            "operator.image.pullPolicy=Sometimes",
            "operator.image.digest=sha256:123",
            "operator.resources.limit.memory=1Gi",
            // The chart's own.
            r"operator.podLabels.app\.kubernetes\.io/name=mine",
            r"operator.podLabels.helm\.sh/chart=mine",
            r"demo.podLabels.helm\.sh/chart=mine",
            r"commonLabels.app\.kubernetes\.io/instance=mine",
            "operator.extraEnv[0].name=POD_NAME",
            // A label's value is no text of any kind.
            "commonLabels.team=of two words",
            "operator.nodeSelector.pool=a/b",
            "operator.revisionHistoryLimit=-1",
            "demo.tolerations=all",
            "consumer.image.repository=",
            "crds.enabled=maybe",
            "namespaces={Team_A}",
            "namespaces={a,a}",
            // The name of a Service begins with a letter.
            "fullnameOverride=1st",
            "installation=two words",
            "installation=a..b",
            "installation=a.-b",
            "installation=a-.b",
            "monitoring.operatorMonitor=Both",
            "monitoring.rules.throttledFor=soon",
            "networkPolicy.egress.apiServerPorts={70000}",
            "demo.sizeLimit=much",
            // Without these the templates have nothing to look into.
            "operator=null",
            "operator.image=null",
            "operator.image.repository=null",
            "consumer.image=null",
            "monitoring.rules=null",
            "networkPolicy.egress=null",
            "crds.enabled=null",
        ] {
            let refused = helm.template("sluice-system", &["--set", bad]).await;
            let why = format!("{:#}", refused.err().unwrap_or_else(|| panic!("helm {major} takes {bad}")));
            assert!(why.contains("schema"), "{bad}: {why}");
        }
        for good in [
            "global.anything=1",
            "installation=team-a.sluice",
            "nameOverride=1st",
            "operator.resources.limits.memory=1e9",
            r"operator.podLabels.example\.com/team=platform",
            "demo.sizeLimit=1e9",
            // A list or map that a person has commented out.
            "namespaces=null",
            "operator.tolerations=null",
            "operator.resources=null",
            "operator.podLabels=null",
            "commonLabels=null",
            "demo.affinity=null",
            "monitoring.rules.labels=null",
        ] {
            let on = "demo.enabled=true,monitoring.rules.enabled=true,monitoring.operatorMonitor=PodMonitor";
            helm.template("sluice-system", &["--set", on, "--set", good]).await.unwrap();
        }
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn an_installation_for_some_namespaces_makes_nothing_cluster_wide() {
    const CLUSTER_WIDE: [&str; 4] =
        ["CustomResourceDefinition", "ClusterRole", "ClusterRoleBinding", "PriorityClass"];
    let helm = Helm::new(3).unwrap();
    let values = chart().join("ci/namespaced-values.yaml").display().to_string();
    let rendered = documents(&helm.template("sluice-system", &["--values", &values]).await.unwrap());
    let mut roles = Vec::new();
    for document in &rendered {
        let kind = document["kind"].as_str().unwrap();
        assert!(!CLUSTER_WIDE.contains(&kind), "{kind}");
        assert!(document["metadata"]["namespace"].is_string(), "{kind} names no namespace");
        if kind == "Role" {
            roles.push(document["metadata"]["namespace"].as_str().unwrap());
        }
    }
    roles.sort_unstable();
    assert_eq!(roles, ["sluice-system", "team-a", "team-b"]);
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn no_right_reaches_secrets_or_everything() {
    let helm = Helm::new(3).unwrap();
    for file in values_files() {
        for document in documents(&helm.template("sluice-system", &with(file.as_ref())).await.unwrap()) {
            for rule in document["rules"].as_array().into_iter().flatten() {
                let text = rule.to_string();
                for word in ["secrets", "\"*\"", "escalate", "bind", "impersonate", "pods/exec"] {
                    let allowed = word == "bind" && !text.contains("\"bind\"");
                    assert!(allowed || !text.contains(word), "{word} in {text}");
                }
            }
        }
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn the_crd_is_kept_only_where_it_should_be_and_is_not_changed_on_its_way() {
    let helm = Helm::new(4).unwrap();
    let original = sluice_crds::yaml::to_json(sluice_tests::operator::CRD).unwrap();
    let crd = async |set: &str| {
        let rendered = helm.template("sluice-system", &["--set", set]).await.unwrap();
        documents(&rendered).into_iter().find(|document| document["kind"] == "CustomResourceDefinition")
    };
    let kept = crd("crds.keep=true").await.unwrap();
    assert_eq!(kept["metadata"]["annotations"]["helm.sh/resource-policy"], "keep");
    assert_eq!(kept["spec"], original["spec"]);
    let loose = crd("crds.keep=false").await.unwrap();
    assert!(loose["metadata"]["annotations"].is_null());
    assert!(crd("crds.enabled=false").await.is_none());
}

/// The one object of a kind and name.
fn named<'a>(rendered: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = rendered.iter().filter(|one| one["kind"] == kind && one["metadata"]["name"] == name);
    let one = found.next().unwrap_or_else(|| panic!("there is no {kind} {name}"));
    assert!(found.next().is_none(), "there are several {kind}s {name}");
    one
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn what_values_say_of_pods_and_their_objects_is_said_there_as_it_is() {
    let file = chart().join("ci/all-values.yaml").display().to_string();
    let values = sluice_crds::yaml::to_json(&std::fs::read_to_string(&file).unwrap()).unwrap();
    let rendered =
        documents(&Helm::new(4).unwrap().template("sluice-system", &["--values", &file]).await.unwrap());
    for part in ["operator", "demo"] {
        let (values, name) = (&values[part], format!("chart-sluice-{part}"));
        let deployment = named(&rendered, "Deployment", &name);
        let pods = &deployment["spec"]["template"];
        for field in ["nodeSelector", "tolerations", "affinity", "priorityClassName"] {
            assert!(!values[field].is_null(), "{file} does not say {part}.{field}");
            assert_eq!(pods["spec"][field], values[field], "{part}.{field}");
        }
        assert_eq!(pods["metadata"]["annotations"], values["podAnnotations"]);
        for (label, value) in values["podLabels"].as_object().unwrap() {
            assert_eq!(pods["metadata"]["labels"][label], *value, "{part}: {label}");
        }
        // They find their way to the nodes that their part may run on.
        let is_test =
            |one: &&Value| one["kind"] == "Pod" && one["metadata"]["name"].to_string().contains(part);
        let test = rendered.iter().find(is_test).unwrap();
        for field in ["nodeSelector", "tolerations"] {
            assert_eq!(test["spec"][field], values[field], "helm test of {part}: {field}");
        }
    }
    let (values, name) = (&values["operator"], "chart-sluice-operator");
    let deployment = named(&rendered, "Deployment", name);
    assert_eq!(deployment["spec"]["revisionHistoryLimit"], values["revisionHistoryLimit"]);
    assert_eq!(deployment["metadata"]["annotations"], values["deploymentAnnotations"]);
    assert_eq!(named(&rendered, "Service", name)["metadata"]["annotations"], values["serviceAnnotations"]);
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(pod["topologySpreadConstraints"], values["topologySpreadConstraints"]);
    // A reconcile may take 30 s, and the lead is given back after it.
    assert_eq!(pod["terminationGracePeriodSeconds"], 45);
    let variables = pod["containers"][0]["env"].as_array().unwrap();
    for variable in values["extraEnv"].as_array().unwrap() {
        assert!(variables.contains(variable), "{variable}");
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_constraint_on_how_operators_spread_counts_their_pods_where_it_does_not_say_which() {
    let own = json!({ "matchLabels":
        { "app.kubernetes.io/name": "sluice-operator", "app.kubernetes.io/instance": "chart" } });
    let constraint = |selector: Value| json!({ "maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "DoNotSchedule", "labelSelector": selector });
    let theirs = json!({ "matchLabels": { "team": "a" } });
    let mut given = vec![constraint(Value::Null), constraint(Value::Null), constraint(theirs.clone())];
    given[0].as_object_mut().unwrap().remove("labelSelector");
    let set = format!("operator.topologySpreadConstraints={}", Value::from(given));
    for major in [3, 4] {
        let rendered = Helm::new(major).unwrap().template("sluice-system", &["--set-json", &set]).await;
        let rendered = documents(&rendered.unwrap());
        let pod = &named(&rendered, "Deployment", "chart-sluice-operator")["spec"]["template"]["spec"];
        let expected = [&own, &own, &theirs].map(|selector| constraint(selector.clone()));
        assert_eq!(pod["topologySpreadConstraints"], json!(expected), "helm {major}");
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn every_object_and_pod_says_whose_it_is_in_labels_that_may_be_added_to_and_nothing_selects_by_those() {
    const OWN: [&str; 6] = [
        "helm.sh/chart",
        "app.kubernetes.io/name",
        "app.kubernetes.io/instance",
        "app.kubernetes.io/version",
        "app.kubernetes.io/part-of",
        "app.kubernetes.io/managed-by",
    ];
    let helm = Helm::new(3).unwrap();
    for file in values_files() {
        let set = ["--set=commonLabels.team=all,operator.podLabels.team=operator"];
        let values = [&with(file.as_ref())[..], &set[..]].concat();
        for document in documents(&helm.template("sluice-system", &values).await.unwrap()) {
            let what = format!("{} {}", document["kind"], document["metadata"]["name"]);
            let labels = &document["metadata"]["labels"];
            for own in OWN {
                assert!(labels[own].is_string(), "{what} has no label {own}");
            }
            assert_eq!(labels["team"], "all", "{what}");
            assert!(!document["spec"]["selector"].to_string().contains("team"), "{what}");
            let Some(pods) = document.pointer("/spec/template/metadata/labels") else { continue };
            let of_the_operator = pods["app.kubernetes.io/name"] == "sluice-operator";
            assert_eq!(pods["team"], if of_the_operator { "operator" } else { "all" }, "{what}");
        }
    }
}

/// The operator's own policy, beside its Deployment.
async fn policy_and_pods(values: &[&str]) -> (Value, Value) {
    let rendered = documents(&Helm::new(4).unwrap().template("sluice-system", values).await.unwrap());
    let of_kind = |kind: &str| {
        let mut found = rendered.iter().filter(|document| {
            document["kind"] == kind && document["metadata"]["name"] == "chart-sluice-operator"
        });
        found.next().cloned().unwrap_or_default()
    };
    (of_kind("NetworkPolicy"), of_kind("Deployment"))
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn only_scrapers_reach_the_operator_and_it_reaches_no_more_than_it_needs_where_that_is_limited() {
    let (policy, deployment) = policy_and_pods(&[]).await;
    let pods = &deployment["spec"]["template"];
    assert_eq!(policy["metadata"]["namespace"], "sluice-system");
    let selector = json!({
        "app.kubernetes.io/name": "sluice-operator", "app.kubernetes.io/instance": "chart",
    });
    for (label, value) in selector.as_object().unwrap() {
        assert_eq!(pods["metadata"]["labels"][label], *value, "the policy is for other pods");
    }
    let closed =
        json!({ "podSelector": { "matchLabels": selector }, "policyTypes": ["Ingress"], "ingress": [] });
    assert_eq!(policy["spec"], closed);

    let set = "scraperNamespaces={monitoring,team-a},networkPolicy.egress.enabled=true";
    let (policy, _) = policy_and_pods(&["--set", set]).await;
    let from = ["monitoring", "team-a"].map(
        |name| json!({ "namespaceSelector": { "matchLabels": { "kubernetes.io/metadata.name": name } } }),
    );
    let port = |port: Value, protocol: &str| json!({ "port": port, "protocol": protocol });
    let consumers = json!({
        "namespaceSelector": {}, "podSelector": { "matchLabels": { "sluice.dev/role": "consumer" } },
    });
    let open = json!({
        "podSelector": { "matchLabels": selector },
        "policyTypes": ["Ingress", "Egress"],
        "ingress": [{ "from": from, "ports": [port(json!("admin"), "TCP")] }],
        "egress": [
            { "ports": [port(json!(53), "UDP"), port(json!(53), "TCP")] },
            { "ports": [port(json!(443), "TCP"), port(json!(6443), "TCP")] },
            { "to": [consumers], "ports": [port(json!(sluice_crds::names::ADMIN_PORT), "TCP")] },
        ],
    });
    assert_eq!(policy["spec"], open);
    let ports = pods["spec"]["containers"][0]["ports"].as_array().unwrap();
    assert!(ports.iter().any(|port| port["name"] == "admin"), "{ports:?}");

    let (none, _) = policy_and_pods(&["--set", "networkPolicy.enabled=false"]).await;
    assert!(none.is_null(), "{none}");
}

/// Whether it is a DNS subdomain, as most names of objects have to be.
fn is_subdomain(name: &str) -> bool {
    let is_label = |label: &str| {
        let legal = |one: char| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '-';
        !label.is_empty() && label.chars().all(legal) && !label.starts_with('-') && !label.ends_with('-')
    };
    name.split('.').all(is_label)
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
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
#[ignore = "needs a Kubernetes"]
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
#[ignore = "needs a Kubernetes"]
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
