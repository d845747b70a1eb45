//! A real Kafka broker: KRaft, one node, on a free port.
//!
//! The jars come from `tests/run` (see `tests/kafka/pom.xml`). Where `SLUICE_TEST_KAFKA` names a broker, that
//! one is used, and tests that kill or freeze the broker fail with a clear message.

mod broker;
mod clients;
mod groups;
mod secure;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use nix::sys::signal::Signal;
use rdkafka::admin::{
    AdminClient, AdminOptions, AlterConfig, NewPartitions, NewTopic, ResourceSpecifier, TopicReplication,
};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use crate::component::{Component, Scratch};
use crate::{eventually, free_port};
use broker::{PASSWORD, PATIENT, PROMPT, broker, jars, java, password_property, path, server_properties};
use secure::Secure;

pub use clients::{Reader, Sender};
pub use secure::{CERTIFIED, On, Right};

/// How long a broker may take to answer after its start.
const START: Duration = Duration::from_secs(180);
/// Time limit of a single request.
const REQUEST: Duration = Duration::from_secs(20);
/// Largest message that the broker takes.
pub const MAX_MESSAGE_BYTES: usize = 32 << 20;

/// Ids of clusters: 16 bytes in base64.
const CLUSTER: &str = "AAAAAAAAAAAAAAAAAAAAAQ";
const OTHER_CLUSTER: &str = "AAAAAAAAAAAAAAAAAAAAAg";
/// Who may use the listener that asks for a password, and the password at the start.
pub const USER: (&str, &str) = ("sluice", "canary-first-password");

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
    secure: Option<Secure>,
    // Dropped in this order: the process first, then its files.
    component: Component,
    dir: Scratch,
}

/// Makes the data of a broker of this cluster, as its properties say.
async fn format(jars: &Path, dir: &Scratch, cluster: &str, secure: bool) -> anyhow::Result<()> {
    let properties = path(&dir.path().join("server.properties"));
    let mut format = java("kafka-format", jars, dir, &["kafka.tools.StorageTool", "format", "-t"])?;
    format.arguments.extend([cluster, "-c", &properties].map(str::to_owned));
    if secure {
        format.arguments.extend(Secure::format_arguments());
    }
    let mut formatter = Component::start("Kafka's format", &format)?;
    let code = formatter.ended(START).await?;
    ensure!(code == 0, "Kafka's format ended with {code}:\n{}", formatter.log_tail(20));
    Ok(())
}

impl Kafka {
    /// Starts a broker, or takes the one that `SLUICE_TEST_KAFKA` names.
    ///
    /// # Errors
    /// The jars are missing, or it does not answer in time.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_listening(None, CLUSTER, None).await
    }

    /// A broker of another cluster than [`Self::start`]'s.
    ///
    /// # Errors
    /// As [`Self::start`]; or all tests share a given broker.
    pub async fn start_another() -> anyhow::Result<Self> {
        let another = Self::start_listening(None, OTHER_CLUSTER, None).await?;
        ensure!(another.own.is_some(), "this test needs a second broker; unset SLUICE_TEST_KAFKA");
        Ok(another)
    }

    /// As [`Self::start`]; the broker listens on a second address too, for pods (`Cluster::host_address`).
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_on(address: Ipv4Addr) -> anyhow::Result<Self> {
        Self::start_listening(Some(address), CLUSTER, None).await
    }

    async fn start_listening(
        pods: Option<Ipv4Addr>,
        cluster: &str,
        secure: Option<Secure>,
    ) -> anyhow::Result<Self> {
        if let Ok(bootstrap) = std::env::var("SLUICE_TEST_KAFKA") {
            return Ok(Self { bootstrap, pod_bootstrap: None, own: None });
        }
        let jars = jars()?;
        let dir = Scratch::new("sluice-kafka-")?;
        let (port, controller_port) = (free_port()?, free_port()?);
        let properties = dir.path().join("server.properties");
        let data = dir.path().join("data");
        let pod_bootstrap = pods.map(|address| Ok::<_, anyhow::Error>(format!("{address}:{}", free_port()?)));
        let pod_bootstrap = pod_bootstrap.transpose()?;
        let data = data.display().to_string();
        let protected = format!("127.0.0.1:{}", free_port()?);
        let pods = pod_bootstrap.as_deref().map(|address| ("PODS", address));
        let more: Vec<_> = pods.into_iter().chain(secure.iter().flat_map(Secure::listeners)).collect();
        let text = server_properties(port, controller_port, &protected, &more, &data);
        let secured = secure.as_ref().map(Secure::properties).unwrap_or_default();
        std::fs::write(&properties, text + &secured)?;

        format(&jars, &dir, cluster, secure.is_some()).await?;
        let heap = std::env::var("SLUICE_TEST_KAFKA_HEAP").unwrap_or_default();
        let component = Component::start("Kafka", &broker(&jars, &dir, &heap)?)?;
        let own = Some(Own { jars, dir, component, heap, protected, secure });
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
        let file = own.dir.path().join("server.properties");
        std::fs::write(&file, std::fs::read_to_string(&file)?.replace(PATIENT, PROMPT))?;
        own.component = Component::start("Kafka", &broker(&own.jars, &own.dir, &own.heap)?)?;
        self.answers().await
    }

    /// Kills the broker and starts one of another cluster in its place, on the same port and without data.
    ///
    /// # Errors
    /// The broker is not ours, or does not answer in time.
    pub async fn replace(&mut self) -> anyhow::Result<()> {
        let own = self.own()?;
        own.component.kill().await?;
        std::fs::remove_dir_all(own.dir.path().join("data"))?;
        format(&own.jars, &own.dir, OTHER_CLUSTER, own.secure.is_some()).await?;
        self.restart().await
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

    /// Gives a topic settings; all others become the broker's.
    ///
    /// # Errors
    /// The broker refuses.
    pub async fn configure_topic(&self, name: &str, settings: &[(&str, &str)]) -> anyhow::Result<()> {
        let topic = AlterConfig::new(ResourceSpecifier::Topic(name));
        let topic = settings.iter().fold(topic, |topic, (key, value)| topic.set(key, value));
        let options = AdminOptions::new().request_timeout(Some(REQUEST));
        for result in self.admin()?.alter_configs([&topic], &options).await? {
            result.map_err(|(topic, code)| anyhow::anyhow!("cannot configure {topic:?}: {code}"))?;
        }
        Ok(())
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

    /// The id of the broker's cluster.
    ///
    /// # Errors
    /// The broker does not answer.
    pub async fn cluster_id(&self) -> anyhow::Result<String> {
        let client: BaseConsumer = self.client().create()?;
        eventually("the cluster's id", START, async || Ok(client.client().fetch_cluster_id(REQUEST))).await
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
