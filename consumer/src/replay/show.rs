//! What a replay tells: a bar on a terminal, a line now and then otherwise, JSON lines for programs.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{HumanCount, ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::time::Instant;

use super::plan::Range;
use crate::meter::StatusDocument;
use crate::out::{self, Output};
use crate::source::TopicPartition;

/// Between two lines where there is no bar.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// What has become of a replay, for people and programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It goes on.
    Running,
    /// Everything is read.
    Finished,
    /// It was told to stop before that.
    Stopped,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Finished => "finished",
            Self::Stopped => "stopped",
        }
    }
}

/// How far a replay is.
pub struct Progress {
    output: Output,
    bar: ProgressBar,
    told_at: Option<Instant>,
    total: u64,
    done: u64,
}

impl Progress {
    /// Of `total` messages that are left to read.
    pub fn new(output: Output, total: u64) -> Self {
        let with_bar = output == Output::Table && std::io::stderr().is_terminal();
        let bar = if with_bar { ProgressBar::new(total) } else { ProgressBar::hidden() };
        let template = "{bar:30} {percent:>3} %  {human_pos} of {human_len} messages  {msg}";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        Self { output, bar, told_at: None, total, done: 0 }
    }

    /// `done` of them are settled.
    pub fn tell(&mut self, done: u64, status: &StatusDocument) {
        self.done = done;
        self.bar.set_position(done);
        let doing = doing(status);
        self.bar.set_message(doing.clone());
        let due = self.told_at.is_none_or(|told| told.elapsed() >= LINE_EVERY);
        if !due || (self.output == Output::Table && !self.bar.is_hidden()) {
            return;
        }
        self.told_at = Some(Instant::now());
        match self.output {
            Output::Table => {
                out::line(format_args!(
                    "{} of {} messages, {doing}",
                    HumanCount(done),
                    HumanCount(self.total)
                ));
            }
            Output::Json => out::line(self.json(State::Running, status)),
        }
    }

    /// The replay has ended.
    pub fn end(&self, state: State, status: &StatusDocument) {
        self.bar.finish_and_clear();
        if self.output == Output::Json {
            return out::line(self.json(state, status));
        }
        out::line(format_args!(
            "{}: {} of {} messages are settled; this run stored {} rows and {} dead letters",
            state.as_str(),
            HumanCount(self.done),
            HumanCount(self.total),
            HumanCount(status.stored),
            HumanCount(status.dead_letters)
        ));
        if status.skipped_offsets > 0 {
            out::line(format_args!(
                "{} offsets were deleted from the topic before they could be read",
                status.skipped_offsets
            ));
        }
    }

    fn json(&self, state: State, status: &StatusDocument) -> String {
        json!({
            "state": state.as_str(),
            "messages": self.total,
            "settled": self.done,
            "stored": status.stored,
            "deadLetters": status.dead_letters,
            "skippedOffsets": status.skipped_offsets,
            "rowsPerSecond": status.achieved_qps,
            "suspended": status.suspended,
            "lastError": status.last_error,
        })
        .to_string()
    }
}

fn doing(status: &StatusDocument) -> String {
    match &status.last_error {
        Some(error) => format!("waiting: {error}"),
        None if status.suspended => "waiting: the pipeline is suspended".to_owned(),
        None if status.rate_limit_qps == 0 => "waiting: the pipeline's rate is 0".to_owned(),
        None => format!("{:.0} rows/s", status.achieved_qps),
    }
}

/// The ranges, for people or programs.
pub fn plan(output: Output, ranges: &[Range], table: &str) -> String {
    let sum = |value: fn(&Range) -> u64| ranges.iter().map(value).sum::<u64>();
    if output == Output::Json {
        let range = |range: &Range| {
            json!({
                "topic": &*range.at.topic, "partition": range.at.partition, "from": range.from, "to": range.to,
                "messages": range.messages(), "gone": range.gone, "leftToThePipeline": range.left,
            })
        };
        let list: Vec<_> = ranges.iter().map(range).collect();
        return json!({ "state": "planned", "table": table, "messages": sum(Range::messages), "partitions": list })
            .to_string();
    }
    let mut lines: Vec<String> = ranges
        .iter()
        .map(|range| {
            let messages = HumanCount(range.messages());
            format!("{}: offsets {} to {}, at most {messages} messages", range.at, range.from, range.to)
        })
        .collect();
    lines.push(format!("{} messages into the table {table}", HumanCount(sum(Range::messages))));
    if sum(|range| range.gone) > 0 {
        lines.push(format!(
            "{} older offsets are no longer in the topic",
            HumanCount(sum(|range| range.gone))
        ));
    }
    if sum(|range| range.left) > 0 {
        let left = HumanCount(sum(|range| range.left));
        lines.push(format!(
            "{left} newer offsets are left out: the pipeline has not stored them yet, and will"
        ));
    }
    lines.join("\n")
}

/// Partitions that are told at most; of more it is said how many.
const MOST_TOLD: usize = 10;

/// What is said of partitions that a replay does not read.
pub fn not_read(partitions: &[TopicPartition]) -> String {
    let mut told: Vec<String> = partitions.iter().take(MOST_TOLD).map(ToString::to_string).collect();
    if partitions.len() > MOST_TOLD {
        told.push(format!("and {} more", partitions.len() - MOST_TOLD));
    }
    format!(
        "the replay of this name reads nothing of {}: it was begun for other partitions, or nothing of its range lay there; \
         for what lies there choose another --name",
        told.join(", ")
    )
}
