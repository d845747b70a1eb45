//! The API server goes and comes back, and forgets; it has what the operator cannot read; every field is changed and changed back.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::cluster::{ApiProxy, Cluster, Namespace};
use sluice_tests::eventually;
use sluice_tests::operator::{CRD, Operator};

use crate::bed::{Bed, SOON, condition, patch, pipeline, settings};
use crate::children::CHILDREN;
use crate::mutate::{mutations, schema};

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn an_api_server_that_restarts_and_forgets_its_past_loses_no_edit() {
    let mut cluster = Cluster::start().await.unwrap();
    cluster.apply_crds(CRD).await.unwrap();
    let namespace = cluster.namespace("api").await.unwrap();
    let settings = settings(&namespace);
    let mut operator = Operator::start(&cluster, &settings).await.unwrap();
    namespace.apply(&pipeline().to_string()).await.unwrap();
    live_is(&namespace, 5_000, async || Ok(())).await;
    for (number, rate) in [(1, 11), (2, 12), (3, 13)] {
        cluster.kill_api_server().await.unwrap();
        // The operator's watches must begin anew: what they ask for is gone.
        cluster.compact_etcd().await.unwrap();
        cluster.restart_api_server().await.unwrap();
        patch(&namespace, &json!({ "spec": { "rateLimitQPS": rate } })).await.unwrap();
        live_is(&namespace, rate, async || {
            // Where the API server was away for longer than a lead lasts it ends, and its Deployment starts another.
            if !operator.is_running()? {
                says_nothing_else(&operator);
                operator = Operator::start(&cluster, &settings).await?;
            }
            Ok(())
        })
        .await;
        println!("edit {number} arrived");
    }
    says_nothing_else(&operator);
}

/// It says that it lost the API server, and nothing else.
fn says_nothing_else(operator: &Operator) {
    let expected = [
        "a watch broke and begins again",
        "cannot reconcile",
        "cannot ask whether PodMonitors are installed",
        "kube_client::client",
        "client error",
        "the lead was lost",
    ];
    operator.log_is_clean(&expected).unwrap();
}

/// Waits for the live document to have a rate, and does something before each look.
async fn live_is(namespace: &Namespace, rate: u32, mut before: impl AsyncFnMut() -> anyhow::Result<()>) {
    let waited = eventually("the live document", Duration::from_secs(60), async || {
        before().await?;
        let Ok(map) = namespace.get("configmap/traces-live").await else { return Ok(None) };
        let live = map["data"]["live.json"].as_str().unwrap_or_default();
        Ok(live.contains(&format!("\"rateLimitQPS\":{rate},")).then_some(()))
    });
    namespace.explain(waited.await).await.unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn an_object_that_the_operator_cannot_read_hides_no_other_also_after_a_restart() {
    let mut bed = Bed::start("unread").await;
    let mut theirs = pipeline();
    theirs["metadata"]["name"] = "theirs".into();
    theirs["spec"]["source"]["kafka"]["consumerGroup"] = "theirs".into();
    bed.create(&theirs).await;
    bed.create(&pipeline()).await;
    bed.until("configmap/theirs-live", |map| !map.is_null()).await;
    // Whoever may write an object may add this: a time that Kubernetes takes, and that is none here.
    let entry = json!({
        "manager": "somebody", "operation": "Update", "apiVersion": "v1", "time": "9999-12-31T23:59:59Z",
        "fieldsType": "FieldsV1", "fieldsV1": { "f:metadata": { "f:annotations": { "f:note": {} } } },
    });
    let metadata = json!({ "name": "a-map", "labels": { "sluice.dev/pipeline": "theirs" } });
    let map = json!({ "apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata });
    bed.namespace.apply(&map.to_string()).await.unwrap();
    for object in ["configmap/a-map", "configmap/theirs-live", "tp/theirs"] {
        // Before: who changes a field takes it out of the entries of others.
        bed.namespace.kubectl(&["annotate", object, "note=a"]).await.unwrap();
        let get = ["get", object, "--output=json", "--show-managed-fields"];
        let shown: Value = serde_json::from_str(&bed.namespace.kubectl(&get).await.unwrap()).unwrap();
        let mut entries = shown["metadata"]["managedFields"].as_array().cloned().unwrap();
        let mut entry = entry.clone();
        entry["apiVersion"] = shown["apiVersion"].clone();
        entries.push(entry);
        let add = json!({ "metadata": { "managedFields": entries } });
        let add = ["patch", object, "--type=merge", "-p", &add.to_string()];
        bed.namespace.kubectl(&add).await.unwrap();
        let shown = bed.namespace.kubectl(&get).await.unwrap();
        assert!(shown.contains("9999-12-31"), "the API server keeps it: {shown}");
    }
    // `affinity` is not looked at by the API server, however deep it is.
    let deep = format!("{}1{}", r#"{"nodeAffinity":"#.repeat(200), "}".repeat(200));
    let spec = format!(r#"{{"spec":{{"template":{{"consumer":{{"affinity":{deep}}}}}}}}}"#);
    bed.namespace.kubectl(&["patch", "tp/theirs", "--type=merge", "-p", &spec]).await.unwrap();
    // Nor is it read here.
    let reasons = ["get", "tp/theirs", "--output=jsonpath={.status.conditions[*].reason}"];
    let refused = eventually("the pipeline to be refused", SOON, async || {
        Ok(bed.namespace.kubectl(&reasons).await?.contains("InvalidSpec").then_some(()))
    });
    refused.await.unwrap();
    bed.patch(&json!({ "spec": { "rateLimitQPS": 11 } })).await;
    bed.live_until(|live| live["rateLimitQPS"] == 11).await;
    bed.operator.log_is_clean(&[]).unwrap();
    // The next one lists everything anew.
    bed.operator.kill().await.unwrap();
    bed.operator = Operator::start(bed.cluster, &bed.settings).await.unwrap();
    bed.patch(&json!({ "spec": { "rateLimitQPS": 12 } })).await;
    bed.live_until(|live| live["rateLimitQPS"] == 12).await;
    bed.operator.log_is_clean(&[]).unwrap();
}

/// Fields of which no single change is taken, each once: they are the pipeline's identity, or break a rule alone.
const REFUSED: [&str; 26] = [
    "autoscaling.min",
    "encryption.primaryKey",
    "override.rateLimitQPS",
    "override.until",
    "sink.mysql.database",
    "sink.mysql.host",
    "sink.mysql.passwordFrom",
    "sink.mysql.port",
    "sink.mysql.usernameFrom",
    "sink.postgres.caFrom",
    "sink.postgres.database",
    "sink.postgres.host",
    "sink.postgres.passwordFrom",
    "sink.postgres.port",
    "sink.postgres.urlFrom",
    "sink.postgres.usernameFrom",
    "sink.sqlite.claimName",
    "sink.table",
    "source.kafka.consumerGroup",
    "source.kafka.excludePattern",
    "source.kafka.sasl.mechanism",
    "source.kafka.sasl.passwordFrom",
    "source.kafka.sasl.usernameFrom",
    "source.kafka.tls.certFrom",
    "source.kafka.tls.keyFrom",
    "source.kafka.topicPattern",
];
/// Fields that change nothing while consumers report nothing.
const WITHOUT_EFFECT: [&str; 1] = ["autoscaling.max"];

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn every_field_changed_and_changed_back_leaves_what_was_before() {
    let bed = Bed::start("mutate").await;
    // Hundreds of patches: each by itself would start a kubectl.
    let proxy = ApiProxy::start(bed.cluster).await.unwrap();
    let path = format!("/apis/sluice.dev/v1alpha1/namespaces/{}/tracepipelines/traces", bed.namespace.name());
    let patch = async |spec: &Value| proxy.patch(&path, &json!({ "spec": spec })).await;
    bed.create(&pipeline()).await;
    let before = settled(&bed).await;
    let spec = bed.namespace.get("tp/traces").await.unwrap()["spec"].clone();
    let (mut refused, mut without_effect) = (BTreeSet::new(), BTreeSet::new());
    let mut applied = BTreeSet::new();
    let mutations = mutations(&schema(CRD), &spec);
    for (path, change, back) in &mutations {
        if patch(change).await.is_err() {
            refused.insert(path.as_str());
            continue;
        }
        applied.insert(path.as_str());
        if settled(&bed).await == before {
            without_effect.insert(path.as_str());
        }
        patch(back).await.unwrap();
        assert_eq!(settled(&bed).await, before, "after {path} was changed back");
    }
    println!("changed and changed back: {applied:?}");
    assert_eq!(refused, BTreeSet::from(REFUSED));
    assert_eq!(without_effect, BTreeSet::from(WITHOUT_EFFECT));
    bed.operator.log_is_clean(&["spec.template.consumer"]).unwrap();
}

/// The children and the live document, without versions, when the operator has seen the newest spec.
async fn settled(bed: &Bed) -> Vec<Value> {
    let seen = |pipeline: &Value| {
        pipeline["status"]["observedGeneration"] == pipeline["metadata"]["generation"]
            && condition(pipeline, "Degraded").1 != "NotApplied"
    };
    bed.until("tp/traces", seen).await;
    let mut call = vec!["get", "--output=json"];
    call.extend(CHILDREN);
    call.push("configmap/traces-live");
    let objects = bed.namespace.kubectl(&call).await.unwrap();
    let mut objects: Value = serde_json::from_str(&objects).unwrap();
    let mut objects = objects["items"].as_array_mut().map(std::mem::take).unwrap();
    for object in &mut objects {
        object.as_object_mut().into_iter().for_each(|object| drop(object.remove("status")));
        if let Some(metadata) = object["metadata"].as_object_mut() {
            for field in ["resourceVersion", "generation", "managedFields", "uid", "creationTimestamp"] {
                metadata.remove(field);
            }
        }
        // The Deployment's controller counts its rollouts.
        if let Some(annotations) = object["metadata"]["annotations"].as_object_mut() {
            annotations.remove("deployment.kubernetes.io/revision");
        }
        if let Some(text) = object["data"]["live.json"].as_str() {
            let mut live: Value = serde_json::from_str(text).unwrap();
            live["revision"] = 0.into();
            object["data"]["live.json"] = live;
        }
    }
    objects
}
