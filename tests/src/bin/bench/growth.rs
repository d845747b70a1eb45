//! `tests/bench growth`: does a table that holds many rows already take new ones as fast as an empty one?
//!
//! The pipeline, whose ids ascend, against raw loops over the same rows, one with ascending ids and one with random
//! ids. The last is the control: where it does not fall either, the table was too small to show anything.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use sluice_consumer::span::SpanBuf;
use sluice_crds::v1alpha1::Format;
use sluice_tests::kafka::Kafka;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::rate::ID_EPOCH_MS;
use sluice_tests::{eventually, now_ms};
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

use crate::figure::{Figures, median};
use crate::pipeline::{Measured, drain};
use crate::raw::{self, IdOf};
use crate::store::{PADDING, PARTITIONS, SPANS_PER_MESSAGE, body_bytes, mysql_store, pin, rows};

/// Of the pipeline, and connections of the raw loops.
const LANES: usize = 3;
/// Rows that one statement fills in.
const FILL: u64 = 500_000;
/// How long the server may take to write what it holds in memory.
const SETTLE: Duration = Duration::from_secs(900);
/// Pages that may be left then.
const FEW_PAGES: u64 = 500;

/// What to measure.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tests/bench growth --json growth.json
  tests/bench growth --rows 200000,2000000 --rounds 1")]
pub struct Args {
    /// Rows that the tables hold before the first turn; an empty one is always among them.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1_000_000, 10_000_000])]
    rows: Vec<u64>,
    /// Spans of a turn.
    #[arg(long, default_value_t = 180_000)]
    spans: u64,
    /// How often each arm has its turn at each size.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// The server's page cache, as `--innodb-buffer-pool-size` has it.
    #[arg(long, value_name = "SIZE", default_value = "2G")]
    buffer_pool: String,
    /// Write the figures as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arm {
    Pipeline,
    Ascending,
    Random,
}

const ARMS: [(Arm, &str); 3] =
    [(Arm::Pipeline, "pipeline"), (Arm::Ascending, "raw_ascending"), (Arm::Random, "raw_random")];

/// Measures, and returns what was found.
pub async fn run(args: Args) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let bench = Bench::prepare(&args).await?;
    // Of an arm: of a size: of a round.
    let mut rates: [Vec<Vec<f64>>; ARMS.len()] = Default::default();
    let sizes: Vec<u64> = [0].into_iter().chain(args.rows.iter().copied()).collect();
    for (arm, of_arm) in ARMS.iter().zip(&mut rates) {
        *of_arm = vec![Vec::new(); sizes.len()];
        for &size in &sizes[1..] {
            bench.fill(arm.0, size).await?;
        }
    }
    for round in 0..args.rounds {
        for (index, &size) in sizes.iter().enumerate() {
            for (&(arm, _), of_arm) in ARMS.iter().zip(&mut rates) {
                of_arm[index].push(bench.turn(arm, size, round).await?);
            }
        }
    }
    for ((arm, name), of_arm) in ARMS.iter().zip(&rates) {
        for (&size, of_size) in sizes.iter().zip(of_arm) {
            figures.note(format!("growth/{name}/{size}"), median(of_size), "rows/s");
        }
        for (&size, of_size) in sizes.iter().zip(of_arm).skip(1) {
            let ratios: Vec<f64> = of_size.iter().zip(&of_arm[0]).map(|(full, empty)| full / empty).collect();
            let name = format!("growth/{name}/{size}/of_empty");
            match arm {
                Arm::Pipeline => figures.at_least(name, median(&ratios), "ratio", 0.9),
                Arm::Ascending | Arm::Random => figures.note(name, median(&ratios), "ratio"),
            }
        }
    }
    args.json.map_or(Ok(()), |path| figures.write_json(&path))?;
    Ok(figures)
}

struct Bench {
    kafka: Kafka,
    server: MariaDb,
    rows: Arc<SpanBuf>,
}

impl Bench {
    async fn prepare(args: &Args) -> anyhow::Result<Self> {
        let kafka = Kafka::start().await?;
        kafka.create_topic("Json", PARTITIONS, &[]).await?;
        let ledger =
            Ledger { seed: 7, shape: Shape::Json, spans_per_message: SPANS_PER_MESSAGE, padding: PADDING };
        let partition_of = |message| (message % PARTITIONS as u64) as i32;
        ledger.produce(&kafka, "Json", 0..args.spans / SPANS_PER_MESSAGE, partition_of).await?;
        let rows = rows(&ledger, args.spans)?;
        println!("# {} spans a turn, bodies of {} bytes on the average", args.spans, body_bytes(&rows));
        let pool = format!("--innodb-buffer-pool-size={}", args.buffer_pool);
        // Else a table of some gigabytes would be written to disk at 200 pages a second.
        let options = [
            &pool,
            "--innodb-log-file-size=1G",
            "--innodb-io-capacity=5000",
            "--innodb-io-capacity-max=20000",
            // What `warm` reads stays as what is used does.
            "--innodb-old-blocks-time=0",
        ];
        let mut server = MariaDb::start_with(&options).await?;
        pin(server.server()?.component().pid())?;
        Ok(Self { kafka, server, rows: Arc::new(rows) })
    }

    /// Makes a table that holds `size` rows, unless another arm has made it.
    async fn fill(&self, arm: Arm, size: u64) -> anyhow::Result<()> {
        if arm == Arm::Ascending {
            return Ok(());
        }
        let url = self.server.database(&database(arm, size)).await?;
        mysql_store(&url, LANES)?.prepare().await?;
        let mut connection = MySqlConnection::connect(&url).await?;
        println!(
            "# filling in {size} rows with {} ids",
            if arm == Arm::Random { "random" } else { "ascending" }
        );
        // Ascending ids below those of now. Random ones lie anywhere; they are filled in by ascending order, which is
        // as quick, and the pages are left as full as random insertion leaves them.
        let id = match arm {
            Arm::Random => format!("seq * {}", i64::MAX as u64 / (size + 1)),
            Arm::Pipeline | Arm::Ascending => "(1 << 40) + seq".to_owned(),
        };
        let body = body_bytes(&self.rows).saturating_sub(32);
        for first in (1..=size).step_by(FILL as usize) {
            let last = (first + FILL - 1).min(size);
            let insert = format!(
                "INSERT INTO connectivity_trace (id, trace_id, kind, body, created_at) \
                 SELECT {id}, MD5(seq DIV 7), ELT(1 + seq % 5, 'SERVER', 'CLIENT', 'PRODUCER', 'CONSUMER', ''), \
                 CONCAT(MD5(seq), REPEAT('x', {body})), FROM_UNIXTIME(1704067200 + seq DIV 1000) \
                 FROM seq_{first}_to_{last}"
            );
            execute(&mut connection, &insert).await?;
        }
        if arm == Arm::Random {
            execute(&mut connection, "SET GLOBAL innodb_fill_factor = 70").await?;
            execute(&mut connection, "ALTER TABLE connectivity_trace FORCE").await?;
        }
        connection.close().await?;
        Ok(())
    }

    /// An arm's rows per second into a table that held `size` rows before its first turn.
    async fn turn(&self, arm: Arm, size: u64, round: usize) -> anyhow::Result<f64> {
        let name = database(arm, size);
        if size == 0 {
            let url = self.server.database(&name).await?;
            mysql_store(&url, LANES)?.prepare().await?;
        }
        let url = self.server.url(&name);
        let mut connection = MySqlConnection::connect(&url).await?;
        settle(&mut connection).await?;
        warm(&mut connection).await?;
        let spans = self.rows.len() as u64;
        let rate = match arm {
            Arm::Pipeline => {
                drain(
                    &self.kafka,
                    "Json",
                    Format::Json,
                    Measured::to_the_end(spans),
                    mysql_store(&url, LANES)?,
                )
                .await?
                .rate
            }
            Arm::Ascending => raw::mysql_with_ids(&url, &self.rows, LANES, &ids_of_now()).await?,
            Arm::Random => raw::mysql_with_ids(&url, &self.rows, LANES, &random_ids(round as u64)).await?,
        };
        // Rows that were there first have ids of their own; a turn's would show if they had met.
        if size == 0 {
            execute(&mut connection, &format!("DROP DATABASE `{name}`")).await?;
        }
        connection.close().await?;
        Ok(rate)
    }
}

/// The arms with ascending ids share a table: both append.
fn database(arm: Arm, size: u64) -> String {
    match arm {
        Arm::Random => format!("random_{size}"),
        Arm::Pipeline | Arm::Ascending => format!("ascending_{size}"),
    }
}

/// From the id that a stream would give out now: behind every row that is there, before every later one.
fn ids_of_now() -> IdOf {
    raw::ascending_from((now_ms() - ID_EPOCH_MS) << 22)
}

/// Anywhere in 63 bits, the same in no two rounds.
fn random_ids(round: u64) -> IdOf {
    Arc::new(move |index| {
        let mut generator = fastrand::Rng::with_seed((round << 40) | index as u64);
        generator.i64(1..)
    })
}

/// Waits until the server has written what earlier turns left in memory.
async fn settle(connection: &mut MySqlConnection) -> anyhow::Result<()> {
    for setting in ["innodb_max_dirty_pages_pct_lwm", "innodb_max_dirty_pages_pct"] {
        execute(connection, &format!("SET GLOBAL {setting} = 0")).await?;
    }
    eventually("the server to write its pages", SETTLE, async || {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let sql = "SHOW GLOBAL STATUS LIKE 'Innodb_buffer_pool_pages_dirty'";
        let (_, dirty): (String, String) = sqlx::query_as(sql).fetch_one(&mut *connection).await?;
        let dirty: u64 = dirty.parse().context("the number of dirty pages")?;
        Ok((dirty <= FEW_PAGES).then_some(()))
    })
    .await?;
    execute(connection, "SET GLOBAL innodb_max_dirty_pages_pct = DEFAULT").await
}

/// Has the server read the index of trace ids, which new rows fall all over: in a table that grew where it is it would be
/// in the cache, and here the last turns, on other tables, have driven it out.
async fn warm(connection: &mut MySqlConnection) -> anyhow::Result<()> {
    execute(connection, "SELECT COUNT(trace_id) FROM connectivity_trace FORCE INDEX (idx_trace_id)").await
}

async fn execute(connection: &mut MySqlConnection, sql: &str) -> anyhow::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.with_context(|| sql.to_owned())?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn random_ids_are_positive_and_differ_between_rows_and_rounds() {
        let ids: BTreeSet<i64> =
            (0..3).flat_map(|round| (0..10_000).map(move |index| random_ids(round)(index))).collect();
        assert_eq!(ids.len(), 30_000);
        assert!(ids.first() >= Some(&1));
        // They fill the range: the halves are about as full.
        let lower = ids.iter().filter(|&&id| id < i64::MAX / 2).count();
        assert!((14_000..16_000).contains(&lower), "{lower}");
    }
}
