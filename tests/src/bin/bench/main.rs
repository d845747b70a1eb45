//! The driver of `tests/bench`.

mod chart;
mod decode;
mod figure;
mod growth;
mod operator;
mod peers;
mod pipeline;
mod rate;
mod raw;
mod retention;
mod server_cpu;
mod store;

use anyhow::ensure;
use clap::{Parser, Subcommand};

use figure::Figures;

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
    /// Each decoder alone, from memory.
    Decode(decode::Args),
    /// Many pipelines on a real API server.
    Operator(operator::Args),
    /// Sluice beside Zipkin and the OpenTelemetry Collector.
    Peers(peers::Args),
    /// A process that `peers` starts.
    #[command(hide = true)]
    DrainIntoNothing(peers::ChildArgs),
    /// The limiter's error in every sliding second.
    Rate(rate::Args),
    /// The speed into tables that hold many rows already.
    Growth(growth::Args),
    /// From Kafka into each database while old rows are removed, against the same without.
    Retention(retention::Args),
}

fn main() -> anyhow::Result<()> {
    let cli = Cli::parse();
    let run = async {
        match cli.command {
            Command::Store(args) => store::run(args).await,
            Command::Decode(args) => decode::run(&args),
            Command::Operator(args) => operator::run(args).await,
            Command::Peers(args) => peers::run(args).await,
            Command::DrainIntoNothing(args) => peers::child(args).await.map(|()| Figures::default()),
            Command::Rate(args) => rate::run(args).await,
            Command::Growth(args) => growth::run(args).await,
            Command::Retention(args) => retention::run(args).await,
        }
    };
    // As many workers as a replica with two cores has.
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let missed = runtime.block_on(run)?.missed();
    ensure!(!cli.strict || missed.is_empty(), "goals were missed: {}", missed.join(", "));
    Ok(())
}
