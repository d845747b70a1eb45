//! What bounds the memory of the Kafka client, and how soon it notices things.
//!
//! Guarantee 4: memory does not grow with the backlog. librdkafka fetches ahead per partition until it holds
//! `queued.max.messages.kbytes`; a fetch that has begun may exceed that by one response. Larger values gain no
//! speed here: lanes read from memory that was just written.

use rdkafka::ClientConfig;

/// Settings that a pipeline may override by `spec.source.kafka.properties`.
const DEFAULTS: [(&str, &str, &str); 8] = [
    ("queued.max.messages.kbytes", "2048", "prefetch of a partition; with six partitions 12 MiB"),
    ("queued.min.messages", "5000", "tiny messages cost more in bookkeeping than in bytes"),
    ("fetch.queue.backoff.ms", "10", "with a small prefetch the default of 1 s stalls fetching"),
    (
        "fetch.message.max.bytes",
        "1048576",
        "of one partition in one response; a larger message still arrives",
    ),
    ("fetch.max.bytes", "8388608", "of one response, over all partitions"),
    ("fetch.wait.max.ms", "100", "how long a broker gathers: latency of a slow topic"),
    ("topic.metadata.refresh.interval.ms", "5000", "new partitions are found within 10 s"),
    ("session.timeout.ms", "10000", "a killed replica's partitions move after this"),
];

/// Settings that no pipeline overrides.
const FIXED: [(&str, &str); 2] = [
    // Lag in `/status`.
    ("statistics.interval.ms", "1000"),
    // A closed idle connection is no error.
    ("log.connection.close", "false"),
];

/// Adds the limits to a client's settings; those given already stay.
pub fn apply(config: &mut ClientConfig) {
    for (name, value, _) in DEFAULTS {
        if config.get(name).is_none() {
            config.set(name, value);
        }
    }
    for (name, value) in FIXED {
        config.set(name, value);
    }
}
