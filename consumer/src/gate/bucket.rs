//! The arithmetic of one replica's limiter, on a clock that the caller moves.
//!
//! Guarantee: over every sliding second, the spans released are at most 1.02 times the integral of the rate, plus
//! what the last message of the window exceeds a quantum by; and over a longer time their mean is the rate. Two
//! rules give it:
//!
//! - *tokens*: a bucket that fills at the rate, so that the mean never exceeds it. A message larger than the
//!   quantum may overdraw it and leaves a debt. It holds at most [`BURST`] worth, and starts empty.
//! - *window*: tokens saved during a stall may only replace what was not released in the last second or so. A
//!   plain bucket with room for half a second would allow one and a half times the rate in some second; one with
//!   room for a quantum (20 ms) would lose the rate of every transaction that takes longer. See
//!   `docs/adr/0002-limiter-window.md`.
//!
//! Times are durations since an origin that the caller chooses, and must not go back.

use std::collections::VecDeque;
use std::time::Duration;

/// The part of a second whose worth of rate a lane waits for. Small enough that the database sees a steady
/// stream; large enough that a transaction's fixed cost is shared. A lane takes more at once only where commits
/// take longer than this.
pub const QUANTUM: Duration = Duration::from_millis(20);

/// How much unused rate is kept. It covers a slow commit or a stalled scheduler; whatever is not used within
/// half a second was not wanted.
pub const BURST: Duration = Duration::from_millis(500);

/// How much of it goes at once: what slow commits of a lane on its own take, three quanta. A larger piece would come back
/// as a pause when it leaves the window, and as another piece after that, over and over.
pub const CATCH_UP: Duration = Duration::from_millis(60);

/// How fast the rest of it is caught up, in terms of the rate: by what the window allows anyway.
const PEAK: f64 = 1.02;

/// The span over which the limiter counts: the second of the guarantee, and a hundredth for the clocks by which it
/// is checked. A pause of commits echoes when the releases before and after it leave the window; counted by clocks
/// that lie a millisecond apart, both ends of an echo would fall into one second of exactly this length.
pub const WINDOW: Duration = Duration::from_millis(1_010);

/// What a window may hold, in terms of the integral of the rate over it. The guarantee allows 1.01 and a quantum a
/// lane, 1.03 in all, in a second; a window holds 1.02 of a second. Without this, releases whose distance is no part
/// of the window would lose rate, as they can never fill all windows to the brim. The rest is for shares that change
/// hands ([`Bucket::is_ahead`]).
const ALLOWANCE: f64 = 1.01;

/// Rounding of a sum of fractions must not cost a span.
const EPSILON: f64 = 1e-6;

/// What a lane has to offer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Offer {
    /// Spans of the first message (counted as at least 1: a message without spans is progress too).
    pub first: usize,
    /// Spans of all messages that wait in the lane.
    pub available: usize,
    /// Most that one transaction takes, a single larger message excepted.
    pub most: usize,
    /// Whether more waits behind what is available.
    pub more: bool,
}

/// Answer to an [`Offer`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Answer {
    /// Release up to this many spans, at least the first message, and say how many by [`Bucket::released`].
    Release(usize),
    /// Ask again at this time, or when the rate has changed.
    Wait(Duration),
    /// The rate is 0: ask again when it has changed.
    Stopped,
}

#[derive(Clone, Copy, Debug)]
struct Sample {
    at: Duration,
    /// Integral of the rate up to `at`, times [`ALLOWANCE`].
    allowed: f64,
    /// Spans released up to `at`, inclusive.
    released: f64,
    /// Spans of the message that went out at `at`, where one did.
    message: f64,
    /// Rate from `at` on.
    rate: f64,
}

/// The limiter of one replica.
#[derive(Debug)]
pub struct Bucket {
    rate: f64,
    /// The rate is 0 from then on.
    end: Duration,
    tokens: f64,
    /// What may go at once; see [`CATCH_UP`].
    at_once: f64,
    filled_at: Duration,
    /// Ascending in time; the first one is the last at or before the beginning of the window.
    samples: VecDeque<Sample>,
}

impl Bucket {
    /// An empty bucket with rate 0.
    pub fn new(now: Duration) -> Self {
        let origin = Sample { at: now, allowed: 0.0, released: 0.0, message: 0.0, rate: 0.0 };
        Self {
            rate: 0.0,
            end: Duration::MAX,
            tokens: 0.0,
            at_once: 0.0,
            filled_at: now,
            samples: VecDeque::from([origin]),
        }
    }

    /// The rate in effect, in spans per second.
    pub fn rate(&self) -> f64 {
        self.rate
    }

    /// Changes the rate. What was saved, in time, stays saved, but where the rate falls only a quantum of it goes at
    /// once: somebody else has that rate from now on, and the window still counts with the larger one. A debt, in
    /// spans, stays owed.
    pub fn set_rate(&mut self, now: Duration, rate: f64) {
        if rate == self.rate {
            return;
        }
        self.fill(now);
        if rate < self.rate {
            if self.tokens > 0.0 {
                self.tokens *= rate / self.rate;
            }
            self.at_once = self.at_once.min(rate * QUANTUM.as_secs_f64());
        }
        self.rate = rate;
        let last = self.newest();
        self.samples.push_back(Sample { at: now, rate, ..self.advance(last, now) });
    }

    /// Forgets what was saved: after an edit to a smaller rate the first second complies already.
    pub fn forget_credit(&mut self, now: Duration) {
        self.fill(now);
        self.tokens = self.tokens.min(0.0);
    }

    /// Lets the rate fall to 0 at `end`, without anybody having to do it then: a process that was frozen
    /// releases nothing on the strength of a lease that ended meanwhile.
    pub fn set_end(&mut self, now: Duration, end: Duration) {
        self.end_if_due(now);
        self.end = end;
    }

    fn end_if_due(&mut self, now: Duration) {
        if now >= self.end {
            self.set_rate(self.end.max(self.filled_at), 0.0);
        }
    }

    /// May spans be released now?
    pub fn ask(&mut self, now: Duration, offer: Offer) -> Answer {
        self.end_if_due(now);
        if self.rate <= 0.0 {
            return Answer::Stopped;
        }
        self.fill(now);
        let quantum = self.quantum();
        let first = offer.first.max(1) as f64;
        let available = offer.available.min(offer.most) as f64;
        // Wait for a full quantum where there is enough to fill it: fewer, fuller transactions.
        let needed = available.max(first).min(quantum);
        let headroom = self.headroom(now);
        let due = self.tokens.min(self.at_once).min(headroom) + EPSILON;
        if due >= needed {
            // What became due while commits were slow goes at once, or a lane on its own would lose it.
            return Answer::Release(due.min(available).max(first) as usize);
        }
        let by_tokens =
            ((needed - self.tokens) / self.rate).max((needed - self.at_once) / (PEAK * self.rate));
        let wait = if headroom + EPSILON >= needed {
            Duration::from_secs_f64(by_tokens.max(0.0))
        } else {
            Duration::from_secs_f64(by_tokens.max(0.0)).max(self.until_headroom(now, needed))
        };
        Answer::Wait(now + wait.max(Duration::from_micros(100)))
    }

    /// Takes what an [`Answer::Release`] allowed, to a first message of `first` spans. `spans` is counted as at least 1.
    pub fn released(&mut self, now: Duration, spans: usize, first: usize) {
        self.fill(now);
        let spans = spans.max(1) as f64;
        self.tokens -= spans;
        self.at_once -= spans;
        let mut sample = self.advance(self.newest(), now);
        sample.released += spans;
        sample.message = first as f64;
        self.samples.push_back(sample);
        self.prune(now);
    }

    /// Spans that went out before their time and are not paid for yet.
    pub fn owed(&mut self, now: Duration) -> f64 {
        self.end_if_due(now);
        self.fill(now);
        (-self.tokens).max(0.0)
    }

    /// Whether, within the last window, more than a quantum went out ahead of the rate: what was saved before. A
    /// smaller rate cannot take that back. A quantum is at least a message, which is always released before its time:
    /// counted as ahead, it would keep a share from being handed over for as long as large messages come.
    pub fn is_ahead(&self, now: Duration) -> bool {
        let begin = now.saturating_sub(WINDOW);
        let (newest, mut before) = (self.newest(), self.samples[0].released);
        let (mut ahead, mut quantum) = (0.0f64, self.quantum());
        for sample in self.samples.iter().filter(|sample| sample.at > begin) {
            let due = self.rate * now.saturating_sub(sample.at).as_secs_f64();
            ahead = ahead.max(newest.released - before - due);
            before = sample.released;
            quantum = quantum.max(sample.message);
        }
        ahead > quantum + 1.0
    }

    /// [`QUANTUM`] of the rate, in spans; below 1 at rates under 50.
    fn quantum(&self) -> f64 {
        self.rate * QUANTUM.as_secs_f64()
    }

    fn fill(&mut self, now: Duration) {
        debug_assert!(now >= self.filled_at, "time went back from {:?} to {now:?}", self.filled_at);
        let elapsed = now.saturating_sub(self.filled_at).as_secs_f64();
        self.filled_at = now;
        let most = (self.rate * BURST.as_secs_f64()).max(self.quantum());
        self.tokens = (self.tokens + self.rate * elapsed).min(most);
        let most_at_once = self.rate * CATCH_UP.as_secs_f64();
        self.at_once = (self.at_once + PEAK * self.rate * elapsed).min(most_at_once);
        self.prune(now);
    }

    /// What the window still allows.
    fn headroom(&self, now: Duration) -> f64 {
        let newest = self.advance(self.newest(), now);
        let oldest = match now.checked_sub(WINDOW) {
            Some(begin) if begin >= self.samples[0].at => self.advance(self.samples[0], begin),
            _ => self.samples[0],
        };
        (newest.allowed - oldest.allowed) - (newest.released - oldest.released)
    }

    /// How long until the window allows `needed`. Its headroom is piecewise linear: it grows by the difference
    /// of the present rate and the one that leaves the window, and jumps where a release leaves it.
    fn until_headroom(&self, now: Duration, needed: f64) -> Duration {
        let mut at = now;
        let mut headroom = self.headroom(now);
        let mut leaving_rate = match now.checked_sub(WINDOW) {
            Some(begin) if begin >= self.samples[0].at => self.samples[0].rate,
            _ => 0.0,
        };
        let mut left = self.samples[0].released;
        for sample in &self.samples {
            let leaves = (sample.at + WINDOW).max(at);
            let slope = (self.rate - leaving_rate) * ALLOWANCE;
            if slope > 0.0 {
                let reached = at + Duration::from_secs_f64((needed - headroom).max(0.0) / slope);
                if reached <= leaves {
                    return reached.saturating_sub(now);
                }
            }
            headroom += slope * (leaves - at).as_secs_f64() + (sample.released - left);
            (at, leaving_rate, left) = (leaves, sample.rate, sample.released);
            if headroom + EPSILON >= needed {
                return at.saturating_sub(now);
            }
        }
        WINDOW
    }

    fn newest(&self) -> Sample {
        self.samples[self.samples.len() - 1]
    }

    fn advance(&self, from: Sample, to: Duration) -> Sample {
        let elapsed = to.saturating_sub(from.at).as_secs_f64();
        Sample {
            at: to.max(from.at),
            allowed: from.allowed + from.rate * ALLOWANCE * elapsed,
            message: 0.0,
            ..from
        }
    }

    fn prune(&mut self, now: Duration) {
        let Some(begin) = now.checked_sub(WINDOW) else { return };
        while self.samples.len() > 1 && self.samples[1].at <= begin {
            self.samples.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
