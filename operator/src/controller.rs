//! The reconcile: dereference → validate → build → apply → status.
//!
//! Guarantees: it makes the same objects whatever was there before and wherever it was stopped; one pipeline
//! that fails never holds up another one; a status is written on every outcome, and only where it differs.

pub mod apply;
pub mod autoscale;
pub mod build;
pub mod dead_letters;
pub mod dereference;
pub mod live;
pub mod probe;
pub mod status;
pub mod validate;

mod memory;
mod tell;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use sluice_crds::live::{Live, LiveDocument};
use sluice_crds::schedule::RatePlan;
use sluice_crds::v1alpha1::TracePipeline;
use sluice_crds::validate::validate_live;

use crate::metrics::Metrics;
use crate::options::Options;
use crate::watch::{World, unreadable};
use apply::{ApplyError, Outcome, Rollout, Rollouts};
use autoscale::Autoscaler;
use dead_letters::DeadLetters;
use dereference::{Found, dereference};
pub use memory::{Backoffs, Conflicts, PodMonitors};
use probe::{PodReport, Prober, Target};
use status::Facts;
use tell::{say_conflict, write_status};
use validate::{Refusal, Valid, validate};

/// Everything is looked at again this often, even if nothing has changed.
const RESYNC: Duration = Duration::from_secs(600);
/// How soon a refused pipeline, or one that waits for its turn, is looked at again.
const RETRY_SOON: Duration = Duration::from_secs(10);
/// How soon after somebody else's write, at first.
const RETRY_CONFLICT: Duration = Duration::from_millis(50);
/// How soon after any other failure, at first.
const RETRY_FAILURE: Duration = Duration::from_millis(500);
/// So many conflicts in a row happen to everybody; more of them are a failure.
const ORDINARY_CONFLICTS: u32 = 6;
/// Longest time of a reconcile: requests to a dead connection have no end of their own.
const LIMIT: Duration = Duration::from_secs(30);

/// What every reconcile shares.
pub struct Context {
    /// The API server.
    pub client: Client,
    /// How this installation was started.
    pub options: Options,
    /// What is watched.
    pub world: World,
    /// Consumers' reports.
    pub prober: Arc<Prober>,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Events about pipelines.
    pub recorder: Recorder,
    /// Turns in an upgrade.
    pub rollouts: Rollouts,
    /// Numbers of replicas.
    pub autoscaler: Autoscaler,
    /// Failures in a row.
    pub backoffs: Backoffs,
    /// Growing numbers of dead letters.
    pub dead_letters: DeadLetters,
    /// Whose stale `Conflict` was looked after.
    pub conflicts: Conflicts,
    /// Which PodMonitors were written.
    pub pod_monitors: PodMonitors,
}

impl Context {
    /// Whether the pipeline is there.
    pub fn exists(&self, pipeline: &ObjectRef<TracePipeline>) -> bool {
        let namespace = pipeline.namespace.as_deref().unwrap_or_default();
        self.world.pipelines.get(namespace, &pipeline.name).is_some()
    }

    /// Drops what is remembered of a pipeline that is gone.
    pub fn forget(&self, pipeline: &ObjectRef<TracePipeline>) {
        self.prober.forget(pipeline);
        self.autoscaler.forget(pipeline);
        self.backoffs.forget(pipeline);
        self.dead_letters.forget(pipeline);
        self.conflicts.forget(pipeline);
        self.metrics.forget(pipeline);
    }
}

/// Why a reconcile must be repeated.
#[derive(Debug, thiserror::Error)]
pub enum ReconcileError {
    /// Children were not written.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// The status was not written.
    #[error("cannot write the status")]
    Status(#[source] Box<kube::Error>),
    /// The API server has not answered.
    #[error("the API server has not answered within {} s", LIMIT.as_secs())]
    TimedOut,
}

/// Makes what is what should be.
///
/// # Errors
/// What must be tried again; see [`retry`].
pub async fn reconcile(
    pipeline: Arc<TracePipeline>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let began = Instant::now();
    let once = tokio::time::timeout(LIMIT, reconcile_once(&pipeline, &context));
    let result = once.await.unwrap_or(Err(ReconcileError::TimedOut));
    context.metrics.reconciled(result.is_ok(), began.elapsed());
    if result.is_ok() {
        context.backoffs.forget(&ObjectRef::from_obj(&*pipeline));
    }
    result
}

/// Carries an edit of a pipeline that runs to its live document, and does nothing else: so that no edit waits
/// for the reconciles before its own. Whatever goes wrong is found and told by the reconcile that follows.
pub async fn hurry(pipeline: &ObjectRef<TracePipeline>, context: &Context) {
    let namespace = pipeline.namespace.as_deref().unwrap_or_default();
    let Some(pipeline) = context.world.pipelines.get(namespace, &pipeline.name) else { return };
    if pipeline.metadata.deletion_timestamp.is_some() {
        return;
    }
    let found = dereference(&context.world, &pipeline);
    let Ok(valid) = validate(&pipeline, &found, &context.options) else { return };
    let reports = context.prober.reports(&ObjectRef::from_obj(&*pipeline));
    let seen = revision_seen(&pipeline, &valid.uid, &reports);
    let plan = live::plan(found.live.as_deref(), &valid.uid, &valid.live, seen);
    if matches!(plan, live::Plan::Write(_))
        && found.live.is_some()
        && let Err(error) = apply::live(context, &valid, &found, &plan).await
    {
        tracing::debug!(pipeline = %valid.settings.pipeline, %error, "an edit waits for its reconcile");
    }
}

async fn reconcile_once(pipeline: &TracePipeline, context: &Context) -> Result<Action, ReconcileError> {
    if pipeline.metadata.deletion_timestamp.is_some() {
        // Owner references take the children along.
        return Ok(Action::await_change());
    }
    let name = ObjectRef::from_obj(pipeline);
    let mut found = dereference(&context.world, pipeline);
    let valid = validate(pipeline, &found, &context.options);
    if let Err(refusal @ Refusal::Conflict { .. }) = &valid {
        return say_conflict(context, pipeline, refusal).await;
    }
    let (document, outcome) = match &valid {
        Ok(valid) => match build_and_apply(pipeline, valid, &mut found, context).await {
            // Somebody has written at the same time: what is there is looked at again before anything is said.
            Built { outcome: Outcome { error: Some(error), .. }, .. }
                if error.is_conflict() && context.backoffs.count(&name) < ORDINARY_CONFLICTS =>
            {
                return Err(error.into());
            }
            built => (built.document, Some(built.outcome)),
        },
        Err(_) => (live_of_refused(pipeline, &found, context).await, None),
    };
    let reports = match &document {
        Some(document) => {
            let target = Target { pods: found.pods.clone(), revision: document.revision };
            context.prober.look_at(&name, target)
        }
        None => Vec::new(),
    };
    let reports = with_silent(reports, &found);
    let growing = context.dead_letters.look(&name, pipeline.status.as_ref(), &reports, Instant::now());
    let written = outcome.as_ref().and_then(|outcome| outcome.deployment.as_ref());
    let facts = Facts {
        pipeline,
        refusal: valid.as_ref().err(),
        outcome: outcome.as_ref(),
        document: document.as_ref(),
        deployment: written.or(found.deployment.as_deref()),
        reports: &reports,
        dead_letters_grow: growing.is_some(),
        now: Timestamp::now(),
    };
    let status = status::status(&facts);
    context.metrics.judged(&name, &status.conditions);
    let untold = write_status(context, pipeline, status).await?;
    match outcome {
        Some(Outcome { error: Some(error), .. }) => Err(error.into()),
        outcome => {
            let next = next_look(pipeline, valid.err().as_ref(), outcome.as_ref());
            Ok(Action::requeue([growing, untold].into_iter().flatten().fold(next, Duration::min)))
        }
    }
}

/// A refused pipeline that runs takes live edits all the same: an emergency stop must not wait for a spec that is
/// right. Gives the document in effect.
async fn live_of_refused(pipeline: &TracePipeline, found: &Found, context: &Context) -> Option<LiveDocument> {
    let (existing, uid) = (found.live.as_deref()?, pipeline.uid()?);
    let current = live::current(existing, &uid)?;
    let wanted = Live::of(&pipeline.spec);
    if unreadable(pipeline).is_some() || !validate_live(&wanted).is_empty() {
        return Some(current);
    }
    let reports = context.prober.reports(&ObjectRef::from_obj(pipeline));
    let seen = revision_seen(pipeline, &uid, &reports);
    let live::Plan::Write(document) = live::plan(Some(existing), &uid, &wanted, seen) else {
        return Some(current);
    };
    match apply::live_over(context, existing, &document).await {
        Ok(()) => Some(document),
        Err(error) => {
            let name = ObjectRef::from_obj(pipeline);
            tracing::warn!(pipeline = %name, error = %sluice_crds::problem::chain(&error),
                "cannot write the live document of a refused pipeline");
            Some(current)
        }
    }
}

/// Pods that were not asked yet count as silent ones.
fn with_silent(mut reports: Vec<PodReport>, found: &Found) -> Vec<PodReport> {
    for pod in &found.pods {
        if !reports.iter().any(|report| report.pod == pod.name) {
            reports.push(PodReport { pod: pod.name.clone(), answer: Err("not asked yet".into()) });
        }
    }
    reports
}

struct Built {
    /// None where nobody knows what is in effect.
    document: Option<LiveDocument>,
    outcome: Outcome,
}

async fn build_and_apply(
    pipeline: &TracePipeline,
    valid: &Valid,
    found: &mut Found,
    context: &Context,
) -> Built {
    let name = ObjectRef::from_obj(pipeline);
    let reports = context.prober.reports(&name);
    if found.live.is_none() {
        match apply::live_without_label(context, valid).await {
            Ok(live) => found.live = live.map(Arc::new),
            Err(error) => {
                let outcome = Outcome { error: Some(error), ..Outcome::default() };
                return Built { document: None, outcome };
            }
        }
    }
    let found = &*found;
    let seen = revision_seen(pipeline, &valid.uid, &reports);
    let plan = live::plan(found.live.as_deref(), &valid.uid, &valid.live, seen);
    let document = plan.document().clone();
    let apply = async {
        apply::live(context, valid, found, &plan).await?;
        let replicas = replicas(valid, found, context, &name, &reports);
        let with_pod_monitor = context.pod_monitors.kind_is_installed(&context.client).await;
        let children = build::build(valid, &context.options, replicas, with_pod_monitor)?;
        apply::children(context, valid, found, children).await
    };
    let outcome = apply.await.unwrap_or_else(|error| Outcome { error: Some(error), ..Outcome::default() });
    Built { document: Some(document), outcome }
}

/// The largest revision that anybody has seen of this very pipeline.
fn revision_seen(pipeline: &TracePipeline, uid: &str, reports: &[PodReport]) -> u64 {
    let reported = reports
        .iter()
        .filter_map(|report| report.answer.as_ref().ok())
        .filter(|answer| answer.pipeline_uid.as_deref() == Some(uid))
        .map(|answer| answer.revision)
        .max();
    let written = pipeline.status.as_ref().map(|status| status.rate.revision);
    reported.max(written).unwrap_or(0)
}

fn replicas(
    valid: &Valid,
    found: &Found,
    context: &Context,
    name: &ObjectRef<TracePipeline>,
    reports: &[PodReport],
) -> u32 {
    let Some(bounds) = &valid.spec.autoscaling else { return valid.spec.replicas };
    let current = found.deployment.as_ref().and_then(|deployment| deployment.spec.replicas);
    let current = current.and_then(|current| u32::try_from(current).ok());
    context.autoscaler.decide(name, bounds, current, reports, Instant::now())
}

/// When to look again though nothing happens: at the end of an override, or when a window begins.
fn next_look(pipeline: &TracePipeline, refusal: Option<&Refusal>, outcome: Option<&Outcome>) -> Duration {
    if refusal.is_some() || outcome.is_some_and(|outcome| outcome.rollout != Rollout::Free) {
        return RETRY_SOON;
    }
    let now = Timestamp::now();
    let until_change = RatePlan::new(Live::of(&pipeline.spec)).at(now).until.and_then(|until| {
        let left = until.duration_since(now);
        Duration::try_from(left).ok().filter(|left| !left.is_zero())
    });
    let resync = if pipeline.spec.autoscaling.is_some() { autoscale::GROW_AFTER } else { RESYNC };
    until_change.map_or(resync, |left| resync.min(left + RETRY_CONFLICT))
}

/// How soon after a failure, by the number of failures in a row.
pub fn retry(pipeline: Arc<TracePipeline>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let name = ObjectRef::from_obj(&*pipeline);
    if matches!(error, ReconcileError::Apply(error) if error.is_conflict()) {
        let wait = context.backoffs.next(&name, RETRY_CONFLICT).min(RETRY_SOON);
        if context.backoffs.count(&name) <= ORDINARY_CONFLICTS {
            tracing::debug!(pipeline = %name, retry_in = ?wait, "somebody has written at the same time");
        } else {
            tracing::warn!(pipeline = %name, error = %sluice_crds::problem::chain(error), retry_in = ?wait,
                "somebody writes at the same time, again and again");
        }
        return Action::requeue(wait);
    }
    let wait = context.backoffs.next(&name, RETRY_FAILURE);
    tracing::warn!(pipeline = %name, error = %sluice_crds::problem::chain(error), retry_in = ?wait, "cannot reconcile");
    Action::requeue(wait)
}
