//! What tests with real pods start with: a node, a broker and a database that all of them share; a namespace, a
//! topic, a database and an operator of each test's own.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sluice_tests::cluster::{ApiProxy, Cluster, Namespace, Sent, get};
use sluice_tests::eventually;
use sluice_tests::kafka::Kafka;
use sluice_tests::ledger::Ledger;
use sluice_tests::mariadb::MariaDb;
use sluice_tests::operator::{CRD, Operator, Settings};
use sluice_tests::oracle::database::Database;
use sluice_tests::oracle::report;
use tokio::sync::OnceCell;

use crate::bed::{condition, patch, pipeline, settings};

/// From the resource to the first row, image and schema included.
pub const START: Duration = Duration::from_secs(180);
pub const PARTITIONS: i32 = 6;

static KAFKA: OnceCell<Kafka> = OnceCell::const_new();
static MARIADB: OnceCell<MariaDb> = OnceCell::const_new();

/// A namespace with a node, and what a pipeline in it needs.
pub struct World {
    pub cluster: &'static Cluster,
    pub namespace: Namespace,
    pub operator: Operator,
    pub settings: Settings,
    pub kafka: &'static Kafka,
    pub topic: String,
    /// The database, for pods.
    pub pod_url: String,
    /// The same, for the test.
    pub url: String,
}

/// The cluster with a node, and the CRD and the image in it.
pub async fn cluster() -> (&'static Cluster, &'static str) {
    let cluster = Cluster::shared_with_node().await.unwrap();
    cluster.apply_crds(CRD).await.unwrap();
    (cluster, cluster.sluice_image().await.unwrap())
}

/// The broker that tests share.
pub async fn kafka(cluster: &Cluster) -> &'static Kafka {
    let host = cluster.host_address().unwrap();
    KAFKA.get_or_try_init(|| Kafka::start_on(host)).await.unwrap()
}

/// The database that tests share; one that hurts it starts its own.
pub async fn mariadb(cluster: &Cluster) -> &'static MariaDb {
    let host = cluster.host_address().unwrap();
    MARIADB.get_or_try_init(|| MariaDb::start_on(host)).await.unwrap()
}

impl World {
    pub async fn start(name: &str) -> Self {
        let (cluster, _) = cluster().await;
        Self::with_database(name, mariadb(cluster).await).await
    }

    /// As [`Self::start`], with a server of the test's own.
    pub async fn with_database(name: &str, mariadb: &MariaDb) -> Self {
        let (cluster, image) = cluster().await;
        let kafka = kafka(cluster).await;
        let namespace = cluster.namespace(name).await.unwrap();
        // Both as unique as the namespace.
        let topic = namespace.name().to_owned();
        let url = mariadb.database(&topic).await.unwrap();
        kafka.create_topic(&topic, PARTITIONS, &[]).await.unwrap();
        let pod_url = mariadb.pod_url(&topic);
        namespace.apply(&secret("db", &json!({ "url": pod_url }))).await.unwrap();
        let mut settings = settings(&namespace);
        image.clone_into(&mut settings.image);
        let operator = Operator::start(cluster, &settings).await.unwrap();
        Self { cluster, namespace, operator, settings, kafka, topic, pod_url, url }
    }

    pub fn pipeline(&self, rate: u32) -> Value {
        let mut pipeline = pipeline();
        let kafka = &mut pipeline["spec"]["source"]["kafka"];
        kafka["bootstrapServers"] = self.kafka.pod_bootstrap().into();
        kafka["topic"] = self.topic.as_str().into();
        kafka["consumerGroup"] = self.topic.as_str().into();
        pipeline["spec"]["rateLimitQPS"] = rate.into();
        pipeline["spec"]["format"] = "Json".into();
        pipeline
    }

    pub async fn apply(&self, pipeline: &Value) {
        self.namespace.apply(&pipeline.to_string()).await.unwrap();
    }

    /// By kubectl, as a person does.
    pub async fn patch_rate(&self, rate: u32) {
        patch(&self.namespace, &json!({ "spec": { "rateLimitQPS": rate } })).await.unwrap();
    }

    /// Without the start of a kubectl, where the time counts.
    pub async fn send_rate(&self, proxy: &ApiProxy, rate: u32) -> Sent {
        let path =
            format!("/apis/sluice.dev/v1alpha1/namespaces/{}/tracepipelines/traces", self.namespace.name());
        proxy.patch(&path, &json!({ "spec": { "rateLimitQPS": rate } })).await.unwrap()
    }

    pub async fn wait_ready(&self) {
        let wait = ["wait", "--for=condition=Ready", "tp/traces", "--timeout=180s"];
        let ready = self.namespace.kubectl(&wait).await;
        self.namespace.explain(ready).await.unwrap();
    }

    /// Restarts of all containers of the namespace.
    pub async fn restarts(&self) -> u64 {
        let pods = self.namespace.get("pods").await.unwrap();
        let pods = pods["items"].as_array().unwrap();
        let containers =
            pods.iter().flat_map(|pod| pod["status"]["containerStatuses"].as_array().into_iter().flatten());
        containers.map(|container| container["restartCount"].as_u64().unwrap_or(0)).sum()
    }

    /// Addresses of the pods that are not about to go.
    pub async fn pod_addresses(&self) -> Vec<String> {
        let pods = self.namespace.get("pods").await.unwrap();
        let pods = pods["items"].as_array().unwrap();
        let staying = pods.iter().filter(|pod| pod["metadata"]["deletionTimestamp"].is_null());
        staying.filter_map(|pod| pod["status"]["podIP"].as_str().map(str::to_owned)).collect()
    }

    /// Waits until the status says that every consumer applies a rate, and nothing is wrong.
    pub async fn confirmed(&self, rate: u32) -> anyhow::Result<()> {
        let status = eventually("the rate to be confirmed", START, async || {
            let pipeline = self.namespace.get("tp/traces").await?;
            let good = condition(&pipeline, "RateConfirmed").0 == "True"
                && pipeline["status"]["rate"]["applied"] == rate;
            Ok(good.then_some(pipeline))
        })
        .await?;
        ensure!(condition(&status, "Degraded").0 == "False", "degraded: {}", status["status"]);
        Ok(())
    }

    /// Raises the rate, waits until everything is stored, and compares it with what was produced.
    pub async fn drain_and_audit(&self, ledger: &Ledger, messages: u64) -> anyhow::Result<()> {
        self.patch_rate(1_000_000).await;
        let database = Database::connect(&self.url).await?;
        let spans = messages * ledger.spans_per_message;
        let stored =
            eventually("every span", START, async || Ok((database.count().await? >= spans).then_some(())));
        self.namespace.explain(stored.await).await?;
        let problems = database.audit(ledger, spans, &[]).await?;
        ensure!(problems.is_empty(), "{}", report(&problems));
        self.confirmed(1_000_000).await.context("after everything was stored")
    }
}

/// What consumers at these addresses say.
pub async fn statuses(pods: &[String]) -> anyhow::Result<Vec<Value>> {
    let mut statuses = Vec::new();
    for pod in pods {
        let (_, status) = get(&format!("http://{pod}:9464/status")).await?;
        statuses.push(serde_json::from_str(&status)?);
    }
    Ok(statuses)
}

/// A Secret as a document.
pub fn secret(name: &str, data: &Value) -> String {
    json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": name }, "stringData": data })
        .to_string()
}
