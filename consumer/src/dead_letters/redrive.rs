//! `sluice dead-letters redrive`: marks letters, and may wait until their consumers have stored them.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use jiff::Timestamp;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Chosen, Filters, LETTERS, PAGE, spinner};
use crate::place::{Place, cannot_read};
use crate::store::Store;
use crate::store::id;
use crate::store::letter::{LetterFilter, LetterSummary};
use crate::{out, stop};

/// Between two looks at what still waits.
const LOOK: Duration = Duration::from_secs(1);
/// Without any change for this long, nobody seems to store letters.
const STANDSTILL: Duration = Duration::from_secs(10);

/// See [`super::Command::Redrive`].
#[derive(Debug, clap::Args)]
pub struct Redrive {
    /// Ids, as `list` prints them; none: all that the filters leave.
    #[arg(value_parser = clap::value_parser!(i64).range(1..))]
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
    /// Wait until none of the pipeline's letters waits any more. Exits with 1 where it is interrupted before, and where
    /// one of these letters failed again.
    #[arg(long)]
    wait: bool,
}

/// How many letters were looked at, by what became of them.
#[derive(Default)]
struct Counts {
    marked: usize,
    waited_already: usize,
    failed_often: usize,
    /// Those that are marked now.
    ids: BTreeSet<i64>,
}

impl Redrive {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let mut chosen = Chosen::new(&self.ids, &self.filters, self.all)?;
        let store = self.place.open()?.store;
        let counts = self.mark(&mut chosen, &*store).await?;
        self.tell(&counts);
        let waits = !self.dry_run && counts.marked + counts.waited_already > 0;
        let are_stored = if waits && self.wait {
            let stop = stop::on_signal().context("cannot listen for signals")?;
            wait_for_none(&*store, &stop).await? && none_failed_again(&*store, &counts.ids).await?
        } else {
            true
        };
        if waits && !self.wait {
            out::line(format_args!(
                "their consumers store them within seconds, at the pipeline's rate; see them with\n  \
                 sluice dead-letters list {} --pending",
                self.place
            ));
        }
        store.close().await;
        Ok(if are_stored && chosen.missing == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn mark(&self, chosen: &mut Chosen, store: &dyn Store) -> anyhow::Result<Counts> {
        let bar = spinner("marking dead letters");
        let mut counts = Counts::default();
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
            counts.ids.extend(try_again.iter().map(|letter| letter.id));
            counts.failed_often += failed_often.len();
            counts.waited_already += try_again.len() - fresh.len();
            // A page at a time where there is no limit, else a second's worth.
            let piece = if self.rate == 0 { PAGE as usize } else { (self.rate as usize).min(PAGE as usize) };
            for ids in fresh.chunks(piece) {
                if !self.dry_run {
                    store.mark(ids).await.context("cannot mark dead letters")?;
                }
                counts.marked += ids.len();
                bar.set_position(counts.marked as u64);
                if self.rate > 0 && !self.dry_run {
                    due += Duration::from_secs_f64(ids.len() as f64 / f64::from(self.rate));
                    tokio::time::sleep_until(due).await;
                }
            }
        }
        bar.finish_and_clear();
        Ok(counts)
    }

    fn tell(&self, counts: &Counts) {
        let Counts { marked, waited_already, failed_often, .. } = counts;
        let done = if self.dry_run { "would be marked" } else { "marked" };
        out::line(format_args!("{marked} {done} to be redriven, {waited_already} waited already"));
        if *failed_often > 0 {
            out::line(format_args!(
                "{failed_often} left alone, because they failed {} times: raise --max-attempts",
                self.max_attempts
            ));
        }
    }
}

/// Waits until no letter of the table waits to be redriven; false where it was to stop before.
pub(super) async fn wait_for_none(store: &dyn Store, stop: &CancellationToken) -> anyhow::Result<bool> {
    let bar = spinner("waiting for the consumers");
    let (mut before, mut changed) = (None, Instant::now());
    let mut is_told = false;
    loop {
        let waiting = waiting(store).await?;
        let count = waiting.len();
        bar.set_message(format!("{count} dead letters wait for their consumers"));
        if before.as_ref() != Some(&waiting) {
            if bar.is_hidden() && before.as_ref().map(Vec::len) != Some(count) {
                out::line(format_args!("{count} dead letters wait for their consumers"));
            }
            (before, changed) = (Some(waiting), Instant::now());
        }
        if count == 0 {
            bar.finish_and_clear();
            out::line("none waits any more");
            return Ok(true);
        }
        if changed.elapsed() >= STANDSTILL && !is_told {
            is_told = true;
            let seconds = STANDSTILL.as_secs();
            bar.suspend(|| {
                out::note(format_args!(
                    "nothing has changed for {seconds} s: no consumer of this pipeline seems to run, it is suspended, \
                     or a message takes longer at its rate; \
                     letters stay marked until one stores them"
                ));
            });
        }
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = stop.cancelled() => {
                bar.finish_and_clear();
                out::line(format_args!("{count} still wait; they stay marked"));
                return Ok(false);
            }
        }
    }
}

/// Whether none of these letters, which wait no more, became a letter again; says how many did.
pub(super) async fn none_failed_again(store: &dyn Store, ids: &BTreeSet<i64>) -> anyhow::Result<bool> {
    let mut failed = BTreeSet::new();
    let mut after = search_after(ids.first().copied(), Timestamp::now().as_millisecond());
    loop {
        let page =
            store.letters(&LetterFilter::default(), after, PAGE).await.map_err(cannot_read(LETTERS))?;
        let Some(last) = page.last() else { break };
        after = last.id;
        failed.extend(page.iter().flat_map(earlier_ids).filter(|id| ids.contains(id)));
    }
    if !failed.is_empty() {
        out::line(format_args!(
            "{} of {} failed again: `sluice dead-letters list` shows them with their attempts",
            failed.len(),
            ids.len()
        ));
    }
    Ok(failed.is_empty())
}

/// Behind which id letters are that failed again: new ones have higher ids than those that they come from, or at least ids of
/// today, where the database's clock had been ahead.
pub(super) fn search_after(first: Option<i64>, now_ms: i64) -> i64 {
    const DAY_MS: i64 = 24 * 3_600_000;
    first.map_or(0, |first| first.min(id::first_at(now_ms - DAY_MS)))
}

/// The ids that a letter had before it was redriven.
fn earlier_ids(letter: &LetterSummary) -> Vec<i64> {
    let history: Vec<serde_json::Value> = serde_json::from_str(&letter.history).unwrap_or_default();
    history.iter().filter_map(|failure| failure["id"].as_i64()).collect()
}

/// The ids of all letters of the table that wait to be redriven.
async fn waiting(store: &dyn Store) -> anyhow::Result<Vec<i64>> {
    let pending = LetterFilter { pending: Some(true), ..LetterFilter::default() };
    let mut ids: Vec<i64> = Vec::new();
    loop {
        let after = ids.last().copied().unwrap_or_default();
        let page = store.letters(&pending, after, PAGE).await.map_err(cannot_read(LETTERS))?;
        if page.is_empty() {
            return Ok(ids);
        }
        ids.extend(page.iter().map(|letter: &LetterSummary| letter.id));
    }
}
