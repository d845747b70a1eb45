//! A write over the version that was looked at, whose status goes on changing.

use std::fmt::Debug;

use kube::api::Api;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::watch::ROLLOUT;

/// A rollout changes the status several times a second; more than so many changes between a read and a write are
/// no rollout.
const TRIES: usize = 5;

/// Writes over the version that was looked at, or over a later one in which only the status is another: the watch
/// is always a little behind it.
///
/// # Errors
/// Those of `write`, and of the read that follows a conflict. A conflict says that somebody has changed more.
pub async fn write_past_status_changes<K>(
    api: &Api<K>,
    looked_at: &K,
    mut write: impl AsyncFnMut(Option<String>) -> kube::Result<K>,
) -> kube::Result<K>
where
    K: Resource<DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug,
{
    let mut version = looked_at.resource_version();
    for _ in 1..TRIES {
        match write(version).await {
            Err(kube::Error::Api(status)) if status.code == 409 => {
                let now = api.get_opt(&looked_at.name_any()).await?;
                let Some(now) = now.filter(|now| without_status(now) == without_status(looked_at)) else {
                    return Err(kube::Error::Api(status));
                };
                version = now.resource_version();
            }
            written => return written,
        }
    }
    write(version).await
}

/// What is written by others than the object's own controller.
pub fn without_status(object: &(impl Resource + Serialize + Clone)) -> Value {
    let mut object = object.clone();
    let metadata = object.meta_mut();
    metadata.resource_version = None;
    metadata.managed_fields = None;
    metadata.annotations.iter_mut().for_each(|all| drop(all.remove(ROLLOUT)));
    let mut object = super::json(&object);
    object.as_object_mut().into_iter().for_each(|object| drop(object.remove("status")));
    object
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::Deployment;
    use kube::core::Status;
    use serde_json::json;

    use super::*;
    use crate::controller::example;

    /// A Deployment of so many replicas, as its rollout has changed it so many times.
    fn deployment(replicas: i32, changes: usize) -> Deployment {
        let deployment = json!({
            "metadata": {
                "name": "traces-consumer", "namespace": "shop", "uid": "d",
                "resourceVersion": changes.to_string(),
                "annotations": { ROLLOUT: changes.to_string(), "sluice.dev/other": "a" },
            },
            "spec": { "replicas": replicas, "selector": {}, "template": {} },
            "status": { "updatedReplicas": changes },
        });
        serde_json::from_value(deployment).expect("a Deployment")
    }

    /// The versions over which was written, and what the last write gave; `stored` is what there is at each read.
    async fn write_over(stored: Vec<Deployment>, changes: usize) -> (Vec<String>, kube::Result<Deployment>) {
        let mut reads = stored.into_iter();
        let client = example::client_of(move |_| {
            std::future::ready((200, json!(reads.next().expect("no further read"))))
        });
        let api: Api<Deployment> = Api::namespaced(client, "shop");
        let mut versions = Vec::new();
        let looked_at = deployment(1, 0);
        let written = write_past_status_changes(&api, &looked_at, async |version| {
            versions.push(version.clone().expect("a version"));
            if version == Some(changes.to_string()) {
                return Ok(deployment(2, changes + 1));
            }
            let refusal = Status::failure("the object has been modified", "Conflict").with_code(409);
            Err(kube::Error::Api(refusal.boxed()))
        })
        .await;
        (versions, written)
    }

    #[tokio::test]
    async fn a_rollout_that_goes_on_does_not_hold_up_a_write() {
        let (versions, written) = write_over(vec![deployment(1, 1), deployment(1, 3)], 3).await;
        assert_eq!(versions, ["0", "1", "3"]);
        assert_eq!(written.expect("it is written").resource_version().as_deref(), Some("4"));
    }

    #[tokio::test]
    async fn what_somebody_else_has_written_is_not_written_over() {
        let mut marked = deployment(1, 2);
        marked.annotations_mut().insert("sluice.dev/other".into(), "b".into());
        for other in [deployment(5, 2), marked] {
            let (versions, written) = write_over(vec![other], 2).await;
            assert_eq!(versions, ["0"]);
            assert!(matches!(written, Err(kube::Error::Api(status)) if status.code == 409));
        }
    }

    #[tokio::test]
    async fn a_status_that_never_rests_ends_in_a_conflict() {
        let stored = (1..TRIES).map(|changes| deployment(1, changes)).collect();
        let (versions, written) = write_over(stored, TRIES).await;
        assert_eq!(versions.len(), TRIES);
        written.expect_err("a conflict");
    }
}
