//! From what is there and what consumers say to the status; no client.
//!
//! Conditions flip their transition time only when they flip. Numbers are rounded, so that an unchanged status
//! stays the same object and is not written.

mod conditions;
mod digest;
mod last;
mod numbers;

use std::borrow::Cow;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use sluice_crds::live::{Live, LiveDocument};
use sluice_crds::v1alpha1::{RateStatus, TracePipeline, TracePipelineStatus};

use super::apply::Outcome;
use super::build::selector_text;
use super::probe::{PodReport, Report, answers_of};
use super::validate::Refusal;
use crate::watch::unreadable;
pub use conditions::{
    CONFLICT, DEAD_LETTERS_GROWING, DEGRADED, EXPIRING, FALSE, RATE_CONFIRMED, READY, SUSPENDED, TRUE,
    conflict,
};
use conditions::{CONSUMERS_NOT_READY, Conditions, STARTING, THROTTLED, UNKNOWN};
pub use digest::Digest;
pub use last::{condition, is_said_by};
use numbers::Numbers;

/// What a status is made of.
pub struct Facts<'a> {
    /// The pipeline, with its last status.
    pub pipeline: &'a TracePipeline,
    /// Why it is not built, where it is not; nobody asks it of a deleted one.
    pub refusal: Option<&'a Refusal>,
    /// What became of the children; none where it is not built.
    pub outcome: Option<&'a Outcome>,
    /// The live document in effect.
    pub document: Option<&'a LiveDocument>,
    /// The Deployment as it is.
    pub deployment: Option<&'a Deployment>,
    /// How many consumers it should have; none where nobody has decided.
    pub wanted: Option<u32>,
    /// What each pod says whose consumer runs.
    pub reports: &'a [PodReport],
    /// Names of the other pods.
    pub idle: &'a [String],
    /// Whether there was a new dead letter lately.
    pub dead_letters_grow: bool,
    /// Time of day.
    pub now: Timestamp,
}

impl Facts<'_> {
    /// Answers, where there are.
    fn answers(&self) -> impl Iterator<Item = &Report> {
        answers_of(self.reports)
    }

    /// Whether somebody has deleted the pipeline, which others still hold.
    fn is_deleted(&self) -> bool {
        self.pipeline.metadata.deletion_timestamp.is_some()
    }

    /// The live content that counts: that of the spec, and where it is refused or deleted, that of the document in effect,
    /// which may lack a part of it. None where nobody knows.
    fn live(&self) -> Option<Cow<'_, Live>> {
        match self.document.filter(|_| self.refusal.is_some() || self.is_deleted()) {
            Some(document) => Some(Cow::Borrowed(&document.live)),
            None if unreadable(self.pipeline).is_some() => None,
            None => Some(Cow::Owned(Live::of(&self.pipeline.spec))),
        }
    }

    /// Whether the spec is right and its live content is not in effect, because it could not be written.
    fn live_is_unwritten(&self) -> bool {
        let has_failed = self.outcome.is_some_and(|outcome| outcome.error.is_some());
        let differs = |document: &LiveDocument| document.live != Live::of(&self.pipeline.spec);
        has_failed && self.refusal.is_none() && self.document.is_some_and(differs)
    }

    /// The live content that consumers go by.
    fn in_effect(&self) -> Option<Cow<'_, Live>> {
        match self.document.filter(|_| self.live_is_unwritten()) {
            Some(document) => Some(Cow::Borrowed(&document.live)),
            None => self.live(),
        }
    }

    /// The rate that is asked for now.
    fn desired(&self) -> u32 {
        let last = || self.pipeline.status.as_ref().map_or(0, |status| status.rate.desired);
        self.live().map_or_else(last, |live| live.rate_at(self.now))
    }

    /// Whether a consumer applies the newest live document of this very pipeline.
    fn is_newest(&self, answer: &Report) -> bool {
        let is_it = |document: &LiveDocument| {
            answer.revision == document.revision
                && answer.pipeline_uid.as_ref().is_none_or(|uid| *uid == document.uid)
        };
        self.document.is_some_and(is_it)
    }

    /// The rate that every pod has confirmed with the newest revision.
    fn confirmed(&self) -> Option<u32> {
        let mut rate = None;
        for report in self.reports {
            let answer = report.answer.as_ref().ok()?;
            if !self.is_newest(answer) || rate.is_some_and(|rate| rate != answer.rate_limit_qps) {
                return None;
            }
            rate = Some(answer.rate_limit_qps);
        }
        rate
    }
}

/// How the Deployment is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pods {
    /// How many there should be.
    pub wanted: i32,
    /// How many there are.
    pub all: i32,
    /// How many of them run the newest template.
    pub updated: i32,
    /// How many are ready.
    pub ready: i32,
    /// Whether the Deployment's controller has seen the newest spec.
    pub observed: bool,
    /// Whether a rollout has failed to move for too long.
    pub stalled: bool,
    /// Whether the newest template was rolled out. Pods may be missing since, which is no matter of the rollout's.
    pub rolled: bool,
    /// Why pods cannot be created, where the API server refuses them: its own words.
    pub refused: Option<String>,
}

impl Pods {
    /// Reads a Deployment.
    pub fn of(deployment: &Deployment) -> Self {
        let status = deployment.status.clone().unwrap_or_default();
        let conditions = || status.conditions.iter().flatten();
        let progress = |reason: &str| {
            conditions().any(|condition| {
                condition.type_.as_deref() == Some("Progressing")
                    && condition.reason.as_deref() == Some(reason)
            })
        };
        let refused = conditions().find(|condition| {
            condition.type_.as_deref() == Some("ReplicaFailure") && condition.status.as_deref() == Some(TRUE)
        });
        let observed = status.observed_generation >= deployment.metadata.generation;
        let (all, updated) = (status.replicas.unwrap_or(0), status.updated_replicas.unwrap_or(0));
        Self {
            wanted: deployment.spec.replicas.unwrap_or(1),
            all,
            updated,
            ready: status.ready_replicas.unwrap_or(0),
            observed,
            // What is said of an older template says nothing of the newest.
            stalled: progress("ProgressDeadlineExceeded") && observed,
            // The reason of the rollout before stays for a while where pods are replaced, or a template comes back: until
            // the first pod of the new one is there.
            rolled: progress("NewReplicaSetAvailable") && observed && updated == all && updated > 0,
            refused: refused.map(|condition| condition.message.clone().unwrap_or_default()),
        }
    }

    /// Whether every pod is as it should be.
    pub fn settled(&self) -> bool {
        self.observed && self.updated == self.wanted && self.all == self.wanted && self.ready == self.wanted
    }

    /// Whether no rollout is under way.
    pub fn rolled_out(&self) -> bool {
        self.rolled || self.settled()
    }
}

/// Builds the status.
pub fn status(facts: &Facts<'_>) -> TracePipelineStatus {
    let last = facts.pipeline.status.clone().unwrap_or_default();
    let pods = facts.deployment.map(Pods::of).unwrap_or_default();
    let kept = last::before_any_answer(facts);
    let numbers = kept.map_or_else(|| numbers::numbers(facts.reports), Numbers::of);
    let generation = facts.pipeline.metadata.generation;
    let mut conditions = Conditions::new(last.conditions, generation, facts.now);
    conditions.judge(facts, &pods);
    TracePipelineStatus {
        observed_generation: generation,
        replicas: pods.all,
        ready_replicas: pods.ready,
        selector: selector_text(&facts.pipeline.name_any()),
        rate: RateStatus {
            desired: facts.desired(),
            applied: kept.map_or_else(|| facts.confirmed(), |last| last.rate.applied),
            effective: numbers.effective,
            revision: facts.document.map_or(last.rate.revision, |document| document.revision),
        },
        throughput: numbers.throughput,
        lag: numbers.lag,
        drain_seconds: numbers.drain_seconds,
        dead_letters: numbers.dead_letters,
        conditions: conditions.finish(),
    }
}

/// How a status differs from the one before, and with that, when it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Not at all.
    Nothing,
    /// In numbers of the consumers' reports, or in whether anything waits for the rate: a pipeline whose backlog is near
    /// zero comes and goes with every answer. Written when it is the pipeline's turn.
    Numbers,
    /// In what conditions say to people, or in how many pods are ready on the way to all of them. Many of these come at
    /// once while pods start; some seconds later one of them is left.
    Words,
    /// In something that somebody may wait for.
    AtOnce,
}

impl Change {
    /// Compares.
    pub fn between(old: &TracePipelineStatus, new: &TracePipelineStatus) -> Self {
        if old == new {
            Self::Nothing
        } else if awaited(old) != awaited(new) {
            Self::AtOnce
        } else if without_numbers(old) != without_numbers(new) {
            Self::Words
        } else {
            Self::Numbers
        }
    }
}

fn without_numbers(status: &TracePipelineStatus) -> TracePipelineStatus {
    let lasting = status.conditions.iter().filter(|condition| condition.type_ != THROTTLED);
    TracePipelineStatus {
        conditions: lasting.cloned().collect(),
        throughput: None,
        lag: None,
        drain_seconds: None,
        dead_letters: None,
        rate: RateStatus { effective: None, ..status.rate.clone() },
        ..status.clone()
    }
}

/// What `kubectl wait`, autoscalers and programs look at.
fn awaited(status: &TracePipelineStatus) -> TracePipelineStatus {
    let mut awaited = TracePipelineStatus { ready_replicas: 0, ..without_numbers(status) };
    for condition in &mut awaited.conditions {
        condition.message.clear();
        // Pods are on their way: not ready, and nobody has answered, for one reason after the other.
        if let (RATE_CONFIRMED, UNKNOWN, _) | (READY, FALSE, STARTING | CONSUMERS_NOT_READY) =
            (&*condition.type_, &*condition.status, &*condition.reason)
        {
            condition.reason.clear();
        }
    }
    awaited
}

#[cfg(test)]
mod tests;
