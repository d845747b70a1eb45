//! Reads one partition of the queue through a window of fixed size, which a task of its own keeps filled.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use sqlx::SqlitePool;
use tokio::sync::{Notify, watch};

use super::file::{self, StoredRecord};
use super::unavailable;
use crate::lock::lock;
use crate::source::{Headers, Message, PartitionReader, ReadEnd, SourceError};

/// Most records in a window; another one of this size may be with the reader.
const WINDOW_RECORDS: usize = 256;
/// Payload bytes at which a window takes no further record.
const WINDOW_BYTES: usize = 1 << 20;
/// How long a failed read waits before the next one.
const RETRY: Duration = Duration::from_millis(500);

/// What was read ahead.
pub(super) struct Window {
    state: Mutex<State>,
    /// Records, an error or the end of the range have come.
    arrived: Notify,
    /// The reader has taken the window, or it was closed.
    taken: Notify,
    closed: AtomicBool,
}

#[derive(Default)]
struct State {
    records: VecDeque<StoredRecord>,
    error: Option<SourceError>,
    out_of_range: bool,
}

impl Window {
    pub(super) fn new(in_range: bool) -> Self {
        let state = State { out_of_range: !in_range, ..State::default() };
        Self {
            state: Mutex::new(state),
            arrived: Notify::new(),
            taken: Notify::new(),
            closed: AtomicBool::new(false),
        }
    }

    /// The reader gives nothing more, and the task that fills the window ends.
    pub(super) fn close(&self) {
        self.closed.store(true, Relaxed);
        self.taken.notify_one();
    }

    fn is_closed(&self) -> bool {
        self.closed.load(Relaxed)
    }
}

struct Reader {
    window: Arc<Window>,
    records: VecDeque<StoredRecord>,
}

/// Starts to read ahead from `offset`; `next` follows the end of the partition.
pub(super) fn start(
    window: Arc<Window>,
    readers: SqlitePool,
    partition: i32,
    offset: u64,
    next: watch::Receiver<u64>,
) -> Box<dyn PartitionReader> {
    tokio::spawn(fill(window.clone(), readers, partition, offset, next));
    Box::new(Reader { window, records: VecDeque::new() })
}

async fn fill(
    window: Arc<Window>,
    readers: SqlitePool,
    partition: i32,
    mut offset: u64,
    mut next: watch::Receiver<u64>,
) {
    if lock(&window.state).out_of_range {
        return;
    }
    while !window.is_closed() {
        if !lock(&window.state).records.is_empty() {
            window.taken.notified().await;
            continue;
        }
        if *next.borrow_and_update() <= offset {
            tokio::select! {
                changed = next.changed() => if changed.is_err() { return },
                () = window.taken.notified() => {}
            }
            continue;
        }
        let fetched = file::fetch(&readers, partition, offset, WINDOW_RECORDS, WINDOW_BYTES).await;
        let mut failed = false;
        {
            let mut state = lock(&window.state);
            match fetched {
                Ok(records) => {
                    // A hole right here: the record was deleted, so this offset is out of range.
                    state.out_of_range = records.first().is_none_or(|record| record.offset != offset);
                    offset += records.len() as u64;
                    state.records = records.into();
                }
                Err(error) => {
                    failed = true;
                    state.error = Some(unavailable("read the queue", &error));
                }
            }
            if state.out_of_range {
                state.records.clear();
                window.arrived.notify_one();
                return;
            }
        }
        window.arrived.notify_one();
        if failed {
            tokio::time::sleep(RETRY).await;
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.window.close();
    }
}

#[async_trait]
impl PartitionReader for Reader {
    fn read(
        &mut self,
        limit: usize,
        handle: &mut dyn FnMut(Message<'_>) -> bool,
    ) -> Result<ReadEnd, SourceError> {
        if self.window.is_closed() {
            self.records.clear();
            return Ok(ReadEnd::Drained);
        }
        for _ in 0..limit {
            if self.records.is_empty() {
                let mut state = lock(&self.window.state);
                if state.out_of_range {
                    return Ok(ReadEnd::Reopen);
                }
                if let Some(error) = state.error.take() {
                    return Err(error);
                }
                std::mem::swap(&mut self.records, &mut state.records);
                self.window.taken.notify_one();
            }
            let Some(record) = self.records.pop_front() else { return Ok(ReadEnd::Drained) };
            let message = Message {
                offset: record.offset,
                timestamp: Some(record.at_ms),
                key: record.key.as_deref(),
                payload: Some(&record.payload),
                headers: &RecordHeaders(&record.headers),
            };
            if !handle(message) {
                return Ok(ReadEnd::Limit);
            }
        }
        Ok(ReadEnd::Limit)
    }

    async fn ready(&mut self) {
        loop {
            let arrived = self.window.arrived.notified();
            if !self.records.is_empty() && !self.window.is_closed() {
                return;
            }
            {
                let state = lock(&self.window.state);
                let something = !state.records.is_empty() || state.error.is_some() || state.out_of_range;
                if something && !self.window.is_closed() {
                    return;
                }
            }
            arrived.await;
        }
    }
}

struct RecordHeaders<'a>(&'a str);

impl Headers for RecordHeaders<'_> {
    fn visit(&self, each: &mut dyn FnMut(&str, Option<&[u8]>)) {
        // Written by this module; a list that does not parse is one without headers.
        let headers: Vec<(String, String)> = serde_json::from_str(self.0).unwrap_or_default();
        for (name, value) in &headers {
            each(name, Some(value.as_bytes()));
        }
    }
}
