//! How many consumers: more only where the processor is what limits them; no client.
//!
//! More consumers do not make a database or a rate faster, so only `bottleneck: Cpu` grows the number, and
//! only while there are partitions for them. It shrinks slowly, one by one.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use sluice_crds::v1alpha1::{Autoscaling, TracePipeline};

use super::probe::PodReport;

/// For how long the processor must be the limit before consumers are added, and how often that is looked at.
pub const GROW_AFTER: Duration = Duration::from_secs(30);
/// For how long it must not be before one is taken away: longer, because a rebalance stops everybody shortly.
const SHRINK_AFTER: Duration = Duration::from_secs(300);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pressure {
    /// Half of the consumers or more are limited by the processor.
    Cpu,
    /// None is.
    None,
    /// Neither, or somebody does not answer.
    Unclear,
}

/// Since when the pressure of each pipeline is what it is.
#[derive(Default)]
pub struct Autoscaler {
    since: Mutex<HashMap<ObjectRef<TracePipeline>, (Pressure, Instant)>>,
}

impl Autoscaler {
    /// The number of consumers that there should be now.
    pub fn decide(
        &self,
        pipeline: &ObjectRef<TracePipeline>,
        bounds: &Autoscaling,
        current: Option<u32>,
        reports: &[PodReport],
        now: Instant,
    ) -> u32 {
        let current = current.unwrap_or(bounds.min).clamp(bounds.min, bounds.max);
        let pressure = pressure(reports);
        let mut since = self.since.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = since.entry(pipeline.clone()).or_insert((pressure, now));
        if entry.0 != pressure {
            *entry = (pressure, now);
        }
        let lasted = now.duration_since(entry.1);
        let wanted = match pressure {
            Pressure::Cpu if lasted >= GROW_AFTER => current + current.div_ceil(2),
            Pressure::None if lasted >= SHRINK_AFTER => current - 1,
            _ => return current,
        };
        // Counts anew: the next step must earn its time as well.
        entry.1 = now;
        // A consumer without a partition would do nothing.
        let partitions: usize =
            reports.iter().filter_map(|report| Some(report.answer.as_ref().ok()?.partitions.len())).sum();
        let most = bounds.max.min(u32::try_from(partitions).unwrap_or(u32::MAX).max(current));
        wanted.clamp(bounds.min, most.max(bounds.min))
    }

    /// The pipeline is gone.
    pub fn forget(&self, pipeline: &ObjectRef<TracePipeline>) {
        self.since.lock().unwrap_or_else(PoisonError::into_inner).remove(pipeline);
    }
}

fn pressure(reports: &[PodReport]) -> Pressure {
    let mut limited = 0;
    for report in reports {
        match &report.answer {
            Ok(answer) if answer.bottleneck == "Cpu" => limited += 1,
            Ok(_) => {}
            Err(_) => return Pressure::Unclear,
        }
    }
    match limited {
        _ if reports.is_empty() => Pressure::Unclear,
        0 => Pressure::None,
        limited if limited * 2 >= reports.len() => Pressure::Cpu,
        _ => Pressure::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::probe::{PartitionReport, Report};

    const BOUNDS: Autoscaling = Autoscaling { min: 1, max: 12 };

    fn reports(bottlenecks: &[&str], partitions: usize) -> Vec<PodReport> {
        let report = |(index, bottleneck): (usize, &&str)| PodReport {
            pod: format!("pod-{index}"),
            answer: Ok(Report {
                bottleneck: (*bottleneck).to_owned(),
                partitions: vec![PartitionReport::default(); partitions / bottlenecks.len()],
                ..Report::default()
            }),
        };
        bottlenecks.iter().enumerate().map(report).collect()
    }

    /// The number after the same reports for some time.
    fn after(seconds: u64, current: u32, reports: &[PodReport]) -> u32 {
        let (scaler, name, start) = (Autoscaler::default(), ObjectRef::new("p"), Instant::now());
        assert_eq!(scaler.decide(&name, &BOUNDS, Some(current), reports, start), current);
        scaler.decide(&name, &BOUNDS, Some(current), reports, start + Duration::from_secs(seconds))
    }

    #[test]
    fn consumers_are_added_while_the_processor_limits_them() {
        assert_eq!(after(29, 2, &reports(&["Cpu", "Cpu"], 6)), 2);
        assert_eq!(after(30, 2, &reports(&["Cpu", "Cpu"], 6)), 3);
    }

    #[test]
    fn neither_the_database_nor_the_rate_adds_any() {
        for bottleneck in ["Store", "Guard", "Limiter", "Idle"] {
            assert_eq!(after(60, 2, &reports(&[bottleneck, bottleneck], 6)), 2, "{bottleneck}");
        }
    }

    #[test]
    fn never_more_than_partitions_or_the_bound() {
        assert_eq!(after(60, 2, &reports(&["Cpu", "Cpu"], 2)), 2);
        assert_eq!(after(60, 11, &reports(&["Cpu"; 11], 220)), 12);
    }

    #[test]
    fn one_goes_after_five_quiet_minutes_and_never_the_last() {
        assert_eq!(after(300, 3, &reports(&["Idle", "Store", "Idle"], 6)), 2);
        assert_eq!(after(900, 1, &reports(&["Idle"], 6)), 1);
    }

    #[test]
    fn silence_moves_nothing() {
        let silent = vec![PodReport { pod: "a".into(), answer: Err("no answer".into()) }];
        assert_eq!(after(900, 3, &silent), 3);
    }
}
