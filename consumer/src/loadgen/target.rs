//! Where load goes.

pub mod http;
pub mod kafka;

/// Why nothing can be sent.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// A setting that cannot work.
    #[error("{0}")]
    Configuration(String),
    /// The client library refused to start.
    #[error("cannot make a Kafka producer")]
    Kafka(#[from] rdkafka::error::KafkaError),
    /// A task of the sender panicked.
    #[error("a sender ended unexpectedly")]
    Interrupted(#[source] tokio::task::JoinError),
}
