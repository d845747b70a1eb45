//! Everything that is watched, kept in memory, by kind.
//!
//! Guarantees: a reconcile reads from here and asks the API server for nothing; a change of anything that
//! belongs to a pipeline leads to a reconcile of that pipeline. What is not looked at is not kept.

use std::collections::HashMap;
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;

use futures_util::stream::{BoxStream, StreamExt, select_all};
use k8s_openapi::api::apps::v1::{Deployment, ReplicaSet};
use k8s_openapi::api::core::v1::{ConfigMap, Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::{Api, PartialObjectMeta};
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt, predicates, watcher};
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;
use sluice_crds::names;
use sluice_crds::v1alpha1::TracePipeline;

/// Which pipeline to look at.
pub type Trigger = Result<ObjectRef<TracePipeline>, watcher::Error>;
type Triggers = BoxStream<'static, Trigger>;

/// The objects of one kind: one store a namespace, or one for all.
pub struct Kind<K: Resource<DynamicType = ()> + Clone + 'static> {
    stores: HashMap<Option<String>, Store<K>>,
}

impl<K: Resource<DynamicType = ()> + Clone + 'static> Kind<K> {
    fn of(&self, namespace: &str) -> Option<&Store<K>> {
        self.stores.get(&Some(namespace.to_owned())).or_else(|| self.stores.get(&None))
    }

    /// One object.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.of(namespace)?.get(&ObjectRef::new(name).within(namespace))
    }

    /// The objects that carry the label of a pipeline.
    pub fn of_pipeline(&self, namespace: &str, pipeline: &str) -> Vec<Arc<K>> {
        let carries = |object: &K| {
            object.namespace().as_deref() == Some(namespace)
                && object.labels().get(names::LABEL_PIPELINE).is_some_and(|label| label == pipeline)
        };
        self.of(namespace).map(|store| store.state_filter(carries)).unwrap_or_default()
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = Arc<K>> + '_ {
        self.stores.values().flat_map(Store::state)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.stores.values().map(Store::len).sum()
    }

    /// Each store with its namespace, none where it holds all of them.
    pub fn stores(&self) -> impl Iterator<Item = (Option<String>, Store<K>)> + '_ {
        self.stores.iter().map(|(namespace, store)| (namespace.clone(), store.clone()))
    }

    /// Waits for the first complete list of each namespace.
    async fn ready(&self) -> bool {
        for store in self.stores.values() {
            if store.wait_until_ready().await.is_err() {
                return false;
            }
        }
        true
    }
}

/// What the operator knows of the cluster.
pub struct World {
    /// The pipelines.
    pub pipelines: Kind<TracePipeline>,
    /// Settings and live documents.
    pub config_maps: Kind<ConfigMap>,
    /// Consumers.
    pub deployments: Kind<Deployment>,
    /// Which settings are in use; metadata only.
    pub replica_sets: Kind<PartialObjectMeta<ReplicaSet>>,
    /// Where to ask.
    pub pods: Kind<Pod>,
    /// See `build`.
    pub services: Kind<Service>,
    /// See `build`.
    pub service_accounts: Kind<ServiceAccount>,
    /// See `build`.
    pub roles: Kind<Role>,
    /// See `build`.
    pub role_bindings: Kind<RoleBinding>,
    /// See `build`.
    pub disruption_budgets: Kind<PodDisruptionBudget>,
    /// See `build`.
    pub network_policies: Kind<NetworkPolicy>,
}

impl World {
    /// Begins to watch; nothing arrives until the stream is polled.
    pub fn watch(client: &Client, namespaces: &[String]) -> (Self, Triggers) {
        let mut watches =
            Watches { client: client.clone(), namespaces: namespaces.to_vec(), streams: Vec::new() };
        let world = Self {
            pipelines: watches.pipelines(),
            config_maps: watches.children(|_| {}),
            deployments: watches.children(|_| {}),
            replica_sets: watches.children(|_| {}),
            pods: watches.children(strip_pod),
            services: watches.children(|_| {}),
            service_accounts: watches.children(|_| {}),
            roles: watches.children(|_| {}),
            role_bindings: watches.children(|_| {}),
            disruption_budgets: watches.children(|_| {}),
            network_policies: watches.children(|_| {}),
        };
        (world, select_all(watches.streams).boxed())
    }

    /// Waits until everything was listed once; false where watching has ended.
    pub async fn ready(&self) -> bool {
        self.pipelines.ready().await
            && self.config_maps.ready().await
            && self.deployments.ready().await
            && self.replica_sets.ready().await
            && self.pods.ready().await
            && self.services.ready().await
            && self.service_accounts.ready().await
            && self.roles.ready().await
            && self.role_bindings.ready().await
            && self.disruption_budgets.ready().await
            && self.network_policies.ready().await
    }
}

struct Watches {
    client: Client,
    namespaces: Vec<String>,
    streams: Vec<Triggers>,
}

impl Watches {
    fn apis<K>(&self) -> Vec<(Option<String>, Api<K>)>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
    {
        if self.namespaces.is_empty() {
            return vec![(None, Api::all(self.client.clone()))];
        }
        let named =
            |namespace: &String| (Some(namespace.clone()), Api::namespaced(self.client.clone(), namespace));
        self.namespaces.iter().map(named).collect()
    }

    /// Our own status writes change no generation and lead to nothing.
    fn pipelines(&mut self) -> Kind<TracePipeline> {
        let mut stores = HashMap::new();
        for (namespace, api) in self.apis::<TracePipeline>() {
            let (reader, writer) = store();
            let triggers = watcher(api, watcher::Config::default())
                .default_backoff()
                .modify(strip)
                .reflect(writer)
                .touched_objects()
                .predicate_filter(predicates::generation, Default::default())
                .map(|pipeline| pipeline.map(|pipeline| ObjectRef::from_obj(&pipeline)));
            self.streams.push(triggers.boxed());
            stores.insert(namespace, reader);
        }
        Kind { stores }
    }

    fn children<K>(&mut self, strip_more: fn(&mut K)) -> Kind<K>
    where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + Sync
            + 'static,
    {
        let mut stores = HashMap::new();
        for (namespace, api) in self.apis::<K>() {
            let (reader, writer) = store();
            let triggers = watcher(api, ours())
                .default_backoff()
                .modify(move |object| {
                    strip(object);
                    strip_more(object);
                })
                .reflect(writer)
                .touched_objects();
            self.streams.push(pipelines_of(triggers));
            stores.insert(namespace, reader);
        }
        Kind { stores }
    }
}

/// Only what carries the label of a pipeline.
fn ours() -> watcher::Config {
    watcher::Config::default().labels(names::LABEL_PIPELINE)
}

/// From an object to its pipeline, by its label.
fn pipelines_of<K, S>(objects: S) -> Triggers
where
    K: Resource + Send + 'static,
    K::DynamicType: Eq + Hash,
    S: futures_util::Stream<Item = Result<K, watcher::Error>> + Send + 'static,
{
    let pipeline = |object: K| {
        let name = object.labels().get(names::LABEL_PIPELINE)?.clone();
        Some(ObjectRef::new(&name).within(&object.namespace()?))
    };
    objects
        .filter_map(move |object| {
            let trigger = match object {
                Ok(object) => pipeline(object).map(Ok),
                Err(error) => Some(Err(error)),
            };
            std::future::ready(trigger)
        })
        .boxed()
}

fn strip<K: Resource>(object: &mut K) {
    object.managed_fields_mut().clear();
}

/// Of a pod its owner, its state and its address are looked at.
fn strip_pod(pod: &mut Pod) {
    pod.spec = None;
    if let Some(status) = &mut pod.status {
        *status = k8s_openapi::api::core::v1::PodStatus {
            pod_ip: status.pod_ip.take(),
            phase: status.phase.take(),
            conditions: status.conditions.take(),
            ..Default::default()
        };
    }
}
