//! Everything that is watched, kept in memory, by kind.
//!
//! Guarantees: a reconcile reads from here and asks the API server for nothing; a change of anything that
//! belongs to a pipeline leads to a reconcile of that pipeline. What is not looked at is not kept.

mod kept;
mod lenient;
mod shelf;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use futures_util::stream::{BoxStream, StreamExt, iter, select_all};
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::Api;
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::{ObjectRef, Store, store};
use kube::runtime::{WatchStreamExt, predicates, watcher};
use kube::{Client, Resource, ResourceExt};
use sluice_crds::names;
use sluice_crds::v1alpha1::TracePipeline;

pub use kept::Kept;
use kept::{KeptDeployment, KeptPod, KeptReplicaSet, Text};
use lenient::Lenient;
pub use lenient::unreadable;
use shelf::{Filler, Shelf};

/// After this many seconds a watch is begun again where it stopped, so that a connection that died in silence
/// hides nothing for longer. The default of five minutes would be that long an outage of every live edit.
const WATCH_SECONDS: u32 = 20;

/// Objects in one answer to a list: a page is in memory twice, as text and as objects.
const PAGE: u32 = 100;

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The spec of a pipeline, or whether it is there.
    Pipeline(ObjectRef<TracePipeline>),
    /// A child of it.
    Child(ObjectRef<TracePipeline>),
}

/// A change, or why a watch has stopped for now.
pub type Trigger = Result<Change, watcher::Error>;
type Triggers = BoxStream<'static, Trigger>;

/// The pipelines: one store a namespace, or one for all.
pub struct Pipelines {
    stores: HashMap<Option<String>, Store<TracePipeline>>,
}

impl Pipelines {
    /// One of them.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<TracePipeline>> {
        let store = self.stores.get(&Some(namespace.to_owned())).or_else(|| self.stores.get(&None))?;
        store.get(&ObjectRef::new(name).within(namespace))
    }

    /// The first that is as it should be.
    pub fn find(&self, wanted: impl Fn(&TracePipeline) -> bool) -> Option<Arc<TracePipeline>> {
        self.stores.values().find_map(|store| store.find(&wanted))
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.stores.values().map(Store::len).sum()
    }

    /// Each store with its namespace, none where it holds all of them.
    pub fn stores(&self) -> impl Iterator<Item = (Option<String>, Store<TracePipeline>)> + '_ {
        self.stores.iter().map(|(namespace, store)| (namespace.clone(), store.clone()))
    }

    async fn ready(&self) -> bool {
        for store in self.stores.values() {
            if store.wait_until_ready().await.is_err() {
                return false;
            }
        }
        true
    }
}

/// The children of one kind: one shelf a namespace, or one for all.
pub struct Kind<T> {
    shelves: HashMap<Option<String>, Arc<Shelf<T>>>,
}

impl<T: Kept> Kind<T> {
    fn of(&self, namespace: &str) -> Option<&Shelf<T>> {
        let shelf = self.shelves.get(&Some(namespace.to_owned())).or_else(|| self.shelves.get(&None));
        shelf.map(|shelf| &**shelf)
    }

    /// One child of a pipeline.
    pub fn get(&self, namespace: &str, pipeline: &str, name: &str) -> Option<Arc<T>> {
        self.of(namespace)?.get(namespace, pipeline, name)
    }

    /// Every child of a pipeline.
    pub fn of_pipeline(&self, namespace: &str, pipeline: &str) -> Vec<Arc<T>> {
        self.of(namespace).map(|shelf| shelf.of_pipeline(namespace, pipeline)).unwrap_or_default()
    }

    /// All of them.
    pub fn all(&self) -> impl Iterator<Item = Arc<T>> + '_ {
        self.shelves.values().flat_map(|shelf| shelf.all())
    }

    /// Waits for the first complete list of each namespace.
    async fn ready(&self) -> bool {
        for shelf in self.shelves.values() {
            if !shelf.ready().await {
                return false;
            }
        }
        true
    }
}

/// What the operator knows of the cluster.
pub struct World {
    /// The pipelines.
    pub pipelines: Pipelines,
    /// Settings and live documents.
    pub config_maps: Kind<Text<ConfigMap>>,
    /// Consumers.
    pub deployments: Kind<KeptDeployment>,
    /// Which settings are in use.
    pub replica_sets: Kind<KeptReplicaSet>,
    /// Where to ask.
    pub pods: Kind<KeptPod>,
    /// See `build`.
    pub services: Kind<Text<Service>>,
    /// See `build`.
    pub service_accounts: Kind<Text<ServiceAccount>>,
    /// See `build`.
    pub roles: Kind<Text<Role>>,
    /// See `build`.
    pub role_bindings: Kind<Text<RoleBinding>>,
    /// See `build`.
    pub disruption_budgets: Kind<Text<PodDisruptionBudget>>,
    /// See `build`.
    pub network_policies: Kind<Text<NetworkPolicy>>,
    listed: AtomicBool,
}

impl World {
    /// Begins to watch; nothing arrives until the stream is polled.
    pub fn watch(client: &Client, namespaces: &[String]) -> (Self, Triggers) {
        let mut watches =
            Watches { client: client.clone(), namespaces: namespaces.to_vec(), streams: Vec::new() };
        let world = Self {
            pipelines: watches.pipelines(),
            config_maps: watches.children(),
            deployments: watches.children(),
            replica_sets: watches.children(),
            pods: watches.children(),
            services: watches.children(),
            service_accounts: watches.children(),
            roles: watches.children(),
            role_bindings: watches.children(),
            disruption_budgets: watches.children(),
            network_policies: watches.children(),
            listed: AtomicBool::new(false),
        };
        (world, select_all(watches.streams).boxed())
    }

    /// Waits until everything was listed once; false where watching has ended.
    pub async fn ready(&self) -> bool {
        let ready = self.pipelines.ready().await
            && self.config_maps.ready().await
            && self.deployments.ready().await
            && self.replica_sets.ready().await
            && self.pods.ready().await
            && self.services.ready().await
            && self.service_accounts.ready().await
            && self.roles.ready().await
            && self.role_bindings.ready().await
            && self.disruption_budgets.ready().await
            && self.network_policies.ready().await;
        self.listed.store(ready, Relaxed);
        ready
    }

    /// Whether that was seen already.
    pub fn is_listed(&self) -> bool {
        self.listed.load(Relaxed)
    }

    /// Takes in a ConfigMap that was written over `old`, before the watch tells of it: who looks next must not
    /// write over a version that is gone.
    pub fn wrote(&self, pipeline: &str, old: &ConfigMap, new: ConfigMap) {
        let namespace = new.namespace().unwrap_or_default();
        let Some(shelf) = self.config_maps.of(&namespace) else { return };
        shelf.replace(&namespace, pipeline, Text::keep(new), |kept| {
            kept.read().is_some_and(|kept| kept.metadata.resource_version == old.metadata.resource_version)
        });
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
    fn pipelines(&mut self) -> Pipelines {
        let mut stores = HashMap::new();
        for (namespace, api) in self.apis::<Lenient>() {
            let (reader, writer) = store();
            let config = watcher::Config::default().timeout(WATCH_SECONDS).page_size(PAGE);
            let triggers = watcher(api, config)
                .default_backoff()
                .map(|event| event.map(lenient::event))
                .modify(strip)
                .reflect(writer)
                .touched_objects()
                .predicate_filter(predicates::generation, Default::default())
                .map(|pipeline| pipeline.map(|pipeline| Change::Pipeline(ObjectRef::from_obj(&pipeline))));
            self.streams.push(triggers.boxed());
            stores.insert(namespace, reader);
        }
        Pipelines { stores }
    }

    /// Only what carries the label of a pipeline.
    fn children<T: Kept>(&mut self) -> Kind<T> {
        let mut shelves = HashMap::new();
        for (namespace, api) in self.apis::<T::Object>() {
            let shelf = Arc::new(Shelf::default());
            let mut filler = Filler::<T>::new(shelf.clone());
            let ours = watcher::Config::default()
                .timeout(WATCH_SECONDS)
                .labels(names::LABEL_PIPELINE)
                .page_size(PAGE);
            let triggers = watcher(api, ours).default_backoff().flat_map(move |event| {
                let changes: Vec<Trigger> = match event {
                    Ok(event) => filler.take(event).into_iter().map(|one| Ok(Change::Child(one))).collect(),
                    Err(error) => vec![Err(error)],
                };
                iter(changes)
            });
            self.streams.push(triggers.boxed());
            shelves.insert(namespace, shelf);
        }
        Kind { shelves }
    }
}

/// Nobody reads who has set which field, nor kubectl's copy of the object.
fn strip(pipeline: &mut TracePipeline) {
    pipeline.managed_fields_mut().clear();
    pipeline.annotations_mut().remove("kubectl.kubernetes.io/last-applied-configuration");
}
