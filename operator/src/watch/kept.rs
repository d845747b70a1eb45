//! What is kept of each kind of child: what a reconcile reads, and nothing else.
//!
//! There are a dozen children a pipeline, and an object of Kubernetes' own type takes several times its text in
//! memory. So the text is kept where all of an object is compared, and a few fields where only those are read. Whoever may write
//! in a namespace may give a pipeline's label to anything: what no child is called is not kept.

use std::fmt::Debug;
use std::marker::PhantomData;
use std::sync::Arc;

use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, PodStatus};
use kube::api::PartialObjectMeta;
use kube::core::NamespaceResourceScope;
use kube::{Resource, ResourceExt};
use serde::Serialize;
use serde::de::DeserializeOwned;
use sluice_crds::names;

use crate::controller::apply::Standing;
use crate::controller::build::{live_name, settings_name};

/// Kept by the Deployment's controller beside the status, and on each ReplicaSet: the number of the rollout.
pub const ROLLOUT: &str = "deployment.kubernetes.io/revision";

/// What is kept of an object.
pub trait Kept: Send + Sync + 'static {
    /// The object.
    type Object: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static;

    /// Whether a pipeline may have a child of that name: others with its label are not kept.
    fn may_be_called(name: &str, pipeline: &str) -> bool;

    /// Keeps what is read.
    fn keep(object: Self::Object) -> Self;

    /// The object's name.
    fn name(&self) -> &str;
}

/// All of an object but its managed fields, as JSON.
pub struct Text<K> {
    name: Box<str>,
    json: Box<str>,
    kind: PhantomData<fn() -> K>,
}

impl<K: DeserializeOwned> Text<K> {
    /// The object.
    pub fn read(&self) -> Option<Arc<K>> {
        // What was written by the same type can be read.
        serde_json::from_str(&self.json).ok().map(Arc::new)
    }
}

impl<K> Kept for Text<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + Serialize
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    type Object = K;

    fn may_be_called(name: &str, pipeline: &str) -> bool {
        if K::kind(&()) != ConfigMap::kind(&()) {
            return name == names::consumer_name(pipeline);
        }
        let is_settings = |hash: &str| name == settings_name(pipeline, hash);
        name == live_name(pipeline) || name.rsplit_once('-').is_some_and(|(_, hash)| is_settings(hash))
    }

    fn keep(mut object: K) -> Self {
        object.managed_fields_mut().clear();
        Self {
            name: object.name_any().into(),
            json: serde_json::to_string(&object).expect("Kubernetes' types always have a JSON form").into(),
            kind: PhantomData,
        }
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// A Deployment: its text, and what counts for the turns of all others.
pub struct KeptDeployment {
    text: Text<Deployment>,
    /// See there.
    pub standing: Standing,
}

impl KeptDeployment {
    /// The object.
    pub fn read(&self) -> Option<Arc<Deployment>> {
        self.text.read()
    }
}

impl Kept for KeptDeployment {
    type Object = Deployment;

    fn may_be_called(name: &str, pipeline: &str) -> bool {
        Text::<Deployment>::may_be_called(name, pipeline)
    }

    fn keep(object: Deployment) -> Self {
        Self { standing: Standing::of(&object), text: Text::keep(object) }
    }

    fn name(&self) -> &str {
        self.text.name()
    }
}

/// A ReplicaSet: whose it is, of which rollout, and which settings it names.
pub struct KeptReplicaSet {
    name: Box<str>,
    /// Its uid.
    pub uid: Box<str>,
    /// The uid of what controls it.
    pub owner: Option<Box<str>>,
    /// The number of its rollout; 0 before the Deployment's controller has said it.
    pub rollout: u64,
    /// Hash of the settings.
    pub settings: Option<Box<str>>,
}

impl Kept for KeptReplicaSet {
    type Object = PartialObjectMeta<ReplicaSet>;

    /// Its Deployment's controller makes it up.
    fn may_be_called(_: &str, _: &str) -> bool {
        true
    }

    fn keep(object: Self::Object) -> Self {
        Self {
            name: object.name_any().into(),
            uid: object.uid().unwrap_or_default().into(),
            owner: controller_of(&object),
            rollout: object.annotations().get(ROLLOUT).and_then(|number| number.parse().ok()).unwrap_or(0),
            settings: object.labels().get(names::LABEL_SETTINGS).map(|hash| hash.as_str().into()),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// A pod: whose it is, as whom and whether its consumer runs, and where.
pub struct KeptPod {
    name: Box<str>,
    /// The uid of what controls it.
    pub owner: Option<Box<str>>,
    /// Whether it has ended for good.
    pub ended: bool,
    /// By when it is to have ended, with its grace period, where it is on its way out.
    pub leaves_by: Option<Timestamp>,
    /// Whether its consumer runs: one that does not has no partition and applies no rate.
    pub runs: bool,
    /// The service account that it runs as.
    pub account: Option<Box<str>>,
    /// Whether it waits for a node, and has had none.
    pub unplaced: bool,
    /// Its address, once it has one.
    pub ip: Option<Box<str>>,
}

impl Kept for KeptPod {
    type Object = Pod;

    /// As a ReplicaSet's.
    fn may_be_called(_: &str, _: &str) -> bool {
        true
    }

    fn keep(object: Pod) -> Self {
        let status = object.status.as_ref();
        let account = object.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref());
        let phase = status.and_then(|status| status.phase.as_deref());
        Self {
            name: object.name_any().into(),
            owner: controller_of(&object),
            ended: matches!(phase, Some("Succeeded" | "Failed")),
            leaves_by: object.metadata.deletion_timestamp.as_ref().map(|time| time.0),
            runs: status.is_some_and(consumer_runs),
            account: account.map(Into::into),
            unplaced: status.is_some_and(waits_for_a_node),
            ip: status.and_then(|status| status.pod_ip.as_deref()).map(Into::into),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }
}

/// Not while its container waits: for a node, its image, or the next try. One that has just ended may have partitions until
/// the group misses it. Where nothing is said of containers, the pod's phase counts.
fn consumer_runs(status: &PodStatus) -> bool {
    let mut containers = status.container_statuses.iter().flatten();
    let Some(consumer) = containers.find(|container| container.name == names::CONSUMER_CONTAINER) else {
        return status.phase.as_deref() == Some("Running");
    };
    consumer.state.as_ref().is_some_and(|state| state.running.is_some() || state.terminated.is_some())
}

/// By the scheduler's words. A pod keeps its node, so it says so of none that has had one.
fn waits_for_a_node(status: &PodStatus) -> bool {
    let mut conditions = status.conditions.iter().flatten();
    status.phase.as_deref() == Some("Pending")
        && conditions.any(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
}

/// The uid of what controls an object.
pub fn controller_of(object: &impl Resource) -> Option<Box<str>> {
    let mut owners = object.meta().owner_references.iter().flatten();
    owners.find(|owner| owner.controller == Some(true)).map(|owner| owner.uid.as_str().into())
}
