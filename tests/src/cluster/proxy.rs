//! Plain HTTP to the API server: what is measured must not hold the start of a kubectl for each request.
//!
//! `kubectl proxy` carries the credentials.

use std::time::Duration;

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Full};
use hyper::Request;
use hyper::body::{Bytes, Incoming};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;

use super::{Cluster, client};
use crate::component::{Component, Launch, Scratch};
use crate::{eventually, free_port, now_ms};

const START: Duration = Duration::from_secs(60);
/// Longest wait for a write's answer, or for the next event of a watch.
const ANSWER: Duration = Duration::from_secs(30);

/// A way to the API server with an administrator's rights.
pub struct ApiProxy {
    port: u16,
    client: Client<HttpConnector, Full<Bytes>>,
    // Dropped in this order: the process first, then its files.
    _component: Component,
    _dir: Scratch,
}

/// When a write was sent and when the API server had answered, in milliseconds since 1970.
#[derive(Clone, Copy, Debug)]
pub struct Sent {
    /// Before the request.
    pub at: i64,
    /// After its answer.
    pub answered: i64,
}

impl ApiProxy {
    /// Starts one, and waits until it answers.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let dir = Scratch::new("sluice-proxy-")?;
        let port = free_port()?;
        let launch = Launch {
            program: cluster.kubectl.program().into(),
            arguments: vec![
                format!("--kubeconfig={}", cluster.kubeconfig().display()),
                "proxy".into(),
                format!("--port={port}"),
                "--reject-methods=^$".into(),
            ],
            log: dir.path().join("kubectl-proxy.log"),
            ..Launch::default()
        };
        let component = Component::start("kubectl proxy", &launch)?;
        eventually("kubectl proxy", START, async || {
            Ok(client::get(&format!("http://127.0.0.1:{port}/version")).await.ok())
        })
        .await?;
        let client = Client::builder(TokioExecutor::new()).build_http();
        Ok(Self { port, client, _component: component, _dir: dir })
    }

    /// The port on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Sends a merge patch of the object at `path`.
    ///
    /// # Errors
    /// The API server refuses it.
    pub async fn patch(&self, path: &str, patch: &Value) -> anyhow::Result<Sent> {
        let request = Request::patch(format!("http://127.0.0.1:{}{path}", self.port))
            .header("content-type", "application/merge-patch+json")
            .body(Full::from(patch.to_string()))?;
        let at = now_ms();
        let answer = tokio::time::timeout(ANSWER, self.client.request(request)).await??;
        let (answered, status) = (now_ms(), answer.status());
        let said = answer.into_body().collect().await?.to_bytes();
        ensure!(status.is_success(), "PATCH {path}: {status}: {}", String::from_utf8_lossy(&said));
        Ok(Sent { at, answered })
    }

    /// Watches the objects at `path` (with `watch=true`); each is told as it is now, then whenever it changes.
    ///
    /// # Errors
    /// The API server refuses.
    pub async fn watch(&self, path: &str) -> anyhow::Result<Watch> {
        let request = Request::get(format!("http://127.0.0.1:{}{path}", self.port)).body(Full::default())?;
        let answer = tokio::time::timeout(ANSWER, self.client.request(request)).await??;
        ensure!(answer.status().is_success(), "GET {path}: {}", answer.status());
        Ok(Watch { body: answer.into_body(), read: Vec::new() })
    }
}

/// The events of a watch.
pub struct Watch {
    body: Incoming,
    read: Vec<u8>,
}

impl Watch {
    /// Waits for the next event and returns its object.
    ///
    /// # Errors
    /// The watch has ended, or nothing happens.
    pub async fn next(&mut self) -> anyhow::Result<Value> {
        loop {
            if let Some(end) = self.read.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.read.drain(..=end).collect();
                return Ok(serde_json::from_slice::<Value>(&line)?["object"].take());
            }
            let frame = tokio::time::timeout(ANSWER, self.body.frame()).await.context("no event")?;
            let frame = frame.context("the watch has ended")??;
            self.read.extend(frame.into_data().unwrap_or_default());
        }
    }
}
