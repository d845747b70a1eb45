//! What moves the rate by itself: the guard while the database suffers, and windows of the schedule.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::postgres::Postgres;
use sluice_tests::rate::bound;
use sluice_tests::sluice::{Sink, Sluice};
use sluice_tests::{eventually, now_ms};

use crate::world::{Case, Engine, unique};

const WAIT: Duration = Duration::from_secs(30);
const QPS: u32 = 1_000;
const LEAST: u32 = 20;
const PARTITIONS: i32 = 4;

fn achieves(least: f64, most: f64) -> impl Fn(&Value) -> bool {
    move |status| status["achievedQPS"].as_f64().is_some_and(|rate| (least..=most).contains(&rate))
}

/// The guard's rate and what limits, from `/status`.
fn held(status: &Value) -> Option<f64> {
    status["guardQPS"].as_f64().filter(|_| status["bottleneck"] == "Guard")
}

/// A database of the test's own that a trigger makes slow: thirty milliseconds a row, so that no message of ten rows
/// is fast enough.
enum Slowed {
    Mysql(MariaDb),
    Postgres(Postgres),
}

impl Slowed {
    async fn start(engine: Engine) -> anyhow::Result<Self> {
        Ok(match engine {
            Engine::Mysql => Self::Mysql(MariaDb::start().await?),
            Engine::Postgres => Self::Postgres(Postgres::start().await?),
            Engine::Sqlite => bail!("SQLite has no triggers that sleep"),
        })
    }

    async fn sink(&self, name: &str) -> anyhow::Result<Sink> {
        Ok(match self {
            Self::Mysql(server) => Sink::Mysql(server.database(name).await?),
            Self::Postgres(server) => Sink::Postgres(server.database(name).await?),
        })
    }

    fn slow(&self) -> &'static str {
        match self {
            Self::Mysql(_) => {
                "CREATE TRIGGER slow BEFORE INSERT ON connectivity_trace FOR EACH ROW DO SLEEP(0.03)"
            }
            Self::Postgres(_) => {
                "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS \
                 'BEGIN PERFORM pg_sleep(0.03); RETURN NEW; END'; \
                 CREATE TRIGGER slow BEFORE INSERT ON connectivity_trace FOR EACH ROW EXECUTE FUNCTION slow()"
            }
        }
    }

    fn fast_again(&self) -> &'static str {
        match self {
            Self::Mysql(_) => "DROP TRIGGER slow",
            Self::Postgres(_) => "DROP TRIGGER slow ON connectivity_trace",
        }
    }
}

/// Waits until every replica's status is as `condition` wants it, and all together store at least so many a second.
async fn all(
    replicas: &[Sluice],
    what: &str,
    deadline: Duration,
    least: f64,
    condition: impl Fn(&Value) -> bool,
) -> anyhow::Result<Vec<Value>> {
    let mut last = Vec::new();
    let waited = eventually(what, deadline, async || {
        last.clear();
        for replica in replicas {
            last.push(replica.status().await?);
        }
        let achieved: f64 = last.iter().filter_map(|status| status["achievedQPS"].as_f64()).sum();
        Ok((achieved >= least && last.iter().all(&condition)).then_some(()))
    });
    waited.await.with_context(|| format!("last seen: {last:?}"))?;
    Ok(last)
}

async fn a_slow_database_is_spared(engine: Engine, replicas: usize) -> anyhow::Result<()> {
    let (name, server) = (unique("guarded"), Slowed::start(engine).await?);
    let case = Case::with_sink(server.sink(&name).await?, &name, PARTITIONS, |pipeline| {
        pipeline.rate = QPS;
        pipeline.controls = format!("  guard: {{ targetWriteLatency: 200ms, minQPS: {LEAST} }}\n");
    })
    .await?;
    let ledger = Ledger { seed: 81, shape: Shape::Json, spans_per_message: 10, padding: 0 };
    ledger.produce(case.kafka, &case.topic, 0..40_000, |message| (message % 4) as i32).await?;
    let began = now_ms();
    let mut fleet = Vec::new();
    for number in 0..replicas {
        fleet.push(case.replica(&format!("replica-{number}")).await?);
    }
    // Other tests measure how much of the rate is used: here the machine may be busy.
    let fast = f64::from(QPS) * 0.85;
    let free = |status: &Value| status["guardQPS"].is_null() && status["bottleneck"] == "Limiter";
    all(&fleet, "the whole rate", WAIT, fast, free).await?;

    case.execute(server.slow()).await?;
    let low = |status: &Value| held(status).is_some_and(|held| held <= f64::from(QPS) / 4.0);
    for (status, replica) in all(&fleet, "a rate that falls", WAIT, 0.0, low).await?.iter().zip(&fleet) {
        println!("held down to {} by a slow database", status["guardQPS"]);
        ensure!(status["rateLimitQPS"] == QPS, "the guard is no edit: {status}");
        ensure!(held(status).is_some_and(|held| held >= f64::from(LEAST)), "below the least: {status}");
        let (_, metrics) = replica.get("/metrics").await?;
        ensure!(metrics.contains("sluice_rate_guard_spans_per_second"), "{metrics}");
        let lowered = metrics.lines().find_map(|line| line.strip_prefix("sluice_guard_decreases_total "));
        let lowered: u64 = lowered.context("no counter of the guard")?.parse()?;
        ensure!(lowered >= 4, "lowered {lowered} times only");
    }

    case.execute(server.fast_again()).await?;
    all(&fleet, "the whole rate again", Duration::from_secs(90), fast, |status| status["guardQPS"].is_null())
        .await?;
    for replica in &mut fleet {
        replica.component.stop(WAIT).await?;
    }
    let releases = case.database().await?.released().await?;
    releases.check_bound(began, now_ms(), bound(f64::from(QPS), PARTITIONS as u32, 10), "throughout")
}

/// A window that has been open since the last full hour in Berlin and ends `left` from now; and when that is.
fn window_ending_in(left: Duration, rate: u32) -> anyhow::Result<(String, i64)> {
    let now = jiff::Timestamp::from_millisecond(now_ms())?;
    let end = now.as_millisecond() + left.as_millis() as i64;
    let open_for = end - now.as_millisecond() / 3_600_000 * 3_600_000;
    let (seconds, milliseconds) = (open_for / 1_000, open_for % 1_000);
    let hour = now.in_tz("Europe/Berlin")?.hour();
    let window = format!(
        "{{ cron: \"0 {hour} * * *\", duration: {seconds}s{milliseconds}ms, timeZone: Europe/Berlin, rateLimitQPS: {rate} }}"
    );
    Ok((format!("  schedule: [{window}]\n"), end))
}

async fn windows_are_live() -> anyhow::Result<()> {
    let mut case = Case::new(Engine::Mysql, "scheduled", 2, |pipeline| pipeline.rate = 200).await?;
    let ledger = Ledger { seed: 82, shape: Shape::Json, spans_per_message: 5, padding: 0 };
    ledger.produce(case.kafka, &case.topic, 0..10_000, |message| (message % 2) as i32).await?;
    let mut sluice = case.replica("only").await?;
    sluice.status_where("the base rate", WAIT, achieves(180.0, 206.0)).await?;

    let is = |qps: u32| move |status: &Value| status["rateLimitQPS"] == qps;
    let (window, end) = window_ending_in(Duration::from_secs(14), 600)?;
    case.edit(|pipeline| pipeline.controls = window)?;
    sluice.status_where("the window's rate", WAIT, is(600)).await?;
    sluice.status_where("its use", Duration::from_secs(11), achieves(540.0, 618.0)).await?;
    sluice.status_where("the window's end", WAIT, is(200)).await?;
    let late = now_ms() - end;
    println!("the window's end was seen {late} ms after it");
    ensure!((-50..1_500).contains(&late), "seen {late} ms after the end");

    // A bad one changes nothing and is told with its path; the good one that follows counts.
    let (window, _) = window_ending_in(Duration::from_secs(60), 300)?;
    case.edit(|pipeline| pipeline.controls = window.replace("Europe/Berlin", "Europe/Entenhausen"))?;
    let told = |status: &Value| status.to_string().contains("spec.schedule[0].timeZone");
    let status = sluice.status_where("the bad time zone to be told", WAIT, told).await?;
    ensure!(is(200)(&status), "{status}");
    case.edit(|pipeline| pipeline.controls = window)?;
    sluice.status_where("the good window", WAIT, is(300)).await?;
    case.edit(|pipeline| pipeline.suspend = true)?;
    sluice.status_where("suspension in a window", WAIT, is(0)).await?;
    sluice.component.stop(WAIT).await?;
    Ok(())
}

mod apart {
    use crate::world::Engine;

    #[tokio::test]
    #[ignore = "needs Kafka and MariaDB"]
    async fn a_guard_spares_a_database_that_became_slow_and_gives_back_the_rate() {
        super::a_slow_database_is_spared(Engine::Mysql, 1).await.unwrap();
    }

    #[tokio::test]
    #[ignore = "needs Kafka and PostgreSQL"]
    async fn guards_of_two_replicas_spare_a_postgres_that_became_slow_and_give_back_the_rate() {
        super::a_slow_database_is_spared(Engine::Postgres, 2).await.unwrap();
    }

    #[tokio::test]
    #[ignore = "needs Kafka and MariaDB"]
    async fn a_window_edited_into_the_file_counts_at_once_and_ends_on_time() {
        super::windows_are_live().await.unwrap();
    }
}
