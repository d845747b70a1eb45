//! How many consumers: more only where the processor is what limits them; no client.
//!
//! More consumers do not make a database or a rate faster, so only `bottleneck: Cpu` grows the number, and
//! only while there are partitions for them. It shrinks slowly, one by one, and only while the rest could do the
//! work: what one consumer can do is learned while the processor limits it. Where the work is held up, nobody knows
//! how much there is: none goes then, and what was learned counts on.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use sluice_crds::bottleneck::Bottleneck;
use sluice_crds::v1alpha1::{Autoscaling, TracePipeline};

use super::probe::{PodReport, answers_of};
use crate::lock::lock;

/// For how long the processor must be the limit before consumers are added, and how often that is looked at.
pub const GROW_AFTER: Duration = Duration::from_secs(30);
/// For how long it must not be before one is taken away: longer, because a rebalance stops everybody shortly.
const SHRINK_AFTER: Duration = Duration::from_secs(300);

/// How much of what the rest can do the work may be when one goes: what is not needed then keeps it away from
/// being added again.
const FILL: f64 = 0.7;
/// For how long that knowledge counts: messages change.
const REMEMBER: Duration = Duration::from_secs(3600);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pressure {
    /// Half of the consumers or more are limited by the processor.
    Cpu,
    /// None is.
    None,
    /// Neither, or somebody does not answer, or it is not for want of work that none is.
    Unclear,
}

/// What is known of a pipeline.
struct Known {
    pressure: Pressure,
    since: Instant,
    /// Spans per second that one consumer stores when the processor limits it, and when that was seen.
    capacity: Option<(f64, Instant)>,
}

/// What is known of each pipeline.
#[derive(Default)]
pub struct Autoscaler {
    known: Mutex<HashMap<ObjectRef<TracePipeline>, Known>>,
}

impl Autoscaler {
    /// The number of consumers that there should be now. `is_held_up`: they may not work, or cannot, however much there is
    /// to do.
    pub fn decide(
        &self,
        pipeline: &ObjectRef<TracePipeline>,
        bounds: &Autoscaling,
        current: Option<u32>,
        reports: &[PodReport],
        is_held_up: bool,
        now: Instant,
    ) -> u32 {
        let current = current.unwrap_or(bounds.min).clamp(bounds.min, bounds.max);
        let pressure = match pressure(reports, current) {
            Pressure::None if is_held_up => Pressure::Unclear,
            pressure => pressure,
        };
        let mut known = lock(&self.known);
        let known = known.entry(pipeline.clone()).or_insert(Known { pressure, since: now, capacity: None });
        if known.pressure != pressure {
            (known.pressure, known.since) = (pressure, now);
        }
        known.learn(reports, is_held_up, now);
        let lasted = now.duration_since(known.since);
        let wanted = match pressure {
            Pressure::Cpu if lasted >= GROW_AFTER => current + current.div_ceil(2),
            Pressure::None if lasted >= SHRINK_AFTER && known.would_do(current - 1, reports) => current - 1,
            _ => return current,
        };
        // Counts anew: the next step must earn its time as well.
        known.since = now;
        // A consumer without a partition would do nothing.
        let partitions =
            answers_of(reports).map(|answer| answer.partitions.count).fold(0, u64::saturating_add);
        let most = bounds.max.min(u32::try_from(partitions).unwrap_or(u32::MAX).max(current));
        wanted.clamp(bounds.min, most.max(bounds.min))
    }

    /// The pipeline is gone.
    pub fn forget(&self, pipeline: &ObjectRef<TracePipeline>) {
        lock(&self.known).remove(pipeline);
    }
}

impl Known {
    fn learn(&mut self, reports: &[PodReport], is_held_up: bool, now: Instant) {
        let limited: Vec<f64> = answers_of(reports)
            .filter(|answer| answer.is_limited_by(Bottleneck::Cpu) && answer.achieved_qps > 0.0)
            .map(|answer| answer.achieved_qps)
            .collect();
        if !limited.is_empty() {
            // A handful of pods: exact.
            self.capacity = Some((limited.iter().sum::<f64>() / limited.len() as f64, now));
        }
        if let Some((_, seen)) = self.capacity.as_mut().filter(|_| is_held_up) {
            *seen = now;
        }
        self.capacity = self.capacity.filter(|(_, seen)| now.duration_since(*seen) < REMEMBER);
        if let Some((capacity, _)) = &mut self.capacity {
            // Who does more and is not even limited has taught something, too.
            *capacity = answers_of(reports).map(|answer| answer.achieved_qps).fold(*capacity, f64::max);
        }
    }

    /// Whether so many consumers could do the work. As long as none was ever limited, nobody knows better.
    fn would_do(&self, consumers: u32, reports: &[PodReport]) -> bool {
        let work: f64 = answers_of(reports).map(|answer| answer.achieved_qps).sum();
        self.capacity.is_none_or(|(capacity, _)| work <= FILL * capacity * f64::from(consumers))
    }
}

/// Consumers that do not run yet have no report: what they will do is not known before they do.
fn pressure(reports: &[PodReport], current: u32) -> Pressure {
    let mut limited = 0;
    for report in reports {
        match &report.answer {
            Ok(answer) if answer.is_limited_by(Bottleneck::Cpu) => limited += 1,
            Ok(_) => {}
            Err(_) => return Pressure::Unclear,
        }
    }
    match limited {
        _ if reports.is_empty() => Pressure::Unclear,
        0 => Pressure::None,
        limited if limited * 2 >= reports.len() && reports.len() >= current as usize => Pressure::Cpu,
        _ => Pressure::Unclear,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::probe::Report;

    const BOUNDS: Autoscaling = Autoscaling { min: 1, max: 12 };

    fn reports(bottlenecks: &[Bottleneck], partitions: usize) -> Vec<PodReport> {
        let report = |(index, bottleneck): (usize, &Bottleneck)| PodReport {
            pod: format!("pod-{index}"),
            answer: Ok(Report {
                bottleneck: Some(*bottleneck),
                partitions: vec![None; partitions / bottlenecks.len()].into_iter().collect(),
                ..Report::default()
            }),
        };
        bottlenecks.iter().enumerate().map(report).collect()
    }

    /// The number after the same reports for some time.
    fn after(seconds: u64, current: u32, reports: &[PodReport]) -> u32 {
        let (scaler, name, start) = (Autoscaler::default(), ObjectRef::new("p"), Instant::now());
        assert_eq!(scaler.decide(&name, &BOUNDS, Some(current), reports, false, start), current);
        scaler.decide(&name, &BOUNDS, Some(current), reports, false, start + Duration::from_secs(seconds))
    }

    #[test]
    fn consumers_are_added_while_the_processor_limits_them() {
        assert_eq!(after(29, 2, &reports(&[Bottleneck::Cpu, Bottleneck::Cpu], 6)), 2);
        assert_eq!(after(30, 2, &reports(&[Bottleneck::Cpu, Bottleneck::Cpu], 6)), 3);
    }

    #[test]
    fn none_is_added_while_one_that_is_wanted_does_not_run() {
        assert_eq!(after(900, 3, &reports(&[Bottleneck::Cpu, Bottleneck::Cpu], 6)), 3);
    }

    #[test]
    fn neither_the_database_nor_the_rate_adds_any() {
        for bottleneck in [Bottleneck::Store, Bottleneck::Guard, Bottleneck::Limiter, Bottleneck::Idle] {
            assert_eq!(after(60, 2, &reports(&[bottleneck, bottleneck], 6)), 2, "{bottleneck:?}");
        }
    }

    #[test]
    fn never_more_than_partitions_or_the_bound() {
        assert_eq!(after(60, 2, &reports(&[Bottleneck::Cpu, Bottleneck::Cpu], 2)), 2);
        assert_eq!(after(60, 11, &reports(&[Bottleneck::Cpu; 11], 220)), 12);
    }

    #[test]
    fn one_goes_after_five_quiet_minutes_and_never_the_last() {
        assert_eq!(after(300, 3, &reports(&[Bottleneck::Idle, Bottleneck::Store, Bottleneck::Idle], 6)), 2);
        assert_eq!(after(900, 1, &reports(&[Bottleneck::Idle], 6)), 1);
    }

    /// Reports of consumers that store so much each.
    fn working(bottleneck: Bottleneck, consumers: usize, each: f64) -> Vec<PodReport> {
        let mut reports = reports(&vec![bottleneck; consumers], consumers * 4);
        for report in &mut reports {
            report.answer.as_mut().expect("an answer").achieved_qps = each;
        }
        reports
    }

    #[test]
    fn none_goes_while_the_work_is_held_up_and_what_was_learned_counts_on() {
        let (scaler, name, start) = (Autoscaler::default(), ObjectRef::new("p"), Instant::now());
        let decide = |reports: &[PodReport], is_held_up: bool, seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            scaler.decide(&name, &BOUNDS, Some(12), reports, is_held_up, now)
        };
        decide(&working(Bottleneck::Cpu, 12, 1_000.0), false, 0);
        // The database is away for two hours.
        for seconds in (30..7_200).step_by(30) {
            assert_eq!(decide(&working(Bottleneck::Store, 12, 0.0), true, seconds), 12, "{seconds}");
        }
        // There is work for all of them, and then there is not.
        for seconds in (7_200..9_000).step_by(30) {
            assert_eq!(decide(&working(Bottleneck::Limiter, 12, 900.0), false, seconds), 12, "{seconds}");
        }
        assert_eq!(decide(&working(Bottleneck::Idle, 12, 500.0), false, 9_000), 11);
    }

    #[test]
    fn consumers_that_work_to_their_limit_grow_whatever_one_of_them_says() {
        let (scaler, name, start) = (Autoscaler::default(), ObjectRef::new("p"), Instant::now());
        let busy = working(Bottleneck::Cpu, 2, 1_000.0);
        let decide = |seconds| {
            scaler.decide(&name, &BOUNDS, Some(2), &busy, true, start + Duration::from_secs(seconds))
        };
        assert_eq!([decide(0), decide(30)], [2, 3]);
    }

    #[test]
    fn none_goes_while_the_rest_could_not_do_the_work() {
        let (scaler, name, start) = (Autoscaler::default(), ObjectRef::new("p"), Instant::now());
        let decide = |current: u32, reports: &[PodReport], seconds: u64| {
            let now = start + Duration::from_secs(seconds);
            scaler.decide(&name, &BOUNDS, Some(current), reports, false, now)
        };
        // Two are limited at 1,000 each, so that there are three, at 667 each.
        decide(2, &working(Bottleneck::Cpu, 2, 1_000.0), 0);
        assert_eq!(decide(2, &working(Bottleneck::Cpu, 2, 1_000.0), 30), 3);
        for seconds in (40..2_000).step_by(100) {
            assert_eq!(decide(3, &working(Bottleneck::Idle, 3, 667.0), seconds), 3, "{seconds}");
        }
        // Less work, which two can do.
        assert_eq!(decide(3, &working(Bottleneck::Idle, 3, 400.0), 2_000), 2);
        // What was learned does not count for ever.
        assert_eq!(decide(2, &working(Bottleneck::Idle, 2, 700.0), 3_000), 2);
        assert_eq!(decide(2, &working(Bottleneck::Idle, 2, 700.0), 3_700), 1);
    }

    #[test]
    fn silence_moves_nothing() {
        let silent = vec![PodReport { pod: "a".into(), answer: Err("no answer".into()) }];
        assert_eq!(after(900, 3, &silent), 3);
    }
}
