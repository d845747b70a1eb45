//! What the operator may do, and who may reach it and whom it reaches.

use serde_json::{Value, json};
use sluice_tests::helm::{Helm, chart};

use super::{documents, named, values_files, with};

#[tokio::test]
#[ignore = "needs helm"]
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
#[ignore = "needs helm"]
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

/// It lets no pipeline run as itself.
#[tokio::test]
#[ignore = "needs helm"]
async fn the_operator_knows_its_own_account() {
    let helm = Helm::new(3).unwrap();
    for set in [&[][..], &["--set", "operator.serviceAccount.name=mine"]] {
        let rendered = documents(&helm.template("sluice-system", set).await.unwrap());
        let pod = &named(&rendered, "Deployment", "chart-sluice-operator")["spec"]["template"]["spec"];
        let account = format!("--service-account={}", pod["serviceAccountName"].as_str().unwrap());
        let arguments = pod["containers"][0]["args"].as_array().unwrap();
        assert!(arguments.contains(&account.clone().into()), "{account} is not among {arguments:?}");
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
#[ignore = "needs helm"]
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
