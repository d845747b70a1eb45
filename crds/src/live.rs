//! The *live* document: everything of a pipeline that changes while it runs.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::duration::Duration;
use crate::schedule::RatePlan;
use crate::v1alpha1::{Guard, RateOverride, ScheduleWindow, TracePipelineSpec};
use crate::wire::Document;

/// What a consumer applies without a restart.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Live {
    /// Spans per second for the whole pipeline.
    #[serde(rename = "rateLimitQPS")]
    pub rate_limit_qps: u32,
    /// Replaces the rate until it expires.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub rate_override: Option<RateOverride>,
    /// Stops releases.
    #[serde(default)]
    pub suspend: bool,
    /// Replaces the rate while a window is open.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub schedule: Vec<ScheduleWindow>,
    /// Lowers the rate while the database suffers. What it does depends on the database; [`Self::rate_at`] does not
    /// count it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// How long rows stay; none: for ever. See [`crate::v1alpha1::Sink::retention`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Duration>,
}

impl Live {
    /// The live part of a spec.
    pub fn of(spec: &TracePipelineSpec) -> Self {
        Self {
            rate_limit_qps: spec.rate_limit_qps,
            rate_override: spec.rate_override.clone(),
            suspend: spec.suspend,
            schedule: spec.schedule.clone(),
            guard: spec.guard.clone(),
            retention: spec.sink.retention,
        }
    }

    /// Rate 0, and nothing is removed: what is in effect before the first document was read.
    pub fn closed() -> Self {
        Self::of_rate(0)
    }

    /// This rate, and nothing else.
    pub fn of_rate(rate_limit_qps: u32) -> Self {
        Self {
            rate_limit_qps,
            rate_override: None,
            suspend: false,
            schedule: Vec::new(),
            guard: None,
            retention: None,
        }
    }

    /// When the override ended, where that was before `now`: it has no effect.
    pub fn ended_override(&self, now: Timestamp) -> Option<Timestamp> {
        self.rate_override.as_ref().map(|ended| ended.until).filter(|until| *until <= now)
    }

    /// The rate of the whole pipeline at `now` (database time), in spans per second. See [`RatePlan`], which reads the
    /// windows only once.
    pub fn rate_at(&self, now: Timestamp) -> u32 {
        RatePlan::new(self.clone()).at(now).rate
    }
}

/// Largest revision that a reader takes: the largest whole number that every JSON library keeps exactly. A larger
/// one, edited in by hand, would leave no room for the next.
pub const MAX_REVISION: u64 = 1 << 53;

/// The live part of a pipeline as it travels, with the number that puts its versions in order.
///
/// Versions are in order only within one pipeline: one that was deleted and made again under the same name has
/// another uid and counts from 1 again. A reader applies documents of the uid that its settings name and refuses
/// all others.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LiveDocument {
    /// `metadata.uid` of the pipeline. Empty where the writer knew none; such a document is for no reader that
    /// knows its own.
    #[serde(default)]
    pub uid: String,
    /// Grows with every change of the content, from 1; a reader never goes back to a smaller one, and refuses the
    /// same number with other content.
    pub revision: u64,
    /// The content.
    #[serde(flatten)]
    pub live: Live,
}

impl Document for LiveDocument {
    const NAME: &'static str = "live";
    const READER: u32 = 1;

    fn min_reader(&self) -> u32 {
        1
    }
}
