//! The `sluice-operator` command.

use std::process::ExitCode;

use clap::Parser;
use sluice_operator::options::Options;
use sluice_operator::problem::chain;
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
            tracing::error!(error = chain(error.as_ref()), "ended");
            ExitCode::FAILURE
        }
    }
}

/// What `RUST_LOG` says, else `info`. A watch that is refused, and each request that fails, is logged at every try; the
/// operator says it once.
fn filter() -> EnvFilter {
    const REPEATED: [(&str, &str); 2] = [
        ("kube_runtime", "kube_runtime::watcher=error"),
        ("kube_client", "kube_client::client::builder=off"),
    ];
    let said = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::INFO.into()).from_env_lossy();
    let unsaid = REPEATED.into_iter().filter(|(library, _)| !said.contains(library));
    let quieter = unsaid.map(|(_, directive)| directive.parse().expect("it is a directive"));
    quieter.fold(filter, EnvFilter::add_directive)
}
