//! What a test starts with: components shared by all tests, and a topic, database and pipeline of its own.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use sluice_tests::kafka::Kafka;
use sluice_tests::ledger::Ledger;
use sluice_tests::mariadb::MariaDb;
use sluice_tests::oracle::database::Database;
use sluice_tests::oracle::{FoundDeadLetter, PositionWatch, Positions, report};
use sluice_tests::postgres::Postgres;
use sluice_tests::proxy::Proxy;
use sluice_tests::server::Server;
use sluice_tests::sluice::{Home, Pipeline, Sink, Sluice};
use sluice_tests::{eventually, now_ms, passes};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{AssertSqlSafe, Connection, SqliteConnection};
use tokio::sync::{Mutex, OnceCell};

static KAFKA: OnceCell<Kafka> = OnceCell::const_new();
static MARIADB: OnceCell<MariaDb> = OnceCell::const_new();
static POSTGRES: OnceCell<Postgres> = OnceCell::const_new();
static CASES: AtomicU32 = AtomicU32::new(0);

/// What was released before a pipeline was stopped is stored within this time.
const UNDER_WAY: Duration = Duration::from_secs(10);
/// Where nothing is settled for so long, nothing is under way.
const QUIET: Duration = Duration::from_secs(1);

/// Which database a test stores in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Engine {
    Mysql,
    Postgres,
    Sqlite,
}

/// The broker that tests share; a test that hurts the broker starts its own.
pub async fn kafka() -> anyhow::Result<&'static Kafka> {
    KAFKA.get_or_try_init(Kafka::start).await
}

/// A name that no other test uses.
pub fn unique(name: &str) -> String {
    format!("{name}_{}_{}", std::process::id(), CASES.fetch_add(1, Ordering::Relaxed))
}

/// A topic, a database, and the pipeline between them.
pub struct Case {
    pub kafka: &'static Kafka,
    pub topic: String,
    pub pipeline: Pipeline,
    pub home: Home,
    database: OnceCell<Database>,
    partitions: i32,
    watch: Mutex<PositionWatch>,
}

impl Case {
    /// Creates topic and database; `adjust` changes the pipeline before its file is written.
    pub async fn new(
        engine: Engine,
        name: &str,
        partitions: i32,
        adjust: impl FnOnce(&mut Pipeline),
    ) -> anyhow::Result<Self> {
        let name = unique(name);
        let sink = match engine {
            Engine::Mysql => {
                Sink::Mysql(MARIADB.get_or_try_init(MariaDb::start).await?.database(&name).await?)
            }
            Engine::Postgres => {
                Sink::Postgres(POSTGRES.get_or_try_init(Postgres::start).await?.database(&name).await?)
            }
            Engine::Sqlite => Sink::Sqlite("traces".to_owned()),
        };
        Self::with_sink(sink, &name, partitions, adjust).await
    }

    /// As [`Self::new`], with a database of the test's own.
    pub async fn with_sink(
        sink: Sink,
        name: &str,
        partitions: i32,
        adjust: impl FnOnce(&mut Pipeline),
    ) -> anyhow::Result<Self> {
        let kafka = kafka().await?;
        kafka.create_topic(name, partitions, &[]).await?;
        let mut pipeline = Pipeline::new(kafka.bootstrap(), name, sink);
        adjust(&mut pipeline);
        let home = Home::new(&pipeline)?;
        let (topic, database, watch) = (name.to_owned(), OnceCell::new(), Mutex::default());
        Ok(Self { kafka, topic, pipeline, home, database, partitions, watch })
    }

    /// The oracle's connection; waits for a SQLite file to appear.
    pub async fn database(&self) -> anyhow::Result<&Database> {
        self.database
            .get_or_try_init(async || match &self.pipeline.sink {
                Sink::Mysql(url) | Sink::Postgres(url) => Database::connect(url).await,
                Sink::Sqlite(claim) => {
                    let url = format!("sqlite:{}", self.home.sqlite_file(claim).display());
                    eventually("the SQLite file", Duration::from_secs(30), async || {
                        Ok(Database::connect(&url).await.ok())
                    })
                    .await
                }
            })
            .await
    }

    /// Changes something behind the consumers' backs.
    pub async fn execute(&self, sql: &str) -> anyhow::Result<()> {
        let statement = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        match (self.database().await?, &self.pipeline.sink) {
            (Database::Mysql(pool), _) => statement.execute(pool).await.map(drop),
            (Database::Postgres(pool), _) => statement.execute(pool).await.map(drop),
            // The oracle only reads.
            (Database::Sqlite(_), Sink::Sqlite(claim)) => {
                let file = SqliteConnectOptions::new().filename(self.home.sqlite_file(claim));
                statement.execute(&mut SqliteConnection::connect_with(&file).await?).await.map(drop)
            }
            (Database::Sqlite(_), _) => bail!("not the database of this pipeline"),
        }
        .with_context(|| sql.to_owned())
    }

    /// Leads replicas that start from now on to their database through a proxy, with more parameters in its URL; the
    /// oracle goes there directly.
    pub async fn behind_a_proxy(&self, parameters: &str) -> anyhow::Result<Proxy> {
        let (Sink::Mysql(url) | Sink::Postgres(url)) = &self.pipeline.sink else { bail!("no server") };
        let address = url.split(['@', '/']).nth(3).context("no address in the URL")?;
        let proxy = Proxy::start(address.parse()?).await?;
        self.home.save_url(&(url.replace(address, &proxy.address().to_string()) + parameters))?;
        Ok(proxy)
    }

    /// Starts a replica and waits until it is ready.
    pub async fn replica(&self, name: &str) -> anyhow::Result<Sluice> {
        Sluice::ready(&self.home, name).await
    }

    /// Changes the pipeline and saves its file.
    pub fn edit(&mut self, change: impl FnOnce(&mut Pipeline)) -> anyhow::Result<i64> {
        change(&mut self.pipeline);
        let edited = now_ms();
        self.home.save(&self.pipeline.yaml())?;
        Ok(edited)
    }

    /// Messages settled so far, by the positions. What is seen on the way is kept for [`Self::positions_hold`]: whoever
    /// waits for progress watches that nothing goes back.
    ///
    /// # Errors
    /// The database does not answer: that is not the same as nothing being settled.
    pub async fn settled(&self) -> anyhow::Result<u64> {
        let mut watch = self.watch.lock().await;
        let positions = self.database().await?.positions().await?;
        watch.observe(&positions);
        Ok(positions.iter().map(|position| position.next_offset as u64).sum())
    }

    /// Waits until what was under way has been stored, and then for `how_long`, in which nothing may be settled, also by
    /// replays. Returns the messages settled.
    ///
    /// # Errors
    /// Something was settled, or the database does not answer.
    pub async fn stands_still(&self, how_long: Duration) -> anyhow::Result<u64> {
        let mut last = (self.settled().await?, Instant::now());
        let stood = eventually("what was under way to be stored", UNDER_WAY, async || {
            let settled = self.settled().await?;
            if settled != last.0 {
                last = (settled, Instant::now());
            }
            Ok((last.1.elapsed() >= QUIET).then_some(settled))
        })
        .await?;
        passes(how_long).await?;
        let settled = self.settled().await?;
        ensure!(
            settled == stood,
            "{stood} messages were settled, and {settled} when {how_long:?} had passed"
        );
        Ok(stood)
    }

    /// Kills the server of the database. What [`Self::settled`] has seen is durable by then.
    pub async fn kill_database(&self, server: &mut Server) -> anyhow::Result<()> {
        self.database().await?.make_durable().await?;
        server.kill().await
    }

    /// No position has gone back since the case began, and Kafka knows of nothing that is not settled.
    pub async fn positions_hold(&self) -> anyhow::Result<()> {
        let whose =
            Positions { group: &self.pipeline.group, topic: &self.topic, partitions: self.partitions };
        self.watch.lock().await.look(whose, self.kafka, self.database().await?).await
    }

    /// Waits until this many messages are settled, also through times in which the database does not answer.
    pub async fn wait_settled(&self, messages: u64, deadline: Duration) -> anyhow::Result<()> {
        eventually(&format!("{messages} messages to be settled"), deadline, async || {
            Ok(self.settled().await.is_ok_and(|settled| settled >= messages).then_some(()))
        })
        .await
    }

    /// Waits until this many rows and dead letters together are there, as [`Self::wait_settled`] does.
    pub async fn wait_stored(&self, stored: u64, deadline: Duration) -> anyhow::Result<()> {
        let database = self.database().await?;
        eventually(&format!("{stored} rows and dead letters"), deadline, async || {
            let (rows, letters) = (database.count().await, database.count_dead_letters().await);
            let found = rows.and_then(|rows| Ok(rows + letters?));
            Ok(found.is_ok_and(|found| found >= stored).then_some(()))
        })
        .await
    }

    /// Everything produced must be there exactly once, and [`Self::positions_hold`].
    pub async fn audit(
        &self,
        ledger: &Ledger,
        spans: u64,
        dead_letters: &[FoundDeadLetter],
    ) -> anyhow::Result<()> {
        let problems = self.database().await?.audit(ledger, spans, dead_letters).await?;
        ensure!(problems.is_empty(), "{}", report(&problems));
        self.positions_hold().await
    }
}
