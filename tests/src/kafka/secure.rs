//! A broker that speaks TLS, asks who is there, and lets nobody do what was not granted.
//!
//! Whoever comes through the plain listener is the administrator, so that everything else here works as it does with
//! any broker.

use std::net::{IpAddr, Ipv4Addr};
use std::ops::Range;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::broker::path;
use super::{Kafka, OTHER_CLUSTER, REQUEST, USER};
use crate::certificates::Authority;
use crate::{eventually, free_port};

/// Numbers of requests.
const DESCRIBE_ACLS: i16 = 29;
const CREATE_ACLS: i16 = 30;

/// A user who shows a certificate with this common name.
pub const CERTIFIED: &str = "certified";

/// The listeners besides those of every broker, and what they are made with.
pub(super) struct Secure {
    /// TLS; asks for a client's certificate.
    tls: String,
    /// TLS; asks for the password of [`USER`], by SCRAM-SHA-512.
    scram: String,
    pods: Option<ForPods>,
    /// The broker's key and certificate in one file, as Kafka wants them.
    keys: PathBuf,
    authority: PathBuf,
}

/// Listeners on a second address, both of which ask for the password of [`USER`].
struct ForPods {
    scram: String,
    /// Asks for a client's certificate, too.
    mutual: String,
}

/// What may be done to a thing; the numbers are those of Kafka's protocol (`AclOperation`).
#[derive(Clone, Copy, Debug)]
pub enum Right {
    /// Fetch from a topic, join a group.
    Read = 3,
    /// Send to a topic.
    Write = 4,
    /// See that it is there.
    Describe = 8,
}

/// What a right is granted on; the numbers are those of Kafka's protocol (`ResourceType`).
#[derive(Clone, Copy, Debug)]
pub enum On<'a> {
    /// A topic.
    Topic(&'a str),
    /// A consumer group.
    Group(&'a str),
}

impl Secure {
    /// With an address for pods the certificate holds for that, and for these names.
    pub(super) fn new(
        authority: &Authority,
        for_pods: Option<Ipv4Addr>,
        names: &[&str],
    ) -> anyhow::Result<Self> {
        let addresses: Vec<_> = [Ipv4Addr::LOCALHOST].into_iter().chain(for_pods).map(IpAddr::from).collect();
        let broker = authority.identity("broker", "broker", "", names, &addresses)?;
        let keys = authority.folder().join("broker.pem");
        let text = std::fs::read_to_string(broker.key)? + &std::fs::read_to_string(broker.certificate)?;
        std::fs::write(&keys, text)?;
        let at = |host: Ipv4Addr| Ok::<_, anyhow::Error>(format!("{host}:{}", free_port()?));
        let own = Ipv4Addr::LOCALHOST;
        let pods = for_pods.map(|host| anyhow::Ok(ForPods { scram: at(host)?, mutual: at(host)? }));
        let (pods, authority) = (pods.transpose()?, authority.certificate());
        Ok(Self { tls: at(own)?, scram: at(own)?, pods, keys, authority })
    }

    pub(super) fn listeners(&self) -> impl Iterator<Item = (&'static str, &str)> {
        let pods = self
            .pods
            .iter()
            .flat_map(|ForPods { scram, mutual }| [("PODS_SCRAM", scram.as_str()), ("PODS_MUTUAL", mutual)]);
        [("TLS", self.tls.as_str()), ("SCRAM", &self.scram)].into_iter().chain(pods)
    }

    pub(super) fn properties(&self) -> String {
        let scram = [("scram", "none"), ("pods_scram", "none"), ("pods_mutual", "required")];
        let scram: String = scram
            .map(|(name, certificate)| {
                format!(
                    "listener.name.{name}.ssl.client.auth={certificate}
listener.name.{name}.sasl.enabled.mechanisms=SCRAM-SHA-512
listener.name.{name}.scram-sha-512.sasl.jaas.config=org.apache.kafka.common.security.scram.ScramLoginModule required;
"
                )
            })
            .concat();
        format!(
            "{scram}listener.name.tls.ssl.client.auth=required
ssl.keystore.type=PEM
ssl.keystore.location={}
ssl.truststore.type=PEM
ssl.truststore.location={}
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
super.users=User:ANONYMOUS
",
            path(&self.keys),
            path(&self.authority)
        )
    }

    /// Users with passwords are in the metadata log before the broker first starts.
    pub(super) fn format_arguments() -> [String; 2] {
        let (user, password) = USER;
        ["--add-scram".to_owned(), format!("SCRAM-SHA-512=[name={user},password={password}]")]
    }
}

impl Kafka {
    /// As [`Self::start_another`], with listeners that speak TLS by certificates of `authority`, and with rights.
    ///
    /// # Errors
    /// As [`Self::start_another`].
    pub async fn start_secure(authority: &Authority) -> anyhow::Result<Self> {
        let secure = Secure::new(authority, None, &[])?;
        let kafka = Self::start_listening(None, OTHER_CLUSTER, Some(secure)).await?;
        kafka.secure()?;
        Ok(kafka)
    }

    /// As [`Self::start_secure`], for pods, which find the broker by `names`: [`Self::pod_bootstrap`] is plain.
    ///
    /// # Errors
    /// As [`Self::start_another`].
    pub async fn start_secure_on(
        address: Ipv4Addr,
        authority: &Authority,
        names: &[&str],
    ) -> anyhow::Result<Self> {
        let secure = Secure::new(authority, Some(address), names)?;
        let kafka = Self::start_listening(Some(address), OTHER_CLUSTER, Some(secure)).await?;
        kafka.secure()?;
        Ok(kafka)
    }

    fn secure(&self) -> anyhow::Result<&Secure> {
        let secure = self.own.as_ref().and_then(|own| own.secure.as_ref());
        secure.context("this test must own its broker; unset SLUICE_TEST_KAFKA")
    }

    /// `host:port` of the listener that asks for a client's certificate.
    ///
    /// # Errors
    /// Not one of [`Self::start_secure`].
    pub fn tls_bootstrap(&self) -> anyhow::Result<&str> {
        Ok(&self.secure()?.tls)
    }

    /// `host:port` of the listener that asks for the password of [`USER`], by SASL SCRAM-SHA-512 over TLS.
    ///
    /// # Errors
    /// Not one of [`Self::start_secure`].
    pub fn scram_bootstrap(&self) -> anyhow::Result<&str> {
        Ok(&self.secure()?.scram)
    }

    /// As [`Self::scram_bootstrap`], for pods.
    ///
    /// # Errors
    /// Not one of [`Self::start_secure_on`].
    pub fn pod_scram_bootstrap(&self) -> anyhow::Result<&str> {
        Ok(&self.for_pods()?.scram)
    }

    /// As [`Self::pod_scram_bootstrap`], of the listener that asks for a client's certificate, too.
    ///
    /// # Errors
    /// Not one of [`Self::start_secure_on`].
    pub fn pod_mutual_bootstrap(&self) -> anyhow::Result<&str> {
        Ok(&self.for_pods()?.mutual)
    }

    fn for_pods(&self) -> anyhow::Result<&ForPods> {
        self.secure()?.pods.as_ref().context("this broker was started for no pods")
    }

    /// Grants a right to a user: the name with a password, or `CN=…` of a certificate. Waits until the broker knows.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn grant(&self, user: &str, right: Right, on: On<'_>) -> anyhow::Result<()> {
        let rule = rule(user, right, on)?;
        let number = 1_i32.to_be_bytes();
        let created = self.ask(CREATE_ACLS, &[&number[..], &rule].concat()).await?;
        let has = |answer: &[u8], at: Range<usize>, value: &[u8]| {
            answer.get(at).is_some_and(|found| found == value)
        };
        ensure!(has(&created, 12..14, &[0, 0]), "Kafka refuses the right: {created:?}");
        eventually("the broker to know of the right", REQUEST, async || {
            let known = self.ask(DESCRIBE_ACLS, &rule).await?;
            // The error's code and, after its empty text, how many things there are rules for.
            Ok((has(&known, 8..10, &[0, 0]) && has(&known, 12..16, &number)).then_some(()))
        })
        .await
    }

    /// A request of Kafka's protocol (<https://kafka.apache.org/protocol.html>) in its version 1: the client library's
    /// binding has no call for rights, and Kafka's own command is not among the broker's jars. The answer begins with
    /// the request's number and a throttle time, four bytes each.
    async fn ask(&self, key: i16, body: &[u8]) -> anyhow::Result<Vec<u8>> {
        let (version, number) = (1_i16.to_be_bytes(), 0_i32.to_be_bytes());
        let request = [&key.to_be_bytes()[..], &version, &number, &text("sluice-tests")?, body].concat();
        let mut broker = TcpStream::connect(&self.bootstrap).await?;
        broker.write_all(&i32::try_from(request.len())?.to_be_bytes()).await?;
        broker.write_all(&request).await?;
        let mut answer = vec![0; usize::try_from(broker.read_i32().await?)?];
        broker.read_exact(&mut answer).await?;
        Ok(answer)
    }
}

fn text(text: &str) -> anyhow::Result<Vec<u8>> {
    let length = i16::try_from(text.len())?.to_be_bytes();
    Ok([&length[..], text.as_bytes()].concat())
}

/// One that allows, as it is created, and as it is asked for.
fn rule(user: &str, right: Right, on: On<'_>) -> anyhow::Result<Vec<u8>> {
    const LITERAL: u8 = 3;
    const ALLOW: u8 = 3;
    let (kind, name) = match on {
        On::Topic(name) => (2, name),
        On::Group(name) => (3, name),
    };
    let user = text(&format!("User:{user}"))?;
    Ok([&[kind][..], &text(name)?, &[LITERAL], &user, &text("*")?, &[right as u8, ALLOW]].concat())
}
