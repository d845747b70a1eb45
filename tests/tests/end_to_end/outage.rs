//! Guarantee 5: a database that is away is waited for, without loss, dead letters, growth or a burst afterwards. So
//! is a broker. SQLite has no server that could be away.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::ensure;
use serde_json::Value;
use sluice_tests::kafka::Kafka;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::oracle::database::Database;
use sluice_tests::oracle::{PositionWatch, Positions, report};
use sluice_tests::packets::Loss;
use sluice_tests::postgres::Postgres;
use sluice_tests::rate::bound;
use sluice_tests::sluice::{Home, Pipeline, Sink, Sluice, tells};
use sluice_tests::{eventually, now_ms, passes};

use crate::world::{Case, unique};

const QPS: u32 = 2_000;
const PARTITIONS: i32 = 6;
/// Of one replica with six partitions: two each. A fourth lane would have fewer.
const LANES: u32 = 3;
/// Twenty minutes, scaled.
const OUTAGE: Duration = Duration::from_secs(8);
/// "Recovers within 10 s".
const RECOVERY: Duration = Duration::from_secs(10);
/// "Resumes within 30 s", for brokers.
const RESUMES: Duration = Duration::from_secs(30);
/// Of a core: what waiting for a silent broker may use.
const IDLE: f64 = 0.05;
const MIB: u64 = 1 << 20;

/// A server that can be taken away.
enum Server {
    Mysql(MariaDb),
    Postgres(Postgres),
}

impl Server {
    fn inner(&mut self) -> anyhow::Result<&mut sluice_tests::server::Server> {
        match self {
            Self::Mysql(server) => server.server(),
            Self::Postgres(server) => server.server(),
        }
    }

    async fn restart(&mut self) -> anyhow::Result<()> {
        match self {
            Self::Mysql(server) => server.restart().await,
            Self::Postgres(server) => server.restart().await,
        }
    }
}

async fn waits_out_outages(mut server: Server, sink: Sink) -> anyhow::Result<()> {
    let case = Case::with_sink(sink, &unique("outage"), PARTITIONS, |pipeline| pipeline.rate = QPS).await?;
    let ledger = Ledger { seed: 31, shape: Shape::Json, spans_per_message: 10, padding: 0 };
    let messages = 6_000;
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 6) as i32).await?;
    let began = now_ms();
    let mut sluice = case.replica("only").await?;
    case.wait_settled(messages / 10, Duration::from_secs(60)).await?;
    let memory_before = sluice.component.memory("VmHWM")?;

    // Killed in mid-batch, away for long.
    case.kill_database(server.inner()?).await?;
    passes(OUTAGE).await?;
    let status = sluice.status().await?;
    ensure!(status["lastError"].is_string(), "an outage that nobody is told of: {status}");
    let (code, _) = sluice.get("/readyz").await?;
    ensure!(code == 200, "database trouble must not show as not ready, but /readyz answered {code}");
    server.restart().await?;
    let back = case.settled().await?;
    case.wait_settled(back + 1, RECOVERY).await?;

    // Frozen: connections stay open, nothing answers.
    server.inner()?.freeze()?;
    let began_at = sluice.status().await?["stored"].as_u64();
    passes(OUTAGE).await?;
    let status = sluice.status().await?;
    ensure!(status["lastError"].is_string(), "a frozen database that nobody is told of: {status}");
    let stored = status["stored"].as_u64().zip(began_at).map(|(now, then)| now - then);
    // What was answered while it was frozen one process after the other.
    ensure!(stored.is_some_and(|stored| stored < 1_000), "{stored:?} rows stored by a frozen database");
    server.inner()?.thaw()?;
    let thawed = case.settled().await?;
    case.wait_settled(thawed + 1, RECOVERY).await?;

    let memory_after = sluice.component.memory("VmHWM")?;
    println!("peak memory before {} MiB, after {} MiB", memory_before / MIB, memory_after / MIB);
    ensure!(
        memory_after <= memory_before + 8 * MIB,
        "memory grew from {memory_before} to {memory_after} bytes during outages"
    );
    case.wait_settled(messages, Duration::from_secs(120)).await?;
    sluice.component.stop(Duration::from_secs(20)).await?;
    case.audit(&ledger, messages * ledger.spans_per_message, &[]).await?;
    let releases = case.database().await?.released().await?;
    releases.check_bound(began, now_ms(), bound(f64::from(QPS), LANES, 10), "through both outages")
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn mariadb_killed_and_frozen_costs_no_span_and_no_burst() {
    let mariadb = MariaDb::start().await.unwrap();
    let sink = Sink::Mysql(mariadb.database("outage").await.unwrap());
    waits_out_outages(Server::Mysql(mariadb), sink).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn postgres_killed_and_frozen_costs_no_span_and_no_burst() {
    let postgres = Postgres::start().await.unwrap();
    let sink = Sink::Postgres(postgres.database("outage").await.unwrap());
    waits_out_outages(Server::Postgres(postgres), sink).await.unwrap();
}

/// A broker of its own, that can be hurt, and a pipeline into SQLite.
struct Hurt {
    kafka: Kafka,
    group: String,
    sluice: Sluice,
    database: Database,
    ledger: Ledger,
    watch: PositionWatch,
    // Goes after the consumer, whose log it has.
    home: Home,
}

impl Hurt {
    /// Produces so many messages and starts a consumer.
    async fn new(messages: u64, adjust: impl FnOnce(&mut Pipeline)) -> anyhow::Result<Self> {
        let kafka = Kafka::start().await?;
        kafka.create_topic("spans", 3, &[]).await?;
        let mut pipeline = Pipeline::new(kafka.bootstrap(), "spans", Sink::Sqlite("traces".to_owned()));
        pipeline.rate = QPS;
        adjust(&mut pipeline);
        let home = Home::new(&pipeline)?;
        let ledger = Ledger { seed: 32, shape: Shape::Json, spans_per_message: 10, padding: 0 };
        ledger.produce(&kafka, "spans", 0..messages, |message| (message % 3) as i32).await?;
        let sluice = Sluice::ready(&home, "only").await?;
        let url = format!("sqlite:{}", home.sqlite_file("traces").display());
        let (database, watch) = (Database::connect(&url).await?, PositionWatch::default());
        Ok(Self { kafka, group: pipeline.group, sluice, database, ledger, watch, home })
    }

    async fn produce(&self, messages: std::ops::Range<u64>) -> anyhow::Result<()> {
        self.ledger.produce(&self.kafka, "spans", messages, |message| (message % 3) as i32).await
    }

    async fn stored(&mut self, rows: u64, deadline: Duration) -> anyhow::Result<()> {
        eventually(&format!("{rows} rows"), deadline, async || {
            self.watch.observe(&self.database.positions().await?);
            Ok((self.database.count().await? >= rows).then_some(()))
        })
        .await
    }

    /// Stops the consumer; the spans of so many messages must be there exactly once, and positions have only grown.
    async fn audit(mut self, messages: u64) -> anyhow::Result<()> {
        self.sluice.component.stop(Duration::from_secs(20)).await?;
        let spans = messages * self.ledger.spans_per_message;
        let problems = self.database.audit(&self.ledger, spans, &[]).await?;
        ensure!(problems.is_empty(), "{}", report(&problems));
        let whose = Positions { group: &self.group, topic: "spans", partitions: 3 };
        self.watch.look(whose, &self.kafka, &self.database).await?;
        Ok(())
    }
}

async fn broker_killed_and_restarted() -> anyhow::Result<()> {
    let mut hurt = Hurt::new(800, |_| ()).await?;
    hurt.stored(4_000, Duration::from_secs(30)).await?;
    hurt.kafka.kill().await?;
    hurt.kafka.restart().await?;
    hurt.produce(800..2_500).await?;
    let restarted = Instant::now();
    // "Resumes within 30 s": the first row of what only came then.
    hurt.stored(8_001, RESUMES.saturating_sub(restarted.elapsed())).await?;
    println!("the first new row {:?} after the restart", restarted.elapsed());
    // The rest takes 9 s at the rate.
    hurt.stored(25_000, Duration::from_secs(60)).await?;
    hurt.audit(2_500).await
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_broker_killed_and_restarted_costs_no_span() {
    broker_killed_and_restarted().await.unwrap();
}

async fn cluster_replaced() -> anyhow::Result<()> {
    let mut hurt = Hurt::new(200, |_| ()).await?;
    hurt.stored(2_000, Duration::from_secs(30)).await?;
    hurt.kafka.replace().await?;
    hurt.kafka.create_topic("spans", 3, &[]).await?;
    // More than there were before: no offset tells that they are others.
    hurt.produce(200..500).await?;
    hurt.stored(5_000, Duration::from_secs(60)).await?;
    // Whoever starts later knows of the new cluster alone.
    hurt.sluice.kill().await?;
    hurt.sluice = Sluice::ready(&hurt.home, "later").await?;
    hurt.produce(500..600).await?;
    hurt.stored(6_000, Duration::from_secs(30)).await?;
    hurt.sluice.component.stop(Duration::from_secs(20)).await?;
    let problems = hurt.database.audit(&hurt.ledger, 6_000, &[]).await?;
    ensure!(problems.is_empty(), "{}", report(&problems));
    let positions = hurt.database.positions().await?;
    let sum: i64 = positions.iter().map(|position| position.next_offset).sum();
    ensure!(positions.len() == 6 && sum == 600, "expected a stream a partition and cluster: {positions:?}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_kafka_cluster_that_takes_the_place_of_another_one_costs_and_doubles_no_span() {
    cluster_replaced().await.unwrap();
}

/// Why a broker does not answer.
enum Silence {
    Frozen,
    PacketsLost,
}

async fn broker_silent(silence: Silence) -> anyhow::Result<()> {
    // How long a request may be unanswered: by default a minute.
    let soon = ("socket.timeout.ms".to_owned(), "5000".to_owned());
    let mut hurt = Hurt::new(400, |pipeline| pipeline.properties.push(soon)).await?;
    hurt.stored(4_000, Duration::from_secs(30)).await?;
    let lost = match silence {
        Silence::Frozen => {
            hurt.kafka.freeze()?;
            None
        }
        Silence::PacketsLost => {
            let address: SocketAddr = hurt.kafka.bootstrap().parse()?;
            Some(Loss::start(address.port(), 1.0)?)
        }
    };
    let told =
        hurt.sluice.status_where("the silent broker to be told of", RESUMES, tells("SourceUnreachable"));
    let status = told.await?;
    println!("a silent broker: {}", status["lastError"]);
    let (cpu, began) = (hurt.sluice.component.cpu_time()?, Instant::now());
    passes(OUTAGE).await?;
    let used = (hurt.sluice.component.cpu_time()? - cpu).as_secs_f64() / began.elapsed().as_secs_f64();
    println!("with a silent broker {:.1} % of a core are used", used * 100.0);
    ensure!(used < IDLE, "with a silent broker {:.1} % of a core are used", used * 100.0);
    match lost {
        Some(lost) => drop(lost),
        None => hurt.kafka.thaw()?,
    }
    hurt.produce(400..800).await?;
    let mended = Instant::now();
    hurt.stored(4_001, RESUMES.saturating_sub(mended.elapsed())).await?;
    println!("the first new row {:?} after the broker was back", mended.elapsed());
    hurt.stored(8_000, Duration::from_secs(30)).await?;
    let works = |status: &Value| status["errors"].as_array().is_some_and(Vec::is_empty);
    hurt.sluice.status_where("no trouble any more", RESUMES, works).await?;
    hurt.audit(800).await
}

/// The broker that comes back is what takes long beside others.
mod apart {
    use super::*;

    #[tokio::test]
    #[ignore = "needs Kafka"]
    async fn a_frozen_broker_is_told_of_costs_no_cpu_and_is_taken_up_again() {
        broker_silent(Silence::Frozen).await.unwrap();
    }

    #[tokio::test]
    #[ignore = "needs root and Kafka"]
    async fn a_broker_all_of_whose_packets_are_lost_is_told_of_costs_no_cpu_and_is_taken_up_again() {
        broker_silent(Silence::PacketsLost).await.unwrap();
    }
}
