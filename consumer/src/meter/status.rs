//! What `/status` says, computed when somebody asks.

mod document;

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use sluice_crds::bottleneck::Bottleneck;

use super::history::SUSTAINED_OVER;
use super::open_errors::OpenErrors;
use super::{Meters, Rate};
use crate::gate::lease::WHOLE;
use crate::last_error::LastError;
use crate::live::Origin;
use crate::lock::lock;
pub use document::{ErrorStatus, PartitionStatus, StatusDocument};

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

/// Spans per second that are expected to go on where the database has taken none of late: one in the time that is
/// looked back on.
const ALMOST_NOTHING: f64 = 1.0 / SUSTAINED_OVER.as_secs_f64();

/// Which pipeline, and which version of its settings.
#[derive(Clone, Debug, Default)]
pub struct Identity {
    /// `namespace/name`.
    pub pipeline: String,
    /// `metadata.uid`; none for a pipeline that is a file.
    pub uid: Option<String>,
    /// Hash of the settings in effect.
    pub settings_hash: String,
}

impl Meters {
    /// The body of `/status`.
    pub fn status(&self, identity: &Identity) -> StatusDocument {
        let (achieved, bottleneck) = lock(&self.history).recent();
        let partitions = self.partition_statuses();
        let open_errors = lock(&self.open_errors);
        let rate = lock(&self.rate);
        // Without leases nothing is released: lanes wait at the gate for the database.
        let lapsed = open_errors.lease.is_some() && rate.whole > 0 && rate.effective <= 0.0;
        let bottleneck = match bottleneck {
            Bottleneck::Limiter if lapsed => Bottleneck::Store,
            Bottleneck::Limiter if rate.guard.is_some() => Bottleneck::Guard,
            other => other,
        };
        // Else lanes may wait for a message that is worth more than a minute of the rate.
        let is_held = bottleneck == Bottleneck::Store || open_errors.store().is_some();
        let errors = self.errors_of(&open_errors, &rate);
        let lag = self.lag_of(&partitions, &open_errors);
        // Not 0: a backlog that waits for the database would look like one of a pipeline that is stopped.
        let expected = if lapsed { ALMOST_NOTHING } else { rate.effective };
        let share_is_least = rate.fraction > 0.0 && rate.fraction * f64::from(WHOLE) < 2.0;
        StatusDocument {
            pipeline: identity.pipeline.clone(),
            pipeline_uid: identity.uid.clone(),
            version: VERSION,
            revision: rate.revision,
            live_source: rate.origin.map(Origin::as_str),
            rate_limit_qps: rate.whole,
            effective_qps: rounded(rate.effective),
            achieved_qps: rounded(achieved),
            suspended: rate.suspended,
            guard_qps: rate.guard.map(rounded),
            leased_fraction: (rate.fraction * 1e3).round() / 1e3,
            bottleneck,
            retention_seconds: self.retention_of(&partitions).map(|kept| kept.as_secs()),
            drain_seconds: lag.and_then(|lag| self.drain_seconds(lag, expected, is_held, share_is_least)),
            partitions,
            stored: self.stored.load(Relaxed),
            dead_letters: self.all_dead_letters(),
            skipped_offsets: self.skipped_offsets.load(Relaxed),
            last_error: errors.first().map(|error| error.message.clone()),
            last_error_reason: errors.first().map(|error| error.reason),
            errors,
            retention: self.retention.status(),
            dead_letter_topic: self.dead_letter_topic.status(),
            settings_hash: identity.settings_hash.clone(),
        }
    }

    fn partition_statuses(&self) -> Vec<PartitionStatus> {
        self.partitions()
            .into_iter()
            .map(|(at, meter)| PartitionStatus {
                topic: at.topic.to_string(),
                partition: at.partition,
                position: meter.map(|meter| meter.position),
                lag: meter.and_then(|meter| Some(meter.end?.saturating_sub(meter.position))),
            })
            .collect()
    }

    /// What stops rows comes first; a live document that was refused stops nothing.
    fn errors_of(&self, open: &OpenErrors, rate: &Rate) -> Vec<ErrorStatus> {
        let in_the_way = [open.store(), open.source(), rate.refused.as_ref(), open.lease.as_ref()];
        let beside = [self.retention.error(), self.dead_letter_topic.error(), self.redrive.error()];
        let in_the_way = in_the_way.into_iter().flatten().cloned();
        in_the_way.chain(beside.into_iter().flatten()).map(as_status).collect()
    }

    /// What waits in all partitions; none where that is not known of one.
    fn lag_of(&self, partitions: &[PartitionStatus], open: &OpenErrors) -> Option<u64> {
        let lag = partitions.iter().try_fold(0, |sum, partition| Some(sum + partition.lag?));
        // Who has no partitions because others have them all knows that nothing waits for it; who has not joined yet, or was
        // put out of the group, knows nothing.
        let is_member =
            self.preflight.group_joined.load(Relaxed) && open.source().is_none() && open.store().is_none();
        lag.filter(|_| !partitions.is_empty() || is_member)
    }

    /// Lag counts offsets, the rate counts spans: those of the last minute convert one into the other. What is owed comes
    /// before all of them.
    fn drain_seconds(&self, lag: u64, effective: f64, is_held: bool, share_is_least: bool) -> Option<u64> {
        if lag == 0 {
            return Some(0);
        }
        // In this order, as in `tick`.
        let spans = self.settled_spans.load(Relaxed);
        let offsets = self.settled_offsets.load(Relaxed);
        let history = lock(&self.history);
        let rate = match history.sustained() {
            Some(sustained) if sustained > 0.0 => sustained.min(effective),
            Some(_) if is_held => ALMOST_NOTHING.min(effective),
            // Whoever has joined others that use all of the rate holds the least share until they have made room.
            _ if share_is_least => return None,
            _ => effective,
        };
        let wait = lag as f64 * history.spans_per_offset(offsets, spans) + self.owed.load(Relaxed) as f64;
        (rate > 0.0).then(|| (wait / rate).ceil() as u64)
    }

    /// The shortest retention of the topics that have a backlog; of all where none has.
    fn retention_of(&self, partitions: &[PartitionStatus]) -> Option<Duration> {
        let kept = lock(&self.topic_retention);
        let behind: Vec<_> =
            partitions.iter().filter(|one| one.lag != Some(0)).map(|one| &one.topic).collect();
        kept.iter()
            .filter(|(topic, _)| behind.is_empty() || behind.contains(topic))
            .map(|(_, kept)| *kept)
            .min()
    }
}

fn as_status(error: LastError) -> ErrorStatus {
    ErrorStatus { reason: error.reason.as_str(), message: error.message }
}

fn rounded(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use sluice_crds::error_reason::ErrorReason;

    use super::*;
    use crate::meter::{Activity, LaneMeter, PartitionMeter, Settled};
    use crate::source::TopicPartition;
    use crate::store::{ErrorKind, Reason, StoreError};

    fn at() -> TopicPartition {
        TopicPartition { topic: "t".into(), partition: 0 }
    }

    fn settled(messages: u64) -> Settled {
        Settled { messages, offsets: messages }
    }

    #[test]
    fn offsets_of_no_message_take_no_time_and_a_debt_does() {
        let meters = Meters::default();
        meters.set_rate(100, 100.0, 1.0, false);
        meters.add_partition(&at());
        meters.set_partition(&at(), PartitionMeter { position: 1_300, end: Some(1_300 + 130_000) });
        // One of thirteen has survived compaction.
        meters.committed(&at(), Settled { messages: 100, offsets: 1_300 }, 100, 0, std::iter::empty());
        let drain = || meters.status(&Identity::default()).drain_seconds;
        assert_eq!(drain(), Some(100));
        meters.set_owed(5_000);
        assert_eq!(drain(), Some(150), "nothing goes out before it is paid");
    }

    #[test]
    fn who_has_just_joined_replicas_that_use_all_of_the_rate_knows_of_no_time() {
        let meters = Meters::default();
        meters.set_rate(100, 1e-4, 1e-6, false);
        meters.add_partition(&at());
        meters.set_partition(&at(), PartitionMeter { position: 0, end: Some(6_000) });
        assert_eq!(meters.status(&Identity::default()).drain_seconds, None);
        meters.set_rate(100, 50.0, 0.5, false);
        assert_eq!(meters.status(&Identity::default()).drain_seconds, Some(120));
    }

    #[tokio::test(start_paused = true)]
    async fn dead_letters_take_time_like_rows() {
        let meters = Meters::default();
        meters.set_rate(1_000, 1_000.0, 1.0, false);
        meters.add_partition(&at());
        meters.set_partition(&at(), PartitionMeter { position: 5_000, end: Some(5_000 + 1_000_000) });
        meters.tick();
        for _ in 0..5 {
            meters.committed(&at(), settled(1_000), 0, 0, std::iter::repeat_n(Reason::Undecodable, 1_000));
            tokio::time::advance(Duration::from_secs(1)).await;
            meters.tick();
        }
        let status = meters.status(&Identity::default());
        assert_eq!((status.achieved_qps, status.drain_seconds), (1_000.0, Some(1_000)));
        // Redriving them moves no lag.
        meters.committed(&at(), settled(0), 5_000, 0, std::iter::empty());
        assert_eq!(meters.status(&Identity::default()).drain_seconds, Some(1_000));
    }

    #[tokio::test(start_paused = true)]
    async fn what_the_database_does_not_take_is_not_expected_at_the_rate() {
        let meters = Arc::new(Meters::default());
        let lane = LaneMeter::new(meters.clone());
        meters.set_rate(100, 100.0, 1.0, false);
        meters.add_partition(&at());
        meters.set_partition(&at(), PartitionMeter { position: 0, end: Some(1_000) });
        let told = async |activity| {
            lane.enter(activity);
            for _ in 0..=30 {
                meters.tick();
                tokio::time::advance(Duration::from_secs(1)).await;
            }
            meters.status(&Identity::default()).drain_seconds
        };
        assert_eq!(told(Activity::Gate).await, Some(10), "a message of many spans may be next");
        assert_eq!(told(Activity::Store).await, Some(60_000));
        let refused = StoreError::new(ErrorKind::Refused, "a CHECK");
        meters.store_failed(Some(&at()), &refused);
        assert_eq!(told(Activity::Gate).await, Some(60_000), "it is tried again");
    }

    #[test]
    fn a_message_of_several_spans_takes_its_share_of_the_rate() {
        let meters = Meters::default();
        meters.set_rate(100, 100.0, 1.0, false);
        meters.add_partition(&at());
        meters.set_partition(&at(), PartitionMeter { position: 10, end: Some(110) });
        assert_eq!(meters.status(&Identity::default()).drain_seconds, Some(1), "nothing is known yet");
        meters.committed(&at(), settled(10), 20, 0, std::iter::repeat_n(Reason::InvalidSpan, 10));
        assert_eq!(meters.status(&Identity::default()).drain_seconds, Some(3));
    }

    #[test]
    fn a_drained_partition_takes_no_time_and_one_that_waits_to_be_opened_an_unknown_one() {
        let meters = Meters::default();
        // Who has nothing to do holds no share of the rate.
        meters.set_rate(100, 0.0, 0.0, false);
        meters.add_partition(&at());
        let status = meters.status(&Identity::default());
        let PartitionStatus { position, lag, .. } = status.partitions[0];
        assert_eq!((position, lag, status.drain_seconds), (None, None, None));
        meters.set_partition(&at(), PartitionMeter { position: 10, end: Some(10) });
        let status = meters.status(&Identity::default());
        assert_eq!((status.partitions[0].position, status.drain_seconds), (Some(10), Some(0)));
    }

    #[test]
    fn what_waits_is_not_known_without_partitions_before_the_group_is_joined_and_while_the_queue_is_in_trouble()
     {
        let meters = Meters::default();
        meters.set_rate(100, 100.0, 1.0, false);
        assert_eq!(meters.status(&Identity::default()).drain_seconds, None);
        meters.preflight.group_joined.store(true, Relaxed);
        assert_eq!(meters.status(&Identity::default()).drain_seconds, Some(0), "others have them");
        meters.source_failed(LastError::new(ErrorReason::SourceUnreachable, "no coordinator"));
        assert_eq!(meters.status(&Identity::default()).drain_seconds, None);
    }

    #[tokio::test(start_paused = true)]
    async fn without_leases_the_database_is_the_limit_and_not_the_rate() {
        let meters = Arc::new(Meters::default());
        let lane = LaneMeter::new(meters.clone());
        meters.set_rate(100, 0.0, 0.0, false);
        meters.lease_failed(&StoreError::new(ErrorKind::Unavailable, "away"));
        lane.enter(Activity::Gate);
        meters.tick();
        tokio::time::advance(Duration::from_secs(5)).await;
        meters.tick();
        meters.add_partition(&at());
        meters.set_partition(&at(), PartitionMeter { position: 0, end: Some(10) });
        let status = meters.status(&Identity::default());
        assert_eq!((status.bottleneck, status.drain_seconds), (Bottleneck::Store, Some(600)));
        meters.set_rate(0, 0.0, 0.0, false);
        let status = meters.status(&Identity::default());
        assert_eq!((status.bottleneck, status.drain_seconds), (Bottleneck::Limiter, None));
        meters.set_rate(100, 100.0, 1.0, false);
        meters.lease_renewed();
        assert_eq!(meters.status(&Identity::default()).bottleneck, Bottleneck::Limiter);
    }

    #[test]
    fn the_retention_of_a_topic_without_a_backlog_is_none_that_matters() {
        let meters = Meters::default();
        let place = |topic: &str| TopicPartition { topic: topic.into(), partition: 0 };
        for (topic, end) in [("audit", 5), ("spans", 500)] {
            meters.add_partition(&place(topic));
            meters.set_partition(&place(topic), PartitionMeter { position: 5, end: Some(end) });
        }
        let set = |kept: &[(&str, u64)]| {
            let kept =
                kept.iter().map(|(topic, seconds)| ((*topic).to_owned(), Duration::from_secs(*seconds)));
            meters.set_topic_retention(kept.collect());
        };
        let told = || meters.status(&Identity::default()).retention_seconds;
        set(&[("audit", 3_600)]);
        assert_eq!(told(), None, "what has the backlog is kept for ever");
        set(&[("audit", 3_600), ("spans", 604_800)]);
        assert_eq!(told(), Some(604_800));
        meters.set_partition(&place("spans"), PartitionMeter { position: 500, end: Some(500) });
        assert_eq!(told(), Some(3_600), "the shortest, where nothing waits");
    }

    #[test]
    fn what_comes_late_of_a_partition_that_has_left_is_not_told() {
        let (meters, meter) = (Meters::default(), |position| PartitionMeter { position, end: None });
        meters.add_partition(&at());
        meters.set_partition(&at(), meter(10));
        meters.advance_partition(&at(), meter(20));
        // The answer to a commit of before it was opened again.
        meters.advance_partition(&at(), meter(15));
        assert_eq!(meters.partitions()[&at()], Some(meter(20)));
        meters.remove_partition(&at());
        meters.advance_partition(&at(), meter(30));
        meters.set_partition(&at(), meter(30));
        assert!(meters.partitions().is_empty());
    }
}
