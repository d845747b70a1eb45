//! What a consumer says.

use serde::Deserialize;

/// What is read of a consumer's `/status`; anything else in it is ignored.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Revision of the live document in effect.
    pub revision: u64,
    /// The pipeline's uid; none of older consumers.
    pub pipeline_uid: Option<String>,
    /// Spans per second set for the whole pipeline.
    #[serde(rename = "rateLimitQPS")]
    pub rate_limit_qps: u32,
    /// Spans per second that this replica may release.
    #[serde(rename = "effectiveQPS")]
    pub effective_qps: f64,
    /// Spans per second stored.
    #[serde(rename = "achievedQPS")]
    pub achieved_qps: f64,
    /// What limits it.
    pub bottleneck: String,
    /// Spans per second that its guard holds the pipeline's rate down to.
    #[serde(rename = "guardQPS")]
    pub guard_qps: Option<f64>,
    /// Its partitions.
    pub partitions: Vec<PartitionReport>,
    /// Dead letters since its start.
    pub dead_letters: u64,
    /// The newest unresolved error.
    pub last_error: Option<String>,
    /// Its class.
    pub last_error_reason: Option<String>,
    /// Seconds until its backlog is drained.
    pub drain_seconds: Option<u64>,
    /// The shortest retention of its topics in seconds; none where it is unknown or without limit.
    pub retention_seconds: Option<u64>,
}

/// One partition of a [`Report`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PartitionReport {
    /// Messages that wait.
    pub lag: Option<u64>,
}

/// What a pod has said, or why it has not.
#[derive(Clone, Debug, PartialEq)]
pub struct PodReport {
    /// Name of the pod.
    pub pod: String,
    /// Its answer.
    pub answer: Result<Report, String>,
}

/// What of a report is worth a reconcile at once. The rest are numbers, and texts of errors may hold some, too.
/// What limits a consumer comes and goes with every answer where it is near a limit; only the processor, for
/// which consumers are added, is worth one.
#[derive(PartialEq)]
pub struct Notable<'a> {
    pod: &'a str,
    answers: bool,
    revision: u64,
    rate: u32,
    processor_limits: bool,
    has_error: bool,
    error_reason: Option<&'a str>,
}

/// Picks it.
pub fn notable(reports: &[PodReport]) -> Vec<Notable<'_>> {
    reports
        .iter()
        .map(|report| {
            let answer = report.answer.as_ref().ok();
            Notable {
                pod: &report.pod,
                answers: answer.is_some(),
                revision: answer.map_or(0, |answer| answer.revision),
                rate: answer.map_or(0, |answer| answer.rate_limit_qps),
                processor_limits: answer.is_some_and(|answer| answer.bottleneck == "Cpu"),
                has_error: answer.is_some_and(|answer| answer.last_error.is_some()),
                error_reason: answer.and_then(|answer| answer.last_error_reason.as_deref()),
            }
        })
        .collect()
}
