//! API types of `sluice.dev/v1alpha1`.
//!
//! The types are lenient, so that an older program reads what a newer schema allows; [`crate::document::read`]
//! and the API server's strict mode are what refuses unknown fields. Every rule of the schema has its twin in
//! [`crate::validate`], because a schema can be edited or skipped.

mod control;
mod dead_letter;
mod encryption;
mod kafka;
mod properties;
mod secret;
mod sink;
mod status;
mod workload;

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{
    CustomResourceColumnDefinition, CustomResourceDefinition, JSON, JSONSchemaProps, JSONSchemaPropsOrBool,
    ValidationRule,
};
use kube::{CustomResource, CustomResourceExt, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::validate::MAX_PIPELINE_NAME;

pub use control::{Guard, MAX_WINDOWS, ScheduleWindow, TARGET_LATENCY, WINDOW_LENGTH};
pub use dead_letter::DeadLetter;
pub use encryption::{Encryption, EncryptionKey, MAX_ENCRYPTION_KEYS};
pub use kafka::{KafkaSasl, KafkaSource, KafkaTls, MAX_KAFKA_NAME, SaslMechanism, Source, StartFrom};
pub use properties::{JAVA_NAMES, KAFKA_PROPERTIES, KafkaProperty, PropertyValue};
pub use secret::{SecretKeyRef, SecretSource};
pub use sink::{Batch, Sink, SqlServer, Sqlite};
pub use status::{RateStatus, TracePipelineStatus};
pub use workload::{
    Autoscaling, DEFAULT_REPLICAS, MAX_REPLICAS, PodTemplate, Resources, Template, is_quantity,
};

/// Highest `rateLimitQPS`, in spans per second.
pub const MAX_RATE_LIMIT_QPS: u32 = 10_000_000;

/// Times must be before this one, `9999-12-30T00:00:00Z`: what the API server takes beyond it no program in Rust
/// reads.
pub const MAX_TIME: jiff::Timestamp = jiff::Timestamp::constant(253_402_128_000, 0);

/// What a TracePipeline does: it takes trace spans from a queue and stores them in a SQL database, at a rate
/// that can be changed while it runs.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "sluice.dev",
    version = "v1alpha1",
    kind = "TracePipeline",
    plural = "tracepipelines",
    shortname = "tp",
    namespaced,
    derive = "PartialEq",
    status = "TracePipelineStatus",
    scale(
        spec_replicas_path = ".spec.replicas",
        status_replicas_path = ".status.replicas",
        label_selector_path = ".status.selector"
    ),
    doc = "A TracePipeline stores trace spans from a queue in a SQL database, at a rate that can be changed while it runs."
)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("has(self.source.kafka) == has(oldSelf.source.kafka)")
        .message("the kind of source cannot be changed: the stored positions belong to it")
        .field_path(".source"),
    validation = Rule::new(
        "!has(self.source.kafka) || !has(oldSelf.source.kafka) || self.source.kafka.consumerGroup == oldSelf.source.kafka.consumerGroup"
    )
    .message("the consumer group cannot be changed: the stored positions belong to it")
    .field_path(".source.kafka.consumerGroup"),
    validation = Rule::new(
        "has(self.sink.mysql) == has(oldSelf.sink.mysql) && has(self.sink.postgres) == has(oldSelf.sink.postgres) && has(self.sink.sqlite) == has(oldSelf.sink.sqlite)"
    )
    .message("the kind of sink cannot be changed: the positions are stored in it")
    .field_path(".sink"),
    validation = Rule::new("self.sink.table == oldSelf.sink.table")
        .message("the table cannot be changed: the stored positions belong to it")
        .field_path(".sink.table"),
    validation = Rule::new("!has(self.sink.sqlite) || self.replicas <= 1")
        .message("a SQLite file has one writer: set replicas: 1 (the default is 2), or 0")
        .field_path(".replicas"),
    validation = Rule::new("!has(self.sink.sqlite) || !has(self.autoscaling)")
        .message("a SQLite file has one writer: it cannot be scaled")
        .field_path(".autoscaling"),
    validation = Rule::new(
        "!has(self.deadLetter) || !has(self.source.kafka) || !has(self.source.kafka.topic) || self.deadLetter.topic != self.source.kafka.topic"
    )
    .message("expected another topic than the one that is read: dead letters would come back for ever")
    .field_path(".deadLetter.topic")
)]
pub struct TracePipelineSpec {
    /// Where messages come from; exactly one kind of source.
    pub source: Source,
    /// How messages are encoded. `Json`: arbitrary observation bodies, see `json`. `OtlpProto`, `OtlpJson`: the
    /// ExportTraceServiceRequest of OpenTelemetry. `ZipkinJson`, `ZipkinProto`: lists of Zipkin v2 spans.
    /// `JaegerProto`: a Span or a Batch of Jaeger's model. `Auto`: recognised message by message, as one of these;
    /// Jaeger's JSON, thrift, Avro, JSON lines and messages behind Confluent's header of a schema registry it does not know:
    /// they become dead letters. Default: Auto.
    #[serde(default)]
    pub format: Format,
    /// Where the `Json` format finds its parts. Other formats ignore it.
    #[serde(default)]
    pub json: JsonPaths,
    /// Spans per second that are stored, by all replicas together; 0 stops, 10000000 is the most. Live: a change
    /// takes effect within a second, without a restart.
    #[serde(rename = "rateLimitQPS")]
    #[schemars(range(min = 0, max = MAX_RATE_LIMIT_QPS), extend("format" = "int32"))]
    pub rate_limit_qps: u32,
    /// A rate that replaces `rateLimitQPS` until it expires by itself. Default: none. Live.
    #[serde(default, rename = "override", skip_serializing_if = "Option::is_none")]
    pub rate_override: Option<RateOverride>,
    /// Stops storing without leaving the consumer group. Default: false. Live.
    #[serde(default)]
    pub suspend: bool,
    /// Windows of time in which another rate replaces `rateLimitQPS`, 32 at most, by the clock of the database. Of several
    /// that are open the first in the list counts; an active `override` counts before them. Default: none. Live.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = MAX_WINDOWS))]
    pub schedule: Vec<ScheduleWindow>,
    /// Lowers the rate, never below `minQPS`, while the database is slower than a target or refuses to work. Default:
    /// it does not. Live.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    /// Where spans are stored; exactly one kind of database.
    pub sink: Sink,
    /// How bodies are sealed. Default: they are stored as they are.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<Encryption>,
    /// Where dead letters go besides the database. Default: nowhere else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letter: Option<DeadLetter>,
    /// Pods that share the work, 0 to 1000. `kubectl scale` and autoscalers set it. Ignored where `autoscaling` is set,
    /// and outside a cluster. Default: 2. For sqlite the default does not do: it must be set, to 1 (or 0).
    #[serde(default = "default_replicas")]
    #[schemars(range(min = 0, max = MAX_REPLICAS), extend("format" = "int32"))]
    pub replicas: u32,
    /// Lets the operator choose the number of replicas. Default: it does not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub autoscaling: Option<Autoscaling>,
    /// Image of the consumers. Default: the installation's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 512), regex(pattern = r"^[-A-Za-z0-9._/:@]+$"))]
    pub image: Option<String>,
    /// What is added to the pods.
    #[serde(default)]
    pub template: Template,
}

fn default_replicas() -> u32 {
    DEFAULT_REPLICAS
}

/// How messages are encoded.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
pub enum Format {
    /// Arbitrary observation bodies; see `json`.
    Json,
    /// OpenTelemetry `ExportTraceServiceRequest`, protobuf.
    OtlpProto,
    /// OpenTelemetry `ExportTraceServiceRequest`, JSON.
    OtlpJson,
    /// A list of Zipkin v2 spans, JSON.
    ZipkinJson,
    /// A list of Zipkin v2 spans, protobuf.
    ZipkinProto,
    /// One Jaeger `model.Span` or `model.Batch`, protobuf.
    JaegerProto,
    /// Recognised message by message.
    #[default]
    Auto,
}

/// Where the `Json` format finds its parts: JSON Pointers (RFC 6901), such as `/data/traceId`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct JsonPaths {
    /// The list of spans, from the root of the message. Empty: the message itself is the span, or the list of
    /// spans. A span is stored byte for byte, and of what the message says beside the list trace id and kind only.
    /// Default: /spans.
    #[schemars(length(max = 256), regex(pattern = r"^(/([^~/]|~[01])*)*$"))]
    pub spans: String,
    /// The trace id, looked for in the span first and then from the root of the message. No path leads into a list: what
    /// a span has itself is named from the span, so with spans under /data an id in each of them is /traceId, and not
    /// /data/traceId. Default: /traceId.
    #[schemars(length(min = 1, max = 256), regex(pattern = r"^(/([^~/]|~[01])*)*$"))]
    pub trace_id: String,
    /// The span's kind, looked for likewise; a span without one is stored with an empty kind. Empty: no span has one.
    /// Default: /kind.
    #[schemars(length(max = 256), regex(pattern = r"^(/([^~/]|~[01])*)*$"))]
    pub kind: String,
}

impl Default for JsonPaths {
    fn default() -> Self {
        Self { spans: "/spans".into(), trace_id: "/traceId".into(), kind: "/kind".into() }
    }
}

/// A rate for a limited time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    // The bound is MAX_TIME.
    validation = Rule::new("self.until < timestamp('9999-12-30T00:00:00Z')")
        .message("expected a time before 9999-12-30T00:00:00Z")
        .field_path(".until")
)]
pub struct RateOverride {
    /// Spans per second that are stored, by all replicas together; 0 stops, 10000000 is the most.
    #[serde(rename = "rateLimitQPS")]
    #[schemars(range(min = 0, max = MAX_RATE_LIMIT_QPS), extend("format" = "int32"))]
    pub rate_limit_qps: u32,
    /// When it ends, in RFC 3339 (2026-11-21T06:00:00Z), by the clock of the database.
    #[schemars(with = "String", length(max = 40), extend("format" = "date-time"))]
    pub until: jiff::Timestamp,
}

/// The CustomResourceDefinition, as it is installed.
///
/// Optional fields are not `nullable`: the API server then drops a null and applies the default, as it does
/// for its own types.
pub fn crd() -> CustomResourceDefinition {
    let mut crd = TracePipeline::crd();
    for version in &mut crd.spec.versions {
        version.additional_printer_columns = Some(columns());
        if let Some(schema) = version.schema.as_mut().and_then(|schema| schema.open_api_v3_schema.as_mut()) {
            drop_nullable(schema);
            if let Some(status) = schema.properties.as_mut().and_then(|members| members.get_mut("status")) {
                // Of no generation: else readers of kstatus, such as `helm --wait`, take a pipeline that nobody has looked
                // at for one in order.
                status.default = Some(JSON(json!({ "observedGeneration": -1 })));
            }
            let size = format!("self.metadata.name.size() <= {MAX_PIPELINE_NAME}");
            let expected_size = format!("metadata.name: expected at most {MAX_PIPELINE_NAME} characters");
            // The pipeline's Service is called after it, and names of Services begin with a letter.
            let letter = "self.metadata.name.matches('^[a-z]')".to_owned();
            let expected_letter = "metadata.name: expected a letter at its beginning".to_owned();
            for (rule, message) in [(size, expected_size), (letter, expected_letter)] {
                let rule = ValidationRule { rule, message: Some(message), ..Default::default() };
                schema.x_kubernetes_validations.get_or_insert_default().push(rule);
            }
        }
    }
    crd
}

/// What `kubectl get tp` shows; with `-o wide` also the rate as schedule, override and suspension make it.
fn columns() -> Vec<CustomResourceColumnDefinition> {
    const READY: &str = ".status.conditions[?(@.type==\"Ready\")].status";
    const TOPIC: &str = ".spec.source.kafka['topic','topicPattern']";
    const WIDE: &str = "Desired";
    let columns = [
        ("Ready", "string", READY, "Whether all consumers run as the spec says"),
        ("Topic", "string", TOPIC, "Topic, or pattern of topics"),
        ("QPS", "integer", ".spec.rateLimitQPS", "Spans per second that the spec asks for"),
        (WIDE, "integer", ".status.rate.desired", "Spans per second that the spec asks for now, all counted"),
        ("Applied", "integer", ".status.rate.applied", "Spans per second that every consumer has confirmed"),
        ("Replicas", "integer", ".status.replicas", "Pods of the consumer"),
        ("Lag", "integer", ".status.lag", "Messages that wait"),
        ("Drain", "integer", ".status.drainSeconds", "Seconds until they are stored"),
        ("Age", "date", ".metadata.creationTimestamp", "Time since the creation"),
    ];
    let column =
        |(name, type_, json_path, description): (&str, &str, &str, &str)| CustomResourceColumnDefinition {
            name: name.into(),
            type_: type_.into(),
            json_path: json_path.into(),
            description: Some(description.into()),
            priority: (name == WIDE).then_some(1),
            ..Default::default()
        };
    columns.map(column).into()
}

fn drop_nullable(schema: &mut JSONSchemaProps) {
    schema.nullable = None;
    for property in schema.properties.iter_mut().flatten() {
        drop_nullable(property.1);
    }
    if let Some(JSONSchemaPropsOrBool::Schema(values)) = &mut schema.additional_properties {
        drop_nullable(values);
    }
}
