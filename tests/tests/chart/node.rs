//! The chart on a cluster with a node: from nothing to rows.

use std::time::{Duration, Instant};

use serde_json::{Value, json};
use sluice_tests::cluster::{Cluster, get};
use sluice_tests::eventually;
use sluice_tests::kafka::Kafka;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::oracle::database::Database;
use sluice_tests::oracle::report;
use sluice_tests::{operator, sluice};

use crate::bed::Bed;

const SOON: Duration = Duration::from_secs(120);
/// Both programs, as a release's image has them.
const IMAGE: &str = "sluice.dev/sluice";

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn from_an_empty_cluster_to_rows_by_what_the_notes_say() {
    let cluster = Cluster::with_node().await.unwrap();
    let binaries = [sluice::binary().unwrap(), operator::binary().unwrap()];
    cluster.load_image(&format!("{IMAGE}:chart"), &[&binaries[0], &binaries[1]]).await.unwrap();
    let host = cluster.host_address().unwrap();
    let (kafka, mariadb) = (Kafka::start_on(host).await.unwrap(), MariaDb::start_on(host).await.unwrap());
    let url = mariadb.database("traces").await.unwrap();
    kafka.create_topic("spans", 3, &[]).await.unwrap();
    let ledger = Ledger::new(17, Shape::Json);
    let messages = 200;
    ledger.produce(&kafka, "spans", 0..messages, |message| (message % 3) as i32).await.unwrap();
    let bed = Bed::new(&cluster, 4).await;

    let began = Instant::now();
    let images = [
        format!("operator.image.repository={IMAGE},operator.image.tag=chart,operator.image.pullPolicy=Never"),
        format!("consumer.image.repository={IMAGE},consumer.image.tag=chart,consumer.image.pullPolicy=Never"),
    ];
    let install =
        ["--wait", "--timeout=2m", "--set", &images[0], "--set", &images[1], "--set", "demo.enabled=true"];
    let installed = bed.helm("install", &install).await;
    bed.namespace.explain(installed).await.unwrap();
    println!("helm install --wait: {:?}", began.elapsed());
    // That of the demo asks for a name, and nobody answers for names here: see below.
    let (hooks, test) = bed.test_hooks().await;
    let filter = format!("name={test},name={test}-operator");
    let tested = bed.helm("test", &["--timeout=2m", "--filter", &filter]).await;
    let tested = bed.namespace.explain(tested).await.unwrap();
    assert_eq!(tested.matches("Succeeded").count(), 2, "{tested}");
    let operators = bed.namespace.get("deployment/sluice-operator").await.unwrap();
    assert_eq!(operators["status"]["readyReplicas"], 2);

    let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "traces-db" },
        "stringData": { "url": mariadb.pod_url("traces") } });
    bed.namespace.apply(&secret.to_string()).await.unwrap();
    let pipeline = bed.first_pipeline().await.replace("kafka:9092", kafka.pod_bootstrap());
    let applied = Instant::now();
    bed.namespace.apply(&pipeline).await.unwrap();
    let wait = ["wait", "tracepipeline/traces", "--for=condition=Ready", "--timeout=90s"];
    let ready = bed.namespace.kubectl(&wait).await;
    bed.namespace.explain(ready).await.unwrap();
    println!("kubectl apply to Ready: {:?}", applied.elapsed());
    let database = Database::connect(&url).await.unwrap();
    let spans = messages * ledger.spans_per_message;
    let stored = eventually("the spans in the database", SOON, async || {
        Ok((database.count().await? >= spans).then_some(()))
    });
    let stored = stored.await;
    bed.namespace.explain(stored).await.unwrap();
    println!("kubectl apply to all {spans} rows: {:?}", applied.elapsed());
    let problems = database.audit(&ledger, spans, &[]).await.unwrap();
    assert!(problems.is_empty(), "{}", report(&problems));

    let demo = bed.namespace.get("service/sluice-demo").await.unwrap();
    let demo = demo["spec"]["clusterIP"].as_str().unwrap();
    let name = format!("{test}-demo");
    let test = hooks.split("\n---").find(|hook| hook.contains(&format!("name: {name}\n"))).unwrap();
    bed.namespace.apply(&test.replace("//sluice-demo:", &format!("//{demo}:"))).await.unwrap();
    bed.namespace.pod_succeeded(&name, SOON).await.unwrap();
    let (code, status) = get(&format!("http://{demo}:9464/status")).await.unwrap();
    assert_eq!(code, 200);
    let status: Value = serde_json::from_str(&status).unwrap();
    assert!(status["stored"].as_u64().unwrap() > 0, "{status}");
    for pod in bed.namespace.get("pods").await.unwrap()["items"].as_array().unwrap() {
        let name = pod["metadata"]["name"].as_str().unwrap();
        if name.starts_with("sluice-operator-") {
            let log = bed.namespace.kubectl(&["logs", name]).await.unwrap();
            operator::log_is_clean(&log, &[]).unwrap();
        }
    }
    bed.helm("uninstall", &["--wait"]).await.unwrap();
}
