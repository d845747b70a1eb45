//! helm, and the chart of this tree.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::cluster::{self, Cluster};
use crate::component::Scratch;

/// Time limit of one call, in seconds.
const CALL: &str = "300";

/// The folder of the chart.
pub fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../charts/sluice")
}

/// A helm of one major version, with folders of its own.
#[derive(Debug)]
pub struct Helm {
    program: PathBuf,
    kubeconfig: Option<PathBuf>,
    dir: Scratch,
}

impl Helm {
    /// The helm of a major version, 3 or 4.
    ///
    /// # Errors
    /// It has not been built.
    pub fn new(major: u8) -> anyhow::Result<Self> {
        Ok(Self { program: cluster::helm(major)?, kubeconfig: None, dir: Scratch::new("sluice-helm-")? })
    }

    /// The same with the rights of a cluster's administrator.
    ///
    /// # Errors
    /// As [`Self::new`].
    pub fn on(major: u8, cluster: &Cluster) -> anyhow::Result<Self> {
        Ok(Self { kubeconfig: Some(cluster.kubeconfig().to_owned()), ..Self::new(major)? })
    }

    /// Runs it and returns its output.
    ///
    /// # Errors
    /// It failed, or did not end in time; the message holds what it said.
    pub async fn run(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = Command::new("timeout");
        command.arg(CALL).arg(&self.program).args(arguments).stdin(Stdio::null());
        // Nothing of the person who runs the tests.
        for (variable, folder) in
            [("HELM_CACHE_HOME", "cache"), ("HELM_CONFIG_HOME", "config"), ("HELM_DATA_HOME", "data")]
        {
            command.env(variable, self.dir.path().join(folder));
        }
        command.env("KUBECONFIG", self.kubeconfig.as_deref().unwrap_or(Path::new("/dev/null")));
        let line = format!("helm {}", arguments.join(" "));
        let output = tokio::task::spawn_blocking(move || command.output()).await?;
        let output = output.with_context(|| line.clone())?;
        let (said, complaints) =
            (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success(), "{line}: {}: {said}{complaints}", output.status);
        Ok(said.into_owned())
    }

    /// Renders the chart for a release `chart` of a namespace.
    ///
    /// # Errors
    /// It does not render; the message says why.
    pub async fn template(&self, namespace: &str, arguments: &[&str]) -> anyhow::Result<String> {
        self.template_of("chart", namespace, arguments).await
    }

    /// As [`Self::template`], for a release of another name.
    ///
    /// # Errors
    /// As [`Self::template`].
    pub async fn template_of(
        &self,
        release: &str,
        namespace: &str,
        arguments: &[&str],
    ) -> anyhow::Result<String> {
        let chart = chart().display().to_string();
        // What it takes the API server for: a helm that was built from its module knows none.
        let version = format!("--kube-version={}", cluster::kubernetes_version()?);
        let fixed = ["template", release, &chart, "--namespace", namespace, &version];
        self.run(&[&fixed, arguments].concat()).await
    }
}
