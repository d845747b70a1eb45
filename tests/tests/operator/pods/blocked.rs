//! Guarantee 3 without its quick way: consumers that are cut off from the API server read the mounted directory.

use std::time::Duration;

use serde_json::Value;
use sluice_tests::cluster::ApiProxy;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::{eventually, now_ms};

use super::world::{START, World, statuses};

/// The kubelet looks after a pod's volumes every `syncFrequency` (10 s here), give or take a half; then the
/// consumer looks at the directory ten times a second. The rest is for a machine that does other things, too.
const KUBELETS_SYNC: Duration = Duration::from_secs(60);
/// A dead connection is noticed after 35 s of silence; a new one is tried every 5 s.
const RECONNECT: Duration = Duration::from_secs(60);
const MESSAGES: u64 = 200;

/// Waits until every consumer applies a rate that it has from `source`.
async fn until(
    world: &World,
    pods: &[String],
    rate: u32,
    source: &str,
    within: Duration,
) -> anyhow::Result<()> {
    let mut last = Vec::new();
    let what = format!("{rate} from {source}");
    let waited = eventually(&what, within, async || {
        last = statuses(pods).await?;
        let good = |status: &Value| status["rateLimitQPS"] == rate && status["liveSource"] == source;
        Ok(last.iter().all(good).then_some(()))
    });
    let waited = waited.await;
    world.namespace.explain(waited.map_err(|error| error.context(format!("last: {last:?}")))).await
}

async fn edits_without_the_api() -> anyhow::Result<()> {
    let world = World::start("blocked").await;
    let ledger = Ledger::new(94, Shape::Json);
    ledger.produce(world.kafka, &world.topic, 0..MESSAGES, |message| (message % 6) as i32).await?;
    world.apply(&world.pipeline(10)).await;
    world.wait_ready().await;
    let pods = world.pod_addresses().await;
    assert_eq!(pods.len(), 2);
    until(&world, &pods, 10, "api", START).await?;

    let proxy = ApiProxy::start(world.cluster).await?;
    let cut = world.cluster.cut_off_from_api(&pods)?;
    let sent = world.send_rate(&proxy, 20).await;
    until(&world, &pods, 20, "directory", KUBELETS_SYNC).await?;
    println!("by the directory: {} ms after the edit", now_ms() - sent.at);
    // Nobody was in need of the way that is cut: the operator asks the pods.
    world.confirmed(20).await?;

    drop(cut);
    let mended = now_ms();
    until(&world, &pods, 20, "api", RECONNECT).await?;
    println!("back at the API server {} ms after the way was mended", now_ms() - mended);
    let sent = world.send_rate(&proxy, 30).await;
    until(&world, &pods, 30, "api", Duration::from_secs(10)).await?;
    println!("by the API server: {} ms after the edit", now_ms() - sent.at);
    assert_eq!(world.restarts().await, 0);
    world.drain_and_audit(&ledger, MESSAGES).await?;
    world.operator.log_is_clean(&[])
}

mod apart {
    #[tokio::test]
    #[ignore = "needs a Kubernetes"]
    async fn consumers_cut_off_from_the_api_server_take_an_edit_from_the_mounted_directory() {
        super::edits_without_the_api().await.unwrap();
    }
}
