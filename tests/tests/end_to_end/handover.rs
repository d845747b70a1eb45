//! Guarantee 1 where work goes from one replica to another: a frozen one that thaws, one that is asked to stop, and
//! a commit whose answer never came.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::rate::bound;
use sluice_tests::sluice::{Sink, Sluice, read_partitions};
use sluice_tests::{eventually, now_ms};

use crate::world::{Case, Engine, unique};

const PARTITIONS: i32 = 6;
const QPS: u32 = 2_000;
/// What is left at the end need not take as long.
const QUICK: u32 = 20_000;
const WAIT: Duration = Duration::from_secs(40);
/// Kubernetes' `terminationGracePeriodSeconds`.
const GRACE: Duration = Duration::from_secs(30);
/// Lanes wait 15 s for a database that does not answer; what comes after them is bounded, too.
const FROZEN_STOP: Duration = Duration::from_secs(25);

fn ledger(seed: u64) -> Ledger {
    Ledger { seed, shape: Shape::Json, spans_per_message: 10, padding: 0 }
}

fn owned(status: &Value) -> usize {
    read_partitions(status).len()
}

/// Waits until a replica owns so many partitions and has stored more than `stored` rows.
async fn works(replica: &Sluice, partitions: usize, stored: u64) -> anyhow::Result<u64> {
    let what = format!("{partitions} partitions and more than {stored} rows");
    let at_work = |status: &Value| owned(status) == partitions && status["stored"].as_u64() > Some(stored);
    let status = replica.status_where(&what, WAIT, at_work).await?;
    status["stored"].as_u64().context("no number of rows")
}

async fn frozen_and_thawed() -> anyhow::Result<()> {
    let mut case = Case::new(Engine::Mysql, "zombie", PARTITIONS, |pipeline| {
        pipeline.rate = QPS;
        pipeline.notice_deaths_soon();
    })
    .await?;
    let (ledger, messages) = (ledger(81), 12_000);
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 6) as i32).await?;
    let began = now_ms();
    let mut zombie = case.replica("zombie").await?;
    let mut successor = case.replica("successor").await?;
    works(&zombie, 3, 0).await?;
    let before = works(&successor, 3, 0).await?;
    let epochs = |positions: Vec<sluice_tests::oracle::FoundPosition>| -> i64 {
        positions.iter().map(|position| position.epoch).sum()
    };
    let claims = epochs(case.database().await?.positions().await?);

    zombie.freeze()?;
    works(&successor, PARTITIONS as usize, before).await?;
    let taken_over = epochs(case.database().await?.positions().await?);
    ensure!(taken_over >= claims + 3, "the successor did not claim what the zombie had");
    case.positions_hold().await?;
    zombie.thaw()?;
    // It believes to own what it had until it learns better; then it gets its part again.
    let thawed = zombie.status_where("an answer of the thawed one", WAIT, |status| owned(status) > 0).await?;
    let stored = thawed["stored"].as_u64().context("no number of rows")?;
    works(&zombie, 3, stored).await?;
    ensure!(case.settled().await? < messages, "the backlog ended before the zombie was back at work");
    case.positions_hold().await?;

    let edited = case.edit(|pipeline| pipeline.rate = QUICK)?;
    case.wait_settled(messages, WAIT).await?;
    for replica in [&mut zombie, &mut successor] {
        replica.component.stop(GRACE).await?;
    }
    case.audit(&ledger, messages * ledger.spans_per_message, &[]).await?;
    let releases = case.database().await?.released().await?;
    // Two replicas with three partitions, a lane each.
    let allowed = bound(f64::from(QPS), PARTITIONS as u32, 10);
    releases.check_bound(began, edited - 1_000, allowed, "until the edit")
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn a_replica_frozen_past_its_session_writes_nothing_that_its_successor_has_taken_over() {
    frozen_and_thawed().await.unwrap();
}

async fn stopped_under_load() -> anyhow::Result<()> {
    let mut mariadb = MariaDb::start().await?;
    let name = unique("stopped");
    let sink = Sink::Mysql(mariadb.database(&name).await?);
    // Sessions of 45 s, as by default: a replica that stops must leave its group, or nobody takes over in time.
    let mut case = Case::with_sink(sink, &name, PARTITIONS, |pipeline| pipeline.rate = QPS).await?;
    let (ledger, messages) = (ledger(82), 20_000);
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 6) as i32).await?;
    let mut first = case.replica("first").await?;
    works(&first, PARTITIONS as usize, 0).await?;
    let mut second = case.replica("second").await?;
    works(&second, 3, 0).await?;

    let asked = Instant::now();
    first.component.stop(GRACE).await?;
    println!("stopped under load after {:?}", asked.elapsed());
    let left = Instant::now();
    works(&second, PARTITIONS as usize, 0).await?;
    println!("taken over {:?} after the end", left.elapsed());
    ensure!(left.elapsed() < Duration::from_secs(40), "the group was not left: {:?}", left.elapsed());

    mariadb.server()?.freeze()?;
    let asked = Instant::now();
    second.component.stop(GRACE).await?;
    println!("stopped with a frozen database after {:?}", asked.elapsed());
    ensure!(asked.elapsed() < FROZEN_STOP, "too near to the end of the grace: {:?}", asked.elapsed());
    mariadb.server()?.thaw()?;
    ensure!(case.settled().await? < messages, "nothing was left to be done");
    case.edit(|pipeline| pipeline.rate = QUICK)?;
    let mut third = case.replica("third").await?;
    case.wait_settled(messages, Duration::from_secs(60)).await?;
    third.component.stop(GRACE).await?;
    case.audit(&ledger, messages * ledger.spans_per_message, &[]).await
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn sigterm_under_load_ends_in_time_and_loses_nothing_also_with_a_frozen_database() {
    stopped_under_load().await.unwrap();
}

/// How often a commit is left without an answer.
const CUTS: usize = 5;

/// `words` are what a client says until its batch is committed.
async fn commits_without_an_answer(engine: Engine, words: &[&str]) -> anyhow::Result<()> {
    // One partition has one lane: while its commit has no answer, nothing else moves the position.
    let case = Case::new(engine, "unanswered", 1, |pipeline| pipeline.rate = QPS).await?;
    // What is said must not be encrypted: MySQL offers that.
    let plain = if engine == Engine::Mysql { "?ssl-mode=disabled" } else { "?sslmode=disable" };
    let proxy = case.behind_a_proxy(plain).await?;
    let (ledger, messages) = (ledger(83), 4_000);
    ledger.produce(case.kafka, &case.topic, 0..messages, |_| 0).await?;
    let mut sluice = case.replica("only").await?;
    let mut stored = works(&sluice, 1, 0).await?;
    for _ in 0..CUTS {
        proxy.hold_answers_after(words);
        proxy.holds(WAIT).await?;
        let known = sluice.status().await?["partitions"][0]["position"].as_u64().context("no position")?;
        eventually("a commit that the consumer does not know of", WAIT, async || {
            Ok((case.settled().await? > known).then_some(()))
        })
        .await?;
        proxy.cut();
        stored = works(&sluice, 1, stored).await?;
    }
    ensure!(case.settled().await? < messages, "the backlog ended before the last cut");
    case.wait_settled(messages, WAIT).await?;
    sluice.component.stop(GRACE).await?;
    case.audit(&ledger, messages * ledger.spans_per_message, &[]).await?;
    let fenced = sluice.logged("claiming again").len();
    // A cut may come before the server has committed; then the batch is simply tried again.
    ensure!(fenced > CUTS / 2, "only {fenced} of {CUTS} commits were found by the position");
    Ok(())
}

/// A part of every body.
const BODY: &str = "Gr\u{fc}\u{df}e";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Kafka and MariaDB"]
async fn a_commit_to_mariadb_whose_answer_never_came_is_stored_once() {
    commits_without_an_answer(Engine::Mysql, &[BODY, "COMMIT"]).await.unwrap();
}

/// Rows and position are one statement there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Kafka and PostgreSQL"]
async fn a_commit_to_postgres_whose_answer_never_came_is_stored_once() {
    commits_without_an_answer(Engine::Postgres, &[BODY]).await.unwrap();
}
