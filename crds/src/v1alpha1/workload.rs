//! How the pods of a pipeline look: how many, from which image, where they run.

use std::collections::BTreeMap;
use std::fmt;

use kube::KubeSchema;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::Visitor;
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

/// Most replicas of a pipeline: Kafka's partitions bound what is useful, this bounds mistakes.
pub const MAX_REPLICAS: u32 = 1000;
/// Replicas where nothing is said: one can fail.
pub const DEFAULT_REPLICAS: u32 = 2;

/// Replicas that follow the load. They grow only while consumers report that the processor limits them, never
/// because of the database or of the rate: more replicas would not help there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("self.min <= self.max")
        .message("expected at most max")
        .field_path(".min")
)]
pub struct Autoscaling {
    /// Fewest replicas, 1 to 1000. Default: 1.
    #[serde(default = "default_min")]
    #[schemars(range(min = 1, max = MAX_REPLICAS), extend("format" = "int32"))]
    pub min: u32,
    /// Most replicas, 1 to 1000. Beyond `min`, no more are added than there are partitions.
    #[schemars(range(min = 1, max = MAX_REPLICAS), extend("format" = "int32"))]
    pub max: u32,
}

fn default_min() -> u32 {
    1
}

/// What is added to the pods, by role.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Template {
    /// The pods that store spans.
    #[serde(default)]
    pub consumer: PodTemplate,
}

/// What is added to the pods of a role. A change rolls them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodTemplate {
    /// Annotations of the pods. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts_schema")]
    pub annotations: BTreeMap<String, String>,
    /// Labels of the pods and of every object of the pipeline, besides the operator's own, which win. Objects other
    /// than pods get those that Kubernetes takes as labels. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts_schema")]
    pub labels: BTreeMap<String, String>,
    /// Processor and memory of the container. Default: requests of 100m and 128Mi, a memory limit of 384Mi.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Labels that a node must have. Default: none.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "texts_schema")]
    pub node_selector: BTreeMap<String, String>,
    /// Affinity, as in the spec of a pod. Default: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "open_object_schema")]
    pub affinity: Option<Value>,
    /// Tolerations, as in the spec of a pod. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "open_objects_schema")]
    pub tolerations: Vec<Value>,
    /// How pods spread over nodes and zones, as in the spec of a pod; a constraint without a labelSelector gets
    /// that of the pods. Default: over nodes, where it can be done.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "open_objects_schema")]
    pub topology_spread_constraints: Vec<Value>,
    /// Priority class of the pods. Default: the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub priority_class_name: Option<String>,
    /// Names of Secrets with credentials for the image's registry. Default: none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "names_schema")]
    pub image_pull_secrets: Vec<String>,
    /// An existing service account to run as; it gets the right to read the pipeline's live ConfigMap.
    /// Default: one of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$"))]
    pub service_account_name: Option<String>,
}

/// Processor and memory of a container, as Kubernetes quantities by resource: `{ cpu: 500m, memory: 256Mi }`. A whole number
/// may be one, as Kubernetes takes it, and is kept as its text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What is reserved. Default: nothing.
    #[serde(default, deserialize_with = "quantities", skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities_schema")]
    pub requests: BTreeMap<String, String>,
    /// What cannot be exceeded. Default: nothing.
    #[serde(default, deserialize_with = "quantities", skip_serializing_if = "BTreeMap::is_empty")]
    #[schemars(schema_with = "quantities_schema")]
    pub limits: BTreeMap<String, String>,
}

/// Whether a text is a Kubernetes quantity such as 500m, 1.5, 256Mi or 1e3.
pub fn is_quantity(text: &str) -> bool {
    let digits_end =
        text.find(|letter: char| !letter.is_ascii_digit() && letter != '.').unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let number_is_good = number.bytes().any(|byte| byte.is_ascii_digit())
        && number.bytes().filter(|byte| *byte == b'.').count() <= 1;
    const SUFFIXES: [&str; 14] = ["", "m", "k", "M", "G", "T", "P", "E", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    text.len() <= 32 && number_is_good && (SUFFIXES.contains(&suffix) || is_exponent(suffix))
}

/// `e` or `E`, a sign or none, one or two digits.
fn is_exponent(suffix: &str) -> bool {
    let digits = suffix.strip_prefix(['e', 'E']).map(|rest| rest.strip_prefix(['+', '-']).unwrap_or(rest));
    digits
        .is_some_and(|digits| matches!(digits.len(), 1 | 2) && digits.bytes().all(|one| one.is_ascii_digit()))
}

fn quantities<'de, D: Deserializer<'de>>(deserializer: D) -> Result<BTreeMap<String, String>, D::Error> {
    let quantities = BTreeMap::<String, Quantity>::deserialize(deserializer)?;
    Ok(quantities.into_iter().map(|(name, quantity)| (name, quantity.0)).collect())
}

/// A text, or a whole number as its text.
struct Quantity(String);

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextOrNumber).map(Self)
    }
}

struct TextOrNumber;

impl Visitor<'_> for TextOrNumber {
    type Value = String;

    fn expecting(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.write_str("a quantity such as 500m or 256Mi")
    }

    fn visit_str<E>(self, text: &str) -> Result<String, E> {
        Ok(text.to_owned())
    }

    fn visit_u64<E>(self, number: u64) -> Result<String, E> {
        Ok(number.to_string())
    }

    fn visit_i64<E>(self, number: i64) -> Result<String, E> {
        Ok(number.to_string())
    }
}

fn quantities_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 16,
        "additionalProperties": {
            "x-kubernetes-int-or-string": true,
            "minimum": 0,
            "maxLength": 32,
            "pattern": r"^([0-9]+\.?[0-9]*|\.[0-9]+)(m|k|M|G|T|P|E|Ki|Mi|Gi|Ti|Pi|Ei|[eE][-+]?[0-9]{1,2})?$",
        },
    })
}

fn texts_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "object",
        "maxProperties": 64,
        "additionalProperties": { "type": "string", "maxLength": 1024 },
    })
}

fn names_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "maxItems": 16,
        "items": { "type": "string", "minLength": 1, "maxLength": 253, "pattern": r"^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$" },
    })
}

/// Kubernetes' own type, which the API server checks where the pods are made of it. Repeating its schema here
/// would make it the larger part of the CRD and pin it to one version.
fn open_object_schema(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "object", "maxProperties": 16, "x-kubernetes-preserve-unknown-fields": true })
}

fn open_objects_schema(generator: &mut SchemaGenerator) -> Schema {
    json_schema!({ "type": "array", "maxItems": 16, "items": open_object_schema(generator) })
}
