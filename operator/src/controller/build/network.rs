//! How the pods are found, disturbed and asked.

use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::core::{ApiResource, DynamicObject, GroupVersionKind};
use serde_json::json;
use sluice_crds::names::{ADMIN_PORT, LABEL_PIPELINE, OPERATOR};

use super::{consumer_name, metadata, selector, selector_labels};
use crate::controller::validate::Valid;
use crate::options::Options;

/// Name of the admin port.
pub const ADMIN_PORT_NAME: &str = "admin";
/// Every namespace carries its name in this label.
const NAMESPACE_LABEL: &str = "kubernetes.io/metadata.name";

/// Headless: it gives the pods names and scrapers an address; nothing balances over it.
pub fn service(valid: &Valid, options: &Options) -> Service {
    Service {
        metadata: metadata(&valid.owner, options, consumer_name(valid)),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            // A consumer that cannot become ready is the one that must be asked why.
            publish_not_ready_addresses: Some(true),
            selector: Some(selector_labels(&valid.owner.name)),
            ports: Some(vec![ServicePort {
                name: Some(ADMIN_PORT_NAME.into()),
                port: i32::from(ADMIN_PORT),
                target_port: Some(IntOrString::String(ADMIN_PORT_NAME.into())),
                protocol: Some("TCP".into()),
                ..Default::default()
            }]),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A drained node takes one consumer at a time with it. One that is not ready does no work that an eviction could
/// disturb, and must not keep a node from being drained for as long as its database is away.
pub fn disruption_budget(valid: &Valid, options: &Options) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(&valid.owner, options, consumer_name(valid)),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(selector(valid)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// Only the operator and the configured scrapers may ask the pods; what they ask themselves is not limited,
/// because brokers and databases may be anywhere.
pub fn network_policy(valid: &Valid, options: &Options) -> NetworkPolicy {
    let in_namespace = |namespace: &str| LabelSelector {
        match_labels: Some([(NAMESPACE_LABEL.to_owned(), namespace.to_owned())].into()),
        ..Default::default()
    };
    let operator = NetworkPolicyPeer {
        namespace_selector: Some(in_namespace(&options.namespace)),
        pod_selector: Some(LabelSelector {
            match_labels: Some([("app.kubernetes.io/name".to_owned(), OPERATOR.to_owned())].into()),
            ..Default::default()
        }),
        ..Default::default()
    };
    let scrapers = options.scraper_namespaces.iter().map(|namespace| NetworkPolicyPeer {
        namespace_selector: Some(in_namespace(namespace)),
        ..Default::default()
    });
    NetworkPolicy {
        metadata: metadata(&valid.owner, options, consumer_name(valid)),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(selector(valid)),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(vec![NetworkPolicyIngressRule {
                from: Some(std::iter::once(operator).chain(scrapers).collect()),
                ports: Some(vec![NetworkPolicyPort {
                    port: Some(IntOrString::Int(i32::from(ADMIN_PORT))),
                    protocol: Some("TCP".into()),
                    ..Default::default()
                }]),
            }]),
            ..Default::default()
        }),
    }
}

/// The kind of the Prometheus operator.
pub fn pod_monitor_kind() -> ApiResource {
    ApiResource::from_gvk(&GroupVersionKind::gvk("monitoring.coreos.com", "v1", "PodMonitor"))
}

/// Scrapes the pods.
pub fn pod_monitor(valid: &Valid, options: &Options) -> DynamicObject {
    let mut monitor = DynamicObject::new(&consumer_name(valid), &pod_monitor_kind());
    monitor.metadata = metadata(&valid.owner, options, consumer_name(valid));
    monitor.data = json!({ "spec": {
        "selector": { "matchLabels": selector_labels(&valid.owner.name) },
        // Alerts name the pipeline.
        "podTargetLabels": [LABEL_PIPELINE],
        "podMetricsEndpoints": [{ "port": ADMIN_PORT_NAME, "path": "/metrics" }],
    } });
    monitor
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::example;

    /// What the policy says, for an installation in `sluice-system`.
    fn admits(scrapers: &[&str]) -> serde_json::Value {
        let scraper_namespaces = scrapers.iter().map(|name| (*name).to_owned()).collect();
        let namespace = "sluice-system".to_owned();
        let options = Options { namespace, scraper_namespaces, ..example::options() };
        let policy = network_policy(&example::valid(), &options);
        assert_eq!(policy.metadata.name.as_deref(), Some("traces-consumer"));
        assert_eq!(policy.metadata.namespace.as_deref(), Some("shop"));
        serde_json::to_value(policy.spec).expect("JSON")
    }

    /// The whole of it, so that nothing else is admitted.
    fn with_peers(from: serde_json::Value) -> serde_json::Value {
        json!({
            "podSelector": {
                "matchLabels": { "sluice.dev/pipeline": "traces", "sluice.dev/role": "consumer" },
            },
            "policyTypes": ["Ingress"],
            "ingress": [{ "from": from, "ports": [{ "port": 9464, "protocol": "TCP" }] }],
        })
    }

    fn namespace(name: &str) -> serde_json::Value {
        json!({ "matchLabels": { "kubernetes.io/metadata.name": name } })
    }

    #[test]
    fn only_the_operator_and_the_namespaces_of_scrapers_may_ask_the_consumers_and_at_one_port() {
        let operator = json!({
            "namespaceSelector": namespace("sluice-system"),
            "podSelector": { "matchLabels": { "app.kubernetes.io/name": "sluice-operator" } },
        });
        // Never an empty list, which admits everybody.
        assert_eq!(admits(&[]), with_peers(json!([operator])));
        let scrapers = ["monitoring", "team-a"].map(|name| json!({ "namespaceSelector": namespace(name) }));
        let [one, two] = &scrapers;
        assert_eq!(admits(&["monitoring", "team-a"]), with_peers(json!([operator, one, two])));
    }

    #[test]
    fn consumers_that_are_not_ready_hold_up_no_drain() {
        let budget = disruption_budget(&example::valid(), &example::options()).spec.expect("a spec");
        assert_eq!(budget.max_unavailable, Some(IntOrString::Int(1)));
        assert_eq!(budget.unhealthy_pod_eviction_policy.as_deref(), Some("AlwaysAllow"));
    }
}
