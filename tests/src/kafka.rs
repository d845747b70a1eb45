//! A real Kafka broker: KRaft, one node, on a free port.
//!
//! The jars come from `tests/run` (see `tests/kafka/pom.xml`). Where `SLUICE_TEST_KAFKA` names a broker, that
//! one is used, and tests that kill or freeze the broker fail with a clear message.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use nix::sys::signal::Signal;
use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{OwnedHeaders, OwnedMessage};
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use rdkafka::types::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};

use crate::component::{Component, Launch, Scratch};
use crate::{cache_dir, eventually, free_port};

/// How long a broker may take to answer after its start.
const START: Duration = Duration::from_secs(60);
/// Time limit of a single request.
const REQUEST: Duration = Duration::from_secs(20);
/// Largest message that the broker takes.
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// Ids of clusters: 16 bytes in base64.
const CLUSTER: &str = "AAAAAAAAAAAAAAAAAAAAAQ";
const OTHER_CLUSTER: &str = "AAAAAAAAAAAAAAAAAAAAAg";
/// Who may use the listener that asks for a password, and the password at the start.
pub const USER: (&str, &str) = ("sluice", "canary-first-password");
/// The setting that holds the password; a broker reads it when it starts.
const PASSWORD: &str = "listener.name.password.plain.sasl.jaas.config";

/// Settings of the virtual machine: little memory, a quick start.
const JVM: [&str; 5] =
    ["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"];

/// A broker and what is needed to stop and restart it.
pub struct Kafka {
    bootstrap: String,
    pod_bootstrap: Option<String>,
    own: Option<Own>,
}

struct Own {
    jars: PathBuf,
    heap: String,
    protected: String,
    // Dropped in this order: the process first, then its files.
    component: Component,
    dir: Scratch,
}

impl Kafka {
    /// Starts a broker, or takes the one that `SLUICE_TEST_KAFKA` names.
    ///
    /// # Errors
    /// The jars are missing, or it does not answer within a minute.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_listening(None, CLUSTER).await
    }

    /// A broker of another cluster than [`Self::start`]'s.
    ///
    /// # Errors
    /// As [`Self::start`]; or all tests share a given broker.
    pub async fn start_another() -> anyhow::Result<Self> {
        let another = Self::start_listening(None, OTHER_CLUSTER).await?;
        ensure!(another.own.is_some(), "this test needs a second broker; unset SLUICE_TEST_KAFKA");
        Ok(another)
    }

    /// As [`Self::start`]; the broker listens on a second address too, for pods (`Cluster::host_address`).
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_on(address: Ipv4Addr) -> anyhow::Result<Self> {
        Self::start_listening(Some(address), CLUSTER).await
    }

    async fn start_listening(pods: Option<Ipv4Addr>, cluster: &str) -> anyhow::Result<Self> {
        if let Ok(bootstrap) = std::env::var("SLUICE_TEST_KAFKA") {
            return Ok(Self { bootstrap, pod_bootstrap: None, own: None });
        }
        let jars = std::env::var_os("SLUICE_TEST_KAFKA_JARS")
            .map_or_else(|| cache_dir().join("kafka-4.1.0"), PathBuf::from);
        ensure!(jars.is_dir(), "no Kafka jars in {}; run `tests/run --prepare`", jars.display());
        let dir = Scratch::new("sluice-kafka-")?;
        let (port, controller_port) = (free_port()?, free_port()?);
        let properties = dir.path().join("server.properties");
        let data = dir.path().join("data");
        let pod_bootstrap = pods.map(|address| Ok::<_, anyhow::Error>(format!("{address}:{}", free_port()?)));
        let pod_bootstrap = pod_bootstrap.transpose()?;
        let data = data.display().to_string();
        let protected = format!("127.0.0.1:{}", free_port()?);
        let text = server_properties(port, controller_port, pod_bootstrap.as_deref(), &protected, &data);
        std::fs::write(&properties, text)?;

        let mut format = java("kafka-format", &jars, &dir, &["kafka.tools.StorageTool", "format", "-t"])?;
        format.arguments.extend([cluster, "-c"].map(str::to_owned).into_iter().chain([path(&properties)]));
        let mut formatter = Component::start("Kafka's format", &format)?;
        let code = formatter.ended(START).await?;
        ensure!(code == 0, "Kafka's format ended with {code}:\n{}", formatter.log_tail(20));

        let heap = std::env::var("SLUICE_TEST_KAFKA_HEAP").unwrap_or_default();
        let component = Component::start("Kafka", &broker(&jars, &dir, &heap)?)?;
        let own = Some(Own { jars, dir, component, heap, protected });
        let mut kafka = Self { bootstrap: format!("127.0.0.1:{port}"), pod_bootstrap, own };
        kafka.answers().await?;
        Ok(kafka)
    }

    /// `host:port`, as clients want it.
    pub fn bootstrap(&self) -> &str {
        &self.bootstrap
    }

    /// `host:port` for pods, where the broker was started with [`Self::start_on`]; a given broker's own.
    pub fn pod_bootstrap(&self) -> &str {
        self.pod_bootstrap.as_deref().unwrap_or(&self.bootstrap)
    }

    /// `host:port` of the listener that asks for the password of [`USER`], by SASL PLAIN.
    ///
    /// # Errors
    /// The broker is not ours.
    pub fn protected_bootstrap(&mut self) -> anyhow::Result<String> {
        Ok(self.own()?.protected.clone())
    }

    /// From its next start on the broker takes this password, and no other one.
    ///
    /// # Errors
    /// The broker is not ours.
    pub fn set_password(&mut self, password: &str) -> anyhow::Result<()> {
        let file = self.own()?.dir.path().join("server.properties");
        let text = std::fs::read_to_string(&file)?;
        let kept: String =
            text.lines().filter(|line| !line.starts_with(PASSWORD)).map(|line| format!("{line}\n")).collect();
        Ok(std::fs::write(file, kept + &password_property(password))?)
    }

    fn own(&mut self) -> anyhow::Result<&mut Own> {
        self.own.as_mut().context("this test must own its broker; unset SLUICE_TEST_KAFKA")
    }

    /// The broker's process.
    ///
    /// # Errors
    /// The broker is not ours.
    pub fn component(&mut self) -> anyhow::Result<&mut Component> {
        Ok(&mut self.own()?.component)
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let client: BaseConsumer = self.client().create()?;
        eventually("Kafka to answer", START, async || {
            if let Some(own) = &mut self.own {
                ensure!(own.component.is_running()?, "Kafka ended:\n{}", own.component.log_tail(30));
            }
            let metadata = client.fetch_metadata(None, Duration::from_millis(500));
            Ok(metadata.ok().filter(|metadata| !metadata.brokers().is_empty()).map(|_| ()))
        })
        .await
    }

    /// Kills the broker at once (kill -9).
    ///
    /// # Errors
    /// The broker is not ours.
    pub async fn kill(&mut self) -> anyhow::Result<()> {
        self.own()?.component.kill().await
    }

    /// Freezes the broker: connections stay open, nothing answers.
    ///
    /// # Errors
    /// The broker is not ours.
    pub fn freeze(&mut self) -> anyhow::Result<()> {
        self.own()?.component.signal(Signal::SIGSTOP)
    }

    /// Ends [`Self::freeze`].
    ///
    /// # Errors
    /// The broker is not ours.
    pub fn thaw(&mut self) -> anyhow::Result<()> {
        self.own()?.component.signal(Signal::SIGCONT)
    }

    /// Starts a killed broker again, on the same port and the same data; waits until it answers.
    ///
    /// # Errors
    /// The broker is not ours, or does not answer.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        let own = self.own()?;
        own.component = Component::start("Kafka", &broker(&own.jars, &own.dir, &own.heap)?)?;
        self.answers().await
    }

    /// A client's configuration.
    pub fn client(&self) -> ClientConfig {
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", &self.bootstrap)
            .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg);
        config
    }

    fn admin(&self) -> anyhow::Result<AdminClient<DefaultClientContext>> {
        Ok(self.client().create()?)
    }

    /// Creates a topic and waits until it can be written to.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn create_topic(
        &self,
        name: &str,
        partitions: i32,
        settings: &[(&str, &str)],
    ) -> anyhow::Result<()> {
        let mut topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        topic.config = settings.to_vec();
        let options = AdminOptions::new().request_timeout(Some(REQUEST));
        for result in self.admin()?.create_topics([&topic], &options).await? {
            result.map_err(|(topic, code)| anyhow::anyhow!("cannot create topic {topic}: {code}"))?;
        }
        self.has_partitions(name, partitions).await
    }

    /// Deletes a topic and waits until it is gone.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn delete_topic(&self, name: &str) -> anyhow::Result<()> {
        let options = AdminOptions::new().request_timeout(Some(REQUEST));
        for result in self.admin()?.delete_topics(&[name], &options).await? {
            result.map_err(|(topic, code)| anyhow::anyhow!("cannot delete topic {topic}: {code}"))?;
        }
        let client: BaseConsumer = self.client().create()?;
        eventually("the topic to be gone", REQUEST, async || {
            let metadata = client.fetch_metadata(None, REQUEST)?;
            Ok((!metadata.topics().iter().any(|topic| topic.name() == name)).then_some(()))
        })
        .await
    }

    /// Raises a topic's number of partitions to `total`.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn add_partitions(&self, name: &str, total: i32) -> anyhow::Result<()> {
        let options = AdminOptions::new().request_timeout(Some(REQUEST));
        let partitions = NewPartitions::new(name, usize::try_from(total)?);
        for result in self.admin()?.create_partitions([&partitions], &options).await? {
            result.map_err(|(topic, code)| anyhow::anyhow!("cannot add partitions to {topic}: {code}"))?;
        }
        self.has_partitions(name, total).await
    }

    /// Deletes everything below `offset` in a partition, as retention would.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn truncate_before(&self, name: &str, partition: i32, offset: i64) -> anyhow::Result<()> {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(name, partition, Offset::Offset(offset))?;
        let options = AdminOptions::new().operation_timeout(Some(REQUEST)).request_timeout(Some(REQUEST));
        let answer = self.admin()?.delete_records(&list, &options).await?;
        for element in answer.elements() {
            element.error()?;
        }
        Ok(())
    }

    async fn has_partitions(&self, name: &str, partitions: i32) -> anyhow::Result<()> {
        let client: BaseConsumer = self.client().create()?;
        eventually(&format!("topic {name} to have {partitions} partitions"), REQUEST, async || {
            let metadata = client.fetch_metadata(Some(name), REQUEST)?;
            let ready = metadata.topics().iter().any(|topic| {
                topic.partitions().len() == partitions as usize
                    && topic.partitions().iter().all(|partition| partition.error().is_none())
            });
            Ok(ready.then_some(()))
        })
        .await
    }

    /// The offsets that a group has committed, by partition; none where it has committed nothing.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn committed(
        &self,
        group: &str,
        topic: &str,
        partitions: i32,
    ) -> anyhow::Result<Vec<Option<u64>>> {
        let client: BaseConsumer = self.client().set("group.id", group).create()?;
        let mut list = TopicPartitionList::new();
        list.add_partition_range(topic, 0, partitions - 1);
        // A broker that has just started does not know its groups at once.
        let committed = eventually("the committed offsets", START, async || {
            Ok(client.committed_offsets(list.clone(), Duration::from_secs(5)).ok())
        })
        .await?;
        let offset =
            |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| match element.offset() {
                Offset::Offset(offset) => u64::try_from(offset).ok(),
                _ => None,
            };
        Ok(committed.elements().iter().map(offset).collect())
    }

    /// A producer that batches well and keeps the order.
    ///
    /// # Errors
    /// The client library refuses its settings.
    pub fn producer(&self) -> anyhow::Result<Sender> {
        let producer = self
            .client()
            .set("linger.ms", "20")
            .set("acks", "1")
            .set("batch.num.messages", "50000")
            .set("queue.buffering.max.messages", "200000")
            .set("message.max.bytes", MAX_MESSAGE_BYTES.to_string())
            .create()?;
        Ok(Sender { producer })
    }

    /// A reader of all partitions of a topic.
    ///
    /// # Errors
    /// The client library refuses its settings.
    pub fn reader(&self, topic: &str, partitions: i32) -> anyhow::Result<Reader> {
        let consumer: BaseConsumer =
            self.client().set("group.id", "reader").set("enable.auto.commit", "false").create()?;
        let mut assignment = TopicPartitionList::new();
        for partition in 0..partitions {
            assignment.add_partition_offset(topic, partition, Offset::Beginning)?;
        }
        consumer.assign(&assignment)?;
        Ok(Reader { consumer })
    }
}

/// Reads a topic from its beginning, without a group.
pub struct Reader {
    consumer: BaseConsumer,
}

impl Reader {
    /// The messages that come until none has come for a while.
    ///
    /// # Errors
    /// The broker or the client library reports one.
    pub fn drain(&self, quiet: Duration) -> anyhow::Result<Vec<OwnedMessage>> {
        let mut messages = Vec::new();
        while let Some(message) = self.consumer.poll(quiet) {
            messages.push(message?.detach());
        }
        Ok(messages)
    }
}

/// Sends messages to chosen partitions.
pub struct Sender {
    producer: ThreadedProducer<DefaultProducerContext>,
}

impl Sender {
    /// Queues a message; waits while the queue is full.
    ///
    /// # Errors
    /// The client library refuses the message.
    pub async fn send(
        &self,
        topic: &str,
        partition: i32,
        payload: Option<&[u8]>,
        key: Option<&[u8]>,
        headers: Option<OwnedHeaders>,
    ) -> anyhow::Result<()> {
        let mut record = BaseRecord::<[u8], [u8]>::to(topic).partition(partition);
        record.payload = payload;
        record.key = key;
        record.headers = headers;
        loop {
            match self.producer.send(record) {
                Ok(()) => return Ok(()),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), back)) => {
                    record = back;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Err((error, _)) => return Err(error.into()),
            }
        }
    }

    /// Waits until the broker has acknowledged everything.
    ///
    /// # Errors
    /// It did not within a minute.
    pub fn flush(&self) -> anyhow::Result<()> {
        self.producer.flush(Duration::from_secs(60))?;
        if self.producer.in_flight_count() > 0 {
            bail!("{} messages were not acknowledged", self.producer.in_flight_count());
        }
        Ok(())
    }
}

fn path(path: &std::path::Path) -> String {
    path.display().to_string()
}

fn java(log: &str, jars: &std::path::Path, dir: &Scratch, arguments: &[&str]) -> anyhow::Result<Launch> {
    let classes = format!("{}/*", jars.display());
    let mut all: Vec<String> = JVM.iter().map(|&flag| flag.to_owned()).collect();
    all.extend(["-cp".to_owned(), classes]);
    all.extend(arguments.iter().map(|&argument| argument.to_owned()));
    Ok(Launch {
        program: "java".into(),
        arguments: all,
        log: dir.path().join(format!("{log}.log")),
        ..Launch::default()
    })
}

fn broker(jars: &std::path::Path, dir: &Scratch, heap: &str) -> anyhow::Result<Launch> {
    let properties = path(&dir.path().join("server.properties"));
    let mut launch = java("kafka", jars, dir, &["kafka.Kafka", &properties])?;
    if !heap.is_empty() {
        launch.arguments.retain(|argument| !argument.starts_with("-Xmx"));
        launch.arguments.insert(0, format!("-Xmx{heap}"));
    }
    Ok(launch)
}

fn password_property(password: &str) -> String {
    let module = "org.apache.kafka.common.security.plain.PlainLoginModule";
    format!("{PASSWORD}={module} required user_{}=\"{password}\";\n", USER.0)
}

fn server_properties(
    port: u16,
    controller_port: u16,
    pods: Option<&str>,
    protected: &str,
    data: &str,
) -> String {
    // A client is told the address of the listener that it came through.
    let pods = pods.map_or_else(String::new, |address| format!(",PODS://{address}"));
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port},PASSWORD://{protected}{pods}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PASSWORD://{protected}{pods}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PODS:PLAINTEXT,PASSWORD:SASL_PLAINTEXT
inter.broker.listener.name=PLAINTEXT
listener.name.password.sasl.enabled.mechanisms=PLAIN
log.dirs={data}
auto.create.topics.enable=false
message.max.bytes={MAX_MESSAGE_BYTES}
num.network.threads=2
num.io.threads=2
offsets.topic.num.partitions=1
offsets.topic.replication.factor=1
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.session.timeout.ms=6000
group.consumer.min.heartbeat.interval.ms=500
group.consumer.heartbeat.interval.ms=1000
{}",
        password_property(USER.1)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[ignore = "needs Kafka"]
    async fn a_killed_broker_restarts_with_its_messages() {
        let mut kafka = Kafka::start().await.unwrap();
        kafka.create_topic("spans", 2, &[]).await.unwrap();
        let producer = kafka.producer().unwrap();
        for _ in 0..10 {
            producer.send("spans", 1, Some(b"{}"), None, None).await.unwrap();
        }
        producer.flush().unwrap();
        kafka.kill().await.unwrap();
        kafka.restart().await.unwrap();
        let client: BaseConsumer = kafka.client().create().unwrap();
        assert_eq!(client.fetch_watermarks("spans", 1, REQUEST).unwrap(), (0, 10));
        assert_eq!(kafka.committed("nobody", "spans", 2).await.unwrap(), [None, None]);
    }
}
