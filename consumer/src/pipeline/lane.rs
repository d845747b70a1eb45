//! A lane: some partitions, one transaction outstanding.
//!
//! The lane reads and decodes ahead within fixed bounds, waits at the gate, writes one batch of one
//! partition, and only then goes on. An error of the database holds the batch for as long as it takes; a
//! fenced batch is dropped and its partition handed back to be claimed again.

mod inbox;
#[cfg(feature = "planted")]
mod planted;
mod redrive;
mod served;
mod write;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::isolate::Witness;
use super::marks::Marks;
use super::segment::Segment;
use super::stream::{OpenStream, Reclaim};
use crate::backoff::{Backoff, jittered};
use crate::decode::Decoder;
use crate::gate::Gate;
use crate::gate::bucket::Offer;
use crate::gate::clock::DatabaseClock;
use crate::last_error::LastError;
use crate::meter::{Activity, LaneMeter, Meters};
use crate::seal::Sealing;
use crate::source::{ReadEnd, Source, TopicPartition};
use crate::store::{ErrorKind, Store};
use inbox::Inbox;
use served::{Served, wait_for_work};
use write::Written;

/// Bytes that a lane decodes ahead, over all of its partitions; one more segment at most.
const LANE_BYTES: usize = 4 << 20;
/// Messages read from one partition before others get their turn: at least these, and as many as a transaction may have
/// rows, as a batch of less would wait to become full while there is more.
const READ_AHEAD: usize = 1_000;
/// Between two tries of a batch.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(5));
/// Pause after a deadlock or a lost race: it is over as soon as the other transaction is.
const CONFLICT_PAUSE: Duration = Duration::from_millis(10);
/// After an error a partition is read again no sooner than this.
const SOURCE_PAUSE: Duration = Duration::from_millis(500);

/// What the driver tells a lane.
pub enum Command {
    /// Serve this stream.
    Add(Box<OpenStream>),
    /// The partition is no longer ours: drop what was read.
    Remove(TopicPartition),
}

/// What a lane tells the driver: this partition must be claimed again.
#[derive(Debug)]
pub struct HandedBack {
    pub at: TopicPartition,
    /// [`OpenStream::serial`].
    pub serial: u64,
    pub because: Reclaim,
}

/// What a lane works with.
pub struct Lane {
    /// Where positions are reported, and the ends of partitions asked for.
    pub source: Arc<dyn Source>,
    /// Where batches go.
    pub store: Arc<dyn Store>,
    /// What bodies are sealed with.
    pub sealing: Arc<Sealing>,
    /// Bytes to spans.
    pub decoder: Decoder,
    /// What it waits at.
    pub gate: Arc<Gate>,
    /// What ids take their time from.
    pub clock: Arc<DatabaseClock>,
    /// Which partitions have dead letters to redrive.
    pub marks: Arc<Marks>,
    /// What it counts in.
    pub meters: Arc<Meters>,
    /// What it counts its time in.
    pub activity: LaneMeter,
    /// Whether dead letters wait to be sent to a topic.
    pub queue_copies: bool,
    /// Most rows in a transaction.
    pub max_rows: usize,
    /// Longest wait for more rows.
    pub max_delay: Duration,
    /// What the table is known to take.
    pub witness: Witness,
    /// To the driver.
    pub handed_back: mpsc::UnboundedSender<HandedBack>,
}

/// What the gate let through.
#[derive(Clone, Copy)]
struct Released {
    messages: usize,
    at: Instant,
}

impl Lane {
    /// Serves streams until `stop`; a transaction under way is finished first.
    pub async fn run(self, commands: mpsc::UnboundedReceiver<Command>, stop: CancellationToken) {
        let mut inbox = Inbox::new(commands, stop);
        let (mut turn, mut marked_turn) = (0usize, 0usize);
        loop {
            inbox.obey_all();
            if inbox.stop.is_cancelled() {
                return;
            }
            self.read_ahead(&mut inbox.served, turn).await;
            let marked = self.choose_marked(&inbox.served, marked_turn);
            if let Some(index) = marked {
                marked_turn = index + 1;
                let current = inbox.served.remove(index);
                let kept = self.redrive(current, &mut inbox).await;
                inbox.put_back(index, kept);
            }
            if let Some(index) = self.choose(&inbox.served, turn) {
                // Start after the partition served now, not after the one whose turn it was. Otherwise a partition behind
                // idle ones would get their turns too.
                turn = index + 1;
                let current = inbox.served.remove(index);
                let kept = self.advance(current, &mut inbox).await;
                inbox.put_back(index, kept);
            } else if marked.is_none() {
                // Letters of the next page have nobody who announces them.
                self.activity.enter(Activity::Idle);
                tokio::select! {
                    () = inbox.stop.cancelled() => return,
                    command = inbox.commands.recv() => match command {
                        Some(command) => inbox.obey(command),
                        None => return,
                    },
                    () = wait_for_work(&mut inbox.served, self.max_delay) => {}
                    () = self.marks.changed() => {}
                }
            }
        }
    }

    /// Decodes what has arrived, within the lane's bounds. Yields between partitions.
    async fn read_ahead(&self, served: &mut Vec<Served>, turn: usize) {
        self.activity.enter(Activity::Decode);
        let mut held: usize = served.iter().map(|one| one.segment.bytes()).sum();
        let count = served.len();
        let mut lost = Vec::new();
        for step in 0..count {
            let index = (turn + step) % count;
            let one = &mut served[index];
            let paused = one.read_after.is_some_and(|until| Instant::now() < until);
            if paused || held >= LANE_BYTES || one.segment.is_full(self.max_rows) {
                continue;
            }
            let before = one.segment.bytes();
            if let Err(because) = self.read_one(one) {
                lost.push((index, because));
            }
            held += one.segment.bytes() - before;
            tokio::task::yield_now().await;
        }
        lost.sort_by_key(|(index, _)| std::cmp::Reverse(*index));
        for (index, because) in lost {
            let one = served.remove(index);
            self.hand_back(&one.stream, because);
        }
    }

    fn read_one(&self, one: &mut Served) -> Result<(), Reclaim> {
        let Served { stream, segment, .. } = one;
        let (mut because, mut came) = (None, false);
        let (decoder, max_rows) = (&self.decoder, self.max_rows);
        let expected = &mut stream.expected;
        let end = stream.reader.read(READ_AHEAD.max(max_rows), &mut |message| {
            came = true;
            match expected.admit(&message) {
                Ok(true) => segment.append(decoder, &message),
                Ok(false) => {}
                Err(found) => {
                    because = Some(found);
                    return false;
                }
            }
            !segment.is_full(max_rows)
        });
        if came && std::mem::take(&mut one.failing) {
            self.meters.partition_works(&stream.at);
        }
        if let Some(because) = because {
            return Err(because);
        }
        #[cfg(feature = "planted")]
        planted::commit_early(&*self.source, stream);
        match end {
            Ok(ReadEnd::Reopen) => return Err(Reclaim::Reopen),
            Ok(end) => {
                one.drained = end == ReadEnd::Drained;
                one.read_after = None;
            }
            Err(error) => {
                tracing::debug!(partition = %stream.at, %error, "reading failed");
                self.meters.partition_failed(&stream.at, LastError::from(&error));
                one.failing = true;
                one.read_after = Some(Instant::now() + SOURCE_PAUSE);
            }
        }
        Ok(())
    }

    /// Of the partitions with a batch worth writing the one that would go first at the gate; taking turns where that is
    /// the same.
    fn choose(&self, served: &[Served], turn: usize) -> Option<usize> {
        let count = served.len();
        let worth_writing = |index: &usize| {
            let one = &served[*index];
            !one.segment.is_empty()
                && (one.segment.is_full(self.max_rows) || one.segment.age() >= self.max_delay)
        };
        let in_turn = (0..count).map(|step| (turn + step) % count);
        in_turn.filter(worth_writing).min_by_key(|index| self.gate.start_of(&served[*index].flow))
    }

    /// The next partition with letters to redrive, taking turns.
    fn choose_marked(&self, served: &[Served], turn: usize) -> Option<usize> {
        let count = served.len();
        let mut in_turn = (0..count).map(|step| (turn + step) % count);
        in_turn.find(|index| self.marks.contain(&served[*index].stream.at))
    }

    /// Releases and writes one batch of `current`, as often as it takes; gives it back unless it was lost or
    /// removed. A repeated transaction is load on the database like a first one, and the rate may have changed:
    /// it takes its turn at the gate again, with as much as fits then.
    async fn advance(&self, mut current: Served, inbox: &mut Inbox) -> Option<Served> {
        let mut isolated = Vec::new();
        let mut backoff = BACKOFF;
        loop {
            self.activity.enter(Activity::Gate);
            let more = !current.drained || current.segment.is_full(self.max_rows);
            let released = self.release(&current, &current.segment, more, inbox).await?;
            let written = self.write(&current, released, &isolated, inbox).await;
            let pause = match written {
                Written::Committed(position) => {
                    current.stream.position = position;
                    current.segment.settle(released.messages, LANE_BYTES / (inbox.served.len() + 1));
                    self.source.report_position(&current.stream.at, position.next_offset);
                    return Some(current);
                }
                Written::Lost(because) => {
                    self.hand_back(&current.stream, because);
                    return None;
                }
                Written::Removed | Written::Stopped => return None,
                Written::Isolated(found) => {
                    isolated.extend(found);
                    continue;
                }
                #[cfg(feature = "planted")]
                Written::Held(ErrorKind::Unavailable) if planted::gives_up() => {
                    isolated = planted::every_span(current.segment.front_spans(released.messages));
                    CONFLICT_PAUSE
                }
                Written::Held(ErrorKind::Conflict) => jittered(CONFLICT_PAUSE),
                Written::Held(_) => backoff.pause(),
            };
            // Whatever the batch was doing: it waits for the database, or for what seals it.
            self.activity.enter(Activity::Store);
            if !inbox.pause(&current, Instant::now() + pause).await {
                return None;
            }
        }
    }

    /// Waits at the gate for messages of `segment`. None where `current` was removed or the process stops.
    async fn release(
        &self,
        current: &Served,
        segment: &Segment,
        more: bool,
        inbox: &mut Inbox,
    ) -> Option<Released> {
        let offer =
            Offer { first: segment.first_weight(), available: segment.pending(), most: self.max_rows, more };
        loop {
            tokio::select! {
                (messages, at) = self.gate.release(&current.flow, offer, |most| segment.cut(most)) => {
                    return Some(Released { messages, at });
                }
                () = inbox.stop.cancelled() => return None,
                command = inbox.commands.recv() => if !inbox.keeps(current, command) {
                    return None;
                }
            }
        }
    }

    fn hand_back(&self, stream: &OpenStream, because: Reclaim) {
        let handed = HandedBack { at: stream.at.clone(), serial: stream.serial, because };
        if self.handed_back.send(handed).is_err() {
            tracing::debug!(partition = %stream.at, "the driver has stopped");
        }
    }
}
