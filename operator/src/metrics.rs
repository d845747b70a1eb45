//! The operator's own metrics.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
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

use crate::lock::lock;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Outcome {
    #[expect(non_camel_case_types, reason = "the label's value")]
    ok,
    #[expect(non_camel_case_types, reason = "the label's value")]
    error,
    #[expect(non_camel_case_types, reason = "the label's value")]
    conflict,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: Outcome,
}

fn by_result(good: bool) -> ByResult {
    ByResult { result: if good { Outcome::ok } else { Outcome::error } }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByNamespace {
    /// Not `namespace`: that is the target's where Prometheus scrapes.
    watched_namespace: String,
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

/// What was last said of each pipeline, and since which second; verdicts by their number, because most pipelines share them.
#[derive(Default)]
struct Judged {
    verdicts: Vec<Verdict>,
    of: HashMap<ObjectRef<TracePipeline>, Vec<(usize, i64)>>,
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

    /// Since when the status of the condition is what it is for the pipeline of which that is true for the longest.
    fn oldest(&self) -> impl Iterator<Item = (&Verdict, i64)> {
        let mut by_number: Vec<Option<i64>> = vec![None; self.verdicts.len()];
        for (number, since) in self.of.values().flatten() {
            let oldest = by_number[*number].get_or_insert(*since);
            *oldest = (*oldest).min(*since);
        }
        self.verdicts.iter().zip(by_number).filter_map(|(verdict, since)| Some((verdict, since?)))
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
    pipelines: Gauge,
    conditions: Family<Verdict, Gauge>,
    conditions_since: Family<Verdict, Gauge>,
    judged: Mutex<Judged>,
    namespace_listed: Family<ByNamespace, Gauge>,
    leader: Gauge,
    ready: AtomicBool,
    watch_errors: Counter,
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
            conditions_since: Family::default(),
            judged: Mutex::default(),
            namespace_listed: Family::default(),
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
        let help = "Unix time of the oldest last transition to a status of a condition, by its reason now";
        let since = metrics.conditions_since.clone();
        registry.register("pipeline_condition_since_timestamp_seconds", help, since);
        let help = "1 while everything in a namespace is listed, and looked after";
        registry.register("namespace_listed", help, metrics.namespace_listed.clone());
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

    /// A reconcile has ended because somebody has written at the same time, as it happens to everybody.
    pub fn conflicted(&self, took: Duration) {
        self.reconciles.get_or_create(&ByResult { result: Outcome::conflict }).inc();
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

    /// A status was written: for numbers alone, or for more.
    pub fn status_written(&self, for_numbers: bool) {
        self.status_writes.inc();
        if for_numbers {
            self.number_writes.inc();
        }
    }

    /// A watch broke.
    pub fn watch_failed(&self) {
        self.watch_errors.inc();
    }

    /// Whether everything in a namespace was listed; none for all namespaces at once.
    pub fn set_listed(&self, namespace: Option<&str>, listed: bool) {
        let namespace = namespace.unwrap_or_default().to_owned();
        self.namespace_listed
            .get_or_create(&ByNamespace { watched_namespace: namespace })
            .set(i64::from(listed));
    }

    /// How many pipelines there are.
    pub fn set_pipelines(&self, count: usize) {
        self.pipelines.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// What is now said of a pipeline.
    pub fn judged(&self, pipeline: &ObjectRef<TracePipeline>, conditions: &[Condition]) {
        let mut judged = lock(&self.judged);
        let since = |condition: &Condition| condition.last_transition_time.0.as_second();
        let new: Vec<_> =
            conditions.iter().map(|condition| (judged.number(condition), since(condition))).collect();
        for (number, _) in &new {
            self.conditions.get_or_create(&judged.verdicts[*number]).inc();
        }
        for (number, _) in judged.of.insert(pipeline.clone(), new).unwrap_or_default() {
            self.conditions.get_or_create(&judged.verdicts[number]).dec();
        }
    }

    /// The pipeline is gone.
    pub fn forget(&self, pipeline: &ObjectRef<TracePipeline>) {
        let mut judged = lock(&self.judged);
        for (number, _) in judged.of.remove(pipeline).unwrap_or_default() {
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
    pub fn page(&self) -> Result<String, std::fmt::Error> {
        // Held until all is written, so that no other page takes away what this one shows.
        let judged = lock(&self.judged);
        self.conditions_since.clear();
        for (verdict, since) in judged.oldest() {
            self.conditions_since.get_or_create(verdict).set(since);
        }
        let mut page = String::new();
        text::encode(&mut page, &self.registry)?;
        Ok(page)
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;

    use super::*;
    use crate::controller::example;
    use crate::controller::status::READY;

    fn ready(status: &str, reason: &str) -> Vec<Condition> {
        vec![Condition { reason: reason.into(), ..example::condition(READY, status) }]
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
    fn of_each_reason_the_pipeline_that_is_not_ready_for_the_longest_tells_since_when() {
        let (metrics, a, b, c) =
            (Metrics::default(), ObjectRef::new("a"), ObjectRef::new("b"), ObjectRef::new("c"));
        let since = |second, status, reason| {
            let mut conditions = ready(status, reason);
            conditions[0].last_transition_time = Time(jiff::Timestamp::constant(second, 0));
            conditions
        };
        let told = || {
            let page = metrics.page().unwrap();
            let lines = page.lines().filter(|line| line.contains("condition_since_timestamp_seconds{"));
            let mut told: Vec<_> = lines.map(|line| line.split_once('{').unwrap().1.to_owned()).collect();
            told.sort();
            told
        };
        metrics.judged(&a, &since(300, "False", "InvalidSpec"));
        metrics.judged(&b, &since(200, "False", "InvalidSpec"));
        metrics.judged(&c, &since(350, "False", "ConsumersNotReady"));
        let line = |status, reason, since| {
            format!(r#"condition="Ready",status="{status}",reason="{reason}"}} {since}"#)
        };
        let missing = line("False", "ConsumersNotReady", 350);
        assert_eq!(told(), [missing.clone(), line("False", "InvalidSpec", 200)]);
        metrics.judged(&b, &since(400, "True", "ConsumersReady"));
        metrics.forget(&a);
        assert_eq!(told(), [missing, line("True", "ConsumersReady", 400)]);
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
