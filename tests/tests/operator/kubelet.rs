//! Pods that the test says are ready, as a kubelet would.

use std::collections::HashMap;
use std::net::IpAddr;

use serde_json::{Value, json};
use sluice_tests::cluster::ApiProxy;

use crate::bed::Bed;

/// The kubelet's part: pods are ready as soon as it is told so.
pub struct Kubelet<'b> {
    bed: &'b Bed,
    proxy: ApiProxy,
    addresses: HashMap<String, IpAddr>,
}

impl<'b> Kubelet<'b> {
    /// One whose pods have the address of their pipeline, if it has any.
    pub async fn new(bed: &'b Bed, addresses: HashMap<String, IpAddr>) -> Self {
        Self { bed, proxy: ApiProxy::start(bed.cluster).await.unwrap(), addresses }
    }

    /// Makes all pods ready, but those of an image that does not work: they run.
    pub async fn run_pods(&self, broken: Option<&str>) -> anyhow::Result<()> {
        for pod in self.bed.list("pods").await? {
            let image = pod["spec"]["containers"][0]["image"].as_str();
            if broken.is_some() && image == broken {
                self.say(&pod, json!({ "phase": "Running" })).await;
            } else if pod["status"]["phase"] != "Running" {
                self.run(&pod).await;
            }
        }
        Ok(())
    }

    /// Makes a pod ready.
    pub async fn run(&self, pod: &Value) {
        let ready = json!({ "type": "Ready", "status": "True" });
        let pipeline = pod["metadata"]["labels"]["sluice.dev/pipeline"].as_str().unwrap_or_default();
        let address = self.addresses.get(pipeline);
        let addresses: Vec<_> = address.iter().map(|ip| json!({ "ip": ip })).collect();
        let status = json!({
            "phase": "Running", "conditions": [ready], "podIP": address, "podIPs": addresses,
        });
        self.say(pod, status).await;
    }

    async fn say(&self, pod: &Value, status: Value) {
        let (name, namespace) = (pod["metadata"]["name"].as_str(), self.bed.namespace.name());
        let path = format!("/api/v1/namespaces/{namespace}/pods/{}/status", name.unwrap_or_default());
        // One that was deleted meanwhile needs nothing.
        let _ = self.proxy.patch(&path, &json!({ "status": status })).await;
    }
}

/// Whether all pods that a Deployment wants are ready, and no others are there.
pub fn is_settled(deployment: &Value) -> bool {
    let status = &deployment["status"];
    let wanted = &deployment["spec"]["replicas"];
    !wanted.is_null()
        && status["observedGeneration"] == deployment["metadata"]["generation"]
        && ["replicas", "updatedReplicas", "readyReplicas"].iter().all(|number| status[number] == *wanted)
}
