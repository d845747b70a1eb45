//! How a broker is started, and its settings.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};

use super::{MAX_MESSAGE_BYTES, USER};
use crate::cache_dir;
use crate::component::{Launch, Scratch};

/// The setting that holds the password; a broker reads it when it starts.
pub(super) const PASSWORD: &str = "listener.name.password.plain.sasl.jaas.config";
/// How long a broker may be silent until the controller takes it for dead, and its partitions have no leader: longer than
/// a busy machine keeps it from saying anything.
pub(super) const PATIENT: &str = "broker.session.timeout.ms=60000";
/// The same for one that follows a killed one, and is not let in while that one is not taken for dead: Kafka's default.
pub(super) const PROMPT: &str = "broker.session.timeout.ms=9000";
/// Settings of the virtual machine: little memory, a quick start.
const JVM: [&str; 5] =
    ["-Xms128m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Xshare:auto"];

/// Where `tests/run` has put the broker's jars.
pub(super) fn jars() -> anyhow::Result<PathBuf> {
    let jars = match std::env::var_os("SLUICE_TEST_KAFKA_JARS") {
        Some(jars) => jars.into(),
        None => cache_dir().join(format!("kafka-{}", version().context("no version of Kafka is pinned")?)),
    };
    ensure!(jars.is_dir(), "no Kafka jars in {}; run `tests/run --prepare`", jars.display());
    Ok(jars)
}

/// The version that is pinned.
fn version() -> Option<&'static str> {
    let (_, behind) =
        include_str!("../../kafka/pom.xml").split_once("<artifactId>kafka_2.13</artifactId>")?;
    Some(behind.split_once("<version>")?.1.split_once("</version>")?.0)
}

pub(super) fn path(path: &Path) -> String {
    path.display().to_string()
}

pub(super) fn java(log: &str, jars: &Path, dir: &Scratch, arguments: &[&str]) -> anyhow::Result<Launch> {
    let classes = format!("{}/*", jars.display());
    let mut all: Vec<String> = JVM.iter().map(|&flag| flag.to_owned()).collect();
    // Made by `tests/run`. One that is missing or of another Java is passed over (`-Xshare:auto`).
    all.push(format!("-XX:SharedArchiveFile={}", path(&jars.join("classes.jsa"))));
    all.extend(["-cp".to_owned(), classes]);
    all.extend(arguments.iter().map(|&argument| argument.to_owned()));
    Ok(Launch {
        program: "java".into(),
        arguments: all,
        log: dir.path().join(format!("{log}.log")),
        ..Launch::default()
    })
}

pub(super) fn broker(jars: &Path, dir: &Scratch, heap: &str) -> anyhow::Result<Launch> {
    let properties = path(&dir.path().join("server.properties"));
    let mut launch = java("kafka", jars, dir, &["kafka.Kafka", &properties])?;
    if !heap.is_empty() {
        launch.arguments.retain(|argument| !argument.starts_with("-Xmx"));
        launch.arguments.insert(0, format!("-Xmx{heap}"));
    }
    Ok(launch)
}

pub(super) fn password_property(password: &str) -> String {
    let module = "org.apache.kafka.common.security.plain.PlainLoginModule";
    format!("{PASSWORD}={module} required user_{}=\"{password}\";\n", USER.0)
}

pub(super) fn server_properties(
    port: u16,
    controller_port: u16,
    protected: &str,
    more: &[(&str, &str)],
    data: &str,
) -> String {
    // A client is told the address of the listener that it came through.
    let more: String = more.iter().map(|(name, address)| format!(",{name}://{address}")).collect();
    format!(
        "process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
controller.listener.names=CONTROLLER
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port},PASSWORD://{protected}{more}
advertised.listeners=PLAINTEXT://127.0.0.1:{port},PASSWORD://{protected}{more}
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,PODS:PLAINTEXT,PASSWORD:SASL_PLAINTEXT,TLS:SSL,SCRAM:SASL_SSL,PODS_SCRAM:SASL_SSL,PODS_MUTUAL:SASL_SSL
inter.broker.listener.name=PLAINTEXT
listener.name.password.sasl.enabled.mechanisms=PLAIN
log.dirs={data}
{PATIENT}
auto.create.topics.enable=false
log.cleaner.backoff.ms=500
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

    #[test]
    fn a_version_of_kafka_is_pinned() {
        let version = version().unwrap();
        assert!(version.starts_with("4."), "{version}");
    }
}
