//! What people type: scaling, waiting, and the tables and texts of kubectl.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_tests::component::Scratch;
use sluice_tests::eventually;
use sluice_tests::helm::Helm;
use sluice_tests::operator::Operator;
use sluice_tests::responder::Responder;

use crate::bed::{Bed, SOON, condition, pipeline};
use crate::kubelet::{Kubelet, is_settled};

/// One of this machine's own; those of other tests are others.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 64, 1, 1));

/// Likewise.
const ANOTHER: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 64, 1, 2));

/// The consumers of `traces`, as the test runs them.
async fn kubelet(bed: &Bed, address: IpAddr) -> Kubelet<'_> {
    Kubelet::new(bed, HashMap::from([("traces".to_owned(), address)])).await
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn kubectl_scales_a_pipeline_and_tells_of_it_in_a_table() {
    let bed = Bed::start("scale").await;
    let kubelet = kubelet(&bed, ADDRESS).await;
    let answer = json!({
        "revision": 1, "rateLimitQPS": 5_000, "effectiveQPS": 1_250.0, "achievedQPS": 1_250.0,
        "bottleneck": "Limiter", "drainSeconds": 9,
        "partitions": [{ "topic": "spans", "partition": 0, "position": 1, "lag": 700 }],
    });
    let _responder = Responder::start(ADDRESS, move |_| answer.clone()).await.unwrap();
    bed.create(&pipeline()).await;
    let runs = async |replicas: u64| {
        let settled = eventually("the consumers", SOON, async || {
            kubelet.run_pods(None).await?;
            let deployment = bed.namespace.get("deployment/traces-consumer").await.unwrap_or_default();
            Ok((is_settled(&deployment) && deployment["spec"]["replicas"] == replicas).then_some(deployment))
        });
        bed.namespace.explain(settled.await).await.unwrap()
    };
    let before = runs(2).await;
    bed.namespace.kubectl(&["scale", "tp/traces", "--replicas=4"]).await.unwrap();
    let after = runs(4).await;
    assert_eq!(before["spec"]["template"], after["spec"]["template"], "a number rolls no pods");

    // What an autoscaler of Kubernetes reads: how many there are, and which pods they are.
    bed.until("tp/traces", |pipeline| pipeline["status"]["replicas"] == 4).await;
    let path =
        format!("/apis/sluice.dev/v1alpha1/namespaces/{}/tracepipelines/traces/scale", bed.namespace.name());
    let scale: Value =
        serde_json::from_str(&bed.namespace.kubectl(&["get", "--raw", &path]).await.unwrap()).unwrap();
    assert_eq!((&scale["spec"]["replicas"], &scale["status"]["replicas"]), (&json!(4), &json!(4)));
    let selector = scale["status"]["selector"].as_str().unwrap();
    let pods =
        bed.namespace.kubectl(&["get", "pods", "--selector", selector, "--output=name"]).await.unwrap();
    assert_eq!(pods.lines().count(), 4, "{selector}: {pods}");

    bed.namespace.kubectl(&["wait", "--for=condition=Ready", "tp/traces", "--timeout=60s"]).await.unwrap();
    let confirmed = |pipeline: &Value| {
        condition(pipeline, "RateConfirmed").0 == "True" && !pipeline["status"]["lag"].is_null()
    };
    bed.until("tp/traces", confirmed).await;
    let table = bed.namespace.kubectl(&["get", "tp"]).await.unwrap();
    let rows: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(
        rows[0],
        ["NAME", "READY", "TOPIC", "QPS", "APPLIED", "REPLICAS", "LAG", "DRAIN", "AGE"],
        "{table}"
    );
    assert_eq!(rows[1][..6], ["traces", "True", "spans", "5000", "5000", "4"], "{table}");
    assert_eq!(rows[1].len(), 9, "every column has a value: {table}");
    let wide = bed.namespace.kubectl(&["get", "tp", "--output=wide"]).await.unwrap();
    assert!(wide.contains("DESIRED"), "{wide}");
    let explained = bed.namespace.kubectl(&["explain", "tp.spec.rateLimitQPS"]).await.unwrap();
    assert!(explained.contains("<integer>") && explained.contains("per second"), "{explained}");
    bed.operator.log_is_clean(&[]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn kubectl_describes_each_rate_that_was_confirmed_and_a_restart_of_the_operator_says_nothing_new() {
    let bed = Bed::start("confirmed").await;
    let kubelet = kubelet(&bed, ANOTHER).await;
    let applied = Arc::new(Mutex::new((1, 5_000)));
    let told = applied.clone();
    let answer = move |_| {
        let (revision, rate) = *told.lock().unwrap();
        json!({ "revision": revision, "rateLimitQPS": rate, "bottleneck": "Idle", "partitions": [] })
    };
    let _responder = Responder::start(ANOTHER, answer).await.unwrap();
    bed.create(&pipeline()).await;
    for (revision, rate) in [(1, 5_000), (2, 6_000), (3, 7_000)] {
        bed.patch(&json!({ "spec": { "rateLimitQPS": rate } })).await;
        bed.live_until(|live| live["revision"] == revision).await;
        *applied.lock().unwrap() = (revision, rate);
        let confirmed = eventually("the rate to be confirmed", SOON, async || {
            kubelet.run_pods(None).await?;
            let pipeline = bed.namespace.get("tp/traces").await?;
            Ok((pipeline["status"]["rate"]["applied"] == rate).then_some(()))
        });
        bed.namespace.explain(confirmed.await).await.unwrap();
    }
    let confirmed = async || {
        let described = bed.namespace.kubectl(&["describe", "tp/traces"]).await.unwrap();
        described.lines().filter(|line| line.contains("Confirmed ")).map(str::to_owned).collect::<Vec<_>>()
    };
    let rates = ["5000", "6000", "7000"];
    let all = eventually("an event for each rate", SOON, async || {
        let events = confirmed().await;
        Ok(rates.iter().all(|rate| events.iter().any(|event| event.contains(rate))).then_some(events.len()))
    });
    let all = bed.namespace.explain(all.await).await.unwrap();

    let before = bed.namespace.get("tp/traces").await.unwrap();
    bed.operator.signal(Signal::SIGTERM).unwrap();
    let operator = Operator::start(bed.cluster, &bed.settings).await.unwrap();
    bed.patch(&json!({ "spec": { "rateLimitQPS": 8_000 } })).await;
    bed.live_until(|live| live["revision"] == 4).await;
    *applied.lock().unwrap() = (4, 8_000);
    bed.until("tp/traces", |pipeline| pipeline["status"]["rate"]["applied"] == 8_000).await;
    let ready = |pipeline: &Value| condition(pipeline, "Ready");
    let after = bed.namespace.get("tp/traces").await.unwrap();
    assert_eq!(ready(&after), ready(&before));
    // It is told right after the status; what a restart said anew would have come before.
    let told = eventually("the event", SOON, async || Ok((confirmed().await.len() > all).then_some(())));
    told.await.unwrap();
    assert_eq!(confirmed().await.len(), all + 1, "{:#?}", confirmed().await);
    bed.operator.log_is_clean(&[]).unwrap();
    operator.log_is_clean(&[]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn pods_that_a_quota_refuses_are_told_of_in_the_api_servers_words() {
    let bed = Bed::start("quota").await;
    let quota = json!({
        "apiVersion": "v1", "kind": "ResourceQuota", "metadata": { "name": "limits" },
        "spec": { "hard": { "limits.cpu": "4" } },
    });
    bed.namespace.apply(&quota.to_string()).await.unwrap();
    bed.create(&pipeline()).await;
    let refused = |pipeline: &Value| condition(pipeline, "Degraded") == ("True".into(), "PodsRefused".into());
    let pipeline = bed.until("tp/traces", refused).await;
    assert!(pipeline["status"].to_string().contains("limits.cpu"), "{}", pipeline["status"]);
    bed.namespace.kubectl(&["delete", "resourcequota/limits"]).await.unwrap();
    let runs = bed.until("tp/traces", |pipeline| condition(pipeline, "Degraded").0 == "False").await;
    assert_eq!(condition(&runs, "Ready").1, "ConsumersNotReady", "they wait for a node");
    bed.operator.log_is_clean(&[]).unwrap();
}

/// A chart with one pipeline in it.
fn chart(folder: &Path, pipeline: &Value) {
    std::fs::create_dir_all(folder.join("templates")).unwrap();
    std::fs::write(folder.join("Chart.yaml"), "apiVersion: v2\nname: shop\nversion: 1.0.0\n").unwrap();
    std::fs::write(folder.join("templates/traces.yaml"), pipeline.to_string()).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn helm_waits_for_a_pipeline_in_a_chart_until_its_consumers_run() {
    let bed = Bed::start("helmwait").await;
    let kubelet = Kubelet::new(&bed, HashMap::new()).await;
    let helm = Helm::on(4, bed.cluster).unwrap();
    let dir = Scratch::new("sluice-chart-").unwrap();
    chart(dir.path(), &pipeline());
    let folder = dir.path().display().to_string();
    let arguments =
        ["install", "shop", &folder, "--namespace", bed.namespace.name(), "--wait", "--timeout=240s"];
    let install = helm.run(&arguments);
    tokio::pin!(install);
    // Its Deployment is there, and no pod is ready yet.
    let begun = async {
        bed.until("deployment/traces-consumer", |deployment| {
            deployment["status"]["unavailableReplicas"] == 2
        })
        .await;
        let pipeline = bed.namespace.get("tp/traces").await.unwrap();
        assert_ne!(condition(&pipeline, "Ready").0, "True");
    };
    tokio::select! {
        early = &mut install => panic!("helm did not wait: {early:?}"),
        () = begun => {}
    }
    // Its pods are there one after the other.
    let run = eventually("helm to have waited", SOON * 4, async || {
        kubelet.run_pods(None).await?;
        Ok(None::<()>)
    });
    tokio::select! {
        installed = &mut install => drop(installed.unwrap()),
        never = run => never.unwrap(),
    }
    let pipeline = bed.namespace.get("tp/traces").await.unwrap();
    assert_eq!(condition(&pipeline, "Ready").0, "True");
    bed.operator.log_is_clean(&[]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn helm_does_not_wait_for_a_pipeline_that_is_refused() {
    let bed = Bed::start("helmfail").await;
    bed.create(&pipeline()).await;
    // Two of one second have no order before one of them is built.
    bed.until("deployment/traces-consumer", |deployment| !deployment.is_null()).await;
    let mut rival = pipeline();
    rival["metadata"]["name"] = "rival".into();
    let dir = Scratch::new("sluice-chart-").unwrap();
    chart(dir.path(), &rival);
    let folder = dir.path().display().to_string();
    let helm = Helm::on(4, bed.cluster).unwrap();
    let arguments =
        ["install", "shop", &folder, "--namespace", bed.namespace.name(), "--wait", "--timeout=240s"];
    let began = std::time::Instant::now();
    let error = helm.run(&arguments).await.expect_err("the pipeline reads what another one reads");
    assert!(began.elapsed() < Duration::from_secs(60), "it was waited for: {error:#}");
    bed.operator.log_is_clean(&[]).unwrap();
}
