//! Connects to brokers, and says why where none can be reached.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::consumer::{BaseConsumer, Consumer, ConsumerContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::metadata::Metadata;

use sluice_crds::problem::chain;

use super::{BROKERS, LIMIT, STEP};
use crate::check::report::Finding;
use crate::config::Config;
use crate::lock::lock;
use crate::secrets::Secrets;
use crate::source::kafka::config::client_config;
use crate::source::kafka::remedy;

/// How long brokers that are all unreachable are tried.
const UNREACHABLE: Duration = Duration::from_secs(3);

/// What librdkafka says of its own accord. A refusal is the telling one, as who refuses may hang up first; else what came
/// first.
#[derive(Clone, Default)]
pub struct Complaints {
    broken: Arc<Mutex<Vec<String>>>,
    pub group_denied: Arc<AtomicBool>,
}

impl Complaints {
    fn add(&self, text: &str) {
        lock(&self.broken).push(text.to_owned());
    }

    fn telling(&self) -> Option<String> {
        let broken = lock(&self.broken);
        let refusal = broken.iter().find(|said| remedy::of_credentials(said).is_some());
        refusal.or(broken.first()).cloned()
    }
}

impl ClientContext for Complaints {
    fn log(&self, _level: RDKafkaLogLevel, facility: &str, message: &str) {
        // A broken connection; "[thrd:…]: " in front names a thread of the library.
        if facility == "FAIL" {
            self.add(message.split_once("]: ").map_or(message, |(_, message)| message));
        }
    }

    // What else comes here is in the log before, and there with its cause.
    fn error(&self, error: KafkaError, _reason: &str) {
        if error.rdkafka_error_code() == Some(RDKafkaErrorCode::GroupAuthorizationFailed) {
            self.group_denied.store(true, Relaxed);
        }
    }
}

impl ConsumerContext for Complaints {}

pub type Probe = BaseConsumer<Complaints>;

/// Asks for all topics until a broker answers.
pub fn connect(config: &Config, secrets: &Secrets) -> Result<(Probe, Metadata), Finding> {
    let refused = |detail: String| Finding::failed(BROKERS, detail);
    let mut client = client_config(&config.kafka, secrets)
        .map_err(|error| refused(chain(&error)).remedy("set the credential or the property that is named"))?;
    client
        .set("group.id", &config.kafka.consumer_group)
        .set("enable.auto.commit", "false")
        .set("auto.offset.reset", "error")
        .set("enable.partition.eof", "true")
        // The end of a partition is told only after that; many may be tried.
        .set("fetch.wait.max.ms", "10")
        .set("allow.auto.create.topics", "false")
        .set_log_level(RDKafkaLogLevel::Info);
    let complaints = Complaints::default();
    let consumer: Probe = client.create_with_context(complaints.clone()).map_err(|error| {
        refused(remedy::without_value(&error))
            .remedy("correct the certificate, the key or the property that is named")
    })?;
    let begin = Instant::now();
    loop {
        let error = match consumer.fetch_metadata(None, STEP) {
            Ok(metadata) if !metadata.brokers().is_empty() => return Ok((consumer, metadata)),
            Ok(_) => "no broker is known".to_owned(),
            Err(error) => error.to_string(),
        };
        // Hands over what the library has to complain about.
        let event = consumer.poll(Duration::ZERO).and_then(Result::err);
        let all_down =
            event.and_then(|error| error.rdkafka_error_code()) == Some(RDKafkaErrorCode::AllBrokersDown);
        let detail = complaints.telling().unwrap_or(error);
        let handshake =
            ["SSL handshake failed", "SASL", "authentication"].iter().any(|word| detail.contains(word));
        let waited = begin.elapsed();
        if handshake || (all_down && waited > UNREACHABLE) || waited > LIMIT {
            let remedy = connection_remedy(&detail, config);
            return Err(refused(detail).remedy(remedy));
        }
    }
}

/// What to do about a connection that does not come about, from librdkafka's own words.
fn connection_remedy(detail: &str, config: &Config) -> &'static str {
    if let Some(remedy) = remedy::of_credentials(detail) {
        return remedy;
    }
    let detail = remedy::without_broker(detail).to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| detail.contains(word));
    if config.kafka.sasl.is_none() && has(&["ssl connection closed by peer (after"]) {
        "check whether this port wants SASL (spec.source.kafka.sasl), and tls.certFrom and keyFrom"
    } else if has(&["ssl", "tls"]) {
        "check that this port speaks TLS, and tls.caFrom, certFrom and keyFrom"
    } else if has(&["resolve"]) {
        "check the host names in bootstrapServers, and DNS"
    } else if config.kafka.tls.is_none() && has(&["disconnected", "timed out", "timeout"]) {
        "check the port, and whether it wants TLS (spec.source.kafka.tls) or SASL"
    } else {
        "check bootstrapServers, whether the brokers run, and firewalls"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What librdkafka 2.12 says, and a word of the remedy.
    const SAID: [(&str, &str); 7] = [
        ("SSL handshake failed: error:0A000086:SSL routines::certificate verify failed", "tls.caFrom"),
        ("SSL handshake failed: Disconnected: connecting to a PLAINTEXT broker listener?", "speaks TLS"),
        ("Disconnected: SSL connection closed by peer (after 1ms in state UP)", "wants SASL"),
        ("Failed to resolve 'nohost.invalid:9092': Name or service not known", "DNS"),
        ("Disconnected: connection closed by peer: receive 0 after POLLIN", "wants TLS"),
        ("Connect to ipv4#127.0.0.1:1 failed: Connection refused", "firewalls"),
        ("sasl_ssl://k:9092/bootstrap: Connect to ipv4#127.0.0.1:1 failed: Connection refused", "firewalls"),
    ];

    #[test]
    fn each_kind_of_broken_connection_has_its_remedy() {
        let text = include_str!("../../../../crds/examples/mysql.yaml");
        let config = crate::config::parse(text).unwrap();
        for (said, word) in SAID {
            let remedy = connection_remedy(said, &config);
            assert!(remedy.contains(word), "{said}: {remedy}");
        }
    }
}
