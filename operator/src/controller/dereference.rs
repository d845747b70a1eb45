//! What is there already, from memory: no request is made.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::runtime::reflector::ObjectRef;
use kube::{Resource, ResourceExt};
use sluice_crds::names;
use sluice_crds::v1alpha1::TracePipeline;

use super::apply::Newest;
use super::build::live_name;
use super::rivals::rival;
use crate::watch::{Cache, Kept, KeptPod};

/// A pod that has not gone so long after its grace period counts as one that stays: nobody ends it on a node that is lost,
/// and its consumer may run on.
const OVERDUE: SignedDuration = SignedDuration::from_secs(10);

/// A consumer that can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodAddress {
    /// Name of the pod.
    pub name: String,
    /// Its address, once it has one and for as long as it is its own.
    pub ip: Option<String>,
}

/// The children of a pipeline as they are.
#[derive(Default)]
pub struct Found {
    /// The live ConfigMap.
    pub live: Option<Arc<ConfigMap>>,
    /// Every settings ConfigMap, old ones too.
    pub settings: Vec<Arc<ConfigMap>>,
    pub deployment: Option<Arc<Deployment>>,
    pub service: Option<Arc<Service>>,
    pub service_account: Option<Arc<ServiceAccount>>,
    pub role: Option<Arc<Role>>,
    pub role_binding: Option<Arc<RoleBinding>>,
    pub disruption_budget: Option<Arc<PodDisruptionBudget>>,
    pub network_policy: Option<Arc<NetworkPolicy>>,
    /// Hashes of the settings that a ReplicaSet names, or the Deployment, whose ReplicaSet may not be there yet.
    pub settings_in_use: BTreeSet<String>,
    /// The Deployment's own pods that are not on their way out, or should have gone, and whose consumers run.
    pub pods: Vec<PodAddress>,
    /// Names of those of `pods` whose template is not the newest.
    pub older: Vec<String>,
    /// Names of those whose consumers do not.
    pub idle: Vec<String>,
    /// When the next of those that are on their way out should have gone.
    pub next_overdue: Option<Duration>,
    /// Whether pods of the newest template have a node.
    pub newest: Newest,
    /// The service accounts that its pods run as, those on their way out too, and that it makes pods for.
    pub accounts: BTreeSet<String>,
    /// A pipeline with the same topic and group that came first.
    pub rival: Option<ObjectRef<TracePipeline>>,
}

impl Found {
    /// The first child of another installation: its kind and name, and whose it is.
    pub fn foreign_child(&self, installation: &str) -> Option<(String, String)> {
        fn foreign<K: Resource<DynamicType = ()>>(
            object: Option<&Arc<K>>,
            installation: &str,
        ) -> Option<(String, String)> {
            let object = object?;
            let whose = other_installation(&**object, installation)?;
            Some((format!("{} {}", K::kind(&()), object.name_any()), whose.to_owned()))
        }
        foreign(self.deployment.as_ref(), installation)
            .or_else(|| foreign(self.live.as_ref(), installation))
            .or_else(|| self.settings.iter().find_map(|settings| foreign(Some(settings), installation)))
            .or_else(|| foreign(self.service.as_ref(), installation))
            .or_else(|| foreign(self.role.as_ref(), installation))
    }
}

/// The installation that an object says it belongs to, where it is another one.
pub fn other_installation<'a>(object: &'a impl ResourceExt, installation: &str) -> Option<&'a str> {
    #[cfg(feature = "planted")]
    if crate::planted::is(crate::planted::Bug::IgnoreInstallation) {
        return None;
    }
    let whose = object.labels().get(names::LABEL_INSTALLATION)?;
    (whose != installation).then_some(whose)
}

/// Gathers what belongs to a pipeline.
pub fn dereference(cache: &Cache, pipeline: &TracePipeline) -> Found {
    let (namespace, name) = (pipeline.namespace().unwrap_or_default(), pipeline.name_any());
    let Some(cached) = cache.namespace(&namespace) else { return Found::default() };
    let consumer = names::consumer_name(&name);
    let settings = cached
        .config_maps
        .of_pipeline(&namespace, &name)
        .iter()
        .filter_map(|map| map.read())
        .filter(|map| map.labels().contains_key(names::LABEL_SETTINGS))
        .collect();
    let deployment = cached.deployments.get(&namespace, &name, &consumer).and_then(|kept| kept.read());
    let uid = deployment.as_ref().and_then(|deployment| deployment.uid());
    let replica_sets = cached.replica_sets.of_pipeline(&namespace, &name);
    let settings_in_use = replica_sets
        .iter()
        .filter_map(|replica_set| replica_set.settings.as_deref().map(Into::into))
        .chain(deployment.as_deref().and_then(settings_of))
        .collect();
    let own_replica_sets: BTreeMap<&str, u64> = replica_sets
        .iter()
        .filter(|replica_set| uid.is_some() && replica_set.owner.as_deref() == uid.as_deref())
        .map(|replica_set| (&*replica_set.uid, replica_set.rollout))
        .collect();
    let Consumers { pods, older, idle, next_overdue, newest, mut accounts } =
        consumers(&cached.pods.of_pipeline(&namespace, &name), &own_replica_sets, Timestamp::now());
    accounts.extend(deployment.as_deref().and_then(account_of));
    Found {
        live: cached.config_maps.object(&namespace, &name, &live_name(&name)),
        settings,
        deployment,
        service: cached.services.object(&namespace, &name, &consumer),
        service_account: cached.service_accounts.object(&namespace, &name, &consumer),
        role: cached.roles.object(&namespace, &name, &consumer),
        role_binding: cached.role_bindings.object(&namespace, &name, &consumer),
        disruption_budget: cached.disruption_budgets.object(&namespace, &name, &consumer),
        network_policy: cached.network_policies.object(&namespace, &name, &consumer),
        settings_in_use,
        pods,
        older,
        idle,
        next_overdue,
        newest,
        accounts,
        rival: rival(cache, pipeline),
    }
}

/// See the members of [`Found`].
struct Consumers {
    pods: Vec<PodAddress>,
    older: Vec<String>,
    idle: Vec<String>,
    next_overdue: Option<Duration>,
    newest: Newest,
    accounts: BTreeSet<String>,
}

/// Tells the pods of these ReplicaSets, each with the number of its rollout.
fn consumers(pods: &[Arc<KeptPod>], replica_sets: &BTreeMap<&str, u64>, now: Timestamp) -> Consumers {
    let rollout = |pod: &KeptPod| replica_sets.get(pod.owner.as_deref()?);
    let own = pods.iter().filter(|pod| rollout(pod).is_some());
    let accounts = own.clone().filter_map(|pod| pod.account.as_deref().map(Into::into)).collect();
    let own = own.filter(|pod| !pod.ended);
    let left = |pod: &KeptPod| Some(pod.leaves_by?.duration_since(now) + OVERDUE);
    let next_overdue =
        own.clone().filter_map(|pod| left(pod)?.try_into().ok()).filter(|left| *left > Duration::ZERO).min();
    let own = own.filter(|pod| left(pod).is_none_or(|left| left <= SignedDuration::ZERO));
    let newest = replica_sets.values().max();
    let mut of_newest = own.clone().filter(|pod| rollout(pod) == newest).map(|pod| pod.unplaced).peekable();
    let is_there = of_newest.peek().is_some();
    let of_newest = match of_newest.all(|unplaced| unplaced) {
        true if is_there => Newest::Unplaced,
        true => Newest::Missing,
        false => Newest::Placed,
    };
    let (running, idle): (Vec<_>, Vec<_>) = own.partition(|pod| pod.runs);
    let names = |pods: Vec<&Arc<KeptPod>>| pods.into_iter().map(|pod| pod.name().to_owned()).collect();
    let older = running.iter().copied().filter(|pod| rollout(pod) < newest).collect();
    // That of a pod on a lost node is given out again: one consumer must not be heard for two.
    let is_its_own = |pod: &KeptPod| {
        let mut others = running.iter().filter(|other| other.name() != pod.name());
        pod.leaves_by.is_none() || others.all(|other| other.ip != pod.ip)
    };
    let address = |pod: &Arc<KeptPod>| PodAddress {
        name: pod.name().to_owned(),
        ip: pod.ip.as_deref().filter(|_| is_its_own(pod)).map(Into::into),
    };
    let mut pods: Vec<_> = running.iter().copied().map(address).collect();
    pods.sort_by(|left, right| left.name.cmp(&right.name));
    Consumers { pods, older: names(older), idle: names(idle), next_overdue, newest: of_newest, accounts }
}

/// The service account that a Deployment's pods run as.
fn account_of(deployment: &Deployment) -> Option<String> {
    deployment.spec.template.spec.as_ref()?.service_account_name.clone()
}

/// Hash of the settings that a Deployment's pods name.
pub fn settings_of(deployment: &Deployment) -> Option<String> {
    let template = deployment.spec.template.metadata.as_ref()?;
    template.labels.as_ref()?.get(names::LABEL_SETTINGS).cloned()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(name: &str, owner: &str, status: &Value) -> Arc<KeptPod> {
        Arc::new(KeptPod::keep(serde_json::from_value(text(name, owner, status)).expect("a pod")))
    }

    fn text(name: &str, owner: &str, status: &Value) -> Value {
        let owner = json!({
            "apiVersion": "apps/v1", "kind": "ReplicaSet", "name": owner, "uid": owner, "controller": true,
        });
        json!({ "metadata": { "name": name, "ownerReferences": [owner] }, "status": status })
    }

    #[test]
    fn a_pod_whose_container_waits_has_no_consumer_to_ask() {
        let with = |phase: &str, state: &Value| {
            let containers = ["sidecar", "consumer"].map(|name| {
                let state = if name == "consumer" { state.clone() } else { json!({ "running": {} }) };
                json!({ "name": name, "state": state, "image": "", "imageID": "", "ready": false, "restartCount": 0 })
            });
            json!({ "phase": phase, "containerStatuses": containers })
        };
        let pods = [
            pod("runs", "r", &with("Running", &json!({ "running": {} }))),
            pod("has-just-ended", "r", &with("Running", &json!({ "terminated": { "exitCode": 137 } }))),
            pod("says-its-phase-only", "r", &json!({ "phase": "Running" })),
            pod("has-no-node", "r", &json!({ "phase": "Pending" })),
            pod(
                "has-no-image",
                "r",
                &with("Pending", &json!({ "waiting": { "reason": "ImagePullBackOff" } })),
            ),
            pod("crashes", "r", &with("Running", &json!({ "waiting": { "reason": "CrashLoopBackOff" } }))),
        ];
        let found = consumers(&pods, &[("r", 1)].into(), Timestamp::now());
        let running: Vec<_> = found.pods.into_iter().map(|pod| pod.name).collect();
        assert_eq!(running, ["has-just-ended", "runs", "says-its-phase-only"]);
        assert_eq!(found.idle, ["has-no-node", "has-no-image", "crashes"]);
    }

    #[test]
    fn the_newest_template_has_shown_nothing_before_one_of_its_pods_has_a_node() {
        let of = |name: &str, owner: &str, scheduled: &str| {
            let condition = json!({ "type": "PodScheduled", "status": scheduled });
            pod(name, owner, &json!({ "phase": "Pending", "conditions": [condition] }))
        };
        let newest =
            |pods: &[Arc<KeptPod>]| consumers(pods, &[("a", 1), ("b", 2)].into(), Timestamp::now()).newest;
        let old = of("old", "a", "True");
        let (waits, placed) = (of("waits", "b", "False"), of("placed", "b", "True"));
        assert_eq!(newest(std::slice::from_ref(&old)), Newest::Missing);
        assert_eq!(newest(&[old.clone(), waits.clone()]), Newest::Unplaced);
        assert_eq!(newest(&[old, waits, placed]), Newest::Placed);
        assert_eq!(
            newest(&[pod("new", "b", &json!({ "phase": "Pending" }))]),
            Newest::Placed,
            "nobody says so"
        );
    }

    #[test]
    fn nobody_else_is_asked_at_the_former_address_of_a_pod_that_should_have_gone() {
        let of = |name: &str, ip: &str, leaves: bool| {
            let mut pod = text(name, "a", &json!({ "phase": "Running", "podIP": ip }));
            if leaves {
                pod["metadata"]["deletionTimestamp"] = "2020-01-01T00:00:00Z".into();
            }
            Arc::new(KeptPod::keep(serde_json::from_value(pod).expect("a pod")))
        };
        let (lost, alone) = (of("lost", "10.0.0.1", true), of("alone", "10.0.0.2", true));
        let found =
            consumers(&[lost, alone, of("new", "10.0.0.1", false)], &[("a", 1)].into(), Timestamp::now());
        let asked: Vec<_> = found.pods.iter().map(|pod| (&*pod.name, pod.ip.as_deref())).collect();
        assert_eq!(asked, [("alone", Some("10.0.0.2")), ("lost", None), ("new", Some("10.0.0.1"))]);
    }

    #[test]
    fn accounts_of_own_pods_count_until_the_last_one_has_gone() {
        let of = |name: &str, owner: &str, leaves_by| {
            let mut kept =
                KeptPod::keep(serde_json::from_value(text(name, owner, &json!({}))).expect("a pod"));
            (kept.account, kept.leaves_by) = (Some(name.into()), leaves_by);
            Arc::new(kept)
        };
        let now = Timestamp::now();
        let pods = [of("stays", "a", None), of("leaves", "a", Some(now)), of("strange", "c", None)];
        assert!(consumers(&pods, &[("a", 1)].into(), now).accounts.iter().eq(["leaves", "stays"]));
    }

    #[test]
    fn a_pod_that_nobody_ends_counts_again_once_it_is_overdue() {
        let by: Timestamp = "2030-01-01T00:00:30Z".parse().expect("a time");
        let of = |phase: &str| {
            let mut pod = text("lost", "a", &json!({ "phase": phase }));
            pod["metadata"]["deletionTimestamp"] = by.to_string().into();
            Arc::new(KeptPod::keep(serde_json::from_value(pod).expect("a pod")))
        };
        let at = |phase, seconds| {
            let now = by + SignedDuration::from_secs(seconds);
            let found = consumers(&[of(phase)], &[("a", 1)].into(), now);
            (found.pods.len(), found.next_overdue.map(|left| left.as_secs()))
        };
        assert_eq!(at("Running", -30), (0, Some(40)), "it is looked at again then");
        assert_eq!(at("Running", 0), (0, Some(10)));
        assert_eq!(at("Running", 10), (1, None));
        assert_eq!(at("Running", 3_600), (1, None));
        assert_eq!(at("Succeeded", 3_600), (0, None));
    }

    #[test]
    fn pods_of_earlier_rollouts_are_the_older_ones() {
        let running = json!({ "phase": "Running" });
        let pods = [pod("new", "b", &running), pod("old", "a", &running), pod("other", "c", &running)];
        let older =
            |first, second| consumers(&pods, &[("a", first), ("b", second)].into(), Timestamp::now()).older;
        assert_eq!(older(1, 2), ["old"]);
        assert_eq!(older(3, 2), ["new"], "it was rolled back");
        assert_eq!(older(1, 1), Vec::<String>::new());
    }
}
