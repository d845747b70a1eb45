//! The `sluice` command.

use std::process::ExitCode;

fn main() -> anyhow::Result<ExitCode> {
    sluice_consumer::cli::main()
}
