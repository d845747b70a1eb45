//! A certificate authority of the cluster's own, and the identities that it signs.
//!
//! Kubernetes takes a client's certificate for its identity: the common name is the user, the organisations are
//! its groups.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};
use serde_json::json;

/// An authority whose files lie in one folder.
pub(super) struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// Where a certificate and its key lie.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    pub certificate: PathBuf,
    pub key: PathBuf,
}

impl Authority {
    /// A new authority; its own certificate is written as `ca.crt`.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, "sluice-tests");
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        parameters.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::DigitalSignature];
        let certificate = parameters.self_signed(&key)?;
        std::fs::write(folder.join("ca.crt"), certificate.pem())?;
        Ok(Self { folder: folder.to_owned(), issuer: Issuer::new(parameters, key) })
    }

    /// The authority's certificate.
    pub fn certificate(&self) -> PathBuf {
        self.folder.join("ca.crt")
    }

    /// Signs a certificate for a client, and for a server of these names; the files are called after `name`.
    pub fn identity(
        &self,
        name: &str,
        user: &str,
        group: &str,
        dns_names: &[&str],
        addresses: &[IpAddr],
    ) -> anyhow::Result<Identity> {
        let mut parameters = CertificateParams::default();
        parameters.distinguished_name.push(DnType::CommonName, user);
        if !group.is_empty() {
            parameters.distinguished_name.push(DnType::OrganizationName, group);
        }
        parameters.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        parameters.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth];
        let addresses = addresses.iter().copied().map(SanType::IpAddress).map(Ok);
        let dns_names = dns_names.iter().map(|&name| Ok(SanType::DnsName(name.try_into()?)));
        parameters.subject_alt_names = addresses.chain(dns_names).collect::<Result<_, rcgen::Error>>()?;
        let key = KeyPair::generate()?;
        let certificate = parameters.signed_by(&key, &self.issuer)?;
        let identity = Identity {
            certificate: self.folder.join(format!("{name}.crt")),
            key: self.folder.join(format!("{name}.key")),
        };
        std::fs::write(&identity.certificate, certificate.pem())?;
        std::fs::write(&identity.key, key.serialize_pem())?;
        Ok(identity)
    }

    /// A pair of keys that belongs to no certificate, as that of service accounts' tokens: private, public.
    pub fn keys(&self, name: &str) -> anyhow::Result<[PathBuf; 2]> {
        let key = KeyPair::generate()?;
        let [private, public] = ["key", "pub"].map(|kind| self.folder.join(format!("{name}.{kind}")));
        std::fs::write(&private, key.serialize_pem())?;
        std::fs::write(&public, key.public_key_pem())?;
        Ok([private, public])
    }

    /// Signs a client's certificate and writes the kubeconfig that uses it.
    pub fn kubeconfig(&self, name: &str, user: &str, group: &str, server: &str) -> anyhow::Result<PathBuf> {
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
        let path = self.folder.join(format!("{name}.kubeconfig"));
        std::fs::write(&path, document.to_string())
            .with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}
