//! Everything that is watched, kept in memory, by namespace and kind.
//!
//! Guarantees: a reconcile reads from here, and asks the API server only for a child that is to be written and is not here,
//! or is of a kind that may not be installed; a change of anything that belongs to a pipeline leads to a reconcile of that
//! pipeline. What is not looked at is not kept. An object that this program cannot read hides no other.

mod child_store;
mod failures;
mod kept;
mod lenient;
mod namespace;
mod pipelines;

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future;
use futures_util::stream::{BoxStream, StreamExt, select_all};
#[cfg(test)]
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::ConfigMap;
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use kube::{Client, ResourceExt};
use sluice_crds::v1alpha1::TracePipeline;

use kept::Text;
pub use kept::{Kept, KeptDeployment, KeptPod, ROLLOUT, controller_of};
pub use lenient::{Lenient, unreadable};
pub use namespace::NamespaceCache;

/// What has changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// The spec of a pipeline, or it is new.
    Pipeline(ObjectRef<TracePipeline>),
    /// A pipeline is gone.
    Gone(ObjectRef<TracePipeline>),
    /// A child of one.
    Child(ObjectRef<TracePipeline>),
}

/// A change, or why a watch has stopped for now, which was logged.
pub type Trigger = Result<Change, watcher::Error>;

/// What the operator knows of the cluster: one cache a namespace, or one for all.
pub struct Cache {
    namespaces: HashMap<Option<String>, Arc<NamespaceCache>>,
}

impl Cache {
    /// Begins to watch; nothing arrives until the stream is polled.
    pub fn watch(client: &Client, namespaces: &[String]) -> (Self, BoxStream<'static, Trigger>) {
        let names = if namespaces.is_empty() {
            vec![None]
        } else {
            namespaces.iter().cloned().map(Some).collect::<Vec<_>>()
        };
        let (mut namespaces, mut triggers) = (HashMap::new(), Vec::new());
        for name in names {
            let (cached, its_triggers) = NamespaceCache::watch(client, name.clone());
            namespaces.insert(name, Arc::new(cached));
            triggers.extend(its_triggers);
        }
        (Self { namespaces }, select_all(triggers).boxed())
    }

    /// All of them.
    pub fn namespaces(&self) -> impl Iterator<Item = &Arc<NamespaceCache>> {
        self.namespaces.values()
    }

    /// The one that a namespace lies in.
    pub fn namespace(&self, namespace: &str) -> Option<&Arc<NamespaceCache>> {
        self.namespaces.get(&Some(namespace.to_owned())).or_else(|| self.namespaces.get(&None))
    }

    /// Waits until everything was listed once.
    pub async fn listed(&self) {
        for cached in self.namespaces() {
            cached.listed().await;
        }
    }

    /// Waits until something was listed, and of everything else it is known that the API server refuses to show it.
    pub async fn answered(&self) {
        future::select_all(self.namespaces().map(|cached| Box::pin(cached.listed()))).await;
        for cached in self.namespaces() {
            cached.answered().await;
        }
    }

    /// A pipeline.
    pub fn pipeline(&self, pipeline: &ObjectRef<TracePipeline>) -> Option<Arc<TracePipeline>> {
        self.namespace(pipeline.namespace.as_deref().unwrap_or_default())?.pipelines.get(pipeline)
    }

    /// The first pipeline that is as it should be.
    pub fn find_pipeline(&self, wanted: impl Fn(&TracePipeline) -> bool) -> Option<Arc<TracePipeline>> {
        self.namespaces().find_map(|cached| cached.pipelines.find(&wanted))
    }

    /// How many pipelines there are.
    pub fn count(&self) -> usize {
        self.namespaces().map(|cached| cached.pipelines.len()).sum()
    }

    /// The consumers of all pipelines; those of namespaces that are not listed are not known. What only carries their label is
    /// none of them.
    pub fn deployments(&self) -> Vec<Arc<KeptDeployment>> {
        let children = |cached: &Arc<NamespaceCache>| {
            let mut all = cached.deployments.all();
            all.retain(|one| one.standing.is_of_one(|pipeline| cached.pipelines.get(pipeline)?.uid()));
            all
        };
        self.namespaces().flat_map(children).collect()
    }

    /// Takes in a ConfigMap that was written over `old`, before the watch tells of it: who looks next must not
    /// write over a version that is gone.
    pub fn wrote(&self, pipeline: &str, old: &ConfigMap, new: ConfigMap) {
        let namespace = new.namespace().unwrap_or_default();
        let Some(cached) = self.namespace(&namespace) else { return };
        cached.config_maps.replace(&namespace, pipeline, Text::keep(new), |kept| {
            kept.read().is_some_and(|kept| kept.metadata.resource_version == old.metadata.resource_version)
        });
    }
}

#[cfg(test)]
impl Cache {
    /// Of one for all namespaces, with these in it.
    pub fn of(
        pipelines: Vec<TracePipeline>,
        deployments: Vec<Deployment>,
        config_maps: Vec<ConfigMap>,
    ) -> Self {
        Self {
            namespaces: [(None, Arc::new(NamespaceCache::of(pipelines, deployments, config_maps)))].into(),
        }
    }
}
