//! What is known of copies of dead letters that go to a topic.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use super::Meters;
use crate::last_error::LastError;
use crate::lock::lock;

/// Counters of the topic of dead letters.
#[derive(Debug, Default)]
pub struct DeadLetterTopicMeter {
    sent: AtomicU64,
    ours: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: u64,
    error: Option<LastError>,
}

/// The topic of dead letters in `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct DeadLetterTopicStatus {
    /// Letters that this replica has sent since the start of the process.
    pub sent: u64,
    /// Those of the whole pipeline that wait to be sent, ten seconds ago at most; none where another replica sends.
    pub waiting: Option<u64>,
}

impl DeadLetterTopicMeter {
    /// Counts letters that the topic has taken.
    pub fn sent(&self, letters: u64) {
        self.sent.fetch_add(letters, Relaxed);
    }

    /// Letters sent since the start.
    pub fn all_sent(&self) -> u64 {
        self.sent.load(Relaxed)
    }

    /// Whether this replica sends.
    pub fn set_ours(&self, ours: bool) {
        self.ours.store(ours, Relaxed);
    }

    /// See [`Self::set_ours`].
    pub fn is_ours(&self) -> bool {
        self.ours.load(Relaxed)
    }

    /// How many letters wait.
    pub fn set_waiting(&self, letters: u64) {
        lock(&self.state).waiting = letters;
    }

    /// How many letters wait; none where another replica sends, or none does.
    pub fn waiting(&self) -> Option<u64> {
        self.is_ours().then(|| lock(&self.state).waiting)
    }

    /// What `/status` says; none where this replica does not send and never did.
    pub fn status(&self) -> Option<DeadLetterTopicStatus> {
        let (sent, waiting) = (self.all_sent(), self.waiting());
        (sent > 0 || waiting.is_some()).then_some(DeadLetterTopicStatus { sent, waiting })
    }

    /// Why letters were not sent when it was last tried.
    pub fn error(&self) -> Option<LastError> {
        lock(&self.state).error.clone()
    }
}

impl Meters {
    /// Letters were not sent; the first time in a run is logged.
    pub fn dead_letter_topic_failed(&self, error: LastError) {
        let mut state = lock(&self.dead_letter_topic.state);
        if state.error.as_ref() != Some(&error) {
            tracing::warn!(error = %error.message, "dead letters wait for their topic");
        }
        state.error = Some(error);
    }

    /// All that waited were sent, or another replica sends.
    pub fn dead_letter_topic_works(&self) {
        if lock(&self.dead_letter_topic.state).error.take().is_some() {
            tracing::info!("dead letters reach their topic again");
        }
    }
}
