//! The smallest example, unchanged, to rows: its broker is found by the name that it has there.

use std::time::Instant;

use serde_json::json;
use sluice_tests::eventually;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::operator::Operator;
use sluice_tests::oracle::database::Database;
use sluice_tests::oracle::report;

use super::world::{self, START, secret};
use crate::bed::settings;
use crate::examples::{NAMESPACE, apply};

const EXAMPLE: &str = include_str!("../../../../crds/examples/mysql.yaml");
const TOPIC: &str = "save_trace_span_command";
const MESSAGES: u64 = 100;

/// A service `kafka` on the port of the example, before the broker on the host.
async fn service(namespace: &sluice_tests::cluster::Namespace, bootstrap: &str) -> std::net::Ipv4Addr {
    let (host, port) = bootstrap.rsplit_once(':').unwrap();
    let port: u16 = port.parse().unwrap();
    let service = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "kafka" },
        "spec": { "ports": [{ "port": 9092, "targetPort": port }] } });
    let slice = json!({ "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "kafka", "labels": { "kubernetes.io/service-name": "kafka" } },
        "addressType": "IPv4", "ports": [{ "name": "", "port": port, "protocol": "TCP" }],
        "endpoints": [{ "addresses": [host], "conditions": { "ready": true } }] });
    namespace.apply(&format!("{service}\n---\n{slice}")).await.unwrap();
    let service = namespace.get("service/kafka").await.unwrap();
    service["spec"]["clusterIP"].as_str().unwrap().parse().unwrap()
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn the_smallest_example_stores_rows_unchanged() {
    let (cluster, image) = world::cluster().await;
    let (kafka, mariadb) = (world::kafka(cluster).await, world::mariadb(cluster).await);
    let namespace = cluster.namespace_called(NAMESPACE).await.unwrap();
    kafka.create_topic(TOPIC, 3, &[]).await.unwrap();
    let ledger = Ledger::new(95, Shape::Json);
    ledger.produce(kafka, TOPIC, 0..MESSAGES, |message| (message % 3) as i32).await.unwrap();
    let url = mariadb.database(NAMESPACE).await.unwrap();
    let address = service(&namespace, kafka.pod_bootstrap()).await;
    cluster.tell_name(&format!("kafka.{NAMESPACE}.svc.cluster.local"), address).unwrap();
    namespace.apply(&secret("db", &json!({ "url": mariadb.pod_url(NAMESPACE) }))).await.unwrap();
    let mut settings = settings(&namespace);
    image.clone_into(&mut settings.image);
    let operator = Operator::start(cluster, &settings).await.unwrap();

    let began = Instant::now();
    apply(&namespace, EXAMPLE).await.unwrap();
    let database = Database::connect(&url).await.unwrap();
    let spans = MESSAGES * ledger.spans_per_message;
    let stored =
        eventually("every span", START, async || Ok((database.count().await? >= spans).then_some(()))).await;
    namespace.explain(stored).await.unwrap();
    println!("kubectl apply to {spans} rows: {:?}", began.elapsed());
    let problems = database.audit(&ledger, spans, &[]).await.unwrap();
    assert!(problems.is_empty(), "{}", report(&problems));
    let wait = ["wait", "--for=condition=Ready", "tp/action-traces", "--timeout=180s"];
    let ready = namespace.kubectl(&wait).await;
    namespace.explain(ready).await.unwrap();
    operator.log_is_clean(&[]).unwrap();
}
