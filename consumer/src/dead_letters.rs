//! `sluice dead-letters`: look at what could not be stored, store it after all, or remove it.
//!
//! The letters lie in the pipeline's database; nothing here talks to Kafka. Redriving only marks letters: the
//! consumer that owns a letter's partition stores it, at the pipeline's rate ([`crate::store::letter`]). Every
//! command may be interrupted and repeated.

mod print;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::Subcommand;
use indicatif::{ProgressBar, ProgressStyle};
use jiff::Timestamp;

use crate::place::{Opened, Place};
use crate::print::{Output, moment};
use crate::store::letter::{LetterFilter, LetterSummary};
use crate::store::{Reason, Store};

/// Letters that are read, marked or removed in one transaction: short ones, beside the consumers'.
const PAGE: u32 = 500;
/// Between two looks at what still waits.
const LOOK: Duration = Duration::from_secs(1);

/// List, show, redrive or purge what could not be stored.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice dead-letters list -f pipeline.yaml --reason Undecodable --since 2h
  sluice dead-letters show -f pipeline.yaml 607812345678901248
  sluice dead-letters redrive -f pipeline.yaml --topic spans --dry-run
  sluice dead-letters redrive -f pipeline.yaml --reason Refused --wait
  sluice dead-letters purge -f pipeline.yaml --until 30d --yes
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
    Redrive(Redrive),
    /// Remove letters for good.
    Purge(Purge),
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
    place: Place,
    #[command(flatten)]
    filters: Filters,
    /// Only letters that wait to be redriven.
    #[arg(long)]
    pending: bool,
    /// Most letters to list.
    #[arg(long, value_name = "N", default_value_t = 100)]
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
    id: i64,
    #[command(flatten)]
    place: Place,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// See [`Command::Redrive`].
#[derive(Debug, clap::Args)]
pub struct Redrive {
    /// Ids, as `list` prints them; none: all that the filters leave.
    ids: Vec<i64>,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    filters: Filters,
    /// All letters, where neither ids nor filters are given.
    #[arg(long)]
    all: bool,
    /// Only say how many it would be.
    #[arg(long)]
    dry_run: bool,
    /// Most letters to mark a second; 0: as fast as possible. Rows are stored at the pipeline's rate anyway.
    #[arg(long, value_name = "N", default_value_t = 0)]
    rate: u32,
    /// Leave letters alone that were redriven and failed this many times.
    #[arg(long, value_name = "N", default_value_t = 3)]
    max_attempts: u32,
    /// Wait until none of the pipeline's letters waits any more.
    #[arg(long)]
    wait: bool,
}

/// See [`Command::Purge`].
#[derive(Debug, clap::Args)]
pub struct Purge {
    /// Ids, as `list` prints them; none: all that the filters leave.
    ids: Vec<i64>,
    #[command(flatten)]
    place: Place,
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
}

/// Runs the command; prints to standard output.
///
/// # Errors
/// What a person must know; printed with its causes.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::List(list) => list.run().await,
        Command::Show(show) => show.run().await,
        Command::Redrive(redrive) => redrive.run().await,
        Command::Purge(purge) => purge.run().await,
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
        let store = self.place.open()?.store;
        let filter = LetterFilter { pending: self.pending.then_some(true), ..self.filters.filter() };
        let mut letters: Vec<LetterSummary> = Vec::new();
        let mut after = self.after;
        // One more tells whether there are more.
        while letters.len() <= self.limit as usize {
            let page = store.letters(&filter, after, PAGE).await.context(CANNOT_READ)?;
            let Some(last) = page.last() else { break };
            after = last.id;
            letters.extend(page);
        }
        let more = letters.len() > self.limit as usize;
        letters.truncate(self.limit as usize);
        match self.output {
            Output::Table => print!("{}", print::table(&letters, more)),
            Output::Json => println!("{}", serde_json::to_string_pretty(&print::list_json(&letters, more))?),
        }
        store.close().await;
        Ok(ExitCode::SUCCESS)
    }
}

impl Show {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let Opened { store, sealing } = self.place.open()?;
        let letter = store.letter(self.id).await.context(CANNOT_READ)?;
        let letter = letter.with_context(|| format!("there is no dead letter {} in this table", self.id))?;
        let letter = sealing.open_letter(&*store, letter).await.context("cannot open the dead letter")?;
        store.close().await;
        match self.output {
            Output::Table => print!("{}", print::letter(&letter)),
            Output::Json => println!("{}", serde_json::to_string_pretty(&print::letter_json(&letter))?),
        }
        Ok(ExitCode::SUCCESS)
    }
}

const CANNOT_READ: &str =
    "cannot read the dead letters; `sluice check --connect` tells whether database and rights are in order";

/// What a command is about: ids that were named, or a filter.
fn chosen(ids: &[i64], filters: &Filters, all: bool) -> anyhow::Result<Option<LetterFilter>> {
    let filter = filters.filter();
    if !ids.is_empty() {
        ensure!(filter == LetterFilter::default() && !all, "expected ids or filters, found both");
        return Ok(None);
    }
    ensure!(
        filter != LetterFilter::default() || all,
        "expected ids, filters or --all: see what there is with `sluice dead-letters list`"
    );
    Ok(Some(filter))
}

/// The next letters that are meant: ascending ids after `after`.
async fn next_page(
    store: &dyn Store,
    ids: &[i64],
    filter: Option<&LetterFilter>,
    after: i64,
) -> anyhow::Result<Vec<LetterSummary>> {
    if let Some(filter) = filter {
        return store.letters(filter, after, PAGE).await.context(CANNOT_READ);
    }
    let mut page = Vec::new();
    for id in ids.iter().filter(|id| **id > after).take(PAGE as usize) {
        let found = store.letters(&LetterFilter::default(), *id - 1, 1).await.context(CANNOT_READ)?;
        match found.into_iter().find(|letter| letter.id == *id) {
            Some(letter) => page.push(letter),
            None => eprintln!("there is no dead letter {id} in this table"),
        }
    }
    Ok(page)
}

impl Redrive {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let filter = chosen(&self.ids, &self.filters, self.all)?;
        let store = self.place.open()?.store;
        let mut ids = self.ids.clone();
        ids.sort_unstable();
        let bar = spinner("marking dead letters");
        let (mut marked, mut waiting, mut tired, mut after) = (0, 0, 0, 0);
        let mut due = tokio::time::Instant::now();
        loop {
            let page = next_page(&*store, &ids, filter.as_ref(), after).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            let (try_again, failed_often): (Vec<_>, Vec<_>) =
                page.iter().partition(|letter| letter.attempts < self.max_attempts);
            tired += failed_often.len();
            let fresh: Vec<i64> =
                try_again.iter().filter(|letter| !letter.pending).map(|letter| letter.id).collect();
            waiting += try_again.len() - fresh.len();
            // A page at a time where there is no limit, else a second's worth.
            let piece = if self.rate == 0 { PAGE as usize } else { (self.rate as usize).min(PAGE as usize) };
            for ids in fresh.chunks(piece) {
                if !self.dry_run {
                    store.mark(ids).await.context("cannot mark dead letters")?;
                }
                marked += ids.len();
                bar.set_position(marked as u64);
                if self.rate > 0 && !self.dry_run {
                    due += Duration::from_secs_f64(ids.len() as f64 / f64::from(self.rate));
                    tokio::time::sleep_until(due).await;
                }
            }
        }
        bar.finish_and_clear();
        let done = if self.dry_run { "would be marked" } else { "marked" };
        println!("{marked} {done} to be redriven, {waiting} waited already");
        if tired > 0 {
            println!(
                "{tired} left alone, because they failed {} times: raise --max-attempts",
                self.max_attempts
            );
        }
        if !self.dry_run && marked + waiting > 0 {
            if self.wait {
                wait_for_none(&*store).await?;
            } else {
                println!(
                    "their consumers store them within seconds, at the pipeline's rate; see them with\n  \
                    sluice dead-letters list --pending"
                );
            }
        }
        store.close().await;
        Ok(ExitCode::SUCCESS)
    }
}

/// Waits until no letter of the table waits to be redriven.
async fn wait_for_none(store: &dyn Store) -> anyhow::Result<()> {
    let bar = spinner("waiting for the consumers");
    let pending = LetterFilter { pending: Some(true), ..LetterFilter::default() };
    let mut before = None;
    loop {
        let (mut count, mut after) = (0, 0);
        loop {
            let page = store.letters(&pending, after, PAGE).await.context(CANNOT_READ)?;
            let Some(last) = page.last() else { break };
            after = last.id;
            count += page.len() as u64;
        }
        bar.set_message(format!("{count} dead letters wait for their consumers"));
        if before != Some(count) && bar.is_hidden() {
            println!("{count} dead letters wait for their consumers");
        }
        before = Some(count);
        if count == 0 {
            bar.finish_and_clear();
            println!("none waits any more; what failed again is listed with its attempts");
            return Ok(());
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            interrupted = tokio::signal::ctrl_c() => {
                interrupted.context("cannot listen for Ctrl-C")?;
                bar.finish_and_clear();
                println!("{count} still wait; they stay marked");
                return Ok(());
            }
        }
    }
}

impl Purge {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let filter = chosen(&self.ids, &self.filters, self.all)?;
        ensure!(self.dry_run || self.yes, "removing is for good: say --yes, or look first with --dry-run");
        let store = self.place.open()?.store;
        let mut ids = self.ids.clone();
        ids.sort_unstable();
        let bar = spinner("removing dead letters");
        let (mut removed, mut after) = (0, 0);
        loop {
            let page = next_page(&*store, &ids, filter.as_ref(), after).await?;
            let Some(last) = page.last() else { break };
            after = last.id;
            let page: Vec<i64> = page.iter().map(|letter| letter.id).collect();
            removed += if self.dry_run {
                page.len() as u64
            } else {
                store.purge(&page).await.context("cannot remove dead letters")?
            };
            bar.set_position(removed);
        }
        bar.finish_and_clear();
        println!("{removed} {}", if self.dry_run { "would be removed" } else { "removed" });
        store.close().await;
        Ok(ExitCode::SUCCESS)
    }
}

fn spinner(what: &'static str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("{spinner} {msg}: {pos}");
    let bar = ProgressBar::new_spinner().with_message(what);
    bar.enable_steady_tick(Duration::from_millis(200));
    match style {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
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
