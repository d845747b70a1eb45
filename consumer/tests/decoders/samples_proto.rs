//! Messages of the protobuf formats, and the JSON that the formats' documents ask of them, built with
//! serde_json from prost's structs.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use proptest::collection::vec;
use proptest::prelude::*;
use prost::Message;
use serde_json::{Map, Value, json};
use sluice_crds::v1alpha1::Format;

use crate::proto::{otlp as o, zipkin as z};
use crate::samples::{Body, Sample, Want, text};

pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Removes what proto3's JSON leaves out: zeros, empty texts and lists.
pub fn without_defaults(value: Value) -> Value {
    let Value::Object(members) = value else { return value };
    let is_default = |value: &Value| {
        *value == json!(0)
            || *value == json!("")
            || *value == json!([])
            || value.is_null()
            || *value == json!(false)
    };
    Value::Object(members.into_iter().filter(|(_, value)| !is_default(value)).collect())
}

pub fn trace_id() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![8 => vec(any::<u8>(), 16), 1 => Just(b"\x0a\x0e\x0a\x03foo\x12\x07\x0a\x05hello".to_vec())]
}

pub fn span_id() -> impl Strategy<Value = Vec<u8>> {
    vec(any::<u8>(), 8)
}

fn parent_id() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![span_id(), Just(Vec::new())]
}

/// Times as they are, as they will be, and as they must never be.
fn time() -> impl Strategy<Value = u64> {
    prop_oneof![
        Just(0),
        Just(u64::MAX),
        Just(i64::MAX as u64 + 1),
        any::<u64>(),
        1_700_000_000_000_000_000..1_800_000_000_000_000_000u64
    ]
}

fn otlp_value() -> impl Strategy<Value = Option<o::AnyValue>> {
    let leaf = prop_oneof![
        4 => text().prop_map(o::Value::String),
        1 => any::<bool>().prop_map(o::Value::Bool),
        2 => any::<i64>().prop_map(o::Value::Int),
        2 => any::<f64>().prop_map(o::Value::Double),
        1 => prop::sample::select(vec![f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -0.0, 1e300, 5e-324]).prop_map(o::Value::Double),
        1 => vec(any::<u8>(), 0..9).prop_map(o::Value::Bytes),
    ];
    let value = leaf.prop_recursive(4, 12, 3, |inner| {
        let value = inner.prop_map(|value| o::AnyValue { value: Some(value) });
        prop_oneof![
            vec(value.clone(), 0..3).prop_map(|values| o::Value::Array(o::ArrayValue { values })),
            vec((text(), value), 0..3).prop_map(|entries| {
                let values = entries.into_iter().map(|(key, value)| o::KeyValue { key, value: Some(value) });
                o::Value::Map(o::KeyValueList { values: values.collect() })
            }),
        ]
    });
    let value = prop::option::weighted(0.9, value).prop_map(|value| o::AnyValue { value });
    prop::option::weighted(0.9, value)
}

fn otlp_attributes() -> impl Strategy<Value = Vec<o::KeyValue>> {
    vec((text(), otlp_value()).prop_map(|(key, value)| o::KeyValue { key, value }), 0..4)
}

fn any_value_json(value: &o::AnyValue) -> Value {
    match &value.value {
        None => json!({}),
        Some(o::Value::String(text)) => json!({ "stringValue": text }),
        Some(o::Value::Bool(set)) => json!({ "boolValue": set }),
        Some(o::Value::Int(number)) => json!({ "intValue": number.to_string() }),
        Some(o::Value::Double(number)) => json!({ "doubleValue": double(*number) }),
        Some(o::Value::Array(list)) => {
            let values: Vec<Value> = list.values.iter().map(any_value_json).collect();
            json!({ "arrayValue": { "values": values } })
        }
        Some(o::Value::Map(list)) => json!({ "kvlistValue": { "values": attributes_json(&list.values) } }),
        Some(o::Value::Bytes(bytes)) => json!({ "bytesValue": STANDARD.encode(bytes) }),
    }
}

pub fn double(number: f64) -> Value {
    if number.is_nan() {
        json!("NaN")
    } else if number.is_infinite() {
        json!(if number > 0.0 { "Infinity" } else { "-Infinity" })
    } else {
        // Through the text, as serde_json's own parser is a digit off now and then; that the text is exact is
        // tested where it is written.
        serde_json::from_str(&format!("{number:?}")).unwrap()
    }
}

fn attributes_json(attributes: &[o::KeyValue]) -> Value {
    let value = |attribute: &o::KeyValue| attribute.value.as_ref().map_or(json!({}), any_value_json);
    attributes.iter().map(|attribute| json!({ "key": attribute.key, "value": value(attribute) })).collect()
}

fn otlp_span() -> impl Strategy<Value = o::Span> {
    let event = (time(), text(), otlp_attributes(), 0..3u32)
        .prop_map(|(time, name, attributes, dropped)| o::Event { time, name, attributes, dropped });
    let link = (trace_id(), span_id(), text(), otlp_attributes(), any::<u32>()).prop_map(
        |(trace_id, span_id, trace_state, attributes, flags)| o::Link {
            trace_id,
            span_id,
            trace_state,
            attributes,
            dropped: 1,
            flags,
        },
    );
    let status = prop::option::of((text(), -1..4).prop_map(|(message, code)| o::Status { message, code }));
    let id = prop_oneof![8 => trace_id(), 1 => span_id(), 1 => Just(Vec::new())];
    let head = (id, span_id(), parent_id(), text(), text(), -1..8, time(), time());
    (head, otlp_attributes(), vec(event, 0..3), vec(link, 0..2), status, (0..2u32, 0..2u32, any::<u32>()))
        .prop_map(
            |(
                (trace_id, span_id, parent_span_id, trace_state, name, kind, start, end),
                attributes,
                events,
                links,
                status,
                rest,
            )| o::Span {
                trace_id,
                span_id,
                trace_state,
                parent_span_id,
                name,
                kind,
                start,
                end,
                attributes,
                events,
                links,
                status,
                dropped_attributes: rest.0,
                dropped_events: rest.1,
                dropped_links: u32::MAX,
                flags: rest.2,
            },
        )
}

fn otlp_want(span: &o::Span, resource: &Value, scope: &Value) -> Want {
    let events: Vec<Value> = span.events.iter().map(|event| {
        let mut json = without_defaults(json!({ "name": event.name, "attributes": attributes_json(&event.attributes), "droppedAttributesCount": event.dropped }));
        json["timeUnixNano"] = json!(event.time.to_string());
        json
    }).collect();
    let links: Vec<Value> = span.links.iter().map(|link| without_defaults(json!({
        "traceId": hex(&link.trace_id), "spanId": hex(&link.span_id), "traceState": link.trace_state,
        "attributes": attributes_json(&link.attributes), "droppedAttributesCount": link.dropped, "flags": link.flags,
    }))).collect();
    let mut body = without_defaults(json!({
        "traceId": hex(&span.trace_id), "spanId": hex(&span.span_id), "parentSpanId": hex(&span.parent_span_id),
        "traceState": span.trace_state, "flags": span.flags, "name": span.name, "kind": span.kind,
        "startTimeUnixNano": span.start.to_string(), "endTimeUnixNano": span.end.to_string(),
        "attributes": attributes_json(&span.attributes), "droppedAttributesCount": span.dropped_attributes,
        "events": events, "droppedEventsCount": span.dropped_events, "links": links, "droppedLinksCount": span.dropped_links,
    }));
    if let Some(status) = &span.status {
        body["status"] = without_defaults(json!({ "message": status.message, "code": status.code }));
    }
    body["resource"] = resource.clone();
    body["scope"] = scope.clone();
    let names = ["", "INTERNAL", "SERVER", "CLIENT", "PRODUCER", "CONSUMER"];
    let kind = usize::try_from(span.kind).ok().and_then(|kind| names.get(kind)).unwrap_or(&"");
    Want { trace_id: hex(&span.trace_id), kind: (*kind).to_owned(), body: Body::Json(body) }
}

fn resource_json(resource: &o::Resource) -> Value {
    let entities = resource.entity_refs.iter().map(|entity| {
        without_defaults(json!({
            "schemaUrl": entity.schema_url, "type": entity.kind, "idKeys": entity.id_keys, "descriptionKeys": entity.description_keys,
        }))
    });
    without_defaults(json!({
        "attributes": attributes_json(&resource.attributes), "droppedAttributesCount": resource.dropped,
        "entityRefs": entities.collect::<Vec<_>>(),
    }))
}

pub fn otlp() -> impl Strategy<Value = Sample> {
    let scope = (text(), text(), otlp_attributes(), 0..2u32)
        .prop_map(|(name, version, attributes, dropped)| o::Scope { name, version, attributes, dropped });
    let scope_spans = (prop::option::of(scope), vec(otlp_span(), 0..3), text())
        .prop_map(|(scope, spans, schema_url)| o::ScopeSpans { scope, spans, schema_url });
    let entity_ref = (text(), text(), vec(text(), 0..3), vec(text(), 0..2)).prop_map(
        |(schema_url, kind, id_keys, description_keys)| o::EntityRef {
            schema_url,
            kind,
            id_keys,
            description_keys,
        },
    );
    let resource = (otlp_attributes(), 0..2u32, vec(entity_ref, 0..2)).prop_map(
        |(attributes, dropped, mut entity_refs)| {
            // References are to attributes; a message without a span is known by these.
            entity_refs.truncate(attributes.len());
            o::Resource { attributes, dropped, entity_refs }
        },
    );
    let resource_spans = (prop::option::of(resource), vec(scope_spans, 0..3), text()).prop_map(
        |(resource, scope_spans, schema_url)| o::ResourceSpans { resource, scope_spans, schema_url },
    );
    vec(resource_spans, 1..3).prop_map(|resource_spans| {
        let mut want = Vec::new();
        for group in &resource_spans {
            let resource = group.resource.clone().unwrap_or_default();
            let resource = resource_json(&resource);
            for scope_spans in &group.scope_spans {
                let scope = scope_spans.scope.clone().unwrap_or_default();
                let scope = without_defaults(json!({ "name": scope.name, "version": scope.version, "attributes": attributes_json(&scope.attributes), "droppedAttributesCount": scope.dropped }));
                want.extend(scope_spans.spans.iter().map(|span| otlp_want(span, &resource, &scope)));
            }
        }
        Sample { format: Format::OtlpProto, payload: o::Request { resource_spans }.encode_to_vec(), want }
    })
}

fn endpoint() -> impl Strategy<Value = Option<z::Endpoint>> {
    let ipv4 = prop_oneof![Just(Vec::new()), vec(any::<u8>(), 4)];
    let ipv6 = prop_oneof![Just(Vec::new()), vec(any::<u8>(), 16)];
    prop::option::of(
        (text(), ipv4, ipv6, prop_oneof![Just(0), 1..65_536])
            .prop_map(|(service_name, ipv4, ipv6, port)| z::Endpoint { service_name, ipv4, ipv6, port }),
    )
}

fn endpoint_json(endpoint: &Option<z::Endpoint>) -> Value {
    let Some(endpoint) = endpoint else { return Value::Null };
    let ipv4 =
        <[u8; 4]>::try_from(endpoint.ipv4.as_slice()).map(|ip| std::net::Ipv4Addr::from(ip).to_string());
    let ipv6 =
        <[u8; 16]>::try_from(endpoint.ipv6.as_slice()).map(|ip| std::net::Ipv6Addr::from(ip).to_string());
    without_defaults(
        json!({ "serviceName": endpoint.service_name, "ipv4": ipv4.unwrap_or_default(), "ipv6": ipv6.unwrap_or_default(), "port": endpoint.port }),
    )
}

pub fn zipkin() -> impl Strategy<Value = Sample> {
    let annotation = (time(), text()).prop_map(|(timestamp, value)| z::Annotation { timestamp, value });
    let tags = prop::collection::btree_map(text(), text(), 0..4);
    let id = prop_oneof![trace_id(), span_id()];
    let head = (id, parent_id(), span_id(), -1..7, text(), time(), time());
    let span = (head, endpoint(), endpoint(), vec(annotation, 0..3), tags, any::<(bool, bool)>()).prop_map(
        |(
            (trace_id, parent_id, id, kind, name, timestamp, duration),
            local,
            remote,
            annotations,
            tags,
            (debug, shared),
        )| z::Span {
            trace_id,
            parent_id,
            id,
            kind,
            name,
            timestamp,
            duration,
            local,
            remote,
            annotations,
            tags,
            debug,
            shared,
        },
    );
    vec(span, 1..4).prop_map(|spans| {
        let want = spans.iter().map(|span| {
            let kind = match span.kind { 1 => "CLIENT", 2 => "SERVER", 3 => "PRODUCER", 4 => "CONSUMER", _ => "" };
            let annotations: Vec<Value> = span.annotations.iter().map(|annotation| json!({ "timestamp": annotation.timestamp, "value": annotation.value })).collect();
            let tags: Map<String, Value> = span.tags.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
            let mut body = without_defaults(json!({
                "traceId": hex(&span.trace_id), "parentId": hex(&span.parent_id), "id": hex(&span.id), "kind": kind, "name": span.name,
                "timestamp": span.timestamp, "duration": span.duration, "localEndpoint": endpoint_json(&span.local),
                "remoteEndpoint": endpoint_json(&span.remote), "annotations": annotations, "debug": span.debug, "shared": span.shared,
            }));
            if !tags.is_empty() {
                body["tags"] = Value::Object(tags);
            }
            Want { trace_id: hex(&span.trace_id), kind: kind.to_owned(), body: Body::Json(body) }
        }).collect();
        Sample { format: Format::ZipkinProto, payload: z::ListOfSpans { spans }.encode_to_vec(), want }
    })
}
