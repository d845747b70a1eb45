//! Writes what differs from what is there, in order, each object by itself.
//!
//! Guarantees: what is as it should be is not written; everything but the live document is applied by the
//! server with one field manager, so that fields of others stay theirs; the live document is written only over
//! the version that was looked at. Killed between any two writes, the next reconcile goes on from what is there.

mod live_document;
mod rollout;

use std::fmt::Debug;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest, Sha256};
use sluice_crds::names;

use super::Context;
use super::build::{self, Children, contains};
use super::dereference::Found;
use super::validate::Valid;

pub use live_document::{live, live_over, live_without_label};
use rollout::Change;
pub use rollout::{Rollouts, Standing};

/// Name of the operator as the owner of fields.
pub const FIELD_MANAGER: &str = "sluice-operator";

/// What became of the children.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Whether the Deployment was allowed to change.
    pub rollout: Rollout,
    /// The Deployment as it was written, where it was; the watch shows it later.
    pub deployment: Option<Deployment>,
    /// What stopped the writing.
    pub error: Option<ApplyError>,
}

/// Whether the Deployment was allowed to change.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Rollout {
    /// It is as it should be, or was changed.
    #[default]
    Free,
    /// Others roll; it is not its turn.
    Waiting,
    /// A rollout of the same upgrade has failed.
    Halted {
        /// Whose.
        because: String,
    },
}

/// Why a child could not be written.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The children could not be made.
    #[error("cannot build the children")]
    Build(#[from] build::BuildError),
    /// Somebody else's object has the name.
    #[error("{child} exists already and does not belong to this pipeline: remove or rename it")]
    Taken {
        /// Kind and name.
        child: String,
    },
    /// The API server refuses it.
    #[error("cannot write {child}")]
    Write {
        /// Kind and name.
        child: String,
        /// Why.
        #[source]
        source: Box<kube::Error>,
    },
}

impl ApplyError {
    /// The reason of the condition.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Build(_) => "InvalidTemplate",
            Self::Taken { .. } => "NameTaken",
            Self::Write { source, .. } => match status_code(source) {
                Some(403) => "Forbidden",
                Some(422) => "ChildRefused",
                _ => "ApiServerError",
            },
        }
    }

    /// Trying again changes nothing before somebody has acted.
    pub fn needs_somebody(&self) -> bool {
        self.reason() != "ApiServerError"
    }

    /// Somebody has written at the same time: what is there must be read again, and nothing is wrong.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Write { source, .. } if matches!(status_code(source), Some(409)))
    }
}

fn status_code(error: &kube::Error) -> Option<u16> {
    match error {
        kube::Error::Api(status) => Some(status.code),
        _ => None,
    }
}

fn is_owned(object: &impl ResourceExt, uid: &str) -> bool {
    object.owner_references().iter().any(|owner| owner.uid == uid)
}

/// Writes the other children, the Deployment after all that its pods need, and removes settings that nobody uses.
///
/// # Errors
/// See [`ApplyError`].
pub async fn children(
    context: &Context,
    valid: &Valid,
    found: &Found,
    children: Children,
) -> Result<Outcome, ApplyError> {
    let writer = Writer { context, valid };
    let settings_name = children.settings.name_any();
    let settings = found.settings.iter().find(|settings| settings.name_any() == settings_name);
    writer.settings(settings.map(|settings| &**settings), children.settings).await?;
    if let Some(account) = children.service_account {
        writer.ensure(found.service_account.as_deref(), account).await?;
    }
    writer.ensure(found.role.as_deref(), children.role).await?;
    writer.ensure(found.role_binding.as_deref(), children.role_binding).await?;
    writer.ensure(found.service.as_deref(), children.service).await?;
    writer.ensure(found.disruption_budget.as_deref(), children.disruption_budget).await?;
    writer.ensure(found.network_policy.as_deref(), children.network_policy).await?;
    if let Some(monitor) = children.pod_monitor {
        writer.pod_monitor(monitor).await?;
    }
    let (rollout, deployment) = writer.deployment(found.deployment.as_deref(), children.deployment).await?;
    writer.remove_unused_settings(found).await?;
    Ok(Outcome { rollout, deployment, error: None })
}

struct Writer<'a> {
    context: &'a Context,
    valid: &'a Valid,
}

impl Writer<'_> {
    fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.context.client.clone(), &self.valid.namespace)
    }

    /// Gives the object as it was written, where it had to be.
    async fn ensure<K>(&self, actual: Option<&K>, desired: K) -> Result<Option<K>, ApplyError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        self.ensure_over(actual, desired, false).await
    }

    /// The same, and where `only_this_version` is set, only over the version that was looked at.
    async fn ensure_over<K>(
        &self,
        actual: Option<&K>,
        desired: K,
        only_this_version: bool,
    ) -> Result<Option<K>, ApplyError>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Serialize
            + DeserializeOwned
            + Clone
            + Debug,
    {
        let mut desired = stamped(desired);
        if actual.is_some_and(|actual| contains(&json(actual), &json(&desired))) {
            return Ok(None);
        }
        let mut version = actual.and_then(ResourceExt::resource_version);
        let name = desired.name_any();
        let child = format!("{} {name}", K::kind(&()));
        let cannot = |source| ApplyError::Write { child: child.clone(), source: Box::new(source) };
        let api = self.api::<K>();
        if actual.is_none() {
            // Not seen among ours: nobody else's object may be taken over.
            let existing = api.get_opt(&name).await.map_err(cannot)?;
            if existing.as_ref().is_some_and(|existing| !is_owned(existing, &self.valid.uid)) {
                return Err(ApplyError::Taken { child });
            }
            version = existing.and_then(|existing| existing.resource_version());
        }
        if only_this_version {
            desired.meta_mut().resource_version = version;
        }
        let parameters = PatchParams::apply(FIELD_MANAGER).force();
        let written = api.patch(&name, &parameters, &Patch::Apply(&desired)).await.map_err(cannot)?;
        self.context.metrics.child_written();
        tracing::info!(pipeline = %self.valid.settings.pipeline, %child, "wrote a child");
        Ok(Some(written))
    }

    /// Immutable: where the content is not what its name says, it is made anew.
    async fn settings(&self, actual: Option<&ConfigMap>, desired: ConfigMap) -> Result<(), ApplyError> {
        let damaged = actual.is_some_and(|actual| actual.data != desired.data);
        if damaged {
            self.delete_config_map(&desired.name_any()).await?;
        }
        self.ensure(actual.filter(|_| !damaged), desired).await.map(drop)
    }

    async fn delete_config_map(&self, name: &str) -> Result<(), ApplyError> {
        match self.api::<ConfigMap>().delete(name, &DeleteParams::default()).await {
            Ok(_) => Ok(()),
            Err(kube::Error::Api(status)) if status.code == 404 => Ok(()),
            Err(source) => {
                Err(ApplyError::Write { child: format!("ConfigMap {name}"), source: Box::new(source) })
            }
        }
    }

    /// Changed where the spec asks for it, or where it is this pipeline's turn in an upgrade of the operator. Only
    /// over the version that was looked at: a leader that was frozen and thaws must not roll pods back.
    async fn deployment(
        &self,
        actual: Option<&Deployment>,
        mut desired: Deployment,
    ) -> Result<(Rollout, Option<Deployment>), ApplyError> {
        let mark = match rollout::change(actual, &desired) {
            Change::Spec => None,
            Change::Same(mark) => mark,
            Change::Upgrade { runs } => {
                let (context, mark) = (self.context, self.context.options.upgrade_mark());
                let all: Vec<_> = context.world.deployments.all().collect();
                let most = context.options.max_concurrent_rollouts;
                match context.rollouts.turn(all.iter().map(|one| &one.standing), &desired, &mark, most) {
                    Rollout::Free => runs.then_some(mark),
                    not_yet => return Ok((not_yet, self.scale(actual, &desired).await?)),
                }
            }
        };
        if let Some(mark) = mark {
            desired.annotations_mut().insert(names::ANNOTATION_UPGRADE.to_owned(), mark);
        }
        let written = self.ensure_over(actual, desired, true).await?;
        Ok((Rollout::Free, written))
    }

    /// Only the number of replicas: pods whose template must wait are scaled all the same.
    async fn scale(
        &self,
        actual: Option<&Deployment>,
        desired: &Deployment,
    ) -> Result<Option<Deployment>, ApplyError> {
        let Some(actual) = actual.filter(|actual| actual.spec.replicas != desired.spec.replicas) else {
            return Ok(None);
        };
        let patch = serde_json::json!({
            "metadata": { "resourceVersion": actual.metadata.resource_version },
            "spec": { "replicas": desired.spec.replicas },
        });
        let name = desired.name_any();
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let written = self.api::<Deployment>().patch(&name, &parameters, &Patch::Merge(&patch)).await;
        let written = written.map_err(|source| ApplyError::Write {
            child: format!("Deployment {name}"),
            source: Box::new(source),
        })?;
        self.context.metrics.child_written();
        tracing::info!(pipeline = %self.valid.settings.pipeline, "scaled while an upgrade waits");
        Ok(Some(written))
    }

    async fn pod_monitor(&self, monitor: kube::core::DynamicObject) -> Result<(), ApplyError> {
        let name = monitor.name_any();
        let key = format!("{}/{name}", self.valid.namespace);
        let hash = hash(&json(&monitor));
        if !self.context.pod_monitors.is_due(&key, &hash) {
            return Ok(());
        }
        let api: Api<kube::core::DynamicObject> = Api::namespaced_with(
            self.context.client.clone(),
            &self.valid.namespace,
            &build::pod_monitor_kind(),
        );
        let child = format!("PodMonitor {name}");
        let cannot = |source| ApplyError::Write { child: child.clone(), source: Box::new(source) };
        let monitor = stamped_with(monitor, &hash);
        match api.get_opt(&name).await.map_err(cannot)? {
            Some(existing) if !is_owned(&existing, &self.valid.uid) => {
                return Err(ApplyError::Taken { child });
            }
            Some(existing) if contains(&json(&existing), &json(&monitor)) => {}
            _ => {
                let parameters = PatchParams::apply(FIELD_MANAGER).force();
                api.patch(&name, &parameters, &Patch::Apply(&monitor)).await.map_err(cannot)?;
                self.context.metrics.child_written();
                tracing::info!(pipeline = %self.valid.settings.pipeline, %child, "wrote a child");
            }
        }
        self.context.pod_monitors.written(key, hash);
        Ok(())
    }

    /// Settings stay while a ReplicaSet names them: a pod of an old one may still restart.
    async fn remove_unused_settings(&self, found: &Found) -> Result<(), ApplyError> {
        for settings in &found.settings {
            let hash = settings.labels().get(names::LABEL_SETTINGS);
            let in_use = hash.is_some_and(|hash| {
                *hash == self.valid.settings_hash || found.settings_in_use.contains(hash)
            });
            if !in_use {
                self.delete_config_map(&settings.name_any()).await?;
            }
        }
        Ok(())
    }
}

/// Adds the hash of everything that is said, so that what is not said any more shows as well.
fn stamped<K: Resource + Serialize>(desired: K) -> K {
    let hash = hash(&json(&desired));
    stamped_with(desired, &hash)
}

fn stamped_with<K: Resource>(mut desired: K, hash: &str) -> K {
    desired.annotations_mut().insert(names::ANNOTATION_APPLIED_HASH.to_owned(), hash.to_owned());
    desired
}

fn json(object: &impl Serialize) -> Value {
    // Kubernetes' types always have a JSON form.
    serde_json::to_value(object).unwrap_or_default()
}

fn hash(value: &Value) -> String {
    Sha256::digest(value.to_string()).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}
