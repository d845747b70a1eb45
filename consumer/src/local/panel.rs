//! What the demo shows on a terminal: a few lines that stay at the bottom, below the log.

use std::io::Write;
use std::time::Duration;

use indicatif::{HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

/// Draws per second at most.
const DRAWS: u8 = 10;

/// A line without characters would not be drawn.
const BLANK: &str = " ";

/// What is shown.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    /// Spans taken over HTTP since the start.
    pub(super) arrived: u64,
    /// Spans in the queue, about.
    pub(super) backlog: u64,
    /// Spans per second as set.
    pub(super) set: u32,
    pub(super) suspended: bool,
    /// Spans per second stored during the last second.
    pub(super) achieved: f64,
    /// Spans stored since the start.
    pub(super) stored: u64,
    /// Until the backlog is stored at the present rate.
    pub(super) drain_seconds: Option<u64>,
    pub(super) trouble: Option<String>,
}

impl Numbers {
    /// The same as one log line.
    pub(super) fn log(&self) {
        let Self { arrived, backlog, set, achieved, stored, .. } = self;
        tracing::info!(
            arrived,
            backlog,
            set_rate = set,
            achieved_rate = achieved.round(),
            stored,
            drain_seconds = self.drain_seconds,
            trouble = self.trouble,
            "demo"
        );
    }

    fn set_rate(&self) -> String {
        if self.suspended { "suspended".to_owned() } else { format!("{}/s", HumanCount(self.set.into())) }
    }

    fn drain(&self) -> String {
        match self.drain_seconds {
            _ if self.backlog == 0 => "nothing waits".to_owned(),
            Some(seconds) => format!("drained in {}", HumanDuration(Duration::from_secs(seconds))),
            None => "not draining".to_owned(),
        }
    }
}

/// A terminal that has room for a panel.
#[derive(Clone)]
pub(super) struct Screen(MultiProgress);

impl Screen {
    /// The terminal on standard error; none where there is no terminal, or one that cannot move its cursor (TERM=dumb).
    pub(super) fn on_terminal() -> Option<Self> {
        let target = ProgressDrawTarget::stderr_with_hz(DRAWS);
        (!target.is_hidden()).then(|| Self(MultiProgress::with_draw_target(target)))
    }

    /// Puts log lines above the panel.
    pub(super) fn log_writer(&self) -> LogWriter {
        LogWriter(self.0.clone())
    }

    /// Starts to draw; `hints` stay as they are.
    pub(super) fn panel(self, hints: &[String]) -> Panel {
        let bar =
            ProgressStyle::with_template("stored    {bar:40.green} {percent:>3} % of what arrived, {msg}");
        let line = |text: String| {
            let line = self.0.add(ProgressBar::new(1));
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                line.set_style(style);
            }
            line.set_message(text);
            line
        };
        let above = line(BLANK.to_owned());
        let counts = line(String::new());
        let rates = line(String::new());
        let stored = self.0.add(ProgressBar::new(1));
        if let Ok(style) = bar {
            stored.set_style(style);
        }
        let trouble = line(BLANK.to_owned());
        let rest = std::iter::once(above).chain(hints.iter().cloned().map(line)).collect();
        Panel { counts, rates, stored, trouble, rest }
    }
}

/// The lines.
pub(super) struct Panel {
    counts: ProgressBar,
    rates: ProgressBar,
    stored: ProgressBar,
    trouble: ProgressBar,
    /// Lines that never change; a line that is dropped leaves the panel.
    rest: Vec<ProgressBar>,
}

impl Panel {
    /// Draws.
    pub(super) fn draw(&self, numbers: &Numbers) {
        self.counts.set_message(format!(
            "spans     {:>11} arrived   {:>11} waiting   {:>11} stored",
            HumanCount(numbers.arrived).to_string(),
            HumanCount(numbers.backlog).to_string(),
            HumanCount(numbers.stored).to_string(),
        ));
        self.rates.set_message(format!(
            "rate      {:>11} set       {:>11} achieved",
            numbers.set_rate(),
            format!("{}/s", HumanCount(numbers.achieved.round() as u64)),
        ));
        self.stored.set_length((numbers.stored + numbers.backlog).max(1));
        self.stored.set_position(numbers.stored);
        self.stored.set_message(numbers.drain());
        self.trouble.set_message(numbers.trouble.clone().unwrap_or_else(|| BLANK.to_owned()));
    }

    /// Takes the panel away and leaves the terminal as it was.
    pub(super) fn close(self) {
        let Self { counts, rates, stored, trouble, rest } = self;
        for line in rest.into_iter().chain([counts, rates, stored, trouble]) {
            line.finish_and_clear();
        }
    }
}

/// Writes log lines above the panel.
#[derive(Clone)]
pub(super) struct LogWriter(MultiProgress);

impl Write for LogWriter {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.suspend(|| std::io::stderr().write_all(bytes))?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        std::io::stderr().flush()
    }
}

impl MakeWriter<'_> for LogWriter {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
