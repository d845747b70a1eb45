//! What a pipeline is turned into, and what keeps it so.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::eventually;
use sluice_tests::operator::Operator;

use crate::bed::{Bed, SOON, condition, pipeline, settings};

/// How long the garbage collector may take: it looks for new kinds every 30 s.
const COLLECTED: Duration = SOON.saturating_mul(3);

/// What a pipeline called `traces` is turned into, besides its ConfigMaps.
pub const CHILDREN: [&str; 7] = [
    "serviceaccount/traces-consumer",
    "role/traces-consumer",
    "rolebinding/traces-consumer",
    "service/traces-consumer",
    "poddisruptionbudget/traces-consumer",
    "networkpolicy/traces-consumer",
    "deployment/traces-consumer",
];

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_pipeline_becomes_its_children_which_go_with_it() {
    let bed = Bed::start("children").await;
    let mut wanted = pipeline();
    let labels = json!({ "example.com/team": "a", "sluice.dev/pipeline": "mine" });
    wanted["spec"]["template"]["consumer"]["labels"] = labels;
    let uid = bed.create(&wanted).await;
    let mut all: Vec<String> = CHILDREN.map(str::to_owned).into();
    let deployment = bed.until("deployment/traces-consumer", |deployment| !deployment.is_null()).await;
    let volumes = deployment["spec"]["template"]["spec"]["volumes"].as_array().unwrap();
    let settings = volumes[0]["configMap"]["name"].as_str().unwrap();
    all.extend([format!("configmap/{settings}"), "configmap/traces-live".into()]);
    for child in &all {
        let child = bed.until(child, |object| !object.is_null()).await;
        assert_eq!(child["metadata"]["ownerReferences"][0]["uid"], json!(uid));
        assert_eq!(child["metadata"]["ownerReferences"][0]["blockOwnerDeletion"], true);
        assert_eq!(child["metadata"]["labels"]["sluice.dev/pipeline"], "traces");
        assert_eq!(child["metadata"]["labels"]["example.com/team"], "a");
    }
    assert_eq!(deployment["spec"]["replicas"], 2);
    assert_eq!(deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0);
    let budget = bed.namespace.get("poddisruptionbudget/traces-consumer").await.unwrap();
    assert_eq!(budget["spec"]["unhealthyPodEvictionPolicy"], "AlwaysAllow");
    let settings = bed.namespace.get(&format!("configmap/{settings}")).await.unwrap();
    assert_eq!(settings["immutable"], true);
    consumers_may_read_one_config_map(&bed).await;
    let seen = |tp: &Value| tp["status"]["observedGeneration"] == tp["metadata"]["generation"];
    let status = bed.until("tp/traces", seen).await;
    // There is no node here.
    assert_eq!(condition(&status, "Ready").0, "False");
    assert_eq!(status["status"]["rate"]["desired"], 5000);

    bed.namespace.kubectl(&["delete", "tp/traces"]).await.unwrap();
    eventually("the children to be gone", COLLECTED, async || {
        for child in &all {
            if bed.namespace.get(child).await.is_ok() {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await
    .unwrap();
    bed.operator.log_is_clean(&[]).unwrap();
}

/// The live document, and nothing else of the API server's: not even the settings, which are mounted.
async fn consumers_may_read_one_config_map(bed: &Bed) {
    let account = format!("--as=system:serviceaccount:{}:traces-consumer", bed.namespace.name());
    let granted = async |verb: &str, object: &str| {
        // kubectl says "no" by its exit code, too.
        let answer = bed.namespace.kubectl(&["auth", "can-i", verb, object, &account]).await;
        answer.is_ok_and(|answer| answer.trim() == "yes")
    };
    for verb in ["get", "list", "watch"] {
        assert!(granted(verb, "configmap/traces-live").await, "{verb}");
        for other in ["configmaps", "configmap/other", "secrets", "pods", "tracepipelines.sluice.dev"] {
            assert!(!granted(verb, other).await, "{verb} {other}");
        }
    }
    assert!(!granted("patch", "configmap/traces-live").await);
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn children_edited_or_deleted_by_hand_are_repaired() {
    let bed = Bed::start("drift").await;
    bed.create(&pipeline()).await;
    for child in CHILDREN {
        let before = bed.until(child, |object| !object.is_null()).await;
        bed.namespace.kubectl(&["delete", child, "--wait=false"]).await.unwrap();
        bed.until(child, |object| {
            !object.is_null() && object["metadata"]["uid"] != before["metadata"]["uid"]
        })
        .await;
    }
    for (child, patch, check) in [
        ("deployment/traces-consumer", json!({ "spec": { "replicas": 7 } }), "/spec/replicas"),
        // As `kubectl rollout pause` does.
        ("deployment/traces-consumer", json!({ "spec": { "paused": true } }), "/spec/paused"),
        ("role/traces-consumer", json!({ "rules": [] }), "/rules"),
        (
            "service/traces-consumer",
            json!({ "spec": { "publishNotReadyAddresses": false } }),
            "/spec/publishNotReadyAddresses",
        ),
        ("networkpolicy/traces-consumer", json!({ "spec": { "ingress": [{}] } }), "/spec/ingress"),
    ] {
        let before = bed.namespace.get(child).await.unwrap();
        let patch = patch.to_string();
        bed.namespace.kubectl(&["patch", child, "--type=merge", "-p", &patch]).await.unwrap();
        bed.until(child, |object| object.pointer(check) == before.pointer(check)).await;
    }
    bed.operator.log_is_clean(&[]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn hand_edits_that_an_apply_does_not_undo_are_undone() {
    let bed = Bed::start("swapped").await;
    bed.create(&pipeline()).await;
    bed.until("deployment/traces-consumer", |deployment| !deployment.is_null()).await;
    let more = json!({ "spec": { "selector": { "matchLabels": { "more": "a" } } } });
    let pod = |spec: Value| json!({ "spec": { "template": { "spec": spec } } });
    for (child, patch, check) in [
        (
            "networkpolicy",
            json!({ "spec": { "podSelector": { "matchLabels": { "more": "a" } } } }),
            "/spec/podSelector",
        ),
        ("service", json!({ "spec": { "selector": { "more": "a" } } }), "/spec/selector"),
        ("poddisruptionbudget", more, "/spec/selector"),
        (
            "poddisruptionbudget",
            json!({ "spec": { "maxUnavailable": null, "minAvailable": 1 } }),
            "/spec/minAvailable",
        ),
        (
            "service",
            json!({ "spec": { "ports": [{ "port": 9464, "$patch": "delete" }, { "port": 9465, "name": "admin" }] } }),
            "/spec/ports",
        ),
        (
            "deployment",
            pod(json!({ "containers": [{ "name": "consumer",
                "livenessProbe": { "httpGet": null, "tcpSocket": { "port": 9464 } } }] })),
            "/spec/template/spec/containers/0/livenessProbe",
        ),
        (
            "deployment",
            pod(json!({ "volumes": [{ "name": "data", "emptyDir": null, "hostPath": { "path": "/" } }] })),
            "/spec/template/spec/volumes",
        ),
    ] {
        let child = format!("{child}/traces-consumer");
        let before = bed.namespace.get(&child).await.unwrap();
        let patch = patch.to_string();
        bed.namespace.kubectl(&["patch", &child, "--type=strategic", "-p", &patch]).await.unwrap();
        let after = bed.until(&child, |object| object.pointer(check) == before.pointer(check)).await;
        assert_eq!(after["metadata"]["uid"], before["metadata"]["uid"], "it is the same object");
        // What was replaced can be taken away again by an apply.
        eventually("the fields to be applied ones", SOON, async || {
            let args = ["get", &child, "-o", "json", "--show-managed-fields"];
            let shown: Value = serde_json::from_str(&bed.namespace.kubectl(&args).await?)?;
            let entries = shown["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
            let mut ours = entries.iter().filter(|entry| entry["manager"] == "sluice-operator");
            Ok(ours.all(|entry| entry["operation"] == "Apply").then_some(()))
        })
        .await
        .unwrap();
    }
    bed.operator.log_is_clean(&[]).unwrap();
}

/// Waits until the garbage collector has acted: it removes an object whose owner was gone before the object was made.
async fn the_collector_has_removed_what_belongs_to(uid: &str, bed: &Bed) {
    let owner =
        json!({ "apiVersion": "sluice.dev/v1alpha1", "kind": "TracePipeline", "name": "traces", "uid": uid });
    let sentinel = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "sentinel", "ownerReferences": [owner] },
    });
    bed.namespace.apply(&sentinel.to_string()).await.unwrap();
    eventually("the sentinel to be gone", COLLECTED, async || {
        let left = bed.list("configmap").await?;
        Ok(left.iter().all(|map| map["metadata"]["name"] != "sentinel").then_some(()))
    })
    .await
    .unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn what_an_orphaning_deletion_leaves_stays_and_is_taken_by_the_next_pipeline() {
    let bed = Bed::start("orphans").await;
    let deleted = bed.create(&pipeline()).await;
    bed.until("deployment/traces-consumer", |deployment| !deployment.is_null()).await;
    let children = ["configmap/traces-live", "deployment/traces-consumer", "role/traces-consumer"];
    let mut uids = Vec::new();
    for child in children {
        uids.push(bed.namespace.get(child).await.unwrap()["metadata"]["uid"].clone());
    }
    bed.namespace.kubectl(&["delete", "tp/traces", "--cascade=orphan"]).await.unwrap();
    the_collector_has_removed_what_belongs_to(&deleted, &bed).await;
    for child in children {
        let left = bed.namespace.get(child).await.unwrap();
        assert_eq!(left["metadata"]["ownerReferences"], Value::Null, "{child}");
    }
    let uid = bed.create(&pipeline()).await;
    for (child, before) in children.into_iter().zip(uids) {
        let is_owned = |object: &Value| object["metadata"]["ownerReferences"][0]["uid"] == uid;
        assert_eq!(bed.until(child, is_owned).await["metadata"]["uid"], before, "{child}");
    }
    bed.operator.log_is_clean(&[]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn nothing_is_written_while_nothing_changes() {
    let bed = Bed::start("idle").await;
    bed.create(&pipeline()).await;
    bed.until("deployment/traces-consumer", |deployment| {
        !deployment["status"]["observedGeneration"].is_null()
    })
    .await;
    // It is not the operator who writes here, but it changes the version.
    bed.until("poddisruptionbudget/traces-consumer", |budget| budget["status"]["expectedPods"] == 2).await;
    // The log tells of a document once it is there for everybody.
    let wrote_rate = async |rate: u32| {
        let wrote = |line: &Value| line["message"] == "wrote the live document" && line["rate"] == rate;
        let told = async || Ok(bed.operator.lines()?.iter().any(wrote).then_some(()));
        eventually("the log to tell of the live document", SOON, told).await.unwrap();
        // The status is what a reconciliation writes last.
        let seen = |tp: &Value| tp["status"]["observedGeneration"] == tp["metadata"]["generation"];
        bed.until("tp/traces", seen).await;
    };
    let writes = || {
        let lines = bed.operator.lines().unwrap();
        lines.iter().filter(|line| line["message"].as_str().unwrap_or_default().starts_with("wrote")).count()
    };
    // Every event of the children's birth has passed when an edit that comes after them has.
    bed.patch(&json!({ "spec": { "rateLimitQPS": 1 } })).await;
    wrote_rate(1).await;
    let before = (writes(), versions(&bed).await);
    // An annotation is an event that asks for nothing.
    bed.namespace.kubectl(&["annotate", "deployment/traces-consumer", "note=1"]).await.unwrap();
    bed.patch(&json!({ "spec": { "rateLimitQPS": 2 } })).await;
    wrote_rate(2).await;
    let after = (writes(), versions(&bed).await);
    assert_eq!(after.0 - before.0, 1, "only the live document: {:#?}", bed.operator.lines().unwrap());
    assert_eq!(after.1, before.1);
    bed.operator.log_is_clean(&[]).unwrap();
}

/// Versions of the children that an edit of the rate does not concern.
async fn versions(bed: &Bed) -> Vec<Value> {
    let mut versions = Vec::new();
    for child in &CHILDREN[..6] {
        versions.push(bed.namespace.get(child).await.unwrap()["metadata"]["resourceVersion"].clone());
    }
    versions
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn an_object_of_somebody_else_is_never_taken_over() {
    let bed = Bed::start("taken").await;
    let theirs = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "traces-consumer" },
        "spec": { "ports": [{ "port": 80 }], "selector": { "app": "theirs" } },
    });
    bed.namespace.apply(&theirs.to_string()).await.unwrap();
    bed.create(&pipeline()).await;
    let refused = |pipeline: &Value| condition(pipeline, "Degraded") == ("True".into(), "NameTaken".into());
    bed.until("tp/traces", refused).await;
    let service = bed.namespace.get("service/traces-consumer").await.unwrap();
    assert_eq!(service["spec"]["selector"], json!({ "app": "theirs" }));

    bed.namespace.kubectl(&["delete", "service/traces-consumer"]).await.unwrap();
    bed.until("deployment/traces-consumer", |deployment| !deployment.is_null()).await;
    bed.until("tp/traces", |pipeline| condition(pipeline, "Degraded").0 == "False").await;
    bed.operator.log_is_clean(&["belong to this pipeline"]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn children_of_another_installation_are_left_alone() {
    let bed = Bed::start("foreign").await;
    bed.create(&pipeline()).await;
    let before = bed.until("deployment/traces-consumer", |deployment| !deployment.is_null()).await;
    let mut other = settings(&bed.namespace);
    other.installation = "another".into();
    other.image = "sluice.dev/other:test".into();
    let second = Operator::start(bed.cluster, &other).await.unwrap();
    bed.until("tp/traces", |pipeline| condition(pipeline, "Conflict").0 == "True").await;
    // The owner's own conditions are left alone.
    assert_ne!(condition(&bed.namespace.get("tp/traces").await.unwrap(), "Ready").1, "Conflict");
    let after = bed.namespace.get("deployment/traces-consumer").await.unwrap();
    assert_eq!(after["spec"]["template"], before["spec"]["template"]);
    second.log_is_clean(&[]).unwrap();
    bed.operator.log_is_clean(&[]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn one_broken_pipeline_does_not_hold_up_another() {
    let bed = Bed::start("broken").await;
    let mut broken = pipeline();
    broken["metadata"]["name"] = "broken".into();
    broken["spec"]["source"]["kafka"]["consumerGroup"] = "other".into();
    broken["spec"]["template"] =
        json!({ "consumer": { "affinity": { "nodeAffinity": { "x": 1 }, "podAffinity": 7 } } });
    bed.create(&broken).await;
    bed.create(&pipeline()).await;
    bed.until("tp/broken", |pipeline| condition(pipeline, "Degraded").1 == "InvalidTemplate").await;
    bed.until("deployment/traces-consumer", |deployment| !deployment.is_null()).await;
    bed.operator.log_is_clean(&["spec.template.consumer.affinity"]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_second_pipeline_with_the_same_group_and_topic_is_refused() {
    let bed = Bed::start("rival").await;
    bed.create(&pipeline()).await;
    bed.until("deployment/traces-consumer", |deployment| !deployment.is_null()).await;
    let mut second = pipeline();
    second["metadata"]["name"] = "second".into();
    bed.create(&second).await;
    bed.until("tp/second", |pipeline| condition(pipeline, "Ready").1 == "DuplicateConsumerGroup").await;
    assert!(bed.namespace.get("deployment/second-consumer").await.is_err());
    bed.namespace.kubectl(&["delete", "tp/traces"]).await.unwrap();
    bed.until("deployment/second-consumer", |deployment| !deployment.is_null()).await;
    bed.operator.log_is_clean(&[]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn an_older_pipeline_that_is_edited_onto_the_topic_of_a_younger_one_is_the_refused_one() {
    let bed = Bed::start("edited-rival").await;
    bed.create(&pipeline()).await;
    bed.until("deployment/traces-consumer", |deployment| !deployment.is_null()).await;
    let mut second = pipeline();
    second["metadata"]["name"] = "second".into();
    second["spec"]["source"]["kafka"]["topic"] = "others".into();
    bed.create(&second).await;
    bed.until("deployment/second-consumer", |deployment| !deployment.is_null()).await;
    bed.patch(&json!({ "spec": { "source": { "kafka": { "topic": "others" } } } })).await;
    bed.until("tp/traces", |pipeline| condition(pipeline, "Ready").1 == "DuplicateConsumerGroup").await;
    let second = bed.namespace.get("tp/second").await.unwrap();
    assert_ne!(condition(&second, "Ready").1, "DuplicateConsumerGroup");
    bed.operator.log_is_clean(&[]).unwrap();
}
