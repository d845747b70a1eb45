//! The one writer of the queue: appends in groups, deletes what is settled.
//!
//! While a transaction is being synced to the disk, further appends gather; the next transaction takes all of
//! them. So a slow disk makes groups larger, not clients slower one by one.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sqlx::{Connection, SqliteConnection};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::MissedTickBehavior;

use super::file::{self, PartitionRow, StoredRecord};
use super::{AppendError, Appended, RECORD_OVERHEAD, Record, Shared};

/// Most records in one transaction.
pub(super) const MAX_GROUP: usize = 512;
/// Most settled records that one transaction deletes from a partition.
const MAX_DELETED: u64 = 1024;
/// How often settled records are looked for while nothing is appended.
const CLEAN_EVERY: Duration = Duration::from_millis(250);
/// How often it is looked how full the disk is.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// A record on its way, and who waits for it.
pub(super) struct Append {
    pub(super) partition: u16,
    pub(super) record: Record,
    pub(super) committed: oneshot::Sender<Result<Appended, AppendError>>,
    /// Given back when the record is written or refused, not when its client goes away.
    pub(super) _budget: OwnedSemaphorePermit,
}

struct Writer {
    shared: Arc<Shared>,
    /// None after an error: what the connection knows is not trusted then.
    connection: Option<SqliteConnection>,
    partitions: Vec<PartitionRow>,
    /// Whether the file may hold free pages; they are given back while nothing else is to do.
    has_free_pages: bool,
    /// Whether the last transaction failed, so that a full disk is logged once, not at every try.
    failing: bool,
}

/// Runs until every sender is gone and all they sent is written.
pub(super) async fn run(
    shared: Arc<Shared>,
    connection: SqliteConnection,
    partitions: Vec<PartitionRow>,
    mut appends: mpsc::Receiver<Append>,
) {
    let mut writer =
        Writer { shared, connection: Some(connection), partitions, has_free_pages: true, failing: false };
    let mut clean = tokio::time::interval(CLEAN_EVERY);
    clean.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = tokio::time::interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut group = Vec::with_capacity(MAX_GROUP);
    loop {
        tokio::select! {
            biased;
            _ = look.tick() => {
                let shared = &writer.shared;
                let within = file::free_bytes(&shared.database).await.unwrap_or_else(|error| {
                    // It is made later, or has no time to answer: then only the disk counts.
                    tracing::debug!(%error, "the database does not tell how much of it is free");
                    0
                });
                shared.room.look(&shared.path, within);
                continue;
            }
            received = appends.recv_many(&mut group, MAX_GROUP) => if received == 0 { break },
            _ = clean.tick() => {
                let is_clean = writer.garbage().is_empty();
                if !is_clean {
                    writer.commit_and_answer(&mut group).await;
                }
                if is_clean || !writer.shared.room.is_left() {
                    writer.give_pages_back().await;
                }
                continue;
            },
        }
        writer.commit_and_answer(&mut group).await;
    }
    if let Some(connection) = writer.connection
        && let Err(error) = connection.close().await
    {
        tracing::warn!(%error, "the queue file was not closed cleanly; nothing is lost");
    }
}

impl Writer {
    async fn commit_and_answer(&mut self, group: &mut Vec<Append>) {
        let there = group.iter().map(|append| append.record.stored_bytes).sum();
        match self.commit(group).await {
            Ok((partitions, here)) => {
                self.shared.room.take(here, there);
                if std::mem::take(&mut self.failing) {
                    tracing::info!("the queue can write again");
                }
                self.publish(partitions);
                self.shared.appended.fetch_add(group.len() as u64, Relaxed);
                let mut next: Vec<u64> = self.partitions.iter().map(|row| row.next_offset).collect();
                // Backwards, because the next offsets are known after the group.
                for Append { partition, committed, .. } in group.drain(..).rev() {
                    let next = &mut next[usize::from(partition)];
                    *next -= 1;
                    // A client that went away is no error: its record is stored all the same.
                    let _ = committed.send(Ok(Appended { partition, offset: *next }));
                }
            }
            Err(error) => {
                if std::mem::replace(&mut self.failing, true) {
                    tracing::debug!(%error, records = group.len(), "the queue still cannot write");
                } else {
                    tracing::error!(%error, records = group.len(), "the queue could not write");
                }
                self.connection = None;
                for append in group.drain(..) {
                    // A client that went away need not hear that its record is not stored.
                    let _ = append.committed.send(Err(AppendError::Disk(error.to_string())));
                }
            }
        }
    }

    /// One transaction: the group's records, then a chunk of deletions. Returns the partitions' new rows, and the
    /// bytes that the group takes in them.
    async fn commit(&mut self, group: &mut [Append]) -> Result<(Vec<PartitionRow>, u64), sqlx::Error> {
        if self.connection.is_none() {
            let mut connection = file::connect(&self.shared.path).await?;
            self.partitions = file::partition_rows(&mut connection).await?;
            self.connection = Some(connection);
        }
        let garbage = self.garbage();
        let Some(connection) = &mut self.connection else { return Err(sqlx::Error::WorkerCrashed) };
        let (mut partitions, mut here) = (self.partitions.clone(), 0);
        let at_ms = jiff::Timestamp::now().as_millisecond();
        let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
        for Append { partition, record, .. } in group {
            let row = &mut partitions[usize::from(*partition)];
            let record = StoredRecord {
                offset: row.next_offset,
                at_ms,
                key: record.key.take(),
                payload: std::mem::take(&mut record.payload),
                headers: serde_json::json!(record.headers).to_string(),
            };
            row.next_offset += 1;
            let bytes = record.bytes() as u64 + RECORD_OVERHEAD;
            row.bytes += bytes;
            here += bytes;
            file::insert(&mut transaction, *partition, &record).await?;
        }
        for (partition, offsets) in garbage {
            let row = &mut partitions[partition];
            row.low_offset = offsets.end;
            row.bytes = row.bytes.saturating_sub(file::delete(&mut transaction, partition, offsets).await?);
            self.has_free_pages = true;
        }
        for (partition, row) in partitions.iter().enumerate() {
            if *row != self.partitions[partition] {
                file::update_partition(&mut transaction, partition, row).await?;
            }
        }
        transaction.commit().await?;
        Ok((partitions, here))
    }

    /// Makes the file smaller by a step.
    async fn give_pages_back(&mut self) {
        let (true, Some(connection)) = (self.has_free_pages, &mut self.connection) else { return };
        match file::give_pages_back(connection).await {
            Ok(left) => self.has_free_pages = left > 0,
            Err(error) => {
                tracing::warn!(%error, "the queue file could not be made smaller");
                self.connection = None;
            }
        }
    }

    /// What may be deleted: below the settled position, but for the newest settled record.
    fn garbage(&self) -> Vec<(usize, Range<u64>)> {
        let settled = self.shared.partitions.iter().map(|partition| partition.settled.load(Relaxed));
        self.partitions
            .iter()
            .zip(settled)
            .enumerate()
            .map(|(partition, (row, settled))| {
                let end = settled.min(row.next_offset).saturating_sub(1);
                (partition, row.low_offset..end.min(row.low_offset + MAX_DELETED))
            })
            .filter(|(_, offsets)| !offsets.is_empty())
            .collect()
    }

    /// Lets readers and producers see what is committed.
    fn publish(&mut self, partitions: Vec<PartitionRow>) {
        for (partition, row) in self.shared.partitions.iter().zip(&partitions) {
            partition.low.store(row.low_offset, Relaxed);
            partition
                .next
                .send_if_modified(|next| std::mem::replace(next, row.next_offset) != row.next_offset);
        }
        let held = partitions.iter().map(|row| row.bytes).sum();
        self.shared.held_bytes.store(held, Relaxed);
        self.shared.room.hold(held);
        self.partitions = partitions;
    }
}
