//! Kafka over TLS, with passwords, certificates and rights: what works, and what is told while one of them is wrong.

use std::collections::HashSet;
use std::time::Duration;

use anyhow::{Context, ensure};
use rdkafka::Message;
use rdkafka::message::Headers;
use serde_json::Value;
use sluice_tests::certificates::{Authority, Identity};
use sluice_tests::component::Scratch;
use sluice_tests::eventually;
use sluice_tests::kafka::{CERTIFIED, Kafka, On, Right, USER};
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::oracle::database::Database;
use sluice_tests::oracle::report;
use sluice_tests::sluice::{Checked, Home, Pipeline, Sink, Sluice, read_partitions, secret, tells};
use tokio::sync::OnceCell;

use crate::world::unique;

const WAIT: Duration = Duration::from_secs(60);
/// One more than there are messages for: what is wrong with an empty one must be over, too.
const PARTITIONS: i32 = 4;
const MESSAGES: u64 = 300;
const SPANS: u64 = 10 * MESSAGES;
const BROKERS: &str = "spec.source.kafka.bootstrapServers: ";
const TOPIC: &str = "spec.source.kafka.topic: ";
const GROUP: &str = "spec.source.kafka.consumerGroup: ";
const DEAD_LETTERS: &str = "spec.deadLetter.topic: ";

/// The broker that these tests share, and who signs for whom.
struct World {
    kafka: Kafka,
    ours: Authority,
    others: Authority,
    certified: Identity,
    _dir: Scratch,
}

static WORLD: OnceCell<World> = OnceCell::const_new();

async fn world() -> anyhow::Result<&'static World> {
    WORLD
        .get_or_try_init(async || {
            let dir = Scratch::new("sluice-tls-")?;
            let ours = Authority::new(&dir.path().join("ours"))?;
            let others = Authority::new(&dir.path().join("others"))?;
            let certified = ours.identity("client", CERTIFIED, "", &[], &[])?;
            let kafka = Kafka::start_secure(&ours).await?;
            Ok(World { kafka, ours, others, certified, _dir: dir })
        })
        .await
}

/// How a pipeline says who it is.
#[derive(Clone, Copy)]
enum By {
    Password,
    Certificate,
}

/// A topic with messages that nobody may read yet, and the pipeline that is to store them.
struct Case {
    world: &'static World,
    by: By,
    pipeline: Pipeline,
    home: Home,
    ledger: Ledger,
}

impl Case {
    async fn new(name: &str, by: By) -> anyhow::Result<Self> {
        let (world, topic) = (world().await?, unique(name));
        let ledger = Ledger::new(151, Shape::Json);
        world.kafka.create_topic(&topic, PARTITIONS, &[]).await?;
        ledger.produce(&world.kafka, &topic, 0..MESSAGES, |message| (message % 3) as i32).await?;
        let bootstrap = match by {
            By::Password => world.kafka.scram_bootstrap()?,
            By::Certificate => world.kafka.tls_bootstrap()?,
        };
        let mut pipeline = Pipeline::new(bootstrap, &topic, Sink::Sqlite("traces".to_owned()));
        let kafka = |key| secret("kafka", key);
        pipeline.security = match by {
            By::Password => format!(
                "      tls: {{ caFrom: {} }}\n      sasl: {{ mechanism: SCRAM-SHA-512, usernameFrom: {}, passwordFrom: {} }}\n",
                kafka("ca"),
                kafka("user"),
                kafka("password")
            ),
            By::Certificate => format!(
                "      tls: {{ caFrom: {}, certFrom: {}, keyFrom: {} }}\n",
                kafka("ca"),
                kafka("cert"),
                kafka("key")
            ),
        };
        let home = Home::new(&pipeline)?;
        let case = Self { world, by, pipeline, home, ledger };
        case.trust(&world.ours)?;
        case.mount("user", USER.0)?;
        case.mount("password", USER.1)?;
        case.show(&world.certified)?;
        Ok(case)
    }

    fn mount(&self, key: &str, value: &str) -> anyhow::Result<()> {
        self.home.save_secret("kafka", key, value)
    }

    /// Whom the pipeline trusts from now on.
    fn trust(&self, authority: &Authority) -> anyhow::Result<()> {
        self.mount("ca", &std::fs::read_to_string(authority.certificate())?)
    }

    /// Which certificate the pipeline shows from now on.
    fn show(&self, identity: &Identity) -> anyhow::Result<()> {
        self.mount("key", &std::fs::read_to_string(&identity.key)?)?;
        self.mount("cert", &std::fs::read_to_string(&identity.certificate)?)
    }

    async fn may(&self, right: Right, on: On<'_>) -> anyhow::Result<()> {
        let user = match self.by {
            By::Password => USER.0.to_owned(),
            By::Certificate => format!("CN={CERTIFIED}"),
        };
        self.world.kafka.grant(&user, right, on).await
    }

    async fn may_read_topic(&self) -> anyhow::Result<()> {
        self.may(Right::Read, On::Topic(&self.pipeline.topic)).await
    }

    async fn may_read_group(&self) -> anyhow::Result<()> {
        self.may(Right::Read, On::Group(&self.pipeline.group)).await
    }

    async fn may_read(&self) -> anyhow::Result<()> {
        self.may_read_topic().await?;
        self.may_read_group().await
    }

    async fn database(&self) -> anyhow::Result<Database> {
        let url = format!("sqlite:{}", self.home.sqlite_file("traces").display());
        eventually("the SQLite file", WAIT, async || Ok(Database::connect(&url).await.ok())).await
    }

    /// The consumer tells of this reason, with what was said and the remedy, and has stored nothing.
    async fn tells(&self, sluice: &Sluice, reason: &str, words: &[&str]) -> anyhow::Result<()> {
        let says = |status: &Value| {
            let error = status["lastError"].to_string();
            tells(reason)(status) && words.iter().all(|word| error.contains(word))
        };
        let status = sluice.status_where(&format!("{reason}: {words:?}"), WAIT, says).await?;
        ensure!(status["lastErrorReason"] == reason, "{status}");
        ensure!(self.database().await?.count().await? == 0, "something was stored");
        Ok(())
    }

    /// Everything is stored and nothing is wrong any more, in the same process.
    async fn is_drained(&self, mut sluice: Sluice) -> anyhow::Result<()> {
        let database = self.database().await?;
        eventually("all rows", WAIT, async || {
            Ok(database.count().await.is_ok_and(|rows| rows >= SPANS).then_some(()))
        })
        .await?;
        let calm = |status: &Value| {
            let partitions = read_partitions(status).len();
            status["errors"].as_array().is_some_and(Vec::is_empty) && partitions == PARTITIONS as usize
        };
        sluice.status_where("all partitions and no error", WAIT, calm).await?;
        ensure!(sluice.logged("started").len() == 1, "the process was started again");
        sluice.component.stop(WAIT).await?;
        let problems = database.audit(&self.ledger, SPANS, &[]).await?;
        ensure!(problems.is_empty(), "{}", report(&problems));
        let log = sluice.component.log_tail(100_000);
        ensure!(!log.contains("canary") && !log.contains("PRIVATE KEY"), "a credential is in the log");
        Checked::of(&self.home)?.expect_failed(&[]);
        Ok(())
    }
}

async fn drained(by: By) -> anyhow::Result<()> {
    let case = Case::new("tls", by).await?;
    case.may_read().await?;
    case.is_drained(Sluice::ready(&case.home, "only").await?).await
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_topic_is_drained_over_tls_with_a_password() {
    drained(By::Password).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_topic_is_drained_over_tls_with_a_clients_certificate() {
    drained(By::Certificate).await.unwrap();
}

async fn other_authority() -> anyhow::Result<()> {
    let case = Case::new("other_authority", By::Password).await?;
    case.may_read().await?;
    case.trust(&case.world.others)?;
    let told = &["certificate verify failed", "let tls.caFrom name the authority"];
    Checked::of(&case.home)?.expect_told(&[(BROKERS, told)]);
    let sluice = Sluice::start(&case.home, "only")?;
    case.tells(&sluice, "SourceUnreachable", told).await?;
    case.trust(&case.world.ours)?;
    case.is_drained(sluice).await
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn brokers_of_another_authority_are_refused_and_told_until_theirs_is_trusted() {
    other_authority().await.unwrap();
}

async fn other_certificate() -> anyhow::Result<()> {
    let case = Case::new("other_certificate", By::Certificate).await?;
    case.may_read().await?;
    case.show(&case.world.others.identity("client", CERTIFIED, "", &[], &[])?)?;
    let told = &["alert", "certificate", "let tls.certFrom and keyFrom hold"];
    Checked::of(&case.home)?.expect_told(&[(BROKERS, told)]);
    let sluice = Sluice::start(&case.home, "only")?;
    case.tells(&sluice, "SourceDenied", told).await?;
    case.show(&case.world.certified)?;
    case.is_drained(sluice).await
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_clients_certificate_that_brokers_do_not_trust_is_told_until_another_is_there() {
    other_certificate().await.unwrap();
}

async fn wrong_password() -> anyhow::Result<()> {
    let case = Case::new("wrong_password", By::Password).await?;
    case.may_read().await?;
    case.mount("password", "canary-wrong-password")?;
    let told = &["Authentication failed", "what usernameFrom and passwordFrom hold"];
    Checked::of(&case.home)?.expect_told(&[(BROKERS, told)]);
    let sluice = Sluice::start(&case.home, "only")?;
    case.tells(&sluice, "SourceDenied", told).await?;
    case.mount("password", USER.1)?;
    case.is_drained(sluice).await
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_wrong_password_is_told_until_the_right_one_is_there() {
    wrong_password().await.unwrap();
}

async fn hidden_topic() -> anyhow::Result<()> {
    let case = Case::new("hidden_topic", By::Password).await?;
    let (topic, remedy) = (case.pipeline.topic.as_str(), "--operation Read --topic");
    case.may_read_group().await?;
    Checked::of(&case.home)?.expect_told(&[(TOPIC, &["may not see", topic, remedy])]);
    let sluice = Sluice::start(&case.home, "only")?;
    case.tells(&sluice, "SourceDenied", &["opic authorization failed", topic, remedy]).await?;
    // It is seen now, and cannot be read.
    case.may(Right::Describe, On::Topic(topic)).await?;
    case.tells(&sluice, "SourceDenied", &["cannot read a partition", topic, remedy]).await?;
    Checked::of(&case.home)?.expect_told(&[(TOPIC, &["cannot read", topic, remedy])]);
    case.may_read_topic().await?;
    case.is_drained(sluice).await
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_topic_that_may_not_be_read_is_told_until_the_right_is_granted() {
    hidden_topic().await.unwrap();
}

async fn closed_group() -> anyhow::Result<()> {
    let case = Case::new("closed_group", By::Certificate).await?;
    case.may_read_topic().await?;
    let told = &["Group authorization failed", "--operation Read --group"];
    Checked::of(&case.home)?.expect_told(&[(GROUP, told)]);
    let sluice = Sluice::start(&case.home, "only")?;
    case.tells(&sluice, "SourceDenied", told).await?;
    case.may_read_group().await?;
    case.is_drained(sluice).await
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_group_that_may_not_be_joined_is_told_until_the_right_is_granted() {
    closed_group().await.unwrap();
}

async fn closed_dead_letter_topic() -> anyhow::Result<()> {
    let mut case = Case::new("closed_letters", By::Password).await?;
    let (kafka, letters) = (&case.world.kafka, format!("{}-letters", case.pipeline.topic));
    kafka.create_topic(&letters, 1, &[]).await?;
    case.may_read().await?;
    // Every message is a dead letter.
    case.pipeline.format = "OtlpProto".to_owned();
    case.pipeline.controls = format!("  deadLetter: {{ topic: {letters} }}\n");
    case.home.save(&case.pipeline.yaml())?;
    Checked::of(&case.home)?.expect_told(&[(DEAD_LETTERS, &["may not see", "--operation Write"])]);
    case.may(Right::Describe, On::Topic(&letters)).await?;
    Checked::of(&case.home)?.expect_failed(&[]);
    // A producer that may write nowhere is told of no topic.
    let mut sluice = Sluice::start(&case.home, "only")?;
    case.tells(&sluice, "DeadLetterTopicFailed", &[&letters, "grant them WRITE"]).await?;
    case.may(Right::Write, On::Topic(&letters)).await?;
    let calm = |status: &Value| {
        status["errors"].as_array().is_some_and(Vec::is_empty) && status["deadLetterTopic"]["waiting"] == 0
    };
    sluice.status_where("no letter to wait and no error", WAIT, calm).await?;
    sluice.component.stop(WAIT).await?;
    ensure!(case.database().await?.count_dead_letters().await? == MESSAGES, "not every message is a letter");
    let (reader, mut copied) = (kafka.reader(&letters, 1)?, HashSet::new());
    // Each at least once.
    eventually("a copy of every letter", WAIT, async || {
        for copy in reader.drain(Duration::from_secs(1))? {
            let id = copy.headers().and_then(|headers| headers.iter().find(|one| one.key == "sluice.id"));
            copied.insert(id.and_then(|id| id.value).context("a copy without its id")?.to_vec());
        }
        Ok((copied.len() as u64 == MESSAGES).then_some(()))
    })
    .await?;
    Ok(())
}

#[tokio::test]
#[ignore = "needs Kafka"]
async fn a_dead_letter_topic_that_may_not_be_written_to_is_told_until_the_right_is_granted() {
    closed_dead_letter_topic().await.unwrap();
}
