//! Killed after each single write, the operator ends with the objects of an undisturbed run, and has created
//! and deleted nothing more. (The idea is Sieve's: Sun et al., OSDI 2022.)

use std::cell::Cell;
use std::collections::BTreeMap;
use std::pin::pin;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::cluster::{Namespace, StopAfter, Write, WriteProxy};
use sluice_tests::eventually;
use sluice_tests::operator::{Operator, Settings};

use crate::bed::{SOON, cluster, patch, pipeline, settings};
use crate::snapshot::objects;

/// Creates and deletes by kind of object.
fn births_and_deaths(writes: &[Write]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for write in writes {
        let born = write.status == 201;
        if born || write.method == "DELETE" {
            let kind =
                write.path.split('/').rev().nth(usize::from(write.method != "POST")).unwrap_or_default();
            *counts.entry(format!("{} {kind}", if born { "created" } else { "deleted" })).or_default() += 1;
        }
    }
    counts
}

/// Writes of objects that are there already: the live document for one edit, the Deployment for the other.
const EDITED: usize = 2;
/// Every generation is told: the first one, and that of each edit.
const TOLD: usize = 3;
/// Longest run; an undisturbed one takes some 6 s.
const RUN: Duration = Duration::from_secs(400);

struct Run {
    objects: BTreeMap<String, Value>,
    counts: BTreeMap<String, usize>,
    /// Writes of objects, and of statuses.
    writes: (usize, usize),
    /// Whether there were enough writes for the accident.
    killed: bool,
}

/// A pipeline is created, its rate and then its batch are edited; the operator dies at `kill_after`.
async fn run(kill_after: Option<StopAfter>) -> anyhow::Result<Run> {
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
        patch(&namespace, &json!({ "spec": { "rateLimitQPS": 70 } })).await?;
        settled(&namespace, 70, "1000").await?;
        patch(&namespace, &json!({ "spec": { "sink": { "batch": { "maxRows": 7 } } } })).await?;
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
    let statuses = seen.iter().filter(|write| write.is_status()).count();
    let writes = (seen.len() - statuses, statuses);
    Ok(Run { objects, counts: births_and_deaths(&seen), writes, killed: killed.get() })
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
    namespace.explain(waited.await).await
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn killed_after_any_write_it_ends_with_the_same_objects() {
    let undisturbed = run(None).await.unwrap();
    let (objects, statuses) = undisturbed.writes;
    println!("undisturbed: {objects} writes of objects, {statuses} of statuses: {:?}", undisturbed.counts);
    // More are a matter of time: what the watch shows late is applied again, and several changes are told at once.
    let least = undisturbed.counts.values().sum::<usize>() + EDITED;
    assert!(least > 10 && objects >= least && statuses >= TOLD, "{:?}", undisturbed.writes);
    let moments = (1..=objects).map(StopAfter::Objects).chain((1..=statuses).map(StopAfter::Statuses));
    let mut problems = Vec::new();
    for moment in moments {
        match tokio::time::timeout(RUN, run(Some(moment))).await {
            Ok(Ok(run)) if run.killed => problems.extend(differences(&run, &undisturbed, moment)),
            Ok(Ok(run)) => match moment {
                StopAfter::Objects(nth) if nth > least => println!("{moment:?}: not so many this time"),
                StopAfter::Statuses(nth) if nth > TOLD => println!("{moment:?}: not so many this time"),
                _ => problems.push(format!("{moment:?}: not killed, {:?} writes", run.writes)),
            },
            Ok(Err(error)) => problems.push(format!("{moment:?}: {error:#}")),
            Err(_) => problems.push(format!("{moment:?}: it hangs")),
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}

fn differences(run: &Run, undisturbed: &Run, moment: StopAfter) -> Vec<String> {
    let mut problems = Vec::new();
    if run.objects != undisturbed.objects {
        let differs =
            run.objects.iter().filter(|(name, object)| undisturbed.objects.get(*name) != Some(object));
        let differs: Vec<_> = differs.map(|(name, _)| name.clone()).collect();
        let missing: Vec<_> =
            undisturbed.objects.keys().filter(|name| !run.objects.contains_key(*name)).collect();
        problems.push(format!("{moment:?}: differs in {differs:?}, lacks {missing:?}"));
    }
    if run.counts != undisturbed.counts {
        problems.push(format!("{moment:?}: {:?}", run.counts));
    }
    problems
}
