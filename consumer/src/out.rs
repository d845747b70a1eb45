//! What commands print: results for people or programs to standard output, and beside them, to standard error, what only
//! people need while they wait.
//!
//! Nobody may read the output any more: `sluice dead-letters list | head`. `println!` panics on a closed pipe. Here the
//! process ends then, without a word, as programs do that the system's signal ends; Rust ignores that one, and what only
//! logs goes on.

use std::fmt::Display;
use std::io::{ErrorKind, IsTerminal, Result, Write};

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Table,
    /// JSON, for programs.
    Json,
}

/// What a shell reports for a process that SIGPIPE ended: 128 + 13.
const NOBODY_READS: i32 = 141;

/// Prints a line to standard output.
pub fn line(text: impl Display) {
    end_where_closed(writeln!(std::io::stdout().lock(), "{text}"));
}

/// Prints a text, with the ends of lines that it has, to standard output.
pub fn text(text: impl Display) {
    let mut output = std::io::stdout().lock();
    end_where_closed(write!(output, "{text}").and_then(|()| output.flush()));
}

/// Prints JSON, for programs, to standard output.
///
/// # Errors
/// The value has no form in JSON.
pub fn json(value: &impl Serialize) -> serde_json::Result<()> {
    line(serde_json::to_string_pretty(value)?);
    Ok(())
}

/// Prints a line beside the output, for people: to standard error, where it may get lost.
pub fn note(text: impl Display) {
    let _ = writeln!(std::io::stderr().lock(), "{text}");
}

/// A bar that looks like `template`; a hidden one where nobody watches.
pub fn bar(bar: ProgressBar, template: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Another failure, such as a full disk, must not look like success either.
fn end_where_closed(written: Result<()>) {
    match written {
        Ok(()) => {}
        Err(error) if error.kind() == ErrorKind::BrokenPipe => std::process::exit(NOBODY_READS),
        Err(error) => {
            note(format_args!("cannot write to standard output: {error}"));
            std::process::exit(1);
        }
    }
}
