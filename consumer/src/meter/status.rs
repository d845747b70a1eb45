//! What `/status` says, computed when somebody asks.

use std::sync::atomic::Ordering::Relaxed;

use serde::Serialize;

use super::{Activity, Meters, lock};
use crate::live::Origin;
use crate::store::Reason;

/// Version of this program.
pub const VERSION: &str = env!("CARGO_PKG_VERSION");

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
        let (achieved, bottleneck) = self.recent();
        let partitions: Vec<PartitionStatus> = self
            .partitions()
            .into_iter()
            .map(|(at, meter)| PartitionStatus {
                topic: at.topic.to_string(),
                partition: at.partition,
                position: meter.position,
                lag: meter.end.map(|end| end.saturating_sub(meter.position)),
            })
            .collect();
        let now = lock(&self.errors_now);
        let rate = lock(&self.rate);
        // What stops rows comes first; a live document that was refused stops nothing.
        let errors: Vec<_> = [&now.store, &now.source, &rate.refused, &now.lease]
            .into_iter()
            .flatten()
            .map(|error| ErrorStatus { reason: error.reason.as_str(), message: error.message.clone() })
            .collect();
        let lag = partitions.iter().try_fold(0, |sum, partition| Some(sum + partition.lag?));
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
            leased_fraction: (rate.fraction * 1e3).round() / 1e3,
            bottleneck,
            drain_seconds: lag.and_then(|lag| self.drain_seconds(lag, rate.effective, achieved)),
            partitions,
            stored: self.stored.load(Relaxed),
            dead_letters: Reason::ALL.iter().map(|reason| self.dead_letters(*reason)).sum(),
            skipped_offsets: self.skipped_offsets.load(Relaxed),
            last_error: errors.first().map(|error| error.message.clone()),
            last_error_reason: errors.first().map(|error| error.reason),
            errors,
            settings_hash: identity.settings_hash.clone(),
        }
    }

    /// Rows per second over the last seconds, and what lanes spent most of that time with.
    fn recent(&self) -> (f64, &'static str) {
        let history = lock(&self.stored_history);
        let (Some(first), Some(last)) = (history.front(), history.back()) else { return (0.0, "Idle") };
        let seconds = last.0.duration_since(first.0).as_secs_f64();
        if seconds == 0.0 {
            return (0.0, "Idle");
        }
        let spent = |activity: Activity| last.2[activity as usize] - first.2[activity as usize];
        let bottleneck = [
            ("Idle", spent(Activity::Idle)),
            ("Cpu", spent(Activity::Decode)),
            ("Limiter", spent(Activity::Gate)),
            ("Store", spent(Activity::Store)),
        ]
        .into_iter()
        .max_by_key(|(_, time)| *time)
        .map_or("Idle", |(name, _)| name);
        ((last.1 - first.1) as f64 / seconds, bottleneck)
    }

    /// Lag counts messages, the rate counts spans: the ratio so far converts one into the other.
    fn drain_seconds(&self, lag: u64, effective: f64, achieved: f64) -> Option<u64> {
        let messages = self.messages.load(Relaxed).max(1) as f64;
        let spans_per_message = (self.stored.load(Relaxed) as f64 / messages).max(f64::MIN_POSITIVE);
        let spans_per_message = if self.messages.load(Relaxed) == 0 { 1.0 } else { spans_per_message };
        let rate = if achieved > 0.0 { achieved.min(effective) } else { effective };
        (rate > 0.0).then(|| (lag as f64 * spans_per_message / rate).ceil() as u64)
    }
}

fn rounded(rate: f64) -> f64 {
    (rate * 10.0).round() / 10.0
}

/// The body of `GET /status`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct StatusDocument {
    /// `namespace/name`.
    pub pipeline: String,
    /// `metadata.uid` of the pipeline; none where it is a file.
    pub pipeline_uid: Option<String>,
    /// Version of this program.
    pub version: &'static str,
    /// Revision of the live document in effect; 0 before the first one.
    pub revision: u64,
    /// Where it can be read now: `api`, `directory` or `file`; none before the first one.
    pub live_source: Option<&'static str>,
    /// Spans per second set for the whole pipeline, override and suspension applied.
    #[serde(rename = "rateLimitQPS")]
    pub rate_limit_qps: u32,
    /// Spans per second that this replica may release.
    #[serde(rename = "effectiveQPS")]
    pub effective_qps: f64,
    /// Spans per second stored over the last five seconds.
    #[serde(rename = "achievedQPS")]
    pub achieved_qps: f64,
    /// Whether releases are suspended.
    pub suspended: bool,
    /// This replica's share of the rate.
    pub leased_fraction: f64,
    /// What lanes spent most of the last five seconds with: `Idle`, `Cpu`, `Limiter` or `Store`.
    pub bottleneck: &'static str,
    /// The partitions of this replica.
    pub partitions: Vec<PartitionStatus>,
    /// Rows stored since the start of the process.
    pub stored: u64,
    /// Dead letters stored since the start of the process.
    pub dead_letters: u64,
    /// Offsets that the broker no longer had when it was their turn, since the start of the process.
    pub skipped_offsets: u64,
    /// Seconds until the backlog is drained at the current rate; none while it is unknown or the rate is 0.
    pub drain_seconds: Option<u64>,
    /// An error that has not been followed by a success, for people.
    pub last_error: Option<String>,
    /// The same for programs; see [`crate::last_error::ErrorReason`].
    pub last_error_reason: Option<&'static str>,
    /// Everything that has not been followed by a success; the first one is `last_error`.
    pub errors: Vec<ErrorStatus>,
    /// Hash of the settings in effect.
    pub settings_hash: String,
}

/// One error in `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorStatus {
    /// See [`crate::last_error::ErrorReason`].
    pub reason: &'static str,
    /// For people.
    pub message: String,
}

/// One partition in `/status`.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct PartitionStatus {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: i32,
    /// Offset of the first message that is not settled.
    pub position: u64,
    /// Messages between it and the end of the partition; none before the first contact.
    pub lag: Option<u64>,
}
