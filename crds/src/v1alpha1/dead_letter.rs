//! Where dead letters go besides the database.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::kafka::MAX_KAFKA_NAME;

/// A copy of every dead letter for those who watch a topic. The letter itself stays in the database, where
/// `sluice dead-letters` finds it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetter {
    /// A topic of the brokers that messages come from. Each dead letter is sent there with its original key, bytes and
    /// headers, at least once, as soon as the topic takes it. A `topicPattern` never matches it. Empty: none. Default:
    /// none.
    #[serde(default)]
    #[schemars(length(max = MAX_KAFKA_NAME), regex(pattern = r"^[-._a-zA-Z0-9]*$"))]
    #[x_kube(validation = Rule::new("!(self in ['.', '..'])").message("Kafka allows no topic named . or .."))]
    pub topic: String,
}
