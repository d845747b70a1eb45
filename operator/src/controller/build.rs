//! From a valid pipeline to its children; no client, no clock.
//!
//! Builders name every field that they mean and no other: what the API server fills in is not ours, so that
//! comparing what is with what should be ([`contains`]) finds drift and nothing else.

pub mod deployment;
mod network;
mod quantity;
mod rbac;
mod settings;

use std::collections::BTreeMap;

use k8s_openapi::api::apps::v1::Deployment;
use k8s_openapi::api::core::v1::{ConfigMap, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use kube::core::DynamicObject;
use serde_json::Value;
use sluice_crds::names;

use super::validate::{Owner, Valid};
use crate::options::Options;
pub use network::pod_monitor_kind;
pub use rbac::also_to;
pub use settings::settings_name;

/// Everything that belongs to a pipeline but the live ConfigMap, whose content depends on what is there.
#[derive(Clone, Debug)]
pub struct Children {
    /// The settings document, immutable.
    pub settings: ConfigMap,
    /// None where the pipeline names one of the user's.
    pub service_account: Option<ServiceAccount>,
    /// The right to read the live ConfigMap.
    pub role: Role,
    /// Gives it to the service account.
    pub role_binding: RoleBinding,
    /// Names the pods.
    pub service: Service,
    /// One pod at a time.
    pub disruption_budget: PodDisruptionBudget,
    /// Who may ask the pods.
    pub network_policy: NetworkPolicy,
    /// The consumers.
    pub deployment: Deployment,
    /// Only where its kind is installed.
    pub pod_monitor: Option<DynamicObject>,
}

/// Builds the children. `replicas` was decided before: by the spec or by the autoscaler.
///
/// # Errors
/// A document has no JSON form, or a part of the pod template is not what Kubernetes knows.
pub fn build(
    valid: &Valid,
    options: &Options,
    replicas: u32,
    with_pod_monitor: bool,
) -> Result<Children, BuildError> {
    Ok(Children {
        settings: settings::config_map(valid, options)?,
        service_account: rbac::service_account(valid, options),
        role: rbac::role(valid, options),
        role_binding: rbac::role_binding(valid, options),
        service: network::service(valid, options),
        disruption_budget: network::disruption_budget(valid, options),
        network_policy: network::network_policy(valid, options),
        deployment: deployment::deployment(valid, options, replicas)?,
        pod_monitor: with_pod_monitor.then(|| network::pod_monitor(valid, options)),
    })
}

/// Why children cannot be built.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A document has no JSON form.
    #[error(transparent)]
    Document(#[from] sluice_crds::wire::DocumentError),
    /// A part of the template does not fit Kubernetes' type.
    #[error("{field} does not fit Kubernetes' type")]
    Template {
        /// Which part.
        field: String,
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
    /// A part of the template has a member that Kubernetes' type does not have.
    #[error("{member}: Kubernetes knows no such field")]
    Unknown {
        /// Its path.
        member: String,
    },
    /// A part that is hashed or searched has no JSON form.
    #[error("{what} has no JSON form")]
    Json {
        /// Which part.
        what: &'static str,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
    /// More replicas than Kubernetes can count.
    #[error("expected at most {most} replicas, found {0}", most = i32::MAX)]
    Replicas(u32),
}

/// The name of everything that there is once.
fn consumer_name(valid: &Valid) -> String {
    names::consumer_name(&valid.owner.name)
}

/// The name of the live ConfigMap.
pub fn live_name(pipeline: &str) -> String {
    names::child(pipeline, "live")
}

/// Labels that choose the pods of a pipeline. They can never change: a Deployment's selector is immutable.
pub fn selector_labels(pipeline: &str) -> BTreeMap<String, String> {
    [(names::LABEL_PIPELINE, pipeline), (names::LABEL_ROLE, names::ROLE_CONSUMER)]
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into()
}

/// The same as the scale subresource wants it.
pub fn selector_text(pipeline: &str) -> String {
    let labels = selector_labels(pipeline);
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn selector(valid: &Valid) -> LabelSelector {
    LabelSelector { match_labels: Some(selector_labels(&valid.owner.name)), ..Default::default() }
}

/// Labels of every child: the pipeline's, and the operator's own, which win.
pub fn labels(owner: &Owner, options: &Options) -> BTreeMap<String, String> {
    let mut labels = owner.labels.clone();
    labels.extend(selector_labels(&owner.name));
    for (key, value) in [
        ("app.kubernetes.io/name", "sluice"),
        ("app.kubernetes.io/component", names::ROLE_CONSUMER),
        ("app.kubernetes.io/instance", &owner.name),
        ("app.kubernetes.io/managed-by", names::OPERATOR),
        (names::LABEL_INSTALLATION, &options.installation),
    ] {
        labels.insert(key.to_owned(), value.to_owned());
    }
    labels
}

/// Name, namespace, labels and owner of a child.
pub fn metadata(owner: &Owner, options: &Options, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(owner.namespace.clone()),
        labels: Some(labels(owner, options)),
        owner_references: Some(vec![owner.reference.clone()]),
        ..Default::default()
    }
}

/// Members whose own members people name.
const FREE: [&str; 4] = ["annotations", "labels", "matchLabels", "nodeSelector"];

/// Members that the API server does not store where they are false.
const FALSE_IF_ABSENT: [&str; 1] = ["paused"];

/// Members that choose objects: each member more chooses others.
const WHOLE: [&str; 5] = ["labelSelector", "matchLabels", "namespaceSelector", "podSelector", "selector"];

/// Members that say something though they are empty: what kind of volume it is.
const SAID_IF_EMPTY: [&str; 1] = ["emptyDir"];

/// Whether `actual` has everything that `desired` says. Objects may have more members, but for selectors; lists may not have
/// more items, because a list that we name is ours as a whole.
pub fn contains(actual: &Value, desired: &Value) -> bool {
    contains_in("", actual, desired)
}

/// As [`contains`], for the member of this name.
fn contains_in(name: &str, actual: &Value, desired: &Value) -> bool {
    let is_free = FREE.contains(&name);
    match (actual, desired) {
        (Value::Object(actual), Value::Object(desired))
            if WHOLE.contains(&name) && actual.keys().any(|key| !desired.contains_key(key)) =>
        {
            false
        }
        (Value::Object(actual), Value::Object(desired)) => desired.iter().all(|(key, value)| {
            // An empty list or map is stored as an absent one, and so is an empty text, but for one that has a free key.
            let empty = value.is_null()
                || (*value == Value::Bool(false) && FALSE_IF_ABSENT.contains(&key.as_str()))
                || (value.as_str().is_some_and(str::is_empty) && !is_free)
                || value.as_array().is_some_and(Vec::is_empty)
                || (value.as_object().is_some_and(serde_json::Map::is_empty)
                    && !SAID_IF_EMPTY.contains(&key.as_str()));
            actual.get(key).map_or(empty, |actual| contains_in(key, actual, value))
        }),
        (Value::Array(actual), Value::Array(desired)) => {
            actual.len() == desired.len()
                && actual.iter().zip(desired).all(|(actual, desired)| contains_in(name, actual, desired))
        }
        (actual, desired) => actual == desired,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::controller::example;
    use crate::controller::validate::validate;

    #[test]
    fn every_child_has_the_labels_of_the_template_that_are_labels_and_nothing_selects_by_them() {
        let mut pipeline = example::pipeline();
        let own = ["app.kubernetes.io/name", names::LABEL_PIPELINE, names::LABEL_SETTINGS];
        let theirs = [("example.com/cost-centre", "4711"), ("team", "")];
        let long = "x".repeat(64);
        let none = [
            ("two words", "a"),
            ("a", "two words"),
            ("b", &long),
            ("-c", "a"),
            ("d..e/f", "a"),
            ("D/g", "a"),
            ("/h", "a"),
            ("i/", "a"),
            ("j/k/l", "a"),
        ];
        let all = own.map(|key| (key, "mine")).into_iter().chain(theirs).chain(none);
        pipeline.spec.template.consumer.labels = all.map(|(key, value)| (key.into(), value.into())).collect();
        let options = example::options();
        let valid = validate(&pipeline, &Default::default(), &options).expect("it is valid");
        let built = build(&valid, &options, 1, true).expect("children");
        let before = build(&example::valid(), &options, 1, true).expect("children");
        assert_eq!(built.deployment.spec.selector, before.deployment.spec.selector);
        assert_eq!(built.service.spec, before.service.spec);
        assert_eq!(built.disruption_budget.spec, before.disruption_budget.spec);
        let monitor = |children: &Children| children.pod_monitor.as_ref().map(|monitor| monitor.data.clone());
        assert_eq!(monitor(&built), monitor(&before));
        let labels = |children: Children| {
            let account = children.service_account.expect("its own");
            let monitor = children.pod_monitor.expect("its kind is installed");
            [
                children.settings.metadata,
                account.metadata,
                children.role.metadata,
                children.role_binding.metadata,
                children.service.metadata,
                children.disruption_budget.metadata,
                children.network_policy.metadata,
                children.deployment.metadata,
                monitor.metadata,
            ]
            .map(|metadata| metadata.labels.expect("labels"))
        };
        let with_theirs = |mut labels: BTreeMap<String, String>| {
            labels.extend(theirs.map(|(key, value)| (key.to_owned(), value.to_owned())));
            labels
        };
        assert_eq!(labels(built), labels(before).map(with_theirs));
    }

    #[test]
    fn defaults_of_the_server_are_no_drift_and_every_other_difference_is() {
        let desired = json!({ "spec": { "replicas": 2, "list": [{ "a": 1, "text": "" }] }, "labels": {} });
        let selected = json!({ "nodeSelector": { "infra": "", "disk": "fast" } });
        assert!(!contains(&json!({ "nodeSelector": { "disk": "fast" } }), &selected));
        let with_defaults = json!({ "spec": { "replicas": 2, "more": 1, "list": [{ "a": 1, "b": 2 }] } });
        assert!(contains(&with_defaults, &desired));
        for drifted in [
            json!({ "spec": { "replicas": 3, "list": [{ "a": 1 }] } }),
            json!({ "spec": { "replicas": 2, "list": [{ "a": 2 }] } }),
            json!({ "spec": { "replicas": 2, "list": [{ "a": 1 }, { "a": 1 }] } }),
            json!({ "spec": { "replicas": 2, "list": [{ "a": 1, "text": "b" }] } }),
            json!({ "spec": { "list": [{ "a": 1 }] } }),
        ] {
            assert!(!contains(&drifted, &desired), "{drifted}");
        }
    }

    #[test]
    fn a_label_more_in_a_selector_is_drift_and_in_labels_it_is_none() {
        let labels = json!({ "a": "b" });
        let desired = json!({
            "labels": labels,
            "selector": labels,
            "podSelector": { "matchLabels": labels },
        });
        assert!(contains(&desired, &desired));
        for (changed, is_drift) in
            [("/labels", false), ("/selector", true), ("/podSelector/matchLabels", true)]
        {
            let mut actual = desired.clone();
            *actual.pointer_mut(changed).expect("a map") = json!({ "a": "b", "more": "" });
            assert_eq!(contains(&actual, &desired), !is_drift, "{changed}");
        }
        let mut actual = desired.clone();
        actual["podSelector"]["matchExpressions"] = json!([{ "key": "more", "operator": "Exists" }]);
        assert!(!contains(&actual, &desired));
    }

    #[test]
    fn another_kind_of_volume_is_drift() {
        let desired = json!([{ "name": "data", "emptyDir": {} }]);
        assert!(contains(&json!([{ "name": "data", "emptyDir": { "medium": "Memory" } }]), &desired));
        assert!(!contains(&json!([{ "name": "data", "hostPath": { "path": "/" } }]), &desired));
    }

    #[test]
    fn a_pause_is_drift_and_its_absence_is_none() {
        let desired = json!({ "paused": false, "other": false });
        assert!(contains(&json!({ "other": false }), &desired));
        for drifted in [json!({ "paused": true, "other": false }), json!({ "paused": false })] {
            assert!(!contains(&drifted, &desired), "{drifted}");
        }
    }
}
