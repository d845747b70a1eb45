//! Killed after each single write, the operator ends with the objects of an undisturbed run, and has created
//! and deleted nothing more. (The idea is Sieve's: Sun et al., OSDI 2022.)

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};
use sluice_tests::cluster::{Namespace, Write, WriteProxy};
use sluice_tests::eventually;
use sluice_tests::operator::{Operator, Settings};

use crate::bed::{SOON, cluster, pipeline, settings};

const KINDS: &str = "configmaps,serviceaccounts,roles,rolebindings,services,poddisruptionbudgets,networkpolicies,deployments,tracepipelines";

/// The objects of the pipeline without what differs from run to run.
async fn objects(namespace: &Namespace) -> anyhow::Result<BTreeMap<String, Value>> {
    let list = namespace.kubectl(&["get", KINDS, "--output=json"]).await?;
    let list: Value = serde_json::from_str(&list)?;
    let mut objects = BTreeMap::new();
    for mut object in list["items"].as_array().cloned().unwrap_or_default() {
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if !name.starts_with("traces") {
            continue;
        }
        let metadata = object["metadata"].as_object_mut().unwrap();
        for field in [
            "uid",
            "resourceVersion",
            "creationTimestamp",
            "managedFields",
            "namespace",
            "generation",
            "ownerReferences",
        ] {
            metadata.remove(field);
        }
        if let Some(labels) = metadata.get_mut("labels").and_then(Value::as_object_mut) {
            labels.remove("sluice.dev/installation");
        }
        metadata.remove("annotations");
        // The pipeline's namespace and uid are in the settings and their hash.
        let text = serde_json::to_string(&object["spec"])?.replace(namespace.name(), "NAMESPACE");
        let mut kept = json!({ "metadata": object["metadata"], "spec": without_hashes(&text) });
        if let Some(live) = object["data"]["live.json"].as_str() {
            let mut live: Value = serde_json::from_str(live)?;
            live.as_object_mut().unwrap().remove("uid");
            kept["live"] = live;
        }
        let kind = object["kind"].as_str().unwrap_or_default();
        kept["metadata"] =
            without_hashes(&kept["metadata"].to_string().replace(namespace.name(), "NAMESPACE"));
        objects.insert(
            format!("{kind}/{}", without_hashes(&json!(name).to_string()).as_str().unwrap_or_default()),
            kept,
        );
    }
    Ok(objects)
}

/// Settings are named by their hash, which holds the uid.
fn without_hashes(json: &str) -> Value {
    let mut text = String::with_capacity(json.len());
    let mut digits = String::new();
    for letter in json.chars() {
        if letter.is_ascii_digit() || ('a'..='f').contains(&letter) {
            digits.push(letter);
            continue;
        }
        text.push_str(if digits.len() == 16 { "HASH" } else { &digits });
        digits.clear();
        text.push(letter);
    }
    text.push_str(&digits);
    serde_json::from_str(&text).unwrap_or_default()
}

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

struct Run {
    objects: BTreeMap<String, Value>,
    counts: BTreeMap<String, usize>,
    writes: usize,
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
            operator.kill().await?;
            seen = proxy.writes();
            proxy.restart(None);
            operator = Operator::spawn(cluster, &settings)?;
        }
        anyhow::Ok(())
    };
    tokio::try_join!(steps, accident)?;
    let objects = objects(&namespace).await?;
    seen.extend(proxy.writes());
    operator.kill().await?;
    let (counts, writes) = births_and_deaths(&seen);
    Ok(Run { objects, counts, writes })
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
    // The last write may be a status that came late; killing after it shows nothing new.
    for kill_after in 1..undisturbed.writes {
        match tokio::time::timeout(Duration::from_secs(120), run(Some(kill_after))).await {
            Ok(Ok(run)) => {
                if run.objects != undisturbed.objects {
                    let differs = run
                        .objects
                        .iter()
                        .filter(|(name, object)| undisturbed.objects.get(*name) != Some(object));
                    let differs: Vec<_> = differs.map(|(name, _)| name.clone()).collect();
                    let missing: Vec<_> =
                        undisturbed.objects.keys().filter(|name| !run.objects.contains_key(*name)).collect();
                    problems.push(format!(
                        "killed after {kill_after}: differs in {differs:?}, lacks {missing:?}"
                    ));
                }
                if run.counts != undisturbed.counts {
                    problems.push(format!("killed after {kill_after}: {:?}", run.counts));
                }
            }
            Ok(Err(error)) => problems.push(format!("killed after {kill_after}: {error:#}")),
            Err(_) => break,
        }
    }
    assert!(problems.is_empty(), "{}", problems.join("\n"));
}
