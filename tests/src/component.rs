//! A child process that a test starts, hurts and stops.
//!
//! Guarantees: its output lies in a log file; it is signalled by process id, never by name; it dies with the
//! test process, however that ends, because a small shell guard kills it when a pipe from here closes. A test
//! fails where a Rust program that it started has panicked, whatever else it asserts.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::eventually;

/// Starts the command behind it in the background, prints its process id, and kills it when its input closes.
const GUARD: &str = r#"
exec 3<&0
log="$1"; shift
"$@" </dev/null >>"$log" 2>&1 3<&- &
child=$!
echo "$child"
exec >/dev/null 2>&1
( read -r _ <&3; kill -KILL "$child" ) &
reader=$!
wait "$child"; status=$?
kill "$reader"
exit "$status"
"#;

/// What the default hook writes of a panic, in any thread and also where the process lives on.
const PANIC: &str = " panicked at ";

/// A running child process.
#[derive(Debug)]
pub struct Component {
    name: String,
    guard: Child,
    pid: Pid,
    log: PathBuf,
}

/// What to start.
#[derive(Clone, Debug, Default)]
pub struct Launch {
    /// The program, by path or from `PATH`.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// Set besides the test's own environment.
    pub environment: Vec<(String, String)>,
    /// Where its output goes; appended to.
    pub log: PathBuf,
}

impl Component {
    /// Starts a process; `name` is for messages.
    ///
    /// # Errors
    /// It could not be started.
    pub fn start(name: &str, launch: &Launch) -> anyhow::Result<Self> {
        let mut guard = Command::new("/bin/sh")
            .arg("-c")
            .arg(GUARD)
            .arg("guard")
            .arg(&launch.log)
            .arg(&launch.program)
            .args(&launch.arguments)
            .envs(launch.environment.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let mut printed = String::new();
        guard.stdout.take().context("the guard has no output")?.read_to_string(&mut printed)?;
        let pid = printed.trim().parse().with_context(|| format!("{name}: no process id in {printed:?}"))?;
        Ok(Self { name: name.to_owned(), guard, pid: Pid::from_raw(pid), log: launch.log.clone() })
    }

    /// The process id.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Where its output goes.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// Sends a signal.
    ///
    /// # Errors
    /// The process has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill(self.pid, signal).with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Whether the process still runs.
    ///
    /// # Errors
    /// The operating system refuses to tell.
    pub fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.guard.try_wait()?.is_none())
    }

    /// Kills the process at once (kill -9) and waits until it is gone.
    ///
    /// # Errors
    /// It does not go.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.signal(Signal::SIGKILL)?;
        self.ended(Duration::from_secs(10)).await.map(|_| ())
    }

    /// Asks the process to stop (SIGTERM) and waits until it has, with the exit code 0.
    ///
    /// # Errors
    /// It does not go within `deadline`, or ends with another code.
    pub async fn stop(&mut self, deadline: Duration) -> anyhow::Result<()> {
        self.signal(Signal::SIGTERM)?;
        let code = self.ended(deadline).await?;
        ensure!(code == 0, "{} was asked to stop, and ended with {code}:\n{}", self.name, self.log_tail(20));
        Ok(())
    }

    /// Waits for the end of the process and returns its exit code; killed by a signal it is 128 + signal.
    ///
    /// # Errors
    /// It does not end within `deadline`.
    pub async fn ended(&mut self, deadline: Duration) -> anyhow::Result<i32> {
        let name = self.name.clone();
        eventually(&format!("{name} to end"), deadline, async || {
            Ok(self.guard.try_wait()?.map(|status| status.code().unwrap_or(-1)))
        })
        .await
    }

    /// A field of `/proc/PID/status` that is given in kB, as bytes (`VmHWM` is the largest resident size).
    ///
    /// # Errors
    /// The process has ended, or there is no such field.
    pub fn memory(&self, field: &str) -> anyhow::Result<u64> {
        let path = format!("/proc/{}/status", self.pid);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
        let line = text.lines().find(|line| line.starts_with(field));
        let Some(kibibytes) = line.and_then(|line| line.split_whitespace().nth(1)) else {
            bail!("no {field} in {path}")
        };
        Ok(kibibytes.parse::<u64>()? * 1024)
    }

    /// Processor time used so far, user and system together.
    ///
    /// # Errors
    /// The process has ended.
    pub fn cpu_time(&self) -> anyhow::Result<Duration> {
        process_cpu_time(self.pid())
    }

    /// The first panic that its output tells of, with the message behind it.
    fn panic(&self) -> Option<String> {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let mut lines = text.lines().skip_while(|line| !line.contains(PANIC));
        lines.next().map(|line| format!("{line}\n{}", lines.next().unwrap_or_default()))
    }

    /// The last lines of its output.
    pub fn log_tail(&self, lines: usize) -> String {
        let text = std::fs::read(&self.log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }
}

impl Drop for Component {
    fn drop(&mut self) {
        // The test runner shows this only where the test fails; benchmarks, on the main thread, need it not.
        if std::thread::current().name() != Some("main") {
            println!("--- the end of the log of {}:\n{}", self.name, self.log_tail(40));
        }
        // Closing the pipe makes the guard kill it, a stopped one too; then both are reaped.
        drop(self.guard.stdin.take());
        if let Err(error) = self.guard.wait() {
            eprintln!("cannot wait for {}: {error}", self.name);
        }
        // A second panic would abort the test process, and hide why the test fails.
        if !std::thread::panicking()
            && let Some(panic) = self.panic()
        {
            panic!("{} panicked: {panic}", self.name);
        }
    }
}

/// A process and all that descend from it, parents before their children.
///
/// # Errors
/// `/proc` cannot be read.
pub fn family(pid: i32) -> anyhow::Result<Vec<i32>> {
    let mut parents = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(child) = name.to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        // One that has ended meanwhile is nobody's child.
        let Ok(stat) = std::fs::read_to_string(format!("/proc/{child}/stat")) else { continue };
        // The parent follows the state, behind the command's name, which may hold blanks.
        let parent = stat.rsplit_once(") ").and_then(|(_, fields)| fields.split(' ').nth(1)?.parse().ok());
        parents.extend(parent.map(|parent: i32| (child, parent)));
    }
    let mut family = vec![pid];
    let mut next = 0;
    while let Some(&member) = family.get(next) {
        family.extend(parents.iter().filter(|(_, parent)| *parent == member).map(|(child, _)| *child));
        next += 1;
    }
    Ok(family)
}

/// Processor time that a process has used so far, user and system together, in steps of 10 ms.
///
/// # Errors
/// There is no such process.
pub fn process_cpu_time(pid: i32) -> anyhow::Result<Duration> {
    let path = format!("/proc/{}/stat", pid);
    let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {path}"))?;
    // The command's name, in parentheses, may hold blanks; fields 14 and 15 are times in 1/100 s.
    let (_, fields) = text.rsplit_once(") ").context("no command in the process's state")?;
    let ticks = |index: usize| fields.split(' ').nth(index).and_then(|field| field.parse::<u64>().ok());
    match (ticks(11), ticks(12)) {
        (Some(user), Some(system)) => Ok(Duration::from_millis((user + system) * 10)),
        _ => bail!("no times in {path}"),
    }
}

/// A temporary directory that goes with its handle, or with the test process where the handle lies in a static.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    janitor: Child,
}

/// Removes a directory when its input closes; tries again while a dying process still writes to it.
const JANITOR: &str = r#"read -r _; for try in 1 2 3 4 5; do rm -rf "$1" && exit 0; sleep 1; done"#;

impl Scratch {
    /// A new directory; its name begins with `prefix`.
    ///
    /// # Errors
    /// The disk refuses.
    pub fn new(prefix: &str) -> anyhow::Result<Self> {
        let path = tempfile::Builder::new().prefix(prefix).tempdir()?.keep();
        let janitor = Command::new("/bin/sh")
            .args(["-c", JANITOR, "janitor"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start /bin/sh")?;
        Ok(Self { path, janitor })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        if let Err(error) = self.janitor.wait() {
            eprintln!("cannot remove {}: {error}", self.path.display());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use super::*;

    fn shell(log: &Path, script: &str) -> Component {
        let launch = Launch {
            program: "/bin/sh".into(),
            arguments: vec!["-c".into(), script.into()],
            log: log.to_owned(),
            ..Launch::default()
        };
        Component::start("shell", &launch).unwrap()
    }

    /// What a test ends with that lets go of a component, and does something before.
    fn dropped(component: Component, before: impl FnOnce()) -> Option<String> {
        let test = AssertUnwindSafe(|| {
            let _component = component;
            before();
        });
        let panic = catch_unwind(test).err()?;
        let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| panic.downcast_ref::<String>().cloned())
    }

    const PANICS: &str = "echo \"thread 'lane' (7) panicked at src/lane.rs:1:2:\nno row\" >&2";

    #[tokio::test]
    async fn a_test_whose_component_has_panicked_fails_at_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut component = shell(&dir.path().join("log"), PANICS);
        component.ended(Duration::from_secs(10)).await.unwrap();
        let failure = dropped(component, || ()).unwrap();
        assert!(failure.starts_with("shell panicked: thread 'lane' (7)"), "{failure}");
        assert!(failure.ends_with("no row"), "{failure}");
    }

    #[tokio::test]
    async fn a_test_that_fails_by_itself_says_why_also_where_its_component_has_panicked() {
        let dir = tempfile::tempdir().unwrap();
        let mut component = shell(&dir.path().join("log"), PANICS);
        component.ended(Duration::from_secs(10)).await.unwrap();
        assert_eq!(dropped(component, || panic!("rows are missing")).as_deref(), Some("rows are missing"));
    }

    #[tokio::test]
    async fn who_is_asked_to_stop_must_end_with_0() {
        let dir = tempfile::tempdir().unwrap();
        for (code, is_good) in [(0, true), (3, false)] {
            let log = dir.path().join(code.to_string());
            let script = format!("trap 'exit {code}' TERM; echo ready; while true; do sleep 0.05; done");
            let mut component = shell(&log, &script);
            let ready = async || Ok((component.log_tail(1) == "ready").then_some(()));
            eventually("the trap to be set", Duration::from_secs(10), ready).await.unwrap();
            let stopped = component.stop(Duration::from_secs(10)).await;
            assert_eq!(stopped.is_ok(), is_good, "{stopped:?}");
        }
    }

    fn exists(pid: i32) -> bool {
        Path::new(&format!("/proc/{pid}")).exists()
    }

    #[tokio::test]
    async fn a_component_dies_with_its_handle() {
        let dir = tempfile::tempdir().unwrap();
        let component = shell(&dir.path().join("log"), "exec sleep 600");
        let pid = component.pid();
        assert!(exists(pid));
        drop(component);
        assert!(!exists(pid));
    }

    #[test]
    fn a_scratch_directory_goes_with_its_handle() {
        let scratch = Scratch::new("sluice-test-").unwrap();
        let path = scratch.path().to_owned();
        std::fs::write(path.join("file"), "x").unwrap();
        drop(scratch);
        assert!(!path.exists());
    }

    #[tokio::test]
    async fn a_family_has_children_and_their_children() {
        let dir = tempfile::tempdir().unwrap();
        // A command after the last one, or the shell would become the command.
        let component = shell(&dir.path().join("log"), "sh -c 'sleep 600; true'; true");
        let members = eventually("three generations", Duration::from_secs(10), async || {
            let members = family(component.pid())?;
            Ok((members.len() == 3).then_some(members))
        })
        .await
        .unwrap();
        assert_eq!(members[0], component.pid());
        // Without the shells nobody ends the grandchild.
        kill(Pid::from_raw(members[2]), Signal::SIGKILL).unwrap();
    }

    #[tokio::test]
    async fn a_killed_component_reports_its_end() {
        let dir = tempfile::tempdir().unwrap();
        let mut component = shell(&dir.path().join("log"), "exec sleep 600");
        assert!(component.is_running().unwrap());
        component.kill().await.unwrap();
        assert!(!component.is_running().unwrap());
    }
}
