//! Live edits: how fast they are, and that no accident undoes one.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_tests::operator::Operator;

use crate::bed::{Bed, pipeline};

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn an_edit_reaches_the_live_document_at_once_and_nothing_else() {
    let bed = Bed::start("edit").await;
    bed.create(&pipeline()).await;
    bed.live_until(|live| live["revision"] == 1).await;
    let before = bed.until("deployment/traces-consumer", |deployment| !deployment.is_null()).await;
    let mut slowest = Duration::ZERO;
    for edit in 0..20 {
        let rate = 1000 + edit;
        let patched = Instant::now();
        bed.patch(&json!({ "spec": { "rateLimitQPS": rate } })).await;
        bed.live_until(|live| live["rateLimitQPS"] == rate).await;
        slowest = slowest.max(patched.elapsed());
    }
    // kubectl itself, twice, is part of it.
    assert!(slowest < Duration::from_secs(1), "{slowest:?}");
    assert_eq!(bed.live().await["revision"], 21);
    bed.patch(&json!({ "spec": { "suspend": true } })).await;
    let live = bed.live_until(|live| live["suspend"] == true).await;
    assert_eq!(live["revision"], 22);
    let after = bed.namespace.get("deployment/traces-consumer").await.unwrap();
    assert_eq!(after["metadata"]["generation"], before["metadata"]["generation"]);
    bed.operator.log_is_clean(&[]).unwrap();
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
async fn a_leader_that_thaws_undoes_nothing() {
    let bed = Bed::start("thaw").await;
    bed.create(&pipeline()).await;
    bed.live_until(|live| live["revision"] == 1).await;
    bed.operator.signal(Signal::SIGSTOP).unwrap();
    let second = Operator::start(bed.cluster, &bed.settings).await.unwrap();
    bed.patch(&json!({ "spec": { "rateLimitQPS": 77 } })).await;
    bed.live_until(|live| live["rateLimitQPS"] == 77).await;
    let mut first = bed.operator;
    first.signal(Signal::SIGCONT).unwrap();
    // It has lost the lead meanwhile, and ends to begin anew.
    assert_eq!(first.ended(Duration::from_secs(40)).await.unwrap(), 1);
    let map = bed.namespace.get("configmap/traces-live").await.unwrap();
    let live: Value = serde_json::from_str(map["data"]["live.json"].as_str().unwrap()).unwrap();
    assert_eq!((&live["rateLimitQPS"], &live["revision"]), (&json!(77), &json!(2)));
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
    assert_eq!(first.ended(Duration::from_secs(15)).await.unwrap(), 0);
    first.log_is_clean(&[]).unwrap();
    let began = Instant::now();
    let second = Operator::start(bed.cluster, &bed.settings).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(10), "waited for a lease that was given back");
    bed.namespace
        .kubectl(&["patch", "tp/traces", "--type=merge", "-p", r#"{"spec":{"rateLimitQPS":8}}"#])
        .await
        .unwrap();
    let written = |lines: Vec<Value>| lines.iter().any(|line| line["message"] == "wrote the live document");
    sluice_tests::eventually("the edit", crate::bed::SOON, async || {
        Ok(written(second.lines()?).then_some(()))
    })
    .await
    .unwrap();
    let after = bed.namespace.get("deployment/traces-consumer").await.unwrap();
    assert_eq!(after["metadata"]["generation"], before["metadata"]["generation"]);
    let children = second.lines().unwrap().iter().filter(|line| line["message"] == "wrote a child").count();
    assert_eq!(children, 0);
    second.log_is_clean(&[]).unwrap();
}
