//! The Deployment of the consumers.

use std::collections::{BTreeMap, BTreeSet};

use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{
    Capabilities, ConfigMapVolumeSource, Container, ContainerPort, EmptyDirVolumeSource, HTTPGetAction,
    KeyToPath, LocalObjectReference, PersistentVolumeClaimVolumeSource, PodSecurityContext, PodSpec,
    PodTemplateSpec, Probe, ProjectedVolumeSource, ResourceRequirements, SeccompProfile, SecretProjection,
    SecurityContext, TopologySpreadConstraint, Volume, VolumeMount, VolumeProjection,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sluice_crds::names;
use sluice_crds::v1alpha1::{Resources, SecretKeyRef};

use super::network::ADMIN_PORT_NAME;
use super::quantity::canonical;
use super::{BuildError, consumer_name, labels, live_name, metadata, rbac, selector, settings};
use crate::controller::validate::Valid;
use crate::options::Options;

const SETTINGS_DIR: &str = "/etc/sluice/settings";
const LIVE_DIR: &str = "/etc/sluice/live";
const SECRETS_DIR: &str = "/etc/sluice/secrets";
const DATA_DIR: &str = "/var/lib/sluice";
/// The image's user, without a name or a home; also the group of the data volume.
const USER: i64 = 65532;
/// Time for the last transaction and for leaving the group; Kubernetes' own default, said because it is relied on.
const GRACE_SECONDS: i64 = 30;
/// Old ReplicaSets kept, and with them their settings: enough for `kubectl rollout undo`.
const KEPT_REVISIONS: i32 = 2;
/// A rollout that moves nothing for this long has failed.
const PROGRESS_DEADLINE_SECONDS: i32 = 300;
/// Measured use is 65 to 75 MiB (docs/performance.md); the rest is room for large messages, which take up to 64 MiB more
/// than their own length in each of four lanes.
const DEFAULT_MEMORY: (&str, &str) = ("128Mi", "384Mi");
const DEFAULT_CPU_REQUEST: &str = "100m";

/// Builds the Deployment.
///
/// # Errors
/// A part of the template does not fit Kubernetes' type, or something has no JSON form.
pub fn deployment(valid: &Valid, options: &Options, replicas: u32) -> Result<Deployment, BuildError> {
    let template = pod_template(valid, options)?;
    #[cfg(feature = "planted")]
    let template = planted(template, valid);
    let mut metadata = metadata(&valid.owner, options, consumer_name(valid));
    let hashes = [
        (names::ANNOTATION_TEMPLATE_HASH, hash("the pod template", &template)?),
        (names::ANNOTATION_SPEC_HASH, spec_hash(valid)?),
    ];
    metadata.annotations = Some(hashes.map(|(key, value)| (key.to_owned(), value)).into());
    Ok(Deployment {
        metadata,
        spec: DeploymentSpec {
            replicas: Some(i32::try_from(replicas).map_err(|_| BuildError::Replicas(replicas))?),
            selector: selector(valid),
            strategy: Some(strategy(valid)),
            revision_history_limit: Some(KEPT_REVISIONS),
            progress_deadline_seconds: Some(PROGRESS_DEADLINE_SECONDS),
            // One that somebody has paused would hold its turn in an upgrade for ever, and tell nobody.
            paused: Some(false),
            template,
            ..Default::default()
        },
        ..Default::default()
    })
}

/// A template that names the rate, while that bug is awake.
#[cfg(feature = "planted")]
fn planted(mut template: PodTemplateSpec, valid: &Valid) -> PodTemplateSpec {
    if crate::planted::is(crate::planted::Bug::LiveRolls) {
        let annotations = template.metadata.get_or_insert_default().annotations.get_or_insert_default();
        annotations.insert("sluice.dev/rate".into(), valid.live.rate_limit_qps.to_string());
    }
    template
}

/// What of the spec shapes pods. Where only the template differs, the operator is what has changed. How a spec is
/// written down belongs to the version: hashes of two versions cannot be compared.
fn spec_hash(valid: &Valid) -> Result<String, BuildError> {
    let hash = hash("the spec", &(&valid.settings, &valid.spec.template, &valid.spec.image))?;
    Ok(format!("{}:{hash}", env!("CARGO_PKG_VERSION")))
}

fn hash(what: &'static str, content: &impl Serialize) -> Result<String, BuildError> {
    let text = serde_json::to_string(content).map_err(|source| BuildError::Json { what, source })?;
    Ok(names::hash(text))
}

/// A SQLite file has one writer: the old pod goes first. Else a new pod comes first.
fn strategy(valid: &Valid) -> DeploymentStrategy {
    if valid.spec.sink.sqlite.is_some() {
        return DeploymentStrategy { type_: Some("Recreate".into()), rolling_update: None };
    }
    DeploymentStrategy {
        type_: Some("RollingUpdate".into()),
        rolling_update: Some(RollingUpdateDeployment {
            max_unavailable: Some(IntOrString::Int(0)),
            max_surge: Some(IntOrString::Int(1)),
        }),
    }
}

fn pod_template(valid: &Valid, options: &Options) -> Result<PodTemplateSpec, BuildError> {
    let wanted = &valid.spec.template.consumer;
    let mut all_labels = wanted.labels.clone();
    all_labels.extend(labels(&valid.owner, options));
    all_labels.insert(names::LABEL_SETTINGS.to_owned(), valid.settings_hash.clone());
    let pod = PodSpec {
        service_account_name: Some(rbac::account_name(valid)),
        automount_service_account_token: Some(true),
        termination_grace_period_seconds: Some(GRACE_SECONDS),
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            fs_group: Some(USER),
            seccomp_profile: Some(SeccompProfile { type_: "RuntimeDefault".into(), localhost_profile: None }),
            ..Default::default()
        }),
        containers: vec![container(valid, options)],
        volumes: Some(volumes(valid)?),
        node_selector: some_map(&wanted.node_selector),
        affinity: wanted.affinity.as_ref().map(|value| typed("affinity", value)).transpose()?,
        tolerations: typed_list("tolerations", &wanted.tolerations)?,
        topology_spread_constraints: Some(spread(valid)?),
        priority_class_name: wanted.priority_class_name.clone(),
        image_pull_secrets: (!wanted.image_pull_secrets.is_empty()).then(|| {
            wanted.image_pull_secrets.iter().map(|name| LocalObjectReference { name: name.clone() }).collect()
        }),
        ..Default::default()
    };
    Ok(PodTemplateSpec {
        metadata: Some(ObjectMeta {
            labels: Some(all_labels),
            annotations: some_map(&wanted.annotations),
            ..Default::default()
        }),
        spec: Some(pod),
    })
}

fn container(valid: &Valid, options: &Options) -> Container {
    let live = format!("{}/{}", valid.owner.namespace, live_name(&valid.owner.name));
    let settings = format!("{SETTINGS_DIR}/{}", names::SETTINGS_KEY);
    // Every address, of IPv4 and IPv6: a kubelet asks the one that the pod has.
    let admin = format!("[::]:{}", names::ADMIN_PORT);
    let arguments = [
        ["--settings", &settings],
        ["--live-config-map", &live],
        ["--live-dir", LIVE_DIR],
        ["--secrets-dir", SECRETS_DIR],
        ["--data-dir", DATA_DIR],
        ["--admin", &admin],
    ];
    let probe = |path: &str, period: i32, failures: i32| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String(ADMIN_PORT_NAME.into()),
            ..Default::default()
        }),
        period_seconds: Some(period),
        timeout_seconds: Some(2),
        failure_threshold: Some(failures),
        ..Default::default()
    };
    Container {
        name: names::CONSUMER_CONTAINER.into(),
        image: Some(valid.image.clone()),
        image_pull_policy: Some(options.image_pull_policy.clone()),
        args: Some(
            std::iter::once("consume").chain(arguments.into_iter().flatten()).map(str::to_owned).collect(),
        ),
        ports: Some(vec![ContainerPort {
            name: Some(ADMIN_PORT_NAME.into()),
            container_port: i32::from(names::ADMIN_PORT),
            protocol: Some("TCP".into()),
            ..Default::default()
        }]),
        // The process answers or it does not: brokers and databases are no reason to restart it.
        liveness_probe: Some(probe("/livez", 10, 6)),
        readiness_probe: Some(probe("/readyz", 2, 3)),
        resources: Some(resources(valid.spec.template.consumer.resources.as_ref())),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities { drop: Some(vec!["ALL".into()]), add: None }),
            ..Default::default()
        }),
        volume_mounts: Some(mounts(valid)),
        ..Default::default()
    }
}

fn resources(wanted: Option<&Resources>) -> ResourceRequirements {
    let quantities = |texts: &BTreeMap<String, String>| {
        let quantity = |(name, text): (&String, &String)| (name.clone(), Quantity(canonical(text)));
        (!texts.is_empty()).then(|| texts.iter().map(quantity).collect())
    };
    let one = |name: &str, text: &str| (name.to_owned(), text.to_owned());
    let default = || Resources {
        requests: [one("cpu", DEFAULT_CPU_REQUEST), one("memory", DEFAULT_MEMORY.0)].into(),
        limits: [one("memory", DEFAULT_MEMORY.1)].into(),
    };
    let wanted = wanted.cloned().unwrap_or_else(default);
    ResourceRequirements {
        requests: quantities(&wanted.requests),
        limits: quantities(&wanted.limits),
        ..Default::default()
    }
}

fn volumes(valid: &Valid) -> Result<Vec<Volume>, BuildError> {
    let config_map = |volume: &str, name: String, optional: bool| Volume {
        name: volume.into(),
        config_map: Some(ConfigMapVolumeSource { name, optional: Some(optional), ..Default::default() }),
        ..Default::default()
    };
    let mut volumes = vec![
        config_map("settings", settings::name(valid), false),
        // Optional, so that a pod starts (at rate 0) even where somebody has just deleted it.
        config_map("live", live_name(&valid.owner.name), true),
        Volume {
            name: "secrets".into(),
            projected: Some(ProjectedVolumeSource { sources: Some(secrets(valid)?), ..Default::default() }),
            ..Default::default()
        },
    ];
    volumes.push(match &valid.spec.sink.sqlite {
        Some(sqlite) => Volume {
            name: "data".into(),
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: sqlite.claim_name.clone(),
                ..Default::default()
            }),
            ..Default::default()
        },
        None => Volume {
            name: "data".into(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Default::default()
        },
    });
    Ok(volumes)
}

fn mounts(valid: &Valid) -> Vec<VolumeMount> {
    let mount = |name: &str, path: String, read_only: bool| VolumeMount {
        name: name.into(),
        mount_path: path,
        read_only: read_only.then_some(true),
        ..Default::default()
    };
    let data = match &valid.spec.sink.sqlite {
        Some(sqlite) => format!("{DATA_DIR}/{}", sqlite.claim_name),
        None => DATA_DIR.to_owned(),
    };
    vec![
        mount("settings", SETTINGS_DIR.into(), true),
        mount("live", LIVE_DIR.into(), true),
        mount("secrets", SECRETS_DIR.into(), true),
        mount("data", data, false),
    ]
}

/// Every key that the settings refer to, as the file NAME/KEY. Optional: the consumer says which one is missing.
fn secrets(valid: &Valid) -> Result<Vec<VolumeProjection>, BuildError> {
    let mut keys: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    let settings = serde_json::to_value(&valid.settings)
        .map_err(|source| BuildError::Json { what: "the settings", source })?;
    collect_secrets(&settings, &mut keys);
    let projection = |(name, keys): (String, BTreeSet<String>)| VolumeProjection {
        secret: Some(SecretProjection {
            items: Some(
                keys.into_iter()
                    .map(|key| KeyToPath { path: format!("{name}/{key}"), key, ..Default::default() })
                    .collect(),
            ),
            name,
            optional: Some(true),
        }),
        ..Default::default()
    };
    Ok(keys.into_iter().map(projection).collect())
}

/// Wherever a field refers to a Secret: a new field cannot be forgotten here.
fn collect_secrets(value: &Value, keys: &mut BTreeMap<String, BTreeSet<String>>) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match serde_json::from_value::<SecretKeyRef>(member.clone()) {
                    Ok(reference) if name == "secretKeyRef" => {
                        keys.entry(reference.name).or_default().insert(reference.key);
                    }
                    _ => collect_secrets(member, keys),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| collect_secrets(item, keys)),
        _ => {}
    }
}

fn spread(valid: &Valid) -> Result<Vec<TopologySpreadConstraint>, BuildError> {
    let wanted = &valid.spec.template.consumer.topology_spread_constraints;
    let mut constraints: Vec<TopologySpreadConstraint> = typed_list("topologySpreadConstraints", wanted)?
        .unwrap_or_else(|| {
            vec![TopologySpreadConstraint {
                max_skew: 1,
                topology_key: "kubernetes.io/hostname".into(),
                when_unsatisfiable: "ScheduleAnyway".into(),
                ..Default::default()
            }]
        });
    for constraint in &mut constraints {
        constraint.label_selector.get_or_insert_with(|| selector(valid));
    }
    Ok(constraints)
}

/// Kubernetes' types drop members that they do not know: a misspelt one would be lost without a word.
fn typed<T: Serialize + DeserializeOwned>(field: &str, value: &Value) -> Result<T, BuildError> {
    let field = || format!("spec.template.consumer.{field}");
    let no_fit = |source| BuildError::Template { field: field(), source };
    let typed: T = serde_json::from_value(value.clone()).map_err(no_fit)?;
    let kept = serde_json::to_value(&typed).map_err(no_fit)?;
    match lost(value, &kept) {
        Some(member) => Err(BuildError::Unknown { member: field() + &member }),
        None => Ok(typed),
    }
}

/// Path of the first member that `kept` does not have.
fn lost(written: &Value, kept: &Value) -> Option<String> {
    match (written, kept) {
        (Value::Object(written), Value::Object(kept)) => written.iter().find_map(|(name, value)| {
            let inner = match kept.get(name) {
                Some(kept) => lost(value, kept)?,
                // Both are stored as nothing.
                None if value.is_null() || value.as_array().is_some_and(Vec::is_empty) => return None,
                None => String::new(),
            };
            Some(format!(".{name}{inner}"))
        }),
        (Value::Array(written), Value::Array(kept)) => {
            let mut pairs = written.iter().zip(kept).enumerate();
            pairs.find_map(|(index, (written, kept))| Some(format!("[{index}]{}", lost(written, kept)?)))
        }
        _ => None,
    }
}

fn typed_list<T: Serialize + DeserializeOwned>(
    field: &str,
    values: &[Value],
) -> Result<Option<Vec<T>>, BuildError> {
    if values.is_empty() {
        return Ok(None);
    }
    let typed = |(index, value)| typed(&format!("{field}[{index}]"), value);
    values.iter().enumerate().map(typed).collect::<Result<_, _>>().map(Some)
}

fn some_map(map: &BTreeMap<String, String>) -> Option<BTreeMap<String, String>> {
    (!map.is_empty()).then(|| map.clone())
}

#[cfg(test)]
mod tests;
