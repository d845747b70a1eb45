//! The rate over time: which window of the schedule counts when, and until when nothing changes.
//!
//! Guarantees: an active override counts before any window, an open window before the base rate, the first of
//! several open windows before the others, and a suspension before all of them. The answer depends on the
//! document and the time alone: the time zones' rules are built in, so that every machine gives the same one. A
//! window that cannot be read is never open; [`crate::validate`] refuses it.

use std::sync::LazyLock;

use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};
use jiff::tz::{TimeZone, TimeZoneDatabase};
use jiff::{SignedDuration, Timestamp};

use crate::live::Live;
use crate::v1alpha1::ScheduleWindow;

/// Rules as this program was built with. Those of the machine may be newer, or missing, or differ between replicas.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

/// Where the search begins that shows that an expression begins at all: `2024-01-01T00:00:00Z`.
const PROBE: Timestamp = Timestamp::constant(1_704_067_200, 0);

/// The rate at some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// Spans per second for the whole pipeline.
    pub rate: u32,
    /// Index of the window that sets it; none where an override, the base rate or a suspension does.
    pub window: Option<usize>,
    /// When it may change by itself; none where only an edit changes it.
    pub until: Option<Timestamp>,
}

/// A live content whose windows have been read once.
#[derive(Clone, Debug)]
pub struct RatePlan {
    live: Live,
    windows: Vec<Option<Window>>,
}

#[derive(Clone, Debug)]
struct Window {
    begins: Cron,
    zone: TimeZone,
    length: SignedDuration,
}

impl RatePlan {
    /// Reads the windows.
    pub fn new(live: Live) -> Self {
        let windows = live.schedule.iter().map(Window::read).collect();
        Self { live, windows }
    }

    /// What it was made of.
    pub fn live(&self) -> &Live {
        &self.live
    }

    /// The rate at `now` (database time).
    pub fn at(&self, now: Timestamp) -> Step {
        if self.live.suspend {
            return Step { rate: 0, window: None, until: None };
        }
        if let Some(active) = self.live.rate_override.as_ref().filter(|active| now < active.until) {
            return Step { rate: active.rate_limit_qps, window: None, until: Some(active.until) };
        }
        let mut until: Option<Timestamp> = None;
        for (index, window) in self.windows.iter().enumerate() {
            let Some(window) = window else { continue };
            let end = window.open_until(now);
            // Windows behind an open one change nothing before its end.
            let next = end.or_else(|| window.next_begin(now));
            until = until.into_iter().chain(next).min();
            if end.is_some() {
                return Step { rate: self.live.schedule[index].rate_limit_qps, window: Some(index), until };
            }
        }
        Step { rate: self.live.rate_limit_qps, window: None, until }
    }
}

impl Window {
    fn read(window: &ScheduleWindow) -> Option<Self> {
        Some(Self {
            begins: cron(&window.cron).ok()?,
            zone: time_zone(&window.time_zone).ok()?,
            length: SignedDuration::from_millis(i64::try_from(window.duration.as_millis()).ok()?),
        })
    }

    /// The end of the window that is open at `now`.
    fn open_until(&self, now: Timestamp) -> Option<Timestamp> {
        let begin = self.begins.find_previous_occurrence(&now.to_zoned(self.zone.clone()), true).ok()?;
        let end = begin.timestamp().checked_add(self.length).unwrap_or(Timestamp::MAX);
        (now < end).then_some(end)
    }

    fn next_begin(&self, now: Timestamp) -> Option<Timestamp> {
        let begin = self.begins.find_next_occurrence(&now.to_zoned(self.zone.clone()), false).ok()?;
        Some(begin.timestamp())
    }
}

/// Reads the expression of a window.
///
/// # Errors
/// What is wrong with it.
pub fn cron(text: &str) -> Result<Cron, String> {
    let parser = CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
    let cron = parser.parse(text).map_err(|error| error.to_string())?;
    match cron.find_next_occurrence(&PROBE.to_zoned(TimeZone::UTC), true) {
        Ok(_) => Ok(cron),
        Err(_) => Err("it never comes".to_owned()),
    }
}

/// Finds a time zone by its IANA name.
///
/// # Errors
/// There is none of that name.
pub fn time_zone(name: &str) -> Result<TimeZone, String> {
    ZONES.get(name).map_err(|_| "there is none of that name".to_owned())
}

#[cfg(test)]
mod tests;
