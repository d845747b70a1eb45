//! The driver of `tests/bench`.

mod figure;
mod operator;
mod pipeline;
mod raw;
mod server_cpu;
mod store;

use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
#[command(name = "bench")]
struct Cli {
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
    let run = async {
        match Cli::parse().command {
            Command::Store(args) => store::run(args).await,
            Command::Operator(args) => operator::run(args).await,
        }
    };
    // As many workers as a replica with two cores has.
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?.block_on(run)
}
