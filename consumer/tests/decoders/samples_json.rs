//! Messages of the JSON formats, written as producers may: any white space, any order, any escape.

use proptest::prelude::*;
use sluice_crds::v1alpha1::Format;

use crate::samples::{Body, Sample, Want, text};

/// White space.
fn space() -> impl Strategy<Value = &'static str> {
    prop_oneof![6 => Just(""), 1 => Just(" "), 1 => Just("\n\t"), 1 => Just("\r\n ")]
}

/// A string as JSON, plainly or with every character escaped.
pub fn quoted(text: &str, all_escaped: bool) -> String {
    if all_escaped {
        let units: String = text.encode_utf16().map(|unit| format!("\\u{unit:04X}")).collect();
        return format!("\"{units}\"");
    }
    serde_json::to_string(text).unwrap()
}

fn string() -> impl Strategy<Value = String> {
    (text(), prop::bool::weighted(0.2)).prop_map(|(text, escaped)| quoted(&text, escaped))
}

fn number() -> impl Strategy<Value = String> {
    prop_oneof![
        "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,20})?([eE][+-]?[0-9]{1,4})?",
        Just(u64::MAX.to_string()),
        Just(i64::MIN.to_string()),
    ]
}

/// Any JSON value as text.
pub fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        number(),
        string(),
        Just("[]".to_owned()),
        Just("{ }".to_owned()),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            (prop::collection::vec(inner.clone(), 0..4), space())
                .prop_map(|(elements, space)| list(&elements, space)),
            (prop::collection::vec((string(), inner), 0..4), space())
                .prop_map(|(members, space)| object(&members, space)),
        ]
    })
}

fn list(elements: &[String], space: &str) -> String {
    format!("[{space}{}{space}]", elements.join(&format!("{space},{space}")))
}

/// An object of members whose keys are JSON strings already.
fn object(members: &[(String, String)], space: &str) -> String {
    let members: Vec<String> =
        members.iter().map(|(key, value)| format!("{key}{space}:{space}{value}")).collect();
    format!("{{{space}{}{space}}}", members.join(&format!("{space},{space}")))
}

/// Members that none of the decoders looks at.
fn others() -> impl Strategy<Value = Vec<(String, String)>> {
    let known = ["traceId", "kind", "spans", "id", "resourceSpans", "spanId"];
    let key = text().prop_filter("a key of its own", move |key| !known.contains(&key.as_str()));
    prop::collection::vec((key.prop_map(|key| quoted(&key, false)), value()), 0..4)
}

/// A member that may be missing, null, a number or a string; and what it amounts to.
fn scalar(key: &'static str) -> impl Strategy<Value = Option<(String, String, String)>> {
    let value = prop_oneof![
        4 => (text(), prop::bool::weighted(0.2)).prop_map(|(text, escaped)| (quoted(&text, escaped), text)),
        4 => "[0-9a-f]{16}|[0-9a-f]{32}".prop_map(|id| (format!("\"{id}\""), id)),
        1 => number().prop_map(|number| (number.clone(), number)),
        1 => Just(("null".to_owned(), String::new())),
        1 => Just(("{\"traceId\":\"inner\"}".to_owned(), String::new())),
    ];
    prop::option::weighted(0.8, (value, prop::bool::weighted(0.1)))
        .prop_map(move |found| found.map(|((raw, plain), escaped)| (quoted(key, escaped), raw, plain)))
}

fn plain(scalar: &Option<(String, String, String)>) -> String {
    scalar.as_ref().map(|(_, _, plain)| plain.clone()).unwrap_or_default()
}

fn members(
    mut others: Vec<(String, String)>,
    own: [Option<(String, String, String)>; 2],
) -> Vec<(String, String)> {
    others.extend(own.into_iter().flatten().map(|(key, raw, _)| (key, raw)));
    others
}

type Parts = (Option<(String, String, String)>, Option<(String, String, String)>, Vec<(String, String)>);

fn parts() -> impl Strategy<Value = Parts> {
    (scalar("traceId"), scalar("kind"), others())
}

pub fn json() -> impl Strategy<Value = Sample> {
    let span = (parts(), space()).prop_flat_map(|((trace_id, kind, others), space)| {
        let ids = (plain(&trace_id), plain(&kind));
        Just(members(others, [trace_id, kind]))
            .prop_shuffle()
            .prop_map(move |members| (ids.clone(), object(&members, space)))
    });
    (parts(), prop::collection::vec(span, 0..4), space()).prop_flat_map(|(root, spans, space)| {
        let (trace_id, kind, others) = root;
        let own_or = |own: &str, root: &str| if own.is_empty() { root.to_owned() } else { own.to_owned() };
        let (root_id, root_kind) = (plain(&trace_id), plain(&kind));
        let want: Vec<Want> = spans
            .iter()
            .map(|((id, kind), body)| Want {
                trace_id: own_or(id, &root_id),
                kind: own_or(kind, &root_kind),
                body: Body::Text(body.clone()),
            })
            .collect();
        let bodies: Vec<String> = spans.into_iter().map(|(_, body)| body).collect();
        let mut members = members(others, [trace_id, kind]);
        members.push(("\"spans\"".to_owned(), list(&bodies, space)));
        Just(members).prop_shuffle().prop_map(move |members| Sample {
            format: Format::Json,
            payload: object(&members, space).into_bytes(),
            want: want.clone(),
        })
    })
}

pub fn zipkin() -> impl Strategy<Value = Sample> {
    let kind =
        prop::sample::select(vec!["", "SERVER", "CLIENT", "PRODUCER", "CONSUMER", "seventeen letters"]);
    let id = "[0-9a-f]{16}|[0-9a-f]{32}|[0-9a-f]{65}";
    let span =
        (id, "[0-9a-f]{16}", kind, others(), space()).prop_flat_map(|(trace_id, id, kind, others, space)| {
            let mut members = others;
            members.push(("\"traceId\"".into(), format!("\"{trace_id}\"")));
            members.push(("\"id\"".into(), format!("\"{id}\"")));
            if !kind.is_empty() {
                members.push(("\"kind\"".into(), format!("\"{kind}\"")));
            }
            Just(members).prop_shuffle().prop_map(move |members| Want {
                trace_id: trace_id.clone(),
                kind: kind.to_owned(),
                body: Body::Text(object(&members, space)),
            })
        });
    (prop::collection::vec(span, 0..4), space(), any::<bool>()).prop_map(|(want, space, alone)| {
        let bodies: Vec<String> = want.iter().map(text_of).collect();
        let payload = match bodies.as_slice() {
            [body] if alone => body.clone(),
            bodies => list(bodies, space),
        };
        Sample { format: Format::ZipkinJson, payload: payload.into_bytes(), want }
    })
}

fn text_of(want: &Want) -> String {
    match &want.body {
        Body::Text(text) => text.clone(),
        Body::Json(value) => value.to_string(),
    }
}

pub fn otlp() -> impl Strategy<Value = Sample> {
    let kinds = [
        ("0", ""),
        ("1", "INTERNAL"),
        ("2", "SERVER"),
        ("3", "CLIENT"),
        ("\"SPAN_KIND_PRODUCER\"", "PRODUCER"),
        ("99", ""),
    ];
    let id = prop_oneof![4 => "[0-9a-f]{32}", 1 => "[0-9A-F]{32}", 1 => "[0-9a-f]{65}", 1 => ""];
    let span = (id, prop::sample::select(kinds.to_vec()), others()).prop_flat_map(
        |(id, (raw, kind), mut members)| {
            members.push(("\"traceId\"".into(), format!("\"{id}\"")));
            members.push(("\"kind\"".into(), raw.into()));
            Just(members).prop_shuffle().prop_map(move |members| (id.to_lowercase(), kind, members))
        },
    );
    let scope = (prop::option::of(others()), prop::collection::vec(span, 0..3));
    let resource = (prop::option::of(others()), prop::collection::vec(scope, 0..3));
    (prop::collection::vec(resource, 0..3), space(), any::<bool>()).prop_map(|(resources, space, turned)| {
        let mut want = Vec::new();
        let mut resource_spans = Vec::new();
        for (resource, scopes) in resources {
            let resource = resource.map(|members| object(&members, space));
            let mut scope_spans = Vec::new();
            for (scope, spans) in scopes {
                let scope = scope.map(|members| object(&members, space));
                let mut bodies = Vec::new();
                for (trace_id, kind, members) in spans {
                    let span = object(&members, space);
                    let (resource, scope) =
                        (resource.as_deref().unwrap_or("{}"), scope.as_deref().unwrap_or("{}"));
                    let body =
                        format!("{},\"resource\":{resource},\"scope\":{scope}}}", &span[..span.len() - 1]);
                    bodies.push(span);
                    want.push(Want { trace_id, kind: kind.to_owned(), body: Body::Text(body) });
                }
                scope_spans.push(holder("scope", scope, "spans", &bodies, space, turned));
            }
            resource_spans.push(holder("resource", resource, "scopeSpans", &scope_spans, space, turned));
        }
        let payload =
            holder("other", turned.then(|| "1".into()), "resourceSpans", &resource_spans, space, false);
        Sample { format: Format::OtlpJson, payload: payload.into_bytes(), want }
    })
}

/// `{ common, list }`, turned round or not.
fn holder(
    key: &str,
    common: Option<String>,
    list_key: &str,
    elements: &[String],
    space: &str,
    turned: bool,
) -> String {
    let mut members = vec![(format!("\"{list_key}\""), list(elements, space))];
    if let Some(common) = common {
        members.insert(usize::from(turned), (format!("\"{key}\""), common));
    }
    object(&members, space)
}
