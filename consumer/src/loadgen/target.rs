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
    /// Nothing was ever taken, and there is nobody who would.
    #[error("nobody takes the spans at {address}: {reason}; {remedy}")]
    Unreachable {
        /// Where to they should have gone.
        address: String,
        /// What stood in the way last.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A task of the sender panicked.
    #[error("a sender ended unexpectedly")]
    Interrupted(#[source] tokio::task::JoinError),
}
