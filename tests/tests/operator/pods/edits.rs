//! An edit moves the rate of real pods; what is missing is named, and mended without a restart.

use std::time::{Duration, Instant};

use serde_json::json;
use sluice_tests::cluster::{ApiProxy, Sent};
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::oracle::database::Database;
use sluice_tests::rate::{Releases, bound};
use sluice_tests::{eventually, now_ms};

use super::world::{PARTITIONS, START, World, secret, statuses};

const EDITS: usize = 50;
/// Of a hundred edits one may be late: what is promised is their 99th percentile.
const LATE: usize = EDITS.div_ceil(100);
/// Between two edits: long enough to see that one takes effect late, which is a second and the second after it.
const BETWEEN: Duration = Duration::from_millis(2_100);
/// How long a saved edit may take, in milliseconds.
const SOON: i64 = 1_000;
const RATES: [u32; 5] = [500, 2_000, 1_000, 3_000, 800];
const MESSAGES: u64 = 22_000;

/// Milliseconds from an edit to the first second that uses 90 % of the new rate.
fn used_after(releases: &Releases, edit: i64, until: i64, rate: f64) -> Option<i64> {
    (0..until - edit).step_by(10).find(|delay| releases.used(edit + delay, edit + delay + 1_000, rate) >= 0.9)
}

async fn fifty_edits() {
    let world = World::start("edits").await;
    let ledger = Ledger::new(91, Shape::Json);
    ledger.produce(world.kafka, &world.topic, 0..MESSAGES, |message| (message % 6) as i32).await.unwrap();
    let began = Instant::now();
    world.apply(&world.pipeline(RATES[0])).await;
    let database = Database::connect(&world.url).await.unwrap();
    let first_row =
        eventually("the first row", START, async || Ok((database.count().await? > 0).then_some(())));
    let first_row = first_row.await;
    world.namespace.explain(first_row).await.unwrap();
    println!("rows {:?} after the resource", began.elapsed());
    world.wait_ready().await;
    println!("ready {:?} after the resource", began.elapsed());

    // One that joins gets a share of the rate only when the others have given it up.
    let pods = world.pod_addresses().await;
    let shared_out = eventually("the rate to be shared out", START, async || {
        let mut shares = statuses(&pods).await?.into_iter().map(|status| status["leasedFraction"].as_f64());
        Ok(shares.all(|share| share > Some(0.0)).then_some(()))
    });
    world.namespace.explain(shared_out.await).await.unwrap();
    let proxy = ApiProxy::start(world.cluster).await.unwrap();
    let mut edits = Vec::new();
    for number in 1..=EDITS {
        let rate = RATES[number % RATES.len()];
        let sent = world.send_rate(&proxy, rate).await;
        let next = tokio::time::Instant::now() + BETWEEN;
        edits.push((sent, rate));
        tokio::time::sleep_until(next).await;
    }
    let end = now_ms();
    let by_hand = Instant::now();
    world.patch_rate(0).await;
    println!("kubectl patch takes {:?} as a whole", by_hand.elapsed());

    let releases = database.released().await.unwrap();
    let problems = late_edits(&releases, &edits, end);
    assert!(problems.len() <= LATE, "{}", problems.join("\n"));

    assert_eq!(world.restarts().await, 0);
    world.drain_and_audit(&ledger, MESSAGES).await.unwrap();
    world.operator.log_is_clean(&[]).unwrap();
}

/// Edits that took effect later than they should after the API server had saved them; prints how long all of them took.
fn late_edits(releases: &Releases, edits: &[(Sent, u32)], end: i64) -> Vec<String> {
    let mut problems = Vec::new();
    let mut delays = Vec::new();
    for (number, (sent, rate)) in edits.iter().enumerate() {
        let until = edits.get(number + 1).map_or(end, |(next, _)| next.at) - 1_000;
        let most = bound(f64::from(*rate), PARTITIONS as u32, 10);
        let bounded = releases.compliant_after(sent.answered, until, most).as_millis() as i64;
        let used = used_after(releases, sent.answered, until, f64::from(*rate));
        let delay = used.map(|used| used.max(bounded));
        if delay.is_none_or(|delay| delay > SOON) {
            problems.push(format!(
                "edit {number} to {rate}: within its bound after {bounded} ms, used after {used:?} ms"
            ));
        }
        delays.extend(delay);
    }
    let saved = edits.iter().map(|(sent, _)| sent.answered - sent.at).collect();
    println!("from the patch to its answer: {}", summary(saved));
    println!("from the answer to the first compliant second: {}", summary(delays));
    problems
}

fn summary(mut millis: Vec<i64>) -> String {
    millis.sort_unstable();
    let at = |share: f64| millis.get(((millis.len() as f64 - 1.0) * share) as usize).copied().unwrap_or(-1);
    format!("median {} ms, p99 {} ms, slowest {} ms", at(0.5), at(0.99), at(1.0))
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_missing_secret_is_named_and_mended_without_a_restart() {
    let world = World::start("secret").await;
    world.namespace.kubectl(&["delete", "secret/db"]).await.unwrap();
    let ledger = Ledger::new(92, Shape::Json);
    ledger.produce(world.kafka, &world.topic, 0..10, |_| 0).await.unwrap();
    world.apply(&world.pipeline(1_000)).await;
    let degraded = eventually("the missing Secret to be named", START, async || {
        let pipeline = world.namespace.get("tp/traces").await?;
        let conditions = pipeline["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let degraded = conditions.into_iter().find(|condition| condition["type"] == "Degraded");
        let message = degraded.as_ref().and_then(|degraded| degraded["message"].as_str()).unwrap_or_default();
        Ok(message.contains("db/url").then(|| degraded.unwrap_or_default()))
    })
    .await;
    let degraded = world.namespace.explain(degraded).await.unwrap();
    assert_eq!((&degraded["status"], &degraded["reason"]), (&json!("True"), &json!("SecretMissing")));
    world.namespace.apply(&secret("db", &json!({ "url": world.pod_url }))).await.unwrap();
    world.wait_ready().await;
    let database = Database::connect(&world.url).await.unwrap();
    let stored =
        eventually("the rows", START, async || Ok((database.count().await? >= 100).then_some(()))).await;
    world.namespace.explain(stored).await.unwrap();
    assert_eq!(world.restarts().await, 0);
    world.operator.log_is_clean(&[]).unwrap();
}

mod alone {
    #[tokio::test]
    #[ignore = "needs a Kubernetes"]
    async fn of_fifty_edits_under_load_all_but_one_take_effect_within_a_second_without_restart_or_lost_row() {
        super::fifty_edits().await;
    }
}
