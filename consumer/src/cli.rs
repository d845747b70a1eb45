//! The `sluice` command: subcommands only.
//!
//! Within the library and not in `main.rs`: a binary would compile what every subcommand awaits once more.

use std::process::ExitCode;
use std::time::Duration;

use crate::{check, consume, dead_letters, keys, loadgen, local, logging, out, replay};
use clap::{Parser, Subcommand};
use sluice_crds::problem::chain;

/// Stores trace spans from a queue in the database you already run, at a rate that you change while it runs.
#[derive(Debug, Parser)]
#[command(name = "sluice", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Consume(consume::Args),
    Local(local::Args),
    Check(check::Args),
    Loadgen(loadgen::Args),
    DeadLetters(dead_letters::Args),
    Keys(keys::Args),
    Replay(replay::Args),
}

/// How long threads that ask a broker or a disk are waited for once everything else has ended.
const STOP_WITHIN: Duration = Duration::from_secs(1);

/// Reads the command line and does what it says. An error is told on one line, with its causes.
pub fn main() -> ExitCode {
    // Without OpenSSL's clean-up at the process's end, under which a thread of a Kafka client that is still closing its
    // connections would crash. What it would free the process's end frees.
    openssl_sys::init();
    // Not by the standard library, which would print a backtrace where the environment asks for one: a mistake in a
    // file is none of this program.
    let outcome = start();
    let is_read = logging::flush();
    outcome.unwrap_or_else(|error| {
        // Where nobody reads the log, nobody would read this: it would wait for ever.
        if is_read {
            out::note(format_args!("Error: {}", chain(&*error)));
        }
        ExitCode::FAILURE
    })
}

fn start() -> anyhow::Result<ExitCode> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(run());
    // Left alone, the runtime waits for questions to a frozen broker until they time out.
    runtime.shutdown_timeout(STOP_WITHIN);
    outcome
}

async fn run() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Consume(args) => consume::run(args).await?,
        Command::Local(args) => local::run(args).await?,
        Command::Check(args) => return check::run(args).await,
        Command::Loadgen(args) => loadgen::run(args).await?,
        Command::DeadLetters(args) => return dead_letters::run(args).await,
        Command::Keys(args) => return keys::run(args).await,
        Command::Replay(args) => return replay::run(args).await,
    }
    Ok(ExitCode::SUCCESS)
}
