//! Where messages come from.
//!
//! A [`Source`] tells which partitions this replica owns and opens them at explicit offsets. It neither
//! decodes nor remembers positions: those live in the sink's database, in the transaction of the rows.
//!
//! Delivery: from an opened partition, every message from the given offset on, in order, each once, until
//! the partition is revoked or closed. Whatever was read but not stored is simply read again by the next
//! owner. Offsets may have gaps (compaction, transaction markers).

pub mod kafka;
pub mod memory;
pub mod queue;

use std::sync::Arc;

use async_trait::async_trait;
use sluice_crds::v1alpha1::StartFrom;

/// One partition of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TopicPartition {
    /// Topic name.
    pub topic: Arc<str>,
    /// Partition number, from 0.
    pub partition: i32,
}

impl std::fmt::Display for TopicPartition {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(formatter, "{}/{}", self.topic, self.partition)
    }
}

/// A change of what this replica owns. Events of one source come in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// These partitions are ours now. Nothing is fetched before [`Source::open`].
    Assigned(Vec<TopicPartition>),
    /// These partitions are no longer ours; their readers return nothing any more.
    Revoked(Vec<TopicPartition>),
}

/// A message, borrowed from the client library for the time of decoding.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Offset within the partition.
    pub offset: u64,
    /// Milliseconds since 1970 as the broker reports them, if it does.
    pub timestamp: Option<i64>,
    /// The key, verbatim.
    pub key: Option<&'a [u8]>,
    /// The value, verbatim; none for a tombstone.
    pub payload: Option<&'a [u8]>,
    /// Header names and values, verbatim. Only called when needed.
    pub headers: &'a dyn Headers,
}

/// Access to a message's headers without copying them first.
pub trait Headers: Sync {
    /// Calls `each` with every header's name and value in order; a header may have no value.
    fn visit(&self, each: &mut dyn FnMut(&str, Option<&[u8]>));
}

impl std::fmt::Debug for dyn Headers + '_ {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut list = formatter.debug_list();
        self.visit(&mut |name, value| {
            list.entry(&(name, value));
        });
        list.finish()
    }
}

/// A message without headers.
pub struct NoHeaders;

impl Headers for NoHeaders {
    fn visit(&self, _: &mut dyn FnMut(&str, Option<&[u8]>)) {}
}

/// Why reading a partition stopped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadEnd {
    /// Nothing more right now; [`PartitionReader::ready`] tells when to come again.
    Drained,
    /// `limit` messages were read, or no more were wanted; there may be more.
    Limit,
    /// The offset to read is not in the partition (expired, truncated, or the topic was re-created), or it is in doubt
    /// whether it is still the same topic. The reader gives nothing more; the partition must be opened again where
    /// [`Source::bounds`] allows.
    Reopen,
}

/// Reads one open partition.
#[async_trait]
pub trait PartitionReader: Send + Sync {
    /// Hands up to `limit` messages that have already arrived to `handle`, without waiting. `handle` returns
    /// whether it wants another one.
    ///
    /// # Errors
    /// An error of the source that concerns this partition; reading may be tried again.
    fn read(
        &mut self,
        limit: usize,
        handle: &mut dyn FnMut(Message<'_>) -> bool,
    ) -> Result<ReadEnd, SourceError>;

    /// Waits until a message may have arrived. Safe to cancel.
    async fn ready(&mut self);
}

/// Where a partition begins and ends at this moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// The oldest offset that is still there.
    pub low: u64,
    /// The offset that the next message will get.
    pub high: u64,
}

/// A queue with partitioned, ordered, re-readable messages. In-memory twin: [`memory::MemorySource`].
#[async_trait]
pub trait Source: Send + Sync {
    /// What distinguishes this queue from another one with equal topic names (Kafka's cluster id).
    async fn cluster_id(&self) -> Result<String, SourceError>;

    /// Begins to take a share of the partitions; until then only questions are answered. Whoever cannot store yet must not
    /// take partitions from those who can.
    ///
    /// # Errors
    /// [`SourceError::Configuration`] where it can never do so.
    fn join(&self) -> Result<(), SourceError> {
        Ok(())
    }

    /// The next change of ownership; waits for it. Only one task may call this. Safe to cancel.
    async fn next_event(&self) -> Result<SourceEvent, SourceError>;

    /// Every partition of the topics subscribed to, owned by this replica or not.
    async fn partitions(&self) -> Result<Vec<TopicPartition>, SourceError>;

    /// The offset that `start_from` means for a partition now.
    async fn resolve_start(&self, at: &TopicPartition, start_from: &StartFrom) -> Result<u64, SourceError>;

    /// Oldest and next offset of a partition.
    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, SourceError>;

    /// Where a partition's next message will be written: beyond its end in [`Self::bounds`] where readers may not read
    /// the last ones yet.
    async fn written_end(&self, at: &TopicPartition) -> Result<u64, SourceError>;

    /// Starts fetching an owned partition at `offset`. The reader that was open before gives nothing more.
    ///
    /// # Errors
    /// [`SourceError::NotOwned`] where a rebalance took the partition meanwhile.
    async fn open(&self, at: &TopicPartition, offset: u64) -> Result<Box<dyn PartitionReader>, SourceError>;

    /// Stops fetching a partition; it stays ours. Closing one that is not open does nothing.
    async fn close(&self, at: &TopicPartition);

    /// Whether the partition is still ours, confirmed by a contact with the group after this call began.
    async fn confirm_owned(&self, at: &TopicPartition) -> bool;

    /// Tells the broker how far the sink is, for tools that show lag. Never waited for; errors are logged.
    fn report_position(&self, at: &TopicPartition, next_offset: u64);

    /// The newest known end of a partition, for lag; none before the first contact.
    fn known_end(&self, at: &TopicPartition) -> Option<u64>;

    /// Leaves the group and closes connections; nothing may be called afterwards.
    async fn shutdown(&self);
}

/// An error of the queue.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The partition belongs to another replica now.
    #[error("partition {0} is no longer assigned to this replica")]
    NotOwned(TopicPartition),
    /// The queue cannot be reached or answers with an error; waiting may help.
    #[error("{context}: {message}")]
    Unavailable {
        /// What was tried.
        context: &'static str,
        /// What the client library says.
        message: String,
    },
    /// The credentials or the rights do not suffice; waiting until somebody grants them may help.
    #[error("{context}: {message}")]
    Denied {
        /// What was tried.
        context: &'static str,
        /// What the client library says.
        message: String,
    },
    /// There is no such topic, or partition; in words.
    #[error("{0}")]
    UnknownTopic(String),
    /// The configuration can never work (unknown property, unreadable certificate…).
    #[error("{0}")]
    Configuration(String),
}

impl SourceError {
    /// Names the partition that was asked for: it may be another one than the one that is opened.
    #[must_use]
    pub fn of(self, at: &TopicPartition) -> Self {
        match self {
            Self::Unavailable { context, message } => {
                Self::Unavailable { context, message: format!("{at}: {message}") }
            }
            Self::Denied { context, message } => {
                Self::Denied { context, message: format!("{at}: {message}") }
            }
            other => other,
        }
    }
}
