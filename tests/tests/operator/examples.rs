//! The examples as they are shipped, and the README's: applied unchanged, with the operator running.

use serde_json::Value;
use sluice_tests::cluster::Namespace;
use sluice_tests::eventually;
use sluice_tests::operator::Operator;

use crate::bed::{SOON, cluster, condition, settings};

/// Where all of them are at home.
pub const NAMESPACE: &str = "observability";
pub const MYSQL: &str = include_str!("../../../crds/examples/mysql.yaml");
pub const POSTGRES: &str = include_str!("../../../crds/examples/postgres-tls-sasl.yaml");
pub const PRODUCTION: &str = include_str!("../../../crds/examples/production.yaml");
pub const SQLITE: &str = include_str!("../../../crds/examples/sqlite.yaml");
pub const TOPIC_PATTERN: &str = include_str!("../../../crds/examples/topic-pattern.yaml");
const README: &str = include_str!("../../../README.md");

/// The file that the README tells people to write.
fn of_the_readme() -> &'static str {
    let (_, from) = README.split_once("```yaml\n# pipeline.yaml\n").unwrap();
    from.split_once("```").unwrap().0
}

/// What a person would run: any field that the server does not know is an error.
pub async fn apply(namespace: &Namespace, example: &str) -> anyhow::Result<()> {
    let apply = ["apply", "--server-side", "--validate=strict", "-f", "-"];
    namespace.kubectl_with(&apply, example).await.map(drop)
}

/// Children go first, so that none is left when the pipeline has gone.
pub async fn delete(namespace: &Namespace, name: &str) -> anyhow::Result<()> {
    let delete = ["delete", &format!("tp/{name}"), "--cascade=foreground", "--timeout=180s"];
    namespace.kubectl(&delete).await?;
    let left =
        ["get", "pods,deployments", &format!("--selector=sluice.dev/pipeline={name}"), "--output=name"];
    let left = namespace.kubectl(&left).await?;
    anyhow::ensure!(left.trim().is_empty(), "{name} has gone before {left}");
    Ok(())
}

async fn becomes_its_children(namespace: &Namespace, name: &str) -> anyhow::Result<()> {
    let judged = eventually("all conditions", SOON, async || {
        let pipeline = namespace.get(&format!("tp/{name}")).await?;
        let generation = &pipeline["metadata"]["generation"];
        let conditions = pipeline["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let newest = conditions.iter().all(|condition| condition["observedGeneration"] == *generation);
        // There is no node here: consumers are made, which fit the namespace's standard, and wait.
        let waits = condition(&pipeline, "Ready") == ("False".into(), "ConsumersNotReady".into());
        let made = pipeline["status"]["replicas"].as_i64() > Some(0);
        Ok((newest && conditions.len() == 8 && waits && made).then_some(pipeline))
    });
    let pipeline = namespace.explain(judged.await).await?;
    anyhow::ensure!(condition(&pipeline, "Degraded").0 == "False", "{}", pipeline["status"]);
    anyhow::ensure!(condition(&pipeline, "RateConfirmed").0 == "Unknown", "{}", pipeline["status"]);
    anyhow::ensure!(pipeline["status"]["rate"]["revision"] == 1, "{}", pipeline["status"]);
    for kind in [
        "serviceaccount",
        "role",
        "rolebinding",
        "service",
        "poddisruptionbudget",
        "networkpolicy",
        "deployment",
    ] {
        let child = namespace.get(&format!("{kind}/{name}-consumer")).await?;
        let owner = &child["metadata"]["ownerReferences"][0]["uid"];
        anyhow::ensure!(*owner == pipeline["metadata"]["uid"], "{kind}: {owner}");
    }
    let deployment = namespace.get(&format!("deployment/{name}-consumer")).await?;
    let replicas = pipeline["spec"]["autoscaling"]["min"].as_i64();
    let replicas = replicas.or(pipeline["spec"]["replicas"].as_i64()).unwrap_or(2);
    anyhow::ensure!(deployment["spec"]["replicas"] == replicas, "{}", deployment["spec"]["replicas"]);
    Ok(())
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn every_example_is_taken_unchanged_and_becomes_its_children() {
    let cluster = cluster().await;
    let namespace = cluster.namespace_called(NAMESPACE).await.unwrap();
    let operator = Operator::start(cluster, &settings(&namespace)).await.unwrap();
    let examples = [
        ("mysql", MYSQL),
        ("postgres-tls-sasl", POSTGRES),
        ("production", PRODUCTION),
        ("sqlite", SQLITE),
        ("topic-pattern", TOPIC_PATTERN),
        ("README.md", of_the_readme()),
    ];
    for (file, text) in examples {
        apply(&namespace, text).await.unwrap();
        let document: Value = sluice_crds::yaml::to_json(text).unwrap();
        let name = document["metadata"]["name"].as_str().unwrap();
        if let Err(error) = becomes_its_children(&namespace, name).await {
            panic!("{file}: {error:#}");
        }
        // The next one may have the same name.
        delete(&namespace, name).await.unwrap();
    }
    operator.log_is_clean(&[]).unwrap();
}
