//! `sluice keys verify`: can everything be read that is needed, and what is it not?

use std::process::ExitCode;

use anyhow::Context;
use jiff::Timestamp;
use serde_json::json;
use sluice_crds::problem::chain;

use super::{KEYS, Keys, progress};
use crate::moment::moment;
use crate::out::{self, Output};
use crate::pipeline_args::{PipelineArgs, cannot_read};
use crate::seal::Sealing;
use crate::store::StoredSpan;
use crate::store::id::{first_at, time_ms};

/// Rows that are read in one go: their bodies are in memory at once, as they are stored and opened.
const ROWS_PER_PAGE: u32 = 100;
/// Problems that are told one by one.
const TOLD: usize = 100;

/// See [`super::Command::Verify`].
#[derive(Debug, clap::Args)]
pub struct Verify {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// Verify this table, into which a replay has stored, instead of the pipeline's own.
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Most rows to open, oldest first; 0: only keys and dictionaries.
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    rows: u64,
    /// Rows from this time on: RFC 3339, or how long ago (90m, 2h, 30d).
    #[arg(long, value_name = "TIME", value_parser = moment)]
    since: Option<Timestamp>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// What was looked at, and what cannot be read.
#[derive(Default)]
struct Found {
    data_keys: usize,
    dictionaries: usize,
    sealed: u64,
    plain: u64,
    broken: u64,
    problems: Vec<String>,
}

impl Found {
    fn problem(&mut self, what: String) {
        self.broken += 1;
        if self.problems.len() < TOLD {
            self.problems.push(what);
        }
    }
}

impl Verify {
    pub(super) async fn run(self) -> anyhow::Result<ExitCode> {
        let keys = Keys::open(&self.pipeline, self.table.as_deref())?;
        let sealing = Sealing::new(&keys.table, Some(keys.ring.clone()));
        let mut found = Found::default();
        for wrapped in keys.store.data_keys().await.map_err(cannot_read(KEYS))? {
            found.data_keys += 1;
            if let Err(error) = keys.ring.unwrap(&keys.table, &wrapped) {
                found.problem(format!("data key {}: {}", wrapped.id, chain(&error)));
            }
        }
        for dictionary in keys.store.dictionaries().await.map_err(cannot_read(KEYS))? {
            found.dictionaries += 1;
            if let Err(error) = sealing.opened_dictionary(&*keys.store, &dictionary).await {
                found.problem(format!("dictionary {}: {}", dictionary.id, chain(&error)));
            }
        }
        let looked = self.verify_rows(&keys, &sealing, &mut found).await;
        keys.store.close().await;
        // Also what was found before the database went away.
        self.print(&found);
        looked?;
        Ok(if found.broken == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    async fn verify_rows(&self, keys: &Keys, sealing: &Sealing, found: &mut Found) -> anyhow::Result<()> {
        let mut after = self.since.map_or(0, |since| first_at(since.as_millisecond())) - 1;
        let bar = progress(self.rows, "rows");
        let mut left = self.rows;
        while left > 0 {
            let limit = left.min(u64::from(ROWS_PER_PAGE)) as u32;
            let seen = self.verify_page(keys, sealing, after, limit, found).await;
            let seen = seen.with_context(|| {
                let reached = Timestamp::from_millisecond(time_ms(after.max(0))).unwrap_or_default();
                format!("stopped early; go on with --since {reached} --rows {left}")
            })?;
            let Some((last, count)) = seen else { break };
            after = last;
            left -= count;
            bar.inc(count);
        }
        bar.finish_and_clear();
        Ok(())
    }

    /// The last row of the next ones, and how many they are; none at the end.
    async fn verify_page(
        &self,
        keys: &Keys,
        sealing: &Sealing,
        after: i64,
        limit: u32,
        found: &mut Found,
    ) -> anyhow::Result<Option<(i64, u64)>> {
        let rows = keys.store.rows_after(after, limit).await.map_err(cannot_read("rows"))?;
        let Some(last) = rows.last().map(|row| row.id) else { return Ok(None) };
        let count = rows.len() as u64;
        let sealed: Vec<StoredSpan> = rows.into_iter().filter(|row| self.counts(row, found)).collect();
        let opened =
            sealing.open_spans(&*keys.store, sealed, usize::MAX).await.context("cannot read keys")?;
        for opened in opened {
            if let Some(error) = opened.error {
                found.problem(format!("row {}: {}", opened.span.id, chain(&error)));
            }
        }
        Ok(Some((last, count)))
    }

    /// Whether the row's body is sealed.
    fn counts(&self, row: &StoredSpan, found: &mut Found) -> bool {
        let sealed = crate::seal::is_sealed(&row.body);
        *if sealed { &mut found.sealed } else { &mut found.plain } += 1;
        sealed
    }

    fn print(&self, found: &Found) {
        let Found { data_keys, dictionaries, sealed, plain, broken, problems } = found;
        if self.output == Output::Json {
            let report = json!({
                "dataKeys": data_keys, "dictionaries": dictionaries, "sealedRows": sealed, "plainRows": plain,
                "problems": broken, "details": problems,
            });
            out::line(format_args!("{report:#}"));
            return;
        }
        for problem in problems {
            out::line(problem);
        }
        if *broken > problems.len() as u64 {
            out::line(format_args!("… and {} more", broken - problems.len() as u64));
        }
        out::line(format_args!(
            "{data_keys} data keys, {dictionaries} dictionaries, {sealed} sealed and {plain} plain rows looked at: {}",
            if *broken == 0 { "all can be read".to_owned() } else { format!("{broken} cannot be read") }
        ));
    }
}
