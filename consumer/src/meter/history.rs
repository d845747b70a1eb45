//! The last minute, a sample a second: how much was written, what lanes did, and what follows for a backlog.

use std::collections::VecDeque;
use std::time::Duration;

use sluice_crds::bottleneck::Bottleneck;
use tokio::time::Instant;

use super::lanes::{self, Spent};
use super::quota::Quota;

/// Span over which the achieved rate is measured, and what limits it.
const ACHIEVED_OVER: Duration = Duration::from_secs(5);
/// Span over which the time to drain is measured: where a message is worth some seconds of the rate, less would make it
/// jump.
pub(super) const SUSTAINED_OVER: Duration = Duration::from_secs(60);
/// After so much time of work its rate is expected to go on; before, the rate in effect.
const SUSTAINED_AFTER: Duration = Duration::from_secs(20);

/// What is known at one moment, since the start.
#[derive(Clone, Debug)]
pub(super) struct Sample {
    pub(super) at: Instant,
    /// Rows and dead letters.
    pub(super) written: u64,
    /// Offsets of the queue that are settled.
    pub(super) offsets: u64,
    /// Rows and dead letters that their messages became.
    pub(super) settled_spans: u64,
    /// The rate that is set for the whole pipeline, spans per second.
    pub(super) whole: u32,
    /// What of it this replica may use.
    pub(super) effective: f64,
    pub(super) lanes: Vec<Spent>,
    pub(super) quota: Quota,
}

/// Samples of the last minute.
#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Sample>,
    /// By the newest offsets that were settled.
    spans_per_offset: Option<f64>,
}

impl History {
    /// Takes a sample; comes about once a second.
    pub(super) fn push(&mut self, sample: Sample) {
        self.spans_per_offset = Some(self.spans_per_offset(sample.offsets, sample.settled_spans));
        self.samples.push_back(sample);
        while self.samples.len() > 2 && self.since(1) >= SUSTAINED_OVER {
            self.samples.pop_front();
        }
    }

    /// Rows and dead letters per second over the last seconds, and what lanes spent most of that time with.
    pub(super) fn recent(&self) -> (f64, Bottleneck) {
        let Some(last) = self.samples.back() else { return (0.0, Bottleneck::Idle) };
        let begin = (0..self.samples.len()).rev().find(|index| self.since(*index) >= ACHIEVED_OVER);
        let first = &self.samples[begin.unwrap_or(0)];
        let between = last.at - first.at;
        if between.is_zero() {
            return (0.0, Bottleneck::Idle);
        }
        let bottleneck = match lanes::bottleneck(&first.lanes, &last.lanes, between) {
            // The answers were there, and nobody ran to take them.
            Bottleneck::Store if last.quota.is_short_since(first.quota) => Bottleneck::Cpu,
            other => other,
        };
        (rate(first, last), bottleneck)
    }

    /// Rows and dead letters per second since lanes have had work and leave to do it, at the rate that is set now; none before
    /// that is long enough to tell.
    pub(super) fn sustained(&self) -> Option<f64> {
        let last = self.samples.back()?;
        let worked = |(before, after): &(&Sample, &Sample)| {
            before.whole == after.whole
                && after.effective > 0.0
                && lanes::bottleneck(&before.lanes, &after.lanes, after.at - before.at) != Bottleneck::Idle
        };
        let pairs = self.samples.iter().zip(self.samples.iter().skip(1));
        let (first, _) = pairs.rev().take_while(worked).last()?;
        (last.at - first.at >= SUSTAINED_AFTER).then(|| rate(first, last))
    }

    /// How many spans an offset is worth, given what has been settled up to now; 1 while nothing is known. Less than a
    /// message is, where a topic is compacted or its messages come in transactions.
    pub(super) fn spans_per_offset(&self, offsets: u64, settled_spans: u64) -> f64 {
        let (offsets_before, spans_before) =
            self.samples.front().map_or((0, 0), |first| (first.offsets, first.settled_spans));
        match offsets - offsets_before {
            0 => self.spans_per_offset.unwrap_or(1.0),
            offsets => (settled_spans - spans_before) as f64 / offsets as f64,
        }
    }

    fn since(&self, index: usize) -> Duration {
        self.samples.back().map_or(Duration::ZERO, |last| last.at - self.samples[index].at)
    }
}

fn rate(first: &Sample, last: &Sample) -> f64 {
    (last.written - first.written) as f64 / (last.at - first.at).as_secs_f64()
}

#[cfg(test)]
mod tests {
    use super::super::ACTIVITIES;
    use super::*;

    /// A second in which a lane waits at the gate, or is idle, and this much is settled.
    struct Second {
        is_idle: bool,
        effective: f64,
        messages: u64,
        spans: u64,
    }

    const BUSY: Second = Second { is_idle: false, effective: 6.0, messages: 0, spans: 0 };

    #[derive(Default)]
    struct Bed {
        history: History,
        at: Option<Instant>,
        spent: Spent,
        messages: u64,
        spans: u64,
        whole: u32,
    }

    impl Bed {
        fn pass(&mut self, second: &Second) {
            let at = self.at.map_or_else(Instant::now, |at| at + Duration::from_secs(1));
            self.at = Some(at);
            self.spent[if second.is_idle { 0 } else { 2 }] += Duration::from_secs(1);
            self.messages += second.messages;
            self.spans += second.spans;
            self.history.push(Sample {
                at,
                written: self.spans,
                offsets: self.messages,
                settled_spans: self.spans,
                whole: self.whole,
                effective: second.effective,
                lanes: vec![self.spent],
                quota: Quota::default(),
            });
        }
    }

    #[test]
    fn who_waits_for_the_database_and_may_not_run_is_short_of_cpu() {
        let sample = |at: Instant, spent: Duration, quota: &str| Sample {
            at,
            written: 0,
            offsets: 0,
            settled_spans: 0,
            whole: 0,
            effective: 0.0,
            lanes: vec![[Duration::ZERO, Duration::ZERO, Duration::ZERO, spent]],
            quota: Quota::of(quota),
        };
        for (throttled, expected) in [(49, Bottleneck::Cpu), (3, Bottleneck::Store)] {
            let (mut history, begin, period) = (History::default(), Instant::now(), Duration::from_secs(5));
            history.push(sample(begin, Duration::ZERO, ""));
            let quota = format!("nr_periods 50\nnr_throttled {throttled}");
            history.push(sample(begin + period, period, &quota));
            assert_eq!(history.recent().1, expected);
        }
    }

    #[test]
    fn messages_of_some_seconds_of_the_rate_do_not_make_it_jump() {
        let mut bed = Bed::default();
        let mut told = Vec::new();
        for second in 0..200 {
            let came = u64::from(second % 10 == 0 || second % 10 == 3 || second % 10 == 6);
            bed.pass(&Second { messages: came, spans: came * 20, ..BUSY });
            told.extend(bed.history.sustained().filter(|_| second >= 60));
        }
        assert!(told.iter().all(|rate| (5.6..=6.4).contains(rate)), "{told:?}");
    }

    #[test]
    fn work_is_measured_when_there_is_enough_of_it_and_what_came_before_does_not_count() {
        let mut bed = Bed::default();
        (0..60).for_each(|_| bed.pass(&Second { is_idle: true, ..BUSY }));
        assert_eq!(bed.history.sustained(), None);
        // An outage: lanes wait, and nothing may be released.
        (0..60).for_each(|_| bed.pass(&Second { effective: 0.0, ..BUSY }));
        assert_eq!(bed.history.sustained(), None);
        (0..19).for_each(|_| bed.pass(&Second { messages: 5, spans: 5, ..BUSY }));
        assert_eq!(bed.history.sustained(), None);
        (0..5).for_each(|_| bed.pass(&Second { messages: 5, spans: 5, ..BUSY }));
        assert_eq!(bed.history.sustained(), Some(5.0));
        // An edit.
        bed.whole = 7;
        (0..20).for_each(|_| bed.pass(&Second { messages: 7, spans: 7, ..BUSY }));
        assert_eq!(bed.history.sustained(), None);
        bed.pass(&Second { messages: 7, spans: 7, ..BUSY });
        assert_eq!(bed.history.sustained(), Some(7.0));
    }

    #[test]
    fn messages_that_became_larger_count_as_what_they_are_now() {
        let mut bed = Bed::default();
        (0..100).for_each(|_| bed.pass(&Second { messages: 1_000, spans: 1_000, ..BUSY }));
        (0..70).for_each(|_| bed.pass(&Second { messages: 5, spans: 1_000, ..BUSY }));
        assert_eq!(bed.history.spans_per_offset(bed.messages, bed.spans), 200.0);
        // Nothing comes for a while.
        (0..70).for_each(|_| bed.pass(&BUSY));
        assert_eq!(bed.history.spans_per_offset(bed.messages, bed.spans), 200.0);
    }

    #[test]
    fn nothing_is_known_at_the_start() {
        let history = History::default();
        assert_eq!((history.recent(), history.sustained()), ((0.0, Bottleneck::Idle), None));
        assert_eq!((history.spans_per_offset(0, 0), ACTIVITIES.len()), (1.0, 4));
    }
}
