//! The driver of `tests/bench`.

mod figure;
mod operator;
mod pipeline;
mod raw;
mod server_cpu;
mod store;

use anyhow::ensure;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
    /// End with an error where a goal is missed.
    #[arg(long, global = true)]
    strict: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// From Kafka into each database, against raw loops over the same rows.
    Store(store::Args),
    /// Many pipelines on a real API server.
    Operator(operator::Args),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let run = async {
        match cli.command {
            Command::Store(args) => store::run(args).await,
            Command::Operator(args) => operator::run(args).await,
        }
    };
    // As many workers as a replica with two cores has.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let missed = runtime.block_on(run)?.missed();
    ensure!(!cli.strict || missed.is_empty(), "goals were missed: {}", missed.join(", "));
    Ok(())
}
