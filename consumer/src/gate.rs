//! The gate: no span is released faster than the rate, and none of the rate is left unused.
//!
//! [`bucket`] is the arithmetic of one replica on a virtual clock, [`lease`] that of dividing the rate between
//! replicas, [`clock`] tells the database's time, [`control`] brings them together with the live document. [`guard`] and
//! [`ramp`] lower the rate while the database suffers and after it was away. [`Gate`] is what lanes wait at. Of the
//! partitions that wait, the one goes first that has taken least ([`flow`]): one with large messages, or with a large
//! backlog, gets what the others leave.

pub mod bucket;
pub mod clock;
pub mod control;
pub mod flow;
pub mod guard;
pub mod lease;
pub mod ramp;

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::lock::lock;
use bucket::{Answer, Bucket, Offer};
use flow::{Flow, Queue, Ticket};
use guard::{Guard, Outcome};
use ramp::Ramp;

/// A lane that waits longer than this shows that the share is too small for the demand.
const HUNGRY_AFTER: Duration = Duration::from_millis(100);

/// The limiter of one replica, shared by its lanes.
#[derive(Debug)]
pub struct Gate {
    origin: Instant,
    state: Mutex<State>,
    /// The rate, or who goes first.
    changed: Notify,
    hungry: Notify,
    health: Mutex<Health>,
    recovered: Notify,
}

/// How the database fares, by the writes of this replica.
#[derive(Debug, Default)]
pub(crate) struct Health {
    pub(crate) guard: Guard,
    pub(crate) ramp: Ramp,
}

#[derive(Debug)]
struct State {
    bucket: Bucket,
    /// Since the last [`Gate::take_usage`].
    released: u64,
    saturated: bool,
    queue: Queue,
}

/// What went through the gate since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Usage {
    /// Spans released.
    pub released: u64,
    /// Spans that wait at this moment.
    pub waiting: usize,
    /// Spans released before their time that are not paid for yet: see [`Bucket::owed`].
    pub owed: usize,
    /// Whether a lane had to wait, or got less than it offered, with more behind it: then any share is useful.
    pub saturated: bool,
}

impl Gate {
    /// A gate that lets nothing through until its rate is set.
    pub fn new() -> Self {
        let state = State {
            bucket: Bucket::new(Duration::ZERO),
            released: 0,
            saturated: false,
            queue: Queue::default(),
        };
        Self {
            origin: Instant::now(),
            state: Mutex::new(state),
            changed: Notify::new(),
            hungry: Notify::new(),
            health: Mutex::default(),
            recovered: Notify::new(),
        }
    }

    /// Spans per second that this replica may release.
    pub fn rate(&self) -> f64 {
        self.lock().bucket.rate()
    }

    /// Changes the rate, in spans per second, which falls to 0 at `end` by itself; waiting lanes notice at once.
    pub fn set_rate(&self, rate: f64, end: Instant) {
        {
            let (mut state, now) = self.lock_now();
            state.bucket.set_end(now, end.saturating_duration_since(self.origin));
            state.bucket.set_rate(now, rate);
        }
        self.changed.notify_waiters();
    }

    /// Forgets what was saved; see [`Bucket::forget_credit`].
    pub fn forget_credit(&self) {
        let (mut state, now) = self.lock_now();
        state.bucket.forget_credit(now);
    }

    /// Waits until spans of a partition may be released. `cut` is called with the most spans that fit; it returns how many
    /// it takes (whole messages, at least the first). Returns what it took and when it was released: the
    /// moment that the guarantee counts. Safe to cancel: nothing is taken then.
    pub async fn release<T>(
        &self,
        flow: &Flow,
        offer: Offer,
        cut: impl FnOnce(usize) -> (usize, T),
    ) -> (T, Instant) {
        let waiting = Waiting::new(self, flow, offer);
        loop {
            // Registered before the question, so that a change between question and wait is not missed.
            let changed = self.changed.notified();
            let answer = {
                let (mut state, now) = self.lock_now();
                // Somebody else may come first while this one waits for its time.
                let answer = state.queue.is_first(waiting.ticket).then(|| state.bucket.ask(now, offer));
                if let Some(Answer::Release(most)) = answer {
                    let (spans, taken) = cut(most);
                    #[cfg(feature = "planted")]
                    let spans = if crate::planted::is(crate::planted::Bug::DoubleRelease) {
                        spans / 2
                    } else {
                        spans
                    };
                    state.bucket.released(now, spans, offer.first);
                    state.queue.released(waiting.ticket, flow, spans);
                    state.released += spans as u64;
                    state.saturated |= offer.more && spans < offer.available.min(offer.most);
                    return (taken, self.origin + now);
                }
                state.saturated |= offer.more;
                answer
            };
            match answer {
                Some(Answer::Wait(until)) => {
                    if until > self.now() + HUNGRY_AFTER {
                        self.hungry.notify_one();
                    }
                    tokio::select! {
                        () = tokio::time::sleep_until(self.origin + until) => {}
                        () = changed => {}
                    }
                }
                Some(_) => {
                    self.hungry.notify_one();
                    changed.await;
                }
                None => changed.await,
            }
        }
    }

    /// Which of two partitions goes first: the one with less. See [`Queue::start_of`].
    pub fn start_of(&self, flow: &Flow) -> u64 {
        self.lock().queue.start_of(flow)
    }

    /// What went through since the last call.
    pub fn take_usage(&self) -> Usage {
        let (mut state, now) = self.lock_now();
        let saturated = std::mem::take(&mut state.saturated) || state.queue.offers().any(|offer| offer.more);
        let released = std::mem::take(&mut state.released);
        let waiting = state.queue.offers().map(|offer| offer.available).sum();
        Usage { released, waiting, owed: state.bucket.owed(now) as usize, saturated }
    }

    /// Begins to watch a transaction of the database. Dropped without an outcome it tells nothing.
    pub fn watch_write(&self) -> WatchedWrite<'_> {
        let write = self.health(|health, now| health.guard.began(now));
        WatchedWrite { gate: self, write, outcome: Outcome::Unclear }
    }

    /// Waits until a write ends an outage. Safe to cancel.
    pub async fn recovered(&self) {
        self.recovered.notified().await;
    }

    /// How the database fares, and the gate's time.
    pub(crate) fn health<T>(&self, with: impl FnOnce(&mut Health, Duration) -> T) -> T {
        let mut health = lock(&self.health);
        // As in `lock_now`.
        let now = self.now();
        with(&mut health, now)
    }

    /// The instant of a time that [`Self::health`] knows.
    pub(crate) fn instant(&self, time: Duration) -> Instant {
        self.origin + time
    }

    /// See [`Bucket::is_ahead`].
    pub fn is_ahead(&self) -> bool {
        let (state, now) = self.lock_now();
        state.bucket.is_ahead(now)
    }

    /// Waits until a lane finds the share too small. Safe to cancel.
    pub async fn hungry(&self) {
        self.hungry.notified().await;
    }

    fn now(&self) -> Duration {
        self.origin.elapsed()
    }

    /// The time is read while the lock is held: who read it before, and then waited, would bring the bucket a time from
    /// before the last release, and the rate since then would count twice.
    fn lock_now(&self) -> (MutexGuard<'_, State>, Duration) {
        let state = self.lock();
        let now = self.now();
        (state, now)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }
}

impl Default for Gate {
    fn default() -> Self {
        Self::new()
    }
}

/// Times one transaction for the guard and the slow start.
#[derive(Debug)]
pub struct WatchedWrite<'a> {
    gate: &'a Gate,
    write: u64,
    outcome: Outcome,
}

impl WatchedWrite<'_> {
    /// It has ended.
    pub fn ended(mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for WatchedWrite<'_> {
    fn drop(&mut self) {
        let recovered = self.gate.health(|health, now| {
            health.guard.ended(now, self.write, self.outcome);
            match self.outcome {
                Outcome::Committed => health.ramp.worked(now),
                Outcome::Failed => {
                    health.ramp.failed(now);
                    false
                }
                Outcome::Unclear => false,
            }
        });
        if recovered {
            self.gate.recovered.notify_one();
        }
    }
}

/// A place in the queue, however [`Gate::release`] ends.
struct Waiting<'a> {
    gate: &'a Gate,
    ticket: Ticket,
}

impl<'a> Waiting<'a> {
    fn new(gate: &'a Gate, flow: &Flow, offer: Offer) -> Self {
        let ticket = gate.lock().queue.enter(flow, offer);
        // It may come before one that waits for its time.
        gate.changed.notify_waiters();
        Self { gate, ticket }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.gate.lock().queue.leave(self.ticket);
        self.gate.changed.notify_waiters();
    }
}

#[cfg(test)]
mod tests;
