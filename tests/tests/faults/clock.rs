//! Wall clocks that are wrong, and that are set while replicas run: everything that counts takes the database's time
//! or a monotonic one. libfaketime shows a replica another wall clock, and leaves its monotonic one alone.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::rate::{Releases, bound, time_of};
use sluice_tests::sluice::{Sluice, logged_at};

use crate::world::{Case, Engine, now_ms};
use crate::{GRACE, WAIT, owned, passes};

const PARTITIONS: i32 = 6;
const QPS: u32 = 2_000;
const HOUR_MS: i64 = 3_600_000;

/// Debian's folder has the machine's name in its path.
fn library() -> anyhow::Result<PathBuf> {
    let dirs = std::fs::read_dir("/usr/lib")?.filter_map(|entry| Some(entry.ok()?.path()));
    let mut files = dirs.map(|dir| dir.join("faketime/libfaketimeMT.so.1"));
    files.find(|path| path.is_file()).context("libfaketime is not installed; run `tests/run --prepare`")
}

/// A replica whose wall clock is off by what a file says, such as `-1h`.
fn replica(case: &Case, name: &str, offset: &str) -> anyhow::Result<(Sluice, PathBuf)> {
    let file = case.home.path().join(format!("{name}.clock"));
    std::fs::write(&file, offset)?;
    let variables = [
        ("LD_PRELOAD", library()?.display().to_string()),
        ("FAKETIME_TIMESTAMP_FILE", file.display().to_string()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".to_owned()),
        // Whatever the file says now.
        ("FAKETIME_NO_CACHE", "1".to_owned()),
    ];
    let variables = variables.each_ref().map(|(name, value)| (*name, value.as_str()));
    Ok((Sluice::start_with(&case.home, name, &variables)?, file))
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
    let (slow, _) = replica(&case, "slow", "-1h")?;
    let (jumping, clock) = replica(&case, "jumping", "+0")?;
    let right = Sluice::start(&case.home, "right")?;
    let mut replicas = [slow, jumping, right];
    for replica in &mut replicas {
        replica.wait_ready().await?;
        replica.status_where("two partitions", WAIT, |status| owned(status) == 2).await?;
    }
    passes(Duration::from_secs(3)).await?;
    for offset in ["+1h", "-1h", "+1h"] {
        std::fs::write(&clock, offset)?;
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
    let hour = HOUR_MS - 60_000..HOUR_MS + 60_000;
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
    let fullest = Releases::from_ids(ids).fullest_second(began, edited - 1_000);
    let allowed = bound(f64::from(QPS), PARTITIONS as u32, ledger.spans_per_message);
    println!("{fullest:?}, {allowed:.0} allowed");
    ensure!(fullest.count as f64 <= allowed, "{fullest:?}, only {allowed:.0} allowed");
    Ok(())
}

mod long {
    #[tokio::test]
    #[ignore = "needs Kafka, MariaDB and libfaketime"]
    async fn wall_clocks_that_are_wrong_by_an_hour_or_set_by_hours_change_nothing() {
        super::wrong_clocks().await.unwrap();
    }
}
