//! Live edits: how fast they are, and that no accident undoes one.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_tests::cluster::{ApiProxy, WriteProxy};
use sluice_tests::eventually;
use sluice_tests::operator::{Operator, Settings};

use crate::bed::{Bed, SOON, condition, pipeline};

/// The rate of a live ConfigMap.
fn rate_of(map: &Value) -> Option<u64> {
    let text = map["data"]["live.json"].as_str()?;
    serde_json::from_str::<Value>(text).ok()?["rateLimitQPS"].as_u64()
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_deleted_garbled_or_immutable_live_document_comes_back_newer() {
    let bed = Bed::start("garbled").await;
    bed.create(&pipeline()).await;
    let mut revision = bed.live_until(|live| live["revision"] == 1).await["revision"].as_u64().unwrap();
    bed.until("tp/traces", |pipeline| pipeline["status"]["rate"]["revision"] == 1).await;
    let live = "configmap/traces-live";
    for accident in [
        vec!["delete", live],
        vec!["patch", live, "--type=merge", "-p", r#"{"data":{"live.json":"{"}}"#],
        vec!["patch", live, "--type=merge", "-p", r#"{"data":null}"#],
        vec!["patch", live, "--type=merge", "-p", r#"{"immutable":true}"#],
    ] {
        bed.namespace.kubectl(&accident).await.unwrap();
        let newer = |live: &Value| live["revision"].as_u64() > Some(revision) && live["rateLimitQPS"] == 5000;
        revision = bed.live_until(newer).await["revision"].as_u64().unwrap();
        bed.until("tp/traces", |pipeline| pipeline["status"]["rate"]["revision"] == revision).await;
    }
    let map = bed.namespace.get(live).await.unwrap();
    assert_ne!(map["immutable"], true);
    bed.operator.log_is_clean(&[]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_deleted_pipeline_that_a_finalizer_holds_says_so_and_takes_edits_until_it_goes() {
    let bed = Bed::start("held").await;
    let mut held = pipeline();
    held["metadata"]["finalizers"] = json!(["example.com/backup"]);
    bed.create(&held).await;
    let deployment = bed.until("deployment/traces-consumer", |deployment| !deployment.is_null()).await;
    bed.namespace.kubectl(&["delete", "tp/traces", "--wait=false"]).await.unwrap();
    let is_told = |pipeline: &Value| {
        condition(pipeline, "Ready") == ("False".into(), "Terminating".into())
            && pipeline["status"]["observedGeneration"] == pipeline["metadata"]["generation"]
    };
    let told = bed.until("tp/traces", is_told).await;
    let message = told["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains("example.com/backup"), "{message}");

    bed.patch(&json!({ "spec": { "suspend": true } })).await;
    bed.live_until(|live| live["suspend"] == true).await;
    let is_suspended = |pipeline: &Value| condition(pipeline, "Suspended").0 == "True" && is_told(pipeline);
    bed.until("tp/traces", is_suspended).await;
    let now = bed.namespace.get("deployment/traces-consumer").await.unwrap();
    assert_eq!(now["metadata"]["uid"], deployment["metadata"]["uid"], "it goes with the pipeline");
    bed.patch(&json!({ "metadata": { "finalizers": null } })).await;
    for gone in ["tp/traces", "deployment/traces-consumer"] {
        bed.namespace.kubectl(&["wait", "--for=delete", gone, "--timeout=120s"]).await.unwrap();
    }
    bed.operator.log_is_clean(&[]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_refused_pipeline_that_runs_gets_its_live_document_back_and_takes_edits() {
    let bed = Bed::start("refused-live").await;
    let mut first = pipeline();
    first["metadata"]["name"] = "first".into();
    first["spec"]["source"]["kafka"]["topic"] = "others".into();
    bed.create(&first).await;
    bed.create(&pipeline()).await;
    for name in ["first", "traces"] {
        bed.until(&format!("deployment/{name}-consumer"), |deployment| !deployment.is_null()).await;
    }
    // Edited onto what the other one reads.
    bed.patch(&json!({ "spec": { "source": { "kafka": { "topic": "others" } } } })).await;
    bed.until("tp/traces", |pipeline| condition(pipeline, "Ready").1 == "DuplicateConsumerGroup").await;
    bed.namespace.kubectl(&["delete", "configmap/traces-live"]).await.unwrap();
    bed.live_until(|live| live["revision"].as_u64() > Some(1) && live["rateLimitQPS"] == 5000).await;
    bed.patch(&json!({ "spec": { "suspend": true } })).await;
    bed.live_until(|live| live["suspend"] == true).await;
    bed.operator.log_is_clean(&[]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_revision_past_which_there_is_none_is_told_and_nothing_is_written() {
    let bed = Bed::start("exhausted").await;
    bed.create(&pipeline()).await;
    let mut document = bed.live_until(|live| live["revision"] == 1).await;
    document["revision"] = (1_u64 << 53).into();
    let patch = json!({ "data": { "live.json": document.to_string() } }).to_string();
    bed.namespace.kubectl(&["patch", "configmap/traces-live", "--type=merge", "-p", &patch]).await.unwrap();
    bed.patch(&json!({ "spec": { "rateLimitQPS": 7 } })).await;
    bed.until("tp/traces", |pipeline| condition(pipeline, "Degraded").1 == "RevisionExhausted").await;
    assert_eq!(bed.live().await["rateLimitQPS"], 5000);
    bed.operator.log_is_clean(&["highest revision"]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_leader_that_thaws_undoes_nothing_and_writes_next_to_nothing() {
    let bed = Bed::start("thaw").await;
    let mut first = bed.operator;
    // It gives the lead back.
    first.signal(Signal::SIGTERM).unwrap();
    first.ended(SOON).await.unwrap();
    let proxy = WriteProxy::start(bed.cluster).await.unwrap();
    let through_proxy = Settings { kubeconfig: Some(proxy.kubeconfig()), ..bed.settings.clone() };
    first = Operator::start(bed.cluster, &through_proxy).await.unwrap();
    bed.namespace.apply(&pipeline().to_string()).await.unwrap();
    let live = async || bed.namespace.get("configmap/traces-live").await.unwrap_or_default();
    let has_rate = async |rate: u64| {
        let waited = eventually("the live document", SOON, async || {
            Ok((rate_of(&live().await) == Some(rate)).then_some(()))
        });
        waited.await.unwrap();
    };
    has_rate(5_000).await;
    first.signal(Signal::SIGSTOP).unwrap();
    let second = Operator::start(bed.cluster, &bed.settings).await.unwrap();
    for rate in [75, 76, 77] {
        let patch = json!({ "spec": { "rateLimitQPS": rate } }).to_string();
        bed.namespace.kubectl(&["patch", "tp/traces", "--type=merge", "-p", &patch]).await.unwrap();
        has_rate(rate).await;
    }
    let observed = eventually("the status", SOON, async || {
        let pipeline = bed.namespace.get("tp/traces").await?;
        let status = &pipeline["status"];
        let newest = status["observedGeneration"] == pipeline["metadata"]["generation"];
        Ok((newest && status["rate"]["revision"] == 4).then_some(()))
    });
    observed.await.unwrap();
    let wrote = |operator: &Operator| {
        let lines = operator.lines().unwrap();
        lines.iter().filter(|line| line["message"].as_str().unwrap_or_default().starts_with("wrote")).count()
    };
    let (before, written) = (live().await, wrote(&second));
    proxy.restart(None);
    first.signal(Signal::SIGCONT).unwrap();
    // It has lost the lead meanwhile, and ends to begin anew.
    assert_eq!(first.ended(SOON).await.unwrap(), 1);
    let late = proxy.writes();
    println!("after the thaw: {late:?}");
    // What it had in hand when it froze: a status at most, and never the live document.
    assert!(late.len() <= 2, "{late:?}");
    assert!(!late.iter().any(|write| write.path.ends_with("/traces-live")), "{late:?}");
    assert_eq!(live().await, before);
    assert_eq!(wrote(&second), written, "the new leader had to repair something");
    let document: Value =
        serde_json::from_str(before["data"]["live.json"].as_str().unwrap_or_default()).unwrap();
    assert_eq!((&document["rateLimitQPS"], &document["revision"]), (&json!(77), &json!(4)));
    second.log_is_clean(&[]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_stopped_operator_gives_the_lead_back_and_its_successor_changes_nothing() {
    let bed = Bed::start("stop").await;
    bed.create(&pipeline()).await;
    let before = bed.until("deployment/traces-consumer", |deployment| !deployment.is_null()).await;
    let mut first = bed.operator;
    first.signal(Signal::SIGTERM).unwrap();
    assert_eq!(first.ended(SOON).await.unwrap(), 0);
    first.log_is_clean(&[]).unwrap();
    let leases = bed.namespace.get("leases").await.unwrap();
    let leases = leases["items"].as_array().unwrap();
    assert!(leases.len() == 1 && leases[0]["spec"]["holderIdentity"].is_null(), "{leases:#?}");
    let second = Operator::start(bed.cluster, &bed.settings).await.unwrap();
    bed.namespace
        .kubectl(&["patch", "tp/traces", "--type=merge", "-p", r#"{"spec":{"rateLimitQPS":8}}"#])
        .await
        .unwrap();
    let written = |lines: Vec<Value>| lines.iter().any(|line| line["message"] == "wrote the live document");
    eventually("the edit", SOON, async || Ok(written(second.lines()?).then_some(()))).await.unwrap();
    let after = bed.namespace.get("deployment/traces-consumer").await.unwrap();
    assert_eq!(after["metadata"]["generation"], before["metadata"]["generation"]);
    let children = second.lines().unwrap().iter().filter(|line| line["message"] == "wrote a child").count();
    assert_eq!(children, 0);
    second.log_is_clean(&[]).unwrap();
}

mod alone {
    use super::*;

    #[tokio::test]
    #[ignore = "needs a Kubernetes"]
    async fn an_edit_reaches_the_live_document_at_once_and_nothing_else() {
        let bed = Bed::start("edit").await;
        bed.create(&pipeline()).await;
        bed.live_until(|live| live["revision"] == 1).await;
        let before = bed.until("deployment/traces-consumer", |deployment| !deployment.is_null()).await;
        // Watched from before, and patched without the start of a kubectl.
        let proxy = ApiProxy::start(bed.cluster).await.unwrap();
        let namespace = bed.namespace.name();
        let path = format!("/api/v1/namespaces/{namespace}/configmaps");
        let only = "watch=true&fieldSelector=metadata.name%3Dtraces-live";
        let watched = format!("{path}?{only}");
        let mut documents = proxy.watch(&watched).await.unwrap();
        let path = format!("/apis/sluice.dev/v1alpha1/namespaces/{namespace}/tracepipelines/traces");
        let mut delays = Vec::new();
        for edit in 0..20 {
            let rate = 1000 + edit;
            proxy.patch(&path, &json!({ "spec": { "rateLimitQPS": rate } })).await.unwrap();
            let saved = Instant::now();
            loop {
                match documents.next().await {
                    Ok(event) if rate_of(&event) == Some(rate) => break,
                    Ok(_) => {}
                    // The API server ends watches when it likes; a new one begins with what is there.
                    Err(_) => documents = proxy.watch(&watched).await.unwrap(),
                }
            }
            delays.push(saved.elapsed());
        }
        delays.sort_unstable();
        println!(
            "from the saved edit to the live document: median {:?}, slowest {:?}",
            delays[10], delays[19]
        );
        // One may meet a moment in which the machine stood still.
        assert!(delays[18] < Duration::from_secs(1), "{delays:?}");
        assert_eq!(bed.live().await["revision"], 21);
        bed.patch(&json!({ "spec": { "suspend": true } })).await;
        let live = bed.live_until(|live| live["suspend"] == true).await;
        assert_eq!(live["revision"], 22);
        let after = bed.namespace.get("deployment/traces-consumer").await.unwrap();
        assert_eq!(after["metadata"]["generation"], before["metadata"]["generation"]);
        bed.operator.log_is_clean(&[]).unwrap();
    }
}
