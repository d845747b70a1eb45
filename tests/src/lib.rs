//! Harness for tests on real components.
//!
//! Every component is started on a free loopback port in a temporary directory and dies with the test. Tests
//! that need one are `#[ignore]`d with the reason, so that `cargo test` works anywhere; `tests/run` installs
//! what they need and runs them.

pub mod cluster;
pub mod component;
pub mod encode;
pub mod helm;
pub mod kafka;
pub mod ledger;
pub mod mariadb;
pub mod operator;
pub mod oracle;
pub mod postgres;
pub mod rate;
pub mod server;
pub mod sluice;

use std::net::{Ipv4Addr, TcpListener};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

/// How long between two looks at a condition.
const POLL: Duration = Duration::from_millis(20);

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

/// A TCP port of the loopback interface that nobody listens on.
///
/// # Errors
/// The operating system gives none.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}

/// Where `tests/run` keeps what it fetches.
pub fn cache_dir() -> PathBuf {
    let from = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    from("SLUICE_CACHE")
        .or_else(|| from("XDG_CACHE_HOME").map(|dir| dir.join("sluice")))
        .or_else(|| from("HOME").map(|dir| dir.join(".cache/sluice")))
        .unwrap_or_else(|| PathBuf::from(".cache"))
}
