//! What bounds the memory of the Kafka client, and how soon it notices things.
//!
//! Guarantee 4: memory does not grow with the backlog. librdkafka fetches ahead per partition until it holds
//! `queued.max.messages.kbytes`; a fetch that has begun may exceed that by one response. Larger values gain no
//! speed here: lanes read from memory that was just written. With many partitions each gets less ([`share`]), as a
//! replica that is left alone gets all of them.

use rdkafka::ClientConfig;
use sluice_crds::validate::DEFAULT_SESSION_MS;

/// Set unless [`share`] or the pipeline's properties have set them.
fn defaults() -> [(&'static str, String); 6] {
    [
        // Prefetch of a partition; with six partitions 12 MiB.
        ("queued.max.messages.kbytes", (PREFETCH_BYTES >> 10).to_string()),
        // Tiny messages cost more in bookkeeping than in bytes.
        ("queued.min.messages", PREFETCH_MESSAGES.to_string()),
        // Of one partition in one response; a larger message still arrives.
        ("fetch.message.max.bytes", RESPONSE_BYTES.to_string()),
        // Of one response, over all partitions.
        ("fetch.max.bytes", (8 << 20).to_string()),
        // How long a broker gathers: latency of a slow topic.
        ("fetch.wait.max.ms", "100".to_owned()),
        // A killed replica's partitions move after this.
        ("session.timeout.ms", DEFAULT_SESSION_MS.to_string()),
    ]
}

/// Settings that no pipeline overrides.
const FIXED: [(&str, &str); 5] = [
    // With a small prefetch the default of 1 s stalls fetching.
    ("fetch.queue.backoff.ms", "10"),
    // New partitions are found within 10 s.
    ("topic.metadata.refresh.interval.ms", "5000"),
    // Also the most that a compressed batch may inflate to. Past the default of 100 MB its partition would stand still
    // for ever over a batch that the broker took, as no consumer can step over it; more than this would not fit into
    // the memory of a pod.
    ("receive.message.max.bytes", "268435456"),
    // Lag in `/status`.
    ("statistics.interval.ms", "1000"),
    // A closed idle connection is no error.
    ("log.connection.close", "false"),
];

/// librdkafka's `heartbeat.interval.ms`.
pub const HEARTBEAT_MS: u32 = 3_000;

/// What a partition holds at most.
const PREFETCH_BYTES: usize = 2 << 20;
/// Messages of a partition that are held before fetching pauses.
const PREFETCH_MESSAGES: usize = 5_000;
/// What a response has of a partition at most, but for a larger message.
const RESPONSE_BYTES: usize = 1 << 20;

/// What all partitions together may hold: as much as sixteen hold by default.
const BUDGET: usize = 32 << 20;
/// Messages that all partitions together may hold before fetching pauses.
const MESSAGES: usize = 80_000;
/// The least that a partition works with.
const LEAST: usize = 16 << 10;
/// How many partitions are expected where no broker tells in time.
const UNKNOWN: usize = 64;

/// Divides the prefetch among `partitions`; none where their number is not known. Comes before [`apply`].
pub fn share(config: &mut ClientConfig, partitions: Option<usize>) {
    let partitions = partitions.unwrap_or(UNKNOWN).max(1);
    let bytes = (BUDGET / partitions).clamp(LEAST, PREFETCH_BYTES);
    config
        .set("queued.max.messages.kbytes", (bytes >> 10).to_string())
        .set("queued.min.messages", (MESSAGES / partitions).clamp(100, PREFETCH_MESSAGES).to_string());
    if config.get("fetch.message.max.bytes").is_none() {
        config.set("fetch.message.max.bytes", bytes.min(RESPONSE_BYTES).to_string());
    }
}

/// With how many partitions a client's prefetch would be twice the budget: it is to be divided anew then.
pub fn most_partitions(config: &ClientConfig) -> usize {
    let kilobytes = config.get("queued.max.messages.kbytes").and_then(|text| text.parse::<usize>().ok());
    match kilobytes.map(|kilobytes| kilobytes << 10) {
        Some(bytes) if bytes > LEAST => 2 * BUDGET / bytes,
        _ => usize::MAX,
    }
}

/// Adds the limits to a client's settings; those given already stay.
pub fn apply(config: &mut ClientConfig) {
    for (name, value) in defaults() {
        if config.get(name).is_none() {
            config.set(name, value);
        }
    }
    for (name, value) in FIXED {
        config.set(name, value);
    }
    keep_heartbeats_within_the_session(config);
}

/// librdkafka sends one every 3 s, whatever the session: from one that is shorter the group would put the consumer out
/// again and again.
fn keep_heartbeats_within_the_session(config: &mut ClientConfig) {
    let session = config.get("session.timeout.ms").and_then(|text| text.parse::<u32>().ok());
    if let (None, Some(session)) = (config.get("heartbeat.interval.ms"), session)
        && session / 3 < HEARTBEAT_MS
    {
        config.set("heartbeat.interval.ms", (session / 3).to_string());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn number(config: &ClientConfig, name: &str) -> usize {
        config.get(name).unwrap().parse().unwrap()
    }

    #[test]
    fn the_prefetch_of_any_number_of_partitions_stays_within_the_budget() {
        for partitions in [1, 6, 16, 17, 150, 1_000, 2_000] {
            let mut config = ClientConfig::new();
            share(&mut config, Some(partitions));
            apply(&mut config);
            let held = number(&config, "queued.max.messages.kbytes") * 1024 * partitions;
            assert!(partitions < most_partitions(&config), "{partitions}");
            let response = number(&config, "fetch.message.max.bytes") * partitions;
            assert!(held <= BUDGET && response <= BUDGET, "{partitions}: {held} and {response}");
            config.create_native_config().unwrap();
        }
    }

    #[test]
    fn heartbeats_come_more_often_than_a_short_session_ends_and_as_ever_in_others() {
        for (session, heartbeat) in [(None, None), (Some("30000"), None), (Some("3000"), Some("1000"))] {
            let mut config = ClientConfig::new();
            if let Some(session) = session {
                config.set("session.timeout.ms", session);
            }
            apply(&mut config);
            assert_eq!(config.get("heartbeat.interval.ms"), heartbeat, "{session:?}");
        }
    }

    #[test]
    fn few_partitions_get_what_they_get_without_a_share() {
        let (mut shared, mut plain) = (ClientConfig::new(), ClientConfig::new());
        share(&mut shared, Some(6));
        apply(&mut shared);
        apply(&mut plain);
        assert_eq!(shared.config_map(), plain.config_map());
    }
}
