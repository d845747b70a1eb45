//! Errors that no success has followed yet, each where it belongs: to a partition, or to the process as a whole.
//!
//! Everything is under one lock. What happens to one partition says nothing about another: its own commit or opening
//! ends its errors, and they go with it when it leaves.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::Instant;

use crate::last_error::LastError;
use crate::source::TopicPartition;
use crate::store::{ErrorKind, StoreError};

/// A transaction that loses every race for this long is in trouble: other work holds what it needs. Shorter is
/// everyday life.
const LASTING: Duration = Duration::from_secs(5);
/// A store whose leases are renewed and that has refused nothing for this long works. Only where no batch waits to prove
/// it, as one of many spans is tried seldom where the rate is low.
const CALM: Duration = Duration::from_secs(60);

/// All errors that are not resolved.
#[derive(Debug, Default)]
pub(super) struct OpenErrors {
    process: PlaceErrors,
    /// Owned partitions, healthy or not.
    partitions: BTreeMap<TopicPartition, PlaceErrors>,
    pub(super) lease: Option<LastError>,
}

#[derive(Debug, Default)]
struct PlaceErrors {
    store: Option<ErrorRun>,
    /// A batch waits for the store: its commit will prove that the store works, and nothing else.
    holds_batch: bool,
    source: Option<LastError>,
}

/// Errors of the store without a success between.
#[derive(Debug)]
struct ErrorRun {
    error: LastError,
    since: Instant,
    last: Instant,
    /// Whether people are told.
    shown: bool,
}

impl OpenErrors {
    /// The partition is ours from now on.
    pub(super) fn add(&mut self, at: &TopicPartition) {
        self.partitions.entry(at.clone()).or_default();
    }

    /// The partition is no longer ours.
    pub(super) fn remove(&mut self, at: &TopicPartition) {
        self.partitions.remove(at);
    }

    /// None for a partition that has left: whatever comes late of it concerns nobody.
    fn place(&mut self, at: Option<&TopicPartition>) -> Option<&mut PlaceErrors> {
        match at {
            None => Some(&mut self.process),
            Some(at) => self.partitions.get_mut(at),
        }
    }

    /// Remembers an error of the store; true where people are to be told now for the first time.
    pub(super) fn store_failed(&mut self, at: Option<&TopicPartition>, error: &StoreError) -> bool {
        let was_shown = self.store().is_some();
        // Another replica was faster: part of normal work where a partition has owners that change.
        if at.is_some() && error.kind == ErrorKind::Fenced {
            return false;
        }
        let now = Instant::now();
        let Some(place) = self.place(at) else { return false };
        let last_error = LastError::from(error);
        let run = place.store.get_or_insert_with(|| ErrorRun {
            error: last_error.clone(),
            since: now,
            last: now,
            shown: false,
        });
        (run.error, run.last) = (last_error, now);
        let is_race = at.is_some() && error.kind == ErrorKind::Conflict;
        run.shown |= !is_race || now.duration_since(run.since) >= LASTING;
        run.shown && !was_shown
    }

    /// A batch of this partition is tried until it is committed.
    pub(super) fn batch_held(&mut self, at: &TopicPartition) {
        if let Some(place) = self.place(Some(at)) {
            place.holds_batch = true;
        }
    }

    /// A transaction of this partition, or of the process, succeeded; true where nothing is left to tell.
    pub(super) fn store_works(&mut self, at: Option<&TopicPartition>) -> bool {
        let ended = self.place(at).and_then(|place| {
            place.holds_batch = false;
            place.store.take()
        });
        // A lease that is not renewed yet is told of, too: its renewal ends that.
        ended.is_some_and(|run| run.shown) && self.store().is_none() && self.lease.is_none()
    }

    /// The lease was renewed: old errors of a store that works are forgotten; true where nothing is left to tell.
    pub(super) fn renewed(&mut self) -> bool {
        let was_shown = self.lease.take().is_some() || self.store().is_some();
        let places = self.partitions.values_mut().chain([&mut self.process]);
        for place in places.filter(|place| !place.holds_batch) {
            place.store.take_if(|run| run.last.elapsed() >= CALM);
        }
        was_shown && self.store().is_none()
    }

    /// Remembers an error of the source; true where people are to be told of its reason for the first time.
    pub(super) fn source_failed(&mut self, at: Option<&TopicPartition>, error: LastError) -> bool {
        let is_new = self.source().map(|known| known.reason) != Some(error.reason);
        let Some(place) = self.place(at) else { return false };
        place.source = Some(error);
        is_new
    }

    /// The source has answered; true where nothing is left to tell.
    pub(super) fn source_works(&mut self, at: Option<&TopicPartition>) -> bool {
        let ended = self.place(at).and_then(|place| place.source.take());
        ended.is_some() && self.source().is_none()
    }

    fn places(&self) -> impl Iterator<Item = &PlaceErrors> {
        std::iter::once(&self.process).chain(self.partitions.values())
    }

    /// An error of the store that is not resolved.
    pub(super) fn store(&self) -> Option<&LastError> {
        self.places().filter_map(|place| place.store.as_ref()).find(|run| run.shown).map(|run| &run.error)
    }

    /// An error of the source that is not resolved.
    pub(super) fn source(&self) -> Option<&LastError> {
        self.places().find_map(|place| place.source.as_ref())
    }
}

#[cfg(test)]
mod tests {
    use sluice_crds::error_reason::ErrorReason;

    use super::*;

    fn at(partition: i32) -> TopicPartition {
        TopicPartition { topic: "t".into(), partition }
    }

    fn two_partitions() -> OpenErrors {
        let mut errors = OpenErrors::default();
        errors.add(&at(0));
        errors.add(&at(1));
        errors
    }

    fn error(kind: ErrorKind) -> StoreError {
        StoreError::new(kind, "something")
    }

    #[test]
    fn a_partitions_success_ends_its_own_errors_only() {
        let mut errors = two_partitions();
        assert!(errors.store_failed(Some(&at(0)), &error(ErrorKind::Unavailable)));
        assert!(!errors.store_failed(Some(&at(1)), &error(ErrorKind::Unavailable)), "told already");
        assert!(!errors.store_works(Some(&at(1))));
        assert!(errors.store().is_some());
        assert!(errors.store_works(Some(&at(0))));
        assert!(errors.store().is_none());
    }

    #[test]
    fn errors_leave_with_their_partition_and_do_not_come_back_late() {
        let mut errors = two_partitions();
        errors.store_failed(Some(&at(0)), &error(ErrorKind::Unavailable));
        errors.source_failed(Some(&at(0)), LastError::new(ErrorReason::SourceFailed, "x"));
        errors.remove(&at(0));
        errors.store_failed(Some(&at(0)), &error(ErrorKind::Unavailable));
        assert_eq!((errors.store(), errors.source()), (None, None));
    }

    #[tokio::test(start_paused = true)]
    async fn lost_races_show_once_they_last_and_not_before() {
        let mut errors = two_partitions();
        for _ in 0..4 {
            assert!(!errors.store_failed(Some(&at(0)), &error(ErrorKind::Conflict)));
            tokio::time::advance(Duration::from_secs(1)).await;
        }
        assert!(errors.store().is_none());
        tokio::time::advance(Duration::from_secs(1)).await;
        assert!(errors.store_failed(Some(&at(0)), &error(ErrorKind::Conflict)));
        assert!(errors.store().is_some());
        errors.store_works(Some(&at(0)));
        assert!(!errors.store_failed(Some(&at(0)), &error(ErrorKind::Conflict)), "a new run");
        // Before the first partition nothing races: every kind shows at once.
        assert!(errors.store_failed(None, &error(ErrorKind::Conflict)));
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_end_what_has_not_happened_for_a_while() {
        let mut errors = two_partitions();
        errors.store_failed(Some(&at(0)), &error(ErrorKind::Unavailable));
        tokio::time::advance(CALM / 2).await;
        assert!(!errors.renewed());
        assert!(errors.store().is_some());
        tokio::time::advance(CALM / 2).await;
        assert!(errors.renewed());
        assert!(errors.store().is_none());
    }

    #[test]
    fn an_outage_that_only_the_lease_has_met_ends_with_its_renewal_and_is_told_once() {
        let mut errors = two_partitions();
        assert!(!errors.renewed(), "nothing was told");
        errors.lease = Some(LastError::from(&error(ErrorKind::Unavailable)));
        assert!(errors.renewed());
        assert!(!errors.renewed());
        errors.lease = Some(LastError::from(&error(ErrorKind::Unavailable)));
        errors.store_failed(Some(&at(0)), &error(ErrorKind::Unavailable));
        assert!(!errors.store_works(Some(&at(0))), "the lease is not renewed yet");
        assert!(errors.renewed());
    }

    #[tokio::test(start_paused = true)]
    async fn renewals_prove_nothing_while_a_batch_waits() {
        let mut errors = two_partitions();
        errors.store_failed(Some(&at(0)), &error(ErrorKind::Unavailable));
        errors.batch_held(&at(0));
        tokio::time::advance(CALM * 3).await;
        assert!(!errors.renewed());
        assert!(errors.store().is_some());
        assert!(errors.store_works(Some(&at(0))));
    }
}
