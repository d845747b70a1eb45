//! What a consumer says.
//!
//! Whoever writes a pipeline chooses the image that answers: texts are bounded while they are read, and of the partitions only
//! what is told of them is kept.

use std::fmt;

use serde::de::value::{Error as ValueError, StringDeserializer};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use sluice_crds::bottleneck::Bottleneck;
use sluice_crds::error_reason::ErrorReason;

/// The reason of an error without one that a condition could carry.
pub const CONSUMER_ERROR: &str = "ConsumerError";
/// Longest text that is kept of an error.
const MAX_ERROR_BYTES: usize = 1024;
/// Longest reason, word or uid.
const MAX_WORD_BYTES: usize = 64;

/// What is read of a consumer's `/status`; anything else in it is ignored.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Revision of the live document in effect.
    pub revision: u64,
    /// The pipeline's uid; none of older consumers.
    #[serde(deserialize_with = "word")]
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
    #[serde(deserialize_with = "bottleneck")]
    pub bottleneck: Option<Bottleneck>,
    /// Spans per second that its guard holds the pipeline's rate down to.
    #[serde(rename = "guardQPS")]
    pub guard_qps: Option<f64>,
    /// Its partitions.
    pub partitions: Partitions,
    /// Dead letters since its start.
    pub dead_letters: u64,
    /// The gravest unresolved error, as the consumer orders them.
    #[serde(deserialize_with = "error")]
    pub last_error: Option<String>,
    /// Its class: letters and digits.
    #[serde(deserialize_with = "reason")]
    pub last_error_reason: Option<String>,
    /// Seconds until its backlog is drained.
    pub drain_seconds: Option<u64>,
    /// The shortest retention of its topics in seconds; none where it is unknown or without limit.
    pub retention_seconds: Option<u64>,
}

impl Report {
    /// Whether this is what limits it.
    pub fn is_limited_by(&self, bottleneck: Bottleneck) -> bool {
        self.bottleneck == Some(bottleneck)
    }

    /// Whether its messages expire before it comes to them.
    pub fn expiry(&self) -> Expiry {
        match (self.drain_seconds, self.retention_seconds) {
            (Some(0), _) => Expiry::Far,
            (Some(drain), Some(retention)) if drain > retention => Expiry::Comes,
            (Some(drain), Some(retention)) if drain >= retention - retention / 10 => Expiry::Near,
            _ => Expiry::Far,
        }
    }
}

/// How the time to drain a backlog compares with the retention of its messages. Both are estimates that move with every
/// answer: what was told of stays until it is far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expiry {
    /// Less than nine tenths of it, or nobody knows.
    Far,
    /// No more than it, by less than a tenth.
    Near,
    /// More: messages will expire unread.
    Comes,
}

/// The beginning of a text of somebody else's.
pub fn beginning(mut text: String) -> String {
    text.truncate(text.floor_char_boundary(MAX_ERROR_BYTES));
    text.shrink_to_fit();
    text
}

fn error<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    Ok(Option::deserialize(deserializer)?.map(beginning))
}

/// None where it is longer than any that is known.
fn word<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let word: Option<String> = Option::deserialize(deserializer)?;
    Ok(word.filter(|word| word.len() <= MAX_WORD_BYTES))
}

/// None where it is none that this version knows.
fn bottleneck<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Bottleneck>, D::Error> {
    let word: Option<String> = Option::deserialize(deserializer)?;
    let known = |word: String| Bottleneck::deserialize(StringDeserializer::<ValueError>::new(word)).ok();
    Ok(word.and_then(known))
}

/// One of those that consumers have; whoever writes a pipeline chooses its image, which may say anything.
fn reason<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let reason: Option<String> = Option::deserialize(deserializer)?;
    let is_known = |reason: &str| ErrorReason::ALL.iter().any(|known| known.as_str() == reason);
    Ok(reason.map(|reason| if is_known(&reason) { reason } else { CONSUMER_ERROR.to_owned() }))
}

/// The partitions of a [`Report`], as far as they are told of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Partitions {
    /// How many.
    pub count: u64,
    /// Messages that wait in all of them; none where one of them does not say.
    pub lag: Option<u64>,
    /// Whether messages wait in any.
    pub wait: bool,
}

impl Default for Partitions {
    fn default() -> Self {
        Self { count: 0, lag: Some(0), wait: false }
    }
}

impl Partitions {
    fn add(&mut self, lag: Option<u64>) {
        self.count += 1;
        self.wait |= lag > Some(0);
        self.lag = self.lag.zip(lag).map(|(sum, lag)| sum.saturating_add(lag));
    }
}

impl FromIterator<Option<u64>> for Partitions {
    fn from_iter<I: IntoIterator<Item = Option<u64>>>(lags: I) -> Self {
        let mut partitions = Self::default();
        lags.into_iter().for_each(|lag| partitions.add(lag));
        partitions
    }
}

impl<'de> Deserialize<'de> for Partitions {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Fold)
    }
}

struct Fold;

impl<'de> Visitor<'de> for Fold {
    type Value = Partitions;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a list of partitions")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Partitions, A::Error> {
        #[derive(Default, Deserialize)]
        #[serde(default)]
        struct Partition {
            lag: Option<u64>,
        }
        let mut partitions = Partitions::default();
        while let Some(Partition { lag }) = list.next_element()? {
            partitions.add(lag);
        }
        Ok(partitions)
    }
}

/// What a pod has said, or why it has not.
#[derive(Clone, Debug, PartialEq)]
pub struct PodReport {
    /// Name of the pod.
    pub pod: String,
    /// Its answer.
    pub answer: Result<Report, String>,
}

/// The answers, where there are.
pub fn answers_of(reports: &[PodReport]) -> impl Iterator<Item = &Report> {
    reports.iter().filter_map(|report| report.answer.as_ref().ok())
}

/// In the place of an answer.
const NOT_ASKED: &str = "not asked yet";

impl PodReport {
    /// Of a pod that was not asked yet.
    pub fn not_asked(pod: String) -> Self {
        Self { pod, answer: Err(NOT_ASKED.to_owned()) }
    }

    /// Whether it was, and has answered or not.
    pub fn was_asked(&self) -> bool {
        !self.answer.as_ref().is_err_and(|why| why == NOT_ASKED)
    }
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
    expiry: Expiry,
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
                processor_limits: answer.is_some_and(|answer| answer.is_limited_by(Bottleneck::Cpu)),
                expiry: answer.map_or(Expiry::Far, Report::expiry),
                has_error: answer.is_some_and(|answer| answer.last_error.is_some()),
                error_reason: answer.and_then(|answer| answer.last_error_reason.as_deref()),
            }
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn partitions_are_folded() {
        let read = |partitions: serde_json::Value| {
            serde_json::from_value::<Report>(json!({ "partitions": partitions }))
                .expect("a report")
                .partitions
        };
        assert_eq!(read(json!([])), Partitions::default());
        let some = json!([{ "lag": 3, "topic": "t" }, { "lag": u64::MAX }]);
        assert_eq!(read(some), Partitions { count: 2, lag: Some(u64::MAX), wait: true });
        assert_eq!(read(json!([{ "lag": 3 }, {}])), Partitions { count: 2, lag: None, wait: true });
        assert_eq!(serde_json::from_value::<Report>(json!({})).expect("a report"), Report::default());
    }

    #[test]
    fn a_hostile_report_brings_no_text_without_end_and_no_reason_that_is_made_up() {
        let long = "\u{e9}".repeat(100_000);
        let said =
            json!({ "lastError": long, "lastErrorReason": long, "bottleneck": long, "pipelineUid": long });
        let report: Report = serde_json::from_value(said).expect("a report");
        assert_eq!(report.last_error.map(|text| text.len()), Some(MAX_ERROR_BYTES));
        assert_eq!((report.bottleneck, report.pipeline_uid), (None, None));
        for (said, kept) in [
            ("StoreDenied", "StoreDenied"),
            ("Made1", CONSUMER_ERROR),
            ("", CONSUMER_ERROR),
            (&long, CONSUMER_ERROR),
        ] {
            let report: Report =
                serde_json::from_value(json!({ "lastErrorReason": said })).expect("a report");
            assert_eq!(report.last_error_reason.as_deref(), Some(kept));
        }
    }
}
