//! The live document's ConfigMap: created, or replaced over the version that was looked at, and never applied by force,
//! so that a leader that lags behind loses.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use sluice_crds::live::LiveDocument;
use sluice_crds::{names, wire};

use super::{ApplyError, FIELD_MANAGER, content, hash, json, own};
use crate::controller::Context;
use crate::controller::build::{self, contains, live_name};
use crate::controller::live::Plan;
use crate::controller::validate::Owner;

/// The live ConfigMap where the watch shows none: it is new, or has lost its label.
///
/// # Errors
/// It cannot be read, or it is somebody else's, or another installation's.
pub async fn live_without_label(context: &Context, owner: &Owner) -> Result<Option<ConfigMap>, ApplyError> {
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &owner.namespace);
    let name = live_name(&owner.name);
    let child = format!("ConfigMap {name}");
    let map = api.get_opt(&name).await.map_err(ApplyError::read(&child))?;
    own(context, owner, &child, map)
}

/// Writes the live document, over the one that was looked at where there is one.
///
/// # Errors
/// See [`ApplyError`]; a conflict means that the plan must be made again.
pub async fn live(
    context: &Context,
    owner: &Owner,
    actual: Option<&ConfigMap>,
    plan: &Plan,
) -> Result<(), ApplyError> {
    let (document, recreate) = match plan {
        Plan::Keep(document) => {
            let desired = live_map(context, owner, document)?;
            // The content is right; labels and owner may not be.
            let is_right = |actual: &ConfigMap| {
                content(actual) == content(&desired) && contains(&json(actual), &json(&desired))
            };
            if owner.is_deleted || actual.is_some_and(is_right) {
                return Ok(());
            }
            (document, false)
        }
        Plan::Write(document) => (document, false),
        Plan::Recreate(document) => (document, true),
        Plan::Exhausted(_) => return Err(ApplyError::RevisionExhausted),
    };
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &owner.namespace);
    let mut map = live_map(context, owner, document)?;
    if let Some(actual) = actual.filter(|_| owner.is_deleted) {
        // The garbage collector may have taken the owner away, so that the map outlives it (`--cascade=orphan`).
        map.metadata.owner_references.clone_from(&actual.metadata.owner_references);
    }
    let name = map.name_any();
    let child = format!("ConfigMap {name}");
    let cannot = ApplyError::write(&child);
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    if let (true, Some(actual)) = (recreate, actual) {
        let unchanged = Preconditions { uid: actual.uid(), resource_version: actual.resource_version() };
        let parameters = DeleteParams { preconditions: Some(unchanged), ..DeleteParams::default() };
        api.delete(&name, &parameters).await.map_err(cannot)?;
    }
    match actual {
        Some(actual) if !recreate => {
            map.metadata.resource_version = actual.resource_version();
            let written = api.replace(&name, &parameters, &map).await.map_err(cannot)?;
            context.cache.wrote(&owner.name, actual, written);
        }
        _ => {
            api.create(&parameters, &map).await.map_err(cannot)?;
        }
    }
    context.metrics.live_written();
    tracing::info!(pipeline = %owner, revision = document.revision,
        rate = document.live.rate_limit_qps, suspend = document.live.suspend, "wrote the live document");
    Ok(())
}

fn live_map(context: &Context, owner: &Owner, document: &LiveDocument) -> Result<ConfigMap, ApplyError> {
    let text = wire::write(document).map_err(build::BuildError::from)?;
    let mut metadata = build::metadata(owner, &context.options, live_name(&owner.name));
    if !owner.labels.is_empty() {
        // So that one that is not wanted any more shows: others may have added theirs.
        let hash = hash(&json(&owner.labels));
        metadata.annotations = Some([(names::ANNOTATION_APPLIED_HASH.to_owned(), hash)].into());
    }
    Ok(ConfigMap { metadata, data: Some([(names::LIVE_KEY.to_owned(), text)].into()), ..Default::default() })
}
