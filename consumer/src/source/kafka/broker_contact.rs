//! Whether the client asks no broker any more, which nothing but another client mends.
//!
//! Seen in librdkafka 2.12, both with a lone broker, whose shutdown or return after a freeze may bring an answer with no
//! broker in it:
//!
//! - The client forgets the only broker that it knew. It begins anew with `bootstrap.servers` where all brokers are gone, but
//!   the same answer can stop the timer for that, and its mark that it has begun stays set for ever.
//! - It knows a broker, is not connected to it, and does not try to connect.
//!
//! Where brokers are merely away, a client tries to connect to them again and again, and counts its tries.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;

use crate::lock::lock;

/// How long the client may know no broker: where it begins anew, it does so at once.
const WITHOUT_A_BROKER: Duration = Duration::from_secs(10);
/// How long the client may have no connection and not try for one, besides the longest try and the longest pause before it.
const WITHOUT_A_TRY: Duration = Duration::from_secs(20);
/// The longest try to connect, where the pipeline's properties do not say otherwise: librdkafka's default.
const TRY: (&str, u64) = ("socket.connection.setup.timeout.ms", 30_000);
/// Likewise the longest pause between two of them. librdkafka adds half of it at random.
const PAUSE: (&str, u64) = ("reconnect.backoff.max.ms", 10_000);

/// What the client has of its brokers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Contact {
    /// A connection.
    Connected,
    /// Brokers that it knows, but no connection to any.
    Away {
        /// How many times it has tried to connect to those that it knows now.
        tries: u64,
    },
    /// It knows no broker that it could ask, not even those that it began with.
    KnowsNone,
}

/// Since when the client has had what it has of its brokers.
#[derive(Debug)]
pub struct BrokerContact {
    seen: Mutex<Option<(Contact, Instant)>>,
    without_a_try: Duration,
}

impl BrokerContact {
    /// Of a client with these settings.
    pub fn new(client: &ClientConfig) -> Self {
        let setting =
            |(name, default)| client.get(name).and_then(|text| text.parse().ok()).unwrap_or(default);
        let pause = Duration::from_millis(setting(PAUSE));
        let without_a_try = WITHOUT_A_TRY + Duration::from_millis(setting(TRY)) + pause + pause / 2;
        Self { seen: Mutex::default(), without_a_try }
    }

    /// What the statistics say, once a second.
    pub fn observe(&self, contact: Contact, now: Instant) {
        let mut seen = lock(&self.seen);
        if seen.is_none_or(|(before, _)| before != contact) {
            *seen = Some((contact, now));
        }
    }

    /// Whether it has been without a broker for so long that this will not end.
    pub fn is_lost(&self, now: Instant) -> bool {
        let Some((contact, since)) = *lock(&self.seen) else { return false };
        let lasted = now.saturating_duration_since(since);
        match contact {
            Contact::Connected => false,
            Contact::Away { .. } => lasted >= self.without_a_try,
            Contact::KnowsNone => lasted >= WITHOUT_A_BROKER,
        }
    }
}

impl Default for BrokerContact {
    /// Of a client with librdkafka's own settings.
    fn default() -> Self {
        Self::new(&ClientConfig::new())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_that_knows_no_broker_for_long_has_lost_them() {
        let (contact, begin) = (BrokerContact::default(), Instant::now());
        let (short, long) = (WITHOUT_A_BROKER / 2, WITHOUT_A_BROKER);
        assert!(!contact.is_lost(begin + 2 * long), "nothing was told yet");
        contact.observe(Contact::KnowsNone, begin);
        contact.observe(Contact::KnowsNone, begin + short);
        assert!(!contact.is_lost(begin + short));
        assert!(contact.is_lost(begin + long));
        contact.observe(Contact::Away { tries: 0 }, begin + long);
        contact.observe(Contact::KnowsNone, begin + long);
        assert!(!contact.is_lost(begin + long), "it has begun anew between");
    }

    /// Tries ten times, every so many seconds, and then no more; returns after how many seconds its brokers count as lost.
    fn lost_after(client: &ClientConfig, tries_every: u64) -> u64 {
        let (contact, begin) = (BrokerContact::new(client), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        let last = 10 * tries_every;
        for second in 0..=last {
            contact.observe(Contact::Away { tries: second / tries_every }, at(second));
            assert!(!contact.is_lost(at(second)), "after {second} s");
        }
        (last..).find(|second| contact.is_lost(at(*second))).unwrap() - last
    }

    #[test]
    fn a_client_that_tries_has_not_lost_its_brokers_and_one_that_does_not_has() {
        // The longest try and the longest pause that librdkafka makes by itself.
        assert_eq!(lost_after(&ClientConfig::new(), 45), 65);
    }

    #[test]
    fn a_client_that_is_told_to_pause_for_long_or_to_try_for_long_has_more_time() {
        let mut client = ClientConfig::new();
        client.set("reconnect.backoff.max.ms", "60000").set("socket.connection.setup.timeout.ms", "100000");
        assert_eq!(lost_after(&client, 190), 210);
    }

    #[test]
    fn a_client_that_is_connected_has_its_brokers_for_however_long() {
        let (contact, begin) = (BrokerContact::default(), Instant::now());
        contact.observe(Contact::Connected, begin);
        assert!(!contact.is_lost(begin + Duration::from_secs(6_000)));
    }
}
