//! containerd, kubelet and kube-proxy: a node that runs real pods.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use serde_json::{Value, json};

use super::control_plane::ControlPlane;
use super::image;
use super::machine::Machine;
use super::tools::commands;
use crate::certificates::Authority;
use crate::component::Component;
use crate::eventually;

/// The node's name.
const NAME: &str = "node";
/// How long it may take until it is ready; 10 s on an idle machine of two cores.
const START: Duration = Duration::from_secs(120);
/// containerd's socket, as the node sees it.
const SOCKET: &str = "/run/containerd/containerd.sock";

/// A node's processes and the machine that they run on.
pub(super) struct Node {
    // Dropped in this order: those who ask containerd first, the machine last.
    daemons: Vec<Component>,
    containerd: Component,
    machine: Machine,
}

impl Node {
    /// Starts containerd in a machine; [`Self::join`] makes it a node.
    pub fn new(folder: &Path, machine: Machine) -> anyhow::Result<Self> {
        let config = folder.join("containerd.toml");
        std::fs::write(&config, containerd(folder))?;
        let network = cni(&machine.addresses().pods());
        std::fs::create_dir_all(folder.join("cni"))?;
        std::fs::write(folder.join("cni/10-bridge.conflist"), network.to_string())?;
        let arguments = vec!["--config".to_owned(), config.display().to_string()];
        let containerd = machine.component(Path::new("containerd"), arguments)?;
        Ok(Self { daemons: Vec::new(), containerd, machine })
    }

    /// Starts kubelet and kube-proxy, and waits until the node is ready.
    pub async fn join(
        &mut self,
        folder: &Path,
        authority: &Authority,
        control_plane: &ControlPlane,
    ) -> anyhow::Result<()> {
        eventually("containerd to answer", START, async || {
            let log = self.containerd.log_tail(20);
            ensure!(self.containerd.is_running()?, "containerd ended:\n{log}");
            Ok(self.ctr(&["version"]).ok())
        })
        .await?;
        let pause = image::build_pause(folder)?;
        self.import(&pause)?;

        let (programs, server) = (commands()?, &control_plane.server);
        let address = self.machine.addresses().node();
        let user = format!("system:node:{NAME}");
        let kubeconfig = authority.kubeconfig("kubelet", &user, "system:nodes", server)?;
        let serving =
            authority.identity("kubelet-server", &user, "system:nodes", &[NAME], &[IpAddr::V4(address)])?;
        let resolv = folder.join("resolv.conf");
        std::fs::write(&resolv, "nameserver 127.0.0.1\n")?;
        let config = folder.join("kubelet.json");
        let settings = json!({
            "apiVersion": "kubelet.config.k8s.io/v1beta1",
            "kind": "KubeletConfiguration",
            "address": address,
            "authentication": {"anonymous": {"enabled": false}, "x509": {"clientCAFile": authority.certificate()}},
            "tlsCertFile": serving.certificate,
            "tlsPrivateKeyFile": serving.key,
            "containerRuntimeEndpoint": format!("unix://{SOCKET}"),
            "cgroupDriver": "cgroupfs",
            "cgroupRoot": self.machine.control_group(),
            "failCgroupV1": false,
            "failSwapOn": false,
            "oomScoreAdj": 0,
            "resolvConf": resolv,
            "clusterDNS": [self.machine.addresses().host()],
            "clusterDomain": "cluster.local",
            "volumePluginDir": "/var/lib/kubelet/volumeplugins",
            // Full disks of a developer are none of the tests' business.
            "imageGCHighThresholdPercent": 100,
            "evictionHard": {"memory.available": "50Mi", "nodefs.available": "1%", "imagefs.available": "1%"},
            "syncFrequency": "10s",
        });
        std::fs::write(&config, settings.to_string())?;
        let arguments = vec![
            format!("--config={}", config.display()),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--hostname-override={NAME}"),
            format!("--node-ip={address}"),
        ];
        let mut kubelet = self.machine.component(&programs.join("kubelet"), arguments)?;

        let kubeconfig = authority.kubeconfig("kube-proxy", "system:kube-proxy", "", server)?;
        let config = folder.join("kube-proxy.json");
        std::fs::write(&config, kube_proxy(&kubeconfig, &self.machine.addresses().pods()).to_string())?;
        let arguments = vec![format!("--config={}", config.display())];
        self.daemons.push(self.machine.component(&programs.join("kube-proxy"), arguments)?);

        let jsonpath = r#"--output=jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        eventually("the node to be ready", START, async || {
            ensure!(kubelet.is_running()?, "kubelet ended:\n{}", kubelet.log_tail(20));
            let ready = control_plane.kubectl.run(&["get", "node", NAME, jsonpath]).await;
            Ok(ready.ok().filter(|status| status == "True"))
        })
        .await?;
        self.daemons.push(kubelet);
        Ok(())
    }

    /// The machine.
    pub fn machine(&self) -> &Machine {
        &self.machine
    }

    /// Makes the images of an archive known to containerd.
    pub fn import(&self, archive: &Path) -> anyhow::Result<()> {
        self.ctr(&["images", "import", &archive.display().to_string()]).map(drop)
    }

    fn ctr(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let mut command = vec!["ctr", "--address", SOCKET, "--namespace", "k8s.io"];
        command.extend(arguments);
        self.machine.run(&command)
    }
}

fn containerd(folder: &Path) -> String {
    let (pause, cni) = (image::PAUSE, folder.join("cni"));
    format!(
        r#"version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
address = "{SOCKET}"
[plugins."io.containerd.internal.v1.opt"]
path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "{pause}"
# Without CAP_SYS_RESOURCE, as in many a container, nobody may lower it.
restrict_oom_score_adj = true
stream_server_address = "127.0.0.1"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "{}"
"#,
        cni.display()
    )
}

fn cni(pods: &str) -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "bridge",
        "plugins": [
            {
                "type": "bridge",
                "bridge": "cni0",
                "isGateway": true,
                "hairpinMode": true,
                "ipam": {
                    "type": "host-local",
                    "ranges": [[{"subnet": pods}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

fn kube_proxy(kubeconfig: &PathBuf, pods: &str) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "clientConnection": {"kubeconfig": kubeconfig},
        "hostnameOverride": NAME,
        "mode": "iptables",
        "clusterCIDR": pods,
        // So that a pod's answer to another pod of the same bridge goes back through the node.
        "iptables": {"masqueradeAll": true},
        // These are the whole machine's.
        "conntrack": {
            "maxPerCore": 0,
            "min": 0,
            "tcpEstablishedTimeout": "0s",
            "tcpCloseWaitTimeout": "0s",
        },
        "oomScoreAdj": 0,
    })
}
