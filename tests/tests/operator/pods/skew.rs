//! The operator is not in the path of the rate: all backlog on one of six partitions, and the operator dying at
//! random.

use std::time::{Duration, Instant};

use anyhow::ensure;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::now_ms;
use sluice_tests::operator::Operator;
use sluice_tests::oracle::database::Database;
use sluice_tests::rate::bound;

use super::world::World;

const QPS: u32 = 2_000;
const REPLICAS: u32 = 3;
/// After so long the rate must be used.
const SETTLE_MS: i64 = 5_000;
const MEASURE_MS: i64 = 20_000;
const MESSAGES: u64 = 6_500;
/// So many operators must have died, and so many of them while they led, within this time more than is measured.
const KILLS: usize = 5;
const LED: usize = 2;
const PATIENCE_MS: i64 = 60_000;
/// An operator lives between these: some die before they lead, some in the middle of their work.
const LIFE_MS: std::ops::Range<u64> = 300..4_000;

/// Kills and restarts the operator until a moment, or later where too few have died; returns how often, and how many of those
/// killed had led.
async fn kill_at_random(world: &mut World, until: i64) -> anyhow::Result<(usize, usize)> {
    let seed = fastrand::u64(..);
    println!("lives of the operators: seed {seed}");
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut kills, mut led) = (0, 0);
    // Where it takes long to lead, they live longer at last.
    while now_ms() < until || (now_ms() < until + PATIENCE_MS && (kills < KILLS || led < LED)) {
        let life = random.u64(LIFE_MS) * if now_ms() < until { 1 } else { 4 };
        tokio::time::sleep(Duration::from_millis(life)).await;
        world.operator.kill().await?;
        world.operator.log_is_clean(&[])?;
        kills += 1;
        led +=
            usize::from(world.operator.lines()?.iter().any(|line| line["message"] == "everything is listed"));
        world.operator = Operator::spawn(world.cluster, &world.settings)?;
    }
    world.operator.leads().await?;
    Ok((kills, led))
}

async fn skewed_backlog() -> anyhow::Result<()> {
    let mut world = World::start("skew").await;
    // The lead of the dead is taken up at once.
    world.settings.identity = Some("skew".into());
    world.operator.kill().await?;
    world.operator = Operator::start(world.cluster, &world.settings).await?;
    let ledger = Ledger::new(93, Shape::Json);
    ledger.produce(world.kafka, &world.topic, 0..MESSAGES, |_| 3).await?;
    let mut pipeline = world.pipeline(0);
    pipeline["spec"]["replicas"] = REPLICAS.into();
    world.apply(&pipeline).await;
    world.wait_ready().await;
    world.confirmed(0).await?;

    let began = Instant::now();
    let edit = now_ms();
    world.patch_rate(QPS).await;
    // The edit itself needs an operator, once.
    world.confirmed(QPS).await?;
    println!("the rate is confirmed after {:?}", began.elapsed());
    let end = edit + SETTLE_MS + MEASURE_MS;
    let (kills, led) = kill_at_random(&mut world, end).await?;
    println!("{kills} operators were killed, {led} of which led");
    ensure!(kills >= KILLS && led >= LED, "{kills} kills, {led} of a leader: too few to show anything");

    let database = Database::connect(&world.url).await?;
    let releases = database.released().await?;
    let used = releases.used(edit + SETTLE_MS, end, f64::from(QPS));
    // One lane has work.
    let most = bound(f64::from(QPS), 1, ledger.spans_per_message);
    println!("{:.2} % used", used * 100.0);
    releases.check_bound(edit, end, most, "skewed")?;
    ensure!(used >= 0.98, "only {used:.4} of the rate is used");
    ensure!(world.restarts().await == 0, "a pod has restarted");
    world.drain_and_audit(&ledger, MESSAGES).await?;
    world.operator.log_is_clean(&[])
}

mod alone {
    #[tokio::test]
    #[ignore = "needs a Kubernetes"]
    async fn a_backlog_on_one_partition_gets_the_whole_rate_while_operators_die() {
        super::skewed_backlog().await.unwrap();
    }
}
