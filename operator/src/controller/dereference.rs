//! What is there already, from memory: no request is made.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::{Resource, ResourceExt};
use sluice_crds::names;
use sluice_crds::v1alpha1::{KafkaSource, TracePipeline};

use super::build::live_name;
use crate::watch::World;

/// A consumer that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodAddress {
    /// Name of the pod.
    pub name: String,
    /// Its address, once it has one.
    pub ip: Option<String>,
}

/// The children of a pipeline as they are.
#[derive(Default)]
pub struct Found {
    /// The live ConfigMap.
    pub live: Option<Arc<ConfigMap>>,
    /// Every settings ConfigMap, old ones too.
    pub settings: Vec<Arc<ConfigMap>>,
    /// See `build`.
    pub deployment: Option<Arc<Deployment>>,
    /// See `build`.
    pub service: Option<Arc<Service>>,
    /// See `build`.
    pub service_account: Option<Arc<ServiceAccount>>,
    /// See `build`.
    pub role: Option<Arc<Role>>,
    /// See `build`.
    pub role_binding: Option<Arc<RoleBinding>>,
    /// See `build`.
    pub disruption_budget: Option<Arc<PodDisruptionBudget>>,
    /// See `build`.
    pub network_policy: Option<Arc<NetworkPolicy>>,
    /// Hashes of the settings that a ReplicaSet names.
    pub settings_in_use: BTreeSet<String>,
    /// The Deployment's own pods that are not on their way out.
    pub pods: Vec<PodAddress>,
    /// An older pipeline with the same topic and group.
    pub older_rival: Option<String>,
}

impl Found {
    /// The first child of another installation: its kind and name, and whose it is.
    pub fn foreign_child(&self, installation: &str) -> Option<(String, String)> {
        fn foreign<K: Resource<DynamicType = ()>>(
            object: Option<&Arc<K>>,
            installation: &str,
        ) -> Option<(String, String)> {
            let object = object?;
            let whose = object.labels().get(names::LABEL_INSTALLATION)?;
            (whose != installation)
                .then(|| (format!("{} {}", K::kind(&()), object.name_any()), whose.clone()))
        }
        foreign(self.deployment.as_ref(), installation)
            .or_else(|| foreign(self.live.as_ref(), installation))
            .or_else(|| self.settings.iter().find_map(|settings| foreign(Some(settings), installation)))
            .or_else(|| foreign(self.service.as_ref(), installation))
            .or_else(|| foreign(self.role.as_ref(), installation))
    }
}

/// Gathers what belongs to a pipeline.
pub fn dereference(world: &World, pipeline: &TracePipeline) -> Found {
    let (namespace, name) = (pipeline.namespace().unwrap_or_default(), pipeline.name_any());
    let consumer = names::child(&name, "consumer");
    let settings = world
        .config_maps
        .of_pipeline(&namespace, &name)
        .into_iter()
        .filter(|map| map.labels().contains_key(names::LABEL_SETTINGS))
        .collect();
    let deployment = world.deployments.get(&namespace, &consumer);
    let replica_sets = world.replica_sets.of_pipeline(&namespace, &name);
    let settings_in_use = replica_sets
        .iter()
        .filter_map(|replica_set| replica_set.labels().get(names::LABEL_SETTINGS).cloned())
        .collect();
    let own_replica_sets: BTreeSet<String> = replica_sets
        .iter()
        .filter(|replica_set| is_owned_by(&***replica_set, deployment.as_ref().and_then(|owner| owner.uid())))
        .filter_map(|replica_set| replica_set.uid())
        .collect();
    let mut pods: Vec<PodAddress> = world
        .pods
        .of_pipeline(&namespace, &name)
        .iter()
        .filter(|pod| is_running(pod))
        .filter(|pod| own_replica_sets.iter().any(|uid| is_owned_by(&***pod, Some(uid.clone()))))
        .map(|pod| PodAddress {
            name: pod.name_any(),
            ip: pod.status.as_ref().and_then(|status| status.pod_ip.clone()),
        })
        .collect();
    pods.sort_by(|left, right| left.name.cmp(&right.name));
    Found {
        live: world.config_maps.get(&namespace, &live_name(&name)),
        settings,
        deployment,
        service: world.services.get(&namespace, &consumer),
        service_account: world.service_accounts.get(&namespace, &consumer),
        role: world.roles.get(&namespace, &consumer),
        role_binding: world.role_bindings.get(&namespace, &consumer),
        disruption_budget: world.disruption_budgets.get(&namespace, &consumer),
        network_policy: world.network_policies.get(&namespace, &consumer),
        settings_in_use,
        pods,
        older_rival: older_rival(world, pipeline),
    }
}

fn is_owned_by(object: &impl Resource, uid: Option<String>) -> bool {
    let owners = object.meta().owner_references.iter().flatten();
    uid.is_some_and(|uid| owners.into_iter().any(|owner| owner.controller == Some(true) && owner.uid == uid))
}

fn is_running(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    pod.metadata.deletion_timestamp.is_none() && !matches!(phase, Some("Succeeded" | "Failed"))
}

/// Two pipelines with one group would take partitions from each other, and each would store a part.
fn older_rival(world: &World, pipeline: &TracePipeline) -> Option<String> {
    let own = pipeline.spec.source.kafka.as_ref()?;
    // Of two that were created within one second, the resolution of that time, the one that runs came first.
    let age = |pipeline: &TracePipeline| {
        let created = pipeline.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let (namespace, name) = (pipeline.namespace().unwrap_or_default(), pipeline.name_any());
        let runs = world.deployments.get(&namespace, &names::child(&name, "consumer")).is_some();
        (created, !runs, namespace, name)
    };
    world
        .pipelines
        .all()
        .filter(|other| other.metadata.deletion_timestamp.is_none() && age(other) < age(pipeline))
        .find(|other| other.spec.source.kafka.as_ref().is_some_and(|kafka| is_same_work(kafka, own)))
        .map(|other| format!("{}/{}", other.namespace().unwrap_or_default(), other.name_any()))
}

fn is_same_work(one: &KafkaSource, other: &KafkaSource) -> bool {
    one.bootstrap_servers == other.bootstrap_servers
        && one.consumer_group == other.consumer_group
        && one.topic == other.topic
        && one.topic_pattern == other.topic_pattern
}
