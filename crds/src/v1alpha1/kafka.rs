//! The Kafka source.

use std::collections::BTreeMap;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

use super::properties::allow_list_rule;
use super::secret::SecretSource;

/// Longest name of a topic, which Kafka sets, and of a consumer group here.
pub const MAX_KAFKA_NAME: usize = 249;

/// Exactly one kind of source.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("has(self.kafka)").message("exactly one kind of source is needed: kafka"))]
pub struct Source {
    /// A Kafka topic, or all topics that match a pattern.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kafka: Option<KafkaSource>,
}

/// A Kafka topic, or all topics that match a pattern, read as a consumer group.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.topic) != has(self.topicPattern)")
        .message("exactly one of topic and topicPattern is needed"),
    validation = Rule::new("!has(self.excludePattern) || has(self.topicPattern)")
        .message("excludePattern is allowed only together with topicPattern")
        .field_path(".excludePattern"),
    validation = allow_list_rule(),
    validation = Rule::new(
        "self.startFrom in ['Earliest', 'Latest', 'Committed'] || (timestamp(self.startFrom) >= timestamp('1970-01-01T00:00:00Z') && timestamp(self.startFrom) < timestamp('9999-12-30T00:00:00Z'))"
    )
    .message("expected Earliest, Latest, Committed or a timestamp such as 2026-11-21T06:00:00Z")
    .field_path(".startFrom")
)]
pub struct KafkaSource {
    /// Brokers to ask first: `host:port`, several separated by commas without spaces.
    #[schemars(
        length(min = 3, max = 1024),
        regex(pattern = r"^[-A-Za-z0-9._:\[\]]+:[0-9]{1,5}(,[-A-Za-z0-9._:\[\]]+:[0-9]{1,5})*$")
    )]
    pub bootstrap_servers: String,
    /// The topic to read. Exactly one of `topic` and `topicPattern`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = MAX_KAFKA_NAME), regex(pattern = r"^[-._a-zA-Z0-9]+$"))]
    #[x_kube(validation = Rule::new("!(self in ['.', '..'])").message("Kafka allows no topic named . or .."))]
    pub topic: Option<String>,
    /// A regular expression (RE2 syntax) that whole topic names must match. Topics that appear later are found
    /// within 10 s. Exactly one of `topic` and `topicPattern`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("''.matches(self) in [true, false]").message("not a regular expression"))]
    pub topic_pattern: Option<String>,
    /// Topics whose whole names match this regular expression are left out. Only with `topicPattern`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512))]
    #[x_kube(validation = Rule::new("''.matches(self) in [true, false]").message("not a regular expression"))]
    pub exclude_pattern: Option<String>,
    /// The consumer group. It cannot be changed: the stored positions belong to it.
    #[schemars(length(min = 1, max = MAX_KAFKA_NAME), regex(pattern = r"^[!-~]+$"))]
    pub consumer_group: String,
    /// Where to begin at the very first start: Earliest, Latest, Committed (the offset that the group has
    /// committed to Kafka, else Earliest), or a timestamp such as 2026-11-21T06:00:00Z. Later starts go on where
    /// the database says. Partitions and topics that are made later begin at 0. Default: Earliest.
    #[serde(default)]
    pub start_from: StartFrom,
    /// TLS to the brokers. Default: plain text.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tls: Option<KafkaTls>,
    /// Authentication by SASL. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sasl: Option<KafkaSasl>,
    /// Settings of the client library (librdkafka), by their names there. Only those that break no guarantee are
    /// allowed, such as client.id, client.rack, session.timeout.ms, fetch.max.bytes. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "properties_schema")]
    pub properties: BTreeMap<String, String>,
}

fn properties_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 32,
        "additionalProperties": { "type": "string", "minLength": 1, "maxLength": 256 },
    })
}

/// Where a pipeline begins at its very first start. As text: `Earliest`, `Latest`, `Committed`, or RFC 3339.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum StartFrom {
    /// The oldest message.
    #[default]
    Earliest,
    /// Only messages that come later.
    Latest,
    /// The offset that the group has committed to Kafka, else the oldest message.
    Committed,
    /// The first message with this time or a later one.
    Timestamp(jiff::Timestamp),
}

impl TryFrom<String> for StartFrom {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match text.as_str() {
            "Earliest" => Ok(Self::Earliest),
            "Latest" => Ok(Self::Latest),
            "Committed" => Ok(Self::Committed),
            other => other.parse().map(Self::Timestamp).map_err(|_| {
                format!(
                    "expected Earliest, Latest, Committed or a timestamp like 2026-11-21T06:00:00Z, found {other:?}"
                )
            }),
        }
    }
}

impl From<StartFrom> for String {
    fn from(start: StartFrom) -> Self {
        match start {
            StartFrom::Earliest => "Earliest".to_owned(),
            StartFrom::Latest => "Latest".to_owned(),
            StartFrom::Committed => "Committed".to_owned(),
            StartFrom::Timestamp(time) => time.to_string(),
        }
    }
}

impl JsonSchema for StartFrom {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "StartFrom".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "maxLength": 40,
            "pattern": r"^(Earliest|Latest|Committed|[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,9})?(Z|[+-][0-9]{2}:[0-9]{2}))$",
        })
    }
}

/// TLS to the brokers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.certFrom) == has(self.keyFrom)")
        .message("certFrom and keyFrom are needed both or not at all")
)]
pub struct KafkaTls {
    /// PEM certificates of the authorities to trust. Default: those of the operating system.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_from: Option<SecretSource>,
    /// The client's PEM certificate, for mutual TLS. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cert_from: Option<SecretSource>,
    /// The client's PEM key, for mutual TLS; not encrypted. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub key_from: Option<SecretSource>,
}

/// Authentication by SASL.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KafkaSasl {
    /// The mechanism: PLAIN, SCRAM-SHA-256 or SCRAM-SHA-512.
    pub mechanism: SaslMechanism,
    /// The user's name.
    pub username_from: SecretSource,
    /// The password. Where brokers refuse it, it is read again, so that rotating it needs no restart.
    pub password_from: SecretSource,
}

/// SASL mechanisms, by their registered names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum SaslMechanism {
    /// RFC 4616.
    #[serde(rename = "PLAIN")]
    Plain,
    /// RFC 7677.
    #[serde(rename = "SCRAM-SHA-256")]
    ScramSha256,
    /// As RFC 7677 with SHA-512.
    #[serde(rename = "SCRAM-SHA-512")]
    ScramSha512,
}

impl SaslMechanism {
    /// The registered name.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Plain => "PLAIN",
            Self::ScramSha256 => "SCRAM-SHA-256",
            Self::ScramSha512 => "SCRAM-SHA-512",
        }
    }
}
