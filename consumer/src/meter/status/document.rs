//! The body of `GET /status`.

use serde::Serialize;
use sluice_crds::bottleneck::Bottleneck;

use crate::meter::{DeadLetterTopicStatus, RetentionStatus};

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
    /// Where that one was found last: `api`, `directory` or `file`; none before the first one.
    pub live_source: Option<&'static str>,
    /// Spans per second set for the whole pipeline, override, schedule and suspension applied.
    #[serde(rename = "rateLimitQPS")]
    pub rate_limit_qps: u32,
    /// Spans per second that this replica may release.
    #[serde(rename = "effectiveQPS")]
    pub effective_qps: f64,
    /// Spans per second stored or dead-lettered over the last five seconds.
    #[serde(rename = "achievedQPS")]
    pub achieved_qps: f64,
    /// Whether releases are suspended.
    pub suspended: bool,
    /// Spans per second that this replica's guard holds the whole pipeline's rate down to; none while it does not.
    #[serde(rename = "guardQPS")]
    pub guard_qps: Option<f64>,
    /// This replica's share of the rate.
    pub leased_fraction: f64,
    /// What busy lanes spent most of the last five seconds with: `Cpu`, `Limiter` or `Store`; `Guard` where that is the
    /// limiter, and the guard holds its rate down; `Idle` where no lane was busy for half of them.
    pub bottleneck: Bottleneck,
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
    /// Seconds after which the broker deletes messages of the topics that have a backlog here (of all, where none has one),
    /// the shortest of them; none where that is unknown or where it never does.
    pub retention_seconds: Option<u64>,
    /// An error that has not been followed by a success, for people.
    pub last_error: Option<String>,
    /// The same for programs; see [`sluice_crds::error_reason::ErrorReason`].
    pub last_error_reason: Option<&'static str>,
    /// Everything that has not been followed by a success; the first one is `last_error`.
    pub errors: Vec<ErrorStatus>,
    /// Rows that are removed when they are old; none where they stay for ever.
    pub retention: Option<RetentionStatus>,
    /// Copies of dead letters; none where there is no topic for them, or where another replica sends them.
    pub dead_letter_topic: Option<DeadLetterTopicStatus>,
    /// Hash of the settings in effect.
    pub settings_hash: String,
}

/// One error in `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorStatus {
    /// See [`sluice_crds::error_reason::ErrorReason`].
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
    pub position: Option<u64>,
    /// Messages between it and the end of the partition; none before the first contact.
    pub lag: Option<u64>,
}
