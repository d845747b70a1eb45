//! Whether the client has forgotten all brokers.
//!
//! A lone broker that shuts down answers a last time, with no broker in it. The client then forgets the only one that it
//! knew. librdkafka 2.12 begins anew with `bootstrap.servers` where all brokers are gone, but the same answer can stop
//! the timer for that, and its mark that it has begun stays set for ever. Nothing but another client asks a broker again.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::lock::lock;

/// How long the client may know no broker: where it begins anew, it does so at once.
const TOO_LONG: Duration = Duration::from_secs(10);

/// Since when the client knows no broker.
#[derive(Debug, Default)]
pub struct Forsaken {
    since: Mutex<Option<Instant>>,
}

impl Forsaken {
    /// What the statistics say, once a second.
    pub fn observe(&self, knows_a_broker: bool, now: Instant) {
        let mut since = lock(&self.since);
        *since = match knows_a_broker {
            true => None,
            false => since.or(Some(now)),
        };
    }

    /// Whether that has lasted for so long that it will not end.
    pub fn is_for_good(&self, now: Instant) -> bool {
        lock(&self.since).is_some_and(|since| now.saturating_duration_since(since) >= TOO_LONG)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_that_knows_no_broker_for_long_is_forsaken() {
        let (forsaken, begin) = (Forsaken::default(), Instant::now());
        assert!(!forsaken.is_for_good(begin + 2 * TOO_LONG), "nothing was told yet");
        forsaken.observe(false, begin);
        forsaken.observe(false, begin + TOO_LONG / 2);
        assert!(!forsaken.is_for_good(begin + TOO_LONG / 2));
        assert!(forsaken.is_for_good(begin + TOO_LONG));
        forsaken.observe(true, begin + TOO_LONG);
        forsaken.observe(false, begin + TOO_LONG);
        assert!(!forsaken.is_for_good(begin + TOO_LONG), "it has begun anew between");
    }
}
