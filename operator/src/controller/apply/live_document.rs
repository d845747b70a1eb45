//! The live document's ConfigMap: created, or replaced over the version that was looked at, and never applied by force,
//! so that a leader that lags behind loses.

use k8s_openapi::api::core::v1::ConfigMap;
use kube::ResourceExt;
use kube::api::{Api, DeleteParams, PostParams, Preconditions};
use sluice_crds::live::LiveDocument;
use sluice_crds::{names, wire};

use super::{ApplyError, FIELD_MANAGER, is_owned, json};
use crate::controller::Context;
use crate::controller::build::{self, contains, live_name};
use crate::controller::dereference::Found;
use crate::controller::live::Plan;
use crate::controller::validate::Valid;

/// The live ConfigMap where the watch shows none: it is new, or has lost its label.
///
/// # Errors
/// It cannot be read, or it is somebody else's.
pub async fn live_without_label(context: &Context, valid: &Valid) -> Result<Option<ConfigMap>, ApplyError> {
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &valid.namespace);
    let name = live_name(&valid.name);
    let child = format!("ConfigMap {name}");
    let map = api.get_opt(&name).await;
    let map = map.map_err(|source| ApplyError::Write { child: child.clone(), source: Box::new(source) })?;
    match map {
        Some(map) if !is_owned(&map, &valid.uid) => Err(ApplyError::Taken { child }),
        map => Ok(map),
    }
}

/// Writes a live document over the one that was looked at, and touches nothing else of its object.
///
/// # Errors
/// See [`ApplyError`].
pub async fn live_over(
    context: &Context,
    existing: &ConfigMap,
    document: &LiveDocument,
) -> Result<(), ApplyError> {
    let mut map = existing.clone();
    let text = wire::write(document).map_err(build::BuildError::from)?;
    map.data.get_or_insert_default().insert(names::LIVE_KEY.to_owned(), text);
    let name = map.name_any();
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &map.namespace().unwrap_or_default());
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    api.replace(&name, &parameters, &map).await.map_err(|source| ApplyError::Write {
        child: format!("ConfigMap {name}"),
        source: Box::new(source),
    })?;
    context.metrics.live_written();
    tracing::info!(child = %name, revision = document.revision, rate = document.live.rate_limit_qps,
        suspend = document.live.suspend, "wrote the live document of a refused pipeline");
    Ok(())
}

/// Writes the live document first: an edit must not wait for anything else.
///
/// # Errors
/// See [`ApplyError`]; a conflict means that the plan must be made again.
pub async fn live(context: &Context, valid: &Valid, found: &Found, plan: &Plan) -> Result<(), ApplyError> {
    let (document, recreate) = match plan {
        Plan::Keep(document) => {
            let desired = live_map(context, valid, document)?;
            // The content is right; labels and owner may not be.
            let drifted =
                found.live.as_ref().is_none_or(|actual| !contains(&json(&**actual), &json(&desired)));
            if !drifted {
                return Ok(());
            }
            (document, false)
        }
        Plan::Write(document) => (document, false),
        Plan::Recreate(document) => (document, true),
    };
    let api: Api<ConfigMap> = Api::namespaced(context.client.clone(), &valid.namespace);
    let mut map = live_map(context, valid, document)?;
    let name = map.name_any();
    let child = format!("ConfigMap {name}");
    let cannot = |source| ApplyError::Write { child: child.clone(), source: Box::new(source) };
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    let existing = found.live.as_ref();
    if let (true, Some(existing)) = (recreate, existing) {
        let unchanged = Preconditions { uid: existing.uid(), resource_version: existing.resource_version() };
        let parameters = DeleteParams { preconditions: Some(unchanged), ..DeleteParams::default() };
        api.delete(&name, &parameters).await.map_err(cannot)?;
    }
    match existing {
        Some(existing) if !recreate => {
            map.metadata.resource_version = existing.resource_version();
            let written = api.replace(&name, &parameters, &map).await.map_err(cannot)?;
            context.world.wrote(&valid.name, existing, written);
        }
        _ => {
            api.create(&parameters, &map).await.map_err(cannot)?;
        }
    }
    context.metrics.live_written();
    tracing::info!(pipeline = %valid.settings.pipeline, revision = document.revision,
        rate = document.live.rate_limit_qps, suspend = document.live.suspend, "wrote the live document");
    Ok(())
}

fn live_map(context: &Context, valid: &Valid, document: &LiveDocument) -> Result<ConfigMap, ApplyError> {
    let text = wire::write(document).map_err(build::BuildError::from)?;
    Ok(ConfigMap {
        metadata: build::metadata(valid, &context.options, live_name(&valid.name)),
        data: Some([(names::LIVE_KEY.to_owned(), text)].into()),
        ..Default::default()
    })
}
