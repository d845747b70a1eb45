//! The driver of `tests/soak`: a long run under load, with random faults and edits from a seed.
//!
//! Messages are produced while broker and database are well, so that the ledger is exact; faults come in between, and
//! consumers work through all of it. At the end the oracle must find every span once, the limiter must have held
//! in every sliding second, no consumer may ever have used more memory, handles or threads than the ceilings in
//! [`usage`], and the one that no fault ends must not have grown.

mod fault;
mod usage;

use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::Parser;
use fastrand::Rng;
use sluice_tests::kafka::Kafka;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::oracle::database::Database;
use sluice_tests::oracle::report;
use sluice_tests::rate::{Releases, bound};
use sluice_tests::sluice::{Home, Pipeline, Sink, Sluice};
use sluice_tests::{eventually, now_ms};

use fault::Fault;
use usage::Usage;

const TOPIC: &str = "spans";
const PARTITIONS: i32 = 6;
const SPANS_PER_MESSAGE: u64 = 10;
/// Spans a second that are produced, on the average; edits set rates around it.
const LOAD: u64 = 1_000;
/// Rates that edits choose from, in spans a second.
const RATES: [u32; 4] = [700, 1_200, 2_000, 4_000];
const MOST_REPLICAS: usize = 4;
/// What is there before the first fault: more than a consumer fetches ahead, of all partitions 12 MiB and a response of each.
const BACKLOG: u64 = 6_000;
/// Of these, how much one that has them all holds at least.
const PREFETCH: f64 = 12.0 * 1024.0 * 1024.0;
/// Kubernetes' `terminationGracePeriodSeconds`.
const GRACE: Duration = Duration::from_secs(30);
/// For the backlog that is left at the end, at the largest rate.
const DRAIN: Duration = Duration::from_secs(900);

#[derive(Debug, Parser)]
#[command(name = "soak")]
struct Args {
    /// How long faults are made.
    #[arg(long, default_value_t = 10)]
    minutes: u64,
    /// Same seed, same faults. Default: a new one, which is printed.
    #[arg(long)]
    seed: Option<u64>,
}

/// Everything that runs.
struct World {
    kafka: Kafka,
    mariadb: MariaDb,
    pipeline: Pipeline,
    home: Home,
    /// The first one is spared: it may be frozen, and is never ended.
    replicas: Vec<Sluice>,
    started: usize,
    usage: Usage,
    /// Rates with the times from which they held, milliseconds since 1970.
    rates: Vec<(i64, u32)>,
    rng: Rng,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let seed = args.seed.unwrap_or_else(|| fastrand::u64(..));
    println!("soak: {} minutes, --seed {seed}", args.minutes);
    let mut world = World::start(Rng::with_seed(seed)).await?;
    let Sink::Mysql(url) = &world.pipeline.sink else { anyhow::bail!("expected MariaDB") };
    let database = Database::connect(url).await?;
    let ledger = Ledger::new(seed, Shape::Json);
    ledger.produce(&world.kafka, TOPIC, 0..BACKLOG, |message| (message % PARTITIONS as u64) as i32).await?;
    world.fill().await?;
    let (began, mut messages, mut faults) = (Instant::now(), BACKLOG, 0);
    let length = Duration::from_secs(args.minutes * 60);
    while began.elapsed() < length {
        let due = began.elapsed().as_secs() * LOAD / SPANS_PER_MESSAGE + BACKLOG;
        if due > messages {
            let random = world.rng.u64(..);
            let partition = |message: u64| ((message ^ random) % PARTITIONS as u64) as i32;
            ledger.produce(&world.kafka, TOPIC, messages..due, partition).await?;
            messages = due;
        }
        let fault = Fault::choose(&mut world.rng);
        println!("{:>6} s  {fault:?}", began.elapsed().as_secs());
        fault.happen(&mut world).await?;
        faults += 1;
        let pause = Duration::from_millis(world.rng.u64(..4_000));
        tokio::time::sleep(pause).await;
        world.look().await?;
    }
    world.settle(&database, messages).await?;
    world.finish(&database, &ledger, messages * SPANS_PER_MESSAGE, faults).await
}

/// Asks a replica to stop (SIGTERM), which it must do in order. One that has just started is ended at once by a signal
/// that it does not handle yet: nobody can do anything about that.
async fn stop(mut replica: Sluice) -> anyhow::Result<()> {
    eventually("the replica to answer", GRACE, async || Ok(replica.get("/livez").await.ok())).await?;
    replica.component.stop(GRACE).await
}

impl World {
    async fn start(rng: Rng) -> anyhow::Result<Self> {
        let (kafka, mariadb) = (Kafka::start().await?, MariaDb::start().await?);
        kafka.create_topic(TOPIC, PARTITIONS, &[]).await?;
        let sink = Sink::Mysql(mariadb.database("soak").await?);
        let mut pipeline = Pipeline::new(kafka.bootstrap(), TOPIC, sink);
        pipeline.notice_deaths_soon();
        pipeline.rate = RATES[1];
        let home = Home::new(&pipeline)?;
        let rates = vec![(0, pipeline.rate)];
        let mut world = Self {
            kafka,
            mariadb,
            pipeline,
            home,
            replicas: Vec::new(),
            started: 0,
            usage: Usage::default(),
            rates,
            rng,
        };
        world.add_replica()?;
        Ok(world)
    }

    /// Waits until the first replica, which is alone, has fetched ahead what it may, which is what it needs most memory
    /// for. Then another one joins.
    async fn fill(&mut self) -> anyhow::Result<()> {
        let first = &self.replicas[0];
        eventually("the first replica to fetch ahead what it may", Duration::from_secs(60), async || {
            let Ok((_, metrics)) = first.get("/metrics").await else { return Ok(None) };
            let line = metrics.lines().find_map(|line| line.strip_prefix("sluice_prefetched_bytes "));
            Ok(line.and_then(|bytes| bytes.parse().ok()).filter(|bytes: &f64| *bytes >= PREFETCH).map(|_| ()))
        })
        .await?;
        self.look().await?;
        self.add_replica()
    }

    /// Does not wait: a replica starts while whatever it needs may be away.
    fn add_replica(&mut self) -> anyhow::Result<()> {
        self.started += 1;
        self.replicas.push(Sluice::start(&self.home, &format!("replica-{}", self.started))?);
        Ok(())
    }

    fn any_replica(&mut self) -> usize {
        self.rng.usize(..self.replicas.len())
    }

    /// One that may be ended; there must be one.
    fn take_victim(&mut self) -> Sluice {
        let index = self.rng.usize(1..self.replicas.len());
        self.replicas.remove(index)
    }

    fn save(&mut self) -> anyhow::Result<()> {
        self.home.save(&self.pipeline.yaml())?;
        let rate = if self.pipeline.suspend { 0 } else { self.pipeline.rate };
        self.rates.push((now_ms(), rate));
        Ok(())
    }

    /// No replica has ended by itself; what each uses is noted.
    async fn look(&mut self) -> anyhow::Result<()> {
        for (index, replica) in self.replicas.iter_mut().enumerate() {
            ensure!(replica.component.is_running()?, "a replica ended:\n{}", replica.component.log_tail(60));
            self.usage.note(&replica.component, index == 0)?;
        }
        Ok(())
    }

    /// Without faults, at the largest rate, until nothing is left.
    async fn settle(&mut self, database: &Database, messages: u64) -> anyhow::Result<()> {
        (self.pipeline.rate, self.pipeline.suspend) = (RATES[RATES.len() - 1], false);
        self.save()?;
        println!("waiting for the backlog");
        eventually("every message to be settled", DRAIN, async || {
            let Ok(positions) = database.positions().await else { return Ok(None) };
            let settled: u64 = positions.iter().map(|position| position.next_offset as u64).sum();
            Ok((settled >= messages).then_some(()))
        })
        .await
    }

    async fn finish(
        mut self,
        database: &Database,
        ledger: &Ledger,
        spans: u64,
        faults: usize,
    ) -> anyhow::Result<()> {
        self.look().await?;
        for replica in self.replicas.drain(..) {
            stop(replica).await?;
        }
        let problems = database.audit(ledger, spans, &[]).await?;
        ensure!(problems.is_empty(), "{}", report(&problems));
        println!("{faults} faults and edits; {spans} spans, every one stored once, no dead letter");
        self.check_rate(&database.released().await?)?;
        self.usage.check()?;
        println!("soak: passed");
        Ok(())
    }

    /// Every sliding second against the largest rate that was set within it or a second before.
    fn check_rate(&self, releases: &Releases) -> anyhow::Result<()> {
        let lanes = MOST_REPLICAS as u32 * 4;
        let mut fullest = 0.0f64;
        for (index, (from, rate)) in self.rates.iter().enumerate() {
            let to = self.rates.get(index + 1).map_or(i64::MAX, |next| next.0);
            // An edit has a second to take effect, and a window reaches a second back.
            let before = self.rates[..index].iter().rev().take_while(|(at, _)| *at > from - 2_000);
            let earlier = self.rates[..index].last().map_or(0, |last| last.1);
            let largest = before.map(|(_, rate)| *rate).fold((*rate).max(earlier), u32::max);
            let next = self.rates.get(index + 1).map_or(0, |next| next.1);
            let settled = self.allowed(&[*rate, next], lanes);
            let changing = self.allowed(&[largest, next], lanes);
            let early = releases.fullest_second(*from, (*from + 1_000).min(to)).count as f64;
            ensure!(
                early <= changing,
                "{early} released in one second after an edit to {rate}, {changing} allowed"
            );
            let later = releases.fullest_second(from + 1_000, to).count as f64;
            ensure!(later <= settled, "{later} released in one second at {rate}, {settled} allowed");
            fullest = fullest.max(later / settled);
        }
        println!(
            "the limiter held in every sliding second; the fullest had {:.0} % of what is allowed",
            fullest * 100.0
        );
        Ok(())
    }

    fn allowed(&self, rates: &[u32], lanes: u32) -> f64 {
        let largest = rates.iter().copied().max().unwrap_or_default();
        bound(f64::from(largest), lanes, SPANS_PER_MESSAGE)
    }
}
