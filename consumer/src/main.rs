//! The `sluice` command: subcommands only.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use sluice_consumer::{check, consume, dead_letters, loadgen, local};

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
}

#[tokio::main]
async fn main() -> anyhow::Result<ExitCode> {
    match Cli::parse().command {
        Command::Consume(args) => consume::run(args).await?,
        Command::Local(args) => local::run(args).await?,
        Command::Check(args) => return check::run(args).await,
        Command::Loadgen(args) => loadgen::run(args).await?,
        Command::DeadLetters(args) => return dead_letters::run(args).await,
    }
    Ok(ExitCode::SUCCESS)
}
