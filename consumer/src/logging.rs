//! Logs: for people on a terminal, JSON otherwise. No credential reaches them: secrets are of a type whose
//! text form is redacted. Nobody waits for a log to be written, see [`lines`].

mod lines;

use std::io::IsTerminal;
use std::sync::OnceLock;
use std::time::Duration;

use clap::ValueEnum;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;

use lines::Lines;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// `human` on a terminal, else `json`.
    #[default]
    Auto,
    /// One readable line an event.
    Human,
    /// One JSON object an event.
    Json,
}

/// What is logged where `RUST_LOG` does not say. The Kubernetes client logs every failed request as an error of
/// its own; what that means is told by the one who asked.
const DEFAULT_FILTER: &str = "info,kube_client=off,kube_runtime=off";

/// How long the end of a process waits for its last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Where this process logs to.
static LINES: OnceLock<Lines> = OnceLock::new();

/// Starts logging to standard error. `RUST_LOG` filters; the default is `info`.
pub fn start(format: LogFormat) {
    start_with(format, std::io::stderr);
}

/// As [`start`], to another place; `Auto` still looks at standard error.
pub fn start_with<W>(format: LogFormat, writer: W)
where
    W: for<'w> MakeWriter<'w> + Send + Sync + 'static,
{
    let lines = LINES.get_or_init(|| Lines::start(writer, tell_lost)).clone();
    // Set and empty it would silence everything, warnings too: it counts as not set.
    let said = std::env::var(EnvFilter::DEFAULT_ENV).unwrap_or_default();
    let filter = EnvFilter::try_new(if said.trim().is_empty() { DEFAULT_FILTER } else { &said })
        .unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    // A line that cannot be written is lost. Told on standard error, which may be what is closed, it would be a panic.
    let builder =
        tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines).log_internal_errors(false);
    let human = match format {
        LogFormat::Auto => std::io::stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    if human {
        // Colours are for a terminal that can show them; `NO_COLOR` (no-color.org) switches them off there, too.
        let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        let is_plain = std::env::var_os("TERM").is_none_or(|kind| kind == "dumb");
        builder
            .with_ansi(std::io::stderr().is_terminal() && !no_colour && !is_plain)
            .with_target(false)
            .init();
    } else {
        builder.json().flatten_event(true).init();
    }
}

/// Waits for the last lines, but not for ever: false where nobody reads them. True where nothing is logged.
pub fn flush() -> bool {
    LINES.get().is_none_or(|lines| lines.flush(LAST_LINES))
}

fn tell_lost(lines: u64) {
    tracing::warn!(lines, "lines of this log were lost: what reads it was too slow, or nothing did");
}
