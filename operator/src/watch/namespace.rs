//! What is known of one namespace, or of all of them at once, and whether everything in it was listed.
//!
//! Guarantees: a list or watch that fails is tried again every [`PAUSE`]; a kind that the API server refuses to show, or does not
//! for a minute, counts as not listed from then on, until it was listed anew. No object makes the list or watch fail in which it is ([`lenient`]).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{BoxStream, Stream, StreamExt, iter, unfold};
#[cfg(test)]
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::api::Api;
use kube::core::NamespaceResourceScope;
use kube::runtime::reflector::Store;
use kube::runtime::utils::Backoff;
use kube::runtime::watcher::Event;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Client, Resource};
use serde::de::DeserializeOwned;
use sluice_crds::names;
use sluice_crds::v1alpha1::TracePipeline;
use tokio::sync::watch;

use super::child_store::{ChildStore, ChildWriter};
use super::failures::WatchFailures;
use super::kept::{Kept, KeptDeployment, KeptPod, KeptReplicaSet, Text};
use super::lenient::{self, Lenient};
use super::pipelines::PipelineWriter;
use super::{Change, Trigger};

/// After this many seconds a watch is begun again where it stopped, so that a connection that died in silence
/// hides nothing for longer. The default of five minutes would be that long an outage of every live edit.
pub(super) const WATCH_SECONDS: u32 = 20;

/// Objects in one answer to a list: a page is in memory twice, as text and as objects.
const PAGE: u32 = 100;

/// Between two tries of a list or watch that fails. One that is refused for ever costs a request of each kind so often;
/// after an outage of the API server no edit waits for longer.
const PAUSE: Duration = Duration::from_secs(2);

/// Kinds of which there is no complete list yet, or none any more, and whether the API server does not show them.
type Unlisted = watch::Sender<BTreeMap<String, bool>>;

/// Everything that is watched in it.
pub struct NamespaceCache {
    /// None where it is all namespaces.
    pub namespace: Option<String>,
    /// The pipelines.
    pub pipelines: Store<TracePipeline>,
    /// Settings and live documents.
    pub config_maps: Arc<ChildStore<Text<ConfigMap>>>,
    /// Consumers.
    pub deployments: Arc<ChildStore<KeptDeployment>>,
    /// Which settings are in use.
    pub replica_sets: Arc<ChildStore<KeptReplicaSet>>,
    /// Where to ask.
    pub pods: Arc<ChildStore<KeptPod>>,
    pub services: Arc<ChildStore<Text<Service>>>,
    pub service_accounts: Arc<ChildStore<Text<ServiceAccount>>>,
    pub roles: Arc<ChildStore<Text<Role>>>,
    pub role_bindings: Arc<ChildStore<Text<RoleBinding>>>,
    pub disruption_budgets: Arc<ChildStore<Text<PodDisruptionBudget>>>,
    pub network_policies: Arc<ChildStore<Text<NetworkPolicy>>>,
    unlisted: Unlisted,
}

impl NamespaceCache {
    /// Begins to watch; nothing arrives until the streams are polled.
    pub(super) fn watch(
        client: &Client,
        namespace: Option<String>,
    ) -> (Self, Vec<BoxStream<'static, Trigger>>) {
        let unlisted = Unlisted::new(BTreeMap::new());
        let mut watches = Watches { client, namespace: namespace.as_deref(), unlisted, triggers: Vec::new() };
        let cached = Self {
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
            unlisted: watches.unlisted.clone(),
            namespace: namespace.clone(),
        };
        (cached, watches.triggers)
    }

    /// Waits until everything in it is listed. Before that nothing in it can be judged: what is not there yet may
    /// only be unknown.
    pub async fn listed(&self) {
        // The sender is here.
        let _ = self.unlisted.subscribe().wait_for(BTreeMap::is_empty).await;
    }

    /// Waits until what is not listed is lost.
    pub async fn answered(&self) {
        // As above.
        let _ = self.unlisted.subscribe().wait_for(|kinds| kinds.values().all(|lost| *lost)).await;
    }

    /// Waits until the API server does not show something of it: a right was taken away, or the kind, or it fails for long.
    pub async fn lost(&self) {
        // As above.
        let _ = self.unlisted.subscribe().wait_for(|kinds| !kinds.is_empty()).await;
    }

    /// Whether it is.
    pub fn is_listed(&self) -> bool {
        self.unlisted.borrow().is_empty()
    }

    /// Of which kinds there is no complete list.
    pub fn unlisted(&self) -> Vec<String> {
        self.unlisted.borrow().keys().cloned().collect()
    }
}

#[cfg(test)]
impl NamespaceCache {
    /// Of all namespaces, in which there are these.
    pub(super) fn of(
        pipelines: Vec<TracePipeline>,
        deployments: Vec<Deployment>,
        config_maps: Vec<ConfigMap>,
    ) -> Self {
        let (store, mut writer) = PipelineWriter::new();
        let listed = pipelines.into_iter().map(Event::InitApply);
        let listed = std::iter::once(Event::Init).chain(listed).chain([Event::InitDone]);
        listed.for_each(|event| drop(writer.take(event)));
        Self {
            namespace: None,
            pipelines: store,
            config_maps: ChildStore::of(config_maps),
            deployments: ChildStore::of(deployments),
            replica_sets: Arc::default(),
            pods: Arc::default(),
            services: Arc::default(),
            service_accounts: Arc::default(),
            roles: Arc::default(),
            role_bindings: Arc::default(),
            disruption_budgets: Arc::default(),
            network_policies: Arc::default(),
            unlisted: Unlisted::default(),
        }
    }
}

struct Watches<'a> {
    client: &'a Client,
    namespace: Option<&'a str>,
    unlisted: Unlisted,
    triggers: Vec<BoxStream<'static, Trigger>>,
}

impl Watches<'_> {
    fn pipelines(&mut self) -> Store<TracePipeline> {
        let (store, mut writer) = PipelineWriter::new();
        self.begin(watcher::Config::default(), move |event| writer.take(lenient::pipelines(event)));
        store
    }

    /// Only what carries the label of a pipeline.
    fn children<T: Kept>(&mut self) -> Arc<ChildStore<T>> {
        let store = Arc::new(ChildStore::default());
        let mut writer = ChildWriter::<T>::new(store.clone());
        let ours = watcher::Config::default().labels(names::LABEL_PIPELINE);
        let mut readable = lenient::Children::default();
        self.begin(ours, move |event| {
            let changed = readable.take(event).map(|event| writer.take(event));
            changed.into_iter().flatten().map(Change::Child).collect()
        });
        store
    }

    /// Passes events on to what keeps them, and what has changed with that to whoever polls.
    fn begin<K>(
        &mut self,
        config: watcher::Config,
        mut take: impl FnMut(Event<Lenient<K>>) -> Vec<Change> + Send + 'static,
    ) where
        K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>
            + Clone
            + Debug
            + DeserializeOwned
            + Send
            + 'static,
    {
        let api: Api<Lenient<K>> = match self.namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        };
        let (kind, unlisted) = (K::kind(&()).into_owned(), self.unlisted.clone());
        unlisted.send_modify(|kinds| {
            kinds.insert(kind.clone(), false);
        });
        let failures = WatchFailures::new(self.namespace.map(str::to_owned), kind.clone());
        let events = relisting(api, config.timeout(WATCH_SECONDS).page_size(PAGE), failures).backoff(Steady);
        let triggers = events.flat_map(move |event| {
            let changes: Vec<Trigger> = match event {
                Ok(event) => {
                    let is_complete = matches!(event, Event::InitDone);
                    let changes = take(event);
                    if is_complete {
                        unlisted.send_if_modified(|kinds| kinds.remove(&kind).is_some());
                    }
                    changes.into_iter().map(Ok).collect()
                }
                Err(Failure { error, is_lost }) => {
                    if is_lost {
                        unlisted.send_if_modified(|kinds| kinds.insert(kind.clone(), true) != Some(true));
                    }
                    vec![Err(error)]
                }
            };
            iter(changes)
        });
        self.triggers.push(triggers.boxed());
    }
}

/// [`PAUSE`], always. A pause that grows would begin anew at each try: the beginning of a list is told before its request,
/// and looks like a success.
struct Steady;

impl Iterator for Steady {
    type Item = Duration;

    fn next(&mut self) -> Option<Duration> {
        Some(PAUSE)
    }
}

impl Backoff for Steady {
    fn reset(&mut self) {}
}

/// Why a watch has stopped for now.
struct Failure {
    error: watcher::Error,
    /// Whether what it watches is not seen any more.
    is_lost: bool,
}

/// Watches, logs failures, and lists anew after a loss: a watch that goes on where it was does not tell that it does.
fn relisting<K>(
    api: Api<K>,
    config: watcher::Config,
    failures: WatchFailures,
) -> impl Stream<Item = Result<Event<K>, Failure>> + Send + 'static
where
    K: Resource + Clone + Debug + DeserializeOwned + Send + 'static,
{
    unfold((None, failures), move |(watch, mut failures)| {
        let mut watch: BoxStream<'static, _> =
            watch.unwrap_or_else(|| watcher(api.clone(), config.clone()).boxed());
        async move {
            let event = match watch.next().await? {
                Ok(event) => {
                    // The beginning of a list is told before its request.
                    if !matches!(event, Event::Init | Event::InitApply(_)) {
                        failures.is_over();
                    }
                    Ok(event)
                }
                Err(error) => {
                    failures.tell(&error);
                    Err(Failure { is_lost: failures.is_lost(&error), error })
                }
            };
            let goes_on = !event.as_ref().is_err_and(|failure| failure.is_lost);
            Some((event, (goes_on.then_some(watch), failures)))
        }
    })
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::future::ready;
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicBool, Ordering};

    use serde_json::{Value, json};

    use super::*;
    use crate::controller::example;

    #[tokio::test(start_paused = true)]
    async fn a_namespace_that_cannot_be_listed_is_asked_for_every_two_seconds() {
        let asked = Arc::new(Mutex::new(HashMap::<String, usize>::new()));
        let counts = asked.clone();
        let client = example::client_of(move |request| {
            let mut counts = counts.lock().expect("nobody panics with it");
            *counts.entry(request.uri().path().to_owned()).or_default() += 1;
            ready((403, example::refusal(403, "Forbidden")))
        });
        let (cached, watches) = NamespaceCache::watch(&client, Some("shop".into()));
        let all = futures_util::stream::select_all(watches).for_each(|trigger| {
            assert!(trigger.is_err());
            ready(())
        });
        let ten_minutes = tokio::time::timeout(Duration::from_secs(600), all).await;
        assert!(ten_minutes.is_err(), "it goes on for ever");
        let asked = asked.lock().expect("nobody panics with it");
        assert_eq!(asked.len(), cached.unlisted().len());
        assert!(asked.values().all(|tries| (290..=310).contains(tries)), "{asked:?}");
    }

    /// Answers as an API server with nothing in it, to a request for Roles with this code.
    fn with_roles(code: impl Fn() -> u16 + Send + 'static) -> Client {
        example::client_of(move |request| {
            let is_watch = request.uri().query().is_some_and(|query| query.contains("watch=true"));
            let code = if request.uri().path().ends_with("/roles") { code() } else { 200 };
            async move {
                if code != 200 {
                    return (code, example::refusal(code, "InternalError"));
                }
                if is_watch {
                    tokio::time::sleep(Duration::from_secs(WATCH_SECONDS.into())).await;
                    return (200, Value::Null);
                }
                (200, json!({ "metadata": { "resourceVersion": "1" }, "items": [] }))
            }
        })
    }

    #[tokio::test(start_paused = true)]
    async fn what_fails_for_a_minute_counts_as_not_listed_until_it_is_listed_anew() {
        let fails = Arc::new(AtomicBool::new(false));
        let failing = fails.clone();
        let code = move || if failing.load(Ordering::Relaxed) { 500 } else { 200 };
        let client = with_roles(code);
        let (cached, watches) = NamespaceCache::watch(&client, Some("shop".into()));
        let story = async {
            cached.listed().await;
            tokio::time::sleep(Duration::from_secs(600)).await;
            assert!(cached.is_listed());
            fails.store(true, Ordering::Relaxed);
            let began = tokio::time::Instant::now();
            cached.lost().await;
            let took = began.elapsed().as_secs();
            assert!((60..=60 + u64::from(WATCH_SECONDS) + 2).contains(&took), "{took}");
            assert_eq!(cached.unlisted(), ["Role"]);
            tokio::time::sleep(Duration::from_secs(600)).await;
            assert!(!cached.is_listed());
            fails.store(false, Ordering::Relaxed);
            cached.listed().await;
        };
        tokio::select! {
            () = story => {}
            () = futures_util::stream::select_all(watches).for_each(|_| ready(())) => unreachable!("they have no end"),
        }
    }
}
