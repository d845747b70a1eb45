//! What the demo shows on a terminal: a few lines that stay at the bottom, below the log.

use std::io::Write;
use std::time::Duration;

use indicatif::{HumanCount, HumanDuration, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tracing_subscriber::fmt::MakeWriter;

/// Draws per second at most.
const DRAWS: u8 = 10;

/// What a terminal has at least: longer lines are broken between words.
const COLUMNS: usize = 80;

/// A line without characters would not be drawn.
const BLANK: &str = " ";

/// What is shown.
#[derive(Clone, Debug)]
pub(super) struct Numbers {
    /// Spans in the queue, about.
    pub(super) backlog: u64,
    /// Spans per second as set.
    pub(super) set: u32,
    pub(super) suspended: bool,
    /// Spans per second stored during the last second.
    pub(super) achieved: f64,
    /// Spans stored since the start.
    pub(super) stored: u64,
    /// Spans and messages since the start that could not be.
    pub(super) dead_letters: u64,
    /// Until the backlog is stored at the present rate.
    pub(super) drain_seconds: Option<u64>,
    pub(super) trouble: Option<String>,
}

impl Numbers {
    /// The same as one log line.
    pub(super) fn log(&self) {
        let Self { backlog, set, achieved, stored, dead_letters, .. } = self;
        tracing::info!(
            arrived = self.arrived(),
            backlog,
            set_rate = set,
            achieved_rate = achieved.round(),
            stored,
            dead_letters,
            drain_seconds = self.drain_seconds,
            trouble = self.trouble,
            "demo"
        );
    }

    /// What waited at the start, from an earlier run, and what was taken over HTTP since.
    fn arrived(&self) -> u64 {
        self.stored + self.dead_letters + self.backlog
    }

    /// What is wrong, in lines; none where all is well.
    fn trouble(&self, list_letters: &str) -> String {
        let letters = (self.dead_letters > 0).then(|| {
            format!("dead letters {:>8}: {list_letters}", HumanCount(self.dead_letters).to_string())
        });
        let all: Vec<_> =
            [letters, self.trouble.clone()].into_iter().flatten().map(|text| in_lines(&text)).collect();
        all.join("\n")
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
    pub(super) fn panel(self, hints: &[String], list_letters: &str) -> Panel {
        let bar =
            ProgressStyle::with_template("stored    {bar:20.green} {percent:>3} % of what arrived, {msg}");
        let line = |text: String| {
            let line = self.0.add(ProgressBar::new(1));
            if let Ok(style) = ProgressStyle::with_template("{msg}") {
                line.set_style(style);
            }
            line.set_message(in_lines(&text));
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
        Panel { counts, rates, stored, trouble, rest, list_letters: list_letters.to_owned() }
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
    /// The command that lists dead letters.
    list_letters: String,
}

impl Panel {
    /// Draws.
    pub(super) fn draw(&self, numbers: &Numbers) {
        self.counts.set_message(format!(
            "spans     {:>11} arrived   {:>11} waiting   {:>11} stored",
            HumanCount(numbers.arrived()).to_string(),
            HumanCount(numbers.backlog).to_string(),
            HumanCount(numbers.stored).to_string(),
        ));
        self.rates.set_message(format!(
            "rate      {:>11} set       {:>11} achieved",
            numbers.set_rate(),
            format!("{}/s", HumanCount(numbers.achieved.round() as u64)),
        ));
        self.stored.set_length(numbers.arrived().max(1));
        self.stored.set_position(numbers.stored);
        self.stored.set_message(numbers.drain());
        let trouble = numbers.trouble(&self.list_letters);
        self.trouble.set_message(if trouble.is_empty() { BLANK.to_owned() } else { trouble });
    }

    /// Takes the panel away and leaves the terminal as it was.
    pub(super) fn close(self) {
        let Self { counts, rates, stored, trouble, rest, .. } = self;
        for line in rest.into_iter().chain([counts, rates, stored, trouble]) {
            line.finish_and_clear();
        }
    }
}

/// Breaks a text between words, so that no line is longer than [`COLUMNS`]; a word that is longer itself, such as a path,
/// has a line of its own.
fn in_lines(text: &str) -> String {
    let (mut lines, mut length) = (String::with_capacity(text.len()), 0);
    for (index, word) in text.split(' ').enumerate() {
        let word_length = word.chars().count();
        if index > 0 {
            let fits = length + 1 + word_length <= COLUMNS;
            lines.push(if fits { ' ' } else { '\n' });
            length = if fits { length + 1 } else { 0 };
        }
        lines.push_str(word);
        length += word_length;
    }
    lines
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

#[cfg(test)]
mod tests {
    use super::*;

    fn numbers() -> Numbers {
        Numbers {
            backlog: 40,
            set: 2_000,
            suspended: false,
            achieved: 0.0,
            stored: 50,
            dead_letters: 0,
            drain_seconds: None,
            trouble: None,
        }
    }

    #[test]
    fn what_arrived_is_what_became_of_it() {
        assert_eq!(numbers().arrived(), 90, "also where this process has taken none of it");
        assert_eq!(Numbers { dead_letters: 3, ..numbers() }.arrived(), 93);
    }

    #[test]
    fn dead_letters_are_told_with_the_command_that_lists_them() {
        assert_eq!(numbers().trouble("list"), "");
        let trouble = Some("the disk is full".to_owned());
        let both = Numbers { dead_letters: 1_234, trouble, ..numbers() }.trouble("list");
        assert_eq!(both, "dead letters    1,234: list\nthe disk is full");
    }

    #[test]
    fn lines_end_between_words() {
        for text in ["", BLANK, "spans     1 arrived"] {
            assert_eq!(in_lines(text), text);
        }
        let path = "x".repeat(90);
        let text = format!("To change the rate, edit rateLimitQPS in {path} and save it");
        assert_eq!(in_lines(&text), format!("To change the rate, edit rateLimitQPS in\n{path}\nand save it"));
        let words = "word ".repeat(100);
        assert!(in_lines(&words).lines().all(|line| line.len() <= COLUMNS && line.starts_with("word")));
    }
}
