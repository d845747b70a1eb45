//! `tests/bench store`.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use sluice_consumer::meter::ACTIVITIES;
use sluice_consumer::pipeline::MAX_LANES;
use sluice_consumer::span::SpanBuf;
use sluice_consumer::store::memory::MemoryStore;
use sluice_consumer::store::mysql::{MySqlOptions, MySqlStore};
use sluice_consumer::store::postgres::{PostgresOptions, PostgresStore};
use sluice_consumer::store::{Store, TableName};
use sluice_crds::v1alpha1::Format;
use sluice_tests::component::family;
use sluice_tests::encode::{FORMATS, message};
use sluice_tests::kafka::Kafka;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::postgres::Postgres;

use crate::figure::{Figures, median};
use crate::pipeline::{Measured, Run, bare, decoder, drain};
use crate::raw::{self, Way};
use crate::server_cpu::ServerCpu;

/// Of every topic.
pub const PARTITIONS: i32 = 6;
const CONNECTIONS: [usize; 3] = [1, 2, 4];
/// The topic that goes into databases.
const ROWS: &str = "rows";
/// The database of every turn: those of former ones would fill the disk.
const TURN: &str = "turn";
/// With the rest of a span, bodies of about 520 bytes.
pub const PADDING: usize = 260;
/// A turn into nothing has so many times the spans of one into a database, which takes that much longer.
const INTO_NOTHING: u64 = 6;
/// In every message.
pub const SPANS_PER_MESSAGE: u64 = 10;

/// What to measure.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Write the figures as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each arm has its turn.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Spans of a turn; of one into nothing six times as many.
    #[arg(long, default_value_t = 300_000)]
    spans: u64,
    /// Only this part.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// How many lanes the pipeline has.
    #[arg(long, default_value_t = MAX_LANES)]
    lanes: usize,
    /// Only the pipeline, not what it is held against: for a profiler.
    #[arg(long)]
    pipeline_only: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Mysql,
    Postgres,
    Null,
}

/// Measures, and returns what was found.
pub async fn run(args: Args) -> anyhow::Result<Figures> {
    let bench = Bench::prepare(&args).await?;
    let mut figures = Figures::default();
    let wanted = |part| args.only.is_none_or(|only| only == part);
    if wanted(Part::Null) {
        bench.null(&mut figures, args.rounds).await?;
    }
    if wanted(Part::Mysql) {
        bench.mysql(&mut figures, args.rounds).await?;
    }
    if wanted(Part::Postgres) {
        bench.postgres(&mut figures, args.rounds).await?;
    }
    args.json.map_or(Ok(()), |path| figures.write_json(&path))?;
    Ok(figures)
}

struct Bench {
    kafka: Kafka,
    /// Its process.
    broker: i32,
    spans: u64,
    rows: Arc<SpanBuf>,
    lanes: usize,
    pipeline_only: bool,
}

impl Bench {
    /// Starts the broker and fills the topics: one for each format for the way into nothing, and one for databases.
    async fn prepare(args: &Args) -> anyhow::Result<Self> {
        let ledger =
            Ledger { seed: 7, shape: Shape::Json, spans_per_message: SPANS_PER_MESSAGE, padding: PADDING };
        let rows = rows(&ledger, args.spans)?;
        println!("# {} spans a turn, bodies of {} bytes on the average", args.spans, body_bytes(&rows));
        let mut kafka = Kafka::start().await?;
        let bench = Self {
            broker: kafka.component()?.pid(),
            kafka,
            spans: args.spans,
            rows: Arc::new(rows),
            lanes: args.lanes,
            pipeline_only: args.pipeline_only,
        };
        if args.only != Some(Part::Null) {
            bench.fill(ROWS, &ledger, Format::Json, args.spans).await?;
        }
        if args.only.is_none_or(|only| only == Part::Null) {
            for (format, name) in FORMATS {
                bench.fill(name, &ledger, format, INTO_NOTHING * args.spans).await?;
            }
        }
        Ok(bench)
    }

    async fn fill(&self, topic: &str, ledger: &Ledger, format: Format, spans: u64) -> anyhow::Result<()> {
        self.kafka.create_topic(topic, PARTITIONS, &[]).await?;
        let sender = self.kafka.producer()?;
        for number in 0..spans / SPANS_PER_MESSAGE {
            let partition = (number % PARTITIONS as u64) as i32;
            sender.send(topic, partition, Some(&message(ledger, format, number)), None, None).await?;
        }
        sender.flush()
    }

    /// Pipeline into nothing against the bare loop, format by format.
    async fn null(&self, figures: &mut Figures, rounds: usize) -> anyhow::Result<()> {
        let spans = INTO_NOTHING * self.spans;
        let measured = Measured::amid(spans);
        for (format, name) in FORMATS {
            let (mut whole, mut loops) = (Vec::new(), Vec::new());
            let mut broker_cpu = ServerCpu::of(self.broker);
            for _ in 0..rounds {
                if !self.pipeline_only {
                    broker_cpu.begin()?;
                    let bare = || bare(&self.kafka, name, PARTITIONS, format, measured);
                    loops.push(tokio::task::block_in_place(bare)?);
                    broker_cpu.raw_ended(spans as usize)?;
                }
                broker_cpu.begin()?;
                let store = Arc::new(MemoryStore::without_rows(self.lanes));
                whole.push(drain(&self.kafka, name, format, measured, store).await?);
                broker_cpu.pipeline_ended(spans as usize)?;
            }
            broker_cpu.note(figures, &format!("null/{name}"));
            let of =
                |runs: &[Run], value: fn(&Run) -> f64| median(&runs.iter().map(value).collect::<Vec<_>>());
            let ratios: Vec<f64> =
                whole.iter().zip(&loops).map(|(whole, bare)| whole.rate / bare.rate).collect();
            if !loops.is_empty() {
                figures.note(format!("null/{name}/bare_loop"), of(&loops, |run| run.rate), "spans/s");
                figures.note(format!("null/{name}/bare_cpu"), of(&loops, |run| run.cpu_micros), "us/span");
            }
            figures.note(format!("null/{name}/pipeline"), of(&whole, |run| run.rate), "spans/s");
            figures.note(format!("null/{name}/pipeline_cpu"), of(&whole, |run| run.cpu_micros), "us/span");
            note_activities(figures, &format!("null/{name}"), &whole);
            if !ratios.is_empty() {
                figures.at_least(format!("null/{name}/ratio"), median(&ratios), "ratio", 0.8);
            }
        }
        Ok(())
    }

    /// The raw arms, numbered; none where only the pipeline is wanted.
    fn held_against<T: Copy>(&self, arms: &[T]) -> impl Iterator<Item = (usize, T)> {
        let count = if self.pipeline_only { 0 } else { arms.len() };
        arms.iter().copied().take(count).enumerate()
    }

    async fn mysql(&self, figures: &mut Figures, rounds: usize) -> anyhow::Result<()> {
        let measured = Measured::to_the_end(self.spans);
        let mut server =
            MariaDb::start_with(&["--innodb-buffer-pool-size=2G", "--innodb-log-file-size=1G"]).await?;
        pin(server.server()?.component().pid())?;
        let mut raw_rates = vec![Vec::new(); CONNECTIONS.len()];
        let mut server_cpu = ServerCpu::of(server.server()?.component().pid());
        let mut runs = Vec::new();
        for _ in 0..rounds {
            for (index, connections) in self.held_against(&CONNECTIONS) {
                let url = server.new_database(TURN).await?;
                mysql_store(&url, self.lanes)?.prepare().await?;
                server_cpu.begin()?;
                raw_rates[index].push(raw::mysql(&url, &self.rows, connections).await?);
                server_cpu.raw_ended(self.rows.len())?;
            }
            let url = server.new_database(TURN).await?;
            server_cpu.begin()?;
            runs.push(
                drain(&self.kafka, ROWS, Format::Json, measured, mysql_store(&url, self.lanes)?).await?,
            );
            server_cpu.pipeline_ended(self.rows.len())?;
        }
        for (connections, rates) in
            CONNECTIONS.into_iter().zip(&raw_rates).filter(|(_, rates)| !rates.is_empty())
        {
            figures.note(format!("mysql/raw_insert/{connections}"), median(rates), "rows/s");
        }
        compare(figures, "mysql", &raw_rates, &runs);
        server_cpu.note(figures, "mysql");
        Ok(())
    }

    async fn postgres(&self, figures: &mut Figures, rounds: usize) -> anyhow::Result<()> {
        let measured = Measured::to_the_end(self.spans);
        let mut server = Postgres::start_with(&["shared_buffers=1GB", "max_wal_size=8GB"]).await?;
        pin(server.server()?.component().pid())?;
        let arms: Vec<(Way, usize)> = [Way::Copy, Way::Unnest]
            .into_iter()
            .flat_map(|way| CONNECTIONS.map(|count| (way, count)))
            .collect();
        let mut raw_rates = vec![Vec::new(); arms.len()];
        let mut server_cpu = ServerCpu::of(server.server()?.component().pid());
        let mut runs = Vec::new();
        for _ in 0..rounds {
            for (index, (way, connections)) in self.held_against(&arms) {
                let url = server.new_database(TURN).await?;
                postgres_store(&url, self.lanes)?.prepare().await?;
                server_cpu.begin()?;
                raw_rates[index].push(raw::postgres(&url, &self.rows, connections, way).await?);
                if matches!(way, Way::Unnest) {
                    server_cpu.raw_ended(self.rows.len())?;
                }
            }
            let url = server.new_database(TURN).await?;
            server_cpu.begin()?;
            runs.push(
                drain(&self.kafka, ROWS, Format::Json, measured, postgres_store(&url, self.lanes)?).await?,
            );
            server_cpu.pipeline_ended(self.rows.len())?;
        }
        for ((way, connections), rates) in arms.iter().zip(&raw_rates).filter(|(_, rates)| !rates.is_empty())
        {
            let name = format!("postgres/raw_{}/{connections}", format!("{way:?}").to_lowercase());
            figures.note(name, median(rates), "rows/s");
        }
        compare(figures, "postgres", &raw_rates, &runs);
        server_cpu.note(figures, "postgres");
        Ok(())
    }
}

/// The first spans of a ledger as rows, decoded from its messages.
pub fn rows(ledger: &Ledger, spans: u64) -> anyhow::Result<SpanBuf> {
    let (mut rows, mut rejected) = (SpanBuf::default(), Vec::new());
    let json = decoder(Format::Json)?;
    for number in 0..spans / ledger.spans_per_message {
        json.decode(&message(ledger, Format::Json, number), &mut rows, &mut rejected)?;
    }
    ensure!(rows.len() as u64 == spans, "the decoder found {} of {spans} spans", rows.len());
    Ok(rows)
}

/// Bytes of a body on the average; a row has 38 bytes of trace id and kind besides.
pub fn body_bytes(rows: &SpanBuf) -> usize {
    rows.bytes() / rows.len() - 38
}

/// The pipeline against the arm whose median is best, round by round.
fn compare(figures: &mut Figures, name: &str, raw_rates: &[Vec<f64>], runs: &[Run]) {
    let Some(best) = raw_rates.iter().max_by(|one, two| median(one).total_cmp(&median(two))) else { return };
    let ratios: Vec<f64> = runs.iter().zip(best).map(|(run, raw)| run.rate / raw).collect();
    figures.note(
        format!("{name}/pipeline"),
        median(&runs.iter().map(|run| run.rate).collect::<Vec<_>>()),
        "rows/s",
    );
    let cpu: Vec<f64> = runs.iter().map(|run| run.cpu_micros).collect();
    figures.note(format!("{name}/pipeline_cpu"), median(&cpu), "us/span");
    note_activities(figures, name, runs);
    if !ratios.is_empty() {
        figures.at_least(format!("{name}/ratio"), median(&ratios), "ratio", 0.9);
    }
}

/// What the lanes spent their time with, together.
fn note_activities(figures: &mut Figures, name: &str, runs: &[Run]) {
    for (index, (_, activity)) in ACTIVITIES.iter().enumerate() {
        let shares: Vec<f64> = runs.iter().map(|run| run.activities[index]).collect();
        figures.note(format!("{name}/pipeline_{activity}"), median(&shares), "of lanes' time");
    }
}

fn table() -> anyhow::Result<TableName> {
    Ok(TableName::new("connectivity_trace")?)
}

/// A store in the database at `url`, which manages its schema.
pub fn mysql_store(url: &str, lanes: usize) -> anyhow::Result<Arc<dyn Store>> {
    let options: sqlx::mysql::MySqlConnectOptions = url.parse()?;
    Ok(Arc::new(MySqlStore::new(MySqlOptions {
        connect: Arc::new(move || Ok(options.clone())),
        table: table()?,
        lanes,
        manage_schema: true,
    })))
}

pub fn postgres_store(url: &str, lanes: usize) -> anyhow::Result<Arc<dyn Store>> {
    let options: sqlx::postgres::PgConnectOptions = url.parse()?;
    Ok(Arc::new(PostgresStore::new(PostgresOptions {
        connect: Arc::new(move || Ok(options.clone())),
        table: table()?,
        lanes,
        manage_schema: true,
    })))
}

/// Moves a database, with all of its processes and threads and their later children, to core 0. Those that it has
/// started already, such as writers of logs and checkpoints, would else stay on the client's core.
pub fn pin(pid: i32) -> anyhow::Result<()> {
    // Parents first: what one of them starts meanwhile is on core 0, or among its children.
    for member in family(pid)? {
        let output = Command::new("taskset")
            .args(["--all-tasks", "--pid", "--cpu-list", "0"])
            .arg(member.to_string())
            .output()
            .context("taskset (Debian: util-linux) is needed")?;
        // A process that has ended meanwhile needs no core.
        let is_gone = !Path::new(&format!("/proc/{member}")).exists();
        let failed = || format!("taskset: {}", String::from_utf8_lossy(&output.stderr));
        ensure!(output.status.success() || is_gone, failed());
    }
    Ok(())
}
