//! The reconcile: dereference → validate → build → apply → status.
//!
//! Guarantees: it makes the same objects whatever was there before and wherever it was stopped; one pipeline
//! that fails never holds up another one; a status is written on every outcome, and only where it differs.

pub mod apply;
pub mod autoscale;
pub mod build;
mod context;
pub mod dead_letters;
pub mod dereference;
mod edits;
#[cfg(test)]
pub(crate) mod example;
pub mod live;
mod memory;
pub mod probe;
mod retry;
mod rivals;
pub mod status;
mod status_writer;
mod trouble;
pub mod validate;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use sluice_crds::live::{Live, LiveDocument};
use sluice_crds::schedule::RatePlan;
use sluice_crds::v1alpha1::TracePipeline;

use apply::{ApplyError, Outcome, Rollout, Trouble};
pub use context::Context;
use dereference::{Found, dereference};
pub use edits::apply_edit_ahead;
use probe::{PodReport, Target};
use retry::{ORDINARY_CONFLICTS, PASSING_FAILURES};
pub use retry::{ReconcileError, retry};
use status::Facts;
use status_writer::{say_conflict, say_contested, write_status};
use trouble::trouble;
use validate::{Refusal, Valid, validate};

/// Everything is looked at again this often, even if nothing has changed.
const RESYNC: Duration = Duration::from_secs(600);
/// How soon a refused pipeline, a deleted one that runs, or one that waits for its turn, is looked at again.
const RETRY_SOON: Duration = Duration::from_secs(10);
/// How long after an override or a window begins or ends, or a pod should have gone, it is looked at: the time of day and
/// the timer are two clocks, and a look that comes too early finds nothing new.
const AFTER_A_CHANGE: Duration = Duration::from_millis(50);
/// When a PodMonitor that could not be written is tried again: nothing of the pipeline's own waits for it.
const POD_MONITOR_AGAIN: Duration = Duration::from_secs(60);
/// Longest time of a reconcile: requests to a dead connection have no end of their own.
const LIMIT: Duration = Duration::from_secs(30);

/// Makes what is what should be.
///
/// # Errors
/// What must be tried again; see [`retry`].
pub async fn reconcile(
    pipeline: Arc<TracePipeline>,
    context: Arc<Context>,
) -> Result<Action, ReconcileError> {
    let began = Instant::now();
    let newest = context.unobserved_statuses.newest(&pipeline);
    let once = tokio::time::timeout(LIMIT, reconcile_once(&newest, &context));
    let result = once.await.unwrap_or(Err(ReconcileError::TimedOut));
    let name = ObjectRef::from_obj(&*pipeline);
    if !context.exists(&name) {
        // Deleted meanwhile: what was remembered after it was forgotten goes as well, and no failure counts.
        context.forget(&name);
        return Ok(Action::await_change());
    }
    match &result {
        Err(error) if error.is_conflict() && context.backoffs.count(&name) < ORDINARY_CONFLICTS => {
            context.metrics.conflicted(began.elapsed());
        }
        result => context.metrics.reconciled(result.is_ok(), began.elapsed()),
    }
    if result.is_ok() {
        context.backoffs.forget(&name);
    }
    result
}

async fn reconcile_once(pipeline: &TracePipeline, context: &Context) -> Result<Action, ReconcileError> {
    let name = ObjectRef::from_obj(pipeline);
    let found = dereference(&context.cache, pipeline);
    if pipeline.metadata.deletion_timestamp.is_some() {
        return reconcile_deleted(pipeline, &found, context).await;
    }
    let valid = validate(pipeline, &found, &context.options);
    if let Err(refusal @ Refusal::Conflict { .. }) = &valid {
        return say_conflict(context, pipeline, refusal).await;
    }
    if let (Err(Refusal::Duplicate { .. }), Some(rival)) = (&valid, &found.rival)
        && !rivals::was_refused(pipeline)
    {
        // Whoever sees all namespaces finds here what the status does not name.
        let namespace = rival.namespace.as_deref().unwrap_or_default();
        tracing::info!(pipeline = %name, rival = %rival.name, namespace, "a pipeline is refused for a rival");
    }
    let (document, outcome, wanted) = match &valid {
        Ok(valid) => {
            let mut built = build_and_apply(pipeline, valid, &found, context).await;
            if let Some(error) = ordinary_failure(&mut built.outcome, context.backoffs.count(&name)) {
                return Err(error.into());
            }
            (built.document, Some(built.outcome), built.replicas)
        }
        Err(_) => (edits::live_of_refused(pipeline, &found, context).await, None, None),
    };
    let done = Done { refusal: valid.as_ref().err(), outcome: outcome.as_ref(), document, wanted };
    let told = tell(context, pipeline, &found, done).await?;
    let next = next_look(pipeline, valid.err().as_ref(), outcome.as_ref());
    let Outcome { error, pod_monitor, .. } = outcome.unwrap_or_default();
    if let Some(error) = error {
        return Err(error.into());
    }
    let monitor_again = pod_monitor.map(|error| {
        tracing::warn!(pipeline = %name, error = %crate::problem::chain(&error), "no PodMonitor was written");
        POD_MONITOR_AGAIN
    });
    let contested = say_contested(context, pipeline).await;
    Ok(Action::requeue([told, monitor_again, contested].into_iter().flatten().fold(next, Duration::min)))
}

/// A deleted pipeline is there for as long as somebody's finalizer holds it: its consumers run on, and take live edits. Nothing
/// is built, because owner references take the children along, and the status tells that it is being deleted.
async fn reconcile_deleted(
    pipeline: &TracePipeline,
    found: &Found,
    context: &Context,
) -> Result<Action, ReconcileError> {
    if found.foreign_child(&context.options.installation).is_some() {
        return Ok(Action::await_change());
    }
    let document = edits::live_of_deleted(pipeline, found, context).await;
    let done = Done { document, ..Done::default() };
    let told = tell(context, pipeline, found, done).await?;
    let next = if found.deployment.is_some() { RETRY_SOON } else { RESYNC };
    Ok(Action::requeue(told.map_or(next, |told| told.min(next))))
}

/// What a reconcile has come to.
#[derive(Default)]
struct Done<'a> {
    refusal: Option<&'a Refusal>,
    outcome: Option<&'a Outcome>,
    /// See [`Built`].
    document: Option<LiveDocument>,
    /// Likewise.
    wanted: Option<u32>,
}

/// Tells it in the status, with what consumers say. Gives when there will be something else to tell, where that is known.
async fn tell(
    context: &Context,
    pipeline: &TracePipeline,
    found: &Found,
    done: Done<'_>,
) -> Result<Option<Duration>, ReconcileError> {
    let name = ObjectRef::from_obj(pipeline);
    let reports = look_at_consumers(context, &name, done.document.as_ref(), found);
    let growing = context.dead_letters.look(&name, pipeline.status.as_ref(), &reports, Instant::now());
    let written = done.outcome.and_then(|outcome| outcome.deployment.as_ref());
    let facts = Facts {
        pipeline,
        refusal: done.refusal,
        outcome: done.outcome,
        document: done.document.as_ref(),
        deployment: written.or(found.deployment.as_deref()),
        wanted: done.wanted,
        reports: &reports,
        idle: &found.idle,
        dead_letters_grow: growing.is_some(),
        now: Timestamp::now(),
    };
    let status = status::status(&facts);
    context.metrics.judged(&name, &status.conditions);
    let untold = write_status(context, pipeline, status).await?;
    let overdue = found.next_overdue.map(|left| left + AFTER_A_CHANGE);
    Ok([growing, untold, overdue].into_iter().flatten().min())
}

/// Takes out of an outcome what happens to everybody, after so many failures in a row: what is there is looked at again
/// before anything is said.
fn ordinary_failure(outcome: &mut Outcome, failures: u32) -> Option<ApplyError> {
    let is_ordinary = |error: &mut ApplyError| {
        (error.is_conflict() && failures < ORDINARY_CONFLICTS)
            || (error.may_pass() && failures < PASSING_FAILURES)
    };
    [&mut outcome.error, &mut outcome.pod_monitor].into_iter().find_map(|error| error.take_if(is_ordinary))
}

/// What consumers have said last; they are asked for the live document in effect from now on. Pods that were not asked yet
/// count as silent ones.
fn look_at_consumers(
    context: &Context,
    name: &ObjectRef<TracePipeline>,
    document: Option<&LiveDocument>,
    found: &Found,
) -> Vec<PodReport> {
    let look = |document: &LiveDocument| {
        let (pods, uid) = (found.pods.clone(), document.uid.clone());
        let target = Target { pods, revision: document.revision, uid };
        context.prober.look_at(name, target)
    };
    let mut reports = document.map(look).unwrap_or_default();
    for pod in &found.pods {
        if !reports.iter().any(|report| report.pod == pod.name) {
            reports.push(PodReport::not_asked(pod.name.clone()));
        }
    }
    reports
}

struct Built {
    /// None where nobody knows what is in effect.
    document: Option<LiveDocument>,
    outcome: Outcome,
    /// None where it was not decided.
    replicas: Option<u32>,
}

async fn build_and_apply(pipeline: &TracePipeline, valid: &Valid, found: &Found, context: &Context) -> Built {
    let name = ObjectRef::from_obj(pipeline);
    let reports = context.prober.reports(&name);
    let trouble = trouble(pipeline, found, &reports);
    let actual = match edits::actual_live(&valid.owner, found, context).await {
        Ok(actual) => actual,
        Err(error) => {
            let outcome = Outcome { error: Some(error), ..Outcome::default() };
            return Built { document: None, outcome, replicas: None };
        }
    };
    let actual = actual.as_deref();
    let plan = edits::plan_of(pipeline, &valid.owner, &valid.live, actual, &reports);
    // First: an edit must not wait for anything else.
    let live = apply::live(context, &valid.owner, actual, &plan).await;
    let document = match &live {
        Ok(()) => plan.document().cloned(),
        // A number that was not written is told to nobody: it would count as seen, and the next try would take the one after
        // it. Where the write came through all the same, the watch shows it, and until then a try finds another version.
        Err(_) => actual.and_then(|actual| live::current(actual, &valid.owner.uid)),
    };
    let mut wanted = None;
    let apply = async {
        live?;
        let replicas = *wanted.insert(replicas(pipeline, valid, found, context, &reports, trouble));
        let with_pod_monitor = context.pod_monitors.kind_is_installed(&context.client).await;
        let children = build::build(valid, &context.options, replicas, with_pod_monitor)?;
        apply::children(context, valid, found, trouble, children).await
    };
    let outcome = apply.await.unwrap_or_else(|error| Outcome { error: Some(error), ..Outcome::default() });
    Built { document, outcome, replicas: wanted }
}

fn replicas(
    pipeline: &TracePipeline,
    valid: &Valid,
    found: &Found,
    context: &Context,
    reports: &[PodReport],
    trouble: Trouble,
) -> u32 {
    let Some(bounds) = &valid.spec.autoscaling else { return valid.spec.replicas };
    // Where the Deployment was deleted, or has lost its label, the work is what it was.
    let last = || pipeline.status.as_ref().map(|status| status.replicas);
    let current = found.deployment.as_ref().map_or_else(last, |deployment| deployment.spec.replicas);
    let current = current.and_then(|current| u32::try_from(current).ok());
    let (name, is_held_up) = (ObjectRef::from_obj(pipeline), is_held_up(valid, trouble, Timestamp::now()));
    context.autoscaler.decide(&name, bounds, current, reports, is_held_up, Instant::now())
}

/// Whether consumers may store nothing now, or say that they cannot.
fn is_held_up(valid: &Valid, trouble: Trouble, now: Timestamp) -> bool {
    trouble.any || valid.live.rate_at(now) == 0
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
    until_change.map_or(resync, |left| resync.min(left + AFTER_A_CHANGE))
}

#[cfg(test)]
mod tests;
