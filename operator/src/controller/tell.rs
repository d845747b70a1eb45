//! Writes statuses: what differs, when it is time.
//!
//! What somebody may wait for is written at once; words a few seconds after the last write, and numbers when it is the
//! pipeline's turn ([`Change`]). An unchanged status writes nothing.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::runtime::controller::Action;
use kube::runtime::reflector::ObjectRef;
use serde_json::{Value, json};
use sluice_crds::v1alpha1::{TracePipeline, TracePipelineStatus};

use super::apply::FIELD_MANAGER;
use super::status::{CONFLICT, Change, conflict};
use super::validate::Refusal;
use super::{Context, RETRY_SOON, ReconcileError};
use crate::events;

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
    let mut old = pipeline.status.clone().unwrap_or_default();
    let conflict = old.conditions.iter().position(|condition| condition.type_ == CONFLICT);
    if let Some(position) = conflict {
        // Of an operator that may be gone; one that is not says it again.
        if context.conflicts.is_first_look(&name) {
            write_conflict(context, pipeline, None).await?;
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
    if !apply_status(context, pipeline, FIELD_MANAGER, json!(status)).await? {
        return Ok(None);
    }
    context.prober.told(&name, true);
    context.metrics.status_written(change != Change::Numbers);
    tracing::debug!(pipeline = %name, ?change, "wrote the status");
    events::publish(context, pipeline, &old, &status).await;
    Ok(None)
}

/// Applied: what is not said any more goes away. False where the pipeline was deleted meanwhile.
async fn apply_status(
    context: &Context,
    pipeline: &TracePipeline,
    manager: &str,
    status: Value,
) -> Result<bool, ReconcileError> {
    let namespace = pipeline.namespace().unwrap_or_default();
    // Sent and taken without types: what the API server has may be what this program cannot read.
    let kind = ApiResource::erase::<TracePipeline>(&());
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), &namespace, &kind);
    let patch = json!({ "apiVersion": kind.api_version, "kind": kind.kind, "status": status });
    let parameters = PatchParams::apply(manager).force();
    match api.patch_status(&pipeline.name_any(), &parameters, &Patch::Apply(&patch)).await {
        Ok(_) => Ok(true),
        Err(kube::Error::Api(refused)) if refused.code == 404 => Ok(false),
        Err(error) => Err(ReconcileError::Status(Box::new(error))),
    }
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

async fn write_conflict(
    context: &Context,
    pipeline: &TracePipeline,
    condition: Option<&Condition>,
) -> Result<(), ReconcileError> {
    let status = condition.map_or_else(|| json!({}), |condition| json!({ "conditions": [condition] }));
    if apply_status(context, pipeline, CONFLICT_MANAGER, status).await? {
        context.metrics.status_written(true);
    }
    Ok(())
}
