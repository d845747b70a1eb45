//! The whole way on real pods: the operator starts consumers, and `kubectl patch` moves their rate.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::ensure;
use serde_json::{Value, json};
use sluice_tests::cluster::{Cluster, Namespace};
use sluice_tests::eventually;
use sluice_tests::kafka::Kafka;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::operator::{CRD, Operator};
use sluice_tests::oracle::database::Database;
use sluice_tests::oracle::report;
use sluice_tests::rate::{Releases, bound};

use crate::bed::{condition, pipeline, settings};

/// From the resource to the first row, image and schema included.
const START: Duration = Duration::from_secs(90);
const PARTITIONS: i32 = 6;
const EDITS: usize = 50;
/// Between two edits: long enough for whole seconds of each rate.
const BETWEEN: Duration = Duration::from_millis(2_200);
const RATES: [u32; 5] = [500, 2_000, 1_000, 3_000, 800];
const MESSAGES: u64 = 26_000;

/// Kafka, MariaDB and an operator around one namespace with a node.
struct World {
    namespace: Namespace,
    operator: Operator,
    kafka: Kafka,
    url: String,
    _mariadb: MariaDb,
}

impl World {
    async fn start(name: &str) -> Self {
        let cluster = Cluster::shared_with_node().await.unwrap();
        cluster.apply(CRD).await.unwrap();
        let wait = ["wait", "--for=condition=Established", "crd/tracepipelines.sluice.dev", "--timeout=20s"];
        cluster.kubectl(&wait).await.unwrap();
        let image = cluster.sluice_image().await.unwrap();
        let host = cluster.host_address().unwrap();
        let (kafka, mariadb) = (Kafka::start_on(host).await.unwrap(), MariaDb::start_on(host).await.unwrap());
        let url = mariadb.database("traces").await.unwrap();
        kafka.create_topic("spans", PARTITIONS, &[]).await.unwrap();
        let namespace = cluster.namespace(name).await.unwrap();
        let secret = json!({ "apiVersion": "v1", "kind": "Secret", "metadata": { "name": "db" },
            "stringData": { "url": mariadb.pod_url("traces") } });
        namespace.apply(&secret.to_string()).await.unwrap();
        let mut settings = settings(&namespace);
        image.clone_into(&mut settings.image);
        let operator = Operator::start(cluster, &settings).await.unwrap();
        Self { namespace, operator, kafka, url, _mariadb: mariadb }
    }

    fn pipeline(&self, rate: u32) -> Value {
        let mut pipeline = pipeline();
        pipeline["spec"]["source"]["kafka"]["bootstrapServers"] = self.kafka.pod_bootstrap().into();
        pipeline["spec"]["rateLimitQPS"] = rate.into();
        pipeline["spec"]["format"] = "Json".into();
        pipeline
    }

    async fn patch_rate(&self, rate: u32) {
        let patch = json!({ "spec": { "rateLimitQPS": rate } }).to_string();
        self.namespace.kubectl(&["patch", "tp/traces", "--type=merge", "-p", &patch]).await.unwrap();
    }

    async fn wait_ready(&self) {
        let wait = ["wait", "--for=condition=Ready", "tp/traces", "--timeout=90s"];
        let ready = self.namespace.kubectl(&wait).await;
        self.namespace.explain(ready).await.unwrap();
    }

    /// Restarts of all containers of the namespace.
    async fn restarts(&self) -> u64 {
        let pods = self.namespace.get("pods").await.unwrap();
        let pods = pods["items"].as_array().unwrap();
        let containers =
            pods.iter().flat_map(|pod| pod["status"]["containerStatuses"].as_array().into_iter().flatten());
        containers.map(|container| container["restartCount"].as_u64().unwrap_or(0)).sum()
    }
}

fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as i64
}

/// Milliseconds from an edit to the first second that uses 90 % of the new rate.
fn used_after(releases: &Releases, edit: i64, until: i64, rate: f64) -> Option<i64> {
    (0..until - edit).step_by(10).find(|delay| releases.used(edit + delay, edit + delay + 1_000, rate) >= 0.9)
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn fifty_edits_under_load_take_effect_within_a_second_without_a_restart_or_a_lost_row() {
    let world = World::start("edits").await;
    let ledger = Ledger::new(91, Shape::Json);
    ledger.produce(&world.kafka, "spans", 0..MESSAGES, |message| (message % 6) as i32).await.unwrap();
    let began = Instant::now();
    world.namespace.apply(&world.pipeline(RATES[0]).to_string()).await.unwrap();
    let database = Database::connect(&world.url).await.unwrap();
    let first_row =
        eventually("the first row", START, async || Ok((database.count().await > 0).then_some(())));
    let first_row = first_row.await;
    world.namespace.explain(first_row).await.unwrap();
    println!("rows {:?} after the resource", began.elapsed());
    world.wait_ready().await;
    println!("ready {:?} after the resource", began.elapsed());

    // The lease has been shared out when both are at work.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let mut edits = Vec::new();
    for number in 1..=EDITS {
        let rate = RATES[number % RATES.len()];
        edits.push((now_ms(), rate));
        let next = tokio::time::Instant::now() + BETWEEN;
        world.patch_rate(rate).await;
        tokio::time::sleep_until(next).await;
    }
    let end = now_ms();
    world.patch_rate(0).await;

    let releases = Releases::from_ids(database.ids().await.unwrap());
    let problems = late_edits(&releases, &edits, end);
    assert!(problems.is_empty(), "{}", problems.join("\n"));

    assert_eq!(world.restarts().await, 0);
    world.patch_rate(1_000_000).await;
    let spans = MESSAGES * ledger.spans_per_message;
    let stored =
        eventually("every span", START, async || Ok((database.count().await >= spans).then_some(()))).await;
    world.namespace.explain(stored).await.unwrap();
    let problems = database.audit(&ledger, spans, &[]).await.unwrap();
    assert!(problems.is_empty(), "{}", report(&problems));
    confirmed(&world, 1_000_000).await.unwrap();
    world.operator.log_is_clean(&[]).unwrap();
}

/// Edits that took a second or longer; prints how long all of them took.
fn late_edits(releases: &Releases, edits: &[(i64, u32)], end: i64) -> Vec<String> {
    let mut problems = Vec::new();
    let mut delays = Vec::new();
    for (number, (edit, rate)) in edits.iter().enumerate() {
        let until = edits.get(number + 1).map_or(end, |(next, _)| *next) - 1_000;
        let most = bound(f64::from(*rate), PARTITIONS as u32, 10);
        let bounded = releases.compliant_after(*edit, until, most).as_millis() as i64;
        let used = used_after(releases, *edit, until, f64::from(*rate));
        let delay = used.map(|used| used.max(bounded));
        if delay.is_none_or(|delay| delay > 1_000) {
            problems.push(format!(
                "edit {number} to {rate}: within its bound after {bounded} ms, used after {used:?} ms"
            ));
        }
        delays.extend(delay);
    }
    delays.sort_unstable();
    let at = |share: f64| delays.get(((delays.len() as f64 - 1.0) * share) as usize).copied().unwrap_or(-1);
    println!(
        "from the patch to the first compliant second: median {} ms, p99 {} ms, slowest {} ms",
        at(0.5),
        at(0.99),
        at(1.0)
    );
    problems
}

/// Waits until the status says that every consumer applies a rate.
async fn confirmed(world: &World, rate: u32) -> anyhow::Result<()> {
    let status = eventually("the rate to be confirmed", Duration::from_secs(20), async || {
        let pipeline = world.namespace.get("tp/traces").await?;
        let good = condition(&pipeline, "RateConfirmed").0 == "True"
            && pipeline["status"]["rate"]["applied"] == rate;
        Ok(good.then_some(pipeline))
    })
    .await?;
    ensure!(condition(&status, "Degraded").0 == "False", "degraded: {}", status["status"]);
    Ok(())
}

#[tokio::test]
#[ignore = "needs a Kubernetes"]
async fn a_missing_secret_is_named_and_mended_without_a_restart() {
    let world = World::start("secret").await;
    world.namespace.kubectl(&["delete", "secret/db"]).await.unwrap();
    let ledger = Ledger::new(92, Shape::Json);
    ledger.produce(&world.kafka, "spans", 0..10, |_| 0).await.unwrap();
    world.namespace.apply(&world.pipeline(1_000).to_string()).await.unwrap();
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
    world
        .namespace
        .kubectl(&[
            "create",
            "secret",
            "generic",
            "db",
            &format!("--from-literal=url={}", world._mariadb.pod_url("traces")),
        ])
        .await
        .unwrap();
    world.wait_ready().await;
    let database = Database::connect(&world.url).await.unwrap();
    let stored =
        eventually("the rows", START, async || Ok((database.count().await >= 100).then_some(()))).await;
    world.namespace.explain(stored).await.unwrap();
    assert_eq!(world.restarts().await, 0);
}
