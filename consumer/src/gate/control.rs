//! Sets the gate's rate: live document × leased share, in the database's time; less while the guard holds it down
//! or after a stop.
//!
//! Guarantee: the gate's rate is never above share × rate of the last good live document, whatever guard and slow start
//! say. Without a lease that has not ended it is 0; it is never unlimited. A smaller share is in effect before the
//! transaction commits that frees it for others.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use jiff::Timestamp;
use sluice_crds::live::Live;
use sluice_crds::schedule::{RatePlan, Step};
use tokio::sync::{Notify, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Gate;
use super::bucket::WINDOW;
use super::clock::DatabaseClock;
use super::guard::Aim;
use super::lease::{self, LeaseRequest, WHOLE};
use super::ramp::OUTAGE;
use crate::backoff::Backoff;
use crate::live::Applied;
use crate::lock::lock;
use crate::meter::Meters;
use crate::store::{ErrorKind, Store, StoreError};

/// How long one renewal may take. Longer than a busy database needs; shorter than a lease.
const RENEWAL_TIMEOUT: Duration = Duration::from_secs(2);
/// Between two renewals at least, however often the demand jumps.
const LEAST_GAP: Duration = Duration::from_millis(100);
/// Over this time the use of the rate is averaged. Bursts of a replica that is not saturated are shorter than
/// its share should follow: what it holds beyond its mean is lost to the others.
const SMOOTHED_OVER: Duration = Duration::from_secs(5);
/// A replica that released nothing for this long, and neither wants nor owes anything, is idle.
const IDLE_AFTER: Duration = Duration::from_secs(5);
/// A share that is smaller than the fair one by more than this is asked for again soon.
const STARVED_BY: u32 = WHOLE / 100;
/// A replica that is ahead of its rate keeps its share where it would give up more than one part of it in so many.
const KEPT_PARTS: u32 = 50;
/// Between two looks, at the end, whether what went out ahead of the rate is made up for.
const AHEAD_LOOKED_AT_EVERY: Duration = Duration::from_millis(50);
/// The rate is looked at again after this, whatever is known to change it.
const LONGEST_WAIT: Duration = Duration::from_secs(3_600);

/// Keeps the rate of one replica's gate.
pub struct RateControl {
    gate: Arc<Gate>,
    clock: Arc<DatabaseClock>,
    meters: Arc<Meters>,
    inputs: Mutex<Inputs>,
    changed: Notify,
    /// In spans per second; see [`Self::with_limit`].
    limit: Option<u32>,
}

#[derive(Debug)]
struct Inputs {
    plan: RatePlan,
    /// What the plan said last, and from when on.
    step: Option<(Timestamp, Step)>,
    /// Whether there was a document yet: that the rate is 0 before the first one is no stop.
    told: bool,
    /// The whole rate of a document that was set last.
    whole: Option<u32>,
    /// In millionths; counts until `lease_end`.
    share: u32,
    lease_end: Instant,
    /// When the first renewal began that has failed since one succeeded, and when the last one had.
    failures: Option<(Instant, Instant)>,
}

impl Inputs {
    fn step(&mut self, time: Timestamp) -> Step {
        match self.step {
            Some((from, step)) if from <= time && step.until.is_none_or(|until| time < until) => step,
            _ => {
                let step = self.plan.at(time);
                self.step = Some((time, step));
                step
            }
        }
    }
}

impl RateControl {
    /// Starts with rate 0: there is no lease yet.
    pub fn new(gate: Arc<Gate>, clock: Arc<DatabaseClock>, meters: Arc<Meters>, live: Live) -> Self {
        let inputs = Inputs {
            plan: RatePlan::new(live),
            step: None,
            told: false,
            whole: None,
            share: 0,
            lease_end: Instant::now(),
            failures: None,
        };
        Self { gate, clock, meters, inputs: Mutex::new(inputs), changed: Notify::new(), limit: None }
    }

    /// Never more than `limit` spans per second, whatever the share; asks for no larger share than that.
    #[must_use]
    pub fn with_limit(self, limit: Option<u32>) -> Self {
        Self { limit, ..self }
    }

    /// Follows the live document, the ends of lease, override and windows, the guard and the slow start until `stop`.
    pub async fn follow(&self, mut live: watch::Receiver<Applied>, stop: CancellationToken) {
        loop {
            let applied = live.borrow_and_update().clone();
            self.follow_document(&applied);
            loop {
                let next_change = self.apply();
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = live.changed() => {
                        if changed.is_err() {
                            // The watcher ended with the process; the last document stays.
                            stop.cancelled().await;
                            return;
                        }
                        break;
                    }
                    () = self.changed.notified() => {}
                    () = self.gate.recovered() => {}
                    () = tokio::time::sleep_until(next_change) => {}
                }
            }
        }
    }

    fn follow_document(&self, applied: &Applied) {
        {
            let mut inputs = self.lock();
            inputs.plan = RatePlan::new(applied.live.clone());
            inputs.step = None;
            inputs.told = applied.origin.is_some();
        }
        let aim = applied
            .live
            .guard
            .as_ref()
            .map(|guard| Aim { target: guard.target_write_latency.into(), least: f64::from(guard.min_qps) });
        self.gate.health(|health, now| health.guard.set_aim(now, aim));
        self.meters.set_applied(applied);
    }

    /// Renews the lease until `stop`, then gives it back.
    pub async fn renew(&self, store: &dyn Store, pipeline: String, holder: String, stop: CancellationToken) {
        let mut demand = Demand::new();
        let mut backoff = Backoff::new(lease::RENEW_STARVED, lease::RENEW);
        loop {
            let usage = self.gate.take_usage();
            self.meters.set_owed(usage.owed as u64);
            let request = LeaseRequest {
                name: pipeline.clone(),
                holder: holder.clone(),
                demand: self.limited(demand.measure(usage, self.whole_rate())),
                ttl: lease::TTL,
            };
            let begin = Instant::now();
            let renewal = tokio::time::timeout(RENEWAL_TIMEOUT, self.renew_once(store, &request)).await;
            let renewal = renewal.unwrap_or_else(|_| {
                let context =
                    format!("no answer to a renewal of the rate's lease within {RENEWAL_TIMEOUT:?}");
                Err(StoreError::new(ErrorKind::Unavailable, context))
            });
            if renewal.is_ok() {
                backoff.reset();
            }
            let pause = match (renewal, request.demand) {
                (Err(error), _) => {
                    let now = Instant::now();
                    self.lock().failures.get_or_insert((begin, now)).1 = now;
                    self.meters.lease_failed(&error);
                    backoff.pause()
                }
                (Ok(true), _) => lease::RENEW_STARVED,
                (Ok(false), 0) => lease::RENEW_IDLE,
                (Ok(false), _) => lease::RENEW,
            };
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep_until(begin + pause) => {}
                () = self.wanting_more(request.demand, begin) => {}
            }
        }
        // Nothing is released any more; what went out ahead of the rate is not handed over, see `renew_once`.
        let begin = Instant::now();
        while self.gate.is_ahead() && begin.elapsed() < WINDOW {
            tokio::time::sleep(AHEAD_LOOKED_AT_EVERY).await;
        }
        self.lower(0);
        if let Err(error) = lease::give_back(store, &pipeline, &holder).await {
            tracing::info!(%error, "the lease was not given back; it ends by itself within {:?}", lease::TTL);
        }
    }

    /// Ends when a lane found the share too small although a larger one may be had: not where all of it was asked for,
    /// or all that may be used, or where this replica has all of it.
    async fn wanting_more(&self, reported_demand: u32, renewed_at: Instant) {
        loop {
            self.gate.hungry().await;
            let may_have_more = reported_demand < self.limited(WHOLE) && self.share() < WHOLE;
            if may_have_more && self.whole_rate() > 0 {
                tokio::time::sleep_until(renewed_at + LEAST_GAP).await;
                return;
            }
        }
    }

    /// One renewal. Returns whether it should be tried again soon: less than the fair share could be had, or more
    /// had to be kept.
    async fn renew_once(&self, store: &dyn Store, request: &LeaseRequest) -> Result<bool, StoreError> {
        let asked_at = Instant::now();
        let present = self.share();
        let (mut fair, mut kept) = (0, false);
        let grant = store
            .lease(request, &mut |others| {
                fair = lease::fair_share(request.demand, others);
                let mut share = lease::next_share(request.demand, present, others);
                // What went out ahead of the rate is not handed over: whoever got it would use it once more. What others
                // hold by now cannot be kept.
                let keepable = present.min(lease::left_free(others));
                kept = share + share / KEPT_PARTS < keepable && self.gate.is_ahead();
                if kept {
                    share = keepable;
                }
                // In effect before the commit that shows others that it is free.
                self.lower(share);
                share
            })
            .await?;
        self.clock.correct(asked_at, grant.database_time);
        {
            let mut inputs = self.lock();
            // Idle leases lapse, too; only where the database did not answer for a while was it away.
            let was_away = inputs.failures.take().is_some_and(|(first, last)| last - first >= OUTAGE);
            if was_away && inputs.lease_end < asked_at {
                self.gate.health(|health, now| health.ramp.begin(now));
            }
            inputs.share = grant.share;
            inputs.lease_end = asked_at + request.ttl;
        }
        self.changed.notify_one();
        self.apply();
        self.meters.lease_renewed();
        Ok(kept || grant.share + STARVED_BY < fair)
    }

    fn lower(&self, share: u32) {
        let lowered = {
            let mut inputs = self.lock();
            let lowered = share < inputs.share;
            inputs.share = inputs.share.min(share);
            lowered
        };
        if lowered {
            self.apply();
        }
    }

    /// Sets the gate's rate; returns when it changes by itself.
    fn apply(&self) -> Instant {
        let mut inputs = self.lock();
        let now = Instant::now();
        let leased = now < inputs.lease_end;
        let time = self.database_time(now);
        let step = inputs.step(time);
        let whole = step.rate;
        let share = f64::from(if leased { inputs.share } else { 0 }) / f64::from(WHOLE);
        let before = inputs.whole;
        inputs.whole = inputs.told.then_some(whole);
        let (held, part, lowered, next_look) = self.gate.health(|health, now| {
            if before == Some(0) && whole > 0 {
                health.ramp.begin(now);
            }
            let held = health.guard.limit(now, f64::from(whole));
            let part = health.ramp.part(now);
            let next_look = health.guard.next_look().into_iter().chain(health.ramp.next_step(now)).min();
            (held, part, health.guard.lowered(), next_look)
        });
        let rate = held.unwrap_or(f64::MAX).min(f64::from(whole)) * share * part;
        let rate = self.limit.map_or(rate, |limit| rate.min(f64::from(limit)));
        if before.is_some_and(|before| whole < before) {
            self.gate.forget_credit();
        }
        #[cfg(feature = "planted")]
        plant(&self.gate, rate, whole, inputs.lease_end);
        #[cfg(not(feature = "planted"))]
        self.gate.set_rate(rate, inputs.lease_end);
        self.meters.set_rate(whole, rate, share, inputs.plan.live().suspend);
        self.meters.set_guard(held, lowered);
        let lease_end = leased.then_some(inputs.lease_end);
        let next_look = next_look.map(|at| self.gate.instant(at));
        let next_step = step.until.map(|until| at_database_time(until, now, time));
        let far = now + LONGEST_WAIT;
        [lease_end, next_look, next_step].into_iter().flatten().fold(far, Instant::min)
    }

    /// The demand, as far as the limit allows to use it.
    fn limited(&self, demand: u32) -> u32 {
        let Some(limit) = self.limit else { return demand };
        let usable = f64::from(limit) / f64::from(self.whole_rate().max(1)) * f64::from(WHOLE);
        demand.min((usable.ceil() as u32).clamp(1, WHOLE))
    }

    fn share(&self) -> u32 {
        let inputs = self.lock();
        if Instant::now() < inputs.lease_end { inputs.share } else { 0 }
    }

    fn whole_rate(&self) -> u32 {
        let time = self.database_time(Instant::now());
        self.lock().step(time).rate
    }

    /// The database's time; ours until the database has told its own.
    fn database_time(&self, now: Instant) -> Timestamp {
        let milliseconds = self.clock.at(now).unwrap_or_else(|| Timestamp::now().as_millisecond());
        Timestamp::from_millisecond(milliseconds).unwrap_or(Timestamp::MAX)
    }

    fn lock(&self) -> MutexGuard<'_, Inputs> {
        lock(&self.inputs)
    }
}

/// Sets the rate as a planted bug would.
#[cfg(feature = "planted")]
fn plant(gate: &Gate, rate: f64, whole: u32, lease_end: Instant) {
    use crate::planted::{Bug, is};
    let leased = Instant::now() < lease_end;
    if !leased && is(Bug::UnlimitedLease) {
        gate.set_rate(1e9, Instant::now() + LONGEST_WAIT);
    } else if leased && is(Bug::KeepShare) {
        gate.set_rate(f64::from(whole), lease_end);
    } else {
        gate.set_rate(rate, lease_end);
    }
}

/// Our instant of a later time of the database; [`LONGEST_WAIT`] from now at most. A millisecond late rather than early: what
/// ends then must be over.
fn at_database_time(later: Timestamp, now: Instant, database_time: Timestamp) -> Instant {
    let left = later.as_millisecond().saturating_sub(database_time.as_millisecond());
    now + Duration::from_millis(left.clamp(0, LONGEST_WAIT.as_millis() as i64) as u64 + 1)
}

/// What the replica could use, in millionths of the whole rate.
struct Demand {
    measured_at: Instant,
    used_at: Instant,
    /// Spans per second, smoothed over [`SMOOTHED_OVER`].
    used: f64,
    /// How much of that time has been measured yet, from 0 to 1: a replica that has just started is not one of little
    /// use.
    measured: f64,
}

impl Demand {
    fn new() -> Self {
        let now = Instant::now();
        // Not idle at first: the first lease is wanted before the first span arrives.
        Self { measured_at: now, used_at: now, used: 0.0, measured: 0.0 }
    }

    fn measure(&mut self, usage: super::Usage, whole_rate: u32) -> u32 {
        let now = Instant::now();
        let period = now.saturating_duration_since(self.measured_at).as_secs_f64().max(1e-3);
        self.measured_at = now;
        let weight = (-period / SMOOTHED_OVER.as_secs_f64()).exp();
        self.used = self.used * weight + usage.released as f64 / period * (1.0 - weight);
        self.measured = self.measured * weight + 1.0 - weight;
        if usage.released > 0 || usage.waiting > 0 || usage.owed > 0 {
            self.used_at = now;
        }
        if whole_rate == 0 || now.saturating_duration_since(self.used_at) > IDLE_AFTER {
            return 0;
        }
        if usage.saturated {
            return WHOLE;
        }
        // What waits is drained within the time of smoothing. A large message needs no large share to go at once; it
        // leaves a debt, which is paid also while nothing comes, or the next message would wait for it. What is owed was
        // used, so only the larger of the two counts.
        let used = (self.used / self.measured).max(usage.owed as f64 / SMOOTHED_OVER.as_secs_f64());
        let wanted = used + usage.waiting as f64 / SMOOTHED_OVER.as_secs_f64();
        // At least something, so that the share is not lost between two spans.
        ((wanted / f64::from(whole_rate) * f64::from(WHOLE)) as u32).clamp(1, WHOLE)
    }
}

#[cfg(test)]
mod tests;
