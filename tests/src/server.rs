//! What the two database servers have in common: a data directory, a user to run as, restarts.

mod template;

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::errno::Errno;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Uid};

use crate::cache_dir;
use crate::certificates::Identity;
use crate::component::{Component, Launch, Scratch, family};
use crate::disk::Disk;

/// How long initialising or starting may take.
pub const START: Duration = Duration::from_secs(180);

/// What makes a data directory, and what serves it.
pub(crate) struct Commands {
    /// Program and arguments that make `DIR/data`.
    pub initialise: Vec<String>,
    /// Whether every server begins with the same data: it is copied then.
    pub alike: bool,
    /// Program, by its path, and arguments of the server.
    pub run: Vec<String>,
}

/// A server process of ours on a data directory of ours.
#[derive(Debug)]
pub struct Server {
    name: &'static str,
    launch: Launch,
    // Dropped in this order: the process first, then its files.
    component: Component,
    disk: Option<Disk>,
    _dir: Scratch,
}

impl Server {
    /// Initialises and starts a server. Programs run as `user` where the test runs as root, as servers refuse
    /// to be root; `commands` gives what to run from the directory. With `disk`, all of its files are on one of so many
    /// bytes. `identity` lies in the directory as `server.crt` and `server.key`.
    pub(crate) async fn start(
        name: &'static str,
        user: &str,
        disk: Option<u64>,
        identity: Option<&Identity>,
        commands: impl Fn(&str) -> Commands,
    ) -> anyhow::Result<Self> {
        let dir = Scratch::new(&format!("sluice-{name}-"))?;
        let disk = disk.map(|bytes| Disk::mount(dir.path(), bytes)).transpose()?;
        if let Some(Identity { certificate, key }) = identity {
            std::fs::copy(certificate, dir.path().join("server.crt"))?;
            let own = dir.path().join("server.key");
            std::fs::copy(key, &own)?;
            // PostgreSQL reads no key that others may read, too.
            std::fs::set_permissions(own, std::fs::Permissions::from_mode(0o600))?;
        }
        let prefix = given_to(user, dir.path())?;
        let as_user = |command: Vec<String>| prefix.iter().cloned().chain(command).collect();
        let Commands { initialise, alike, run } = commands(&dir.path().display().to_string());
        // On a disk of its own everything has the room that its initialiser takes.
        if alike && disk.is_none() {
            template::copied(name, user, &commands, &cache_dir(), &dir.path().join("data")).await?;
        } else {
            carried_out(name, as_user(initialise), dir.path().join("initialise.log")).await?;
        }
        let launch = launch(as_user(run), dir.path().join("server.log"));
        let component = Component::start(name, &launch)?;
        Ok(Self { name, launch, component, disk, _dir: dir })
    }

    /// Its process.
    pub fn component(&mut self) -> &mut Component {
        &mut self.component
    }

    /// The disk of its own, where it has one.
    ///
    /// # Errors
    /// It was started without.
    pub fn disk(&self) -> anyhow::Result<&Disk> {
        self.disk.as_ref().context("the server has no disk of its own")
    }

    /// Kills it at once (kill -9).
    ///
    /// # Errors
    /// It does not go.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.component.kill().await
    }

    /// Starts it again on the same port and data, if it does not run; does not wait until it answers.
    pub(crate) fn run(&mut self) -> anyhow::Result<()> {
        if !self.component.is_running()? {
            self.component = Component::start(self.name, &self.launch)?;
        }
        Ok(())
    }

    /// Freezes it (SIGSTOP), the processes that serve connections included: connections stay open, nothing
    /// answers.
    ///
    /// # Errors
    /// It has ended.
    pub fn freeze(&self) -> anyhow::Result<()> {
        self.signal_all(Signal::SIGSTOP)
    }

    /// Ends [`Self::freeze`].
    ///
    /// # Errors
    /// It has ended.
    pub fn thaw(&self) -> anyhow::Result<()> {
        self.signal_all(Signal::SIGCONT)
    }

    /// Parents first: one that stands still starts no more children.
    fn signal_all(&self, signal: Signal) -> anyhow::Result<()> {
        self.component.signal(signal)?;
        for pid in family(self.component.pid())?.into_iter().skip(1) {
            match kill(Pid::from_raw(pid), signal) {
                // A connection may end at any time, and its process with it.
                Ok(()) | Err(Errno::ESRCH) => {}
                Err(error) => return Err(error).with_context(|| format!("cannot send {signal} to {pid}")),
            }
        }
        Ok(())
    }
}

/// Gives a directory to the user as whom a server runs; returns what makes a command run as that user.
fn given_to(user: &str, dir: &Path) -> anyhow::Result<Vec<String>> {
    if !Uid::effective().is_root() {
        return Ok(Vec::new());
    }
    let owned = std::process::Command::new("chown").arg("--recursive").arg(user).arg(dir).status()?;
    ensure!(owned.success(), "cannot give the directory to {user}");
    std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?;
    // Replaces itself by the program, so that the process id is the server's.
    Ok(["setpriv", "--reuid", user, "--regid", user, "--init-groups"].map(str::to_owned).to_vec())
}

fn launch(words: Vec<String>, log: PathBuf) -> Launch {
    let mut words = words.into_iter();
    let program = PathBuf::from(words.next().unwrap_or_default());
    Launch { program, arguments: words.collect(), log, ..Launch::default() }
}

/// Runs a command to its end, which must be a good one.
async fn carried_out(name: &str, words: Vec<String>, log: PathBuf) -> anyhow::Result<()> {
    let mut process = Component::start(name, &launch(words, log))?;
    let code = process.ended(START).await?;
    ensure!(code == 0, "initialising {name} ended with {code}:\n{}", process.log_tail(20));
    Ok(())
}

/// The first of these files that exists.
pub(crate) fn program(
    candidates: impl IntoIterator<Item = PathBuf>,
    package: &str,
) -> anyhow::Result<String> {
    let found = candidates.into_iter().find(|path| path.is_file());
    let found = found.with_context(|| format!("{package} is not installed; run `tests/run --prepare`"))?;
    Ok(found.display().to_string())
}
