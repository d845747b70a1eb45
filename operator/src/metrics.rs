//! The operator's own metrics.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::runtime::reflector::ObjectRef;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use sluice_crds::v1alpha1::TracePipeline;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Result {
    #[expect(non_camel_case_types, reason = "the label's value")]
    ok,
    #[expect(non_camel_case_types, reason = "the label's value")]
    error,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: Result,
}

fn by_result(good: bool) -> ByResult {
    ByResult { result: if good { Result::ok } else { Result::error } }
}

/// Most combinations of condition, status and reason that are told apart: some reasons come from consumers, and
/// nobody may fill the memory of whoever scrapes.
const MOST_VERDICTS: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Verdict {
    condition: String,
    status: String,
    reason: String,
}

/// What was last said of each pipeline; verdicts by their number, because most pipelines share them.
#[derive(Default)]
struct Judged {
    verdicts: Vec<Verdict>,
    of: HashMap<ObjectRef<TracePipeline>, Vec<usize>>,
}

impl Judged {
    fn number(&mut self, condition: &Condition) -> usize {
        let mut verdict = Verdict {
            condition: condition.type_.clone(),
            status: condition.status.clone(),
            reason: condition.reason.clone(),
        };
        let found = |known: &[Verdict], verdict: &Verdict| known.iter().position(|one| one == verdict);
        if let Some(number) = found(&self.verdicts, &verdict) {
            return number;
        }
        if self.verdicts.len() >= MOST_VERDICTS {
            verdict.reason = "Other".to_owned();
            if let Some(number) = found(&self.verdicts, &verdict) {
                return number;
            }
        }
        self.verdicts.push(verdict);
        self.verdicts.len() - 1
    }
}

/// Counters of this process.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<ByResult, Counter>,
    reconcile_time: Histogram,
    probes: Family<ByResult, Counter>,
    live_writes: Counter,
    child_writes: Counter,
    status_writes: Counter,
    number_writes: Counter,
    pipelines: Gauge<i64, AtomicI64>,
    conditions: Family<Verdict, Gauge<i64, AtomicI64>>,
    judged: Mutex<Judged>,
    leader: Gauge<i64, AtomicI64>,
    ready: AtomicBool,
    watch_errors: Counter<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sluice_operator");
        // From a comparison in memory to a pipeline's first nine writes.
        let reconcile_time = Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0]);
        let metrics = Self {
            reconciles: Family::default(),
            reconcile_time,
            probes: Family::default(),
            live_writes: Counter::default(),
            child_writes: Counter::default(),
            status_writes: Counter::default(),
            number_writes: Counter::default(),
            pipelines: Gauge::default(),
            conditions: Family::default(),
            judged: Mutex::default(),
            leader: Gauge::default(),
            ready: AtomicBool::new(false),
            watch_errors: Counter::default(),
            registry: Registry::default(),
        };
        registry.register("reconciles", "Reconciles, by result", metrics.reconciles.clone());
        let help = "Time of a reconcile";
        registry.register_with_unit("reconcile", help, Unit::Seconds, metrics.reconcile_time.clone());
        registry.register("probes", "Questions to consumers, by result", metrics.probes.clone());
        registry.register("live_writes", "Live documents written", metrics.live_writes.clone());
        registry.register("child_writes", "Other children written", metrics.child_writes.clone());
        registry.register("status_writes", "Statuses written", metrics.status_writes.clone());
        let help = "Statuses written for numbers alone";
        registry.register("status_number_writes", help, metrics.number_writes.clone());
        registry.register("pipelines", "Pipelines that exist", metrics.pipelines.clone());
        let help = "Pipelines by condition, its status and its reason";
        registry.register("pipeline_conditions", help, metrics.conditions.clone());
        registry.register("leader", "1 while this replica is the leader", metrics.leader.clone());
        registry.register(
            "watch_errors",
            "Watches that broke and were begun again",
            metrics.watch_errors.clone(),
        );
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// A reconcile has ended.
    pub fn reconciled(&self, good: bool, took: Duration) {
        self.reconciles.get_or_create(&by_result(good)).inc();
        self.reconcile_time.observe(took.as_secs_f64());
    }

    /// A consumer was asked.
    pub fn probed(&self, answered: bool) {
        self.probes.get_or_create(&by_result(answered)).inc();
    }

    /// A live document was written.
    pub fn live_written(&self) {
        self.live_writes.inc();
    }

    /// Another child was written.
    pub fn child_written(&self) {
        self.child_writes.inc();
    }

    /// A status was written: for more than numbers, or not.
    pub fn status_written(&self, at_once: bool) {
        self.status_writes.inc();
        if !at_once {
            self.number_writes.inc();
        }
    }

    /// A watch broke.
    pub fn watch_failed(&self) {
        self.watch_errors.inc();
    }

    /// How many pipelines there are.
    pub fn set_pipelines(&self, count: usize) {
        self.pipelines.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// What is now said of a pipeline.
    pub fn judged(&self, pipeline: &ObjectRef<TracePipeline>, conditions: &[Condition]) {
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<_> = conditions.iter().map(|condition| judged.number(condition)).collect();
        for number in &new {
            self.conditions.get_or_create(&judged.verdicts[*number]).inc();
        }
        for number in judged.of.insert(pipeline.clone(), new).unwrap_or_default() {
            self.conditions.get_or_create(&judged.verdicts[number]).dec();
        }
    }

    /// The pipeline is gone.
    pub fn forget(&self, pipeline: &ObjectRef<TracePipeline>) {
        let mut judged = self.judged.lock().unwrap_or_else(PoisonError::into_inner);
        for number in judged.of.remove(pipeline).unwrap_or_default() {
            self.conditions.get_or_create(&judged.verdicts[number]).dec();
        }
    }

    /// Whether this replica leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Whether it is connected and either leads or waits for its turn.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Relaxed);
    }

    /// What [`Self::set_ready`] was told last.
    pub fn is_ready(&self) -> bool {
        self.ready.load(Relaxed)
    }

    /// Everything, in the text format of OpenMetrics.
    ///
    /// # Errors
    /// A value could not be written, which only a defect of the registry explains.
    pub fn page(&self) -> std::result::Result<String, std::fmt::Error> {
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;

    fn ready(status: &str, reason: &str) -> Vec<Condition> {
        vec![Condition {
            type_: "Ready".into(),
            status: status.into(),
            reason: reason.into(),
            message: String::new(),
            last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
            observed_generation: None,
        }]
    }

    #[test]
    fn pipelines_are_counted_by_what_is_said_of_them() {
        let (metrics, a, b) = (Metrics::default(), ObjectRef::new("a"), ObjectRef::new("b"));
        metrics.judged(&a, &ready("True", "ConsumersReady"));
        metrics.judged(&b, &ready("False", "InvalidSpec"));
        metrics.judged(&a, &ready("False", "InvalidSpec"));
        let line = |status: &str, reason: &str, count: u32| {
            format!(
                "sluice_operator_pipeline_conditions{{condition=\"Ready\",status=\"{status}\",reason=\"{reason}\"}} {count}\n"
            )
        };
        let text = metrics.page().unwrap();
        assert!(text.contains(&line("False", "InvalidSpec", 2)), "{text}");
        assert!(text.contains(&line("True", "ConsumersReady", 0)), "{text}");
        metrics.forget(&b);
        assert!(metrics.page().unwrap().contains(&line("False", "InvalidSpec", 1)));
    }

    #[test]
    fn reasons_without_end_do_not_fill_the_memory() {
        let metrics = Metrics::default();
        for number in 0..1_000 {
            metrics.judged(&ObjectRef::new("a"), &ready("False", &format!("Made{number}")));
        }
        assert!(
            metrics.page().unwrap().lines().filter(|line| line.contains("Made")).count() <= MOST_VERDICTS
        );
    }
}
