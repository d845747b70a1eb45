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

use crate::lock::lock;

/// How long the client may know no broker: where it begins anew, it does so at once.
const WITHOUT_A_BROKER: Duration = Duration::from_secs(10);
/// How long the client may have no connection and not try for one. A try takes 30 s at most
/// (`socket.connection.setup.timeout.ms`), and the pause before the next one 10 s (`reconnect.backoff.max.ms`).
const WITHOUT_A_TRY: Duration = Duration::from_secs(60);

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

/// Since when the client has had what it has.
#[derive(Debug, Default)]
pub struct Forsaken {
    seen: Mutex<Option<(Contact, Instant)>>,
}

impl Forsaken {
    /// What the statistics say, once a second.
    pub fn observe(&self, contact: Contact, now: Instant) {
        let mut seen = lock(&self.seen);
        if seen.is_none_or(|(before, _)| before != contact) {
            *seen = Some((contact, now));
        }
    }

    /// Whether that has lasted for so long that it will not end.
    pub fn is_for_good(&self, now: Instant) -> bool {
        let Some((contact, since)) = *lock(&self.seen) else { return false };
        let lasted = now.saturating_duration_since(since);
        match contact {
            Contact::Connected => false,
            Contact::Away { .. } => lasted >= WITHOUT_A_TRY,
            Contact::KnowsNone => lasted >= WITHOUT_A_BROKER,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_client_that_knows_no_broker_for_long_is_forsaken() {
        let (forsaken, begin) = (Forsaken::default(), Instant::now());
        let (short, long) = (WITHOUT_A_BROKER / 2, WITHOUT_A_BROKER);
        assert!(!forsaken.is_for_good(begin + 2 * long), "nothing was told yet");
        forsaken.observe(Contact::KnowsNone, begin);
        forsaken.observe(Contact::KnowsNone, begin + short);
        assert!(!forsaken.is_for_good(begin + short));
        assert!(forsaken.is_for_good(begin + long));
        forsaken.observe(Contact::Away { tries: 0 }, begin + long);
        forsaken.observe(Contact::KnowsNone, begin + long);
        assert!(!forsaken.is_for_good(begin + long), "it has begun anew between");
    }

    #[test]
    fn a_client_that_tries_is_not_forsaken_and_one_that_does_not_is() {
        let (forsaken, begin) = (Forsaken::default(), Instant::now());
        let at = |seconds| begin + Duration::from_secs(seconds);
        for second in 0..600 {
            // With the longest pauses between tries that librdkafka makes by itself.
            forsaken.observe(Contact::Away { tries: second / 40 }, at(second));
            assert!(!forsaken.is_for_good(at(second)), "after {second} s");
        }
        for second in 600..660 {
            forsaken.observe(Contact::Away { tries: 99 }, at(second));
        }
        assert!(!forsaken.is_for_good(at(659)));
        assert!(forsaken.is_for_good(at(660)));
        forsaken.observe(Contact::Connected, at(660));
        assert!(!forsaken.is_for_good(at(6_000)), "however long it is connected");
    }
}
