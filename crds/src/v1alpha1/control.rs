//! What moves the rate by itself: windows of a schedule, and the guard of the database.

use kube::KubeSchema;
use serde::{Deserialize, Serialize};

use super::MAX_RATE_LIMIT_QPS;
use crate::duration::Duration;

/// Most windows of a schedule.
pub const MAX_WINDOWS: usize = 32;
/// Shortest and longest window: a second, and 366 days.
pub const WINDOW_LENGTH: (Duration, Duration) =
    (Duration::from_millis(1_000), Duration::from_millis(366 * 24 * 3_600_000));
/// Shortest and longest write latency that a guard aims at.
pub const TARGET_LATENCY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(60_000));

/// A time that comes again, in which another rate counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    // The bounds are WINDOW_LENGTH.
    validation = Rule::new("duration(self.duration) >= duration('1s') && duration(self.duration) <= duration('8784h')")
        .message("expected 1s to 8784h")
        .field_path(".duration")
)]
pub struct ScheduleWindow {
    /// When it begins: a cron expression of five fields (minute, hour, day of the month, month, day of the week), such
    /// as `0 22 * * 1-5`. Names (MON, JAN), lists, ranges, steps, L, W and # are understood. One hour and one minute
    /// that a change of clocks skips begin right after it, and those that it repeats begin once.
    #[schemars(length(min = 1, max = 100), regex(pattern = r"^[-A-Za-z0-9*?/,#@+ ]+$"))]
    pub cron: String,
    /// How long it lasts, in time that passes whatever clocks do: 1s to 8784h. Where it begins again before its end,
    /// it lasts from the later beginning.
    pub duration: Duration,
    /// The IANA time zone of `cron`, such as Europe/Berlin, by the rules that this version was built with. Default: UTC.
    #[serde(default = "utc")]
    #[schemars(length(min = 1, max = 64), regex(pattern = r"^[A-Za-z][-A-Za-z0-9_+/]*$"))]
    pub time_zone: String,
    /// Spans per second that are stored in it, by all replicas together; 0 stops, 10000000 is the most.
    #[serde(rename = "rateLimitQPS")]
    #[schemars(range(min = 0, max = MAX_RATE_LIMIT_QPS), extend("format" = "int32"))]
    pub rate_limit_qps: u32,
}

fn utc() -> String {
    "UTC".to_owned()
}

/// Lowers the rate while the database suffers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    // The bounds are TARGET_LATENCY.
    validation = Rule::new("duration(self.targetWriteLatency) >= duration('1ms') && duration(self.targetWriteLatency) <= duration('1m')")
        .message("expected 1ms to 1m")
        .field_path(".targetWriteLatency")
)]
pub struct Guard {
    /// How long a transaction of the database may take, from its first row to its commit, 1ms to 1m. Where they take
    /// longer on average over half a second, or fail because of the database, the rate falls by 30 %; otherwise it
    /// rises again. Default: 50ms.
    #[serde(default = "default_target")]
    pub target_write_latency: Duration,
    /// Spans per second, by all replicas together, below which the guard does not go; 1 to 10000000. Where
    /// `rateLimitQPS` is smaller, that one counts. Default: 100.
    #[serde(default = "default_min_qps", rename = "minQPS")]
    #[schemars(range(min = 1, max = MAX_RATE_LIMIT_QPS), extend("format" = "int32"))]
    pub min_qps: u32,
}

impl Default for Guard {
    fn default() -> Self {
        Self { target_write_latency: default_target(), min_qps: default_min_qps() }
    }
}

fn default_target() -> Duration {
    Duration::from_millis(50)
}

fn default_min_qps() -> u32 {
    100
}
