//! Puts what is wanted in the place of a child to which an apply cannot bring it back.
//!
//! Kubernetes has alternatives of which an object may have one: `maxUnavailable` or `minAvailable`, one kind of probe, one
//! kind of volume. Where somebody has swapped one for the other, theirs stays in an apply, and the two together are refused.
//! It takes the right to `update`, which nothing else needs of these kinds.

use kube::ResourceExt;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::core::Status;
use serde_json::{Map, Value, json};

use super::{Child, FIELD_MANAGER, status_conflict};

/// A rollout changes the status several times a second.
const TRIES: u32 = 5;

/// In the API server's words where the caller has not the right to replace; an admission policy has other ones.
const NO_RIGHT: &str = "cannot update resource";

/// Whether the API server refuses to replace whatever it is that is put there.
pub(super) fn is_no_right(refused: &Status) -> bool {
    refused.code == 403 && refused.message.contains(NO_RIGHT)
}

/// Replaces what was looked at. Labels and annotations of others stay.
///
/// # Errors
/// Those of the API server: what it refuses now is wrong in itself, or can never change.
pub(super) async fn replace<K: Child>(api: &Api<K>, looked_at: &K, desired: &K) -> kube::Result<K> {
    let parameters = PostParams { field_manager: Some(FIELD_MANAGER.into()), ..PostParams::default() };
    let name = desired.name_any();
    let mut wanted = desired.clone();
    for (key, value) in looked_at.labels() {
        wanted.labels_mut().entry(key.clone()).or_insert_with(|| value.clone());
    }
    for (key, value) in looked_at.annotations() {
        wanted.annotations_mut().entry(key.clone()).or_insert_with(|| value.clone());
    }
    wanted.meta_mut().finalizers.clone_from(&looked_at.meta().finalizers);
    let put = async |version| {
        wanted.meta_mut().resource_version = version;
        api.replace(&name, &parameters, &wanted).await
    };
    let written = status_conflict::write_past_status_changes(api, looked_at, put).await?;
    // The child is right by now. Where its fields cannot be claimed, one that is not wanted some day stays.
    Ok(claim(api, written.clone()).await.unwrap_or(written))
}

/// Puts what was replaced among what is applied. A controller may write the status meanwhile, again and again.
async fn claim<K: Child>(api: &Api<K>, mut newest: K) -> kube::Result<K> {
    let name = newest.name_any();
    let mut tries = 1..TRIES;
    loop {
        let Some(fields) = as_applied(&super::json(&newest.meta().managed_fields)) else { return Ok(newest) };
        let patch = json!({
            "metadata": { "resourceVersion": newest.resource_version(), "managedFields": fields },
        });
        match api.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await {
            Err(kube::Error::Api(status)) if status.code == 409 && tries.next().is_some() => {
                newest = api.get(&name).await?;
            }
            claimed => return claimed,
        }
    }
}

/// The owners of fields, with what we have replaced among what we apply: an apply takes away only what it has brought.
/// None where that changes nothing.
fn as_applied(fields: &Value) -> Option<Value> {
    let is = |entry: &Value, operation: &str| {
        entry["manager"] == FIELD_MANAGER
            && entry["operation"] == operation
            && entry.get("subresource").is_none_or(Value::is_null)
    };
    let mut entries = fields.as_array()?.clone();
    let mut replaced = entries.remove(entries.iter().position(|entry| is(entry, "Update"))?);
    match entries.iter_mut().find(|entry| is(entry, "Apply")) {
        Some(applied) => unite(&mut applied["fieldsV1"], replaced["fieldsV1"].take()),
        None => {
            replaced["operation"] = "Apply".into();
            entries.push(replaced);
        }
    }
    Some(entries.into())
}

/// A set of fields is a tree of their names.
fn unite(all: &mut Value, more: Value) {
    let Value::Object(more) = more else { return };
    if !all.is_object() {
        *all = Map::new().into();
    }
    for (name, inner) in more {
        unite(&mut all[name.as_str()], inner);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_replaced_counts_as_applied() {
        let entry = |manager: &str, operation: &str, fields: Value| json!({ "manager": manager, "operation": operation, "fieldsV1": fields });
        let theirs = entry("kubectl-edit", "Update", json!({ "f:spec": { "f:other": {} } }));
        let applied = entry(FIELD_MANAGER, "Apply", json!({ "f:spec": { "f:selector": {} } }));
        let replaced =
            entry(FIELD_MANAGER, "Update", json!({ "f:spec": { ".": {}, "f:maxUnavailable": {} } }));
        let both = json!({ "f:spec": { ".": {}, "f:selector": {}, "f:maxUnavailable": {} } });
        assert_eq!(
            as_applied(&json!([theirs, applied, replaced])),
            Some(json!([theirs, entry(FIELD_MANAGER, "Apply", both)]))
        );
        let alone = entry(FIELD_MANAGER, "Apply", replaced["fieldsV1"].clone());
        assert_eq!(as_applied(&json!([replaced])), Some(json!([alone])));
        let mut scaled = replaced;
        scaled["subresource"] = "scale".into();
        assert_eq!(as_applied(&json!([theirs, applied, scaled])), None);
        assert_eq!(as_applied(&Value::Null), None);
    }
}
