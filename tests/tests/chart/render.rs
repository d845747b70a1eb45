//! What the chart renders, and what it refuses; needs helm, no cluster.

use serde_json::Value;
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
            "consumer.image.repository=",
            "crds.enabled=maybe",
            "namespaces={Team_A}",
            "namespaces={a,a}",
            "installation=two words",
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
            "operator.resources.limits.memory=1e9",
            "demo.sizeLimit=1e9",
            // A list or map that a person has commented out.
            "namespaces=null",
            "operator.tolerations=null",
            "operator.resources=null",
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

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn long_names_stay_legal() {
    let helm = Helm::new(3).unwrap();
    let namespace = "n".repeat(63);
    let chart = chart().display().to_string();
    let release = "r".repeat(53);
    let arguments = ["template", &release, &chart, "--namespace", &namespace, "--kube-version=1.34.4"];
    for document in documents(&helm.run(&arguments).await.unwrap()) {
        let kind = document["kind"].as_str().unwrap();
        let name = document["metadata"]["name"].as_str().unwrap();
        let wide = kind.starts_with("ClusterRole");
        assert!(name.len() <= if wide { 253 } else { 63 }, "{kind} {name}");
        for argument in document
            .pointer("/spec/template/spec/containers/0/args")
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            if let Some(installation) = argument.as_str().unwrap().strip_prefix("--installation=") {
                assert!(installation.len() <= 63, "{installation}");
            }
        }
    }
}
