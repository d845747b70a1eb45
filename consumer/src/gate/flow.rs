//! Who goes first at the gate: start-time fair queueing over partitions.
//!
//! Source: Goyal, Vin, Cheng, "Start-time Fair Queuing", SIGCOMM 1996, with equal weights. A batch's start is where its
//! partition's last one ended, in spans, or the start of what was released last, whichever is later; it ends as many spans
//! behind. The smallest start goes first.
//!
//! First come first served would give each partition as many *turns*, and one with a thousand spans a message a hundred
//! times the rate of one whose turn takes ten (`docs/adr/0019-partitions-share-by-spans.md`).
//!
//! Guarantee: of two partitions that both wait whenever they can, neither gets more than the other by more than a batch
//! of each. A partition that wants less than its part waits for one release at most.

use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;

use super::bucket::Offer;

/// What one partition has had at the gate: where its last batch ended.
#[derive(Debug, Default)]
pub struct Flow {
    // Written under the gate's lock only.
    end: AtomicU64,
}

/// A place in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket(u64);

#[derive(Debug)]
struct Waiter {
    start: u64,
    ticket: Ticket,
    offer: Offer,
}

/// Those that wait; a few, one a lane.
#[derive(Debug, Default)]
pub(super) struct Queue {
    waiters: Vec<Waiter>,
    last_ticket: u64,
    /// The start of what was released last.
    now: u64,
}

impl Queue {
    /// Where the next batch of a partition starts.
    pub(super) fn start_of(&self, flow: &Flow) -> u64 {
        flow.end.load(Relaxed).max(self.now)
    }

    pub(super) fn enter(&mut self, flow: &Flow, offer: Offer) -> Ticket {
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.waiters.push(Waiter { start: self.start_of(flow), ticket, offer });
        ticket
    }

    pub(super) fn leave(&mut self, ticket: Ticket) {
        self.waiters.retain(|waiter| waiter.ticket != ticket);
    }

    /// Of equal starts the first that came.
    pub(super) fn is_first(&self, ticket: Ticket) -> bool {
        let first = self.waiters.iter().min_by_key(|waiter| waiter.start);
        first.is_some_and(|waiter| waiter.ticket == ticket)
    }

    /// The first has taken so many spans of its partition.
    pub(super) fn released(&mut self, ticket: Ticket, flow: &Flow, spans: usize) {
        let waiter = self.waiters.iter().find(|waiter| waiter.ticket == ticket);
        let start = waiter.map_or(self.now, |waiter| waiter.start);
        self.now = start;
        flow.end.store(start + spans.max(1) as u64, Relaxed);
    }

    pub(super) fn offers(&self) -> impl Iterator<Item = Offer> {
        self.waiters.iter().map(|waiter| waiter.offer)
    }
}
