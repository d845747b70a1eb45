//! A consumer as the operator starts it: settings, a live document apart, Secrets that may come later.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sluice_crds::settings::Settings;
use sluice_crds::{document, wire};
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::oracle::database::Database;
use sluice_tests::sluice::{Home, Pipeline, Sink, Sluice, logged_at, tells};
use sluice_tests::{eventually, free_port, now_ms, passes};

use crate::world::{kafka, unique};

const UID: &str = "6f0c4a52-93a5-4b7e-8d0e-2f1b6c9a7d31";
/// "Takes effect within a second", from the mount to the line of the log.
const SOON_MS: i64 = 1_000;
const WAIT: Duration = Duration::from_secs(30);
/// A mounted document is found within half of it.
const UNTIL_READ: Duration = Duration::from_secs(1);

/// What the operator mounts.
struct Pod {
    home: Home,
    live: PathBuf,
    secret: PathBuf,
}

impl Pod {
    /// Settings of a pipeline; without its Secret and without a live document.
    fn new(pipeline: &Pipeline, edit: impl Fn(&mut Settings)) -> anyhow::Result<Self> {
        let home = Home::new(pipeline)?;
        let resource = document::read(&pipeline.yaml())?;
        let mut settings = Settings::of(&document::full_name(&resource), &resource.spec).with_uid(UID);
        edit(&mut settings);
        std::fs::write(home.path().join("settings.json"), wire::write(&settings)?)?;
        let (live, secret) = (home.path().join("live"), home.path().join("secrets/db"));
        std::fs::create_dir(&live)?;
        std::fs::rename(&secret, home.path().join("secret-to-come"))?;
        Ok(Self { home, live, secret })
    }

    fn start(&self, name: &str) -> anyhow::Result<Sluice> {
        let settings = self.home.path().join("settings.json").display().to_string();
        let live = self.live.display().to_string();
        Sluice::start_from(&self.home, name, &["--settings", &settings, "--live-dir", &live], &[])
    }

    fn bring_secret(&self) -> anyhow::Result<()> {
        Ok(std::fs::rename(self.home.path().join("secret-to-come"), &self.secret)?)
    }

    /// Mounts a live document as the kubelet does.
    fn mount(&self, version: &str, text: &str) -> anyhow::Result<()> {
        let folder = self.live.join(format!("..{version}"));
        std::fs::create_dir(&folder)?;
        std::fs::write(folder.join("live.json"), text)?;
        symlink(format!("..{version}"), self.live.join("..data_tmp"))?;
        std::fs::rename(self.live.join("..data_tmp"), self.live.join("..data"))?;
        let file = self.live.join("live.json");
        if !file.is_symlink() {
            symlink(Path::new("..data/live.json"), file)?;
        }
        Ok(())
    }
}

fn live(uid: &str, revision: u64, rate: u32) -> String {
    json!({ "minReader": 1, "uid": uid, "revision": revision, "rateLimitQPS": rate }).to_string()
}

fn fails_with(reason: &str) -> impl Fn(&Value) -> bool {
    move |status| status["lastErrorReason"] == reason
}

/// The live document is good, whatever else is wrong.
fn is_good(status: &Value) -> bool {
    status["errors"].is_array() && !tells("LiveRefused")(status) && !tells("LiveMissing")(status)
}

/// The newest document was applied within a second of its mount, however long it took to be seen here.
fn applied_soon(sluice: &Sluice, mounted_ms: i64) -> anyhow::Result<()> {
    let documents = sluice.logged("applied a live document");
    let applied = logged_at(documents.last().context("no document was applied")?)?;
    println!("applied {} ms after the mount", applied - mounted_ms);
    ensure!((mounted_ms..mounted_ms + SOON_MS).contains(&applied), "at {applied}, mounted at {mounted_ms}");
    Ok(())
}

async fn not_ready(sluice: &Sluice, text: &str) -> anyhow::Result<()> {
    let (code, body) = sluice.get("/readyz").await?;
    ensure!(code == 503 && body.contains(text), "/readyz answered {code}: {body}");
    Ok(())
}

async fn everything_comes_late() -> anyhow::Result<()> {
    let (kafka, mariadb, topic) = (kafka().await?, MariaDb::start().await?, unique("late"));
    let url = mariadb.database("late").await?;
    let pod = Pod::new(&Pipeline::new(kafka.bootstrap(), &topic, Sink::Mysql(url.clone())), |_| ())?;
    let mut sluice = pod.start("only")?;

    let status = sluice.status_where("the missing Secret", WAIT, fails_with("SecretMissing")).await?;
    ensure!(status["lastError"].as_str().is_some_and(|text| text.contains("db/url")), "{status}");
    ensure!(status["pipelineUid"] == UID && status["version"].is_string(), "{status}");
    ensure!(status["revision"] == 0 && status["liveSource"].is_null(), "{status}");
    not_ready(&sluice, "live document").await?;

    pod.bring_secret()?;
    let status = sluice.status_where("the missing topic", WAIT, fails_with("TopicUnknown")).await?;
    ensure!(status["lastError"].as_str().is_some_and(|text| text.contains(&topic)), "{status}");

    kafka.create_topic(&topic, 2, &[]).await?;
    let ledger = Ledger { seed: 5, shape: Shape::Json, spans_per_message: 5, padding: 0 };
    ledger.produce(kafka, &topic, 0..400, |message| (message % 2) as i32).await?;
    let status = sluice.status_where("the missing live document", WAIT, fails_with("LiveMissing")).await?;
    ensure!(status["rateLimitQPS"] == 0, "{status}");
    not_ready(&sluice, "live document").await?;

    let mounted = now_ms();
    pod.mount("1", &live(UID, 4, 200))?;
    let status = sluice.status_where("the first document", WAIT, |status| status["revision"] == 4).await?;
    applied_soon(&sluice, mounted)?;
    ensure!(status["liveSource"] == "directory" && status["rateLimitQPS"] == 200, "{status}");
    sluice.wait_ready().await?;
    let mounted = now_ms();
    pod.mount("2", &live(UID, 5, 1_000))?;
    sluice.status_where("an edit", WAIT, |status| status["rateLimitQPS"] == 1_000).await?;
    applied_soon(&sluice, mounted)?;

    // Nothing of these changes anything. Most are told; an older one is merely late.
    for (version, text, told) in [
        ("3", live(UID, 3, 7), false),
        ("4", live("another", 9, 7), true),
        ("5", live(UID, 5, 7), true),
        ("6", "{".to_owned(), true),
        ("7", json!({ "minReader": 2, "uid": UID, "revision": 9 }).to_string(), true),
    ] {
        pod.mount(version, &text)?;
        let status = if told {
            sluice.status_where(&text, WAIT, tells("LiveRefused")).await?
        } else {
            passes(UNTIL_READ).await?;
            sluice.status().await?
        };
        ensure!(status["rateLimitQPS"] == 1_000 && status["revision"] == 5, "{text}: {status}");
        ensure!(tells("LiveRefused")(&status) == told, "{text}: {status}");
        pod.mount(&format!("{version}-mended"), &live(UID, 5, 1_000))?;
        sluice.status_where("the mended document", WAIT, is_good).await?;
    }
    let database = Database::connect(&url).await?;
    eventually("every row", WAIT, async || Ok((database.count().await? >= 2_000).then_some(()))).await?;
    sluice.component.stop(WAIT).await?;
    let problems = database.audit(&ledger, 2_000, &[]).await?;
    ensure!(problems.is_empty(), "{}", sluice_tests::oracle::report(&problems));
    Ok(())
}

mod apart {
    #[tokio::test]
    #[ignore = "needs Kafka and MariaDB"]
    async fn a_pod_waits_for_secret_topic_and_live_document_and_says_for_which() {
        super::everything_comes_late().await.unwrap();
    }
}

/// Kafka's credentials are needed before there is a client; the pod must answer all the same.
async fn credentials_of_kafka_come_late() -> anyhow::Result<()> {
    let nobody = format!("127.0.0.1:{}", free_port()?);
    let pipeline = Pipeline::new(&nobody, "spans", Sink::Mysql("mysql://u:p@127.0.0.1:1/d".to_owned()));
    let pod = Pod::new(&pipeline, |settings| {
        let sasl = json!({
            "mechanism": "PLAIN",
            "usernameFrom": { "secretKeyRef": { "name": "kafka", "key": "user" } },
            "passwordFrom": { "secretKeyRef": { "name": "kafka", "key": "password" } },
        });
        if let Some(kafka) = &mut settings.source.kafka {
            kafka.sasl = serde_json::from_value(sasl).ok();
        }
    })?;
    pod.mount("1", &live(UID, 1, 100))?;
    let mut sluice = pod.start("only")?;
    let status = sluice.status_where("the missing Secret", WAIT, fails_with("SecretMissing")).await?;
    ensure!(status["lastError"].as_str().is_some_and(|text| text.contains("kafka/user")), "{status}");
    // The live document is shown already: the operator sees what will be in effect.
    let status = sluice.status_where("the document", WAIT, |status| status["revision"] == 1).await?;
    ensure!(status["rateLimitQPS"] == 100 && status["effectiveQPS"] == 0.0, "{status}");
    not_ready(&sluice, "source").await?;

    let secret = pod.home.path().join("secrets/kafka");
    std::fs::create_dir(&secret)?;
    for key in ["user", "password"] {
        std::fs::write(secret.join(key), "canary-4711")?;
    }
    pod.bring_secret()?;
    sluice.status_where("the database to be tried", WAIT, fails_with("StoreUnavailable")).await?;
    not_ready(&sluice, "database").await?;
    ensure!(sluice.component.is_running()?, "{}", sluice.component.log_tail(40));
    sluice.component.stop(WAIT).await?;
    ensure!(!sluice.component.log_tail(10_000).contains("canary"), "a credential is in the log");
    Ok(())
}

#[tokio::test]
#[ignore = "needs the binary"]
async fn a_pod_without_kafkas_credentials_answers_and_names_them() {
    credentials_of_kafka_come_late().await.unwrap();
}

/// A rollout whose new pod lacks the database's Secret: what it would be given of the topic would stand still.
async fn whoever_cannot_store_takes_nothing() -> anyhow::Result<()> {
    let (kafka, mariadb, topic) = (kafka().await?, MariaDb::start().await?, unique("cannot"));
    kafka.create_topic(&topic, 4, &[]).await?;
    let url = mariadb.database("cannot").await?;
    let pipeline = Pipeline::new(kafka.bootstrap(), &topic, Sink::Mysql(url.clone()));
    let [old, new] = [Pod::new(&pipeline, |_| ())?, Pod::new(&pipeline, |_| ())?];
    old.bring_secret()?;
    for pod in [&old, &new] {
        pod.mount("1", &live(UID, 1, 5_000))?;
    }
    let mut works = old.start("old")?;
    works.wait_ready().await?;
    let all = |status: &Value| status["partitions"].as_array().is_some_and(|all| all.len() == 4);
    works.status_where("all partitions", WAIT, all).await?;

    let waits = new.start("new")?;
    waits.status_where("the missing Secret", WAIT, fails_with("SecretMissing")).await?;
    let ledger = Ledger { seed: 6, shape: Shape::Json, spans_per_message: 5, padding: 0 };
    ledger.produce(kafka, &topic, 0..400, |message| (message % 4) as i32).await?;
    let database = Database::connect(&url).await?;
    eventually("every row", WAIT, async || Ok((database.count().await? >= 2_000).then_some(()))).await?;
    ensure!(all(&works.status().await?), "all partitions stay with who can store");
    not_ready(&waits, "database").await?;

    // Once it can, it takes its share.
    new.bring_secret()?;
    let half = |status: &Value| status["partitions"].as_array().is_some_and(|all| all.len() == 2);
    waits.status_where("a share of the partitions", WAIT, half).await?;
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn a_pod_that_cannot_store_takes_no_partition_from_those_that_can() {
    whoever_cannot_store_takes_nothing().await.unwrap();
}
