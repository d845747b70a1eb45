//! One namespace and one operator for it.

use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use sluice_tests::cluster::{Cluster, Namespace};
use sluice_tests::eventually;
use sluice_tests::operator::{CRD, Operator, Settings};
use tokio::sync::OnceCell;

/// How long anything may take that is not measured: a second or two alone, twenty beside five tests with real pods on a
/// busy machine.
pub const SOON: Duration = Duration::from_secs(60);
static CRD_INSTALLED: OnceCell<()> = OnceCell::const_new();

/// One namespace and one operator for it.
pub struct Bed {
    pub cluster: &'static Cluster,
    pub namespace: Namespace,
    pub operator: Operator,
    pub settings: Settings,
}

/// The cluster, with the CRD.
pub async fn cluster() -> &'static Cluster {
    let cluster = Cluster::shared().await.unwrap();
    CRD_INSTALLED.get_or_try_init(|| cluster.apply_crds(CRD)).await.unwrap();
    cluster
}

impl Bed {
    pub async fn start(name: &str) -> Self {
        let cluster = cluster().await;
        let namespace = cluster.namespace(name).await.unwrap();
        let settings = settings(&namespace);
        let operator = Operator::start(cluster, &settings).await.unwrap();
        Self { cluster, namespace, operator, settings }
    }

    /// Applies a pipeline and gives its uid.
    pub async fn create(&self, pipeline: &Value) -> String {
        self.namespace.apply(&pipeline.to_string()).await.unwrap();
        let name = pipeline["metadata"]["name"].as_str().unwrap();
        let created = self.namespace.get(&format!("tp/{name}")).await.unwrap();
        created["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// Patches the pipeline `traces`.
    pub async fn patch(&self, patch: &Value) {
        self::patch(&self.namespace, patch).await.unwrap();
    }

    /// All objects of a kind.
    pub async fn list(&self, kind: &str) -> anyhow::Result<Vec<Value>> {
        Ok(self.namespace.get(kind).await?["items"].as_array().cloned().unwrap_or_default())
    }

    /// Waits until an object is as `condition` wants it.
    pub async fn until(&self, resource: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let waited = eventually(resource, SOON, async || {
            let object = self.namespace.get(resource).await.unwrap_or_default();
            last.clone_from(&object);
            Ok(condition(&object).then_some(object))
        });
        let waited = waited.await;
        let waited = waited.with_context(|| format!("last seen: {last:#}"));
        self.namespace.explain(waited).await.unwrap()
    }

    /// The live document of the pipeline `traces`.
    pub async fn live(&self) -> Value {
        let map = self.namespace.get("configmap/traces-live").await.unwrap_or_default();
        serde_json::from_str(map["data"]["live.json"].as_str().unwrap_or("null")).unwrap_or_default()
    }

    /// Waits until the live document is as `condition` wants it.
    pub async fn live_until(&self, condition: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let waited = eventually("the live document", SOON, async || {
            let live = self.live().await;
            last.clone_from(&live);
            Ok(condition(&live).then_some(live))
        });
        waited.await.with_context(|| format!("last seen: {last}")).unwrap()
    }
}

pub fn settings(namespace: &Namespace) -> Settings {
    Settings {
        image: "sluice.dev/sluice:test".into(),
        // Each test is an installation of its own: they share an API server.
        installation: namespace.name().to_owned(),
        namespaces: vec![namespace.name().to_owned()],
        arguments: vec!["--namespace".into(), namespace.name().to_owned()],
        ..Settings::default()
    }
}

/// Patches the pipeline `traces` of a namespace by kubectl, as a person does.
pub async fn patch(namespace: &Namespace, patch: &Value) -> anyhow::Result<()> {
    let patch = patch.to_string();
    namespace.kubectl(&["patch", "tp/traces", "--type=merge", "-p", &patch]).await.map(drop)
}

/// A pipeline called `traces`.
pub fn pipeline() -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "TracePipeline",
        "metadata": { "name": "traces" },
        "spec": {
            "source": { "kafka": { "bootstrapServers": "kafka:9092", "topic": "spans", "consumerGroup": "sluice" } },
            "rateLimitQPS": 5000,
            "sink": { "mysql": { "urlFrom": { "secretKeyRef": { "name": "db", "key": "url" } } } },
        },
    })
}

/// A condition's status and reason.
pub fn condition(pipeline: &Value, type_: &str) -> (String, String) {
    let conditions = pipeline["status"]["conditions"].as_array().cloned().unwrap_or_default();
    let found = conditions.into_iter().find(|condition| condition["type"] == type_).unwrap_or_default();
    let text = |field: &str| found[field].as_str().unwrap_or_default().to_owned();
    (text("status"), text("reason"))
}
