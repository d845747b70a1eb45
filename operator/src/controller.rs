//! The reconcile: dereference → validate → build → apply → status.
//!
//! Guarantees: it makes the same objects whatever was there before and wherever it was stopped; one pipeline
//! that fails never holds up another one; a status is written on every outcome, and only where it differs.

pub mod apply;
pub mod autoscale;
pub mod build;
pub mod dereference;
pub mod live;
pub mod probe;
pub mod status;
pub mod validate;

mod memory;

use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::events::Recorder;
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt};
use serde_json::json;
use sluice_crds::v1alpha1::{TracePipeline, TracePipelineStatus};

use crate::events;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::watch::World;
use apply::{ApplyError, Outcome, Rollout, Rollouts};
use autoscale::Autoscaler;
use dereference::{Found, dereference};
pub use memory::{Backoffs, PodMonitors};
use probe::{PodReport, Prober, Target};
use status::Facts;
use validate::{Refusal, Valid, validate};

/// Everything is looked at again this often, even if nothing has changed.
const RESYNC: Duration = Duration::from_secs(600);
/// How soon a refused pipeline, or one that waits for its turn, is looked at again.
const RETRY_SOON: Duration = Duration::from_secs(10);
/// How soon after somebody else's write.
const RETRY_CONFLICT: Duration = Duration::from_millis(50);

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
    let result = reconcile_once(&pipeline, &context).await;
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
    let seen = revision_seen(&pipeline, &valid, &reports);
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
    let found = dereference(&context.world, pipeline);
    let valid = validate(pipeline, &found, &context.options);
    let built = match &valid {
        Ok(valid) => Some(build_and_apply(pipeline, valid, &found, context).await),
        Err(_) => None,
    };
    let document = built.as_ref().map(|built| &built.document);
    let reports = match document {
        Some(document) => {
            let target = Target { pods: found.pods.clone(), revision: document.revision };
            context.prober.look_at(&ObjectRef::from_obj(pipeline), target)
        }
        None => Vec::new(),
    };
    let facts = Facts {
        pipeline,
        refusal: valid.as_ref().err(),
        outcome: built.as_ref().map(|built| &built.outcome),
        document,
        deployment: found.deployment.as_deref(),
        reports: &with_silent(reports, &found),
        now: Timestamp::now(),
    };
    write_status(context, pipeline, status::status(&facts)).await?;
    match built.map(|built| built.outcome) {
        Some(Outcome { error: Some(error), .. }) => Err(error.into()),
        outcome => Ok(Action::requeue(next_look(pipeline, valid.err().as_ref(), outcome.as_ref()))),
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
    document: sluice_crds::live::LiveDocument,
    outcome: Outcome,
}

async fn build_and_apply(pipeline: &TracePipeline, valid: &Valid, found: &Found, context: &Context) -> Built {
    let name = ObjectRef::from_obj(pipeline);
    let reports = context.prober.reports(&name);
    let plan =
        live::plan(found.live.as_deref(), &valid.uid, &valid.live, revision_seen(pipeline, valid, &reports));
    let document = plan.document().clone();
    let apply = async {
        apply::live(context, valid, found, &plan).await?;
        let replicas = replicas(valid, found, context, &name, &reports);
        let with_pod_monitor = context.pod_monitors.kind_is_installed(&context.client).await;
        let children = build::build(valid, &context.options, replicas, with_pod_monitor)?;
        apply::children(context, valid, found, children).await
    };
    let outcome = match apply.await {
        Ok(rollout) => Outcome { rollout, error: None },
        Err(error) => Outcome { rollout: Rollout::Free, error: Some(error) },
    };
    Built { document, outcome }
}

/// The largest revision that anybody has seen of this very pipeline.
fn revision_seen(pipeline: &TracePipeline, valid: &Valid, reports: &[PodReport]) -> u64 {
    let reported = reports
        .iter()
        .filter_map(|report| report.answer.as_ref().ok())
        .filter(|answer| answer.pipeline_uid.as_deref() == Some(&valid.uid))
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

async fn write_status(
    context: &Context,
    pipeline: &TracePipeline,
    status: TracePipelineStatus,
) -> Result<(), ReconcileError> {
    let name = ObjectRef::from_obj(pipeline);
    let old = pipeline.status.clone().unwrap_or_default();
    if old == status && pipeline.status.is_some() {
        context.prober.told(&name, false);
        return Ok(());
    }
    let at_once = pipeline.status.is_none() || status::differs_at_once(&old, &status);
    if !at_once && !context.prober.may_tell_numbers(&name) {
        return Ok(());
    }
    let namespace = pipeline.namespace().unwrap_or_default();
    let api: Api<TracePipeline> = Api::namespaced(context.client.clone(), &namespace);
    // Applied: a number that is not said any more goes away.
    let patch = json!({
        "apiVersion": TracePipeline::api_version(&()),
        "kind": TracePipeline::kind(&()),
        "status": status,
    });
    let parameters = PatchParams::apply(apply::FIELD_MANAGER).force();
    match api.patch_status(&pipeline.name_any(), &parameters, &Patch::Apply(&patch)).await {
        Ok(_) => {}
        // Deleted meanwhile.
        Err(kube::Error::Api(refused)) if refused.code == 404 => return Ok(()),
        Err(error) => return Err(ReconcileError::Status(Box::new(error))),
    }
    context.prober.told(&name, true);
    context.metrics.status_written(at_once);
    events::publish(context, pipeline, &old, &status).await;
    Ok(())
}

/// When to look again though nothing happens: at the end of an override, for instance.
fn next_look(pipeline: &TracePipeline, refusal: Option<&Refusal>, outcome: Option<&Outcome>) -> Duration {
    if refusal.is_some() || outcome.is_some_and(|outcome| outcome.rollout != Rollout::Free) {
        return RETRY_SOON;
    }
    let until_override_ends = pipeline.spec.rate_override.as_ref().and_then(|active| {
        let left = active.until.duration_since(Timestamp::now());
        Duration::try_from(left).ok().filter(|left| !left.is_zero())
    });
    let resync = if pipeline.spec.autoscaling.is_some() { autoscale::GROW_AFTER } else { RESYNC };
    until_override_ends.map_or(resync, |left| resync.min(left + RETRY_CONFLICT))
}

/// How soon after a failure, by the number of failures in a row.
pub fn retry(pipeline: Arc<TracePipeline>, error: &ReconcileError, context: Arc<Context>) -> Action {
    let name = ObjectRef::from_obj(&*pipeline);
    if matches!(error, ReconcileError::Apply(error) if error.is_conflict()) {
        return Action::requeue(RETRY_CONFLICT);
    }
    let wait = context.backoffs.next(&name);
    tracing::warn!(pipeline = %name, error = %sluice_crds::problem::chain(error), retry_in = ?wait, "cannot reconcile");
    Action::requeue(wait)
}
