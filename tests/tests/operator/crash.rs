//! Killed after each single write, the operator ends with the objects of an undisturbed run, and has created
//! and deleted nothing more. (The idea is Sieve's: Sun et al., OSDI 2022.)

use std::cell::Cell;
use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::cluster::{Namespace, Write, WriteProxy};
use sluice_tests::eventually;
use sluice_tests::operator::{Operator, Settings};

use crate::bed::{SOON, cluster, pipeline, settings};
use crate::snapshot::objects;

/// Creates and deletes by kind of object, and how many writes there were at all.
fn births_and_deaths(writes: &[Write]) -> (BTreeMap<String, usize>, usize) {
    let mut counts = BTreeMap::new();
    for write in writes {
        let born = write.status == 201;
        if born || write.method == "DELETE" {
            let kind =
                write.path.split('/').rev().nth(usize::from(write.method != "POST")).unwrap_or_default();
            *counts.entry(format!("{} {kind}", if born { "created" } else { "deleted" })).or_default() += 1;
        }
    }
    (counts, writes.len())
}

/// How many writes fewer a run may have than the undisturbed one: statuses that came late there.
const LATE_WRITES: usize = 2;
/// Longest run; an undisturbed one takes some 6 s.
const RUN: Duration = Duration::from_secs(120);

struct Run {
    objects: BTreeMap<String, Value>,
    counts: BTreeMap<String, usize>,
    writes: usize,
    /// Whether there were enough writes for the accident.
    killed: bool,
}

/// A pipeline is created, its rate and then its batch are edited; the operator dies after write `kill_after`.
async fn run(kill_after: Option<usize>) -> anyhow::Result<Run> {
    let cluster = cluster().await;
    let namespace = cluster.namespace("crash").await?;
    let proxy = WriteProxy::start(cluster).await?;
    let settings = Settings {
        // The lease of the dead is taken up at once.
        identity: Some("crash".into()),
        kubeconfig: Some(proxy.kubeconfig()),
        ..settings(&namespace)
    };
    proxy.restart(kill_after);
    let mut operator = Operator::spawn(cluster, &settings)?;
    let mut seen = Vec::new();
    let killed = Cell::new(false);
    let steps = async {
        namespace.apply(&pipeline().to_string()).await?;
        settled(&namespace, 5_000, "1000").await?;
        patch(&namespace, &json!({ "rateLimitQPS": 70 })).await?;
        settled(&namespace, 70, "1000").await?;
        patch(&namespace, &json!({ "sink": { "batch": { "maxRows": 7 } } })).await?;
        settled(&namespace, 70, "7").await
    };
    let accident = async {
        if kill_after.is_some() {
            proxy.stopped().await;
            killed.set(true);
            operator.kill().await?;
            operator.log_is_clean(&[])?;
            seen = proxy.writes();
            proxy.restart(None);
            operator = Operator::spawn(cluster, &settings)?;
        }
        anyhow::Ok(())
    };
    {
        let (mut steps, mut accident) = (pin!(steps), pin!(accident));
        tokio::select! {
            done = &mut accident => {
                done?;
                steps.await?;
            }
            done = &mut steps => {
                done?;
                if killed.get() {
                    accident.await?;
                }
            }
        }
    }
    let objects = objects(&namespace).await?;
    seen.extend(proxy.writes());
    operator.log_is_clean(&[])?;
    operator.kill().await?;
    let (counts, writes) = births_and_deaths(&seen);
    Ok(Run { objects, counts, writes, killed: killed.get() })
}

async fn patch(namespace: &Namespace, spec: &Value) -> anyhow::Result<()> {
    let patch = json!({ "spec": spec }).to_string();
    namespace.kubectl(&["patch", "tp/traces", "--type=merge", "-p", &patch]).await.map(drop)
}

/// Waits until live document and Deployment are those of the spec and the status says so.
async fn settled(namespace: &Namespace, rate: u32, max_rows: &str) -> anyhow::Result<()> {
    let waited = eventually("the children of the newest spec", SOON * 2, async || {
        let pipeline = namespace.get("tp/traces").await?;
        if pipeline["status"]["observedGeneration"] != pipeline["metadata"]["generation"] {
            return Ok(None);
        }
        let Ok(live) = namespace.get("configmap/traces-live").await else { return Ok(None) };
        let Ok(deployment) = namespace.get("deployment/traces-consumer").await else { return Ok(None) };
        let volume = deployment["spec"]["template"]["spec"]["volumes"][0]["configMap"]["name"].as_str();
        let Some(volume) = volume else { return Ok(None) };
        let settings = namespace.get(&format!("configmap/{volume}")).await?;
        let text = |map: &Value, key: &str| map["data"][key].as_str().unwrap_or_default().to_owned();
        let good = text(&live, "live.json").contains(&format!("\"rateLimitQPS\":{rate}"))
            && text(&settings, "settings.json").contains(&format!("\"maxRows\":{max_rows}"))
            && pipeline["status"]["replicas"].as_i64() >= Some(2);
        Ok(good.then_some(()))
    });
    let waited = tokio::time::timeout(Duration::from_secs(60), waited).await?;
    namespace.explain(waited).await
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn killed_after_any_write_it_ends_with_the_same_objects() {
    let undisturbed = run(None).await.unwrap();
    assert!(undisturbed.writes > 10, "only {} writes", undisturbed.writes);
    println!("{} writes undisturbed: {:?}", undisturbed.writes, undisturbed.counts);
    let mut problems = Vec::new();
    let mut points = 0;
    for kill_after in 1..undisturbed.writes {
        match tokio::time::timeout(RUN, run(Some(kill_after))).await {
            Ok(Ok(run)) if run.killed => {
                points += 1;
                problems.extend(differences(&run, &undisturbed, kill_after));
            }
            Ok(Ok(run)) if run.writes + LATE_WRITES < undisturbed.writes => {
                problems.push(format!("only {} writes before write {kill_after}", run.writes));
            }
            Ok(Ok(_)) => println!("no write {kill_after} this time"),
            Ok(Err(error)) => problems.push(format!("killed after {kill_after}: {error:#}")),
            Err(_) => problems.push(format!("killed after {kill_after}: it hangs")),
        }
    }
    println!("killed at {points} points");
    assert!(problems.is_empty(), "{}", problems.join("\n"));
    // After the last write there is nothing to kill it before.
    assert!(points + LATE_WRITES + 1 >= undisturbed.writes, "killed at {points} points only");
}

fn differences(run: &Run, undisturbed: &Run, kill_after: usize) -> Vec<String> {
    let mut problems = Vec::new();
    if run.objects != undisturbed.objects {
        let differs =
            run.objects.iter().filter(|(name, object)| undisturbed.objects.get(*name) != Some(object));
        let differs: Vec<_> = differs.map(|(name, _)| name.clone()).collect();
        let missing: Vec<_> =
            undisturbed.objects.keys().filter(|name| !run.objects.contains_key(*name)).collect();
        problems.push(format!("killed after {kill_after}: differs in {differs:?}, lacks {missing:?}"));
    }
    if run.counts != undisturbed.counts {
        problems.push(format!("killed after {kill_after}: {:?}", run.counts));
    }
    problems
}
