//! A `sluice consume` process: its administration port, its log, its death.

mod checked;
mod home;

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use nix::sys::signal::Signal;

use crate::component::{Component, Launch};
use crate::{eventually, free_port};

pub use self::checked::{CANARY, Checked};
pub use self::home::{Home, Pipeline, Sink, secret};

/// How long a consumer may take until its administration port answers.
const START: Duration = Duration::from_secs(90);

/// A running consumer.
pub struct Sluice {
    /// Its process.
    pub component: Component,
    admin: u16,
}

impl Sluice {
    /// Starts a consumer of a pipeline; `name` distinguishes the logs of replicas. Returns at once.
    ///
    /// # Errors
    /// The binary has not been built (`cargo build --workspace`).
    pub fn start(home: &Home, name: &str) -> anyhow::Result<Self> {
        Self::start_with(home, name, &[])
    }

    /// As [`Self::start`], with variables besides the test's own.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_with(home: &Home, name: &str, variables: &[(&str, &str)]) -> anyhow::Result<Self> {
        let file = home.path().join("pipeline.yaml").display().to_string();
        Self::start_from(home, name, &["-f", &file], variables)
    }

    /// As [`Self::start`], with the arguments that say where the pipeline comes from, and variables besides the
    /// test's own.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_from(
        home: &Home,
        name: &str,
        from: &[&str],
        variables: &[(&str, &str)],
    ) -> anyhow::Result<Self> {
        let admin = free_port()?;
        let program = binary()?;
        let path = |part: &str| home.path().join(part).display().to_string();
        let arguments = ["consume", "--admin", &format!("127.0.0.1:{admin}")]
            .into_iter()
            .chain(from.iter().copied())
            .chain(["--secrets-dir", &path("secrets"), "--data-dir", &path("data")])
            .map(str::to_owned)
            .collect();
        let environment = [("RUST_LOG", "info,sluice_consumer=debug,kube_client=off,kube_runtime=off")];
        let environment = environment.iter().chain(variables);
        let launch = Launch {
            program,
            arguments,
            environment: environment.map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
            log: home.path().join(format!("{name}.log")),
        };
        Ok(Self { component: Component::start(&format!("sluice {name}"), &launch)?, admin })
    }

    /// Starts a consumer and waits until it is ready: configuration loaded, group joined.
    ///
    /// # Errors
    /// It ended, or is not ready in time.
    pub async fn ready(home: &Home, name: &str) -> anyhow::Result<Self> {
        let mut sluice = Self::start(home, name)?;
        sluice.wait_ready().await?;
        Ok(sluice)
    }

    /// Waits until `/readyz` says so.
    ///
    /// # Errors
    /// It ended, or is not ready in time.
    pub async fn wait_ready(&mut self) -> anyhow::Result<()> {
        eventually("the consumer to be ready", START, async || {
            ensure!(
                self.component.is_running()?,
                "the consumer ended; its log:\n{}",
                self.component.log_tail(40)
            );
            Ok(self.get("/readyz").await.ok().filter(|(code, _)| *code == 200).map(|_| ()))
        })
        .await
    }

    /// The administration port, to be asked while the process itself is in other hands.
    pub fn admin(&self) -> Admin {
        Admin(self.admin)
    }

    /// Asks the administration port; returns status code and body.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        self.admin().get(path).await
    }

    /// The document of `/status`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self) -> anyhow::Result<serde_json::Value> {
        self.admin().status().await
    }

    /// Waits until `/status` satisfies a condition.
    ///
    /// # Errors
    /// It did not within `deadline`; the message holds the last status.
    pub async fn status_where(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl Fn(&serde_json::Value) -> bool,
    ) -> anyhow::Result<serde_json::Value> {
        let mut last = serde_json::Value::Null;
        let waited = eventually(what, deadline, async || {
            // Between start and listening, and while frozen, there is no answer.
            if let Ok(status) = self.status().await {
                last = status;
            }
            Ok(condition(&last).then(|| last.clone()))
        })
        .await;
        waited.with_context(|| format!("the last status was {last}"))
    }

    /// Lines of its log with this message, as JSON, in their order.
    pub fn logged(&self, message: &str) -> Vec<serde_json::Value> {
        let log = std::fs::read_to_string(self.component.log()).unwrap_or_default();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        lines.filter(|line| line["message"] == message).collect()
    }

    /// Kills it at once (kill -9).
    ///
    /// # Errors
    /// It does not go.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.component.kill().await
    }

    /// Freezes it (SIGSTOP).
    ///
    /// # Errors
    /// It has ended.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.component.signal(Signal::SIGSTOP)
    }

    /// Ends [`Self::freeze`].
    ///
    /// # Errors
    /// It has ended.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.component.signal(Signal::SIGCONT)
    }
}

/// The administration port of a consumer.
#[derive(Clone, Copy, Debug)]
pub struct Admin(u16);

impl Admin {
    /// Asks it; returns status code and body.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn get(&self, path: &str) -> anyhow::Result<(u16, String)> {
        let client: Client<_, Empty<Bytes>> = Client::builder(TokioExecutor::new()).build_http();
        let address = format!("http://127.0.0.1:{}{path}", self.0).parse()?;
        let answer = tokio::time::timeout(Duration::from_secs(5), client.get(address)).await??;
        let code = answer.status().as_u16();
        let body = answer.into_body().collect().await?.to_bytes();
        Ok((code, String::from_utf8(body.to_vec())?))
    }

    /// The document of `/status`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn status(&self) -> anyhow::Result<serde_json::Value> {
        let (code, body) = self.get("/status").await?;
        ensure!(code == 200, "/status answered {code}: {body}");
        serde_json::from_str(&body).with_context(|| format!("/status is no JSON: {body}"))
    }
}

/// The numbers of the partitions that `/status` tells to be read: owned ones that wait to be opened have no position.
pub fn read_partitions(status: &serde_json::Value) -> Vec<i64> {
    let owned = status["partitions"].as_array().into_iter().flatten();
    owned.filter(|one| !one["position"].is_null()).filter_map(|one| one["partition"].as_i64()).collect()
}

/// Whether `/status` tells of an error with this reason, whatever else is wrong.
pub fn tells(reason: &str) -> impl Fn(&serde_json::Value) -> bool {
    move |status| {
        status["errors"].as_array().is_some_and(|errors| errors.iter().any(|error| error["reason"] == reason))
    }
}

/// When a line of a log was written, in milliseconds since 1970.
///
/// # Errors
/// It has no time.
pub fn logged_at(line: &serde_json::Value) -> anyhow::Result<i64> {
    let time = line["timestamp"].as_str().with_context(|| format!("no time in {line}"))?;
    Ok(time.parse::<jiff::Timestamp>()?.as_millisecond())
}

/// The `sluice` binary of the build that the test belongs to, or the one that `SLUICE_TEST_BINARY` names.
///
/// # Errors
/// It has not been built.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(given) = std::env::var_os("SLUICE_TEST_BINARY") {
        return Ok(given.into());
    }
    let test = std::env::current_exe()?;
    // target/debug/deps/TEST-HASH, or target/debug/DRIVER.
    let beside = test.ancestors().skip(1).take(2).map(|dir| dir.join("sluice")).find(|path| path.is_file());
    beside.with_context(|| format!("no `sluice` near {}; run `cargo build --workspace`", test.display()))
}
