//! `sluice dead-letters`: look at what could not be stored, store it after all, or remove it.
//!
//! The letters lie in the pipeline's database; nothing here talks to Kafka. Redriving only marks letters: the
//! consumer that owns a letter's partition stores it, at the pipeline's rate ([`crate::store::letter`]). A replay into
//! another table leaves its letters beside that one, where nobody would store them: they are only looked at and removed.
//! Every command may be interrupted and repeated.

mod print;
mod redrive;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Subcommand;
use indicatif::ProgressBar;
use jiff::Timestamp;
use serde::Serialize;

use crate::moment::moment;
use crate::out::{self, Output, bar};
use crate::pipeline_args::{Opened, PipelineArgs, cannot_read};
use crate::store::letter::{LetterFilter, LetterSummary};
use crate::store::{Reason, Store, TableName};

/// Letters that are read, marked or removed in one transaction: short ones, beside the consumers'.
const LETTERS_PER_PAGE: u32 = 500;

/// List, show, redrive or purge what could not be stored.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice dead-letters list -f pipeline.yaml --reason Undecodable --since 2h
  sluice dead-letters show -f pipeline.yaml 607812345678901248
  sluice dead-letters redrive -f pipeline.yaml --topic spans --dry-run
  sluice dead-letters redrive -f pipeline.yaml --reason Refused --wait
  sluice dead-letters purge -f pipeline.yaml --until 30d --yes -o json
  sluice dead-letters list -f pipeline.yaml --table replayed_trace
  sluice dead-letters list --local sluice-data")]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do with dead letters.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// List letters, oldest first.
    List(List),
    /// Show one letter with its headers and bytes.
    Show(Show),
    /// Have letters stored after all: their consumers do it, at the pipeline's rate.
    Redrive(redrive::Redrive),
    /// Remove letters for good.
    Purge(Purge),
}

/// Whose letters.
#[derive(Clone, Debug, clap::Args)]
pub struct Owner {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The letters of this table, into which a replay has stored, instead of those of the pipeline's own.
    #[arg(long, value_name = "TABLE")]
    table: Option<TableName>,
}

/// Which letters; everything that is given must fit.
#[derive(Clone, Debug, Default, clap::Args)]
pub struct Filters {
    /// Only this topic.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Only this partition.
    #[arg(long, value_name = "N")]
    pub partition: Option<i32>,
    /// Only this reason: Undecodable, Tombstone, InvalidSpan, Refused or TooLarge.
    #[arg(long, value_name = "REASON", value_parser = reason)]
    pub reason: Option<Reason>,
    /// Only from this time on: RFC 3339, or how long ago (90m, 2h, 30d).
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub since: Option<Timestamp>,
    /// Only before this time, likewise.
    #[arg(long, value_name = "TIME", value_parser = moment)]
    pub until: Option<Timestamp>,
}

/// See [`Command::List`].
#[derive(Debug, clap::Args)]
pub struct List {
    #[command(flatten)]
    owner: Owner,
    #[command(flatten)]
    filters: Filters,
    /// Only letters that wait to be redriven.
    #[arg(long)]
    pending: bool,
    /// Most letters to list.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
    /// Only letters after this id: the next page.
    #[arg(long, value_name = "ID", default_value_t = 0)]
    after: i64,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// See [`Command::Show`].
#[derive(Debug, clap::Args)]
pub struct Show {
    /// The letter's id, as `list` prints it.
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    id: i64,
    #[command(flatten)]
    owner: Owner,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// See [`Command::Purge`].
#[derive(Debug, clap::Args)]
pub struct Purge {
    /// Ids, as `list` prints them; none: all that the filters leave.
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
    ids: Vec<i64>,
    #[command(flatten)]
    owner: Owner,
    #[command(flatten)]
    filters: Filters,
    /// All letters, where neither ids nor filters are given.
    #[arg(long)]
    all: bool,
    /// Only say how many it would be.
    #[arg(long)]
    dry_run: bool,
    /// Really remove them: there is no way back.
    #[arg(long)]
    yes: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What became of the letters that were to be removed.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Purged {
    /// Nothing was removed; `removed` says how many would be.
    dry_run: bool,
    removed: u64,
    /// Ids that were named and are not there.
    missing: usize,
}

/// Runs the command; prints to standard output.
///
/// # Errors
/// What a person must know; printed with its causes.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let done = match args.command {
        Command::List(list) => list.run().await,
        Command::Show(show) => show.run().await,
        Command::Redrive(redrive) => redrive.run().await,
        Command::Purge(purge) => purge.run().await,
    };
    match done {
        Err(error) if error.is::<Mistake>() => {
            out::note(format_args!("error: {error}"));
            // As for every other mistake on the command line.
            Ok(ExitCode::from(2))
        }
        done => done,
    }
}

/// A mistake on the command line that its parser does not see.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Mistake(String);

impl Owner {
    fn open(&self) -> anyhow::Result<Opened> {
        self.pipeline.open_table(self.table.as_ref())
    }
}

impl Filters {
    fn filter(&self) -> LetterFilter {
        LetterFilter {
            topic: self.topic.clone(),
            partition: self.partition,
            reason: self.reason,
            since_ms: self.since.map(Timestamp::as_millisecond),
            until_ms: self.until.map(Timestamp::as_millisecond),
            pending: None,
        }
    }
}

impl List {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let store = self.owner.open()?.store;
        let filter = LetterFilter { pending: self.pending.then_some(true), ..self.filters.filter() };
        let mut letters: Vec<LetterSummary> = Vec::new();
        let mut after = self.after;
        // One more tells whether there are more.
        while letters.len() <= self.limit as usize {
            let page = store.letters(&filter, after, LETTERS_PER_PAGE).await.map_err(cannot_read(LETTERS))?;
            let Some(last) = page.last() else { break };
            after = last.id;
            letters.extend(page);
        }
        let more = letters.len() > self.limit as usize;
        letters.truncate(self.limit as usize);
        match self.output {
            Output::Table if letters.is_empty() => {
                let more = if self.after > 0 { "more " } else { "" };
                // A table that is not there has none either.
                let of = self.owner.table.as_ref().map_or_else(String::new, |table| format!(" of {table}"));
                out::note(format_args!("no {more}dead letters{of}"));
            }
            Output::Table => {
                out::text(print::table(&letters));
                if let (true, Some(last)) = (more, letters.last()) {
                    out::note(format_args!("there are more: --after {}", last.id));
                }
            }
            Output::Json => out::json(&print::list_json(&letters, more))?,
        }
        store.close().await;
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let Opened { store, sealing, .. } = self.owner.open()?;
        let letter = store.letter(self.id).await.map_err(cannot_read(LETTERS))?;
        let letter = letter.with_context(|| format!("there is no dead letter {} in this table", self.id))?;
        let letter = sealing.open_letter(&*store, letter).await.context("cannot open the dead letter")?;
        store.close().await;
        match self.output {
            Output::Table => out::text(print::letter(&letter)),
            Output::Json => out::json(&print::letter_json(&letter))?,
        }
        Ok(ExitCode::SUCCESS)
    }
}

const LETTERS: &str = "the dead letters";

/// The letters that a command is about, a page at a time.
struct Chosen {
    /// Ascending; empty where the filter says which.
    ids: Vec<i64>,
    filter: Option<LetterFilter>,
    /// The last id that was looked at.
    after: i64,
    /// The last letter when it was first looked; none before. Letters that come meanwhile nobody has seen, and one that
    /// fails again has a new id: neither is chosen.
    end: Option<i64>,
    /// Ids that were named and are not there.
    missing: usize,
}

impl Chosen {
    fn new(ids: &[i64], filters: &Filters, all: bool) -> anyhow::Result<Self> {
        let filter = filters.filter();
        let is_open = filter == LetterFilter::default();
        if ids.is_empty() {
            const NOTHING: &str =
                "expected ids, filters or --all: see what there is with `sluice dead-letters list`";
            ensure!(!is_open || all, Mistake(NOTHING.to_owned()));
            return Ok(Self { ids: Vec::new(), filter: Some(filter), after: 0, end: None, missing: 0 });
        }
        ensure!(is_open && !all, Mistake("expected ids or filters, found both".to_owned()));
        let mut ids = ids.to_owned();
        ids.sort_unstable();
        ids.dedup();
        Ok(Self { ids, filter: None, after: 0, end: None, missing: 0 })
    }

    /// The next ones, ascending; none at the end.
    async fn next(&mut self, store: &dyn Store) -> anyhow::Result<Vec<LetterSummary>> {
        if let Some(filter) = &self.filter {
            let end = match self.end {
                Some(end) => end,
                None => *self.end.insert(store.last_letter().await.map_err(cannot_read(LETTERS))?),
            };
            let mut page =
                store.letters(filter, self.after, LETTERS_PER_PAGE).await.map_err(cannot_read(LETTERS))?;
            page.retain(|letter| letter.id <= end);
            self.after = page.last().map_or(self.after, |last| last.id);
            return Ok(page);
        }
        let mut page = Vec::new();
        while page.len() < LETTERS_PER_PAGE as usize
            && let Some(id) = self.ids.iter().copied().find(|id| *id > self.after)
        {
            self.after = id;
            let found = store.letters(&LetterFilter::default(), id - 1, 1).await;
            match found.map_err(cannot_read(LETTERS))?.into_iter().find(|letter| letter.id == id) {
                Some(letter) => page.push(letter),
                None => {
                    self.missing += 1;
                    out::note(format_args!("there is no dead letter {id} in this table"));
                }
            }
        }
        Ok(page)
    }
}

impl Purge {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let mut chosen = Chosen::new(&self.ids, &self.filters, self.all)?;
        const FOR_GOOD: &str = "removing is for good: say --yes, or look first with --dry-run";
        ensure!(self.dry_run || self.yes, Mistake(FOR_GOOD.to_owned()));
        let store = self.owner.open()?.store;
        let bar = spinner("removing dead letters");
        let mut removed = 0;
        loop {
            let page: Vec<i64> = chosen.next(&*store).await?.iter().map(|letter| letter.id).collect();
            if page.is_empty() {
                break;
            }
            removed += if self.dry_run {
                page.len() as u64
            } else {
                store.purge(&page).await.context("cannot remove dead letters")?
            };
            bar.set_position(removed);
        }
        bar.finish_and_clear();
        store.close().await;
        match self.output {
            Output::Table if self.dry_run => out::line(format_args!("{removed} would be removed")),
            Output::Table => out::line(format_args!("{removed} removed")),
            Output::Json => {
                out::json(&Purged { dry_run: self.dry_run, removed, missing: chosen.missing })?;
            }
        }
        Ok(if chosen.missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

fn spinner(what: &'static str) -> ProgressBar {
    let spinner = bar(ProgressBar::new_spinner().with_message(what), "{spinner} {msg}: {pos}");
    if !spinner.is_hidden() {
        spinner.enable_steady_tick(Duration::from_millis(200));
    }
    spinner
}

fn reason(text: &str) -> Result<Reason, String> {
    let known = || Reason::ALL.map(Reason::as_str).join(", ");
    Reason::ALL
        .into_iter()
        .find(|reason| reason.as_str().eq_ignore_ascii_case(text))
        .ok_or_else(|| format!("expected one of {}", known()))
}

#[cfg(test)]
mod tests;
