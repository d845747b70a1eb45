//! The machine that the node runs on: namespaces and control groups of its own.
//!
//! Guarantees: what runs in it sees its own processes, mounts, addresses and iptables rules, and its own `/run`,
//! `/var/lib` and `/var/log`. All of that ends with one process, so nothing is left behind, also after kill -9 of
//! the test: the kernel ends the processes, then takes the mounts, the bridge, the rules and the link with them.
//!
//! Only a link between host and node lies outside: it carries the traffic of pods to the API server and to
//! components on the host. Nothing is forwarded further: the node has no default route.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::unistd::Uid;

use crate::component::{Component, Launch};
use crate::eventually;

const START: Duration = Duration::from_secs(60);
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/cluster/machine.sh");
/// How many clusters may run on a machine at once.
const SLOTS: u8 = 100;

/// The addresses of one cluster. They are of 198.18.0.0/15, the range set aside for tests of networks
/// (RFC 2544), which nobody's own network uses.
#[derive(Clone, Copy, Debug)]
pub(super) struct Addresses {
    slot: u8,
}

impl Addresses {
    /// The host's end of the link.
    pub fn host(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.slot, 1)
    }

    /// The node's end of the link.
    pub fn node(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, self.slot, 2)
    }

    /// Where pods get their addresses from.
    pub fn pods(self) -> String {
        format!("198.19.{}.0/24", self.slot)
    }

    /// Where services get their addresses from.
    pub fn services(self) -> String {
        format!("198.18.{}.0/24", 128 + self.slot)
    }

    /// The address of the service `kubernetes`.
    pub fn api_service(self) -> Ipv4Addr {
        Ipv4Addr::new(198, 18, 128 + self.slot, 1)
    }
}

/// The namespaces, the link to them, and the control group.
pub(super) struct Machine {
    addresses: Addresses,
    folder: PathBuf,
    // Dropped in this order: the processes first, then their group.
    first: Component,
    group: ControlGroup,
}

impl Machine {
    /// Makes the namespaces; their `/run`, `/var/lib` and `/var/log` lie below `folder`.
    pub async fn start(folder: &Path) -> anyhow::Result<Self> {
        ensure!(
            Uid::effective().is_root(),
            "a node needs root (or name a cluster with nodes, see `tests/run --help`)"
        );
        std::fs::create_dir_all(folder)?;
        let group = ControlGroup::new()?;
        let words = "--mount --net --pid --kill-child --mount-proc --propagation private";
        let launch = Launch {
            program: "unshare".into(),
            arguments: words
                .split(' ')
                .map(str::to_owned)
                .chain([SCRIPT.to_owned(), folder.display().to_string()])
                .collect(),
            environment: environment(),
            log: folder.join("machine.log"),
        };
        let mut first = Component::start("the node's machine", &launch)?;
        eventually("the node's namespaces", START, async || {
            ensure!(first.is_running()?, "no namespaces:\n{}", first.log_tail(10));
            Ok(folder.join("ready").exists().then_some(()))
        })
        .await?;
        let addresses = link(first.pid())?;
        Ok(Self { addresses, folder: folder.to_owned(), first, group })
    }

    /// Its addresses.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// The control group below which its pods lie, as kubelet names it.
    pub fn control_group(&self) -> String {
        format!("/{}", self.group.name)
    }

    /// Starts a program in there; its log is `NAME.log` in the folder.
    pub fn component(&self, program: &Path, arguments: Vec<String>) -> anyhow::Result<Component> {
        let name = program.file_name().context("no program")?.to_string_lossy().into_owned();
        let mut words = self.enter();
        words.extend([program.display().to_string()]);
        words.extend(arguments);
        let launch = Launch {
            program: "nsenter".into(),
            arguments: words,
            environment: environment(),
            log: self.folder.join(format!("{name}.log")),
        };
        Component::start(&name, &launch)
    }

    /// Runs a command in there to its end.
    pub fn run(&self, command: &[&str]) -> anyhow::Result<String> {
        let mut all = vec!["nsenter".to_owned()];
        all.extend(self.enter());
        all.extend(command.iter().map(|&word| word.to_owned()));
        run(&all)
    }

    fn enter(&self) -> Vec<String> {
        let pid = self.first.pid();
        // `unshare` itself stays outside of the process namespace that it made.
        let line = format!(
            "--target {pid} --mount --net --pid=/proc/{pid}/ns/pid_for_children -- setpriv --pdeathsig KILL"
        );
        line.split(' ').map(str::to_owned).collect()
    }
}

/// Links the host with the network namespace of a process; the link's name holds the slot, so that two tests
/// cannot take the same one.
fn link(pid: i32) -> anyhow::Result<Addresses> {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let mut refused = None;
    // Not all begin at the same slot: what a cluster leaves behind goes within a second, not at once.
    for slot in (0..SLOTS).map(|step| (pid.unsigned_abs() as u8).wrapping_add(step) % SLOTS) {
        let (addresses, name) = (Addresses { slot }, format!("sluice{slot}"));
        if let Err(error) = run(&words(&format!("ip link add {name} type veth peer name eth0 netns {pid}"))) {
            refused = Some(error);
            continue;
        }
        let (host, node) = (addresses.host(), addresses.node());
        for line in [
            format!("ip address add {host}/30 dev {name}"),
            format!("ip link set {name} up"),
            format!("nsenter --target {pid} --net ip address add {node}/30 dev eth0"),
            format!("nsenter --target {pid} --net ip link set eth0 up"),
            // A process of the node needs a route to a service before iptables gives it another goal.
            format!("nsenter --target {pid} --net ip route add {} via {host}", addresses.services()),
            format!("ip route add {} via {node}", addresses.services()),
            format!("ip route add {} via {node}", addresses.pods()),
        ] {
            run(&words(&line))?;
        }
        return Ok(addresses);
    }
    Err(refused.unwrap_or_else(|| anyhow::anyhow!("no free address")))
}

/// Daemons and what they call lie in folders that a user's `PATH` may lack.
fn environment() -> Vec<(String, String)> {
    let path = std::env::var("PATH").unwrap_or_default();
    vec![("PATH".to_owned(), format!("{path}:/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"))]
}

fn run(command: &[String]) -> anyhow::Result<String> {
    let (program, arguments) = command.split_first().context("no command")?;
    let output = Command::new(program).args(arguments).envs(environment()).output();
    let output = output.with_context(|| format!("cannot start {program}"))?;
    if !output.status.success() {
        bail!("{}: {}", command.join(" "), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A control group in every hierarchy that there is (one in version 2); removed when all in it has ended.
struct ControlGroup {
    name: String,
    janitor: Child,
}

/// Removes the groups when its input closes; a group can go when its last process has.
const JANITOR: &str = r#"
read -r _
for try in 1 2 3 4 5 6 7 8 9 10; do
  left=no
  for group in "/sys/fs/cgroup/$1" /sys/fs/cgroup/*/"$1"; do
    if [ -d "$group" ]; then find "$group" -depth -type d -exec rmdir {} ';'; fi
    if [ -d "$group" ]; then left=yes; fi
  done
  if [ "$left" = no ]; then exit 0; fi
  sleep 1
done
"#;

impl ControlGroup {
    fn new() -> anyhow::Result<Self> {
        let name = format!("sluice-{}-{}", std::process::id(), fastrand::u32(..));
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies: Vec<PathBuf> = if root.join("cgroup.controllers").exists() {
            vec![root.to_owned()]
        } else {
            let entries: Vec<_> = std::fs::read_dir(root)?.collect::<Result<_, _>>()?;
            // `cpu` may be a link to `cpu,cpuacct`.
            let folders = entries.iter().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
            folders.map(|entry| entry.path()).filter(|path| path.join("cgroup.procs").exists()).collect()
        };
        let janitor = Command::new("/bin/sh")
            .args(["-c", JANITOR, "janitor", &name])
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start /bin/sh")?;
        let group = Self { name, janitor };
        for hierarchy in hierarchies {
            let path = hierarchy.join(&group.name);
            std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        }
        Ok(group)
    }
}

impl Drop for ControlGroup {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        if let Err(error) = self.janitor.wait() {
            eprintln!("cannot remove the control group {}: {error}", self.name);
        }
    }
}
