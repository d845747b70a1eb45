//! Rules about what moves the rate. A schema cannot read cron expressions or time zones: here is where they are refused.

use super::{Check, Quoted};
use crate::live::Live;
use crate::schedule;
use crate::v1alpha1::{
    Guard, MAX_RATE_LIMIT_QPS, MAX_WINDOWS, ScheduleWindow, TARGET_LATENCY, WINDOW_LENGTH,
};

/// Longest cron expression, in characters.
const MAX_CRON: usize = 100;

impl Check {
    /// `prefix` is empty, or ends with a dot.
    pub(super) fn live(&mut self, prefix: &str, live: &Live) {
        self.rate(&format!("{prefix}rateLimitQPS"), live.rate_limit_qps);
        if let Some(rate_override) = &live.rate_override {
            self.rate(&format!("{prefix}override.rateLimitQPS"), rate_override.rate_limit_qps);
            self.time(&format!("{prefix}override.until"), rate_override.until);
        }
        let (path, windows) = (format!("{prefix}schedule"), live.schedule.len());
        self.expect(windows <= MAX_WINDOWS, path.clone(), &format!("at most {MAX_WINDOWS} windows"), windows);
        for (index, window) in live.schedule.iter().take(MAX_WINDOWS).enumerate() {
            self.window(&format!("{path}[{index}]"), window);
        }
        if let Some(guard) = &live.guard {
            self.guard(&format!("{prefix}guard"), guard);
        }
    }

    fn window(&mut self, path: &str, window: &ScheduleWindow) {
        let length = window.cron.chars().count();
        if length > MAX_CRON {
            self.report(
                format!("{path}.cron"),
                format!("expected at most {MAX_CRON} characters, found {length}"),
            );
        } else if let Err(why) = schedule::cron(&window.cron) {
            let expected = "expected a cron expression of five fields such as \"0 22 * * 1-5\"";
            self.report(
                format!("{path}.cron"),
                format!("{expected}, found {} ({why})", Quoted(&window.cron)),
            );
        }
        let (least, most) = WINDOW_LENGTH;
        let good = (least..=most).contains(&window.duration);
        self.expect(good, format!("{path}.duration"), &format!("{least} to {most}"), window.duration);
        if schedule::time_zone(&window.time_zone).is_err() {
            let expected = "an IANA time zone such as Europe/Berlin";
            self.expect(false, format!("{path}.timeZone"), expected, Quoted(&window.time_zone));
        }
        self.rate(&format!("{path}.rateLimitQPS"), window.rate_limit_qps);
    }

    fn guard(&mut self, path: &str, guard: &Guard) {
        let ((least, most), found) = (TARGET_LATENCY, guard.target_write_latency);
        let good = (least..=most).contains(&found);
        self.expect(good, format!("{path}.targetWriteLatency"), &format!("{least} to {most}"), found);
        let expected = format!("1 to {MAX_RATE_LIMIT_QPS} spans per second");
        let good = (1..=MAX_RATE_LIMIT_QPS).contains(&guard.min_qps);
        self.expect(good, format!("{path}.minQPS"), &expected, guard.min_qps);
    }
}
