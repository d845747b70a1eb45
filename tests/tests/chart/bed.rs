//! The chart on an API server, and an operator with the rights that it gives and no others.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use sluice_tests::cluster::{Cluster, Namespace};
use sluice_tests::component::Scratch;
use sluice_tests::eventually;
use sluice_tests::helm::{Helm, chart};
use sluice_tests::operator::{CRD, Operator};
use tokio::sync::OnceCell;

/// How long anything may take that is not measured.
pub const SOON: Duration = Duration::from_secs(90);
/// The release that every test makes.
pub const RELEASE: &str = "sluice";

/// Stands in for kubectl: notes what it is asked, and keeps what it should apply.
const KUBECTL: &str = r#"#!/bin/sh
echo "$*" >>"$DIR/called"
case "$*" in *"apply -f -"*) cat >"$DIR/applied" ;; esac
"#;

/// Kinds of Prometheus' operator, in name only: what the chart and the operator write is taken, not checked.
fn monitoring_kinds() -> String {
    let kinds = [
        ("PodMonitor", "podmonitors"),
        ("ServiceMonitor", "servicemonitors"),
        ("PrometheusRule", "prometheusrules"),
    ];
    let crd = |(kind, plural): (&str, &str)| {
        let names = json!({ "kind": kind, "plural": plural, "singular": kind.to_lowercase() });
        let schema = json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
        json!({
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": { "name": format!("{plural}.monitoring.coreos.com") },
            "spec": {
                "group": "monitoring.coreos.com",
                "scope": "Namespaced",
                "names": names,
                "versions": [
                    { "name": "v1", "served": true, "storage": true, "schema": { "openAPIV3Schema": schema } },
                ],
            },
        })
        .to_string()
    };
    kinds.map(crd).join("\n---\n")
}

/// The cluster of all who neither install nor remove the CRD, with that and with [`monitoring_kinds`].
pub async fn shared() -> &'static Cluster {
    static KINDS: OnceCell<()> = OnceCell::const_new();
    let cluster = Cluster::shared().await.unwrap();
    let kinds = format!("{CRD}\n---\n{}", monitoring_kinds());
    KINDS.get_or_try_init(|| cluster.apply_crds(&kinds)).await.unwrap();
    cluster
}

/// A namespace of a cluster, and helm for it.
pub struct Bed<'c> {
    pub cluster: &'c Cluster,
    pub namespace: Namespace,
    pub helm: Helm,
}

impl<'c> Bed<'c> {
    pub async fn new(cluster: &'c Cluster, major: u8) -> Self {
        cluster.apply_crds(&monitoring_kinds()).await.unwrap();
        let namespace = cluster.namespace("chart").await.unwrap();
        Self { cluster, namespace, helm: Helm::on(major, cluster).unwrap() }
    }

    /// Runs helm on the namespace: `install`, `upgrade` and `template` get the chart.
    pub async fn helm(&self, command: &str, arguments: &[&str]) -> anyhow::Result<String> {
        let chart = chart().display().to_string();
        let mut all = vec![command, "--namespace", self.namespace.name(), RELEASE];
        if ["install", "upgrade"].contains(&command) {
            all.push(&chart);
        }
        all.extend(arguments);
        self.helm.run(&all).await
    }

    /// The hooks of `helm test`, as they lie in the release, and the name that theirs begin with.
    pub async fn test_hooks(&self) -> (String, String) {
        let get = ["get", "hooks", RELEASE, "--namespace", self.namespace.name()];
        let hooks = self.helm.run(&get).await.unwrap();
        let pipeline = hooks.split("\n---").find(|hook| hook.contains("kind: TracePipeline")).unwrap();
        let name = pipeline.lines().find_map(|line| line.strip_prefix("  name: ")).unwrap().to_owned();
        (hooks, name)
    }

    /// The document that the notes tell a person to apply: what kubectl gets when their commands are pasted into a
    /// shell as they stand. In this namespace, where they name one that is to be made.
    pub async fn first_pipeline(&self) -> String {
        let notes = self.helm("status", &["--output=json"]).await.unwrap();
        let notes: Value = serde_json::from_str(&notes).unwrap();
        let notes = notes["info"]["notes"].as_str().unwrap();
        let first = notes.find("create secret").and_then(|at| notes[..at].rfind('\n')).unwrap();
        let (commands, _) = notes[first..].split_once("\nChange the rate").unwrap();
        let dir = Scratch::new("sluice-notes-").unwrap();
        let kubectl = dir.path().join("kubectl");
        std::fs::write(&kubectl, KUBECTL).unwrap();
        std::fs::set_permissions(&kubectl, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let path = format!("{}:{}", dir.path().display(), std::env::var("PATH").unwrap());
        let mut bash = std::process::Command::new("bash");
        let pasted = bash.args(["-c", commands]).env("PATH", path).env("DIR", dir.path()).output().unwrap();
        // A document that does not end where it seems to is only a warning.
        let complaints = String::from_utf8_lossy(&pasted.stderr);
        assert!(pasted.status.success() && complaints.is_empty(), "{complaints}\n{commands}");
        let read = |file: &str| std::fs::read_to_string(dir.path().join(file)).unwrap();
        let called = read("called");
        assert!(called.contains("create secret") && called.contains("--for=condition=Ready"), "{called}");
        // Only an operator that looks after its own namespace alone has no other one to name.
        let is_beside = called.contains(self.namespace.name());
        assert!(!(is_beside && called.contains("create namespace")), "beside the operator: {called}");
        read("applied")
            .replace("namespace: \"observability\"\n", &format!("namespace: \"{}\"\n", self.namespace.name()))
    }

    /// Starts the operator as its Deployment would, as the account of its Deployment.
    pub async fn operator(&self) -> (Operator, Scratch) {
        let (operator, dir) = self.spawn_operator().await;
        operator.leads().await.unwrap();
        (operator, dir)
    }

    /// The same, without waiting.
    pub async fn spawn_operator(&self) -> (Operator, Scratch) {
        let deployment = self.namespace.get("deployment/sluice-operator").await.unwrap();
        let pod = &deployment["spec"]["template"]["spec"];
        let account = pod["serviceAccountName"].as_str().unwrap();
        let container = &pod["containers"][0];
        let argument = |argument: &Value| match argument.as_str().unwrap() {
            // Every test has the ports of this machine.
            "--admin=[::]:8080" => "--admin=127.0.0.1:0".to_owned(),
            text => text.replace("$(POD_NAMESPACE)", self.namespace.name()).replace("$(POD_NAME)", "test"),
        };
        let arguments: Vec<_> = container["args"].as_array().unwrap().iter().map(argument).collect();
        assert!(!arguments.iter().any(|argument| argument.contains('$')), "{arguments:?}");
        let filters = vec![("RUST_LOG".to_owned(), "info,sluice_operator=debug".to_owned())];
        let (kubeconfig, dir) = self.kubeconfig_of(account).await.unwrap();
        (Operator::spawn_as(&kubeconfig, arguments, filters).unwrap(), dir)
    }

    /// A kubeconfig with the rights of a service account and no others.
    async fn kubeconfig_of(&self, account: &str) -> anyhow::Result<(PathBuf, Scratch)> {
        let token = self.namespace.kubectl(&["create", "token", account]).await?;
        let view = ["config", "view", "--raw", "--flatten", "--minify", "--output=json"];
        let mut config: Value = serde_json::from_str(&self.cluster.kubectl(&view).await?)?;
        let user = config.pointer_mut("/users/0/user").context("the kubeconfig names no user")?;
        *user = json!({ "token": token.trim() });
        let dir = Scratch::new("sluice-chart-")?;
        let path = dir.path().join("kubeconfig");
        std::fs::write(&path, config.to_string())?;
        Ok((path, dir))
    }

    /// Waits until an object of a namespace is as `condition` wants it.
    pub async fn until(&self, resource: &str, condition: impl Fn(&Value) -> bool) -> Value {
        until(&self.namespace, resource, condition).await
    }

    /// Whether an account or a person may do something in a namespace; `what` is RESOURCE or RESOURCE/SUBRESOURCE.
    pub async fn may(&self, who: &str, verb: &str, what: &str, namespace: &str) -> bool {
        // To kubectl, what comes behind a slash is a name.
        let (resource, subresource) = what.split_once('/').unwrap_or((what, ""));
        let subresource = format!("--subresource={subresource}");
        let question = ["auth", "can-i", verb, resource, &subresource, "--as", who, "--namespace", namespace];
        self.cluster.kubectl(&question).await.is_ok_and(|answer| answer.trim() == "yes")
    }
}

/// Waits until an object is as `condition` wants it.
pub async fn until(namespace: &Namespace, resource: &str, condition: impl Fn(&Value) -> bool) -> Value {
    let mut last = Value::Null;
    let waited = eventually(resource, SOON, async || {
        let object = namespace.get(resource).await.unwrap_or_default();
        last.clone_from(&object);
        Ok(condition(&object).then_some(object))
    });
    let waited = waited.await;
    let waited = waited.with_context(|| format!("last seen: {last:#}"));
    namespace.explain(waited).await.unwrap()
}

/// Fails where the operator was refused anything.
pub fn nothing_was_refused(operator: &Operator) {
    for line in operator.lines().unwrap() {
        let text = line.to_string();
        assert!(!text.contains("orbidden") && !text.contains("an event was not written"), "{text}");
    }
    operator.log_is_clean(&[]).unwrap();
}
