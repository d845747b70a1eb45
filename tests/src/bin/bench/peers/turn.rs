//! One turn of one arm: a process drains a topic, and its use of processors, memory and disk is taken.

use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use nix::time::ClockId;
use nix::unistd::Pid;
use sluice_tests::component::Component;
use sluice_tests::mariadb::MariaDb;
use sqlx::{AssertSqlSafe, Connection, MySqlConnection};

/// How often progress is looked at; the counts are exact, whenever that is.
const LOOK: Duration = Duration::from_millis(50);
/// A turn without progress for this long has failed.
const STUCK: Duration = Duration::from_secs(120);

/// What a turn showed. What an arm has not, such as rows where nothing is stored, is not a number.
#[derive(Clone, Copy, Debug)]
pub struct Turn {
    /// Spans per second.
    pub spans: f64,
    /// Rows per second.
    pub rows: f64,
    /// Processor seconds of the process for a million spans.
    pub cpu: f64,
    /// Processor seconds of the database server for a million spans.
    pub server_cpu: f64,
    /// Bytes of data and indexes for each span.
    pub bytes: f64,
    /// Largest resident memory of the process, in MiB.
    pub peak: f64,
}

impl Turn {
    /// Of an arm that stores nothing.
    pub fn into_nothing(spans: f64, cpu: f64, peak: f64) -> Self {
        Self { spans, rows: f64::NAN, cpu, server_cpu: f64::NAN, bytes: f64::NAN, peak }
    }
}

/// One of a turn's values.
pub type Value = fn(&Turn) -> f64;

/// Those of which less is better.
pub const COSTS: [(&str, Value); 4] = [
    ("cpu", |turn| turn.cpu),
    ("server_cpu", |turn| turn.server_cpu),
    ("bytes", |turn| turn.bytes),
    ("peak", |turn| turn.peak),
];

/// Whether the server flushes its log at every commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// As for every other arm: `innodb_flush_log_at_trx_commit=1`.
    Equal,
    /// `innodb_flush_log_at_trx_commit=2`: a crash of the machine may lose a second of commits.
    Relaxed,
}

/// The server that all arms share.
pub struct Database {
    /// The server.
    pub server: MariaDb,
    /// Its process.
    pub pid: i32,
}

/// Between two looks at the progress.
#[derive(Clone, Copy, Debug)]
pub struct Measured {
    /// Spans per second.
    pub rate: f64,
    /// Processor seconds for a million spans.
    pub cpu: f64,
    /// Those of the database server; not a number where there is none.
    pub server_cpu: f64,
}

/// Watches a process from when `progress` reaches `from` spans until it reaches `to`.
///
/// # Errors
/// The process ended, or makes no progress.
pub async fn measure(
    component: &mut Component,
    server: Option<i32>,
    from: u64,
    to: u64,
    mut progress: impl AsyncFnMut() -> anyhow::Result<u64>,
) -> anyhow::Result<Measured> {
    let mut began = None;
    let (mut last, mut moved) = (0, Instant::now());
    loop {
        let spans = progress().await?;
        let look = Look::now(component.pid(), server, spans)?;
        if spans > last {
            (last, moved) = (spans, Instant::now());
        }
        match began {
            None if spans >= to => {
                bail!("went from under {from} to {spans} spans between two looks: use more")
            }
            None if spans >= from => began = Some(look),
            Some(began) if spans >= to => return Ok(look.since(&began)),
            _ => {}
        }
        let is_running = component.is_running()?;
        let told = || format!("{spans} of {to} spans:\n{}", component.log_tail(30));
        ensure!(is_running, "the process ended at {}", told());
        ensure!(moved.elapsed() < STUCK, "no progress in {STUCK:?} at {}", told());
        tokio::time::sleep(LOOK).await;
    }
}

#[derive(Clone, Copy)]
struct Look {
    at: Instant,
    spans: u64,
    cpu: Duration,
    server_cpu: Option<Duration>,
}

impl Look {
    fn now(pid: i32, server: Option<i32>, spans: u64) -> anyhow::Result<Self> {
        let server_cpu = server.map(processor_time).transpose()?;
        Ok(Self { at: Instant::now(), spans, cpu: processor_time(pid)?, server_cpu })
    }

    fn since(&self, began: &Self) -> Measured {
        let spans = (self.spans - began.spans) as f64;
        let a_million = |used: Duration| used.as_secs_f64() * 1e6 / spans;
        let server_cpu = self.server_cpu.zip(began.server_cpu);
        Measured {
            rate: spans / (self.at - began.at).as_secs_f64(),
            cpu: a_million(self.cpu - began.cpu),
            server_cpu: server_cpu.map_or(f64::NAN, |(now, then)| a_million(now - then)),
        }
    }
}

/// User and system time of a process so far, all threads, those that have ended too; exact to nanoseconds.
pub fn processor_time(pid: i32) -> anyhow::Result<Duration> {
    let clock = ClockId::pid_cpu_clock_id(Pid::from_raw(pid)).context("cannot find the process's clock")?;
    Ok(clock.now()?.into())
}

/// The largest resident memory of a process so far, in MiB.
pub fn peak(component: &Component) -> anyhow::Result<f64> {
    Ok(component.memory("VmHWM")? as f64 / f64::from(1 << 20))
}

impl Database {
    /// Makes an empty database for a turn.
    pub async fn begin(
        &self,
        name: &str,
        durability: Durability,
    ) -> anyhow::Result<(String, MySqlConnection)> {
        let url = self.server.database(name).await?;
        let mut connection = MySqlConnection::connect(&url).await?;
        let flush = if durability == Durability::Equal { 1 } else { 2 };
        execute(&mut connection, &format!("SET GLOBAL innodb_flush_log_at_trx_commit = {flush}")).await?;
        Ok((url, connection))
    }
}

/// Removes what a turn has written.
pub async fn end(mut connection: MySqlConnection, name: &str) -> anyhow::Result<()> {
    execute(&mut connection, &format!("DROP DATABASE `{name}`")).await?;
    execute(&mut connection, "SET GLOBAL innodb_flush_log_at_trx_commit = 1").await?;
    Ok(connection.close().await?)
}

/// Runs statements.
pub async fn execute(connection: &mut MySqlConnection, sql: &str) -> anyhow::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(connection).await.with_context(|| sql.to_owned())?;
    Ok(())
}

/// A single number.
pub async fn number(connection: &mut MySqlConnection, sql: &str) -> anyhow::Result<u64> {
    let query = sqlx::query_scalar::<_, i64>(AssertSqlSafe(sql.to_owned()));
    Ok(u64::try_from(query.fetch_one(connection).await.with_context(|| sql.to_owned())?)?)
}

/// Bytes of the database's tables, indexes included: the pages that belong to them, compressed ones as they lie on disk.
pub async fn bytes(connection: &mut MySqlConnection) -> anyhow::Result<u64> {
    let tables = "SELECT CONVERT(table_name USING utf8mb4) FROM information_schema.tables \
                  WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'";
    let tables: Vec<String> = sqlx::query_scalar(tables).fetch_all(&mut *connection).await?;
    for table in tables {
        // The numbers of pages are statistics, taken anew by this.
        execute(connection, &format!("ANALYZE TABLE `{table}`")).await?;
    }
    let sum = "SELECT CAST(SUM(data_length + index_length) AS SIGNED) FROM information_schema.tables \
               WHERE table_schema = DATABASE() AND table_type = 'BASE TABLE'";
    number(connection, sum).await
}
