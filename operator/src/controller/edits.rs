//! How an edit of the spec reaches the live ConfigMap: in a reconcile, ahead of it ([`apply_edit_ahead`]), and for pipelines that are
//! refused or being deleted.

use std::sync::Arc;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::reflector::ObjectRef;
use sluice_crds::live::{Live, LiveDocument, MAX_REVISION};
use sluice_crds::v1alpha1::TracePipeline;
use sluice_crds::validate::validate_live;

use super::apply::{self, ApplyError};
use super::dereference::{Found, dereference};
use super::live::Plan;
use super::probe::{PodReport, answers_of};
use super::validate::{Owner, Refusal, validate};
use super::{Context, live};
use crate::watch::unreadable;

/// Carries an edit of a pipeline that runs, refused or not, to its live document, and does nothing else: so that no edit waits
/// for the reconciles before its own. Whatever goes wrong is found and told by the reconcile that follows.
pub async fn apply_edit_ahead(pipeline: &ObjectRef<TracePipeline>, context: &Context) {
    let Some(pipeline) = context.cache.pipeline(pipeline) else { return };
    if pipeline.metadata.deletion_timestamp.is_some() {
        return;
    }
    let found = dereference(&context.cache, &pipeline);
    let valid = match validate(&pipeline, &found, &context.options) {
        Ok(valid) => valid,
        Err(Refusal::Conflict { .. }) => return,
        Err(Refusal::Invalid(_) | Refusal::Duplicate { .. }) => {
            live_of_refused(&pipeline, &found, context).await;
            return;
        }
    };
    let reports = context.prober.reports(&ObjectRef::from_obj(&*pipeline));
    let plan = plan_of(&pipeline, &valid.owner, &valid.live, found.live.as_deref(), &reports);
    if matches!(plan, Plan::Write(_))
        && found.live.is_some()
        && let Err(error) = apply::live(context, &valid.owner, found.live.as_deref(), &plan).await
    {
        tracing::debug!(pipeline = %valid.settings.pipeline, %error, "an edit waits for its reconcile");
    }
}

/// A refused pipeline that runs takes live edits, and gets its live document back, all the same: an emergency stop must not
/// wait for a spec that is right, nor for the rest of the live content. Gives the document in effect.
pub(super) async fn live_of_refused(
    pipeline: &TracePipeline,
    found: &Found,
    context: &Context,
) -> Option<LiveDocument> {
    let owner = Owner::of(pipeline)?;
    let current = found.live.as_deref().and_then(|actual| live::current(actual, &owner.uid));
    if found.deployment.is_none() || unreadable(pipeline).is_some() {
        return current;
    }
    let Some(wanted) = without_wrong_parts(Live::of(&pipeline.spec), current.as_ref()) else {
        return current;
    };
    match write_live_of_refused(pipeline, &owner, &wanted, found, context).await {
        Ok(document) => document,
        Err(error) => {
            tracing::warn!(pipeline = %owner, error = %crate::problem::chain(&error),
                "cannot write the live document of a refused pipeline");
            current
        }
    }
}

/// A deleted pipeline that somebody's finalizer holds, or whose children go first or stay: consumers that run take live edits.
/// What is not there is not made again, because it goes with the pipeline, and only content is written, because an owner that
/// the garbage collector has taken away must not come back. Gives the document in effect.
pub(super) async fn live_of_deleted(
    pipeline: &TracePipeline,
    found: &Found,
    context: &Context,
) -> Option<LiveDocument> {
    let live = found.live.as_deref()?;
    if live.metadata.deletion_timestamp.is_some() {
        return live::current(live, pipeline.metadata.uid.as_deref()?);
    }
    live_of_refused(pipeline, found, context).await
}

/// What a spec wants, and in the place of each part that breaks a rule the one in effect: an unreadable window stays as it
/// was and does not prevent a suspension. None where a part of neither can be used: to leave it out might raise the rate.
fn without_wrong_parts(mut wanted: Live, current: Option<&LiveDocument>) -> Option<Live> {
    let problems = validate_live(&wanted);
    if problems.is_empty() {
        return Some(wanted);
    }
    let current = current?.live.clone();
    let is_wrong = |part: &str| problems.iter().any(|problem| problem.is_within(part));
    if is_wrong("rateLimitQPS") {
        wanted.rate_limit_qps = current.rate_limit_qps;
    }
    if is_wrong("override") {
        wanted.rate_override = current.rate_override;
    }
    if is_wrong("schedule") {
        wanted.schedule = current.schedule;
    }
    if is_wrong("guard") {
        wanted.guard = current.guard;
    }
    if is_wrong("retention") {
        wanted.retention = current.retention;
    }
    validate_live(&wanted).is_empty().then_some(wanted)
}

async fn write_live_of_refused(
    pipeline: &TracePipeline,
    owner: &Owner,
    wanted: &Live,
    found: &Found,
    context: &Context,
) -> Result<Option<LiveDocument>, ApplyError> {
    let actual = actual_live(owner, found, context).await?;
    let reports = context.prober.reports(&ObjectRef::from_obj(pipeline));
    let plan = plan_of(pipeline, owner, wanted, actual.as_deref(), &reports);
    apply::live(context, owner, actual.as_deref(), &plan).await?;
    Ok(plan.document().cloned())
}

/// The live ConfigMap that is there: the watched one, and where none is, what the API server has.
///
/// # Errors
/// See [`apply::live_without_label`].
pub(super) async fn actual_live(
    owner: &Owner,
    found: &Found,
    context: &Context,
) -> Result<Option<Arc<ConfigMap>>, ApplyError> {
    match &found.live {
        Some(watched) => Ok(Some(watched.clone())),
        None => Ok(apply::live_without_label(context, owner).await?.map(Arc::new)),
    }
}

/// What to do with it, so that its content is what is wanted.
pub(super) fn plan_of(
    pipeline: &TracePipeline,
    owner: &Owner,
    wanted: &Live,
    actual: Option<&ConfigMap>,
    reports: &[PodReport],
) -> Plan {
    live::plan(actual, &owner.uid, wanted, revision_seen(pipeline, &owner.uid, reports))
}

/// The largest revision that anybody has seen of this very pipeline. One that no reader takes was never in effect, whoever
/// tells of it.
fn revision_seen(pipeline: &TracePipeline, uid: &str, reports: &[PodReport]) -> u64 {
    #[cfg(feature = "planted")]
    if crate::planted::is(crate::planted::Bug::ForgetRevision) {
        return 0;
    }
    let possible = |revision: &u64| *revision <= MAX_REVISION;
    let reported = answers_of(reports)
        .filter(|answer| answer.pipeline_uid.as_deref() == Some(uid))
        .map(|answer| answer.revision)
        .filter(possible)
        .max();
    let written = pipeline.status.as_ref().map(|status| status.rate.revision).filter(possible);
    reported.max(written).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use serde_json::json;
    use sluice_crds::v1alpha1::{RateStatus, ScheduleWindow, TracePipelineStatus};
    use sluice_crds::wire;

    use super::*;
    use crate::controller::build;
    use crate::controller::example::{self, live_map};
    use crate::controller::probe::Report;
    use crate::watch::Cache;

    #[test]
    fn a_revision_that_no_reader_takes_was_not_seen() {
        let report = |revision| PodReport {
            pod: "a".into(),
            answer: Ok(Report { revision, pipeline_uid: Some("u".into()), ..Report::default() }),
        };
        let mut pipeline = example::pipeline();
        let rate = RateStatus { revision: u64::MAX, ..RateStatus::default() };
        pipeline.status = Some(TracePipelineStatus { rate, ..TracePipelineStatus::default() });
        assert_eq!(revision_seen(&pipeline, "u", &[report(MAX_REVISION + 1), report(7)]), 7);
        assert_eq!(revision_seen(&pipeline, "u", &[]), 0);
    }

    #[tokio::test]
    async fn a_refused_pipeline_that_runs_gets_its_live_document_back() {
        const ALL: &str = "/api/v1/namespaces/shop/configmaps";
        let (create, replace) = (format!("POST {ALL}"), format!("PUT {ALL}/traces-live"));
        let garbled = live_map("{");
        let immutable = ConfigMap { immutable: Some(true), ..garbled.clone() };
        for (live, expected) in [
            (None, vec![create.clone()]),
            (Some(garbled), vec![replace]),
            (Some(immutable), vec![format!("DELETE {ALL}/traces-live"), create]),
        ] {
            let server = example::Server::default();
            let live = live.map(Arc::new);
            let mut found = Found { live, deployment: Some(Arc::default()), ..Found::default() };
            let context = server.context();
            let document = live_of_refused(&example::pipeline(), &found, &context).await;
            assert_eq!(document.expect("a document").live.rate_limit_qps, 500);
            assert_eq!(server.writes(), expected);
            // One that does not run needs none.
            found.deployment = None;
            assert_eq!(live_of_refused(&example::pipeline(), &found, &context).await, None);
            assert_eq!(server.writes(), expected);
        }
    }

    fn window(cron: &str, time_zone: &str) -> ScheduleWindow {
        let window = json!({ "cron": cron, "duration": "8h", "timeZone": time_zone, "rateLimitQPS": 70 });
        serde_json::from_value(window).expect("a window")
    }

    /// The live document of a pipeline of 500 spans per second with a window.
    fn running() -> LiveDocument {
        let live = Live { schedule: vec![window("0 22 * * *", "UTC")], ..Live::of_rate(500) };
        LiveDocument { uid: "u".into(), revision: 7, live }
    }

    #[tokio::test]
    async fn an_emergency_stop_does_not_wait_for_a_window_that_can_be_read() {
        for wrong in [window("0 25 * * *", "UTC"), window("0 22 * * *", "Mars/Olympus")] {
            let server = example::Server::default();
            let running = running();
            let live = Some(Arc::new(live_map(&wire::write(&running).expect("a document"))));
            let found = Found { live, deployment: Some(Arc::default()), ..Found::default() };
            let mut pipeline = example::pipeline();
            pipeline.spec.schedule = vec![wrong];
            // The window alone changes nothing.
            let document = live_of_refused(&pipeline, &found, &server.context()).await;
            assert_eq!((document, server.writes()), (Some(running.clone()), vec![]));
            (pipeline.spec.suspend, pipeline.spec.rate_limit_qps) = (true, 20);
            let document = live_of_refused(&pipeline, &found, &server.context()).await.expect("a document");
            let live = Live { suspend: true, rate_limit_qps: 20, ..running.live };
            assert_eq!((document.revision, document.live), (8, live));
            assert_eq!(server.writes(), ["PUT /api/v1/namespaces/shop/configmaps/traces-live"]);
        }
    }

    #[tokio::test]
    async fn an_emergency_stop_of_a_refused_pipeline_does_not_wait_for_reconciles_before_its_own() {
        let mut pipeline = example::pipeline();
        pipeline.spec.schedule = vec![window("0 25 * * *", "UTC")];
        pipeline.spec.suspend = true;
        let built = build::build(&example::valid(), &example::options(), 1, false).expect("children");
        let live = live_map(&wire::write(&running()).expect("a document"));
        let server = example::Server::default();
        let mut context = server.context();
        context.cache = Cache::of(vec![pipeline.clone()], vec![built.deployment], vec![live]);
        apply_edit_ahead(&ObjectRef::from_obj(&pipeline), &context).await;
        assert_eq!(server.writes(), ["PUT /api/v1/namespaces/shop/configmaps/traces-live"]);
    }

    #[tokio::test]
    async fn a_deleted_pipeline_whose_consumers_run_can_be_stopped() {
        let mut pipeline = example::pipeline();
        let now = Time(jiff::Timestamp::now());
        pipeline.metadata.deletion_timestamp = Some(now.clone());
        pipeline.spec.suspend = true;
        let valid = example::valid();
        let built = build::build(&valid, &example::options(), 1, false).expect("children");
        let live = live_map(&wire::write(&running()).expect("a document"));
        let mut goes = live.clone();
        goes.metadata.deletion_timestamp = Some(now);
        let orphan = |mut live: ConfigMap| {
            live.metadata.owner_references = None;
            live
        };
        let stopped = LiveDocument { live: Live { suspend: true, ..Live::of_rate(500) }, ..running() };
        let stopped = live_map(&wire::write(&stopped).expect("a document"));
        let write = vec!["PUT /api/v1/namespaces/shop/configmaps/traces-live".to_owned()];
        let runs = || vec![built.deployment.clone()];
        for (deployments, maps, in_effect, expected) in [
            (runs(), vec![live.clone()], Some(8), write.clone()),
            (runs(), vec![orphan(live.clone())], Some(8), write),
            (runs(), vec![orphan(stopped)], Some(7), vec![]),
            (vec![], vec![live], Some(7), vec![]),
            (runs(), vec![], None, vec![]),
            (runs(), vec![goes], Some(7), vec![]),
        ] {
            let server = example::Server::default();
            let mut context = server.context();
            let owners = maps.first().and_then(|map| map.metadata.owner_references.clone());
            context.cache = Cache::of(vec![pipeline.clone()], deployments, maps);
            let found = dereference(&context.cache, &pipeline);
            let document = live_of_deleted(&pipeline, &found, &context).await;
            assert_eq!(document.map(|document| document.revision), in_effect);
            assert_eq!(server.writes(), expected);
            for body in server.bodies() {
                let written: ConfigMap = serde_json::from_value(body).expect("a ConfigMap");
                assert_eq!(written.metadata.owner_references, owners, "whoever deletes it decides");
            }
        }
    }

    #[test]
    fn each_wrong_part_stays_as_it_was_and_only_where_that_can_be_used() {
        let mut running = running();
        let mut wanted = Live { suspend: true, ..Live::of_rate(u32::MAX) };
        wanted.retention = Some(sluice_crds::duration::Duration::from_millis(1));
        wanted.guard = Some(sluice_crds::v1alpha1::Guard { min_qps: 0, ..Default::default() });
        let parts = without_wrong_parts(wanted.clone(), Some(&running));
        assert_eq!(parts, Some(Live { suspend: true, ..Live::of_rate(500) }), "the schedule is gone");
        assert_eq!(without_wrong_parts(wanted.clone(), None), None);
        running.live.rate_limit_qps = u32::MAX;
        assert_eq!(without_wrong_parts(wanted, Some(&running)), None);
    }
}
