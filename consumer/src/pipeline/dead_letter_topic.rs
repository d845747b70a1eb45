//! Sends copies of dead letters to a topic.
//!
//! Guarantees: a letter waits in the table from the transaction that stored it until the topic has taken it, so it is sent
//! at least once, whatever dies in between; rows and positions never wait for the topic. Of several replicas one sends
//! ([`ExclusiveLease`]). A letter that the topic refuses, for its size for example, holds up no other one, and is tried again.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use sluice_crds::error_reason::ErrorReason;
use sluice_crds::problem::chain;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::exclusive_lease::{self, ExclusiveLease};
use super::letter::{ReadLetter, read_letter};
use crate::backoff::Backoff;
use crate::last_error::LastError;
use crate::meter::Meters;
use crate::seal::Sealing;
use crate::store::letter::StoredLetter;
use crate::store::{Store, StoreError};

/// Letters that are looked for in one go.
const LETTERS_PER_PAGE: u32 = 100;
/// Bytes that are sent before anything is noted as sent; one letter more at most.
const SEND_BYTES: usize = 4 << 20;
/// Pause where nothing waits.
const UNSENT_LOOKED_FOR_EVERY: Duration = Duration::from_secs(1);
/// First and longest pause after an error.
const BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(30));
/// How often those that wait are counted.
const COUNT: Duration = Duration::from_secs(10);
/// A pass is cut here so that its outcome is reported: while letters keep coming it would never end.
const TELL: Duration = Duration::from_secs(5);

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
    pub meters: Arc<Meters>,
    /// Whose streams' letters: the queue's identity.
    pub cluster_id: String,
    /// Likewise: the consumer group.
    pub group: String,
    /// Whether it is this replica that sends.
    pub lease: ExclusiveLease,
    /// How far it is.
    pub pass: Pass,
}

/// A pass over all letters that wait.
#[derive(Debug, Default)]
pub struct Pass {
    /// Those up to this id were looked at.
    after: i64,
    /// Why one of them was refused.
    refused: Option<String>,
    /// One was refused in the pass before.
    was_refused: bool,
}

/// Some of the letters that wait.
#[derive(Default)]
struct Collected {
    /// What is to be sent.
    letters: Vec<StoredLetter>,
    /// Those that need not be sent any more.
    done: Vec<i64>,
    /// Why another one cannot be sent.
    refused: Option<String>,
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
        let mut backoff = BACKOFF;
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
        self.lease.give_back().await;
    }

    /// A part of a pass, if it is our turn. Returns how long to pause.
    async fn proceed(&mut self, backoff: &mut Backoff, counted_at: &mut Option<Instant>) -> Duration {
        let ended = self.round().await;
        if counted_at.is_none_or(|at: Instant| at.elapsed() >= COUNT) {
            *counted_at = Some(Instant::now());
            self.count().await;
        }
        let is_whole = match ended {
            Ok(is_whole) => is_whole,
            Err(error) => {
                self.pass = Pass::default();
                let message = match error {
                    Ended::Topic(message) => message,
                    Ended::Store(error) => {
                        self.meters.count_store_error(&error);
                        chain(&error)
                    }
                };
                self.failed(message);
                return backoff.pause();
            }
        };
        if let Some(refused) = self.pass.refused.clone() {
            self.failed(refused);
        } else if is_whole || !self.pass.was_refused {
            self.meters.dead_letter_topic_works();
        }
        if !is_whole {
            return Duration::ZERO;
        }
        let was_refused = self.pass.refused.is_some();
        self.pass = Pass { was_refused, ..Pass::default() };
        if was_refused {
            return backoff.pause();
        }
        backoff.reset();
        if self.meters.dead_letter_topic.is_ours() { UNSENT_LOOKED_FOR_EVERY } else { exclusive_lease::RENEW }
    }

    fn failed(&self, message: String) {
        self.meters.dead_letter_topic_failed(LastError::new(ErrorReason::DeadLetterTopicFailed, message));
    }

    /// Goes on with the pass for a while; true where nothing is left, or it is another replica's turn.
    async fn round(&mut self) -> Result<bool, Ended> {
        let begun = Instant::now();
        loop {
            let ours = self.lease.renew_if_due().await;
            self.meters.dead_letter_topic.set_ours(self.lease.is_held());
            if !ours? {
                self.pass = Pass::default();
                return Ok(true);
            }
            let ids =
                self.store.unsent(&self.cluster_id, &self.group, self.pass.after, LETTERS_PER_PAGE).await?;
            let Some(last) = ids.last() else { return Ok(true) };
            let mut rest = ids.as_slice();
            while !rest.is_empty() {
                let collected = self.collect(&mut rest).await?;
                let (taken, why) = self.deliver(collected).await?;
                self.pass.refused = self.pass.refused.take().or(why);
                if !taken.is_empty() {
                    self.store.sent(&taken).await?;
                }
            }
            self.pass.after = *last;
            if begun.elapsed() >= TELL {
                return Ok(false);
            }
        }
    }

    /// Reads the first of `ids` and removes them from it.
    async fn collect(&self, ids: &mut &[i64]) -> Result<Collected, StoreError> {
        let mut collected = Collected::default();
        let mut bytes = 0;
        while let Some((id, later)) = ids.split_first() {
            *ids = later;
            match read_letter(&*self.store, &self.sealing, *id).await? {
                ReadLetter::Opened(letter) => {
                    bytes += letter.bytes.len();
                    collected.letters.push(letter);
                }
                ReadLetter::Gone => collected.done.push(*id),
                ReadLetter::Damaged(error) => collected.refused = Some(chain(&error)),
                ReadLetter::Unopened(error) => {
                    collected.refused = Some(format!("dead letter {id} cannot be opened: {}", chain(&error)));
                }
            }
            if bytes >= SEND_BYTES {
                break;
            }
        }
        Ok(collected)
    }

    /// Sends letters. Returns the ids of those that need not be sent any more, and why one of the others was refused.
    async fn deliver(&self, collected: Collected) -> Result<(Vec<i64>, Option<String>), Ended> {
        let Collected { letters, mut done, mut refused } = collected;
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
            Err(error) => self.meters.count_store_error(&error),
        }
    }
}

#[cfg(test)]
mod tests;
