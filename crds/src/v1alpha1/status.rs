//! What is: the status that the operator writes.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// The state of a pipeline, as its consumers report it. Numbers are rounded and at most 30 s old; where hundreds of
/// pipelines change at once the operator spreads its writes, and they are older.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct TracePipelineStatus {
    /// The generation of the spec that this status is about; -1 before the first look at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Pods of the consumer.
    #[serde(default)]
    pub replicas: i32,
    /// Those of them that are ready.
    #[serde(default)]
    pub ready_replicas: i32,
    /// Label selector of the consumer's pods, for the scale subresource.
    #[serde(default)]
    pub selector: String,
    /// The rate as it is asked for and as it is.
    #[serde(default)]
    pub rate: RateStatus,
    /// Spans stored per second by all replicas, to two significant digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub throughput: Option<u64>,
    /// Messages that wait in the queue, to two significant digits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lag: Option<u64>,
    /// Seconds until they are stored at the current rate, to two significant digits: an upper bound, that of the consumer
    /// with the longest backlog; the others leave it their share when they are done.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub drain_seconds: Option<u64>,
    /// Dead letters stored by the running pods since they started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<u64>,
    /// Ready, Progressing, Degraded, Throttled, Suspended, RateConfirmed, Stalled, DeadLettersGrowing; and
    /// Conflict, where the children are another installation's.
    #[serde(default)]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// The rate as it is asked for and as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RateStatus {
    /// What the spec asks for now, schedule, override and suspension applied, in spans per second.
    #[serde(default)]
    pub desired: u32,
    /// What every consumer has confirmed, in spans per second; none while they differ or do not answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub applied: Option<u32>,
    /// What the consumers together may release now, in spans per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub effective: Option<u32>,
    /// Revision of the live document that was written last.
    #[serde(default)]
    pub revision: u64,
}
