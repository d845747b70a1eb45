//! What a test says to a cluster: kubectl, namespaces of its own, HTTP to pods.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tokio::sync::OnceCell;

use super::reader::Reader;
use crate::eventually;

/// Time limit of one call of kubectl, in seconds.
const CALL: &str = "120";
/// Time limit of one HTTP request.
const REQUEST: Duration = Duration::from_secs(5);
static NAMESPACES: AtomicU32 = AtomicU32::new(0);

/// The command, and the cluster that it talks to.
#[derive(Clone, Debug)]
pub struct Kubectl {
    program: PathBuf,
    kubeconfig: PathBuf,
}

impl Kubectl {
    pub(super) fn new(program: PathBuf, kubeconfig: PathBuf) -> Self {
        Self { program, kubeconfig }
    }

    pub(super) fn program(&self) -> &Path {
        &self.program
    }

    pub(super) fn kubeconfig(&self) -> &Path {
        &self.kubeconfig
    }

    /// Runs it and returns its output.
    ///
    /// # Errors
    /// It failed, or did not end within two minutes; the message holds what it said.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.run_with(arguments, "").await
    }

    /// As [`Self::run`], with a standard input (`-f -`).
    ///
    /// # Errors
    /// As [`Self::run`].
    pub async fn run_with(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let mut command = self.command(arguments);
        let (line, input) = (arguments.join(" "), input.to_owned());
        let call = tokio::task::spawn_blocking(move || -> anyhow::Result<String> {
            let mut child = command.spawn().context("cannot start it")?;
            if let Some(mut pipe) = child.stdin.take() {
                pipe.write_all(input.as_bytes())?;
            }
            let output = child.wait_with_output()?;
            if !output.status.success() {
                bail!("{}: {}", output.status, String::from_utf8_lossy(&output.stderr).trim());
            }
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        });
        call.await?.with_context(|| format!("kubectl {line}"))
    }

    pub(super) fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new("timeout");
        command
            .arg(CALL)
            .arg(&self.program)
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }
}

/// A namespace of one test; deleted in the background when the handle goes.
///
/// It enforces the `restricted` pod security standard, so every pod that a test sees running fits it.
pub struct Namespace {
    kubectl: Kubectl,
    reader: OnceCell<Reader>,
    name: String,
}

impl Namespace {
    /// Creates one whose name begins with `prefix`, and waits until pods can be created in it.
    pub(super) async fn new(kubectl: Kubectl, prefix: &str) -> anyhow::Result<Self> {
        let number = NAMESPACES.fetch_add(1, Ordering::Relaxed);
        Self::called(kubectl, format!("{prefix}-{}-{number}", std::process::id())).await
    }

    /// As [`Self::new`], with exactly this name.
    pub(super) async fn called(kubectl: Kubectl, name: String) -> anyhow::Result<Self> {
        let enforce = r#"{"pod-security.kubernetes.io/enforce":"restricted"}"#;
        let document = format!(
            r#"{{"apiVersion":"v1","kind":"Namespace","metadata":{{"name":"{name}","labels":{enforce}}}}}"#
        );
        kubectl.run_with(&["create", "-f", "-"], &document).await?;
        let namespace = Self { kubectl, reader: OnceCell::new(), name };
        eventually("the namespace's service account", Duration::from_secs(120), async || {
            Ok(namespace.get("serviceaccount/default").await.ok())
        })
        .await?;
        Ok(namespace)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Runs kubectl on this namespace.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.kubectl_with(arguments, "").await
    }

    /// As [`Self::kubectl`], with a standard input.
    ///
    /// # Errors
    /// As [`Kubectl::run`].
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        let mut all = vec!["--namespace", &self.name];
        all.extend(arguments);
        self.kubectl.run_with(&all, input).await
    }

    /// Applies documents of YAML or JSON, on the server's side.
    ///
    /// # Errors
    /// The server refuses one.
    pub async fn apply(&self, documents: &str) -> anyhow::Result<()> {
        self.kubectl_with(&["apply", "--server-side", "-f", "-"], documents).await.map(drop)
    }

    /// Reads a resource (`pod/name`), or a list of all of a kind (`pods`), as JSON.
    ///
    /// # Errors
    /// There is none.
    pub async fn get(&self, resource: &str) -> anyhow::Result<serde_json::Value> {
        let reader = self.reader.get_or_try_init(|| Reader::new(self.kubectl.kubeconfig())).await?;
        reader.get(&self.name, resource).await
    }

    /// Waits until a pod is ready and returns its address.
    ///
    /// # Errors
    /// It is not within `deadline`, or has ended; the message tells what the namespace looks like.
    pub async fn pod_ready(&self, pod: &str, deadline: Duration) -> anyhow::Result<String> {
        let waited = eventually(&format!("pod {pod} to be ready"), deadline, async || {
            let status = self.get(&format!("pod/{pod}")).await?["status"].take();
            let phase = status["phase"].as_str().unwrap_or_default();
            ensure!(!matches!(phase, "Failed" | "Succeeded"), "it has {phase}");
            let ready = status["conditions"].as_array().is_some_and(|conditions| {
                conditions
                    .iter()
                    .any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
            });
            Ok(status["podIP"].as_str().filter(|_| ready).map(str::to_owned))
        })
        .await;
        self.explain(waited).await
    }

    /// Waits until a pod has ended well and returns what it logged.
    ///
    /// # Errors
    /// It failed, or did not end within `deadline`; the message tells what the namespace looks like.
    pub async fn pod_succeeded(&self, pod: &str, deadline: Duration) -> anyhow::Result<String> {
        let waited = eventually(&format!("pod {pod} to end"), deadline, async || {
            let status = self.get(&format!("pod/{pod}")).await?["status"].take();
            let phase = status["phase"].as_str().unwrap_or_default();
            ensure!(phase != "Failed", "it has failed");
            Ok((phase == "Succeeded").then_some(()))
        })
        .await;
        self.explain(waited).await?;
        self.kubectl(&["logs", pod]).await
    }

    /// Adds to an error what the namespace looks like.
    ///
    /// # Errors
    /// The given one.
    pub async fn explain<T>(&self, result: anyhow::Result<T>) -> anyhow::Result<T> {
        match result {
            Ok(value) => Ok(value),
            // What went wrong first: of a long text the beginning is read.
            Err(error) => Err(anyhow!("{error:#}\n{}", self.describe().await)),
        }
    }

    /// Pods, events and the ends of all logs, for a person.
    pub async fn describe(&self) -> String {
        let mut text = format!("namespace {}:\n", self.name);
        let mut commands = vec![
            vec!["get".to_owned(), "all,configmaps".to_owned(), "--output=wide".to_owned()],
            vec!["get".to_owned(), "events".to_owned(), "--sort-by=.lastTimestamp".to_owned()],
        ];
        let pods = self.kubectl(&["get", "pods", "--output=name"]).await.unwrap_or_default();
        commands.extend(pods.lines().map(|pod| {
            ["logs", pod, "--all-containers", "--tail=30", "--prefix"].map(str::to_owned).to_vec()
        }));
        for command in commands {
            let words: Vec<&str> = command.iter().map(String::as_str).collect();
            let said = self.kubectl(&words).await.unwrap_or_else(|error| format!("{error:#}\n"));
            text.push_str(&format!("$ kubectl {}\n{said}", command.join(" ")));
        }
        text
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let mut command = self.kubectl.command(&["delete", "namespace", &self.name, "--wait=false"]);
        let deleted = command.stdout(Stdio::null()).stderr(Stdio::null()).stdin(Stdio::null()).status();
        if !deleted.is_ok_and(|status| status.success()) {
            eprintln!("cannot delete namespace {}", self.name);
        }
    }
}

/// Asks a pod or a service over HTTP; returns status code and body.
///
/// # Errors
/// It does not answer within 5 s.
pub async fn get(url: &str) -> anyhow::Result<(u16, String)> {
    let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
    let answer = tokio::time::timeout(REQUEST, client.get(url.parse()?)).await??;
    let code = answer.status().as_u16();
    let body = answer.into_body().collect().await?.to_bytes();
    Ok((code, String::from_utf8(body.to_vec())?))
}
