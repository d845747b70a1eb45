//! The conditions, each by its own rule; the first reason that fits is the one that is told.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::ResourceExt;
use sluice_crds::bottleneck::Bottleneck;

use super::numbers::rounded;
use super::{Facts, Pods, last};
use crate::controller::apply::{Rollout, Withheld};
use crate::controller::dead_letters::RECENT;
use crate::controller::probe::{CONSUMER_ERROR, Expiry, PodReport, Report, answers_of};
use crate::controller::validate::Refusal;
use crate::watch::unreadable;

/// Types of conditions: whether consumers work by the newest spec.
pub const READY: &str = "Ready";
/// Whether that spec is on its way.
pub const PROGRESSING: &str = "Progressing";
/// Whether anything is wrong.
pub const DEGRADED: &str = "Degraded";
/// Whether messages wait for the rate.
pub const THROTTLED: &str = "Throttled";
/// Whether nothing is to be stored.
pub const SUSPENDED: &str = "Suspended";
/// Whether all consumers apply the rate.
pub const RATE_CONFIRMED: &str = "RateConfirmed";
/// Whether nothing goes on before somebody acts.
pub const STALLED: &str = "Stalled";
/// Whether there are messages that nobody can store.
pub const DEAD_LETTERS_GROWING: &str = "DeadLettersGrowing";
/// Of the one that an installation writes to another one's pipeline.
pub const CONFLICT: &str = "Conflict";

/// A condition's status: it is so.
pub const TRUE: &str = "True";
/// It is not.
pub const FALSE: &str = "False";
/// Nobody knows now.
pub const UNKNOWN: &str = "Unknown";
/// Reason of a pipeline whose first consumers are on their way.
pub const STARTING: &str = "Starting";
/// Reason of one that has fewer ready consumers than it wants.
pub const CONSUMERS_NOT_READY: &str = "ConsumersNotReady";
/// Reason of a pipeline whose turn in an upgrade has not come.
const WAITING: &str = "WaitingForTurn";
/// Reason where something could not be written.
const NOT_APPLIED: &str = "NotApplied";
/// Reason of a deleted pipeline that others still hold.
const TERMINATING: &str = "Terminating";
/// Reason of a backlog that outlives its topic's retention.
pub const EXPIRING: &str = "DrainExceedsRetention";
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

/// What was said before; none where nobody knew.
fn again(last: &Condition) -> Option<Verdict> {
    let status = [TRUE, FALSE].into_iter().find(|status| last.status == *status)?;
    Some(verdict(status, &last.reason, last.message.clone()))
}

impl Conditions {
    /// Begins from those of the last status.
    pub fn new(last: Vec<Condition>, generation: Option<i64>, now: Timestamp) -> Self {
        Self { last, new: Vec::new(), generation, now }
    }

    /// Judges all of them.
    pub fn judge(&mut self, facts: &Facts<'_>, pods: &Pods) {
        for (type_, verdict) in [
            (READY, ready(facts, pods)),
            (PROGRESSING, progressing(facts, pods)),
            (DEGRADED, degraded(facts, pods)),
            (THROTTLED, throttled(facts)),
            (SUSPENDED, suspended(facts)),
            (RATE_CONFIRMED, rate_confirmed(facts)),
            (STALLED, stalled(facts, pods)),
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
    if facts.is_deleted() {
        let holders = facts.pipeline.finalizers().join(", ");
        let message =
            format!("the pipeline is being deleted, once these finalizers are removed: {holders}; {counts}");
        return verdict(FALSE, TERMINATING, message);
    }
    if facts.outcome.is_some_and(|outcome| outcome.error.is_some()) {
        return verdict(FALSE, NOT_APPLIED, "the children could not be written; see Degraded");
    }
    if facts.deployment.is_none() || (!pods.observed && pods.ready == 0) {
        return verdict(FALSE, STARTING, "the consumers are being started");
    }
    if pods.stalled {
        return verdict(FALSE, "RolloutStalled", format!("{counts}, and the rollout has stopped moving"));
    }
    if let Some(wanted) = facts.wanted.filter(|wanted| i64::from(*wanted) != i64::from(pods.wanted)) {
        let message = format!("{counts}, and {wanted} are wanted: somebody else scales the Deployment");
        return verdict(FALSE, CONSUMERS_NOT_READY, message);
    }
    match (pods.settled(), held_up(facts).filter(|_| lacks_an_edit(facts))) {
        // Old pods work on while new ones start: nothing is broken, and the spec is not in effect everywhere yet.
        _ if !pods.observed => verdict(UNKNOWN, "RollingOut", "the new spec has not reached the pods yet"),
        (false, _) if pods.ready < pods.wanted => verdict(FALSE, CONSUMERS_NOT_READY, counts),
        (_, Some((reason, why))) => {
            verdict(UNKNOWN, reason, format!("{counts}, and the newest spec may have to wait: {why}"))
        }
        (false, None) => verdict(UNKNOWN, "RollingOut", counts),
        (true, None) if pods.wanted == 0 => verdict(TRUE, "ScaledToZero", "no consumer is wanted"),
        (true, None) => verdict(TRUE, "ConsumersReady", counts),
    }
}

/// Why the Deployment may not change, where it may not: the reason and its words.
fn held_up(facts: &Facts<'_>) -> Option<(&'static str, String)> {
    match &facts.outcome?.rollout {
        Rollout::Free => None,
        Rollout::Waiting => {
            Some((WAITING, "an upgrade of the operator rolls a few pipelines at a time".to_owned()))
        }
        Rollout::Halted { because } => Some((
            "UpgradeHalted",
            format!("an upgrade of the operator has halted, because the rollout of {because} has failed"),
        )),
    }
}

/// Whether a Deployment that may not change lacks something of the spec, or may. Where another version has written it only
/// the last status can tell: `Ready` of this very generation means that all of it was there.
fn lacks_an_edit(facts: &Facts<'_>) -> bool {
    let was_ready = || {
        let generation = facts.pipeline.metadata.generation;
        last::condition(facts.pipeline.status.as_ref(), READY)
            .is_some_and(|last| last.status == TRUE && last.observed_generation == generation)
    };
    match facts.outcome.map(|outcome| outcome.withheld).unwrap_or_default() {
        Withheld::Nothing => false,
        Withheld::Unknown => !was_ready(),
        Withheld::Settings => true,
    }
}

fn progressing(facts: &Facts<'_>, pods: &Pods) -> Verdict {
    if facts.refusal.is_some() {
        return verdict(FALSE, "NotBuilt", "the spec is not in effect; see Ready");
    }
    if facts.is_deleted() {
        return verdict(
            FALSE,
            TERMINATING,
            "nothing is built for a pipeline that is being deleted; see Ready",
        );
    }
    match held_up(facts) {
        Some((reason, why)) => verdict(if reason == WAITING { TRUE } else { FALSE }, reason, why),
        _ if pods.stalled => verdict(
            FALSE,
            "RolloutStalled",
            format!("{} of {} consumers are updated", pods.updated, pods.wanted),
        ),
        _ if facts.deployment.is_none() || !pods.rolled_out() => {
            verdict(TRUE, "RollingOut", format!("{} of {} consumers are updated", pods.updated, pods.wanted))
        }
        _ => verdict(FALSE, "RolledOut", "no consumer runs older settings"),
    }
}

fn degraded(facts: &Facts<'_>, pods: &Pods) -> Verdict {
    if let Some(refusal) = facts.refusal {
        return verdict(TRUE, refusal.reason(), refusal.to_string());
    }
    if let Some(error) = facts.outcome.and_then(|outcome| outcome.error.as_ref()) {
        return verdict(TRUE, error.reason(), crate::problem::chain(error));
    }
    let troubled = facts.reports.iter().find_map(|report| {
        let answer = report.answer.as_ref().ok()?;
        Some((&report.pod, answer, answer.last_error.as_ref()?))
    });
    if let Some((pod, answer, error)) = troubled {
        let reason = answer.last_error_reason.as_deref().unwrap_or(CONSUMER_ERROR);
        return verdict(TRUE, reason, last::said(pod, error));
    }
    if let Some(kept) = last::trouble(facts).and_then(again) {
        return kept;
    }
    if let Some(why) = &pods.refused {
        return verdict(TRUE, "PodsRefused", why);
    }
    if pods.stalled {
        return verdict(TRUE, "RolloutStalled", "see `kubectl describe` of the Deployment's pods");
    }
    if let Some((pod, retention)) = expiring(facts.reports, was_expiring(facts)) {
        let message = format!(
            "{pod}: the backlog takes longer to drain than the topic's retention of {retention} s: messages will \
             expire unread; raise the rate or the retention"
        );
        return verdict(TRUE, EXPIRING, message);
    }
    if let Some(error) = facts.outcome.and_then(|outcome| outcome.pod_monitor.as_ref()) {
        return verdict(TRUE, error.reason(), crate::problem::chain(error));
    }
    verdict(FALSE, "AsExpected", "no consumer reports an error")
}

/// A consumer whose messages expire before it comes to them, and after how many seconds they do; where that was told before,
/// also one that still comes near.
pub fn expiring(reports: &[PodReport], was_told: bool) -> Option<(&str, u64)> {
    reports.iter().find_map(|report| {
        let answer = report.answer.as_ref().ok()?;
        let expires = match answer.expiry() {
            Expiry::Far => false,
            Expiry::Near => was_told,
            Expiry::Comes => true,
        };
        Some((report.pod.as_str(), answer.retention_seconds.filter(|_| expires)?))
    })
}

fn was_expiring(facts: &Facts<'_>) -> bool {
    last::condition(facts.pipeline.status.as_ref(), DEGRADED).is_some_and(|last| last.reason == EXPIRING)
}

/// What kstatus reads as a failure: trying again changes nothing before somebody has acted.
fn stalled(facts: &Facts<'_>, pods: &Pods) -> Verdict {
    if let Some(refusal) = facts.refusal {
        return verdict(TRUE, refusal.reason(), refusal.to_string());
    }
    let error = facts.outcome.and_then(|outcome| outcome.error.as_ref());
    if let Some(error) = error.filter(|error| error.needs_somebody()) {
        return verdict(TRUE, error.reason(), crate::problem::chain(error));
    }
    if pods.stalled {
        return verdict(TRUE, "RolloutStalled", "the rollout has stopped moving");
    }
    verdict(FALSE, "NotStalled", "nothing waits for somebody to act")
}

fn dead_letters_growing(facts: &Facts<'_>) -> Verdict {
    let minutes = RECENT.as_secs() / 60;
    if facts.dead_letters_grow {
        let message = format!(
            "messages that cannot be stored were kept as dead letters in the last {minutes} minutes; \
             `sluice dead-letters list` and `show` have their reasons and bytes"
        );
        return verdict(TRUE, "NewDeadLetters", message);
    }
    verdict(FALSE, "NoneLately", format!("no new dead letter in the last {minutes} minutes"))
}

fn throttled(facts: &Facts<'_>) -> Verdict {
    if let Some(kept) = last::while_silent(facts, THROTTLED).and_then(again) {
        return kept;
    }
    if waits_for_the_rate(facts.reports) && facts.desired() > 0 {
        let held = facts.answers().filter(|answer| answer.is_limited_by(Bottleneck::Guard));
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
    let is_held = |answer: &Report| {
        answer.is_limited_by(Bottleneck::Limiter) || answer.is_limited_by(Bottleneck::Guard)
    };
    answers_of(reports).any(is_held) && answers_of(reports).any(|answer| answer.partitions.wait)
}

fn suspended(facts: &Facts<'_>) -> Verdict {
    let is_read = unreadable(facts.pipeline).is_none();
    let Some(live) = facts.in_effect() else {
        return verdict(
            UNKNOWN,
            "SpecUnreadable",
            "the spec cannot be read, and there is no live document; see Ready",
        );
    };
    let is_suspended = live.suspend;
    // They differ only where the spec is refused, or the document could not be written.
    let message = if is_read && is_suspended == facts.pipeline.spec.suspend {
        format!("spec.suspend is {is_suspended}")
    } else {
        format!("suspend is {is_suspended} in the live document in effect; for the spec, see Ready")
    };
    if is_suspended {
        return verdict(TRUE, "Suspended", message);
    }
    if live.rate_at(facts.now) == 0 {
        return verdict(TRUE, "RateIsZero", "the rate is 0");
    }
    verdict(FALSE, "Running", message)
}

fn rate_confirmed(facts: &Facts<'_>) -> Verdict {
    let Some(document) = facts.document else {
        return verdict(UNKNOWN, "NoLiveDocument", "the live ConfigMap has not been written yet");
    };
    if facts.live_is_unwritten() {
        return verdict(FALSE, NOT_APPLIED, "the live document could not be written; see Degraded");
    }
    if facts.reports.is_empty() {
        return verdict(UNKNOWN, "NoConsumers", "no consumer runs");
    }
    if let Some(kept) = last::while_silent(facts, RATE_CONFIRMED).and_then(again) {
        return kept;
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
