//! Sends copies of dead letters to a topic.
//!
//! Guarantees: a letter waits in the table from the transaction that stored it until the topic has taken it, so it is sent
//! at least once, whatever dies in between; rows and positions never wait for the topic. Of several replicas one sends
//! ([`Turn`]). A letter that the topic refuses, for its size for example, holds up no other one, and is tried again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sluice_crds::problem::chain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::turn::{self, Turn};
use crate::last_error::{ErrorReason, LastError};
use crate::meter::Meters;
use crate::seal::Sealing;
use crate::store::letter::StoredLetter;
use crate::store::{Store, StoreError};

/// Letters that are looked for in one go.
const PAGE: u32 = 100;
/// Bytes that are sent before anything is noted as sent; one letter more at most.
const SEND_BYTES: usize = 4 << 20;
/// Pause where nothing waits.
const LOOK: Duration = Duration::from_secs(1);
/// First and longest pause after an error.
const BACKOFF: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));
/// How often those that wait are counted.
const COUNT: Duration = Duration::from_secs(10);

/// Where copies go.
#[async_trait]
pub trait DeadLetterTopic: Send + Sync {
    /// Sends letters; tells of each, in their order, whether it was taken.
    async fn send(&self, letters: &[StoredLetter]) -> Vec<Result<(), NotSent>>;
}

/// Why a letter was not sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum NotSent {
    /// It is the letter's own fault: others may go.
    Refused(String),
    /// Nothing can be sent now.
    Unavailable(String),
}

/// What sending needs.
pub struct DeadLetterSender {
    /// Where letters wait.
    pub store: Arc<dyn Store>,
    /// What opens them.
    pub sealing: Arc<Sealing>,
    /// Where copies go.
    pub topic: Arc<dyn DeadLetterTopic>,
    /// Counters.
    pub meters: Arc<Meters>,
    /// Whose streams' letters: the queue's identity.
    pub cluster_id: String,
    /// Likewise: the consumer group.
    pub group: String,
    /// Whether it is this replica that sends.
    pub turn: Turn,
}

/// Why a round ended early.
enum Ended {
    Store(StoreError),
    Topic(String),
}

impl From<StoreError> for Ended {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl DeadLetterSender {
    /// Sends until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut backoff = BACKOFF.0;
        let mut counted_at = None;
        loop {
            // What is dropped half-way is sent again.
            let pause = tokio::select! {
                () = stop.cancelled() => break,
                pause = self.proceed(&mut backoff, &mut counted_at) => pause,
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
        }
        self.turn.end().await;
    }

    /// One round over all that wait, if it is our turn. Returns how long to pause.
    async fn proceed(&mut self, backoff: &mut Duration, counted_at: &mut Option<Instant>) -> Duration {
        let ended = self.round().await;
        if counted_at.is_none_or(|at: Instant| at.elapsed() >= COUNT) {
            *counted_at = Some(Instant::now());
            self.count().await;
        }
        let message = match ended {
            Ok(None) => {
                *backoff = BACKOFF.0;
                self.meters.dead_letter_topic_works();
                return if self.meters.dead_letter_topic.is_ours() { LOOK } else { turn::RENEW };
            }
            Ok(Some(refused)) | Err(Ended::Topic(refused)) => refused,
            Err(Ended::Store(error)) => {
                self.meters.store_refused(&error);
                chain(&error)
            }
        };
        self.meters.dead_letter_topic_failed(LastError::new(ErrorReason::DeadLetterTopicFailed, message));
        let pause = *backoff;
        *backoff = (*backoff * 2).min(BACKOFF.1);
        pause.mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Returns why some letters were refused, if any were.
    async fn round(&mut self) -> Result<Option<String>, Ended> {
        let (mut after, mut refused) = (0, None);
        loop {
            let ours = self.turn.is_ours().await?;
            self.meters.dead_letter_topic.set_ours(ours);
            if !ours {
                return Ok(None);
            }
            let ids = self.store.unsent(&self.cluster_id, &self.group, after, PAGE).await?;
            let Some(last) = ids.last() else { return Ok(refused) };
            after = *last;
            let mut rest = ids.as_slice();
            while !rest.is_empty() {
                let (taken, why) = self.send_some(&mut rest).await?;
                refused = refused.or(why);
                if !taken.is_empty() {
                    self.store.sent(&taken).await?;
                }
            }
        }
    }

    /// Sends the first of `ids` and removes them from it. Returns those that need not be sent any more, and why one of
    /// the others was refused.
    async fn send_some(&self, ids: &mut &[i64]) -> Result<(Vec<i64>, Option<String>), Ended> {
        let (mut letters, mut done, mut refused) = (Vec::new(), Vec::new(), None);
        let mut bytes = 0;
        while let Some((id, later)) = ids.split_first() {
            *ids = later;
            // None: it was purged, or stored after all.
            let Some(letter) = self.store.letter(*id).await? else {
                done.push(*id);
                continue;
            };
            match self.sealing.open_letter(&*self.store, letter).await {
                Ok(letter) => {
                    bytes += letter.bytes.len();
                    letters.push(letter);
                }
                Err(error) => refused = Some(format!("dead letter {id} cannot be opened: {}", chain(&error))),
            }
            if bytes >= SEND_BYTES {
                break;
            }
        }
        let mut unavailable = None;
        for (letter, result) in letters.iter().zip(self.topic.send(&letters).await) {
            let id = letter.summary.id;
            match result {
                Ok(()) => {
                    done.push(id);
                    self.meters.dead_letter_topic.sent(1);
                }
                Err(NotSent::Refused(why)) => refused = Some(format!("dead letter {id}: {why}")),
                Err(NotSent::Unavailable(why)) => unavailable = Some(why),
            }
        }
        if let Some(why) = unavailable {
            if !done.is_empty() {
                self.store.sent(&done).await?;
            }
            return Err(Ended::Topic(why));
        }
        Ok((done, refused))
    }

    async fn count(&self) {
        if !self.meters.dead_letter_topic.is_ours() {
            return;
        }
        match self.store.count_unsent(&self.cluster_id, &self.group).await {
            Ok(count) => self.meters.dead_letter_topic.set_waiting(count),
            Err(error) => self.meters.store_refused(&error),
        }
    }
}

#[cfg(test)]
mod tests;
