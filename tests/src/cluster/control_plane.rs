//! etcd, API server, controller manager and scheduler, as processes on free ports.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use nix::unistd::Uid;

use super::client::Kubectl;
use super::machine::Addresses;
use super::reader::Reader;
use super::tools::commands;
use crate::certificates::Authority;
use crate::component::{Component, Launch};
use crate::disk::Disk;
use crate::{eventually, free_port};

/// How long all of it may take; 5 s on an idle machine of two cores.
const START: Duration = Duration::from_secs(120);
const API_SERVER: &str = "kube-apiserver";
/// Twice what etcd keeps at most, with its log. Of it, memory takes only what is written: some 150 MiB.
const ETCD_DISK: u64 = 4 << 30;
/// Nothing reaches it: stands where the API server's address must, as loopback is refused there.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(198, 18, 255, 1);

/// The processes of a control plane.
pub(super) struct ControlPlane {
    /// With the rights of an administrator.
    pub kubectl: Kubectl,
    /// `https://…`
    pub server: String,
    /// `http://…`
    pub etcd_url: String,
    api_launch: Launch,
    // Dropped in this order: clients first.
    _clients: [Component; 2],
    pub api_server: Component,
    _etcd: Component,
    _disk: Option<Disk>,
}

impl ControlPlane {
    /// Starts one on the loopback interface, or on the host's address of a cluster with a node; waits until it
    /// is ready.
    pub async fn start(
        folder: &Path,
        authority: &Authority,
        network: Option<Addresses>,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(folder)?;
        let programs = commands()?;
        let program = |name: &str| programs.join(name);
        let address = network.map_or(Ipv4Addr::LOCALHOST, Addresses::host);
        let (etcd_port, port) = (free_port()?, free_port()?);
        let etcd_url = format!("http://127.0.0.1:{etcd_port}");
        let server = format!("https://{address}:{port}");

        // etcd answers a write when its disk has it. On one that other tests fill, that takes many seconds at times, for
        // which no operator keeps its lead. Only root may mount another.
        let mount = || Disk::mount(&folder.join("etcd"), ETCD_DISK);
        let disk = Uid::effective().is_root().then(mount).transpose()?;
        let etcd = start(folder, Path::new("etcd"), etcd(folder, &etcd_url, free_port()?))?;
        let tokens = authority.keys("service-accounts")?;
        let arguments = api_server(authority, &tokens, network, &etcd_url, port)?;
        let api_launch = launch(folder, &program("kube-apiserver"), arguments);
        let mut api_server = Component::start(API_SERVER, &api_launch)?;

        let kubeconfig = authority.kubeconfig("admin", "admin", "system:masters", &server)?;
        let kubectl = Kubectl::new(program("kubectl"), kubeconfig);
        ready(&kubectl, &mut api_server).await?;

        let client = |name: &str| {
            authority
                .kubeconfig(name, &format!("system:{name}"), "", &server)
                .map(|path| path.display().to_string())
        };
        let mut manager = vec![
            "--kubeconfig".to_owned(),
            client("kube-controller-manager")?,
            "--use-service-account-credentials".to_owned(),
            flag("service-account-private-key-file", tokens[0].display()),
            flag("root-ca-file", authority.certificate().display()),
            // Made at the start; its default is a folder of the system.
            flag("flex-volume-plugin-dir", folder.join("volume-plugins").display()),
            // A machine that is too busy to renew a node's lease in 40 s is still there.
            "--node-monitor-grace-period=10m".to_owned(),
        ];
        let mut scheduler = vec!["--kubeconfig".to_owned(), client("kube-scheduler")?];
        for arguments in [&mut manager, &mut scheduler] {
            // One of each; nobody asks them anything.
            arguments.extend(["--leader-elect=false", "--secure-port=0"].map(str::to_owned));
            // With the default of 20 requests per second the controllers take 4 s longer to start.
            arguments.extend(["--kube-api-qps=500", "--kube-api-burst=500"].map(str::to_owned));
        }
        let clients = [
            start(folder, &program("kube-controller-manager"), manager)?,
            start(folder, &program("kube-scheduler"), scheduler)?,
        ];
        // Pods can be created from now on.
        let reader = Reader::new(kubectl.kubeconfig()).await?;
        eventually("the controllers to work", START, async || {
            Ok(reader.get("default", "serviceaccount/default").await.ok())
        })
        .await?;
        Ok(Self {
            kubectl,
            server,
            etcd_url,
            api_launch,
            _clients: clients,
            api_server,
            _etcd: etcd,
            _disk: disk,
        })
    }

    /// Starts a killed API server again, on the same port and data; waits until it is ready.
    pub async fn restart_api_server(&mut self) -> anyhow::Result<()> {
        if !self.api_server.is_running()? {
            self.api_server = Component::start(API_SERVER, &self.api_launch)?;
        }
        ready(&self.kubectl, &mut self.api_server).await
    }
}

async fn ready(kubectl: &Kubectl, api_server: &mut Component) -> anyhow::Result<()> {
    let reader = Reader::new(kubectl.kubeconfig()).await?;
    eventually("the API server to be ready", START, async || {
        ensure!(api_server.is_running()?, "the API server ended:\n{}", api_server.log_tail(20));
        Ok(reader.text("/readyz").await.ok().map(drop))
    })
    .await
}

fn start(folder: &Path, program: &Path, arguments: Vec<String>) -> anyhow::Result<Component> {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    Component::start(&name, &launch(folder, program, arguments))
}

/// The log is called after the program.
fn launch(folder: &Path, program: &Path, arguments: Vec<String>) -> Launch {
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    let log = folder.join(format!("{name}.log"));
    Launch { program: program.to_owned(), arguments, log, ..Launch::default() }
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}

fn etcd(folder: &Path, clients: &str, peer_port: u16) -> Vec<String> {
    let peers = format!("http://127.0.0.1:{peer_port}");
    vec![
        flag("name", "tests"),
        flag("data-dir", folder.join("etcd").display()),
        flag("listen-client-urls", clients),
        flag("advertise-client-urls", clients),
        flag("listen-peer-urls", &peers),
        flag("initial-advertise-peer-urls", &peers),
        flag("initial-cluster", format!("tests={peers}")),
    ]
}

fn api_server(
    authority: &Authority,
    [private, public]: &[PathBuf; 2],
    network: Option<Addresses>,
    etcd_url: &str,
    port: u16,
) -> anyhow::Result<Vec<String>> {
    let address = network.map_or(Ipv4Addr::LOCALHOST, Addresses::host);
    let mut addresses = vec![IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V4(address)];
    addresses.extend(network.map(|network| IpAddr::V4(network.api_service())));
    let names = ["localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc"];
    let serving = authority.identity("kube-apiserver", "kube-apiserver", "", &names, &addresses)?;
    let kubelet =
        authority.identity("kube-apiserver-kubelet-client", "kube-apiserver", "system:masters", &[], &[])?;
    let ca = authority.certificate();
    let services = network.map_or_else(|| "198.18.254.0/24".to_owned(), Addresses::services);
    Ok(vec![
        flag("etcd-servers", etcd_url),
        flag("bind-address", address),
        flag("secure-port", port),
        flag("advertise-address", network.map_or(NOWHERE, Addresses::host)),
        flag("tls-cert-file", serving.certificate.display()),
        flag("tls-private-key-file", serving.key.display()),
        flag("client-ca-file", ca.display()),
        flag("authorization-mode", "Node,RBAC"),
        flag("enable-admission-plugins", "NodeRestriction"),
        flag("service-account-issuer", "https://kubernetes.default.svc"),
        flag("service-account-key-file", public.display()),
        flag("service-account-signing-key-file", private.display()),
        flag("service-cluster-ip-range", services),
        flag("kubelet-certificate-authority", ca.display()),
        flag("kubelet-client-certificate", kubelet.certificate.display()),
        flag("kubelet-client-key", kubelet.key.display()),
        flag("kubelet-preferred-address-types", "InternalIP"),
        flag("allow-privileged", "true"),
    ])
}
