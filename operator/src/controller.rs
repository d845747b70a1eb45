//! The reconcile: dereference → validate → build → apply → status.
//!
//! Guarantees: it makes the same objects whatever was there before and wherever it was stopped; one pipeline
//! that fails never holds up another one; a status is written on every outcome, and only where it differs.

pub mod apply;
pub mod autoscale;
pub mod build;
pub mod dead_letters;
pub mod dereference;
mod edits;
#[cfg(test)]
pub(crate) mod example;
pub mod live;
mod memory;
pub mod probe;
mod rivals;
pub mod status;
mod tell;
mod trouble;
pub mod validate;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::Client;
use kube::runtime::controller::Action;
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use sluice_crds::live::{Live, LiveDocument};
use sluice_crds::schedule::RatePlan;
use sluice_crds::v1alpha1::TracePipeline;

use crate::metrics::Metrics;
use crate::options::Options;
use crate::watch::World;
use apply::{ApplyError, Outcome, Rollout, Rollouts};
use autoscale::Autoscaler;
use dead_letters::DeadLetters;
use dereference::{Found, dereference};
pub use edits::hurry;
pub use memory::{Backoffs, Conflicts, PodMonitors, Repairs, Stubborn, Unseen};
use probe::{PodReport, Prober, Target};
use status::Facts;
use tell::{say_conflict, say_contested, write_status};
use trouble::trouble;
use validate::{Refusal, Valid, validate};

/// Everything is looked at again this often, even if nothing has changed.
const RESYNC: Duration = Duration::from_secs(600);
/// How soon a refused pipeline, a deleted one that runs, or one that waits for its turn, is looked at again.
const RETRY_SOON: Duration = Duration::from_secs(10);
/// How soon after somebody else's write, at first.
const RETRY_CONFLICT: Duration = Duration::from_millis(50);
/// How long after an override or a window begins or ends, or a pod should have gone, it is looked at: the time of day and
/// the timer are two clocks, and a look that comes too early finds nothing new.
const AFTER_A_CHANGE: Duration = Duration::from_millis(50);
/// How soon after any other failure, at first.
const RETRY_FAILURE: Duration = Duration::from_millis(500);
/// When a PodMonitor that could not be written is tried again: nothing of the pipeline's own waits for it.
const POD_MONITOR_AGAIN: Duration = Duration::from_secs(60);
/// So many conflicts in a row happen to everybody; more of them are a failure.
const ORDINARY_CONFLICTS: u32 = 6;
/// So many failures of the API server in a row pass by themselves: within four seconds nobody has to know.
const PASSING_FAILURES: u32 = 3;
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
    /// Which statuses were written a moment ago.
    pub unseen: Unseen,
    /// Which PodMonitors were written.
    pub pod_monitors: PodMonitors,
    /// Which children a write does not mend.
    pub stubborn: Stubborn,
    /// Which children somebody else writes as well.
    pub repairs: Repairs,
}

impl Context {
    /// Remembers nothing yet.
    pub fn new(client: Client, options: Options, world: World, metrics: Arc<Metrics>) -> Self {
        let reporter =
            Reporter { controller: apply::FIELD_MANAGER.into(), instance: Some(options.identity.clone()) };
        Self {
            recorder: Recorder::new(client.clone(), reporter),
            client,
            options,
            world,
            prober: Arc::new(Prober::new(metrics.clone())),
            metrics,
            rollouts: Rollouts::default(),
            autoscaler: Autoscaler::default(),
            backoffs: Backoffs::default(),
            dead_letters: DeadLetters::default(),
            conflicts: Conflicts::default(),
            unseen: Unseen::default(),
            pod_monitors: PodMonitors::default(),
            stubborn: Stubborn::default(),
            repairs: Repairs::default(),
        }
    }

    /// Whether the pipeline is there.
    pub fn exists(&self, pipeline: &ObjectRef<TracePipeline>) -> bool {
        self.world.pipeline(pipeline).is_some()
    }

    /// Drops what is remembered of a pipeline that is gone.
    pub fn forget(&self, pipeline: &ObjectRef<TracePipeline>) {
        // Every field by its name, so that the compiler asks of a new one whether it remembers pipelines.
        let Self {
            client: _,
            options: _,
            world: _,
            recorder: _,
            rollouts: _,
            prober,
            metrics,
            autoscaler,
            backoffs,
            dead_letters,
            conflicts,
            unseen,
            pod_monitors,
            stubborn,
            repairs,
        } = self;
        prober.forget(pipeline);
        metrics.forget(pipeline);
        autoscaler.forget(pipeline);
        backoffs.forget(pipeline);
        dead_letters.forget(pipeline);
        conflicts.forget(pipeline);
        unseen.forget(pipeline);
        pod_monitors.forget(pipeline);
        stubborn.forget(pipeline);
        repairs.forget(pipeline);
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

impl ReconcileError {
    /// Somebody has written at the same time: what is there must be looked at again, and nothing is wrong.
    fn is_conflict(&self) -> bool {
        match self {
            Self::Apply(error) => error.is_conflict(),
            Self::Status(error) => matches!(&**error, kube::Error::Api(status) if status.code == 409),
            Self::TimedOut => false,
        }
    }

    /// See [`apply::may_pass`].
    fn may_pass(&self) -> bool {
        match self {
            Self::Apply(error) => error.may_pass(),
            Self::Status(error) => apply::may_pass(error),
            Self::TimedOut => false,
        }
    }
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
    let newest = context.unseen.newest(&pipeline);
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
    let mut found = dereference(&context.world, pipeline);
    if pipeline.metadata.deletion_timestamp.is_some() {
        return reconcile_deleted(pipeline, &found, context).await;
    }
    let valid = validate(pipeline, &found, &context.options);
    if let Err(refusal @ Refusal::Conflict { .. }) = &valid {
        return say_conflict(context, pipeline, refusal).await;
    }
    let (document, outcome, wanted) = match &valid {
        Ok(valid) => {
            let mut built = build_and_apply(pipeline, valid, &mut found, context).await;
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

async fn build_and_apply(
    pipeline: &TracePipeline,
    valid: &Valid,
    found: &mut Found,
    context: &Context,
) -> Built {
    let name = ObjectRef::from_obj(pipeline);
    let reports = context.prober.reports(&name);
    found.trouble = trouble(pipeline, found, &reports);
    match edits::actual_live(&valid.owner, found, context).await {
        Ok(actual) => found.live = actual,
        Err(error) => {
            let outcome = Outcome { error: Some(error), ..Outcome::default() };
            return Built { document: None, outcome, replicas: None };
        }
    }
    let found = &*found;
    let plan = edits::plan_of(pipeline, &valid.owner, &valid.live, found.live.as_deref(), &reports);
    // First: an edit must not wait for anything else.
    let live = apply::live(context, &valid.owner, found.live.as_deref(), &plan).await;
    let document = match &live {
        Ok(()) => plan.document().cloned(),
        // A number that was not written is told to nobody: it would count as seen, and the next try would take the one after
        // it. Where the write came through all the same, the watch shows it, and until then a try finds another version.
        Err(_) => found.live.as_deref().and_then(|actual| live::current(actual, &valid.owner.uid)),
    };
    let mut wanted = None;
    let apply = async {
        live?;
        let replicas = *wanted.insert(replicas(pipeline, valid, found, context, &reports));
        let with_pod_monitor = context.pod_monitors.kind_is_installed(&context.client).await;
        let children = build::build(valid, &context.options, replicas, with_pod_monitor)?;
        apply::children(context, valid, found, children).await
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
) -> u32 {
    let Some(bounds) = &valid.spec.autoscaling else { return valid.spec.replicas };
    // Where the Deployment was deleted, or has lost its label, the work is what it was.
    let last = || pipeline.status.as_ref().map(|status| status.replicas);
    let current = found.deployment.as_ref().map_or_else(last, |deployment| deployment.spec.replicas);
    let current = current.and_then(|current| u32::try_from(current).ok());
    context.autoscaler.decide(&ObjectRef::from_obj(pipeline), bounds, current, reports, Instant::now())
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

/// How soon after a failure, by the number of failures in a row.
pub fn retry(pipeline: Arc<TracePipeline>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let name = ObjectRef::from_obj(&*pipeline);
    if error.is_conflict() {
        let wait = context.backoffs.next(&name, RETRY_CONFLICT).min(RETRY_SOON);
        if context.backoffs.count(&name) <= ORDINARY_CONFLICTS {
            tracing::debug!(pipeline = %name, retry_in = ?wait, "somebody has written at the same time");
        } else {
            tracing::warn!(pipeline = %name, error = %crate::problem::chain(error), retry_in = ?wait,
                "somebody writes at the same time, again and again");
        }
        return Action::requeue(wait);
    }
    let wait = context.backoffs.next(&name, RETRY_FAILURE);
    let told = crate::problem::chain(error);
    if error.may_pass() && context.backoffs.count(&name) <= PASSING_FAILURES {
        tracing::info!(pipeline = %name, reason = told, retry_in = ?wait, "cannot reconcile now");
    } else {
        tracing::warn!(pipeline = %name, error = told, retry_in = ?wait, "cannot reconcile");
    }
    Action::requeue(wait)
}

#[cfg(test)]
mod tests;
