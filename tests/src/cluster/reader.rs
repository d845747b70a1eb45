//! Reads from the API server without the start of a kubectl, which takes a tenth of a second of processor time: for
//! conditions that are looked at again and again.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use hyper::Request;
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Client, Config};
use serde_json::Value;

/// How long the server may be silent.
const SILENCE: Duration = Duration::from_secs(120);
/// What kubectl calls a kind, the API that has it, and its name in paths.
const KINDS: &[(&str, &str, &str)] = &[
    ("configmap", "api/v1", "configmaps"),
    ("deployment", "apis/apps/v1", "deployments"),
    ("event", "api/v1", "events"),
    ("lease", "apis/coordination.k8s.io/v1", "leases"),
    ("networkpolicy", "apis/networking.k8s.io/v1", "networkpolicies"),
    ("pod", "api/v1", "pods"),
    ("poddisruptionbudget", "apis/policy/v1", "poddisruptionbudgets"),
    ("podmonitor", "apis/monitoring.coreos.com/v1", "podmonitors"),
    ("replicaset", "apis/apps/v1", "replicasets"),
    ("role", "apis/rbac.authorization.k8s.io/v1", "roles"),
    ("rolebinding", "apis/rbac.authorization.k8s.io/v1", "rolebindings"),
    ("secret", "api/v1", "secrets"),
    ("service", "api/v1", "services"),
    ("serviceaccount", "api/v1", "serviceaccounts"),
    ("tp", "apis/sluice.dev/v1alpha1", "tracepipelines"),
];

/// A client of one runtime: connections end with it.
pub(super) struct Reader(Client);

impl Reader {
    /// # Errors
    /// The file is not there, or does not say how to reach a server.
    pub(super) async fn new(kubeconfig: &Path) -> anyhow::Result<Self> {
        let kubeconfig = Kubeconfig::read_from(kubeconfig)?;
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await?;
        config.read_timeout = Some(SILENCE);
        Ok(Self(Client::try_from(config)?))
    }

    /// One object (`pod/name`), or a list of all of its kind (`pods`).
    ///
    /// # Errors
    /// There is none.
    pub(super) async fn get(&self, namespace: &str, resource: &str) -> anyhow::Result<Value> {
        self.json(&path(namespace, resource)?).await
    }

    /// What the server has at a path.
    ///
    /// # Errors
    /// There is nothing.
    pub(super) async fn json(&self, path: &str) -> anyhow::Result<Value> {
        self.0.request(Request::get(path).body(Vec::new())?).await.with_context(|| format!("GET {path}"))
    }

    /// As [`Self::json`], of what is no JSON.
    ///
    /// # Errors
    /// As [`Self::json`].
    pub(super) async fn text(&self, path: &str) -> anyhow::Result<String> {
        let answer = self.0.request_text(Request::get(path).body(Vec::new())?).await;
        answer.with_context(|| format!("GET {path}"))
    }
}

fn path(namespace: &str, resource: &str) -> anyhow::Result<String> {
    let (kind, name) = resource.split_once('/').unwrap_or((resource, ""));
    let Some((_, api, plural)) = KINDS.iter().find(|(one, _, many)| kind == *one || kind == *many) else {
        bail!("no kind is called {kind:?} in {}", file!())
    };
    let all = format!("/{api}/namespaces/{namespace}/{plural}");
    Ok(if name.is_empty() { all } else { format!("{all}/{name}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_found_by_the_names_that_kubectl_knows() {
        let found = |resource| path("here", resource).ok();
        assert_eq!(found("pod/one").unwrap(), "/api/v1/namespaces/here/pods/one");
        assert_eq!(found("pods").unwrap(), "/api/v1/namespaces/here/pods");
        assert_eq!(found("tp/one").unwrap(), "/apis/sluice.dev/v1alpha1/namespaces/here/tracepipelines/one");
        assert_eq!(found("pot/one"), None);
    }
}
