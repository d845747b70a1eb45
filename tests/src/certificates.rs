//! A certificate authority of the tests' own, and the identities that it signs: of servers, and of clients.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair,
    KeyUsagePurpose, SanType,
};

/// An authority whose files lie in one folder.
pub struct Authority {
    folder: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

/// Where a certificate and its key lie, both as PEM.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The certificate.
    pub certificate: PathBuf,
    /// Its key, not encrypted.
    pub key: PathBuf,
}

impl Authority {
    /// A new authority; its own certificate is written as `ca.crt`.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn new(folder: &Path) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let key = KeyPair::generate()?;
        let mut parameters = CertificateParams::default();
        // Another authority has another name, too.
        let name = format!("sluice-tests {}", folder.file_name().unwrap_or_default().display());
        parameters.distinguished_name.push(DnType::CommonName, name);
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

    /// The folder with all files.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Signs a certificate for a client, and for a server of these names; the files are called after `name`.
    ///
    /// # Errors
    /// A name is none of DNS, or the disk refuses.
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
}
