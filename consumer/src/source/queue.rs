//! The embedded queue of `sluice local`: durable, partitioned, in one SQLite file.
//!
//! Guarantees:
//! - [`Queue::append`] returns after the record was committed with `synchronous=FULL`: neither kill -9 nor a
//!   power cut takes an acknowledged record away. Concurrent appends share one transaction (group commit).
//! - Offsets of a partition start at 0, have no gaps, and never restart: the next one is kept in the file.
//! - Records below the position reported by the sink are deleted in small chunks; the newest settled one
//!   stays, because its fingerprint proves on the next start that this is still the same queue.
//! - One process at a time: a lock on the directory ([`Folder`]), which the operating system gives up with the process.
//! - Appends are refused while the disk has no room for them and for what the database needs to store all that waits.
//! - Memory does not grow with the backlog: writers wait for a byte budget, which a record holds until it is
//!   written, whether or not its client still waits; readers prefetch a fixed window.

mod file;
mod folder;
mod reader;
mod room;
mod writer;

use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use sluice_crds::v1alpha1::StartFrom;
use sqlx::SqlitePool;
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use xxhash_rust::xxh3::xxh3_64;

pub use self::folder::Folder;
use self::reader::Window;
use self::room::Room;
use self::writer::Append;
use super::{Bounds, PartitionReader, Source, SourceError, SourceEvent, TopicPartition};
use crate::lock::lock;

/// Partitions of a new queue.
pub const DEFAULT_PARTITIONS: u16 = 4;
/// Bytes of records that a queue holds before it refuses more.
pub const DEFAULT_MAX_BYTES: u64 = 10 << 30;
/// Bytes of records that may wait for the writer.
const WAITING_BYTES: usize = 32 << 20;
/// What a record costs in the file besides its payload, key and headers, for the bound on the disk.
const RECORD_OVERHEAD: u64 = 64;

/// How a queue is set up.
#[derive(Clone, Debug)]
pub struct QueueOptions {
    /// The topic under which the pipeline meets a queue that is created now; an existing one keeps its own.
    pub topic: String,
    /// Partitions of a queue that is created now; an existing one keeps its number.
    pub partitions: u16,
    /// Bytes of records at which appends are refused.
    pub max_bytes: u64,
    /// The SQLite file into which the records are stored, which may not be there yet.
    pub database: PathBuf,
}

/// What goes into the queue.
#[derive(Clone, Debug, Default)]
pub struct Record {
    /// The key, verbatim.
    pub key: Option<Vec<u8>>,
    /// The value, verbatim.
    pub payload: Vec<u8>,
    /// Header names and values.
    pub headers: Vec<(String, String)>,
    /// What its rows and dead letters will take in the database, about; 0 where that is not known.
    pub stored_bytes: u64,
}

impl Record {
    /// Bytes in memory, about.
    fn weight(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.payload.len() + self.key.as_ref().map_or(0, Vec::len) + headers
    }
}

/// Where a record was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appended {
    /// Partition.
    pub partition: u16,
    /// Offset within it.
    pub offset: u64,
}

/// Why the queue cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// Another process has it.
    #[error("{} is in use by another sluice{holder}; stop that one or choose another --data-dir", directory.display())]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// ` (process 123)`, where it is known.
        holder: String,
    },
    /// The directory or its lock file cannot be used.
    #[error("cannot use the directory {}", directory.display())]
    Directory {
        /// The directory.
        directory: PathBuf,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// SQLite's error.
    #[error("cannot use the queue file")]
    File(#[from] sqlx::Error),
    /// The file was written by a newer version.
    #[error("the queue file has version {found}, this program knows {known}; use a newer sluice")]
    Version {
        /// Version of the file.
        found: i64,
        /// Version of the program.
        known: i64,
    },
}

/// Why a record was not appended.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The bound on the disk is reached; room comes as the sink takes records.
    #[error("the queue is full: {held} of {limit} bytes wait for the database")]
    Full {
        /// Bytes held.
        held: u64,
        /// Bytes allowed.
        limit: u64,
    },
    /// What is left of the disk is for the database.
    #[error("the disk is nearly full, and what is left is for the database: make room, or raise the rate")]
    NoRoom,
    /// The disk refused.
    #[error("the queue could not write: {0}")]
    Disk(String),
    /// The queue is being closed.
    #[error("the queue is closing")]
    Closing,
}

/// The queue: producer and source. Clones share it.
#[derive(Clone)]
pub struct Queue {
    shared: Arc<Shared>,
    writer: Arc<Mutex<Option<JoinHandle<()>>>>,
}

struct Shared {
    topic: Arc<str>,
    cluster_id: String,
    path: PathBuf,
    readers: SqlitePool,
    /// Where the records are stored, to be asked how much of it is free.
    database: SqlitePool,
    partitions: Vec<Partition>,
    appends: Mutex<Option<mpsc::Sender<Append>>>,
    waiting: Arc<Semaphore>,
    held_bytes: AtomicU64,
    appended: AtomicU64,
    max_bytes: u64,
    /// Of the disk.
    room: Room,
    announced: AtomicBool,
    _folder: Folder,
}

/// What memory knows of a partition; the file is ahead of it, never behind.
struct Partition {
    /// The offset after the newest committed record.
    next: watch::Sender<u64>,
    /// The oldest offset that is still there.
    low: AtomicU64,
    /// The position that the sink reported last.
    settled: AtomicU64,
    open: Mutex<Option<Arc<Window>>>,
}

impl Queue {
    /// Opens the queue in `folder`, or creates it. A full disk is waited for.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub async fn open(folder: Folder, options: QueueOptions) -> Result<Self, QueueError> {
        let path = folder.path.join("queue.db");
        let (connection, contents) = file::open_patiently(&path, &options).await?;
        let (sender, receiver) = mpsc::channel(writer::MAX_GROUP);
        let partition = |row: &file::PartitionRow| Partition {
            next: watch::Sender::new(row.next_offset),
            low: AtomicU64::new(row.low_offset),
            settled: AtomicU64::new(row.low_offset),
            open: Mutex::default(),
        };
        let held = contents.partitions.iter().map(|row| row.bytes).sum();
        let shared = Arc::new(Shared {
            topic: contents.topic.into(),
            cluster_id: contents.cluster_id,
            readers: file::readers(&path),
            database: file::beside(&options.database),
            path,
            partitions: contents.partitions.iter().map(partition).collect(),
            appends: Mutex::new(Some(sender)),
            waiting: Arc::new(Semaphore::new(WAITING_BYTES)),
            held_bytes: AtomicU64::new(held),
            appended: AtomicU64::new(0),
            max_bytes: options.max_bytes,
            room: Room::new(held),
            announced: AtomicBool::new(false),
            _folder: folder,
        });
        let writer = tokio::spawn(writer::run(shared.clone(), connection, contents.partitions, receiver));
        Ok(Self { shared, writer: Arc::new(Mutex::new(Some(writer))) })
    }

    /// Appends a record to the partition that `routing` (a trace id) hashes to; returns once it is on the disk.
    ///
    /// # Errors
    /// Nothing is acknowledged then. After [`AppendError::Disk`] the record may nevertheless be there.
    pub async fn append(&self, routing: &[u8], record: Record) -> Result<Appended, AppendError> {
        if let Some(reason) = self.refuses() {
            return Err(reason);
        }
        let shared = &self.shared;
        let sender = lock(&shared.appends).clone().ok_or(AppendError::Closing)?;
        let weight = record.weight().clamp(1, WAITING_BYTES);
        // `clamp` bounds it far below 4 GiB.
        let budget = shared.waiting.clone().acquire_many_owned(weight as u32).await;
        let budget = budget.map_err(|_| AppendError::Closing)?;
        let partition = (xxh3_64(routing) % shared.partitions.len() as u64) as u16;
        let (committed, answer) = oneshot::channel();
        let append = Append { partition, record, committed, _budget: budget };
        sender.send(append).await.map_err(|_| AppendError::Closing)?;
        drop(sender);
        answer.await.map_err(|_| AppendError::Closing)?
    }

    /// Why it takes no records at present: there is no room for them.
    pub fn refuses(&self) -> Option<AppendError> {
        let (held, limit) = (self.held_bytes(), self.shared.max_bytes);
        if held >= limit {
            return Some(AppendError::Full { held, limit });
        }
        (!self.shared.room.is_left()).then_some(AppendError::NoRoom)
    }

    /// The topic under which the pipeline meets it.
    pub fn topic(&self) -> &str {
        &self.shared.topic
    }

    /// Records appended since the start of the process.
    pub fn appended(&self) -> u64 {
        self.shared.appended.load(Relaxed)
    }

    /// Bytes of the records in the file, settled ones that are not yet deleted included.
    pub fn held_bytes(&self) -> u64 {
        self.shared.held_bytes.load(Relaxed)
    }

    /// Refuses further appends, writes those that were accepted, and closes the file.
    pub async fn close(&self) {
        lock(&self.shared.appends).take();
        let writer = lock(&self.writer).take();
        if let Some(Err(error)) = match writer {
            Some(writer) => Some(writer.await),
            None => None,
        } {
            tracing::error!(%error, "the writer of the queue ended abnormally");
        }
        self.shutdown().await;
    }

    fn partition(&self, at: &TopicPartition) -> Result<&Partition, SourceError> {
        let known = usize::try_from(at.partition).ok().filter(|_| at.topic == self.shared.topic);
        known
            .and_then(|index| self.shared.partitions.get(index))
            .ok_or_else(|| SourceError::NotOwned(at.clone()))
    }
}

#[async_trait]
impl Source for Queue {
    async fn cluster_id(&self) -> Result<String, SourceError> {
        Ok(self.shared.cluster_id.clone())
    }

    async fn next_event(&self) -> Result<SourceEvent, SourceError> {
        if self.shared.announced.swap(true, Relaxed) {
            std::future::pending::<()>().await;
        }
        Ok(SourceEvent::Assigned(self.partitions().await?))
    }

    async fn partitions(&self) -> Result<Vec<TopicPartition>, SourceError> {
        let numbers = 0..self.shared.partitions.len() as i32;
        Ok(numbers.map(|partition| TopicPartition { topic: self.shared.topic.clone(), partition }).collect())
    }

    /// Wherever it should start: all that the queue holds was acknowledged, and is stored.
    async fn resolve_start(&self, at: &TopicPartition, _: &StartFrom) -> Result<u64, SourceError> {
        Ok(self.bounds(at).await?.low)
    }

    async fn bounds(&self, at: &TopicPartition) -> Result<Bounds, SourceError> {
        let partition = self.partition(at)?;
        Ok(Bounds { low: partition.low.load(Relaxed), high: *partition.next.borrow() })
    }

    async fn written_end(&self, at: &TopicPartition) -> Result<u64, SourceError> {
        Ok(self.bounds(at).await?.high)
    }

    async fn open(&self, at: &TopicPartition, offset: u64) -> Result<Box<dyn PartitionReader>, SourceError> {
        let Bounds { low, high } = self.bounds(at).await?;
        let partition = self.partition(at)?;
        let in_range = (low..=high).contains(&offset);
        let window = Arc::new(Window::new(in_range));
        if let Some(before) = lock(&partition.open).replace(window.clone()) {
            before.close();
        }
        Ok(reader::start(
            window,
            self.shared.readers.clone(),
            at.partition,
            offset,
            partition.next.subscribe(),
        ))
    }

    async fn close(&self, at: &TopicPartition) {
        if let Ok(partition) = self.partition(at)
            && let Some(window) = lock(&partition.open).take()
        {
            window.close();
        }
    }

    async fn confirm_owned(&self, at: &TopicPartition) -> bool {
        self.partition(at).is_ok()
    }

    fn report_position(&self, at: &TopicPartition, next_offset: u64) {
        if let Ok(partition) = self.partition(at) {
            partition.settled.fetch_max(next_offset, Relaxed);
        }
    }

    fn known_end(&self, at: &TopicPartition) -> Option<u64> {
        self.partition(at).ok().map(|partition| *partition.next.borrow())
    }

    async fn shutdown(&self) {
        for partition in &self.shared.partitions {
            if let Some(window) = lock(&partition.open).take() {
                window.close();
            }
        }
        self.shared.readers.close().await;
        self.shared.database.close().await;
    }
}

fn unavailable(context: &'static str, error: &sqlx::Error) -> SourceError {
    SourceError::Unavailable { context, message: error.to_string() }
}

#[cfg(test)]
mod tests;
