//! What is there already, from memory: no request is made.

use std::collections::BTreeSet;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::{Resource, ResourceExt};
use sluice_crds::names;
use sluice_crds::v1alpha1::{KafkaSource, TracePipeline};

use super::build::live_name;
use crate::watch::{Kept, World};

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
    /// Hashes of the settings that a ReplicaSet names, or the Deployment, whose ReplicaSet may not be there yet.
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
        .iter()
        .filter_map(|map| map.read())
        .filter(|map| map.labels().contains_key(names::LABEL_SETTINGS))
        .collect();
    let deployment = world.deployments.get(&namespace, &name, &consumer).and_then(|kept| kept.read());
    let uid = deployment.as_ref().and_then(|deployment| deployment.uid());
    let replica_sets = world.replica_sets.of_pipeline(&namespace, &name);
    let settings_in_use = replica_sets
        .iter()
        .filter_map(|replica_set| replica_set.settings.as_deref().map(Into::into))
        .chain(deployment.as_deref().and_then(settings_of))
        .collect();
    let own_replica_sets: BTreeSet<&str> = replica_sets
        .iter()
        .filter(|replica_set| uid.is_some() && replica_set.owner.as_deref() == uid.as_deref())
        .map(|replica_set| &*replica_set.uid)
        .collect();
    let mut pods: Vec<PodAddress> = world
        .pods
        .of_pipeline(&namespace, &name)
        .iter()
        .filter(|pod| pod.runs && pod.owner.as_deref().is_some_and(|uid| own_replica_sets.contains(uid)))
        .map(|pod| PodAddress { name: pod.name().to_owned(), ip: pod.ip.as_deref().map(Into::into) })
        .collect();
    pods.sort_by(|left, right| left.name.cmp(&right.name));
    Found {
        live: world.config_maps.get(&namespace, &name, &live_name(&name)).and_then(|kept| kept.read()),
        settings,
        deployment,
        service: world.services.get(&namespace, &name, &consumer).and_then(|kept| kept.read()),
        service_account: world
            .service_accounts
            .get(&namespace, &name, &consumer)
            .and_then(|kept| kept.read()),
        role: world.roles.get(&namespace, &name, &consumer).and_then(|kept| kept.read()),
        role_binding: world.role_bindings.get(&namespace, &name, &consumer).and_then(|kept| kept.read()),
        disruption_budget: world
            .disruption_budgets
            .get(&namespace, &name, &consumer)
            .and_then(|kept| kept.read()),
        network_policy: world.network_policies.get(&namespace, &name, &consumer).and_then(|kept| kept.read()),
        settings_in_use,
        pods,
        older_rival: older_rival(world, pipeline),
    }
}

/// Hash of the settings that a Deployment's pods name.
fn settings_of(deployment: &Deployment) -> Option<String> {
    let template = deployment.spec.template.metadata.as_ref()?;
    template.labels.as_ref()?.get(names::LABEL_SETTINGS).cloned()
}

/// Two pipelines with one group would take partitions from each other, and each would store a part.
fn older_rival(world: &World, pipeline: &TracePipeline) -> Option<String> {
    let own = pipeline.spec.source.kafka.as_ref()?;
    // Of two that were created within one second, the resolution of that time, the one that runs came first.
    let age = |pipeline: &TracePipeline| {
        let created = pipeline.metadata.creation_timestamp.as_ref().map(|time| time.0);
        let (namespace, name) = (pipeline.namespace().unwrap_or_default(), pipeline.name_any());
        let runs = world.deployments.get(&namespace, &name, &names::child(&name, "consumer")).is_some();
        (created, !runs, namespace, name)
    };
    // The cheap question first: all pipelines are asked it, in every reconcile.
    let is_rival = |other: &TracePipeline| {
        other.spec.source.kafka.as_ref().is_some_and(|kafka| is_same_work(kafka, own))
            && other.metadata.deletion_timestamp.is_none()
            && age(other) < age(pipeline)
    };
    let rival = world.pipelines.find(is_rival)?;
    Some(format!("{}/{}", rival.namespace().unwrap_or_default(), rival.name_any()))
}

fn is_same_work(one: &KafkaSource, other: &KafkaSource) -> bool {
    one.bootstrap_servers == other.bootstrap_servers
        && one.consumer_group == other.consumer_group
        && one.topic == other.topic
        && one.topic_pattern == other.topic_pattern
}
