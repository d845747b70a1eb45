//! The API server goes and comes back, and forgets; every field is changed and changed back.

use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::cluster::{Cluster, Namespace};
use sluice_tests::eventually;
use sluice_tests::operator::{CRD, Operator};

use crate::bed::{Bed, SOON, condition, pipeline, settings};
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
        let patch = json!({ "spec": { "rateLimitQPS": rate } }).to_string();
        namespace.kubectl(&["patch", "tp/traces", "--type=merge", "-p", &patch]).await.unwrap();
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
    let expected =
        ["a watch broke and begins again", "kube_client::client", "client error", "the lead was lost"];
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
async fn every_field_changed_and_changed_back_leaves_what_was_before() {
    let bed = Bed::start("mutate").await;
    bed.create(&pipeline()).await;
    let before = settled(&bed, 1).await;
    let spec = bed.namespace.get("tp/traces").await.unwrap()["spec"].clone();
    let mutations = mutations(&schema(CRD), &spec);
    assert!(mutations.len() > 40, "only {} mutations", mutations.len());
    let (mut applied, mut refused) = (0, Vec::new());
    for (path, patch, back) in &mutations {
        let patch = json!({ "spec": patch }).to_string();
        let patched = bed.namespace.kubectl(&["patch", "tp/traces", "--type=merge", "-p", &patch]).await;
        if patched.is_err() {
            // Identity fields cannot be changed; a field alone may break a rule.
            refused.push(path.as_str());
            continue;
        }
        applied += 1;
        observed(&bed).await;
        bed.patch(&json!({ "spec": back })).await;
    }
    println!("{applied} of {} mutations were accepted; refused: {refused:?}", mutations.len());
    assert!(applied > 30, "only {applied}");
    let after = settled(&bed, 1).await;
    assert_eq!(after, before);
    bed.operator.log_is_clean(&["spec.template.consumer"]).unwrap();
}

/// Waits until the operator has seen the newest spec, and gives the generation.
async fn observed(bed: &Bed) -> i64 {
    let seen =
        |pipeline: &Value| pipeline["status"]["observedGeneration"] == pipeline["metadata"]["generation"];
    bed.until("tp/traces", seen).await["metadata"]["generation"].as_i64().unwrap()
}

/// The objects without versions, when the operator has seen the newest spec and one settings document is wanted.
async fn settled(bed: &Bed, at_least_replicas: i64) -> Vec<Value> {
    observed(bed).await;
    let good = |pipeline: &Value| condition(pipeline, "Degraded").0 == "False";
    bed.until("tp/traces", good).await;
    bed.until("deployment/traces-consumer", |deployment| {
        deployment["spec"]["replicas"].as_i64() >= Some(at_least_replicas)
    })
    .await;
    let stripped = async || {
        let mut objects = Vec::new();
        for child in [
            "deployment",
            "role",
            "rolebinding",
            "serviceaccount",
            "service",
            "networkpolicy",
            "poddisruptionbudget",
        ] {
            let mut object = bed.namespace.get(&format!("{child}/traces-consumer")).await?;
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
            objects.push(object);
        }
        let mut live = bed.live().await;
        live["revision"] = 0.into();
        objects.push(live);
        Ok(Some(objects))
    };
    eventually("the objects", SOON, stripped).await.unwrap()
}
