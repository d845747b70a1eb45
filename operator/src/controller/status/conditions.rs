//! The conditions, each by its own rule; the first reason that fits is the one that is told.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::numbers::rounded;
use super::{Facts, Pods};
use crate::controller::apply::Rollout;
use crate::controller::probe::{PodReport, Report};
use crate::controller::validate::Refusal;

/// Type of the condition that an installation writes to another one's pipeline.
pub const CONFLICT: &str = "Conflict";
/// Type of the condition that tells of messages that nobody can store.
pub const DEAD_LETTERS_GROWING: &str = "DeadLettersGrowing";

const TRUE: &str = "True";
const FALSE: &str = "False";
const UNKNOWN: &str = "Unknown";
/// Longest message that is kept of an error.
const MAX_MESSAGE_CHARS: usize = 1024;

type Verdict = (&'static str, String, String);

/// Conditions that keep their transition time while they stay.
pub struct Conditions {
    last: Vec<Condition>,
    new: Vec<Condition>,
    generation: Option<i64>,
    now: Timestamp,
}

fn verdict(status: &'static str, reason: &str, message: impl Into<String>) -> Verdict {
    (status, reason.to_owned(), message.into())
}

impl Conditions {
    /// Begins from those of the last status.
    pub fn new(last: Vec<Condition>, generation: Option<i64>, now: Timestamp) -> Self {
        Self { last, new: Vec::new(), generation, now }
    }

    /// Judges all of them.
    pub fn judge(&mut self, facts: &Facts<'_>, pods: &Pods) {
        for (type_, verdict) in [
            ("Ready", ready(facts, pods)),
            ("Progressing", progressing(facts, pods)),
            ("Degraded", degraded(facts, pods)),
            ("Throttled", throttled(facts)),
            ("Suspended", suspended(facts)),
            ("RateConfirmed", rate_confirmed(facts)),
            ("Stalled", stalled(facts, pods)),
            (DEAD_LETTERS_GROWING, dead_letters_growing(facts)),
        ] {
            self.set(type_, verdict);
        }
    }

    fn set(&mut self, type_: &str, (status, reason, message): Verdict) {
        let last = self.last.iter().find(|condition| condition.type_ == type_);
        let since =
            last.filter(|condition| condition.status == status).map(|last| last.last_transition_time.clone());
        self.new.push(Condition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason,
            message: message.chars().take(MAX_MESSAGE_CHARS).collect(),
            last_transition_time: since.unwrap_or(Time(self.now)),
            observed_generation: self.generation,
        });
    }

    /// The new conditions.
    pub fn finish(self) -> Vec<Condition> {
        self.new
    }
}

/// The condition of a pipeline whose children are another installation's.
pub fn conflict(last: &[Condition], refusal: &Refusal, now: Timestamp) -> Condition {
    // Generations are the owner's to observe.
    let mut conditions = Conditions::new(last.to_vec(), None, now);
    conditions.set(CONFLICT, verdict(TRUE, refusal.reason(), refusal.to_string()));
    conditions.new.swap_remove(0)
}

fn ready(facts: &Facts<'_>, pods: &Pods) -> Verdict {
    if let Some(refusal) = facts.refusal {
        return verdict(FALSE, refusal.reason(), refusal.to_string());
    }
    let counts = format!("{} of {} consumers are ready", pods.ready, pods.wanted);
    if facts.outcome.is_some_and(|outcome| outcome.error.is_some()) {
        return verdict(FALSE, "NotApplied", "the children could not be written; see Degraded");
    }
    if facts.deployment.is_none() || (!pods.observed && pods.ready == 0) {
        return verdict(FALSE, "Starting", "the consumers are being started");
    }
    if pods.stalled {
        return verdict(FALSE, "RolloutStalled", format!("{counts}, and the rollout has stopped moving"));
    }
    match pods.settled() {
        // Old pods work on while new ones start: nothing is broken, and the spec is not in effect everywhere yet.
        _ if !pods.observed => verdict(UNKNOWN, "RollingOut", "the new spec has not reached the pods yet"),
        true if pods.wanted == 0 => verdict(TRUE, "ScaledToZero", "no consumer is wanted"),
        true => verdict(TRUE, "ConsumersReady", counts),
        false if pods.ready >= pods.wanted => verdict(UNKNOWN, "RollingOut", counts),
        false => verdict(FALSE, "ConsumersNotReady", counts),
    }
}

fn progressing(facts: &Facts<'_>, pods: &Pods) -> Verdict {
    if facts.refusal.is_some() {
        return verdict(FALSE, "NotBuilt", "the spec is not in effect; see Ready");
    }
    match facts.outcome.map(|outcome| &outcome.rollout) {
        Some(Rollout::Waiting) => {
            verdict(TRUE, "WaitingForTurn", "an upgrade of the operator rolls a few pipelines at a time")
        }
        Some(Rollout::Halted { because }) => verdict(
            FALSE,
            "UpgradeHalted",
            format!("an upgrade of the operator has halted, because the rollout of {because} has failed"),
        ),
        _ if pods.stalled => verdict(
            FALSE,
            "RolloutStalled",
            format!("{} of {} consumers are updated", pods.updated, pods.wanted),
        ),
        _ if facts.deployment.is_none() || !pods.settled() => {
            verdict(TRUE, "RollingOut", format!("{} of {} consumers are updated", pods.updated, pods.wanted))
        }
        _ => verdict(FALSE, "RolledOut", "every consumer runs the newest settings"),
    }
}

fn degraded(facts: &Facts<'_>, pods: &Pods) -> Verdict {
    if let Some(refusal) = facts.refusal {
        return verdict(TRUE, refusal.reason(), refusal.to_string());
    }
    if let Some(error) = facts.outcome.and_then(|outcome| outcome.error.as_ref()) {
        return verdict(TRUE, error.reason(), sluice_crds::problem::chain(error));
    }
    let troubled = facts.reports.iter().find_map(|report| {
        let answer = report.answer.as_ref().ok()?;
        Some((&report.pod, answer, answer.last_error.as_ref()?))
    });
    if let Some((pod, answer, error)) = troubled {
        let reason = answer.last_error_reason.clone().unwrap_or_else(|| "ConsumerError".to_owned());
        return verdict(TRUE, &reason, format!("{pod}: {error}"));
    }
    if pods.stalled {
        return verdict(TRUE, "RolloutStalled", "see `kubectl describe` of the Deployment's pods");
    }
    if let Some((pod, retention)) = expiring(facts.reports) {
        let message = format!(
            "{pod}: the backlog takes longer to drain than the topic's retention of {retention} s: messages will \
             expire unread; raise the rate or the retention"
        );
        return verdict(TRUE, "DrainExceedsRetention", message);
    }
    verdict(FALSE, "AsExpected", "no consumer reports an error")
}

/// A consumer whose messages expire before it comes to them, and after how many seconds they do.
pub fn expiring(reports: &[PodReport]) -> Option<(&str, u64)> {
    reports.iter().find_map(|report| {
        let answer = report.answer.as_ref().ok()?;
        let (drain, retention) = (answer.drain_seconds?, answer.retention_seconds?);
        (drain > retention).then_some((report.pod.as_str(), retention))
    })
}

/// What kstatus reads as a failure: trying again changes nothing before somebody has acted.
fn stalled(facts: &Facts<'_>, pods: &Pods) -> Verdict {
    if let Some(refusal) = facts.refusal {
        return verdict(TRUE, refusal.reason(), refusal.to_string());
    }
    let error = facts.outcome.and_then(|outcome| outcome.error.as_ref());
    if let Some(error) = error.filter(|error| error.needs_somebody()) {
        return verdict(TRUE, error.reason(), sluice_crds::problem::chain(error));
    }
    if pods.stalled {
        return verdict(TRUE, "RolloutStalled", "the rollout has stopped moving");
    }
    verdict(FALSE, "NotStalled", "nothing waits for somebody to act")
}

fn dead_letters_growing(facts: &Facts<'_>) -> Verdict {
    if facts.dead_letters_grow {
        let message = "messages that cannot be stored were kept as dead letters in the last 5 minutes; the table \
            sluice_dead_letter has their bytes and reasons";
        return verdict(TRUE, "NewDeadLetters", message);
    }
    verdict(FALSE, "NoneLately", "no new dead letter in the last 5 minutes")
}

fn throttled(facts: &Facts<'_>) -> Verdict {
    if waits_for_the_rate(facts.reports) && facts.desired() > 0 {
        let held = facts.answers().filter(|answer| answer.bottleneck == "Guard");
        if let Some(held) = held.filter_map(|answer| answer.guard_qps).reduce(f64::min) {
            // Not negative and at most the rate.
            let held = rounded(held.round() as u64);
            let message = format!(
                "the database suffers: the guard lets about {held} of {} spans per second pass",
                facts.desired()
            );
            return verdict(TRUE, "Guard", message);
        }
        let message = format!("messages wait for the rate of {} spans per second", facts.desired());
        return verdict(TRUE, "RateLimit", message);
    }
    verdict(FALSE, "NotLimited", "nothing waits for the rate")
}

/// Whether consumers have messages and no leave to store them.
pub fn waits_for_the_rate(reports: &[PodReport]) -> bool {
    let answers = || reports.iter().filter_map(|report| report.answer.as_ref().ok());
    answers().any(|answer| matches!(answer.bottleneck.as_str(), "Limiter" | "Guard"))
        && answers().flat_map(|answer| &answer.partitions).any(|partition| partition.lag > Some(0))
}

fn suspended(facts: &Facts<'_>) -> Verdict {
    if facts.pipeline.spec.suspend {
        return verdict(TRUE, "Suspended", "spec.suspend is true");
    }
    if facts.desired() == 0 {
        return verdict(TRUE, "RateIsZero", "the rate is 0");
    }
    verdict(FALSE, "Running", "spec.suspend is false")
}

fn rate_confirmed(facts: &Facts<'_>) -> Verdict {
    let Some(document) = facts.document else {
        return verdict(UNKNOWN, "NoLiveDocument", "the live ConfigMap has not been written yet");
    };
    if facts.reports.is_empty() {
        return verdict(UNKNOWN, "NoConsumers", "no consumer runs");
    }
    let silent = facts.reports.iter().find_map(|report| Some((&report.pod, report.answer.as_ref().err()?)));
    if let Some((pod, why)) = silent {
        return verdict(UNKNOWN, "ConsumerSilent", format!("{pod}: {why}"));
    }
    let is_late = |answer: &Report| !facts.is_newest(answer);
    let late = facts.answers().filter(|answer| is_late(answer)).count();
    let one = facts.reports.iter().find(|report| report.answer.as_ref().is_ok_and(is_late));
    if let Some(one) = one {
        let (pod, all, revision) = (&one.pod, facts.reports.len(), document.revision);
        let message =
            format!("{late} of {all} consumers have not applied revision {revision} yet, such as {pod}");
        return verdict(FALSE, "Applying", message);
    }
    match facts.confirmed() {
        Some(rate) if rate != facts.desired() => {
            let message =
                format!("consumers apply {rate} spans per second: an override or a window begins or ends");
            verdict(FALSE, "Applying", message)
        }
        Some(rate) => verdict(TRUE, "Confirmed", format!("every consumer applies {rate} spans per second")),
        None => verdict(FALSE, "Applying", "consumers differ: an override or a window begins or ends"),
    }
}
