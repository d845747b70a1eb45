//! Where `tests/run` has put the commands that it builds.

use std::path::PathBuf;

use anyhow::{Context, ensure};

use crate::cache_dir;

const KUBERNETES: &str = include_str!("../../cluster/kubernetes/go.mod");

/// Kubernetes' own commands.
pub(super) fn commands() -> anyhow::Result<PathBuf> {
    built("SLUICE_TEST_KUBERNETES", "kubernetes", KUBERNETES, "k8s.io/kubernetes")
}

/// The version of Kubernetes that `tests/run` builds, such as `v1.34.4`.
///
/// # Errors
/// None is pinned.
pub fn kubernetes_version() -> anyhow::Result<&'static str> {
    pinned(KUBERNETES, "k8s.io/kubernetes").context("no version of Kubernetes is pinned")
}

/// The helm command of a major version, 3 or 4; that of the `PATH` where a cluster is given (`SLUICE_TEST_CLUSTER`).
///
/// # Errors
/// It has not been built.
pub fn helm(major: u8) -> anyhow::Result<PathBuf> {
    if super::given_kubeconfig().is_some() {
        return Ok("helm".into());
    }
    let go_mod = match major {
        3 => include_str!("../../cluster/helm3/go.mod"),
        _ => include_str!("../../cluster/helm4/go.mod"),
    };
    let folder =
        built(&format!("SLUICE_TEST_HELM{major}"), "helm", go_mod, &format!("helm.sh/helm/v{major}"))?;
    Ok(folder.join("helm"))
}

/// The kwok command, which `tests/run --prepare --with-kwok` builds.
///
/// # Errors
/// It has not been built.
pub fn kwok() -> anyhow::Result<PathBuf> {
    let go_mod = include_str!("../../cluster/kwok/go.mod");
    Ok(built("SLUICE_TEST_KWOK", "kwok", go_mod, "sigs.k8s.io/kwok")?.join("kwok"))
}

/// The folder that an environment variable names, else the one in the cache of the pinned version.
fn built(variable: &str, name: &str, go_mod: &str, module: &str) -> anyhow::Result<PathBuf> {
    let folder = match std::env::var_os(variable) {
        Some(folder) => folder.into(),
        None => {
            let version =
                pinned(go_mod, module).with_context(|| format!("no version of {module} is pinned"))?;
            cache_dir().join(format!("{name}-{version}/bin"))
        }
    };
    ensure!(folder.join("complete").exists(), "no {name} in {}; run `tests/run --prepare`", folder.display());
    Ok(folder)
}

/// The version that a `go.mod` requires of a module.
fn pinned<'g>(go_mod: &'g str, module: &str) -> Option<&'g str> {
    let required = |line: &'g str| {
        let mut words = line.trim_start_matches("require").split_whitespace();
        (words.next() == Some(module)).then(|| words.next()).flatten()
    };
    go_mod.lines().find_map(required)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_module_pins_a_version() {
        for (go_mod, module) in [
            (KUBERNETES, "k8s.io/kubernetes"),
            (include_str!("../../cluster/helm3/go.mod"), "helm.sh/helm/v3"),
            (include_str!("../../cluster/helm4/go.mod"), "helm.sh/helm/v4"),
        ] {
            let version = pinned(go_mod, module).unwrap();
            assert!(version.starts_with('v'), "{module} {version}");
        }
    }
}
