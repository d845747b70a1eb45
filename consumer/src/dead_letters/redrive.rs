//! `sluice dead-letters redrive`: marks letters, and may wait until their consumers have stored them.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use serde::Serialize;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Chosen, Filters, LETTERS, LETTERS_PER_PAGE, Mistake, Owner, spinner};
use crate::out::{self, Output};
use crate::pipeline_args::{Opened, cannot_read};
use crate::stop;
use crate::store::letter::{LetterFilter, LetterSummary};
use crate::store::{Store, id};

/// Between two looks at what still waits.
const WAITING_LOOKED_AT_EVERY: Duration = Duration::from_secs(1);
/// Without any change for this long, nobody seems to store letters.
const STANDSTILL: Duration = Duration::from_secs(10);

/// See [`super::Command::Redrive`].
#[derive(Debug, clap::Args)]
#[command(
    after_help = "A whole message is decoded as the pipeline decodes by then. A single span is the row that it would have been; \
one without a trace id or kind that fits (InvalidSpan) fails again, unless `json.traceId` and `json.kind` of a pipeline in Json lead \
to others within the span. Letters beside another table than the pipeline's own (--table) are refused: no consumer stores there."
)]
pub struct Redrive {
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
    /// Most letters to mark a second; 0: as fast as possible. Rows are stored at the pipeline's rate anyway.
    #[arg(long, value_name = "N", default_value_t = 0)]
    rate: u32,
    /// Leave letters alone that were redriven and failed this many times.
    #[arg(long, value_name = "N", default_value_t = 3)]
    max_attempts: u32,
    /// Wait until none of the pipeline's letters waits any more. Exits with 1 where it is interrupted before, and where
    /// one of these letters failed again.
    #[arg(long)]
    wait: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What became of the letters that were looked at. `json` has all of it.
#[derive(Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Redriven {
    /// Nothing was marked; `marked` says how many would be.
    pub dry_run: bool,
    pub marked: usize,
    /// Also those that another command marked meanwhile.
    pub waited_already: usize,
    /// They failed too often.
    pub left_alone: usize,
    /// Ids that were named and are not there.
    pub missing: usize,
    /// How many of the table waited still at the end; none where nobody waited for them.
    pub still_waiting: Option<usize>,
    /// How many of these letters became letters again, likewise.
    pub failed_again: Option<usize>,
    /// Those that wait to be redriven now.
    #[serde(skip)]
    pub ids: BTreeSet<i64>,
}

impl Redriven {
    pub(super) fn is_good(&self) -> bool {
        self.missing == 0
            && [self.still_waiting, self.failed_again].into_iter().flatten().all(|count| count == 0)
    }
}

impl Redrive {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut chosen = Chosen::new(&self.ids, &self.filters, self.all)?;
        let store = self.open()?;
        let mut redriven = self.mark(&mut chosen, &*store).await?;
        self.tell_marked(&redriven);
        if self.wait && self.awaits(&redriven) {
            let stop = stop::on_signal().context("cannot listen for signals")?;
            let still_waiting = wait_for_none(&*store, &stop).await?;
            redriven.still_waiting = Some(still_waiting);
            if still_waiting == 0 {
                redriven.failed_again = Some(failed_again(&*store, &redriven.ids).await?);
            }
        }
        store.close().await;
        self.tell_end(&redriven)?;
        Ok(if redriven.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    /// The pipeline's own table: a lane would store what was marked, and only that table has lanes.
    fn open(&self) -> anyhow::Result<Arc<dyn Store>> {
        let Opened { config, store, .. } = self.owner.pipeline.open()?;
        match &self.owner.table {
            Some(table) if *table != config.sink.table => Err(Mistake(format!(
                "no consumer stores into {table}, so nobody would redrive its letters: once the cause is mended, read their \
                 messages once more with `sluice replay --table {table} --name NAME --partition N --from OFFSET --to OFFSET+1`, \
                 and purge the letters. That stores every span of a message: where the letter was a single span, the others \
                 get a second row"
            ))
            .into()),
            _ => Ok(store),
        }
    }

    /// Whether consumers have something to do.
    fn awaits(&self, redriven: &Redriven) -> bool {
        !self.dry_run && redriven.marked + redriven.waited_already > 0
    }

    pub(super) async fn mark(&self, chosen: &mut Chosen, store: &dyn Store) -> anyhow::Result<Redriven> {
        let bar = spinner("marking dead letters");
        let mut redriven = Redriven { dry_run: self.dry_run, ..Redriven::default() };
        let mut due = Instant::now();
        loop {
            let page = chosen.next(store).await?;
            if page.is_empty() {
                break;
            }
            let (try_again, failed_often): (Vec<_>, Vec<_>) =
                page.iter().partition(|letter| letter.attempts < self.max_attempts);
            let fresh: Vec<i64> =
                try_again.iter().filter(|letter| !letter.pending).map(|letter| letter.id).collect();
            redriven.ids.extend(try_again.iter().map(|letter| letter.id));
            redriven.left_alone += failed_often.len();
            redriven.waited_already += try_again.len() - fresh.len();
            // A page at a time where there is no limit, else a second's worth.
            let piece = if self.rate == 0 {
                LETTERS_PER_PAGE as usize
            } else {
                (self.rate as usize).min(LETTERS_PER_PAGE as usize)
            };
            for ids in fresh.chunks(piece) {
                let marked = if self.dry_run {
                    ids.len()
                } else {
                    store.mark(ids).await.context("cannot mark dead letters")? as usize
                };
                redriven.marked += marked;
                redriven.waited_already += ids.len().saturating_sub(marked);
                bar.set_position(redriven.marked as u64);
                if self.rate > 0 && !self.dry_run {
                    due += Duration::from_secs_f64(ids.len() as f64 / f64::from(self.rate));
                    tokio::time::sleep_until(due).await;
                }
            }
        }
        bar.finish_and_clear();
        redriven.missing = chosen.missing;
        Ok(redriven)
    }

    /// To people, before anything is waited for.
    fn tell_marked(&self, redriven: &Redriven) {
        if self.output == Output::Json {
            return;
        }
        let Redriven { marked, waited_already, left_alone, .. } = redriven;
        let done = if self.dry_run { "would be marked" } else { "marked" };
        out::line(format_args!("{marked} {done} to be redriven, {waited_already} waited already"));
        if *left_alone > 0 {
            out::line(format_args!(
                "{left_alone} left alone, because they failed {} times: raise --max-attempts",
                self.max_attempts
            ));
        }
    }

    fn tell_end(&self, redriven: &Redriven) -> anyhow::Result<()> {
        if self.output == Output::Json {
            return Ok(out::json(redriven)?);
        }
        match redriven.still_waiting {
            Some(0) => out::line("none waits any more"),
            Some(count) => out::line(format_args!("{count} still wait; they stay marked")),
            None if self.awaits(redriven) => out::line(format_args!(
                "their consumers store them within seconds, at the pipeline's rate; see them with\n  \
                 sluice dead-letters list {} --pending",
                self.owner.pipeline
            )),
            None => {}
        }
        if let Some(failed @ 1..) = redriven.failed_again {
            out::line(format_args!(
                "{failed} of {} failed again: `sluice dead-letters list` shows them with their attempts",
                redriven.ids.len()
            ));
        }
        Ok(())
    }
}

/// Waits until no letter of the table waits to be redriven, or it is to stop; says how many wait then.
pub(super) async fn wait_for_none(store: &dyn Store, stop: &CancellationToken) -> anyhow::Result<usize> {
    let bar = spinner("waiting for the consumers");
    let (mut before, mut changed) = (None, Instant::now());
    let mut is_told = false;
    loop {
        let waiting = waiting(store).await?;
        let count = waiting.len();
        bar.set_message(format!("{count} dead letters wait for their consumers"));
        if before.as_ref() != Some(&waiting) {
            if bar.is_hidden() && before.as_ref().map(Vec::len) != Some(count) {
                out::note(format_args!("{count} dead letters wait for their consumers"));
            }
            (before, changed) = (Some(waiting), Instant::now());
        }
        if count == 0 {
            break;
        }
        if changed.elapsed() >= STANDSTILL && !is_told {
            is_told = true;
            let seconds = STANDSTILL.as_secs();
            bar.suspend(|| {
                out::note(format_args!(
                    "nothing has changed for {seconds} s: no consumer of this pipeline seems to run, it is suspended, \
                     a message takes longer at its rate, or its consumers cannot open the letters (their /status says so); \
                     letters stay marked until one stores them"
                ));
            });
        }
        tokio::select! {
            () = tokio::time::sleep(WAITING_LOOKED_AT_EVERY) => {}
            () = stop.cancelled() => break,
        }
    }
    bar.finish_and_clear();
    Ok(before.map_or(0, |waiting| waiting.len()))
}

/// How many of these letters, which wait no more, became letters again.
async fn failed_again(store: &dyn Store, ids: &BTreeSet<i64>) -> anyhow::Result<usize> {
    let mut failed = BTreeSet::new();
    let mut after = search_after(ids.first().copied(), Timestamp::now().as_millisecond());
    loop {
        let page = store
            .letters(&LetterFilter::default(), after, LETTERS_PER_PAGE)
            .await
            .map_err(cannot_read(LETTERS))?;
        let Some(last) = page.last() else { break };
        after = last.id;
        failed.extend(page.iter().flat_map(earlier_ids).filter(|id| ids.contains(id)));
    }
    Ok(failed.len())
}

/// Behind which id letters are that failed again: new ones have higher ids than those that they come from, or where the
/// database's clock had been ahead, at least ids of as long ago as a clock may be wrong.
pub(super) fn search_after(first: Option<i64>, now_ms: i64) -> i64 {
    first.map_or(0, |first| first.min(id::first_at(now_ms - id::MOST_AHEAD_MS)))
}

/// The ids that a letter had before it was redriven.
fn earlier_ids(letter: &LetterSummary) -> impl Iterator<Item = i64> {
    letter.history.iter().map(|failure| failure.id)
}

/// The ids of all letters of the table that wait to be redriven.
async fn waiting(store: &dyn Store) -> anyhow::Result<Vec<i64>> {
    let pending = LetterFilter { pending: Some(true), ..LetterFilter::default() };
    let mut ids: Vec<i64> = Vec::new();
    loop {
        let after = ids.last().copied().unwrap_or_default();
        let page = store.letters(&pending, after, LETTERS_PER_PAGE).await.map_err(cannot_read(LETTERS))?;
        if page.is_empty() {
            return Ok(ids);
        }
        ids.extend(page.iter().map(|letter: &LetterSummary| letter.id));
    }
}
