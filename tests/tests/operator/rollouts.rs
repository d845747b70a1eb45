//! Rollouts, with pods that the test says are ready, as a kubelet would: settings that old pods may need stay, and an
//! upgrade of the operator rolls pipelines in turn.

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use sluice_tests::eventually;
use sluice_tests::operator::Operator;
use sluice_tests::responder::Responder;

use crate::bed::{Bed, SOON, condition, pipeline};
use crate::kubelet::{Kubelet, is_settled};

/// One of this machine's own; those of other tests are others.
const ADDRESS: IpAddr = IpAddr::V4(Ipv4Addr::new(127, 64, 2, 1));
/// The label of pods and settings that belong together.
const SETTINGS: &str = "sluice.dev/settings";
/// Several rollouts in a row.
const ROLLED: Duration = Duration::from_secs(180);

/// Names of settings: of the ConfigMaps that there are, or of those that ReplicaSets name.
async fn settings_of(bed: &Bed, kind: &str) -> anyhow::Result<BTreeSet<String>> {
    let all = bed.list(kind).await?;
    let names = all.iter().filter_map(|one| {
        let labels =
            if kind == "configmaps" { &one["metadata"] } else { &one["spec"]["template"]["metadata"] };
        labels["labels"][SETTINGS].as_str().map(str::to_owned)
    });
    Ok(names.collect())
}

fn image(deployment: &Value) -> &str {
    deployment["spec"]["template"]["spec"]["containers"][0]["image"].as_str().unwrap_or_default()
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn settings_stay_for_as_long_as_pods_may_start_with_them() {
    let bed = Bed::start("settings").await;
    let kubelet = Kubelet::new(&bed, HashMap::new()).await;
    bed.create(&pipeline()).await;
    let runs = eventually("the first pods", SOON, async || {
        kubelet.run_pods(None).await?;
        let deployment = bed.namespace.get("deployment/traces-consumer").await.unwrap_or_default();
        Ok(is_settled(&deployment).then_some(()))
    });
    runs.await.unwrap();
    let first = settings_of(&bed, "configmaps").await.unwrap();
    assert_eq!(first.len(), 1, "{first:?}");

    // A rollout whose pods never become ready: the old ones stay, and one of them may start again at any time.
    bed.patch(&json!({ "spec": { "sink": { "batch": { "maxRows": 1 } } } })).await;
    let both = eventually("the ReplicaSet of the second", SOON, async || {
        let sets = settings_of(&bed, "replicasets").await?;
        Ok((sets.len() == 2).then_some(sets))
    });
    let both = both.await.unwrap();
    // One more look at everything, after the rollout has begun.
    bed.patch(&json!({ "spec": { "rateLimitQPS": 7 } })).await;
    let seen = |pipeline: &Value| {
        pipeline["status"]["observedGeneration"] == pipeline["metadata"]["generation"]
            && pipeline["status"]["rate"]["revision"] == 2
    };
    bed.until("tp/traces", seen).await;
    assert_eq!(settings_of(&bed, "configmaps").await.unwrap(), both);

    // Rolled on and on: the oldest ReplicaSets go, and their settings with them.
    for rows in 2..5 {
        bed.patch(&json!({ "spec": { "sink": { "batch": { "maxRows": rows } } } })).await;
        bed.until("tp/traces", seen).await;
        let rolled = eventually("the rollout", SOON, async || {
            kubelet.run_pods(None).await?;
            let deployment = bed.namespace.get("deployment/traces-consumer").await?;
            Ok(is_settled(&deployment).then_some(()))
        });
        rolled.await.unwrap();
    }
    let left = eventually("old settings to go", SOON, async || {
        let (sets, maps) = (settings_of(&bed, "replicasets").await?, settings_of(&bed, "configmaps").await?);
        // The newest, and two to go back to.
        Ok((sets.len() == 3 && sets == maps).then_some(maps))
    });
    assert!(left.await.unwrap().is_disjoint(&first));
    bed.operator.log_is_clean(&[]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn an_upgrade_rolls_pipelines_in_turn_and_no_more_after_one_that_fails() {
    const NAMES: [&str; 3] = ["first", "second", "third"];
    let mut bed = Bed::start("upgrade").await;
    for name in NAMES {
        let mut pipeline = pipeline();
        pipeline["metadata"]["name"] = name.into();
        pipeline["spec"]["source"]["kafka"]["topic"] = name.into();
        bed.create(&pipeline).await;
    }
    bed.settings.arguments.push("--max-concurrent-rollouts=1".into());
    let deployments = async || bed.list("deployments").await.unwrap_or_default();
    let kubelet = Kubelet::new(&bed, HashMap::new()).await;
    let all_run = async |image_of_all: &str| {
        let mut most = 0;
        let waited = eventually("all to run", ROLLED, async || {
            let all = deployments().await;
            most = most.max(all.iter().filter(|one| image(one) == image_of_all && !is_settled(one)).count());
            let done = all.len() == NAMES.len()
                && all.iter().all(|one| image(one) == image_of_all && is_settled(one));
            kubelet.run_pods(None).await?;
            Ok(done.then_some(()))
        });
        bed.namespace.explain(waited.await).await.unwrap();
        most
    };
    all_run(&bed.settings.image).await;

    let mut operator = upgraded(&bed, None, "sluice.dev/sluice:second").await;
    assert_eq!(all_run("sluice.dev/sluice:second").await, 1, "more than one at a time");

    let third = "sluice.dev/sluice:third";
    operator = upgraded(&bed, Some(operator), third).await;
    let begun = eventually("a rollout that fails", SOON, async || {
        kubelet.run_pods(Some(third)).await?;
        Ok(deployments().await.into_iter().find(|one| image(one) == third))
    });
    let rolling = begun.await.unwrap()["metadata"]["name"].as_str().unwrap().to_owned();
    counted(&bed, &rolling).await;
    // It runs: one that finds no room says nothing of the upgrade.
    kubelet.run_pods(Some(third)).await.unwrap();
    let others: Vec<_> = NAMES.into_iter().filter(|name| rolling != format!("{name}-consumer")).collect();
    for name in &others {
        let waits = |pipeline: &Value| condition(pipeline, "Progressing").1 == "WaitingForTurn";
        bed.until(&format!("tp/{name}"), waits).await;
    }
    stall(&bed, &rolling).await;
    let because = format!("{}/{}", bed.namespace.name(), rolling.trim_end_matches("-consumer"));
    for name in &others {
        let halted = |pipeline: &Value| condition(pipeline, "Progressing").1 == "UpgradeHalted";
        let pipeline = bed.until(&format!("tp/{name}"), halted).await;
        assert!(pipeline["status"].to_string().contains(&because), "it names {because}: {pipeline:#}");
    }
    let rolled = deployments().await.iter().filter(|one| image(one) == third).count();
    assert_eq!(rolled, 1, "others have rolled after the one that fails");
    operator.log_is_clean(&[]).unwrap();
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn an_upgrade_goes_on_beside_a_pipeline_whose_database_is_away() {
    const SECOND: &str = "sluice.dev/sluice:second";
    let mut bed = Bed::start("upgrade-trouble").await;
    bed.settings.arguments.push("--max-concurrent-rollouts=1".into());
    let troubled = json!({
        "revision": 1, "rateLimitQPS": 5_000, "partitions": [],
        "lastError": "the database is away", "lastErrorReason": "StoreUnavailable",
    });
    let _responder = Responder::start(ADDRESS, move |_| troubled.clone()).await.unwrap();
    let kubelet = Kubelet::new(&bed, HashMap::from([("traces".to_owned(), ADDRESS)])).await;
    bed.create(&pipeline()).await;
    let mut other = pipeline();
    other["metadata"]["name"] = "other".into();
    other["spec"]["source"]["kafka"]["topic"] = "other".into();
    bed.create(&other).await;
    for name in ["traces", "other"] {
        let settled = eventually("the consumers", SOON, async || {
            kubelet.run_pods(None).await?;
            let deployment = bed.namespace.get(&format!("deployment/{name}-consumer")).await;
            Ok(is_settled(&deployment.unwrap_or_default()).then_some(()))
        });
        bed.namespace.explain(settled.await).await.unwrap();
    }
    bed.until("tp/traces", |pipeline| condition(pipeline, "Degraded").1 == "StoreUnavailable").await;

    // Its new pod never becomes ready, as one that waits for its database does not.
    let operator = upgraded(&bed, None, SECOND).await;
    let run_other = async || {
        for pod in bed.list("pods").await? {
            if pod["metadata"]["labels"]["sluice.dev/pipeline"] == "other" {
                kubelet.run(&pod).await;
            }
        }
        anyhow::Ok(())
    };
    let rolls = eventually("the one in trouble to roll", ROLLED, async || {
        run_other().await?;
        let deployment = bed.namespace.get("deployment/traces-consumer").await?;
        Ok((image(&deployment) == SECOND).then_some(deployment))
    });
    let rolling = bed.namespace.explain(rolls.await).await.unwrap();
    let mark = &rolling["metadata"]["annotations"]["sluice.dev/upgrade"];
    assert!(mark.is_null(), "it proves nothing about the upgrade: {mark}");
    stall(&bed, "traces-consumer").await;
    let rolled = eventually("the other one to roll", ROLLED, async || {
        run_other().await?;
        let other = bed.namespace.get("deployment/other-consumer").await?;
        Ok((image(&other) == SECOND && is_settled(&other)).then_some(()))
    });
    bed.namespace.explain(rolled.await).await.unwrap();
    operator.log_is_clean(&[]).unwrap();
}

/// Says what the Deployment's controller says after five minutes without progress.
async fn stall(bed: &Bed, deployment: &str) {
    // Otherwise that controller takes the count for progress, and the condition back.
    counted(bed, deployment).await;
    let stalled = json!({ "type": "Progressing", "status": "False", "reason": "ProgressDeadlineExceeded" });
    let stalled = json!({ "status": { "conditions": [stalled] } }).to_string();
    let patch = ["patch", "deployment", deployment, "--subresource=status", "--type=merge", "-p", &stalled];
    bed.namespace.kubectl(&patch).await.unwrap();
}

/// Waits until the Deployment's controller has counted the new pod.
async fn counted(bed: &Bed, deployment: &str) {
    bed.until(&format!("deployment/{deployment}"), |it| it["status"]["updatedReplicas"] == 1).await;
}

/// Stops the operator that runs, and starts one with another image for consumers.
async fn upgraded(bed: &Bed, running: Option<Operator>, image: &str) -> Operator {
    let running = running.as_ref().unwrap_or(&bed.operator);
    running.signal(Signal::SIGTERM).unwrap();
    let settings = sluice_tests::operator::Settings { image: image.into(), ..bed.settings.clone() };
    // It waits until the other one has given the lead back.
    Operator::start(bed.cluster, &settings).await.unwrap()
}
