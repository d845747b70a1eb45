//! What is wrong with the client, told until it is over.
//!
//! [`ClientErrors`] decides what is; here it is put into words, and told to the [`Meters`].
//!
//! Order of locks: an opening, then the errors here. A reader holds its opening while librdkafka calls back with an error.

use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Instant;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use super::broker_contact::BrokerContact;
use super::client_errors::{ClientErrors, may_be_credentials};
use super::remedy;
use crate::config::Topics;
use crate::last_error::LastError;
use crate::lock::lock;
use crate::meter::Meters;

/// The errors of one client.
pub struct Trouble {
    /// Whether brokers have refused a connection, maybe for its credentials.
    pub refused: AtomicBool,
    /// Whether the client has brokers that it asks.
    pub brokers: BrokerContact,
    /// Whether the client is being stopped: what it says then concerns nobody.
    silent: AtomicBool,
    errors: Mutex<ClientErrors>,
    /// Whether trouble was told, so that its end is told once.
    told: AtomicBool,
    meters: Arc<Meters>,
    topics: Arc<Topics>,
}

impl Trouble {
    pub fn new(brokers: BrokerContact, meters: Arc<Meters>, topics: Arc<Topics>) -> Self {
        Self {
            refused: AtomicBool::new(false),
            brokers,
            silent: AtomicBool::new(false),
            errors: Mutex::default(),
            told: AtomicBool::new(false),
            meters,
            topics,
        }
    }

    /// What may explain that an answer did not come.
    pub fn explanation(&self) -> Option<LastError> {
        self.lock().explanation().cloned()
    }

    /// An error of the client; `message` says more than it.
    pub fn failed(&self, error: &KafkaError, message: &str) {
        let code = match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::BrokerTransportFailure | RDKafkaErrorCode::SSL)
                if remedy::refuses_certificate(message) =>
            {
                Some(RDKafkaErrorCode::Authentication)
            }
            code => code,
        };
        if may_be_credentials(code) {
            self.refused.store(true, Relaxed);
        }
        let message = match (code, &*self.topics) {
            (
                Some(RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic),
                Topics::Named(name),
            ) => format!("the topic {name} does not exist"),
            (Some(RDKafkaErrorCode::TopicAuthorizationFailed), Topics::Named(name)) => {
                remedy::told(code, &format!("the topic {name}: {message}"))
            }
            _ => remedy::told(code, message),
        };
        self.lock().failed(code, message, Instant::now());
        self.tell();
    }

    /// Changes what is known of trouble, and tells it.
    pub fn change<T>(&self, change: impl FnOnce(&mut ClientErrors) -> T) -> T {
        let changed = change(&mut self.lock());
        self.tell();
        changed
    }

    /// Shows what is wrong, again and again: whoever else has reached a broker ends what it shows, and cannot
    /// know whether other trouble goes on.
    pub fn tell(&self) {
        if self.silent.load(Relaxed) {
            return;
        }
        let current = self.lock().current().cloned();
        match current {
            Some(error) => {
                self.told.store(true, Relaxed);
                self.meters.source_failed(error);
            }
            None => {
                if self.told.swap(false, Relaxed) {
                    self.meters.source_works();
                }
            }
        }
    }

    /// Tells nothing any more.
    pub fn fall_silent(&self) {
        self.silent.store(true, Relaxed);
    }

    /// The errors, for several changes at once; whoever changes them calls [`Self::tell`] afterwards.
    pub fn lock(&self) -> MutexGuard<'_, ClientErrors> {
        lock(&self.errors)
    }
}

#[cfg(test)]
mod tests {
    use sluice_crds::error_reason::ErrorReason;

    use super::*;

    fn trouble() -> Trouble {
        let topics = Arc::new(Topics::Named("spans".to_owned()));
        Trouble::new(BrokerContact::default(), Arc::default(), topics)
    }

    #[test]
    fn a_certificate_that_brokers_refuse_is_no_broker_that_is_away() {
        let trouble = trouble();
        let error = KafkaError::Global(RDKafkaErrorCode::BrokerTransportFailure);
        trouble.failed(&error, "ssl://k:9092/1: Connect to ipv4#127.0.0.1:1 failed: Connection refused");
        assert_eq!(trouble.explanation().unwrap().reason, ErrorReason::SourceUnreachable);
        assert!(!trouble.refused.load(Relaxed));
        trouble.failed(&error, "ssl://k:9092/1: Receive failed: error:0A000412: sslv3 alert bad certificate");
        assert_eq!(trouble.explanation().unwrap().reason, ErrorReason::SourceDenied);
        assert!(trouble.refused.load(Relaxed));
    }

    #[test]
    fn a_missing_topic_is_named() {
        let trouble = trouble();
        let error = KafkaError::Global(RDKafkaErrorCode::UnknownTopicOrPartition);
        trouble.failed(&error, "Subscribed topic not available");
        assert_eq!(trouble.explanation().unwrap().message, "the topic spans does not exist");
    }
}
