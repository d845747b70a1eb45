//! The gate: no span is released faster than the rate, and none of the rate is left unused.
//!
//! [`bucket`] is the arithmetic of one replica on a virtual clock, [`lease`] that of dividing the rate between
//! replicas, [`clock`] tells the database's time, [`control`] brings them together with the live document. [`guard`] and
//! [`ramp`] lower the rate while the database suffers and after it was away. [`Gate`] is what lanes wait at: they
//! take turns, first come first served, so that a lane with a skewed partition gets what the others leave.

pub mod bucket;
pub mod clock;
pub mod control;
pub mod guard;
pub mod lease;
pub mod ramp;

use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::lock::lock;
use bucket::{Answer, Bucket, Offer};
use guard::{Guard, Outcome};
use ramp::Ramp;

/// A lane that waits longer than this shows that the share is too small for the demand.
const HUNGRY_AFTER: Duration = Duration::from_millis(100);

/// The limiter of one replica, shared by its lanes.
#[derive(Debug)]
pub struct Gate {
    origin: Instant,
    state: Mutex<State>,
    /// Held by the lane whose turn it is; tokio's mutex is fair.
    turn: tokio::sync::Mutex<()>,
    rate_changed: Notify,
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
    /// Spans that waiting lanes have.
    waiting: usize,
    /// Waiting lanes with more behind what they offer.
    waiting_with_more: usize,
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
    /// Whether a lane got less than it offered, or had to wait, although more is there: no share is too large.
    pub saturated: bool,
}

impl Gate {
    /// A gate that lets nothing through until its rate is set.
    pub fn new() -> Self {
        let state = State {
            bucket: Bucket::new(Duration::ZERO),
            released: 0,
            saturated: false,
            waiting: 0,
            waiting_with_more: 0,
        };
        Self {
            origin: Instant::now(),
            state: Mutex::new(state),
            turn: tokio::sync::Mutex::new(()),
            rate_changed: Notify::new(),
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
        self.rate_changed.notify_waiters();
    }

    /// Forgets what was saved; see [`Bucket::forget_credit`].
    pub fn forget_credit(&self) {
        let (mut state, now) = self.lock_now();
        state.bucket.forget_credit(now);
    }

    /// Waits until spans may be released. `cut` is called with the most spans that fit; it returns how many
    /// it takes (whole messages, at least the first). Returns what it took and when it was released: the
    /// moment that the guarantee counts. Safe to cancel: nothing is taken then.
    pub async fn release<T>(&self, offer: Offer, cut: impl FnOnce(usize) -> (usize, T)) -> (T, Instant) {
        let _waiting = Waiting::new(self, offer);
        let _turn = self.turn.lock().await;
        loop {
            // Registered before the question, so that a change between question and wait is not missed.
            let changed = self.rate_changed.notified();
            let answer = {
                let (mut state, now) = self.lock_now();
                let answer = state.bucket.ask(now, offer);
                if let Answer::Release(most) = answer {
                    let (spans, taken) = cut(most);
                    #[cfg(feature = "planted")]
                    let spans = if crate::planted::is(crate::planted::Bug::DoubleRelease) {
                        spans / 2
                    } else {
                        spans
                    };
                    state.bucket.released(now, spans, offer.first);
                    state.released += spans as u64;
                    state.saturated |= offer.more && spans < offer.available.min(offer.most);
                    return (taken, self.origin + now);
                }
                state.saturated |= offer.more;
                answer
            };
            match answer {
                Answer::Wait(until) => {
                    if until > self.now() + HUNGRY_AFTER {
                        self.hungry.notify_one();
                    }
                    tokio::select! {
                        () = tokio::time::sleep_until(self.origin + until) => {}
                        () = changed => {}
                    }
                }
                _ => {
                    self.hungry.notify_one();
                    changed.await;
                }
            }
        }
    }

    /// What went through since the last call.
    pub fn take_usage(&self) -> Usage {
        let (mut state, now) = self.lock_now();
        let saturated = std::mem::take(&mut state.saturated) || state.waiting_with_more > 0;
        let released = std::mem::take(&mut state.released);
        Usage { released, waiting: state.waiting, owed: state.bucket.owed(now) as usize, saturated }
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

/// A transaction under way.
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

/// Counts what waits, however [`Gate::release`] ends.
struct Waiting<'a> {
    gate: &'a Gate,
    offer: Offer,
}

impl<'a> Waiting<'a> {
    fn new(gate: &'a Gate, offer: Offer) -> Self {
        let mut state = gate.lock();
        state.waiting += offer.available;
        state.waiting_with_more += usize::from(offer.more);
        drop(state);
        Self { gate, offer }
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let mut state = self.gate.lock();
        state.waiting -= self.offer.available;
        state.waiting_with_more -= usize::from(self.offer.more);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn later() -> Instant {
        Instant::now() + Duration::from_secs(3_600)
    }

    const OFFER: Offer = Offer { first: 1, available: 100, most: 1000, more: true };

    #[tokio::test(start_paused = true)]
    async fn a_waiting_lane_notices_a_change_of_the_rate_at_once() {
        let gate = Arc::new(Gate::new());
        let lane = tokio::spawn({
            let gate = gate.clone();
            async move { gate.release(OFFER, |most| (most, most)).await }
        });
        tokio::task::yield_now().await;
        gate.set_rate(1_000.0, later());
        let begin = Instant::now();
        assert_eq!(lane.await.unwrap().0, 20);
        assert!(begin.elapsed() < Duration::from_millis(30), "{:?}", begin.elapsed());
    }

    /// The bucket itself checks, in a debug build, that no time goes back.
    #[test]
    fn threads_that_meet_at_the_gate_bring_it_times_in_their_order() {
        let gate = Gate::new();
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let gate = &gate;
                scope.spawn(move || {
                    for turn in 0..10_000 {
                        gate.set_rate(f64::from(1_000 + thread + turn % 2), later());
                        gate.forget_credit();
                    }
                });
            }
        });
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_wait_takes_nothing() {
        let gate = Gate::new();
        gate.set_rate(10.0, later());
        let waited =
            tokio::time::timeout(Duration::from_millis(1), gate.release(OFFER, |most| (most, ()))).await;
        assert!(waited.is_err());
        assert_eq!(gate.take_usage().released, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_waits_is_counted_and_wakes_the_lease() {
        let gate = Arc::new(Gate::new());
        gate.set_rate(1.0, later());
        gate.release(OFFER, |most| (most, ())).await;
        let lane = tokio::spawn({
            let gate = gate.clone();
            async move { gate.release(OFFER, |_| (1, ())).await }
        });
        tokio::task::yield_now().await;
        assert_eq!(gate.take_usage(), Usage { released: 1, waiting: 100, owed: 0, saturated: true });
        tokio::time::timeout(Duration::from_millis(1), gate.hungry()).await.unwrap();
        lane.await.unwrap();
        assert_eq!(gate.take_usage(), Usage { released: 1, waiting: 0, owed: 0, saturated: true });
        assert!(!gate.take_usage().saturated);
    }
}
