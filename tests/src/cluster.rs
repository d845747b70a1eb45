//! A real Kubernetes: its own processes on free ports, or the cluster that `KUBECONFIG` names where
//! `SLUICE_TEST_CLUSTER=yes` says that the tests may change it.
//!
//! `tests/run` builds the commands (see `tests/cluster/kubernetes`). A cluster without a node takes some 5 s and
//! answers as any API server does, with all controllers; nothing that is scheduled runs. One with a node runs
//! pods of images made here; it needs root. Everything ends with the handle, or with the test process.
//!
//! What is not there: names of services but those that a test tells, dynamic volumes, a second node.

mod client;
mod control_plane;
mod cut;
mod dns;
mod faults;
mod identities;
pub mod image;
mod machine;
mod node;
mod proxy;
mod reader;
mod tools;
mod writes;

use std::ffi::OsString;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use serde_json::Value;
use tokio::sync::OnceCell;

pub use self::client::{Kubectl, Namespace, get};
pub use self::cut::CutOff;
pub use self::proxy::{ApiProxy, Sent, Watch};
pub use self::tools::{helm, kubernetes_version, kwok};
pub use self::writes::{StopAfter, Write, WriteProxy};

use self::control_plane::ControlPlane;
use self::dns::NameServer;
use self::machine::Machine;
use self::node::Node;
use self::reader::Reader;
use crate::certificates::Authority;
use crate::component::Scratch;
use crate::{eventually, sluice};

/// The image of the data plane.
pub const SLUICE_IMAGE: &str = "sluice.dev/sluice:test";
/// An image of kubectl alone, for pods that talk to the API server.
pub const KUBECTL_IMAGE: &str = "sluice.dev/kubectl:test";

/// How long the server may take to serve a kind.
const ESTABLISHED: Duration = Duration::from_secs(120);
const NO_NODE: &str = "this cluster has no node; start it with Cluster::with_node";
const NOT_OURS: &str = "this test must own its cluster; unset SLUICE_TEST_CLUSTER";

/// The kubeconfig of a given cluster.
fn given_kubeconfig() -> Option<PathBuf> {
    agreed(std::env::var_os("KUBECONFIG"), std::env::var_os("SLUICE_TEST_CLUSTER"))
}

/// `KUBECONFIG` is exported on many machines for other purposes, and tests delete CRDs: by itself it gives nothing.
fn agreed(kubeconfig: Option<OsString>, consent: Option<OsString>) -> Option<PathBuf> {
    let consents = consent.is_some_and(|word| word == "yes" || word == "replace-crd");
    kubeconfig.filter(|path| consents && !path.is_empty()).map(PathBuf::from)
}

/// A cluster and what is needed to talk to it.
pub struct Cluster {
    kubectl: Kubectl,
    sluice_image: OnceCell<()>,
    kubectl_image: OnceCell<()>,
    own: Option<Own>,
}

struct Own {
    // Dropped in this order: processes first, then their files.
    node: Option<Node>,
    control_plane: ControlPlane,
    names: Option<NameServer>,
    dir: Scratch,
}

static SHARED: OnceCell<Cluster> = OnceCell::const_new();
static SHARED_WITH_NODE: OnceCell<Cluster> = OnceCell::const_new();

impl Cluster {
    /// Starts a control plane, or takes the cluster that is given.
    ///
    /// # Errors
    /// The commands have not been built, or something does not answer in time.
    pub async fn start() -> anyhow::Result<Self> {
        if let Some(given) = Self::given() {
            return Ok(given);
        }
        let dir = Scratch::new("sluice-cluster-")?;
        let authority = Authority::new(&dir.path().join("pki"))?;
        let control_plane = ControlPlane::start(&dir.path().join("control-plane"), &authority, None).await?;
        Ok(Self::own(control_plane, None, None, dir))
    }

    /// As [`Self::start`], with a node that runs pods.
    ///
    /// # Errors
    /// As [`Self::start`]; or the test does not run as root.
    pub async fn with_node() -> anyhow::Result<Self> {
        if let Some(given) = Self::given() {
            return Ok(given);
        }
        let dir = Scratch::new("sluice-cluster-")?;
        let folder = dir.path().join("node");
        let authority = Authority::new(&dir.path().join("pki"))?;
        let machine = Machine::start(&folder).await?;
        let addresses = machine.addresses();
        let mut node = Node::new(&folder, machine)?;
        let plane = dir.path().join("control-plane");
        let control_plane = ControlPlane::start(&plane, &authority, Some(addresses)).await?;
        node.join(&folder, &authority, &control_plane).await?;
        let names = NameServer::start(addresses.host())?;
        Ok(Self::own(control_plane, Some(node), Some(names), dir))
    }

    /// The control plane that all tests of a process share.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn shared() -> anyhow::Result<&'static Self> {
        SHARED.get_or_try_init(Self::start).await
    }

    /// The cluster with a node that all tests of a process share.
    ///
    /// # Errors
    /// As [`Self::with_node`].
    pub async fn shared_with_node() -> anyhow::Result<&'static Self> {
        SHARED_WITH_NODE.get_or_try_init(Self::with_node).await
    }

    fn given() -> Option<Self> {
        given_kubeconfig().map(|kubeconfig| Self::new(Kubectl::new("kubectl".into(), kubeconfig), None))
    }

    fn own(control_plane: ControlPlane, node: Option<Node>, names: Option<NameServer>, dir: Scratch) -> Self {
        let kubectl = control_plane.kubectl.clone();
        Self::new(kubectl, Some(Own { node, control_plane, names, dir }))
    }

    fn new(kubectl: Kubectl, own: Option<Own>) -> Self {
        Self { kubectl, sluice_image: OnceCell::new(), kubectl_image: OnceCell::new(), own }
    }

    /// A kubeconfig with the rights of an administrator.
    pub fn kubeconfig(&self) -> &Path {
        self.kubectl.kubeconfig()
    }

    /// Runs kubectl and returns its output.
    ///
    /// # Errors
    /// It failed; the message holds what it said.
    pub async fn kubectl(&self, arguments: &[&str]) -> anyhow::Result<String> {
        self.kubectl.run(arguments).await
    }

    /// A command of kubectl, to be started by the caller.
    pub fn kubectl_command(&self, arguments: &[&str]) -> std::process::Command {
        self.kubectl.command(arguments)
    }

    /// As [`Self::kubectl`], with a standard input (`-f -`).
    ///
    /// # Errors
    /// As [`Self::kubectl`].
    pub async fn kubectl_with(&self, arguments: &[&str], input: &str) -> anyhow::Result<String> {
        self.kubectl.run_with(arguments, input).await
    }

    /// Applies documents of YAML or JSON, on the server's side.
    ///
    /// # Errors
    /// The server refuses one.
    pub async fn apply(&self, documents: &str) -> anyhow::Result<()> {
        self.kubectl.run_with(&["apply", "--server-side", "-f", "-"], documents).await.map(drop)
    }

    /// As [`Self::apply`], of CRDs, whose kinds can be used afterwards.
    ///
    /// # Errors
    /// The server refuses one, or does not serve it soon.
    pub async fn apply_crds(&self, documents: &str) -> anyhow::Result<()> {
        self.apply(documents).await?;
        self.crds_established().await
    }

    /// Waits until the server serves every CRD that it has.
    ///
    /// # Errors
    /// It does not soon.
    pub async fn crds_established(&self) -> anyhow::Result<()> {
        let reader = Reader::new(self.kubeconfig()).await?;
        eventually("the CRDs to be served", ESTABLISHED, async || {
            let all = reader.json("/apis/apiextensions.k8s.io/v1/customresourcedefinitions").await?;
            let all = all["items"].as_array().context("no list of CRDs")?;
            // One that has just been made has no conditions yet.
            let established = |crd: &Value| {
                crd["status"]["conditions"].as_array().is_some_and(|conditions| {
                    let is_met = |one: &Value| one["type"] == "Established" && one["status"] == "True";
                    conditions.iter().any(is_met)
                })
            };
            Ok((!all.is_empty() && all.iter().all(established)).then_some(()))
        })
        .await
    }

    /// Tells pods where a service is, by its full name; a given cluster has a name server of its own.
    ///
    /// # Errors
    /// The cluster has no node.
    pub fn tell_name(&self, name: &str, address: Ipv4Addr) -> anyhow::Result<()> {
        let Some(own) = &self.own else { return Ok(()) };
        own.names.as_ref().context(NO_NODE)?.tell(name, address);
        Ok(())
    }

    /// A new namespace of exactly this name, for what names it.
    ///
    /// # Errors
    /// The server refuses, for instance because there is one.
    pub async fn namespace_called(&self, name: &str) -> anyhow::Result<Namespace> {
        Namespace::called(self.kubectl.clone(), name.to_owned()).await
    }

    /// A new namespace for one test, whose name begins with `prefix`.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn namespace(&self, prefix: &str) -> anyhow::Result<Namespace> {
        Namespace::new(self.kubectl.clone(), prefix).await
    }

    /// The host's address for pods: what a test starts for them listens here (see `Kafka::start_on`).
    ///
    /// # Errors
    /// The cluster has no node; or it is given, and `SLUICE_TEST_HOST_ADDRESS` is not.
    pub fn host_address(&self) -> anyhow::Result<Ipv4Addr> {
        match &self.own {
            Some(own) => Ok(own.node.as_ref().context(NO_NODE)?.machine().addresses().host()),
            None => {
                let given = std::env::var("SLUICE_TEST_HOST_ADDRESS");
                given
                    .context("with SLUICE_TEST_CLUSTER, set SLUICE_TEST_HOST_ADDRESS too")?
                    .parse()
                    .context("not IPv4")
            }
        }
    }

    /// Builds an image from binaries, the first of which is its entry point, and gives it to the node. A given
    /// cluster must have it already (`tests/image/build`, `kind load image-archive`).
    ///
    /// # Errors
    /// It cannot be built, or the cluster has no node.
    pub async fn load_image(&self, name: &str, binaries: &[&Path]) -> anyhow::Result<()> {
        let Some(own) = &self.own else { return Ok(()) };
        let node = own.node.as_ref().context(NO_NODE)?;
        let archive = image::build(name, binaries, own.dir.path())?;
        node.import(&archive)?;
        Ok(std::fs::remove_file(archive)?)
    }

    /// The name of the image with the `sluice` binary of this build, which the node has then.
    ///
    /// # Errors
    /// As [`Self::load_image`].
    pub async fn sluice_image(&self) -> anyhow::Result<&'static str> {
        let load = async || self.load_image(SLUICE_IMAGE, &[&sluice::binary()?]).await;
        self.sluice_image.get_or_try_init(load).await?;
        Ok(SLUICE_IMAGE)
    }

    /// The name of an image whose entry point is kubectl, which the node has then.
    ///
    /// # Errors
    /// As [`Self::load_image`].
    pub async fn kubectl_image(&self) -> anyhow::Result<&'static str> {
        let load = async || self.load_image(KUBECTL_IMAGE, &[self.kubectl.program()]).await;
        self.kubectl_image.get_or_try_init(load).await?;
        Ok(KUBECTL_IMAGE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kubeconfig_alone_gives_no_cluster() {
        let given = |kubeconfig: &str, consent: Option<&str>| {
            agreed(Some(kubeconfig.into()), consent.map(Into::into))
        };
        for consent in [None, Some(""), Some("no")] {
            assert_eq!(given("/home/me/.kube/config", consent), None);
        }
        assert_eq!(given("", Some("yes")), None);
        for consent in ["yes", "replace-crd"] {
            assert_eq!(given("/tmp/kind", Some(consent)), Some(PathBuf::from("/tmp/kind")));
        }
    }
}
