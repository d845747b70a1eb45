//! `sluice keys`: what wraps the data keys, wrapping them anew, and whether everything can be read.
//!
//! Rotating re-wraps data keys and rewrites no row. Every command may be interrupted and repeated, while consumers run:
//! a data key is replaced only where it still is what was read. A command is about one table; what the ring has sealed in
//! others is told, see [`others`].

mod others;
mod print;
mod verify;

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::Subcommand;
use indicatif::ProgressBar;
use sluice_crds::problem::chain;

use crate::config::Config;
use crate::out::{self, Output, bar};
use crate::pipeline_args::{Opened, PipelineArgs, cannot_read};
use crate::seal::KeyRing;
use crate::secrets::Secrets;
use crate::store::key::WrappedKey;
use crate::store::{Store, TableName};

/// Look after the keys of sealed bodies.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice keys status -f pipeline.yaml --secrets-dir /etc/sluice/secrets
  sluice keys rotate -f pipeline.yaml --dry-run
  sluice keys rotate -f pipeline.yaml -o json
  sluice keys rotate -f pipeline.yaml --table replayed_trace
  sluice keys verify -f pipeline.yaml --rows 100000
  sluice keys verify --local sluice-data --output json

To replace a key: add the new one to encryption.keys and name it in primaryKey; once all consumers run with that,
`sluice keys rotate`; once `sluice keys status` shows no data key under the old one, remove it.")]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do with keys.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the keys of the pipeline, and how many data keys each wraps.
    Status(Status),
    /// Wrap every data key by the primary key. No row is rewritten.
    Rotate(Rotate),
    /// Open every data key, every dictionary, and rows.
    Verify(verify::Verify),
}

/// See [`Command::Status`].
#[derive(Debug, clap::Args)]
pub struct Status {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// See [`Command::Rotate`].
#[derive(Debug, clap::Args)]
pub struct Rotate {
    #[command(flatten)]
    pipeline: PipelineArgs,
    /// The data keys of this table, into which a replay has stored, instead of those of the pipeline's own.
    #[arg(long, value_name = "TABLE")]
    table: Option<String>,
    /// Only say how many it would be.
    #[arg(long)]
    dry_run: bool,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Runs the command; prints to standard output.
///
/// # Errors
/// What a person must know; printed with its causes.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.command {
        Command::Status(status) => status.run().await,
        Command::Rotate(rotate) => rotate.run().await,
        Command::Verify(verify) => verify.run().await,
    }
}

const KEYS: &str = "the keys";

/// The pipeline's ring, and one table with its store.
struct Keys {
    pipeline: PipelineArgs,
    config: Config,
    ring: KeyRing,
    store: Arc<dyn Store>,
    table: String,
}

impl Keys {
    /// Of the pipeline's own table, unless another one is named.
    fn open(pipeline: &PipelineArgs, table: Option<&str>) -> anyhow::Result<Self> {
        let Opened { config, store, .. } = pipeline.open()?;
        let encryption = config.encryption.as_ref();
        let encryption = encryption.context(
            "spec.encryption is not set: this pipeline seals nothing (keys that sealed older rows belong there, too)",
        )?;
        let ring = KeyRing::new(encryption, Secrets::new(pipeline.folders.secrets_dir.clone()));
        let own = config.sink.table.to_string();
        let keys = Self { pipeline: pipeline.clone(), config, ring, store, table: own };
        match table {
            Some(table) => keys.of(table),
            None => Ok(keys),
        }
    }

    /// The same for another table of the database.
    fn of(&self, table: &str) -> anyhow::Result<Self> {
        let mut config = self.config.clone();
        config.sink.table = TableName::new(table)?;
        let (pipeline, store) = (self.pipeline.clone(), self.pipeline.open_store(&config)?);
        Ok(Self { pipeline, config, ring: self.ring.clone(), store, table: table.to_owned() })
    }
}

impl Status {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let keys = Keys::open(&self.pipeline, None)?;
        let wrapped = keys.store.data_keys().await.map_err(cannot_read(KEYS))?;
        let dictionaries = keys.store.dictionaries().await.map_err(cannot_read(KEYS))?;
        let others = keys.others().await?;
        keys.store.close().await;
        let report = print::Report::new(&keys.ring, &keys.table, &wrapped, &others, &dictionaries);
        match self.output {
            Output::Table => out::text(report.table()),
            Output::Json => out::json(&report.json())?,
        }
        Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

impl Rotate {
    async fn run(self) -> anyhow::Result<ExitCode> {
        let own = Keys::open(&self.pipeline, None)?;
        let mut wrapped = own.usable_data_keys().await?;
        let keys = match &self.table {
            None => own,
            Some(table) => {
                own.store.close().await;
                let keys = own.of(table)?;
                wrapped = keys.usable_data_keys().await?;
                ensure!(!wrapped.is_empty(), "{table} has no data keys in this database");
                keys
            }
        };
        let others = keys.others().await?;
        let old: Vec<&WrappedKey> =
            wrapped.iter().filter(|key| key.wrapped_by != keys.ring.primary()).collect();
        let mut rotated = print::Rotated {
            dry_run: self.dry_run,
            primary_key: keys.ring.primary(),
            data_keys: wrapped.len(),
            wrapped: if self.dry_run { old.len() } else { 0 },
            failed: 0,
            elsewhere: others.iter().map(|other| other.old(keys.ring.primary())).sum(),
        };
        if !self.dry_run {
            keys.rewrap_all(&old, &mut rotated).await;
        }
        for other in others.iter().filter(|other| other.old(keys.ring.primary()) > 0) {
            let (table, left) = (&other.table, other.old(keys.ring.primary()));
            out::note(format_args!(
                "{left} data keys of {table} are wrapped by other keys of this pipeline: if a replay stored there, go on with \
                 --table {table}; if another pipeline does, with that one"
            ));
        }
        keys.store.close().await;
        match self.output {
            Output::Table => out::line(&rotated),
            Output::Json => out::json(&rotated)?,
        }
        let failed = rotated.failed;
        ensure!(
            failed == 0,
            "{failed} data keys could not be wrapped anew: put back what is missing, and repeat"
        );
        Ok(ExitCode::SUCCESS)
    }
}

impl Keys {
    /// The table's data keys. The primary key must open what consumers wrapped by its name: they could open nothing that
    /// another key of this name wraps.
    async fn usable_data_keys(&self) -> anyhow::Result<Vec<WrappedKey>> {
        let wrapped = self.store.data_keys().await.map_err(cannot_read(KEYS))?;
        let checked = self.ring.check_against(&self.table, self.ring.primary(), &wrapped);
        checked.context("the primary key is of no use")?;
        Ok(wrapped)
    }

    /// One after the other, also where one cannot be wrapped anew.
    async fn rewrap_all(&self, old: &[&WrappedKey], rotated: &mut print::Rotated<'_>) {
        let bar = progress(old.len() as u64, "data keys");
        for key in old {
            match self.rewrap(key).await {
                Ok(swapped) => rotated.wrapped += usize::from(swapped),
                Err(error) => {
                    rotated.failed += 1;
                    bar.suspend(|| out::note(format_args!("data key {}: {error:#}", key.id)));
                }
            }
            bar.inc(1);
        }
        bar.finish_and_clear();
    }

    /// False where somebody else has done it meanwhile.
    async fn rewrap(&self, old: &WrappedKey) -> anyhow::Result<bool> {
        let bytes = self.ring.unwrap(&self.table, old)?;
        let new = self.ring.wrap(&self.table, old.id, &bytes)?;
        // What cannot be opened again would be lost for good.
        let again = self.ring.unwrap(&self.table, &new)?;
        ensure!(*again == *bytes, "the wrapped key does not open to what it was");
        self.store.rewrap(old, &new).await.map_err(|error| anyhow::anyhow!(chain(&error)))
    }
}

fn progress(length: u64, what: &'static str) -> ProgressBar {
    bar(ProgressBar::new(length).with_message(what), "{msg} {bar:40} {pos}/{len} {eta}")
}
