//! `tests/bench retention`: how fast rows come in while old ones are removed.
//!
//! Both arms drain the same topic into the same table, full of the same old rows; one of them has a retention. The
//! figure is worth nothing unless rows were removed all the time: an arm that runs out of them is an error.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::ensure;
use clap::ValueEnum;
use sluice_consumer::pipeline::MAX_LANES;
use sluice_consumer::store::Store;
use sluice_crds::live::Live;
use sluice_crds::v1alpha1::Format;
use sluice_tests::kafka::Kafka;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::oracle::database::Database;
use sluice_tests::postgres::Postgres;
use sqlx::AssertSqlSafe;

use crate::figure::{Figures, median};
use crate::pipeline::{Measured, Run, UNLIMITED, drain_with};
use crate::store::{mysql_store, pin, postgres_store};

const TOPIC: &str = "retention";
const PARTITIONS: i32 = 6;
const PADDING: usize = 260;
const SPANS_PER_MESSAGE: u64 = 10;
/// What the topic's spans have, too.
const OLD_BODY_BYTES: usize = 500;

/// Rows of a step at most.
const MOST_OF_A_STEP: u64 = 10_000;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write the figures as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each arm has its turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Spans of a turn.
    #[arg(long, default_value_t = 300_000)]
    spans: u64,
    /// Old rows that a turn begins with; 1,000 for each second that they were written in.
    #[arg(long, default_value_t = 200_000)]
    old: u64,
    /// Only this database.
    #[arg(long, value_enum)]
    only: Option<Part>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Mysql,
    Postgres,
}

/// Measures, and returns what was found.
pub async fn run(args: Args) -> anyhow::Result<Figures> {
    let kafka = Kafka::start().await?;
    kafka.create_topic(TOPIC, PARTITIONS, &[]).await?;
    let ledger =
        Ledger { seed: 7, shape: Shape::Json, spans_per_message: SPANS_PER_MESSAGE, padding: PADDING };
    let messages = args.spans / SPANS_PER_MESSAGE;
    ledger.produce(&kafka, TOPIC, 0..messages, |number| (number % PARTITIONS as u64) as i32).await?;
    let mut figures = Figures::default();
    let wanted = |part| args.only.is_none_or(|only| only == part);
    if wanted(Part::Mysql) {
        let mut server =
            MariaDb::start_with(&["--innodb-buffer-pool-size=2G", "--innodb-log-file-size=1G"]).await?;
        pin(server.server()?.component().pid())?;
        let mut arms = Arms::default();
        for turn in 0..2 * args.rounds {
            let url = server.database(&format!("turn_{turn}")).await?;
            arms.turn(turn, &args, &kafka, mysql_store(&url, MAX_LANES)?, &url).await?;
        }
        arms.tell(&mut figures, "mysql");
    }
    if wanted(Part::Postgres) {
        let mut server = Postgres::start_with(&["shared_buffers=1GB", "max_wal_size=8GB"]).await?;
        pin(server.server()?.component().pid())?;
        let mut arms = Arms::default();
        for turn in 0..2 * args.rounds {
            let url = server.database(&format!("turn_{turn}")).await?;
            arms.turn(turn, &args, &kafka, postgres_store(&url, MAX_LANES)?, &url).await?;
        }
        arms.tell(&mut figures, "postgres");
    }
    args.json.map_or(Ok(()), |path| figures.write_json(&path))?;
    Ok(figures)
}

#[derive(Default)]
struct Arms {
    without: Vec<f64>,
    with: Vec<f64>,
    /// Rows removed per second.
    removed: Vec<f64>,
}

impl Arms {
    /// Every other turn has a retention; which of the two comes first changes with every round.
    async fn turn(
        &mut self,
        turn: usize,
        args: &Args,
        kafka: &Kafka,
        store: Arc<dyn Store>,
        url: &str,
    ) -> anyhow::Result<()> {
        store.prepare().await?;
        let database = Database::connect(url).await?;
        insert_old(&database, args.old).await?;
        let removes = turn % 2 != turn / 2 % 2;
        let retention = removes.then(|| "24h".parse()).transpose()?;
        let live = Live { rate_limit_qps: UNLIMITED, retention, ..Live::closed() };
        let (Run { rate, .. }, meters) =
            drain_with(kafka, TOPIC, Format::Json, Measured::to_the_end(args.spans), store, live).await?;
        let removed = meters.retention.all_removed();
        let left = database.count().await? - args.spans;
        // The last step may have been dropped at the end, after its commit and before it was counted.
        let uncounted = args.old.saturating_sub(left + removed);
        ensure!(
            left + removed + uncounted == args.old && uncounted <= MOST_OF_A_STEP,
            "{left} old rows are left of {} after {removed}",
            args.old
        );
        if removes {
            ensure!(removed > 0 && left > 0, "{removed} of {} rows were removed: give more --old", args.old);
            self.with.push(rate);
            self.removed.push(removed as f64 / (args.spans as f64 / rate));
        } else {
            self.without.push(rate);
        }
        Ok(())
    }

    fn tell(&self, figures: &mut Figures, name: &str) {
        figures.note(format!("retention/{name}/without"), median(&self.without), "rows/s");
        figures.note(format!("retention/{name}/with"), median(&self.with), "rows/s");
        figures.note(format!("retention/{name}/removed"), median(&self.removed), "rows/s");
        let ratios: Vec<f64> =
            self.with.iter().zip(&self.without).map(|(with, without)| with / without).collect();
        figures.at_least(format!("retention/{name}/ratio"), median(&ratios), "ratio", 0.9);
    }
}

/// Rows of two days ago, one for each millisecond, with ids of that time in stream 7.
async fn insert_old(database: &Database, rows: u64) -> anyhow::Result<()> {
    const HEAD: &str = "INSERT INTO connectivity_trace (id, trace_id, kind, body, created_at)";
    let id =
        |now: &str, number: &str| format!("((({now}) - 1704067200000 - 172800000 + {number}) << 22) + 1792");
    match database {
        Database::Mysql(pool) => {
            let id = id("CAST(UNIX_TIMESTAMP() * 1000 AS SIGNED)", "seq");
            let sql = format!(
                "{HEAD} SELECT {id}, MD5(seq), 'SERVER', REPEAT('x', {OLD_BODY_BYTES}), \
                 NOW() - INTERVAL 2 DAY FROM seq_1_to_{rows}"
            );
            sqlx::query(AssertSqlSafe(sql)).execute(pool).await?;
        }
        Database::Postgres(pool) => {
            let id = id("CAST(EXTRACT(EPOCH FROM now()) * 1000 AS BIGINT)", "number");
            let sql = format!(
                "{HEAD} SELECT {id}, md5(number::text), 'SERVER', repeat('x', {OLD_BODY_BYTES}), \
                 now() - INTERVAL '2 days' FROM generate_series(1, {rows}) AS number"
            );
            sqlx::query(AssertSqlSafe(sql)).execute(pool).await?;
        }
        Database::Sqlite(_) => anyhow::bail!("not measured"),
    }
    Ok(())
}
