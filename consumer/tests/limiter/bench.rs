//! The bench: gates and leases as they are, lanes that do nothing but pass the gate, and a database in memory.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use proptest::prelude::*;
use sluice_consumer::gate::Gate;
use sluice_consumer::gate::bucket::{Offer, QUANTUM};
use sluice_consumer::gate::clock::DatabaseClock;
use sluice_consumer::gate::control::RateControl;
use sluice_consumer::gate::flow::Flow;
use sluice_consumer::gate::guard::Outcome;
use sluice_consumer::live::{Applied, Origin};
use sluice_consumer::meter::Meters;
use sluice_consumer::store::memory::{Call, MemoryStore};
use sluice_consumer::store::{ErrorKind, StoreError};
use sluice_crds::live::Live;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// Of each replica.
pub(super) const LANES: usize = 2;
/// Of the guarantee.
pub(super) const SECOND: Duration = Duration::from_secs(1);
/// First and longest pause of a lane after a failed write, as the pipeline has them.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));
/// How long an edit may take to arrive; on the virtual clock that is the moment in which it happens.
const EDIT_TAKES: Duration = Duration::from_millis(5);
const PIPELINE: &str = "cluster/group/table";

type Releases = Arc<Mutex<Vec<(Duration, usize)>>>;

pub(super) fn run<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
    runtime.unwrap().block_on(future)
}

/// What happens to the pipeline.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A replica starts.
    Join(Backlog),
    /// kill -9.
    Kill(usize),
    /// SIGTERM.
    Leave(usize),
    /// The database does not answer renewals for this long.
    Outage(Duration),
    /// A saved edit.
    Edit(u32),
    /// SIGSTOP, and SIGCONT after this long.
    Freeze(usize, Duration),
    /// The database takes no batch for this long; lanes try theirs again.
    WritesFail(Duration),
    /// From now on a batch takes this long.
    Commits(Duration),
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Backlog {
    Endless,
    /// At most this many spans a second arrive: each lane's next message comes a while after the last one has gone.
    Trickle(u32),
    /// A message so often, in turn from each lane; the first one at once.
    Every(Duration),
    /// This many spans a second arrive, also while lanes wait: what has come then goes with the next message.
    Stream(u32),
}

/// A pipeline whose lanes do nothing but pass the gate.
pub(super) struct Bench {
    pub(super) store: Arc<MemoryStore>,
    pub(super) live: watch::Sender<Applied>,
    pub(super) replicas: Vec<Option<Replica>>,
    /// When each replica started, and when it ended.
    pub(super) lives: Vec<(Duration, Option<Duration>)>,
    pub(super) releases: Releases,
    /// Spans that each replica has released.
    totals: Arc<Mutex<Vec<usize>>>,
    pub(super) began: Instant,
    pub(super) message: usize,
    pub(super) commit: Arc<Mutex<Duration>>,
    /// No batch is taken before.
    pub(super) taken_from: Arc<Mutex<Instant>>,
}

pub(super) struct Replica {
    stop: CancellationToken,
    frozen: watch::Sender<bool>,
    tasks: JoinSet<()>,
}

/// Does what `task` does, but nothing at all while it is frozen: time passes, and nobody looks.
async fn freezable(task: impl Future<Output = ()>, mut frozen: watch::Receiver<bool>) {
    let mut task = std::pin::pin!(task);
    loop {
        // A replica that is gone is not thawed any more.
        let stands_still = async { frozen.wait_for(|frozen| *frozen).await.is_ok() };
        tokio::select! {
            biased;
            stands_still = stands_still => if !stands_still {
                break;
            },
            () = &mut task => return,
        }
        if frozen.wait_for(|frozen| !*frozen).await.is_err() {
            break;
        }
    }
    task.await;
}

fn applied(rate: u32, revision: u64) -> Applied {
    let live = Live::of_rate(rate);
    Applied::new(live, revision, Origin::File)
}

impl Bench {
    pub(super) fn new(rate: u32, message: usize, commit: Duration) -> Self {
        Self {
            store: Arc::new(MemoryStore::new(LANES, 1 << 20)),
            live: watch::Sender::new(applied(rate, 1)),
            replicas: Vec::new(),
            lives: Vec::new(),
            releases: Releases::default(),
            totals: Arc::default(),
            began: Instant::now(),
            message,
            commit: Arc::new(Mutex::new(commit)),
            taken_from: Arc::new(Mutex::new(Instant::now())),
        }
    }

    pub(super) fn join(&mut self, backlog: Backlog) {
        let gate = Arc::new(Gate::new());
        let (stop, mut tasks) = (CancellationToken::new(), JoinSet::new());
        let frozen = watch::Sender::new(false);
        let live = self.live.subscribe();
        let initial = live.borrow().live.clone();
        let clock = Arc::new(DatabaseClock::default());
        let control = Arc::new(RateControl::new(gate.clone(), clock, Arc::new(Meters::default()), initial));
        let (one, token) = (control.clone(), stop.clone());
        tasks.spawn(freezable(async move { one.follow(live, token).await }, frozen.subscribe()));
        let (store, token) = (self.store.clone(), stop.clone());
        let holder = format!("replica-{}", self.replicas.len());
        let renewal = async move { control.renew(&*store, PIPELINE.to_owned(), holder, token).await };
        tasks.spawn(freezable(renewal, frozen.subscribe()));
        self.totals.lock().unwrap().push(0);
        for _ in 0..LANES {
            let lane = Lane {
                replica: self.replicas.len(),
                totals: self.totals.clone(),
                gate: gate.clone(),
                releases: self.releases.clone(),
                began: self.began,
                message: self.message,
                commit: self.commit.clone(),
                taken_from: self.taken_from.clone(),
                backlog,
            };
            tasks.spawn(freezable(lane.run(stop.clone()), frozen.subscribe()));
        }
        self.replicas.push(Some(Replica { stop, frozen, tasks }));
        self.lives.push((self.began.elapsed(), None));
    }

    /// The number of a living replica, counted round.
    fn living(&self, index: usize) -> Option<usize> {
        let living: Vec<usize> =
            (0..self.replicas.len()).filter(|index| self.replicas[*index].is_some()).collect();
        living.get(index % living.len().max(1)).copied()
    }

    /// Takes a living replica to its end, which has come when `ends` has.
    async fn end(&mut self, index: usize, ends: impl AsyncFnOnce(Replica)) {
        let Some(chosen) = self.living(index) else { return };
        if let Some(replica) = self.replicas[chosen].take() {
            ends(replica).await;
        }
        self.lives[chosen].1 = Some(self.began.elapsed());
    }

    /// Lanes of replicas that lived at some time within a second from `begin` on.
    pub(super) fn lanes_within(&self, begin: Duration) -> usize {
        let lived = |(born, died): &&(Duration, Option<Duration>)| {
            *born < begin + SECOND && died.is_none_or(|died| died >= begin)
        };
        self.lives.iter().filter(lived).count() * LANES
    }

    pub(super) async fn apply(&mut self, event: Event) {
        match event {
            Event::Join(backlog) => self.join(backlog),
            Event::Kill(index) => {
                self.end(index, async |mut replica| replica.tasks.shutdown().await).await;
            }
            Event::Leave(index) => {
                let leaves = async |mut replica: Replica| {
                    replica.stop.cancel();
                    while replica.tasks.join_next().await.is_some() {}
                };
                self.end(index, leaves).await;
            }
            Event::Freeze(index, length) => {
                let frozen = self.living(index).and_then(|index| self.replicas[index].as_ref());
                if let Some(frozen) = frozen.map(|replica| replica.frozen.clone()) {
                    frozen.send_replace(true);
                    tokio::spawn(async move {
                        tokio::time::sleep(length).await;
                        frozen.send_replace(false);
                    });
                }
            }
            Event::WritesFail(length) => *self.taken_from.lock().unwrap() = Instant::now() + length,
            Event::Outage(length) => {
                let until = Instant::now() + length;
                self.store.on_call(move |call| {
                    (matches!(call, Call::Lease) && Instant::now() < until)
                        .then(|| StoreError::new(ErrorKind::Unavailable, "the database is away"))
                });
            }
            Event::Commits(length) => *self.commit.lock().unwrap() = length,
            Event::Edit(rate) => self.edit(|live| live.rate_limit_qps = rate),
        }
    }

    pub(super) fn edit(&self, change: impl FnOnce(&mut Live)) {
        self.live.send_modify(|current| {
            change(&mut current.live);
            current.revision += 1;
        });
    }

    /// Spans that each replica has released up to now.
    pub(super) fn totals(&self) -> Vec<usize> {
        self.totals.lock().unwrap().clone()
    }

    fn releases(&self) -> Vec<(Duration, usize)> {
        let mut releases = self.releases.lock().unwrap().clone();
        releases.sort_unstable();
        releases
    }

    pub(super) fn released_between(&self, begin: Duration, end: Duration) -> usize {
        self.releases().iter().filter(|(at, _)| (begin..end).contains(at)).map(|(_, spans)| spans).sum()
    }
}

struct Lane {
    replica: usize,
    totals: Arc<Mutex<Vec<usize>>>,
    gate: Arc<Gate>,
    releases: Releases,
    began: Instant,
    message: usize,
    commit: Arc<Mutex<Duration>>,
    taken_from: Arc<Mutex<Instant>>,
    backlog: Backlog,
}

impl Lane {
    async fn run(self, stop: CancellationToken) {
        let message = self.message;
        let (started, mut taken, flow) = (Instant::now(), 0, Flow::default());
        let mut backoff = BACKOFF.0;
        loop {
            let available = match self.backlog {
                Backlog::Endless => 100_000,
                Backlog::Every(gap) => {
                    tokio::time::sleep_until(started + gap * (taken / message) as u32).await;
                    message
                }
                Backlog::Trickle(rate) => {
                    let gap = (LANES * message) as f64 / f64::from(rate);
                    tokio::time::sleep(Duration::from_secs_f64(gap)).await;
                    message
                }
                Backlog::Stream(rate) => {
                    let gap = (LANES * message) as f64 / f64::from(rate);
                    let next = (taken / message + 1) as f64 * gap;
                    tokio::time::sleep_until(started + Duration::from_secs_f64(next)).await;
                    let arrived = (started.elapsed().as_secs_f64() / gap) as usize * message;
                    arrived.saturating_sub(taken).max(message)
                }
            };
            let more = matches!(self.backlog, Backlog::Endless);
            let offer = Offer { first: message, available, most: 1_000.max(message), more };
            let whole = |most: usize| ((most / message).max(1) * message).min(available);
            tokio::select! {
                () = stop.cancelled() => return,
                (spans, at) = self.gate.release(&flow, offer, |most| (whole(most), whole(most))) => {
                    self.releases.lock().unwrap().push((at - self.began, spans));
                    self.totals.lock().unwrap()[self.replica] += spans;
                    taken += spans;
                }
            }
            let commit = *self.commit.lock().unwrap();
            let write = self.gate.watch_write();
            tokio::time::sleep(commit).await;
            let is_taken = Instant::now() >= *self.taken_from.lock().unwrap();
            write.ended(if is_taken { Outcome::Committed } else { Outcome::Failed });
            if is_taken {
                backoff = BACKOFF.0;
                continue;
            }
            // What is tried again takes its turn at the gate again.
            tokio::select! {
                () = stop.cancelled() => return,
                () = tokio::time::sleep(backoff) => backoff = (backoff * 2).min(BACKOFF.1),
            }
        }
    }
}

/// Every sliding second: its begin and what was released within it.
fn seconds(releases: &[(Duration, usize)]) -> Vec<(Duration, usize)> {
    let (mut end, mut sum) = (0, 0);
    let mut seconds = Vec::with_capacity(releases.len());
    for (begin, spans) in releases {
        while end < releases.len() && releases[end].0 < *begin + SECOND {
            sum += releases[end].1;
            end += 1;
        }
        seconds.push((*begin, sum));
        sum -= spans;
    }
    seconds
}

/// Checks every sliding second against the largest rate that was set within it.
pub(super) fn check_bound(bench: &Bench, rates: &[(Duration, u32)]) -> Result<(), TestCaseError> {
    for (begin, within) in seconds(&bench.releases()) {
        let end = begin + SECOND;
        let set_before =
            rates.iter().rev().find(|(at, _)| *at + EDIT_TAKES <= begin).map_or(0, |(_, rate)| *rate);
        let largest = rates
            .iter()
            .filter(|(at, _)| *at < end && *at + EDIT_TAKES > begin)
            .fold(set_before, |largest, (_, rate)| largest.max(*rate));
        let lanes = bench.lanes_within(begin);
        // All lanes together have 20 ms of the whole rate, or a message each.
        let quanta = (f64::from(largest) * QUANTUM.as_secs_f64()).max((bench.message * lanes) as f64);
        prop_assert!(
            within as f64 <= 1.01 * f64::from(largest) + quanta,
            "{within} spans in the second from {begin:?}, at a rate of {largest}"
        );
    }
    Ok(())
}
