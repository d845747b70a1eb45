//! Writes what differs from what is there, in order, each object by itself.
//!
//! Guarantees: what is as it should be is not written; everything but the live document is applied by the
//! server with one field manager (a number of replicas alone is patched), so that fields of others stay theirs, unless
//! the API server refuses them beside ours: then the object is replaced ([`replace`]); the
//! live document and the Deployment are written only over the version that was looked at. Killed between any two writes, the
//! next reconcile goes on from what is there.

mod error;
mod live_document;
#[cfg(feature = "planted")]
mod planted;
mod pod_monitor;
mod replace;
mod rollout;
mod status_conflict;

use std::fmt::Debug;
use std::time::Instant;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::api::{Api, DeleteParams, Patch, PatchParams};
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sluice_crds::names;
use sluice_crds::v1alpha1::TracePipeline;

use super::Context;
use super::build::{Children, also_to, contains, settings_name};
use super::dereference::{Found, other_installation};
use super::rivals::rival;
use super::validate::{Owner, Valid};

pub use error::{ApplyError, may_pass};
pub use live_document::{live, live_without_label};
use rollout::Change;
pub use rollout::{Newest, Rollouts, Standing, Trouble, Withheld};

/// Name of the operator as the owner of fields.
pub const FIELD_MANAGER: &str = names::OPERATOR;

/// What became of the children.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Whether the Deployment was allowed to change.
    pub rollout: Rollout,
    /// What it lacks of the spec, where it was not.
    pub withheld: Withheld,
    /// The Deployment as it was written, where it was; the watch shows it later.
    pub deployment: Option<Deployment>,
    /// What stopped the writing.
    pub error: Option<ApplyError>,
    /// What is wrong with the PodMonitor: consumers run without being scraped.
    pub pod_monitor: Option<ApplyError>,
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
        /// Namespace and name of that pipeline.
        because: String,
    },
}

/// Lets pass only what is this pipeline's, and made by this installation, of what the watch does not show as ours: two
/// installations over one namespace make the same children, with the same owner.
fn own<K: ResourceExt>(
    context: &Context,
    owner: &Owner,
    child: &str,
    object: Option<K>,
) -> Result<Option<K>, ApplyError> {
    let Some(object) = object else { return Ok(None) };
    if !is_owned(&object, &owner.uid) {
        return Err(ApplyError::Taken { child: child.to_owned() });
    }
    match other_installation(&object, &context.options.installation) {
        Some(whose) => Err(ApplyError::Foreign { child: child.to_owned(), installation: whose.to_owned() }),
        None => Ok(Some(object)),
    }
}

fn is_owned(object: &impl ResourceExt, uid: &str) -> bool {
    #[cfg(feature = "planted")]
    if crate::planted::is(crate::planted::Bug::TakeOver) {
        return true;
    }
    object.owner_references().iter().any(|owner| owner.uid == uid)
}

/// Writes the other children, the Deployment after all that its pods need, and removes settings that nobody uses. The
/// PodMonitor comes last, and what is wrong with it is told in the outcome: no consumer waits for being scraped.
///
/// # Errors
/// See [`ApplyError`].
pub async fn children(
    context: &Context,
    valid: &Valid,
    found: &Found,
    trouble: Trouble,
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
    let binding = also_to(children.role_binding, valid, &found.accounts);
    writer.ensure(found.role_binding.as_deref(), binding).await?;
    writer.ensure(found.service.as_deref(), children.service).await?;
    writer.ensure(found.disruption_budget.as_deref(), children.disruption_budget).await?;
    writer.ensure(found.network_policy.as_deref(), children.network_policy).await?;
    if found.deployment.is_none() && has_rival_by_now(context, &writer.pipeline()) {
        return Err(ApplyError::Rival);
    }
    let mut outcome = writer.deployment(found.deployment.as_deref(), children.deployment, trouble).await?;
    writer.remove_unused_settings(found).await?;
    if let Some(monitor) = children.pod_monitor {
        outcome.pod_monitor = writer.pod_monitor(monitor).await.err();
    }
    Ok(outcome)
}

/// Whether a pipeline has a rival that was not there when its reconcile began: of two that are made at the same moment each may
/// have been looked at before the other, and consumers that run are not taken away again.
fn has_rival_by_now(context: &Context, pipeline: &ObjectRef<TracePipeline>) -> bool {
    let pipeline = context.cache.pipeline(pipeline);
    pipeline.is_some_and(|pipeline| rival(&context.cache, &pipeline).is_some())
}

/// A kind of object that children are of.
trait Child:
    Resource<Scope = NamespaceResourceScope, DynamicType = ()> + Serialize + DeserializeOwned + Clone + Debug
{
}

impl<K> Child for K where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Serialize
        + DeserializeOwned
        + Clone
        + Debug
{
}

struct Writer<'a> {
    context: &'a Context,
    valid: &'a Valid,
}

impl Writer<'_> {
    fn pipeline(&self) -> ObjectRef<TracePipeline> {
        ObjectRef::new(&self.valid.owner.name).within(&self.valid.owner.namespace)
    }

    fn api<K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>>(&self) -> Api<K> {
        Api::namespaced(self.context.client.clone(), &self.valid.owner.namespace)
    }

    /// Gives the object as it was written, where it had to be. Not again, while it is as the last write has left it: what
    /// somebody has added to a list, such as a container, is theirs, and only they can remove it, and a webhook does what it
    /// does each time. Nor while somebody writes it as well, again and again.
    async fn ensure<K: Child>(&self, actual: Option<&K>, desired: K) -> Result<Option<K>, ApplyError> {
        self.ensure_over(actual, desired, false).await
    }

    /// The same, and where `only_this_version` is set, only over the version that was looked at.
    async fn ensure_over<K: Child>(
        &self,
        actual: Option<&K>,
        desired: K,
        only_this_version: bool,
    ) -> Result<Option<K>, ApplyError> {
        let desired = stamped(desired);
        let is_as_it_should_be = actual.is_some_and(|actual| contains(&json(actual), &json(&desired)));
        #[cfg(feature = "planted")]
        let is_as_it_should_be = planted::is_as_it_should_be(actual, &desired, is_as_it_should_be);
        let child = format!("{} {}", K::kind(&()), desired.name_any());
        if is_as_it_should_be || actual.is_some_and(|actual| self.is_left(actual, &desired, &child)) {
            return Ok(None);
        }
        let written = self.write(actual, &desired, &child, only_this_version).await?;
        let (pipeline, Context { repairs, unmended_children, .. }) = (self.pipeline(), self.context);
        let left = status_conflict::without_status(&written);
        let has_changed = actual.is_none_or(|actual| status_conflict::without_status(actual) != left);
        if actual.is_some() && has_changed {
            repairs.repaired(pipeline.clone(), &child, content(&desired), Instant::now());
        }
        let is_mended = contains(&json(&written), &json(&desired));
        if !is_mended && unmended_children.leave(pipeline, &child, hash(&left)) {
            tracing::warn!(pipeline = %self.valid.settings.pipeline, %child,
                "a child is not as it should be after it was written: remove what somebody has added to it, such as a container");
        }
        if !has_changed {
            return Ok(Some(written));
        }
        self.context.metrics.child_written();
        tracing::info!(pipeline = %self.valid.settings.pipeline, %child, "wrote a child");
        Ok(Some(written))
    }

    /// Applies a child over the one that was looked at, or where there is none, over what the watch does not show as ours.
    async fn write<K: Child>(
        &self,
        actual: Option<&K>,
        desired: &K,
        child: &str,
        only_this_version: bool,
    ) -> Result<K, ApplyError> {
        let (api, name) = (self.api::<K>(), desired.name_any());
        let existing = match actual {
            Some(_) => None,
            // Not seen among ours: nobody else's object may be taken over.
            None => {
                let existing = api.get_opt(&name).await.map_err(ApplyError::read(child))?;
                own(self.context, &self.valid.owner, child, existing)?
            }
        };
        #[cfg(not(feature = "planted"))]
        let manager = FIELD_MANAGER;
        #[cfg(feature = "planted")]
        let manager = &*planted::manager(desired);
        let parameters = PatchParams::apply(manager).force();
        let written = match actual.or(existing.as_ref()).filter(|_| only_this_version) {
            Some(looked_at) => {
                let mut versioned = desired.clone();
                let apply = async |version| {
                    versioned.meta_mut().resource_version = version;
                    api.patch(&name, &parameters, &Patch::Apply(&versioned)).await
                };
                status_conflict::write_past_status_changes(&api, looked_at, apply).await
            }
            None => api.patch(&name, &parameters, &Patch::Apply(desired)).await,
        };
        match (written, actual) {
            // An apply leaves what somebody has put beside what is wanted, such as a second way to do the same.
            (Err(kube::Error::Api(refused)), Some(actual)) if refused.code == 422 => {
                match replace::replace(&api, actual, desired).await {
                    // In a role of somebody's own the right may be missing: what is wrong is what the apply was told.
                    Err(kube::Error::Api(status)) if replace::is_no_right(&status) => {
                        Err(kube::Error::Api(refused))
                    }
                    written => written,
                }
            }
            (written, _) => written,
        }
        .map_err(ApplyError::write(child))
    }

    /// Whether a child is left as it is, though it should be another: a write would change nothing, or not for long.
    fn is_left<K: Child>(&self, actual: &K, desired: &K, child: &str) -> bool {
        let (pipeline, context) = (self.pipeline(), self.context);
        let as_left = |left: String| {
            left == hash(&status_conflict::without_status(actual)) && content(actual) == content(desired)
        };
        context.unmended_children.left(&pipeline, child).is_some_and(as_left)
            || context.repairs.is_contested(&pipeline, child, content(desired), Instant::now())
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
            Err(source) => Err(ApplyError::write(&format!("ConfigMap {name}"))(source)),
        }
    }

    /// Changed where the spec asks for it, or where it is this pipeline's turn in an upgrade of the operator. Only
    /// over the version that was looked at: a leader that was frozen and thaws must not roll pods back.
    async fn deployment(
        &self,
        actual: Option<&Deployment>,
        mut desired: Deployment,
        trouble: Trouble,
    ) -> Result<Outcome, ApplyError> {
        let mark = match rollout::change(actual, &desired, trouble) {
            Change::Spec => None,
            Change::Same(mark) => mark,
            Change::Upgrade { runs } => {
                let (context, mark) = (self.context, self.context.options.upgrade_mark());
                // Those of a namespace that cannot be listed are not known, and take no turn of anybody's.
                let all = context.cache.deployments();
                let most = context.options.max_concurrent_rollouts;
                match context.rollouts.turn(all.iter().map(|one| &one.standing), &desired, &mark, most) {
                    Rollout::Free => runs.then_some(mark),
                    not_yet => {
                        let withheld = rollout::withheld(actual, &desired);
                        let deployment = self.scale(actual, &desired).await?;
                        return Ok(Outcome { rollout: not_yet, withheld, deployment, ..Outcome::default() });
                    }
                }
            }
        };
        if let Some(mark) = mark {
            desired.annotations_mut().insert(names::ANNOTATION_UPGRADE.to_owned(), mark);
        }
        let deployment = self.ensure_over(actual, desired, true).await?;
        Ok(Outcome { deployment, ..Outcome::default() })
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
        let (api, name) = (self.api::<Deployment>(), desired.name_any());
        let parameters = PatchParams { field_manager: Some(FIELD_MANAGER.into()), ..PatchParams::default() };
        let scale = async |version| {
            let patch = serde_json::json!({
                "metadata": { "resourceVersion": version },
                "spec": { "replicas": desired.spec.replicas },
            });
            api.patch(&name, &parameters, &Patch::Merge(&patch)).await
        };
        let child = format!("Deployment {name}");
        let written = status_conflict::write_past_status_changes(&api, actual, scale)
            .await
            .map_err(ApplyError::write(&child))?;
        self.context.metrics.child_written();
        tracing::info!(pipeline = %self.valid.settings.pipeline, "scaled while an upgrade waits");
        Ok(Some(written))
    }

    /// Settings stay while a ReplicaSet names them: a pod of an old one may still restart.
    async fn remove_unused_settings(&self, found: &Found) -> Result<(), ApplyError> {
        for settings in &found.settings {
            let Some(hash) = settings.labels().get(names::LABEL_SETTINGS) else { continue };
            // Somebody's own object may have the same labels.
            let is_child = settings.name_any() == settings_name(&self.valid.owner.name, hash);
            let in_use = *hash == self.valid.settings_hash || found.settings_in_use.contains(hash);
            #[cfg(feature = "planted")]
            let in_use = planted::in_use(in_use, hash, &self.valid.settings_hash);
            if is_child && !in_use {
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

/// The hash of what is said.
fn content(stamped: &impl ResourceExt) -> &str {
    stamped.annotations().get(names::ANNOTATION_APPLIED_HASH).map_or("", String::as_str)
}

fn json(object: &impl Serialize) -> Value {
    serde_json::to_value(object).expect("Kubernetes' types always have a JSON form")
}

fn hash(value: &Value) -> String {
    names::hash(value.to_string())
}

#[cfg(test)]
mod tests;
