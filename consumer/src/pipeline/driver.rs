//! Who owns what: partitions that come and go, their openings, and the lanes that serve them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::isolate::Witness;
use super::lane::{Command, HandedBack, Lane};
use super::marks::Marks;
use super::stream::{OpenStream, Opener, Reclaim};
use super::{MAX_LANES, Parts, PipelineError, START_PAUSE};
use crate::gate::Gate;
use crate::gate::clock::DatabaseClock;
use crate::last_error::LastError;
use crate::meter::{LaneMeter, Meters};
use crate::source::{Source, SourceError, SourceEvent, TopicPartition};

/// How long lanes may take to finish their transactions when the process stops. Kubernetes kills after 30 s.
const STOP_WITHIN: Duration = Duration::from_secs(15);

/// Where an owned partition is.
struct Owned {
    serial: u64,
    lane: Option<usize>,
    /// Ends the opening when the partition is revoked.
    opening: CancellationToken,
}

/// How many of `lanes` serve `partitions` evenly: those without which the fullest one would have more of them. Six
/// partitions on four lanes would mean two that drain twice as fast as the other four.
fn lanes_for(partitions: usize, lanes: usize) -> usize {
    let fullest = partitions.div_ceil(lanes.max(1)).max(1);
    partitions.div_ceil(fullest).clamp(1, lanes.max(1))
}

/// Begins as many lanes as the store has connections for.
fn spawn_lanes(
    parts: &Parts,
    gate: &Arc<Gate>,
    clock: &Arc<DatabaseClock>,
    marks: &Arc<Marks>,
    hand_back: &mpsc::UnboundedSender<HandedBack>,
    stop: &CancellationToken,
) -> (Vec<mpsc::UnboundedSender<Command>>, JoinSet<()>) {
    let mut tasks = JoinSet::new();
    let count = parts.store.max_lanes().clamp(1, MAX_LANES);
    let lanes = (0..count)
        .map(|_| {
            let (commands, receiver) = mpsc::unbounded_channel();
            let lane = Lane {
                source: parts.source.clone(),
                store: parts.store.clone(),
                sealing: parts.sealing.clone(),
                decoder: parts.decoder.clone(),
                gate: gate.clone(),
                clock: clock.clone(),
                marks: marks.clone(),
                meters: parts.meters.clone(),
                activity: LaneMeter::new(parts.meters.clone()),
                queue_copies: parts.dead_letter_topic.is_some(),
                max_rows: parts.max_rows,
                max_delay: parts.max_delay,
                witness: Witness::default(),
                handed_back: hand_back.clone(),
            };
            tasks.spawn(lane.run(receiver, stop.clone()));
            commands
        })
        .collect();
    (lanes, tasks)
}

/// Serves what the source assigns until it is told to stop.
pub(super) struct Driver {
    source: Arc<dyn Source>,
    meters: Arc<Meters>,
    opener: Opener,
    lanes: Vec<mpsc::UnboundedSender<Command>>,
    lane_tasks: JoinSet<()>,
    openings: JoinSet<Option<OpenStream>>,
    handed_back: mpsc::UnboundedReceiver<HandedBack>,
    owned: HashMap<TopicPartition, Owned>,
    next_serial: u64,
    lanes_stop: CancellationToken,
}

impl Driver {
    pub(super) fn new(
        parts: Parts,
        cluster_id: String,
        replica: String,
        gate: &Arc<Gate>,
        clock: Arc<DatabaseClock>,
        marks: &Arc<Marks>,
    ) -> Self {
        let (hand_back, handed_back) = mpsc::unbounded_channel();
        let lanes_stop = CancellationToken::new();
        let (lanes, lane_tasks) = spawn_lanes(&parts, gate, &clock, marks, &hand_back, &lanes_stop);
        let opener = Opener {
            source: parts.source.clone(),
            store: parts.store,
            clock,
            meters: parts.meters.clone(),
            cluster_id,
            group: parts.group,
            replica,
            start_from: parts.start_from,
            by_pattern: parts.by_pattern,
            is_replay: parts.shares_rate_of.is_some(),
            known: Arc::default(),
        };
        Self {
            source: parts.source,
            meters: parts.meters,
            opener,
            lanes,
            lane_tasks,
            openings: JoinSet::new(),
            handed_back,
            owned: HashMap::new(),
            next_serial: 0,
            lanes_stop,
        }
    }

    pub(super) async fn run(mut self, stop: CancellationToken) -> Result<(), PipelineError> {
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                event = self.source.next_event() => match event {
                    Ok(event) => self.on_event(event),
                    Err(error @ SourceError::Configuration(_)) => return Err(error.into()),
                    Err(error) => {
                        self.meters.source_failed(LastError::from(&error));
                        tokio::time::sleep(START_PAUSE).await;
                    }
                },
                Some(handed) = self.handed_back.recv() => self.reopen(handed).await,
                Some(opened) = self.openings.join_next() => match opened {
                    Ok(Some(stream)) => self.assign(stream),
                    Ok(None) => {}
                    Err(error) if error.is_cancelled() => {}
                    Err(error) => return Err(PipelineError::Panicked(error)),
                },
                Some(ended) = self.lane_tasks.join_next() => {
                    ended.map_err(PipelineError::Panicked)?;
                }
            }
        }
        self.finish().await
    }

    fn on_event(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Assigned(partitions) => {
                self.meters.preflight.group_joined.store(true, Relaxed);
                for at in partitions {
                    self.open(at, None);
                }
            }
            SourceEvent::Revoked(partitions) => {
                for at in partitions {
                    self.revoke(&at);
                }
            }
        }
    }

    /// Starts to claim and open a partition.
    fn open(&mut self, at: TopicPartition, because: Option<Reclaim>) {
        self.meters.add_partition(&at);
        self.next_serial += 1;
        let serial = self.next_serial;
        let opening = CancellationToken::new();
        let owned = Owned { serial, lane: None, opening: opening.clone() };
        if let Some(before) = self.owned.insert(at.clone(), owned) {
            before.opening.cancel();
        }
        let opener = self.opener.clone();
        self.openings.spawn(async move {
            tokio::select! {
                opened = opener.open(at, serial, because) => opened,
                () = opening.cancelled() => None,
            }
        });
    }

    /// Gives an open stream to the lane with the fewest.
    fn assign(&mut self, stream: OpenStream) {
        let mut load = vec![0usize; self.lanes.len()];
        for lane in self.owned.values().filter_map(|owned| owned.lane) {
            load[lane] += 1;
        }
        let used = lanes_for(self.owned.len(), load.len());
        let lane = (0..used).min_by_key(|lane| load[*lane]).unwrap_or_default();
        let Some(owned) = self.owned.get_mut(&stream.at).filter(|owned| owned.serial == stream.serial) else {
            return;
        };
        owned.lane = Some(lane);
        if self.lanes[lane].send(Command::Add(Box::new(stream))).is_err() {
            tracing::debug!(lane, "the lane has ended; its task tells why");
        }
    }

    fn revoke(&mut self, at: &TopicPartition) {
        self.meters.remove_partition(at);
        let Some(owned) = self.owned.remove(at) else { return };
        owned.opening.cancel();
        if let Some(lane) = owned.lane
            && self.lanes[lane].send(Command::Remove(at.clone())).is_err()
        {
            tracing::debug!(lane, "the lane has ended; its task tells why");
        }
        tracing::info!(partition = %at, "no longer ours");
    }

    /// A lane has lost the stream: stop fetching, and claim again.
    async fn reopen(&mut self, handed: HandedBack) {
        let current = self.owned.get(&handed.at).is_some_and(|owned| owned.serial == handed.serial);
        if !current {
            return;
        }
        tracing::info!(partition = %handed.at, trouble = ?handed.because, "claiming again");
        self.source.close(&handed.at).await;
        self.open(handed.at, Some(handed.because));
    }

    /// Lets lanes finish their transactions.
    async fn finish(mut self) -> Result<(), PipelineError> {
        self.openings.abort_all();
        self.lanes_stop.cancel();
        let all = async {
            while let Some(ended) = self.lane_tasks.join_next().await {
                ended.map_err(PipelineError::Panicked)?;
            }
            Ok(())
        };
        let finished = match tokio::time::timeout(STOP_WITHIN, all).await {
            Ok(result) => result,
            Err(_) => {
                tracing::warn!("transactions were not finished within {STOP_WITHIN:?}; they roll back");
                Ok(())
            }
        };
        // The process may go on with another pipeline.
        self.owned.keys().for_each(|at| self.meters.remove_partition(at));
        finished
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lanes_are_as_many_as_make_the_fullest_one_shorter() {
        let used = [0, 1, 2, 4, 5, 6, 8, 9, 100].map(|partitions| lanes_for(partitions, 4));
        assert_eq!(used, [1, 1, 2, 4, 3, 3, 4, 3, 4]);
        assert_eq!(lanes_for(5, 1), 1);
    }
}
