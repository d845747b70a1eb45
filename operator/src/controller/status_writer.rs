//! Writes statuses: what differs, when it is time.
//!
//! What somebody may wait for is written at once; words a few seconds after the last write, and numbers when it is the
//! pipeline's turn ([`Change`]). An unchanged status writes nothing: unchanged since the last one that was written, which the
//! watch may not show yet.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::api::{Api, ObjectMeta, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde_json::{Value, json};
use sluice_crds::v1alpha1::{TracePipeline, TracePipelineStatus};

use super::apply::FIELD_MANAGER;
use super::status::{CONFLICT, Change, conflict};
use super::validate::Refusal;
use super::{Context, RETRY_SOON, ReconcileError};
use crate::events;
use crate::watch::Lenient;

/// The watch is a little behind what was written last, by the operator itself, too.
const STATUS_TRIES: u32 = 5;

/// Name of the operator as the owner of the condition `Conflict`, which installations write to pipelines that are
/// not theirs.
const CONFLICT_MANAGER: &str = "sluice-operator-conflict";

/// Writes what differs, if it is time. Where it is not yet, and nothing else will ask: for how long.
pub(super) async fn write_status(
    context: &Context,
    pipeline: &TracePipeline,
    status: TracePipelineStatus,
) -> Result<Option<Duration>, ReconcileError> {
    let name = ObjectRef::from_obj(pipeline);
    let mut version = pipeline.resource_version();
    let mut old = pipeline.status.clone().unwrap_or_default();
    let conflict = old.conditions.iter().position(|condition| condition.type_ == CONFLICT);
    if let Some(position) = conflict {
        // Of an operator that may be gone; one that is not says it again.
        if context.conflicts.is_first_look(&name) {
            let Some(written) = write_conflict(context, pipeline, None).await? else { return Ok(None) };
            version = written.resource_version();
        }
        old.conditions.remove(position);
    }
    let change = pipeline.status.as_ref().map_or(Change::AtOnce, |_| Change::between(&old, &status));
    match change {
        Change::Nothing => {
            context.prober.told(&name, false);
            return Ok(None);
        }
        Change::Numbers if !context.prober.may_tell_numbers(&name) => return Ok(None),
        Change::Words => {
            let wait = context.prober.words_wait(&name);
            if !wait.is_zero() {
                return Ok(Some(wait));
            }
        }
        Change::Numbers | Change::AtOnce => {}
    }
    if apply_status(context, pipeline, version, FIELD_MANAGER, json!(status)).await?.is_none() {
        return Ok(None);
    }
    context.prober.told(&name, true);
    context.metrics.status_written(change == Change::Numbers);
    tracing::debug!(pipeline = %name, ?change, "wrote the status");
    events::publish(context, pipeline, &old, &status).await;
    Ok(None)
}

/// Applied: what is not said any more goes away. Only over the version that was looked at, or a later one of the same
/// generation, so that nothing is said of another pipeline of the name, nor of a spec that nobody has looked at: an API
/// server takes any `metadata.uid` with a status.
///
/// Gives the pipeline as it is then; none where it was deleted meanwhile, or has a newer spec, which the watch will show.
async fn apply_status(
    context: &Context,
    pipeline: &TracePipeline,
    mut version: Option<String>,
    manager: &str,
    status: Value,
) -> Result<Option<TracePipeline>, ReconcileError> {
    let namespace = pipeline.namespace().unwrap_or_default();
    // What the API server has may be what this program cannot read.
    let api: Api<Lenient<TracePipeline>> = Api::namespaced(context.client.clone(), &namespace);
    let (name, parameters) = (pipeline.name_any(), PatchParams::apply(manager).force());
    let cannot = |error| ReconcileError::Status(Box::new(error));
    let mut tries = 1..STATUS_TRIES;
    loop {
        let metadata = ObjectMeta { resource_version: version.clone(), ..ObjectMeta::default() };
        let patch = json!({
            "apiVersion": TracePipeline::api_version(&()), "kind": TracePipeline::kind(&()),
            "metadata": metadata, "status": status,
        });
        match api.patch_status(&name, &parameters, &Patch::Apply(&patch)).await {
            Ok(written) => {
                // One that cannot be read was written by a newer version, and is written over the next time.
                let written = written.object;
                context.unobserved_statuses.wrote(
                    pipeline,
                    version,
                    written.resource_version(),
                    written.status.clone(),
                );
                return Ok(Some(written));
            }
            Err(kube::Error::Api(refused)) if refused.code == 404 => return Ok(None),
            Err(kube::Error::Api(refused)) if refused.code == 409 && tries.next().is_some() => {
                let now = api.get_opt(&name).await.map_err(cannot)?;
                let is_same = |now: &TracePipeline| {
                    (now.uid(), now.metadata.generation) == (pipeline.uid(), pipeline.metadata.generation)
                };
                let Some(now) = now.map(|now| now.object).filter(is_same) else { return Ok(None) };
                version = now.resource_version();
            }
            Err(error) => return Err(cannot(error)),
        }
    }
}

/// When to look again at a pipeline of which a child is left to another writer; says so once.
pub(super) async fn say_contested(context: &Context, pipeline: &TracePipeline) -> Option<Duration> {
    let (child, is_new) = context.repairs.contested(&ObjectRef::from_obj(pipeline), Instant::now())?;
    if is_new {
        events::contested(context, pipeline, &child).await;
    }
    Some(RETRY_SOON)
}

/// Says that the pipeline is another installation's, in a condition of its own: all others are the owner's.
pub(super) async fn say_conflict(
    context: &Context,
    pipeline: &TracePipeline,
    refusal: &Refusal,
) -> Result<Action, ReconcileError> {
    let last = pipeline.status.clone().unwrap_or_default();
    let condition = conflict(&last.conditions, refusal, Timestamp::now());
    context.metrics.judged(&ObjectRef::from_obj(pipeline), std::slice::from_ref(&condition));
    if !last.conditions.contains(&condition) {
        write_conflict(context, pipeline, Some(&condition)).await?;
        let new = TracePipelineStatus { conditions: vec![condition], ..TracePipelineStatus::default() };
        events::publish(context, pipeline, &last, &new).await;
    }
    Ok(Action::requeue(RETRY_SOON))
}

/// Gives what [`apply_status`] does.
async fn write_conflict(
    context: &Context,
    pipeline: &TracePipeline,
    condition: Option<&Condition>,
) -> Result<Option<TracePipeline>, ReconcileError> {
    let status = condition.map_or_else(|| json!({}), |condition| json!({ "conditions": [condition] }));
    let version = pipeline.resource_version();
    let written = apply_status(context, pipeline, version, CONFLICT_MANAGER, status).await?;
    if written.is_some() {
        context.metrics.status_written(false);
    }
    Ok(written)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::example;

    const STATUS: &str = "PATCH /apis/sluice.dev/v1alpha1/namespaces/shop/tracepipelines/traces/status";
    const PIPELINE: &str = "GET /apis/sluice.dev/v1alpha1/namespaces/shop/tracepipelines/traces";

    #[tokio::test]
    async fn a_status_that_turns_back_before_the_watch_shows_the_last_one_is_written_again() {
        let server = example::Server::default();
        let context = server.context();
        let status = |replicas| TracePipelineStatus { replicas, ..TracePipelineStatus::default() };
        let mut shown = example::pipeline();
        (shown.metadata.resource_version, shown.status) = (Some("7".into()), Some(status(1)));
        let write = async |shown: &TracePipeline, replicas: i32, version: &str| {
            let mut stored = shown.clone();
            (stored.metadata.resource_version, stored.status) =
                (Some(version.into()), Some(status(replicas)));
            server.answers(STATUS, 200, json!(stored));
            let newest = context.unobserved_statuses.newest(shown);
            write_status(&context, &newest, status(replicas)).await.expect("nothing is wrong");
            let over = server.bodies().last().expect("it is written")["metadata"]["resourceVersion"].clone();
            (server.writes().len(), over)
        };
        assert_eq!(write(&shown, 2, "8").await, (1, "7".into()));
        assert_eq!(write(&shown, 1, "9").await, (2, "8".into()));
        assert_eq!(write(&shown, 1, "-").await, (2, "8".into()), "it is there");
        // The watch is on its way.
        (shown.metadata.resource_version, shown.status) = (Some("8".into()), Some(status(2)));
        assert_eq!(write(&shown, 2, "10").await, (3, "9".into()));
        (shown.metadata.resource_version, shown.status) = (Some("11".into()), Some(status(3)));
        assert_eq!(write(&shown, 3, "-").await, (3, "9".into()), "somebody else has written it");
    }

    #[tokio::test]
    async fn a_status_is_written_only_over_the_version_that_was_looked_at_or_one_of_the_same_spec() {
        let server = example::Server::default();
        let context = server.context();
        let mut pipeline = example::pipeline();
        pipeline.metadata.resource_version = Some("7".into());
        let mut conflict = example::condition("Conflict", "True");
        conflict.reason = "Conflict".into();
        let old = TracePipelineStatus { conditions: vec![conflict], ..TracePipelineStatus::default() };
        pipeline.status = Some(old);
        let stored = |version: &str| {
            let mut stored = pipeline.clone();
            stored.metadata.resource_version = Some(version.into());
            json!(stored)
        };
        server.answers(STATUS, 200, stored("8"));
        let new = TracePipelineStatus { replicas: 1, ..TracePipelineStatus::default() };
        assert_eq!(write_status(&context, &pipeline, new.clone()).await.expect("it is written"), None);
        // The first one takes a stale condition away.
        let version = |body: &Value| body["metadata"].clone();
        let versions: Vec<_> = server.bodies().iter().map(version).collect();
        assert_eq!(versions, [json!({ "resourceVersion": "7" }), json!({ "resourceVersion": "8" })]);

        // Somebody has written meanwhile.
        server.answers(STATUS, 409, example::refusal(409, "Conflict"));
        let before = server.bodies().len();
        server.answers(PIPELINE, 200, stored("9"));
        let error = write_status(&context, &pipeline, new.clone()).await.expect_err("a conflict");
        assert!(error.is_conflict(), "{error}");
        let versions: Vec<_> = server.bodies()[before..].iter().map(version).collect();
        let over = |version: &str| json!({ "resourceVersion": version });
        assert_eq!(versions, [over("7"), over("9"), over("9"), over("9"), over("9")]);
        // Nobody has looked at this spec.
        let mut newer = stored("10");
        newer["metadata"]["generation"] = 4.into();
        server.answers(PIPELINE, 200, newer);
        let before = server.bodies().len();
        assert_eq!(write_status(&context, &pipeline, new).await.expect("nothing is wrong"), None);
        assert_eq!(server.bodies().len(), before + 1);
    }
}
