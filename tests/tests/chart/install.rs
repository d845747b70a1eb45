//! The chart on a real API server without a node: everything in it is accepted, and its rights are enough.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::cluster::{Cluster, Namespace};
use sluice_tests::eventually;
use sluice_tests::helm::chart;

use crate::bed::{Bed, RELEASE, SOON, nothing_was_refused, shared, until};
use crate::render::{values_files, with};

const CRD_NAME: &str = "crd/tracepipelines.sluice.dev";
const CHILDREN: [&str; 9] = [
    "serviceaccount/traces-consumer",
    "role/traces-consumer",
    "rolebinding/traces-consumer",
    "service/traces-consumer",
    "poddisruptionbudget/traces-consumer",
    "networkpolicy/traces-consumer",
    "podmonitor/traces-consumer",
    "deployment/traces-consumer",
    "configmap/traces-live",
];

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn helm_3_installs_what_is_needed_upgrades_it_and_keeps_the_pipelines_when_it_goes() {
    life_of_an_installation(3).await;
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn helm_4_installs_what_is_needed_upgrades_it_and_keeps_the_pipelines_when_it_goes() {
    life_of_an_installation(4).await;
}

async fn life_of_an_installation(major: u8) {
    // Its own: the CRD is the release's.
    let cluster = Cluster::start().await.unwrap();
    cluster.kubectl(&["delete", CRD_NAME, "--ignore-not-found"]).await.unwrap();
    let bed = Bed::new(&cluster, major).await;
    let values = chart().join("ci/all-values.yaml").display().to_string();
    let notes = bed.helm("install", &["--values", &values]).await.unwrap();
    assert!(!notes.contains("`scraperNamespaces`"), "{notes}");
    cluster.crds_established().await.unwrap();
    every_object_is_accepted(&bed).await;
    pods_of_the_chart_fit_the_restricted_standard(&bed).await;

    let (operator, _kubeconfig) = bed.operator().await;
    bed.namespace.apply(&bed.first_pipeline().await).await.unwrap();
    children_are_made_and_repaired(&bed).await;
    rights_are_no_more_than_needed(&bed).await;
    people_get_their_rights_by_aggregation(&bed).await;
    nothing_was_refused(&operator);

    let set = "operator.maxConcurrentRollouts=7,scraperNamespaces=null";
    let notes = bed.helm("upgrade", &["--values", &values, "--set", set]).await.unwrap();
    assert!(notes.contains("name its namespace in `scraperNamespaces`"), "nobody may scrape: {notes}");
    let deployment = bed.namespace.get("deployment/sluice-operator").await.unwrap();
    let arguments = deployment["spec"]["template"]["spec"]["containers"][0]["args"].to_string();
    assert!(arguments.contains("--max-concurrent-rollouts=7"), "{arguments}");

    bed.helm("uninstall", &[]).await.unwrap();
    assert!(bed.namespace.get("serviceaccount/sluice-operator").await.is_err());
    let pipeline = bed.namespace.get("tp/traces").await.unwrap();
    assert!(pipeline["metadata"]["deletionTimestamp"].is_null());
    // What was kept is no obstacle to the same release's return.
    bed.helm("install", &["--values", &values]).await.unwrap();
    bed.helm("uninstall", &[]).await.unwrap();
    cluster.kubectl(&["delete", CRD_NAME]).await.unwrap();
}

/// All values, by the server and with all fields known to it.
async fn every_object_is_accepted(bed: &Bed<'_>) {
    for namespace in ["team-a", "team-b"] {
        let _ = bed.cluster.kubectl(&["create", "namespace", namespace]).await;
    }
    for file in values_files() {
        let rendered = bed.helm.template(bed.namespace.name(), &with(file.as_ref())).await.unwrap();
        let apply = [
            "apply",
            "--server-side",
            "--force-conflicts",
            "--dry-run=server",
            "--validate=strict",
            "--filename=-",
        ];
        let accepted = bed.cluster.kubectl_with(&apply, &rendered).await.unwrap();
        assert!(accepted.lines().count() > 5, "{accepted}");
    }
}

/// The namespace enforces it: a pod that does not fit is not made.
async fn pods_of_the_chart_fit_the_restricted_standard(bed: &Bed<'_>) {
    for (deployment, replicas) in [("sluice-operator", 3), ("sluice-demo", 1)] {
        let made = |deployment: &Value| deployment["status"]["replicas"] == replicas;
        bed.until(&format!("deployment/{deployment}"), made).await;
    }
}

async fn children_are_made_and_repaired(bed: &Bed<'_>) {
    for child in CHILDREN {
        bed.until(child, |object| !object.is_null()).await;
    }
    bed.until("tp/traces", |pipeline| !pipeline["status"]["conditions"][0].is_null()).await;
    // Updates: the rate. Deletion: a live document that somebody has made immutable.
    let freeze = json!({ "immutable": true }).to_string();
    bed.namespace.kubectl(&["patch", "configmap/traces-live", "--type=merge", "-p", &freeze]).await.unwrap();
    for rate in [5_000, 6_000] {
        let edit = json!({ "spec": { "rateLimitQPS": rate } }).to_string();
        bed.namespace.kubectl(&["patch", "tp/traces", "--type=merge", "-p", &edit]).await.unwrap();
        bed.until("configmap/traces-live", |map| {
            let live = map["data"]["live.json"].as_str().unwrap_or("null");
            serde_json::from_str::<Value>(live).is_ok_and(|live| live["rateLimitQPS"] == rate)
        })
        .await;
    }
    // Patches: everything that is applied.
    for child in CHILDREN.iter().filter(|child| !child.starts_with("podmonitor")) {
        let before = bed.namespace.get(child).await.unwrap();
        bed.namespace.kubectl(&["delete", child, "--wait=false"]).await.unwrap();
        bed.until(child, |now| !now.is_null() && now["metadata"]["uid"] != before["metadata"]["uid"]).await;
    }
    let lease = "lease/sluice-operator-production";
    let holder = bed.namespace.get(lease).await.unwrap()["spec"]["holderIdentity"].take();
    assert!(holder.as_str().unwrap().contains("test"), "{holder}");
    let suspend = json!({ "spec": { "suspend": true } }).to_string();
    bed.namespace.kubectl(&["patch", "tp/traces", "--type=merge", "-p", &suspend]).await.unwrap();
    bed.until("events", |events| {
        let events = events["items"].as_array().cloned().unwrap_or_default();
        events
            .iter()
            .any(|event| event["reason"] == "Suspended" && event["involvedObject"]["name"] == "traces")
    })
    .await;
}

async fn rights_are_no_more_than_needed(bed: &Bed<'_>) {
    let namespace = bed.namespace.name();
    let operator = format!("system:serviceaccount:{namespace}:sluice-operator");
    assert!(bed.may(&operator, "list", "tracepipelines.sluice.dev", "default").await);
    for (verb, what) in [
        ("get", "secrets"),
        ("list", "secrets"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("delete", "deployments.apps"),
        ("patch", "tracepipelines.sluice.dev"),
        ("update", "tracepipelines.sluice.dev"),
        ("create", "clusterroles.rbac.authorization.k8s.io"),
        ("bind", "roles.rbac.authorization.k8s.io"),
        ("escalate", "roles.rbac.authorization.k8s.io"),
        ("get", "leases.coordination.k8s.io"),
    ] {
        assert!(!bed.may(&operator, verb, what, "default").await, "{verb} {what}");
        assert!(!bed.may(&operator, verb, what, namespace).await, "{verb} {what}");
    }
}

async fn people_get_their_rights_by_aggregation(bed: &Bed<'_>) {
    let namespace = bed.namespace.name();
    for role in ["view", "edit", "admin"] {
        let user = format!("--user={role}er");
        let clusterrole = format!("--clusterrole={role}");
        bed.namespace.kubectl(&["create", "rolebinding", role, &clusterrole, &user]).await.unwrap();
    }
    eventually("the rights to be aggregated", SOON, async || {
        Ok(bed.may("adminer", "create", "tracepipelines.sluice.dev", namespace).await.then_some(()))
    })
    .await
    .unwrap();
    for (who, verb, what, expected) in [
        ("viewer", "get", "tracepipelines.sluice.dev", true),
        ("viewer", "patch", "tracepipelines.sluice.dev", false),
        ("editer", "patch", "tracepipelines.sluice.dev", true),
        ("editer", "update", "tracepipelines.sluice.dev/scale", true),
        ("adminer", "delete", "tracepipelines.sluice.dev", true),
        ("adminer", "patch", "tracepipelines.sluice.dev/status", false),
        ("stranger", "get", "tracepipelines.sluice.dev", false),
    ] {
        assert_eq!(bed.may(who, verb, what, namespace).await, expected, "{who} {verb} {what}");
    }
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn an_installation_for_two_namespaces_works_there_and_has_no_right_elsewhere() {
    let cluster = shared().await;
    let bed = Bed::new(cluster, 4).await;
    let (one, two) = (cluster.namespace("one").await.unwrap(), cluster.namespace("two").await.unwrap());
    let other = cluster.namespace("other").await.unwrap();
    let namespaces = format!("namespaces={{{},{}}}", one.name(), two.name());
    let set = ["--set", &namespaces, "--set", "crds.enabled=false,rbac.aggregate=false"];
    bed.helm("install", &set).await.unwrap();
    let (operator, _kubeconfig) = bed.operator().await;

    let first = bed.first_pipeline().await;
    assert!(first.contains(&format!("namespace: \"{}\"\n", one.name())), "{first}");
    other.apply(&first.replace(one.name(), other.name())).await.unwrap();
    one.apply(&first).await.unwrap();
    let second =
        first.replace(one.name(), two.name()).replace("consumerGroup: sluice", "consumerGroup: second");
    two.apply(&second).await.unwrap();
    for namespace in [&one, &two] {
        for child in CHILDREN {
            until(namespace, child, |object| !object.is_null()).await;
        }
        until(namespace, "tp/traces", |pipeline| !pipeline["status"]["conditions"][0].is_null()).await;
    }
    assert!(other.get("configmap/traces-live").await.is_err());
    let account = format!("system:serviceaccount:{}:{RELEASE}-operator", bed.namespace.name());
    for (verb, what) in
        [("list", "configmaps"), ("list", "tracepipelines.sluice.dev"), ("create", "deployments.apps")]
    {
        assert!(bed.may(&account, verb, what, one.name()).await, "{verb} {what}");
        assert!(!bed.may(&account, verb, what, other.name()).await, "{verb} {what}");
        assert!(!bed.may(&account, verb, what, bed.namespace.name()).await, "{verb} {what}");
    }
    nothing_was_refused(&operator);
    bed.helm("uninstall", &[]).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn what_an_apply_cannot_bring_back_is_replaced_and_what_is_wrong_in_itself_is_told() {
    let cluster = shared().await;
    let bed = Bed::new(cluster, 4).await;
    let namespaces = format!("namespaces={{{}}}", bed.namespace.name());
    bed.helm("install", &["--set", &namespaces, "--set", "crds.enabled=false,rbac.aggregate=false"])
        .await
        .unwrap();
    let (operator, _kubeconfig) = bed.operator().await;
    bed.namespace.apply(&bed.first_pipeline().await).await.unwrap();
    bed.until("deployment/traces-consumer", |deployment| !deployment.is_null()).await;
    let patch = async |object: &str, kind: &str, patch: Value| {
        let patch = patch.to_string();
        bed.namespace.kubectl(&["patch", object, kind, "-p", &patch]).await.unwrap();
    };
    let probe = json!({ "httpGet": null, "tcpSocket": { "port": 9464 } });
    let containers = json!([{ "name": "consumer", "livenessProbe": probe }]);
    for (child, theirs, check) in [
        (
            "poddisruptionbudget/traces-consumer",
            json!({ "spec": { "maxUnavailable": null, "minAvailable": 1 } }),
            "/spec/minAvailable",
        ),
        (
            "deployment/traces-consumer",
            json!({ "spec": { "template": { "spec": { "containers": containers } } } }),
            "/spec/template/spec/containers/0/livenessProbe",
        ),
    ] {
        let before = bed.until(child, |object| !object.is_null()).await;
        patch(child, "--type=strategic", theirs).await;
        bed.until(child, |object| object.pointer(check) == before.pointer(check)).await;
    }
    nothing_was_refused(&operator);

    let resources = json!({ "requests": { "memory": "2Gi" }, "limits": { "memory": "1Gi" } });
    let spec = json!({ "spec": { "template": { "consumer": { "resources": resources } } } });
    patch("tp/traces", "--type=merge", spec).await;
    let refused = |pipeline: &Value| {
        let conditions = pipeline["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.iter().any(|condition| {
            condition["reason"] == "ChildRefused"
                && condition["message"].as_str().is_some_and(|words| words.contains("memory limit"))
        })
    };
    bed.until("tp/traces", refused).await;
    operator.log_is_clean(&["memory limit"]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_namespace_without_the_role_holds_up_no_other_and_is_looked_after_once_it_has_it() {
    const PATIENCE: Duration = Duration::from_secs(90);
    let cluster = shared().await;
    let bed = Bed::new(cluster, 4).await;
    let (one, two) = (cluster.namespace("one").await.unwrap(), cluster.namespace("two").await.unwrap());
    let namespaces = format!("namespaces={{{},{}}}", one.name(), two.name());
    let set = ["--set", &namespaces, "--set", "crds.enabled=false,rbac.aggregate=false"];
    bed.helm("install", &set).await.unwrap();
    two.kubectl(&["delete", "rolebindings", "--all"]).await.unwrap();
    let (operator, _kubeconfig) = bed.spawn_operator().await;

    let first = bed.first_pipeline().await;
    one.apply(&first).await.unwrap();
    let second =
        first.replace(one.name(), two.name()).replace("consumerGroup: sluice", "consumerGroup: second");
    two.apply(&second).await.unwrap();
    let is_built = async |namespace: &Namespace| {
        let found = async || Ok(namespace.get("deployment/traces-consumer").await.is_ok().then_some(()));
        namespace.explain(eventually("the consumers", PATIENCE, found).await).await.unwrap();
    };
    is_built(&one).await;
    assert!(operator.log().unwrap().contains("a namespace is not listed yet"));
    assert!(two.get("configmap/traces-live").await.is_err());
    bed.helm("upgrade", &set).await.unwrap();
    is_built(&two).await;
}
