//! The `sluice-operator` command.

use std::process::ExitCode;

use clap::Parser;
use sluice_operator::options::Options;
use sluice_operator::run::run;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

// It waits most of its time: more threads would only hold more memory.
#[tokio::main(worker_threads = 2)]
async fn main() -> ExitCode {
    let options = Options::parse();
    tracing_subscriber::fmt()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .with_env_filter(filter())
        .with_writer(std::io::stderr)
        .init();
    match run(options).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line of the log like every other one, for whatever reads it.
            tracing::error!(error = format!("{error:#}"), "ended");
            ExitCode::FAILURE
        }
    }
}

/// What `RUST_LOG` says, else `info`. A watch that is refused logs so at every try; the operator says it once.
fn filter() -> EnvFilter {
    const REPEATED: &str = "kube_runtime::watcher";
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let is_named = std::env::var(EnvFilter::DEFAULT_ENV).is_ok_and(|said| said.contains("kube_runtime"));
    match format!("{REPEATED}=error").parse() {
        Ok(quieter) if !is_named => filter.add_directive(quieter),
        _ => filter,
    }
}
