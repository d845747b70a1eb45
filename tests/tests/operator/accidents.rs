//! The API server freezes, then answers nothing any more, during edits and deletes: the end is the same.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_tests::cluster::{Cluster, Namespace, StopAfter, WriteProxy};
use sluice_tests::eventually;
use sluice_tests::operator::{CRD, Operator, Settings};

use crate::bed::{SOON, patch, pipeline, settings};
use crate::snapshot::objects;

/// Longer than the operator's connections need to be in the middle of something, shorter than its lease.
const FREEZE: Duration = Duration::from_secs(3);
/// An operator acts for twelve seconds after its last renewal; the rest is for the end of the process.
const STOPS_ACTING: Duration = Duration::from_secs(15);
/// What the operator and its client say of an API server that does not answer.
const AWAY: [&str; 4] = ["kube_client", "a watch broke", "the lead was", "cannot reconcile"];

fn called(name: &str, group: &str) -> String {
    let mut pipeline = pipeline();
    pipeline["metadata"]["name"] = name.into();
    pipeline["spec"]["source"]["kafka"]["consumerGroup"] = group.into();
    pipeline.to_string()
}

/// Waits until the status is about the newest spec, the live document has the rate, and consumers are made.
async fn settled(namespace: &Namespace, rate: u32) -> anyhow::Result<()> {
    let waited = eventually("the newest spec to be in effect", SOON * 2, async || {
        let pipeline = namespace.get("tp/traces").await?;
        let Ok(live) = namespace.get("configmap/traces-live").await else { return Ok(None) };
        let live = live["data"]["live.json"].as_str().unwrap_or_default();
        let good = pipeline["status"]["observedGeneration"] == pipeline["metadata"]["generation"]
            && pipeline["status"]["replicas"] == 2
            && live.contains(&format!("\"rateLimitQPS\":{rate},"));
        Ok(good.then_some(()))
    });
    namespace.explain(waited.await).await
}

/// Waits until nothing of a deleted pipeline is left.
async fn gone(namespace: &Namespace, name: &str) -> anyhow::Result<()> {
    let selector = format!("--selector=sluice.dev/pipeline={name}");
    let kinds = "configmaps,deployments,services,serviceaccounts,roles,rolebindings,networkpolicies";
    let what = format!("{name} to be gone");
    let waited = eventually(&what, SOON * 3, async || {
        Ok(namespace.kubectl(&["get", kinds, &selector, "--output=name"]).await?.is_empty().then_some(()))
    });
    namespace.explain(waited.await).await
}

/// The pipeline that stays, and one that each of the two accidents deletes.
async fn begin(namespace: &Namespace) -> anyhow::Result<()> {
    namespace.apply(&called("traces", "sluice")).await?;
    for name in ["first", "second"] {
        namespace.apply(&called(name, name)).await?;
    }
    settled(namespace, 5_000).await
}

async fn undisturbed(cluster: &Cluster) -> anyhow::Result<std::collections::BTreeMap<String, Value>> {
    let namespace = cluster.namespace("calm").await?;
    let operator = Operator::start(cluster, &settings(&namespace)).await?;
    begin(&namespace).await?;
    for rate in [21, 22] {
        patch(&namespace, &json!({ "spec": { "rateLimitQPS": rate } })).await?;
        settled(&namespace, rate).await?;
    }
    operator.log_is_clean(&[])?;
    objects(&namespace).await
}

async fn freeze_and_cut() -> anyhow::Result<()> {
    let mut cluster = Cluster::start().await?;
    cluster.apply_crds(CRD).await?;
    let expected = undisturbed(&cluster).await?;

    let namespace = cluster.namespace("storm").await?;
    let proxy = WriteProxy::start(&cluster).await?;
    let settings = Settings {
        identity: Some("storm".into()),
        kubeconfig: Some(proxy.kubeconfig()),
        ..settings(&namespace)
    };
    let mut operator = Operator::start(&cluster, &settings).await?;
    begin(&namespace).await?;

    // Both are on their way while nothing answers.
    cluster.freeze_api_server()?;
    let frozen = async {
        tokio::time::sleep(FREEZE).await;
        cluster.thaw_api_server()
    };
    let faster = json!({ "spec": { "rateLimitQPS": 21 } });
    let edit = patch(&namespace, &faster);
    let delete = namespace.kubectl(&["delete", "tp/first", "--wait=false"]);
    tokio::try_join!(frozen, edit, delete)?;
    settled(&namespace, 21).await?;
    gone(&namespace, "first").await?;
    operator.log_is_clean(&[])?;

    // Connections stay open and no question is answered: it stops acting before another one may follow.
    proxy.restart(Some(StopAfter::Objects(0)));
    let cut = Instant::now();
    patch(&namespace, &json!({ "spec": { "rateLimitQPS": 22 } })).await?;
    namespace.kubectl(&["delete", "tp/second", "--wait=false"]).await?;
    anyhow::ensure!(
        operator.ended(STOPS_ACTING).await? == 1,
        "it should have ended for another one to begin"
    );
    println!("ended {:?} after the cut", cut.elapsed());
    operator.log_is_clean(&AWAY)?;
    proxy.restart(None);
    operator = Operator::start(&cluster, &settings).await?;
    settled(&namespace, 22).await?;
    gone(&namespace, "second").await?;
    let found = objects(&namespace).await?;
    for (name, object) in &expected {
        anyhow::ensure!(
            found.get(name) == Some(object),
            "{name}: {:?}, undisturbed {object}",
            found.get(name)
        );
    }
    anyhow::ensure!(found.len() == expected.len(), "{:?}", found.keys());
    operator.log_is_clean(&[])
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_frozen_api_server_and_one_that_is_cut_off_lose_no_edit_and_no_delete() {
    freeze_and_cut().await.unwrap();
}
