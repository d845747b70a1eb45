//! One batch, from what was released to what the database says of it.

use std::future::Future;

use tokio_util::sync::CancellationToken;

#[cfg(feature = "planted")]
use super::planted;
use super::{Inbox, Lane, Released, Served};
use crate::gate::guard::Outcome;
use crate::meter::{Activity, PartitionMeter, Settled};
use crate::pipeline::batch::{Batch, Cut, RefusedSpan};
use crate::pipeline::isolate::Probe;
use crate::pipeline::segment::Segment;
use crate::pipeline::stream::{OpenStream, Reclaim};
use crate::store::{ErrorKind, Position, Reason, Row, StoreError};

/// How writing a batch ended.
pub enum Written {
    Committed(Position),
    Lost(Reclaim),
    Removed,
    /// The database did not take it now.
    Held(ErrorKind),
    /// Some of its rows are refused, which the next try makes dead letters.
    Isolated(Vec<RefusedSpan>),
    Stopped,
}

impl Lane {
    /// Tries a batch, and looks for the rows to blame where it is refused.
    pub(super) async fn write(
        &self,
        current: &Served,
        released: Released,
        isolated: &[RefusedSpan],
        inbox: &mut Inbox,
    ) -> Written {
        let stop = inbox.stop.clone();
        let attempt = self.attempt(current, released, isolated, &stop);
        let Some(outcome) = inbox.while_ours(current, attempt).await else {
            return Written::Removed;
        };
        outcome.unwrap_or_else(|error| {
            self.meters.store_failed(Some(&current.stream.at), &error);
            match Reclaim::after(error.kind) {
                Some(because) => Written::Lost(because),
                None => {
                    self.meters.batch_held(&current.stream.at);
                    Written::Held(error.kind)
                }
            }
        })
    }

    async fn attempt(
        &self,
        current: &Served,
        released: Released,
        isolated: &[RefusedSpan],
        stop: &CancellationToken,
    ) -> Result<Written, StoreError> {
        let refusals = self.refused_spans(&current.segment, released.messages, isolated);
        let batch = self.batch(current, &current.segment, released, &refusals);
        // Compressing and sealing is the processor's work as decoding is.
        self.activity.enter(Activity::Decode);
        let sealed_rows = self.sealing.rows(&self.store, batch.rows()).await?;
        let rows = sealed_rows.rows(batch.rows());
        let plain_letters = batch.dead_letters();
        let sealed_letters = self.sealing.letters(&*self.store, &plain_letters).await?;
        let letters = sealed_letters.letters(&plain_letters);
        let write = batch.to_write_batch(&rows, &letters, self.queue_copies);
        #[cfg(feature = "planted")]
        let written = self.watched(planted::write(&*self.store, write)).await;
        #[cfg(not(feature = "planted"))]
        let written = self.watched(self.store.write(&write)).await;
        match written {
            Ok(()) => {
                self.witness.saw(&rows);
                self.count_committed(&current.stream, &batch, released.messages);
                Ok(Written::Committed(batch.to()))
            }
            Err(error) if error.kind.is_refusal() => {
                let found = self.isolate_unless_stopped(current, &batch, &rows, error, stop).await?;
                Ok(found.map_or(Written::Stopped, Written::Isolated))
            }
            Err(error) => Err(error),
        }
    }

    /// A batch of so many messages was committed; `stream` is still where it stood before.
    fn count_committed(&self, stream: &OpenStream, batch: &Batch<'_>, messages: usize) {
        let (rows, bytes) = (batch.rows().len() as u64, batch.body_bytes());
        let offsets = batch.to().next_offset - stream.position.next_offset;
        let settled = Settled { messages: messages as u64, offsets };
        self.meters.committed(&stream.at, settled, rows, bytes, batch.reasons());
        let end = self.source.known_end(&stream.at);
        let position = batch.to().next_offset;
        self.meters.advance_partition(&stream.at, PartitionMeter { position, end });
    }

    /// What was released of a segment, as a batch of the stream, less `refusals` (ascending).
    pub(super) fn batch<'a>(
        &self,
        current: &'a Served,
        segment: &'a Segment,
        released: Released,
        refusals: &'a [RefusedSpan],
    ) -> Batch<'a> {
        let stream = &current.stream;
        // Ids carry the time of the release, so that the rate can be checked by them afterwards.
        let database_time_ms = self.clock.at(released.at).unwrap_or(stream.claim.database_time.ms);
        #[cfg(feature = "planted")]
        let database_time_ms = planted::time_of_ids(database_time_ms);
        let cut = Cut { segment, messages: released.messages, refusals };
        Batch::build(&stream.at, &stream.claim, stream.position, database_time_ms, cut)
    }

    /// A transaction whose time and outcome the gate learns.
    pub(super) async fn watched(
        &self,
        transaction: impl Future<Output = Result<(), StoreError>>,
    ) -> Result<(), StoreError> {
        self.activity.enter(Activity::Store);
        let watched = self.gate.watch_write();
        let written = transaction.await;
        match &written {
            Ok(()) => self.sealing.committed(),
            Err(error) if matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Fenced) => {
                self.sealing.doubt();
            }
            Err(_) => {}
        }
        watched.ended(match &written {
            Ok(()) => Outcome::Committed,
            Err(error) if matches!(error.kind, ErrorKind::Unavailable | ErrorKind::Conflict) => {
                Outcome::Failed
            }
            Err(_) => Outcome::Unclear,
        });
        written
    }

    pub(super) fn probe<'a>(&'a self, current: &'a Served) -> Probe<'a> {
        Probe { store: &*self.store, gate: &self.gate, flow: &current.flow, activity: &self.activity }
    }

    /// The rows that made the database refuse a batch, `rows` as they were written; none where the process is to stop before
    /// they are found.
    pub(super) async fn isolate_unless_stopped(
        &self,
        current: &Served,
        batch: &Batch<'_>,
        rows: &[Row<'_>],
        error: StoreError,
        stop: &CancellationToken,
    ) -> Result<Option<Vec<RefusedSpan>>, StoreError> {
        tokio::select! {
            // Nothing of this stays, and at a low rate it takes long.
            () = stop.cancelled() => Ok(None),
            found = self.isolate(self.probe(current), batch, rows, error) => found.map(Some),
        }
    }

    /// The same for as long as it takes; without a row to blame an error.
    async fn isolate(
        &self,
        probe: Probe<'_>,
        batch: &Batch<'_>,
        rows: &[Row<'_>],
        error: StoreError,
    ) -> Result<Vec<RefusedSpan>, StoreError> {
        let span_of_row = |row| batch.span_of_row(row);
        let found = probe.find_refused(rows, &self.witness, span_of_row).await?;
        if found.is_empty() {
            // Every row is accepted alone: the transaction failed for another reason. Wait.
            return Err(StoreError { kind: ErrorKind::Unavailable, ..error });
        }
        self.meters.count_store_error(&error);
        Ok(found)
    }

    /// Spans of the first `messages` messages that are dead letters, ascending: those that no statement can carry
    /// from the start, and those that the database was found to refuse.
    pub(super) fn refused_spans(
        &self,
        segment: &Segment,
        messages: usize,
        isolated: &[RefusedSpan],
    ) -> Vec<RefusedSpan> {
        let limit = self.store.max_body_bytes();
        let spans = segment.front_spans(messages);
        let oversized = spans.clone().filter(|span| segment.spans().get(*span).body.len() > limit);
        let detail =
            || format!("the body is larger than the {limit} bytes that the database accepts in one row");
        let mut refusals: Vec<RefusedSpan> = oversized
            .map(|span| RefusedSpan { span, reason: Reason::TooLarge, detail: detail() })
            .chain(isolated.iter().filter(|refusal| spans.contains(&refusal.span)).cloned())
            .collect();
        refusals.sort_by_key(|refusal| refusal.span);
        refusals
    }
}
