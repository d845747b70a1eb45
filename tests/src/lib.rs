//! Harness for tests on real components.
//!
//! Every component is started on a free loopback port in a temporary directory and dies with the test. Tests
//! that need one are `#[ignore]`d with the reason, so that `cargo test` works anywhere; `tests/run` installs
//! what they need and runs them.

pub mod certificates;
pub mod cluster;
pub mod component;
pub mod disk;
pub mod encode;
pub mod helm;
pub mod kafka;
pub mod ledger;
pub mod mariadb;
pub mod operator;
pub mod oracle;
pub mod packets;
pub mod pgpool;
pub mod postgres;
pub mod proxy;
pub mod rate;
pub mod responder;
pub mod server;
pub mod sluice;
pub mod workload;

use std::net::{Ipv4Addr, TcpListener};
use std::ops::Range;
use std::path::PathBuf;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, bail};

/// How long between two looks at a condition.
const POLL: Duration = Duration::from_millis(50);

/// How much later than a time this process may notice that it has come: a busy machine may not let it run.
const LATE: Duration = Duration::from_secs(60);

/// Looks at a condition until it gives a value.
///
/// # Errors
/// It gave none within `deadline`, or failed; the message names `what` was waited for.
pub async fn eventually<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl AsyncFnMut() -> anyhow::Result<Option<T>>,
) -> anyhow::Result<T> {
    let began = Instant::now();
    loop {
        if let Some(value) = condition().await.with_context(|| format!("while waiting for {what}"))? {
            return Ok(value);
        }
        if began.elapsed() > deadline {
            bail!("waited {deadline:?} for {what}");
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Milliseconds since 1970, as the databases of this machine have them.
pub fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as i64)
}

/// Waits until a time has come, in milliseconds since 1970: something is measured until then.
///
/// # Errors
/// The clock stands still.
pub async fn until(time_ms: i64) -> anyhow::Result<()> {
    let deadline = Duration::from_millis(u64::try_from(time_ms - now_ms()).unwrap_or(0)) + LATE;
    eventually("a time to come", deadline, async || Ok((now_ms() >= time_ms).then_some(()))).await
}

/// Waits for a time to pass: a fault has to last.
///
/// # Errors
/// As [`until`].
pub async fn passes(duration: Duration) -> anyhow::Result<()> {
    until(now_ms() + duration.as_millis() as i64).await
}

/// Where ports are looked for: under the ones that the system gives to outgoing connections (32768 and above on Linux),
/// and under those of Services. A client that tries again and again to reach a dead port of its own system's range is at
/// times given that very port, connects to itself, and keeps the server from coming back.
const PORTS: Range<u16> = 10_000..30_000;

/// A TCP port of the loopback interface that nobody listens on, and that this process has not been given lately.
///
/// # Errors
/// There is none.
pub fn free_port() -> anyhow::Result<u16> {
    // Processes that run at the same time begin at different places.
    static NEXT: LazyLock<AtomicUsize> = LazyLock::new(|| AtomicUsize::new(fastrand::usize(..PORTS.len())));
    for _ in PORTS {
        let offset = NEXT.fetch_add(1, Ordering::Relaxed) % PORTS.len();
        let port = PORTS.start + u16::try_from(offset)?;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    bail!("no port of {PORTS:?} is free")
}

/// Where `tests/run` keeps what it fetches.
pub fn cache_dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("SLUICE_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|dir| dir.join("sluice")))
        .or_else(|| from("HOME").map(|dir| dir.join(".cache/sluice")))
        .unwrap_or_else(|| PathBuf::from(".cache"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn free_ports_differ_and_are_none_that_an_outgoing_connection_may_have() {
        let range = std::fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range").unwrap_or_default();
        let first_outgoing =
            range.split_whitespace().next().and_then(|port| port.parse().ok()).unwrap_or(32_768);
        let ports = [free_port().unwrap(), free_port().unwrap(), free_port().unwrap()];
        assert!(ports.iter().all(|port| *port < first_outgoing), "{ports:?}");
        assert!(ports[0] != ports[1] && ports[1] != ports[2] && ports[0] != ports[2], "{ports:?}");
    }
}
