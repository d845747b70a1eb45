//! From a pipeline's Kafka source to a librdkafka configuration.
//!
//! Only what connects is set here: brokers, TLS, SASL and the allowed properties. What the guarantees stand on
//! (group, offsets, prefetch, assignment) is added by the consumer afterwards, so that no property can
//! undo it.

use rdkafka::ClientConfig;
use rdkafka::error::KafkaError;
use sluice_crds::v1alpha1::{KAFKA_PROPERTIES, KafkaSource, KafkaTls, SecretSource};

use super::remedy;
use crate::secrets::{SecretError, Secrets};

/// Longest pause before a broker is tried again, milliseconds, where the pipeline does not say: librdkafka's default of up
/// to 10 s leaves one that restarts unused for too long.
const LONGEST_BACKOFF: u32 = 2_000;

/// Why there is no configuration. No message shows a credential.
#[derive(Debug, thiserror::Error)]
pub enum ClientConfigError {
    /// A credential is missing or of no use; it may come.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A property that is not allowed or that librdkafka refuses.
    #[error("{0}")]
    Refused(String),
}

/// A configuration that connects to the brokers; credentials are resolved at this moment.
///
/// # Errors
/// See [`ClientConfigError`].
pub fn client_config(kafka: &KafkaSource, secrets: &Secrets) -> Result<ClientConfig, ClientConfigError> {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", &kafka.bootstrap_servers)
        .set("client.id", "sluice")
        // A broker that dropped out of the network is noticed by the kernel, too.
        .set("socket.keepalive.enable", "true")
        .set("reconnect.backoff.max.ms", LONGEST_BACKOFF.to_string());
    for (name, value) in &kafka.properties {
        let allowed = KAFKA_PROPERTIES.iter().any(|property| property.name == name);
        if !allowed {
            return Err(ClientConfigError::Refused(format!(
                "the setting {name} is not allowed in properties"
            )));
        }
        config.set(name, value);
    }
    if !kafka.properties.contains_key("reconnect.backoff.max.ms")
        && let Some(least) = config.get("reconnect.backoff.ms").map(str::to_owned)
        && least.parse::<u32>().is_ok_and(|least| least > LONGEST_BACKOFF)
    {
        config.set("reconnect.backoff.max.ms", least);
    }
    let resolve = |source: &SecretSource| -> Result<String, SecretError> {
        let secret = secrets.resolve(&source.secret_key_ref)?;
        if secret.expose().contains('\0') {
            let message = "contains a NUL character, which no credential of Kafka may".to_owned();
            return Err(SecretError::Unusable { reference: source.secret_key_ref.clone(), message });
        }
        Ok(secret.expose().to_owned())
    };
    config.set("security.protocol", security_protocol(kafka));
    if let Some(KafkaTls { ca_from, cert_from, key_from }) = &kafka.tls {
        for (name, source) in
            [("ssl.ca.pem", ca_from), ("ssl.certificate.pem", cert_from), ("ssl.key.pem", key_from)]
        {
            if let Some(source) = source {
                config.set(name, resolve(source)?);
            }
        }
        if ca_from.is_none() {
            // The system's authorities: an OpenSSL that is compiled in does not know where they lie.
            config.set("ssl.ca.location", "probe");
        }
    }
    if let Some(sasl) = &kafka.sasl {
        config
            .set("sasl.mechanism", sasl.mechanism.as_str())
            .set("sasl.username", resolve(&sasl.username_from)?)
            .set("sasl.password", resolve(&sasl.password_from)?);
    }
    config.create_native_config().map_err(|error| ClientConfigError::Refused(explain(error)))?;
    Ok(config)
}

fn security_protocol(kafka: &KafkaSource) -> &'static str {
    match (kafka.tls.is_some(), kafka.sasl.is_some()) {
        (false, false) => "plaintext",
        (true, false) => "ssl",
        (false, true) => "sasl_plaintext",
        (true, true) => "sasl_ssl",
    }
}

/// The library's own text shows the value, which may be a credential.
fn explain(error: KafkaError) -> String {
    match &error {
        KafkaError::ClientConfig(..) => remedy::without_value(&error),
        KafkaError::Nul(_) => "a setting contains a NUL character".into(),
        _ => "librdkafka refuses the configuration".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rdkafka::consumer::BaseConsumer;

    use super::*;
    use crate::source::kafka::limits;

    fn kafka(extra: &str) -> KafkaSource {
        let text = format!("{{ bootstrapServers: 'k:9092', topic: t, consumerGroup: g, {extra} }}");
        sluice_crds::yaml::from_str(&text).unwrap()
    }

    #[test]
    fn every_allowed_property_is_known_to_the_library_within_its_bounds() {
        use sluice_crds::v1alpha1::PropertyValue;
        for property in KAFKA_PROPERTIES {
            let values = match property.value {
                PropertyValue::Text => vec!["a".to_owned()],
                PropertyValue::Bool => vec!["true".into(), "false".into()],
                PropertyValue::Integer(low, high) => vec![low.to_string(), high.to_string()],
                PropertyValue::OneOf(words) => words.iter().map(ToString::to_string).collect(),
            };
            for value in values {
                let properties = format!("properties: {{ {}: '{value}' }}", property.name);
                let mut config = client_config(&kafka(&properties), &Secrets::new(None)).unwrap();
                // The largest session needs a poll interval that is as long.
                config.set("max.poll.interval.ms", "86400000");
                limits::apply(&mut config);
                // Some are refused only where a client is made, which connects to nobody as long as nobody asks.
                let client = config.set("group.id", "g").create::<BaseConsumer>();
                assert!(client.is_ok(), "{} = {value}: {:?}", property.name, client.err());
            }
        }
    }

    #[test]
    fn tls_and_sasl_choose_the_protocol_and_fill_in_credentials() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("k")).unwrap();
        for key in ["ca", "user", "password"] {
            fs::write(dir.path().join("k").join(key), key).unwrap();
        }
        let secrets = Secrets::new(Some(dir.path().into()));
        let secret = |key| format!("{{ secretKeyRef: {{ name: k, key: {key} }} }}");
        let tls = format!("tls: {{ caFrom: {} }}", secret("ca"));
        let sasl = format!(
            "sasl: {{ mechanism: SCRAM-SHA-512, usernameFrom: {}, passwordFrom: {} }}",
            secret("user"),
            secret("password")
        );
        for (extra, protocol) in [
            (String::new(), "plaintext"),
            (tls.clone(), "ssl"),
            (sasl.clone(), "sasl_plaintext"),
            (format!("{tls}, {sasl}"), "sasl_ssl"),
        ] {
            let config = client_config(&kafka(&extra), &secrets).unwrap();
            assert_eq!(config.get("security.protocol"), Some(protocol));
            assert_eq!(config.get("ssl.ca.pem"), extra.contains("tls").then_some("ca"));
            assert_eq!(config.get("ssl.ca.location"), None);
            assert_eq!(config.get("sasl.password"), extra.contains("sasl").then_some("password"));
        }
    }

    #[test]
    fn without_an_authority_of_its_own_the_systems_are_trusted() {
        let config = client_config(&kafka("tls: {}"), &Secrets::new(None)).unwrap();
        assert_eq!(config.get("security.protocol"), Some("ssl"));
        assert_eq!(config.get("ssl.ca.location"), Some("probe"));
    }

    #[test]
    fn a_forbidden_property_and_a_missing_credential_are_refused_by_name() {
        let secrets = Secrets::new(None);
        let refused = |extra| client_config(&kafka(extra), &secrets).unwrap_err().to_string();
        assert!(refused("properties: { enable.auto.commit: 'true' }").contains("enable.auto.commit"));
        let missing = refused("tls: { caFrom: { secretKeyRef: { name: absent, key: ca } } }");
        assert!(missing.contains("SLUICE_SECRET_ABSENT_CA"), "{missing}");
        let refused = refused("properties: { fetch.min.bytes: canary }");
        assert!(refused.contains("fetch.min.bytes") && !refused.contains("canary"), "{refused}");
    }
}
