//! Stores dead letters after all: in a transaction of the stream that they came from, at the gate's rate.
//!
//! Guarantee: a letter's rows and its removal are one transaction under the stream's fence, so it is stored
//! once. What fails again is a letter again, in the same transaction, with the history of the one before. Nothing
//! is held up by it: what the database does not take now waits for the next look.

use std::sync::atomic::Ordering::Relaxed;

use tokio_util::sync::CancellationToken;

use super::{Inbox, Lane, Released, Served};
use crate::meter::{Activity, Settled};
use crate::pipeline::batch::{Batch, RefusedSpan};
use crate::pipeline::letter::{ReadLetter, read_letter};
use crate::pipeline::segment::{Entry, SEGMENT_BYTES, Segment, letter_message};
use crate::pipeline::stream::Reclaim;
use crate::source::TopicPartition;
use crate::store::letter::{Failure, History, LetterFilter, LetterHeaders, RedriveBatch, StoredLetter};
use crate::store::{Position, StoreError};

/// Letters that are looked at in one go.
const LETTERS: u32 = 100;
/// Failures that a letter's history keeps: the first, and the newest.
const HISTORY: usize = 20;

/// Letters that were read, as messages.
struct Marked {
    letters: Vec<StoredLetter>,
    segment: Segment,
    /// There are none after them.
    is_end: bool,
}

/// How a try to write them ended.
enum Tried {
    Committed(Position),
    /// Some of the rows are refused.
    Isolated(Vec<RefusedSpan>),
    Stopped,
}

impl Marked {
    /// The letter that each dead letter of a batch of the first `letters` was.
    fn sources(&self, batch: &Batch<'_>, letters: usize) -> impl Iterator<Item = &StoredLetter> {
        let front = self.segment.front(letters);
        let index = |entry: &Entry| front.iter().position(|one| std::ptr::eq(one, entry));
        batch.letter_entries().filter_map(index).map(|index| &self.letters[index])
    }
}

impl Lane {
    /// Redrives some of the marked letters of `current`; gives it back unless it was lost or removed.
    pub(super) async fn redrive(&self, mut current: Served, inbox: &mut Inbox) -> Option<Served> {
        let at = current.stream.at.clone();
        self.activity.enter(Activity::Store);
        let marked = inbox.while_ours(&current, self.read_marked(&at)).await?;
        let marked = match marked {
            Ok(marked) if marked.letters.is_empty() => {
                if marked.is_end {
                    self.marks.settle(&at);
                }
                return Some(current);
            }
            Ok(marked) => marked,
            Err(error) => {
                self.meters.store_failed(Some(&at), &error);
                self.marks.settle(&at);
                return Some(current);
            }
        };
        self.activity.enter(Activity::Gate);
        let released = self.release(&current, &marked.segment, true, inbox).await?;
        let stop = inbox.stop.clone();
        let writing = self.write_marked(&current, &marked, released, &stop);
        let written = inbox.while_ours(&current, writing).await;
        let trouble = match written? {
            Ok(position) => {
                current.stream.position = position.unwrap_or(current.stream.position);
                return Some(current);
            }
            Err(error) => {
                self.meters.store_failed(Some(&at), &error);
                error.kind
            }
        };
        let Some(because) = Reclaim::after(trouble) else {
            self.marks.settle(&at);
            return Some(current);
        };
        self.hand_back(&current.stream, because);
        None
    }

    /// One page of marked letters: what is read meanwhile waits, so the next page is the next turn's.
    async fn read_marked(&self, at: &TopicPartition) -> Result<Marked, StoreError> {
        let filter = LetterFilter {
            topic: Some(at.topic.to_string()),
            partition: Some(at.partition),
            pending: Some(true),
            ..LetterFilter::default()
        };
        let page = self.store.letters(&filter, self.marks.passed(at), LETTERS).await?;
        let is_end = page.len() < LETTERS as usize;
        let mut marked = Marked { letters: Vec::new(), segment: Segment::default(), is_end };
        let mut damaged: Option<(i64, String, usize)> = None;
        for summary in &page {
            let damage = match read_letter(&*self.store, &self.sealing, summary.id).await? {
                ReadLetter::Opened(letter) => self.append_marked(&mut marked, letter).err(),
                ReadLetter::Gone => None,
                ReadLetter::Damaged(error) => Some(error),
                ReadLetter::Unopened(error) => Some(error.into()),
            };
            // It stays marked, and does not hold up the others.
            if let Some(error) = damage {
                let text = || sluice_crds::problem::chain(&error);
                let (_, _, count) = damaged.get_or_insert_with(|| (summary.id, text(), 0));
                *count += 1;
                self.meters.letter_not_opened(at, error);
                if marked.letters.is_empty() {
                    self.marks.pass(at, summary.id);
                }
            }
            if marked.segment.bytes() >= SEGMENT_BYTES || marked.segment.is_full(self.max_rows) {
                break;
            }
        }
        if let Some((id, error, count)) = damaged {
            tracing::warn!(partition = %at, count, id, error, "dead letters cannot be opened, this one and others perhaps; they stay marked");
        }
        Ok(marked)
    }

    /// Adds a letter, unless its headers are damaged.
    fn append_marked(&self, marked: &mut Marked, letter: StoredLetter) -> Result<(), StoreError> {
        let headers = LetterHeaders::of(&letter)?;
        if letter.summary.span_index.is_some() {
            marked.segment.append_span(&self.decoder, &letter, &headers);
        } else {
            marked.segment.append(&self.decoder, &letter_message(&letter, &headers));
        }
        marked.letters.push(letter);
        Ok(())
    }

    /// Writes what was released of what was read, without the rows that the database is found to refuse; none where the
    /// process is to stop before they are found.
    async fn write_marked(
        &self,
        current: &Served,
        marked: &Marked,
        released: Released,
        stop: &CancellationToken,
    ) -> Result<Option<Position>, StoreError> {
        let spans = marked.segment.front_spans(released.messages).len();
        let mut isolated: Vec<RefusedSpan> = Vec::new();
        let probe = self.probe(current);
        loop {
            match self.try_marked(current, marked, released, &isolated, stop).await? {
                Tried::Committed(position) => return Ok(Some(position)),
                Tried::Stopped => return Ok(None),
                Tried::Isolated(found) => isolated.extend(found),
            }
            tokio::select! {
                () = stop.cancelled() => return Ok(None),
                () = probe.release_all(spans) => {}
            }
        }
    }

    async fn try_marked(
        &self,
        current: &Served,
        marked: &Marked,
        released: Released,
        isolated: &[RefusedSpan],
        stop: &CancellationToken,
    ) -> Result<Tried, StoreError> {
        let (stream, letters) = (&current.stream, released.messages);
        let refusals = self.refused_spans(&marked.segment, letters, isolated);
        let batch = self.batch(current, &marked.segment, released, &refusals);
        let sources: Vec<&StoredLetter> = marked.sources(&batch, letters).collect();
        let mut failed = batch.dead_letters();
        for (letter, source) in failed.iter_mut().zip(&sources) {
            if let (Some(span), Some(index)) = (&mut letter.span, source.summary.span_index) {
                span.index = index;
            }
        }
        self.activity.enter(Activity::Decode);
        let sealed_rows = self.sealing.rows(&self.store, batch.rows()).await?;
        let rows = sealed_rows.rows(batch.rows());
        let sealed_letters = self.sealing.letters(&*self.store, &failed).await?;
        let letters_again = sealed_letters.letters(&failed);
        let histories: Vec<History> = sources.iter().map(|source| inherited(source)).collect();
        let settled: Vec<i64> = marked.letters[..letters].iter().map(|letter| letter.summary.id).collect();
        let to = Position { last_id: batch.to().last_id, ..stream.position };
        let mut write = batch.to_write_batch(&rows, &letters_again, self.queue_copies);
        write.to = to;
        let redrive = RedriveBatch { write, settled: &settled, histories: &histories };
        match self.watched(self.store.redrive(&redrive)).await {
            Ok(()) => {
                let (rows, bytes) = (batch.rows().len() as u64, batch.body_bytes());
                self.meters.committed(&stream.at, Settled::default(), rows, bytes, batch.reasons());
                self.meters.redriven.fetch_add(settled.len() as u64, Relaxed);
                tracing::info!(partition = %stream.at, letters = settled.len(), rows, failed = failed.len(),
                    "dead letters redriven");
                Ok(Tried::Committed(to))
            }
            Err(error) if error.kind.is_refusal() => {
                let found = self.isolate_unless_stopped(current, &batch, &rows, error, stop).await?;
                Ok(found.map_or(Tried::Stopped, Tried::Isolated))
            }
            Err(error) => Err(error),
        }
    }
}

/// What a letter that fails again inherits.
fn inherited(source: &StoredLetter) -> History {
    let summary = &source.summary;
    let mut failures = summary.history.clone();
    if failures.len() >= HISTORY {
        failures.remove(1);
    }
    failures.push(Failure { id: summary.id, reason: summary.reason.clone(), detail: summary.detail.clone() });
    History { attempts: summary.attempts + 1, failures }
}
