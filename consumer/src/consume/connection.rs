//! Kafka's client, and the credentials that it was made with.
//!
//! Guarantee: credentials that are replaced while brokers refuse the old ones are used without a restart of the process.
//! librdkafka takes credentials only where a client is made, so another one is made, which joins the group anew. Until
//! brokers refuse it, a client is left alone: connections that stand stay good, and new credentials may come first. How much
//! it prefetches of a partition is fixed as well, so that one that its topics have outgrown is replaced in the same way. So is
//! one that has forgotten all brokers, as it never asks one again, and one that has come to another cluster at the same address:
//! positions and rate are that cluster's then.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::ClientConfig;
use sluice_crds::v1alpha1::KafkaSource as KafkaSpec;

use crate::config::Config;
use crate::last_error::LastError;
use crate::meter::Meters;
use crate::secrets::Secrets;
use crate::source::SourceError;
use crate::source::kafka::KafkaSource;
use crate::source::kafka::config::{ClientConfigError, client_config};

/// Pause before credentials that are missing, or refused, are looked at again.
const SECRETS_PAUSE: Duration = Duration::from_secs(1);

/// A client that was started.
pub struct Connection {
    /// What reads through it.
    pub source: Arc<KafkaSource>,
    made_with: ClientConfig,
}

impl Connection {
    /// Starts a client; waits for credentials that are missing or of no use, as somebody may replace them. `partitions` is how
    /// many were too many for the one before.
    ///
    /// # Errors
    /// What no credential can mend; where it is `patient`, that is told and waited for, too.
    pub async fn start(
        config: &Config,
        secrets: &Secrets,
        meters: &Arc<Meters>,
        patient: bool,
        partitions: Option<usize>,
    ) -> anyhow::Result<Self> {
        let kafka = &config.kafka;
        let waits = patient || kafka.tls.is_some() || kafka.sasl.is_some();
        loop {
            let last_error = match client_config(kafka, secrets) {
                Ok(made_with) => {
                    let (mut client, topics) = (made_with.clone(), config.topics.clone());
                    KafkaSource::share_prefetch(&mut client, &topics, partitions).await;
                    match KafkaSource::start(client, &kafka.consumer_group, topics, meters.clone()) {
                        Ok(source) => {
                            meters.source_works();
                            return Ok(Self { source: Arc::new(source), made_with });
                        }
                        Err(error) if waits => LastError::from(&error),
                        Err(error) => return Err(error.into()),
                    }
                }
                Err(ClientConfigError::Secret(error)) => LastError::from(&error),
                Err(ClientConfigError::Refused(why)) if patient => {
                    LastError::from(&SourceError::Configuration(why))
                }
                Err(error @ ClientConfigError::Refused(_)) => return Err(error.into()),
            };
            meters.source_failed(last_error);
            tokio::time::sleep(SECRETS_PAUSE).await;
        }
    }

    /// Waits until another client is needed, and says why: brokers have refused this one and other credentials are there,
    /// or there are far more partitions than its prefetch was divided for, or it asks no broker any more, or another cluster's.
    pub async fn outdated(&self, kafka: &KafkaSpec, secrets: &Secrets) -> &'static str {
        loop {
            tokio::time::sleep(SECRETS_PAUSE).await;
            if self.source.is_refused() && has_others(&self.made_with, kafka, secrets) {
                return "brokers refuse the credentials of the Kafka client, and others are there";
            }
            if self.source.has_lost_brokers() {
                return "the Kafka client asks no broker any more, which it does where a lone one has told of none";
            }
            if self.source.has_other_cluster() {
                return "another Kafka cluster answers at the address of the one before, and has positions of its own";
            }
            if self.source.outgrown_by().is_some() {
                return "there have come to be far more partitions than the prefetch was divided for";
            }
        }
    }
}

/// Whether the credentials are not those that a client was made with. Missing ones, or half of a file, are no others.
fn has_others(made_with: &ClientConfig, kafka: &KafkaSpec, secrets: &Secrets) -> bool {
    // The map itself shows the same placeholder for every credential.
    let settings = |config: &ClientConfig| -> BTreeMap<String, Option<String>> {
        let names = config.config_map().into_keys();
        names.map(|name| (name.to_owned(), config.get(name).map(str::to_owned))).collect()
    };
    client_config(kafka, secrets).is_ok_and(|now| settings(&now) != settings(made_with))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn only_usable_credentials_with_another_content_are_others() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("k/password");
        fs::create_dir(dir.path().join("k")).unwrap();
        let write = |text: &str| fs::write(&file, text).unwrap();
        write("old");
        let secret = "{ secretKeyRef: { name: k, key: password } }";
        let kafka: KafkaSpec = sluice_crds::yaml::from_str(&format!(
            "{{ bootstrapServers: 'k:9092', topic: t, consumerGroup: g,
               sasl: {{ mechanism: PLAIN, usernameFrom: {secret}, passwordFrom: {secret} }} }}"
        ))
        .unwrap();
        let secrets = Secrets::new(Some(dir.path().into()));
        let made_with = client_config(&kafka, &secrets).unwrap();
        assert!(!has_others(&made_with, &kafka, &secrets));
        write("old\n");
        assert!(!has_others(&made_with, &kafka, &secrets), "a line break is no other password");
        fs::remove_file(&file).unwrap();
        assert!(!has_others(&made_with, &kafka, &secrets));
        write("new");
        assert!(has_others(&made_with, &kafka, &secrets));
    }
}
