//! What a test does to a control plane of its own. Each takes the cluster exclusively: a shared one stays whole.

use std::time::Duration;

use anyhow::Context;
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use nix::sys::signal::Signal;
use serde_json::{Value, json};

use super::control_plane::ControlPlane;
use super::{Cluster, NOT_OURS};

const REQUEST: Duration = Duration::from_secs(10);

impl Cluster {
    fn control_plane(&mut self) -> anyhow::Result<&mut ControlPlane> {
        Ok(&mut self.own.as_mut().context(NOT_OURS)?.control_plane)
    }

    /// Kills the API server at once (kill -9).
    ///
    /// # Errors
    /// The cluster is not ours.
    pub async fn kill_api_server(&mut self) -> anyhow::Result<()> {
        self.control_plane()?.api_server.kill().await
    }

    /// Starts a killed API server again, on the same port and data; waits until it is ready.
    ///
    /// # Errors
    /// The cluster is not ours, or the API server does not answer.
    pub async fn restart_api_server(&mut self) -> anyhow::Result<()> {
        self.control_plane()?.restart_api_server().await
    }

    /// Freezes the API server: connections stay open, nothing answers.
    ///
    /// # Errors
    /// The cluster is not ours.
    pub fn freeze_api_server(&mut self) -> anyhow::Result<()> {
        self.control_plane()?.api_server.signal(Signal::SIGSTOP)
    }

    /// Ends [`Self::freeze_api_server`].
    ///
    /// # Errors
    /// The cluster is not ours.
    pub fn thaw_api_server(&mut self) -> anyhow::Result<()> {
        self.control_plane()?.api_server.signal(Signal::SIGCONT)
    }

    /// Makes etcd forget every revision but the newest. A list at an older one is `410 Expired` at once; a watch
    /// from an older one is so when the API server has been restarted, as its cache remembers.
    ///
    /// # Errors
    /// The cluster is not ours, or etcd does not answer.
    pub async fn compact_etcd(&mut self) -> anyhow::Result<()> {
        let url = self.control_plane()?.etcd_url.clone();
        // Any read tells the newest revision; keys are base64.
        let read = etcd(&url, "range", &json!({"key": "eA==", "limit": 1})).await?;
        let revision = read["header"]["revision"].as_str().context("etcd tells no revision")?;
        etcd(&url, "compaction", &json!({"revision": revision, "physical": true})).await.map(drop)
    }
}

/// A request to etcd's gateway from JSON to gRPC.
async fn etcd(url: &str, method: &str, body: &Value) -> anyhow::Result<Value> {
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let request = Request::post(format!("{url}/v3/kv/{method}")).body(Full::from(body.to_string()))?;
    let answer = tokio::time::timeout(REQUEST, client.request(request)).await??;
    let status = answer.status();
    let body = answer.into_body().collect().await?.to_bytes();
    anyhow::ensure!(status.is_success(), "etcd answered {status}: {}", String::from_utf8_lossy(&body));
    Ok(serde_json::from_slice(&body)?)
}
