//! The operator as a process beside the test, on the API server of a [`Cluster`].

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::cluster::Cluster;
use crate::component::{Component, Launch, Scratch};
use crate::eventually;

/// Time from the start of the process to the lead.
const START: Duration = Duration::from_secs(120);
/// The CRD as it is shipped.
pub const CRD: &str = include_str!("../../crds/tracepipelines.yaml");

/// How an operator is started.
#[derive(Clone, Debug, Default)]
pub struct Settings {
    /// Image of the consumers.
    pub image: String,
    /// The installation, and the namespaces that it looks after: none means all.
    pub installation: String,
    /// See `installation`.
    pub namespaces: Vec<String>,
    /// Name in the leader election; a name of its own where there is none.
    pub identity: Option<String>,
    /// Another way to the API server.
    pub kubeconfig: Option<PathBuf>,
    /// Further arguments.
    pub arguments: Vec<String>,
}

/// A running operator.
pub struct Operator {
    component: Component,
    dir: Scratch,
}

impl Operator {
    /// Starts an operator and waits until it leads. The CRD must be installed.
    ///
    /// # Errors
    /// It does not start, or does not lead in time.
    pub async fn start(cluster: &Cluster, settings: &Settings) -> anyhow::Result<Self> {
        let operator = Self::spawn(cluster, settings)?;
        operator.leads().await?;
        Ok(operator)
    }

    /// As [`Self::start`], without waiting.
    ///
    /// # Errors
    /// It does not start.
    pub fn spawn(cluster: &Cluster, settings: &Settings) -> anyhow::Result<Self> {
        let dir = Scratch::new("sluice-operator-")?;
        let own_name = format!("test-{}", dir.path().display()).replace('/', "-");
        let mut arguments: Vec<String> = [
            ["--consumer-image", &settings.image],
            ["--installation", &settings.installation],
            ["--identity", &settings.identity.clone().unwrap_or(own_name)],
            ["--admin", "127.0.0.1:0"],
        ]
        .concat()
        .into_iter()
        .map(str::to_owned)
        .collect();
        if !settings.namespaces.is_empty() {
            arguments.extend(["--namespaces".to_owned(), settings.namespaces.join(",")]);
        }
        arguments.extend(settings.arguments.iter().cloned());
        let kubeconfig = settings.kubeconfig.as_deref().unwrap_or(cluster.kubeconfig());
        Self::launch(dir, kubeconfig, arguments, Vec::new())
    }

    /// Starts an operator with these arguments and the rights of a kubeconfig, without waiting.
    ///
    /// # Errors
    /// It does not start.
    pub fn spawn_as(
        kubeconfig: &Path,
        arguments: Vec<String>,
        environment: Vec<(String, String)>,
    ) -> anyhow::Result<Self> {
        Self::launch(Scratch::new("sluice-operator-")?, kubeconfig, arguments, environment)
    }

    fn launch(
        dir: Scratch,
        kubeconfig: &Path,
        arguments: Vec<String>,
        mut environment: Vec<(String, String)>,
    ) -> anyhow::Result<Self> {
        environment.push(("KUBECONFIG".into(), kubeconfig.display().to_string()));
        let launch = Launch { program: binary()?, arguments, environment, log: dir.path().join("log") };
        Ok(Self { component: Component::start("the operator", &launch)?, dir })
    }

    /// Waits until it has listed everything.
    ///
    /// # Errors
    /// It does not in time; the message holds the end of its log.
    pub async fn leads(&self) -> anyhow::Result<()> {
        let listed = eventually("the operator to lead", START, async || {
            Ok(self.lines()?.iter().any(|line| line["message"] == "everything is listed").then_some(()))
        });
        listed.await.with_context(|| self.component.log_tail(20))
    }

    /// Kills it at once and waits until it is gone.
    ///
    /// # Errors
    /// It does not go.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.component.kill().await
    }

    /// Where it serves `/metrics`.
    ///
    /// # Errors
    /// It has not said so yet.
    pub fn admin(&self) -> anyhow::Result<String> {
        let lines = self.lines()?;
        let line = lines.iter().find_map(|line| line["address"].as_str());
        line.map(str::to_owned).context("no admin address in the log")
    }

    /// A line of its `/proc/PID/status`, such as `VmRSS`, in bytes.
    ///
    /// # Errors
    /// It has ended.
    pub fn memory(&self, field: &str) -> anyhow::Result<u64> {
        self.component.memory(field)
    }

    /// Processor time used so far.
    ///
    /// # Errors
    /// It has ended.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        self.component.cpu_time()
    }

    /// Sends a signal: kill, stop, continue, terminate.
    ///
    /// # Errors
    /// The process is gone.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.component.signal(signal)
    }

    /// Waits for its end and returns the exit code.
    ///
    /// # Errors
    /// It does not end in time.
    pub async fn ended(&mut self, within: Duration) -> anyhow::Result<i32> {
        self.component.ended(within).await
    }

    /// Its log, line by line.
    ///
    /// # Errors
    /// The log cannot be read, or a line is not JSON.
    pub fn lines(&self) -> anyhow::Result<Vec<Value>> {
        lines(&self.log()?)
    }

    /// Its log as it is.
    ///
    /// # Errors
    /// The log cannot be read.
    pub fn log(&self) -> anyhow::Result<String> {
        Ok(std::fs::read_to_string(self.dir.path().join("log"))?)
    }

    /// Whether the process still runs.
    ///
    /// # Errors
    /// The operating system refuses to tell.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        self.component.is_running()
    }

    /// Fails where the log holds a warning or an error that `expected` does not name.
    ///
    /// # Errors
    /// The first such line.
    pub fn log_is_clean(&self, expected: &[&str]) -> anyhow::Result<()> {
        log_is_clean(&self.log()?, expected)
    }
}

fn lines(log: &str) -> anyhow::Result<Vec<Value>> {
    // The last line may still be growing.
    let whole = log.rfind('\n').map_or("", |end| &log[..end]);
    whole.lines().map(|line| serde_json::from_str(line).with_context(|| line.to_owned())).collect()
}

/// Fails where the log of an operator, a pod's for instance, holds a warning or an error that `expected` does not
/// name.
///
/// # Errors
/// The first such line, or one that is not JSON: a panic.
pub fn log_is_clean(log: &str, expected: &[&str]) -> anyhow::Result<()> {
    for line in lines(log)? {
        let loud = line["level"] == "ERROR" || line["level"] == "WARN";
        let text = line.to_string();
        let known = expected.iter().any(|expected| text.contains(expected));
        ensure!(!loud || known, "unexpected in the operator's log: {text}");
    }
    Ok(())
}

/// The operator's binary beside the test, or the one that `SLUICE_TEST_OPERATOR` names.
///
/// # Errors
/// It has not been built.
pub fn binary() -> anyhow::Result<PathBuf> {
    if let Some(given) = std::env::var_os("SLUICE_TEST_OPERATOR") {
        return Ok(given.into());
    }
    let test = std::env::current_exe()?;
    let beside =
        test.ancestors().skip(1).take(2).map(|dir| dir.join("sluice-operator")).find(|path| path.is_file());
    beside.with_context(|| {
        format!("no `sluice-operator` near {}; run `cargo build --workspace`", test.display())
    })
}
