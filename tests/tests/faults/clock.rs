//! Wall clocks that are wrong, and that are set while replicas run: everything that counts takes the database's time
//! or a monotonic one. `tests/clock/clock.c` shows a replica another wall clock, and leaves its monotonic one alone.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::rate::{bound, time_of};
use sluice_tests::sluice::{Sluice, logged_at};
use sluice_tests::{now_ms, passes};

use crate::world::{Case, Engine};
use crate::{GRACE, WAIT, owned};

const PARTITIONS: i32 = 6;
const QPS: u32 = 2_000;
/// In seconds.
const HOUR: i64 = 3_600;

/// Builds what shows a process another wall clock.
fn library(case: &Case) -> anyhow::Result<PathBuf> {
    let library = case.home.path().join("clock.so");
    let built = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-o"])
        .arg(&library)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/clock/clock.c"))
        .args(["-ldl", "-lpthread"])
        .status()
        .context("cannot run cc")?;
    ensure!(built.success(), "tests/clock/clock.c cannot be built");
    Ok(library)
}

/// By how many seconds a replica's wall clock is off.
struct Clock(File);

impl Clock {
    fn set(&self, seconds: i64) -> anyhow::Result<()> {
        Ok(self.0.write_all_at(&seconds.to_ne_bytes(), 0)?)
    }
}

/// A replica with a wall clock of its own.
fn replica(case: &Case, library: &Path, name: &str, seconds: i64) -> anyhow::Result<(Sluice, Clock)> {
    let path = case.home.path().join(format!("{name}.clock"));
    let clock = Clock(File::create(&path)?);
    clock.set(seconds)?;
    let (library, path) = (library.display().to_string(), path.display().to_string());
    let variables = [("LD_PRELOAD", &*library), ("SLUICE_TEST_CLOCK", &*path)];
    Ok((Sluice::start_with(&case.home, name, &variables)?, clock))
}

/// How far its own log is off, by its newest line.
fn off_by(sluice: &Sluice) -> anyhow::Result<i64> {
    let log = std::fs::read_to_string(sluice.component.log())?;
    let last = log.lines().last().context("an empty log")?;
    Ok(logged_at(&serde_json::from_str(last)?)? - now_ms())
}

async fn wrong_clocks() -> anyhow::Result<()> {
    let mut case = Case::new(Engine::Mysql, "clocks", PARTITIONS, |pipeline| {
        pipeline.rate = QPS;
        pipeline.notice_deaths_soon();
    })
    .await?;
    let ledger = Ledger { seed: 98, shape: Shape::Json, spans_per_message: 10, padding: 0 };
    let messages = 12_000;
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 6) as i32).await?;
    let began = now_ms();
    let library = library(&case)?;
    let (slow, _) = replica(&case, &library, "slow", -HOUR)?;
    let (jumping, clock) = replica(&case, &library, "jumping", 0)?;
    let right = Sluice::start(&case.home, "right")?;
    let mut replicas = [slow, jumping, right];
    for replica in &mut replicas {
        replica.wait_ready().await?;
        replica.status_where("two partitions", WAIT, |status| owned(status) == 2).await?;
    }
    passes(Duration::from_secs(3)).await?;
    for seconds in [HOUR, -HOUR, HOUR] {
        clock.set(seconds)?;
        passes(Duration::from_secs(4)).await?;
    }
    // Its end is a time of the database, whatever a replica takes for now.
    let until = jiff::Timestamp::from_millisecond(now_ms() + 5_000)?;
    case.edit(|pipeline| pipeline.rate_override = Some((500, until.to_string())))?;
    for replica in &replicas {
        replica.status_where("the override", WAIT, |status| status["rateLimitQPS"] == 500).await?;
    }
    for replica in &replicas {
        let over = |status: &serde_json::Value| status["rateLimitQPS"] == QPS;
        replica.status_where("the end of the override", WAIT, over).await?;
        let late = now_ms() - until.as_millisecond();
        ensure!((-50..2_000).contains(&late), "the override ended {late} ms after its end");
    }
    // The means of this test work at all.
    let off = [off_by(&replicas[0])?, off_by(&replicas[1])?];
    let hour = (HOUR - 60) * 1_000..(HOUR + 60) * 1_000;
    ensure!(hour.contains(&-off[0]) && hour.contains(&off[1]), "clocks are off by {off:?} ms only");
    ensure!(case.settled().await? < messages, "the backlog ended before the measurement");

    let edited = case.edit(|pipeline| {
        pipeline.rate_override = None;
        pipeline.rate = 10 * QPS;
    })?;
    case.wait_settled(messages, WAIT).await?;
    for replica in &mut replicas {
        replica.component.stop(GRACE).await?;
    }
    case.audit(&ledger, messages * ledger.spans_per_message, &[]).await?;
    let ids = case.database().await?.ids().await?;
    let (first, last) = (ids.first().map_or(0, |id| time_of(*id)), ids.last().map_or(0, |id| time_of(*id)));
    ensure!(
        first >= began - 1_000 && last <= now_ms() + 1_000,
        "ids tell of times from {first} to {last}, the test began at {began}"
    );
    let allowed = bound(f64::from(QPS), PARTITIONS as u32, ledger.spans_per_message);
    case.database().await?.released().await?.check_bound(began, edited - 1_000, allowed, "until the edit")
}

mod long {
    #[tokio::test]
    #[ignore = "needs Kafka, MariaDB and a C compiler"]
    async fn wall_clocks_that_are_wrong_by_an_hour_or_set_by_hours_change_nothing() {
        super::wrong_clocks().await.unwrap();
    }
}
