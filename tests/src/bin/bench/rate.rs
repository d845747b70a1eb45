//! `tests/bench rate`: how exactly the limiter keeps a rate, on real Kafka, MariaDB and processes.
//!
//! Three replicas work on a backlog, at one rate after the other. Each rate is measured steady, after one replica was
//! frozen until the others had taken its partitions, after a fourth one joined, and after one was killed. What was
//! released when is taken from the time in the rows' ids, after the end, and exactly.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;
use sluice_tests::kafka::Kafka;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::oracle::database::Database;
use sluice_tests::rate::{Releases, bound};
use sluice_tests::sluice::{Home, Pipeline, Sink, Sluice, read_partitions};
use sluice_tests::{eventually, now_ms};

use crate::figure::Figures;
use crate::store::PARTITIONS;

/// Guarantee 2 counts from this long after a change.
const SETTLE_MS: i64 = 5_000;
/// How much must be used.
const USED: f64 = 0.98;
/// Milliseconds between the sliding seconds whose error is taken.
const STEP: usize = 10;
/// How long partitions may take to be shared out anew.
const SHARED_OUT: Duration = Duration::from_secs(60);
/// Below, messages have a single span: what is measured is the limiter, not the debt of large messages.
const LARGER_MESSAGES_FROM: u32 = 1_000;
/// How long starting, rebalancing and stopping may take in all; there is a backlog for this time, too.
const OVERHEAD_S: i64 = 60;

/// What to measure.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tests/bench rate --json rate.json
  tests/bench rate --qps 100,2000 --strict")]
pub struct Args {
    /// Rates in spans per second, for the whole pipeline.
    #[arg(long, value_name = "N,…", value_delimiter = ',', default_values_t = [1, 10, 100, 1_000, 10_000, 50_000],
          value_parser = clap::value_parser!(u32).range(1..))]
    qps: Vec<u32>,
    /// Least number of seconds of each measurement; at low rates it is the time of 50 messages.
    #[arg(long, default_value_t = 20)]
    seconds: i64,
    /// How long a replica is frozen.
    #[arg(long, default_value_t = 5)]
    stall_seconds: u64,
    /// Write the figures as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// Measures, and returns what was found.
pub async fn run(args: Args) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let kafka = Kafka::start().await?;
    let mariadb = MariaDb::start_with(&["--innodb-buffer-pool-size=1G", "--innodb-log-file-size=1G"]).await?;
    for &qps in &args.qps {
        let course = Course::begin(&kafka, &mariadb, qps, &args).await?;
        let outcome = course.run().await?;
        outcome.note(&mut figures);
        kafka.delete_topic(&format!("rate_{qps}")).await?;
    }
    args.json.map_or(Ok(()), |path| figures.write_json(&path))?;
    Ok(figures)
}

/// One rate, from the first replica's start to the last one's end.
struct Course {
    qps: u32,
    ledger: Ledger,
    messages: u64,
    /// Of a measurement.
    window_ms: i64,
    stall: Duration,
    url: String,
    home: Home,
}

struct Outcome {
    qps: u32,
    largest_message: u64,
    window_ms: i64,
    began: i64,
    ended: i64,
    /// When each measurement's settling began.
    phases: Vec<(&'static str, i64)>,
    releases: Releases,
}

impl Course {
    async fn begin(kafka: &Kafka, mariadb: &MariaDb, qps: u32, args: &Args) -> anyhow::Result<Self> {
        let name = format!("rate_{qps}");
        let spans_per_message = if qps < LARGER_MESSAGES_FROM { 1 } else { 10 };
        let window_ms = (args.seconds * 1_000).max(50_000 * spans_per_message as i64 / i64::from(qps));
        // Four measurements.
        let seconds = 4 * (SETTLE_MS + window_ms) / 1_000 + args.stall_seconds as i64 + OVERHEAD_S;
        let messages = (u64::from(qps) * seconds as u64).div_ceil(spans_per_message);
        let ledger = Ledger { seed: 31, shape: Shape::Json, spans_per_message, padding: 0 };
        kafka.create_topic(&name, PARTITIONS, &[]).await?;
        ledger.produce(kafka, &name, 0..messages, |message| (message % PARTITIONS as u64) as i32).await?;
        let url = mariadb.database(&name).await?;
        let mut pipeline = Pipeline::new(kafka.bootstrap(), &name, Sink::Mysql(url.clone()));
        pipeline.rate = qps;
        pipeline.notice_deaths_soon();
        let home = Home::new(&pipeline)?;
        let stall = Duration::from_secs(args.stall_seconds);
        Ok(Self { qps, ledger, messages, window_ms, stall, url, home })
    }

    async fn run(&self) -> anyhow::Result<Outcome> {
        let began = now_ms();
        let mut replicas = Vec::new();
        for name in ["a", "b", "c"] {
            replicas.push(self.replica(name)?);
        }
        let mut phases = vec![("steady", self.measured_from(&replicas).await?)];

        replicas[1].freeze()?;
        tokio::time::sleep(self.stall).await;
        replicas[1].thaw()?;
        phases.push(("after_stall", self.measured_from(&replicas).await?));

        replicas.push(self.replica("d")?);
        phases.push(("after_join", self.measured_from(&replicas).await?));

        replicas.remove(0).kill().await?;
        phases.push(("after_kill", self.measured_from(&replicas).await?));

        for replica in &mut replicas {
            replica.component.stop(Duration::from_secs(20)).await?;
        }
        let ended = now_ms();
        let database = Database::connect(&self.url).await?;
        let settled: i64 = database.positions().await?.iter().map(|position| position.next_offset).sum();
        ensure!((settled as u64) < self.messages, "{}: the backlog ended before the measurement", self.qps);
        let releases = database.released().await?;
        let (largest_message, window_ms) = (self.ledger.spans_per_message, self.window_ms);
        Ok(Outcome { qps: self.qps, largest_message, window_ms, began, ended, phases, releases })
    }

    /// A replica that logs as one in production does.
    fn replica(&self, name: &str) -> anyhow::Result<Sluice> {
        let file = self.home.path().join("pipeline.yaml").display().to_string();
        Sluice::start_from(&self.home, name, &["-f", &file], &[("RUST_LOG", "info")])
    }

    /// Waits until the replicas have shared the partitions out, and then for a measurement's time; when it began.
    async fn measured_from(&self, replicas: &[Sluice]) -> anyhow::Result<i64> {
        eventually("the partitions to be shared out", SHARED_OUT, async || {
            let mut owned = Vec::new();
            for replica in replicas {
                // One that starts, or that has just been thawed, may not answer yet.
                let Ok(status) = replica.status().await else { return Ok(None) };
                owned.push(read_partitions(&status).len());
            }
            Ok((owned.iter().sum::<usize>() == PARTITIONS as usize && !owned.contains(&0)).then_some(()))
        })
        .await?;
        let since = now_ms();
        tokio::time::sleep(Duration::from_millis((SETTLE_MS + self.window_ms) as u64)).await;
        Ok(since)
    }
}

impl Outcome {
    fn note(&self, figures: &mut Figures) {
        let rate = f64::from(self.qps);
        let name = format!("rate/{}", self.qps);
        for &(phase, since) in &self.phases {
            let (from, to) = (since + SETTLE_MS, since + SETTLE_MS + self.window_ms);
            let used = self.releases.used(from, to, rate);
            figures.at_least(format!("{name}/{phase}/used"), used, "of the rate", USED);
            let mut errors: Vec<f64> = self
                .releases
                .seconds(from, to, STEP)
                .into_iter()
                .map(|count| (count as f64 - rate).abs() / rate)
                .collect();
            errors.sort_by(f64::total_cmp);
            let at = |share: f64| errors.get(((errors.len() - 1) as f64 * share) as usize).copied();
            figures.note(format!("{name}/{phase}/error_median"), at(0.5).unwrap_or(f64::NAN) * 100.0, "%");
            figures.note(format!("{name}/{phase}/error_p99"), at(0.99).unwrap_or(f64::NAN) * 100.0, "%");
        }
        // Everything counts here: starts, stalls, rebalances and stops, too.
        let fullest = self.releases.fullest_second(self.began, self.ended);
        let allowed = bound(rate, PARTITIONS as u32, self.largest_message);
        figures.note(format!("{name}/fullest_second"), fullest.count as f64, "spans");
        figures.at_most(format!("{name}/fullest_of_bound"), fullest.count as f64 / allowed, "ratio", 1.0);
    }
}
