//! The librdkafka settings that a pipeline may choose.
//!
//! Left out on purpose: whatever decides which messages are read and when a position counts (`group.*`,
//! `enable.auto.*`, `auto.offset.reset`, `partition.assignment.strategy`), what bounds the memory
//! (`queued.*`), what finds new topics in time (`topic.metadata.*`, `metadata.max.age.ms`), credentials and
//! what weakens TLS (`ssl.*`, `sasl.*`, `security.protocol`), and file names or plug-ins.

use kube::core::Rule;

/// One allowed setting.
#[derive(Clone, Copy, Debug)]
pub struct KafkaProperty {
    /// Its name in librdkafka.
    pub name: &'static str,
    /// What it may be set to.
    pub value: PropertyValue,
}

/// What a setting may be set to.
#[derive(Clone, Copy, Debug)]
pub enum PropertyValue {
    /// Any printable text.
    Text,
    /// `true` or `false`.
    Bool,
    /// A whole number between the two, both included.
    Integer(u32, u32),
    /// One of these words.
    OneOf(&'static [&'static str]),
}

impl PropertyValue {
    /// Whether the setting may have this value.
    ///
    /// # Errors
    /// What was expected, as the end of a sentence.
    pub fn check(self, text: &str) -> Result<(), String> {
        match self {
            Self::Text if !text.chars().any(char::is_control) => Ok(()),
            Self::Text => Err("text without control characters".into()),
            Self::Bool if matches!(text, "true" | "false") => Ok(()),
            Self::Bool => Err("\"true\" or \"false\"".into()),
            Self::Integer(low, high) => match text.parse::<u32>() {
                Ok(number) if (low..=high).contains(&number) => Ok(()),
                _ => Err(format!("a whole number from {low} to {high}, as text")),
            },
            Self::OneOf(words) if words.contains(&text) => Ok(()),
            Self::OneOf(words) => Err(format!("one of {}", words.join(", "))),
        }
    }
}

const MIB: u32 = 1024 * 1024;
const HOUR_MS: u32 = 3_600_000;

/// Every allowed setting, by name.
pub const KAFKA_PROPERTIES: &[KafkaProperty] = &[
    integer("broker.address.ttl", 0, 86_400_000),
    one_of("broker.address.family", &["any", "v4", "v6"]),
    boolean("check.crcs"),
    one_of("client.dns.lookup", &["use_all_dns_ips", "resolve_canonical_bootstrap_servers_only"]),
    text("client.id"),
    text("client.rack"),
    integer("connections.max.idle.ms", 0, 2_147_483_647),
    integer("fetch.error.backoff.ms", 0, 300_000),
    // A fetch is held in memory as a whole, so that these two count for the memory limit.
    // The library takes no less than the largest message that a producer of it would send.
    integer("fetch.max.bytes", 1_000_000, 64 * MIB),
    integer("fetch.message.max.bytes", 1, 64 * MIB),
    integer("fetch.min.bytes", 1, MIB),
    // A question of the client to the same broker waits behind a fetch, and is given up after 10 s.
    integer("fetch.wait.max.ms", 0, 5_000),
    integer("heartbeat.interval.ms", 100, HOUR_MS),
    one_of("isolation.level", &["read_committed", "read_uncommitted"]),
    integer("max.poll.interval.ms", 10_000, 24 * HOUR_MS),
    integer("reconnect.backoff.max.ms", 100, HOUR_MS),
    integer("reconnect.backoff.ms", 0, HOUR_MS),
    integer("retry.backoff.ms", 1, 300_000),
    integer("session.timeout.ms", 1_000, HOUR_MS),
    integer("socket.connection.setup.timeout.ms", 1_000, 2_147_483_647),
    boolean("socket.keepalive.enable"),
    boolean("socket.nagle.disable"),
    integer("socket.receive.buffer.bytes", 0, 100_000_000),
    integer("socket.send.buffer.bytes", 0, 100_000_000),
    integer("socket.timeout.ms", 1_000, 300_000),
];

/// What Kafka's Java client calls some of them, with librdkafka's names.
pub const JAVA_NAMES: &[(&str, &str)] = &[
    ("fetch.max.wait.ms", "fetch.wait.max.ms"),
    ("max.partition.fetch.bytes", "fetch.message.max.bytes"),
    ("receive.buffer.bytes", "socket.receive.buffer.bytes"),
    ("request.timeout.ms", "socket.timeout.ms"),
    ("send.buffer.bytes", "socket.send.buffer.bytes"),
];

const fn integer(name: &'static str, low: u32, high: u32) -> KafkaProperty {
    KafkaProperty { name, value: PropertyValue::Integer(low, high) }
}

const fn one_of(name: &'static str, words: &'static [&'static str]) -> KafkaProperty {
    KafkaProperty { name, value: PropertyValue::OneOf(words) }
}

const fn boolean(name: &'static str) -> KafkaProperty {
    KafkaProperty { name, value: PropertyValue::Bool }
}

const fn text(name: &'static str) -> KafkaProperty {
    KafkaProperty { name, value: PropertyValue::Text }
}

/// The rule by which the API server refuses every other setting.
pub(super) fn allow_list_rule() -> Rule {
    let names: Vec<_> = KAFKA_PROPERTIES.iter().map(|property| format!("'{}'", property.name)).collect();
    Rule::new(format!("!has(self.properties) || self.properties.all(name, name in [{}])", names.join(", ")))
        .message("a setting that is not allowed: it would break a guarantee, or has a field of its own")
        .field_path(".properties")
}
