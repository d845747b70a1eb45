//! The identities of a cluster's parts.
//!
//! Kubernetes takes a client's certificate for its identity: the common name is the user, the organisations are
//! its groups.

use std::path::PathBuf;

use anyhow::Context;
use rcgen::KeyPair;
use serde_json::json;

use crate::certificates::Authority;

impl Authority {
    /// A pair of keys that belongs to no certificate, as that of service accounts' tokens: private, public.
    pub(super) fn keys(&self, name: &str) -> anyhow::Result<[PathBuf; 2]> {
        let key = KeyPair::generate()?;
        let [private, public] = ["key", "pub"].map(|kind| self.folder().join(format!("{name}.{kind}")));
        std::fs::write(&private, key.serialize_pem())?;
        std::fs::write(&public, key.public_key_pem())?;
        Ok([private, public])
    }

    /// Signs a client's certificate and writes the kubeconfig that uses it.
    pub(super) fn kubeconfig(
        &self,
        name: &str,
        user: &str,
        group: &str,
        server: &str,
    ) -> anyhow::Result<PathBuf> {
        let identity = self.identity(name, user, group, &[], &[])?;
        // JSON is YAML.
        let document = json!({
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{
                "name": "tests",
                "cluster": {"server": server, "certificate-authority": self.certificate()},
            }],
            "users": [{
                "name": name,
                "user": {"client-certificate": identity.certificate, "client-key": identity.key},
            }],
            "contexts": [{"name": "tests", "context": {"cluster": "tests", "user": name}}],
            "current-context": "tests",
        });
        let path = self.folder().join(format!("{name}.kubeconfig"));
        std::fs::write(&path, document.to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}
