//! Compares a document with the structure that the schema gives: fields, types, numbers and words.
//!
//! Texts are left to [`crate::validate`], whose messages say what is meant instead of showing a pattern.

use std::sync::LazyLock;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

use crate::problem::{Problem, without_credentials};
use crate::v1alpha1::crd;

/// The schema of a whole resource: the CRD's, with what the API server adds to it.
pub(super) static SCHEMA: LazyLock<Value> = LazyLock::new(|| {
    let version = crd().spec.versions.into_iter().next();
    let properties = version.and_then(|version| version.schema?.open_api_v3_schema);
    let properties = properties.expect("the CRD has one version, with a schema");
    let mut schema = serde_json::to_value(properties).expect("a schema has a JSON form");
    schema["properties"]["apiVersion"] = json!({ "type": "string", "enum": ["sluice.dev/v1alpha1"] });
    schema["properties"]["kind"] = json!({ "type": "string", "enum": ["TracePipeline"] });
    schema["properties"]["metadata"] = metadata_schema();
    schema["required"] = json!(["apiVersion", "kind", "metadata", "spec"]);
    schema
});

fn metadata_schema() -> Value {
    let settings = SchemaSettings::openapi3().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<ObjectMeta>().to_value();
    schema["required"] = json!(["name"]);
    schema
}

/// Reports what does not fit the schema and replaces it. Members that are null count as absent, as they do
/// for the API server.
pub(super) fn repair(schema: &Value, value: &mut Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    // What the API server has written is not for us to judge: an operator of a later version may have put more there.
    value.as_object_mut().and_then(|members| members.remove("status"));
    let metadata = value.get_mut("metadata").and_then(Value::as_object_mut);
    metadata.and_then(|metadata| metadata.remove("managedFields"));
    visit(schema, value, "", &mut problems);
    problems
}

/// Replaces the value at `path`, or takes it away where it is optional. False where there is nothing to do.
pub(super) fn reset(schema: &Value, value: &mut Value, path: &[String]) -> bool {
    let Some((field, rest)) = path.split_first() else { return false };
    if let Some(items) = value.as_array_mut() {
        let index = field.trim_matches(['[', ']']).parse::<usize>().ok();
        let Some(item) = index.and_then(|index| items.get_mut(index)) else { return false };
        return reset(&schema["items"], item, rest);
    }
    let Some(members) = value.as_object_mut() else { return false };
    let Some(inner) = members.get_mut(field) else { return false };
    let inner_schema = member_schema(schema, field);
    if !rest.is_empty() {
        return reset(inner_schema.unwrap_or(&Value::Null), inner, rest);
    }
    match inner_schema {
        Some(inner_schema) if is_required(schema, field) => *inner = placeholder(inner_schema),
        _ => drop(members.remove(field)),
    }
    true
}

fn visit(schema: &Value, value: &mut Value, path: &str, problems: &mut Vec<Problem>) {
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("boolean") => value.is_boolean(),
        Some("integer") => value.is_i64() || value.is_u64(),
        _ => true,
    };
    if !fits {
        let quotes = if schema["type"] == "string" && !value.is_object() && !value.is_array() {
            "; put it in quotes"
        } else {
            ""
        };
        // Where a reference to a Secret belongs, what stands there may be the secret itself.
        let is_container = matches!(schema["type"].as_str(), Some("object" | "array"));
        let found = if is_container { describe_type(value).to_owned() } else { describe(value) };
        let expected = expected_type(schema);
        problems.push(Problem::new(path, format!("expected {expected}, found {found}{quotes}")));
        *value = placeholder(schema);
        return;
    }
    if let Some(message) = outside(schema, value) {
        problems.push(Problem::new(path, message));
        *value = placeholder(schema);
        return;
    }
    if let Some(members) = value.as_object_mut() {
        visit_members(schema, members, path, problems);
    }
    for (index, item) in value.as_array_mut().into_iter().flatten().enumerate() {
        visit(&schema["items"], item, &format!("{path}[{index}]"), problems);
    }
}

fn visit_members(schema: &Value, members: &mut Map<String, Value>, path: &str, problems: &mut Vec<Problem>) {
    members.retain(|_, member| !member.is_null());
    let is_map = schema["additionalProperties"].is_object();
    let names: Vec<String> = members.keys().cloned().collect();
    for name in names {
        let inner_path = match path {
            "" => name.clone(),
            _ if is_map => format!("{path}[{name}]"),
            _ => format!("{path}.{name}"),
        };
        match (member_schema(schema, &name), members.get_mut(&name)) {
            (Some(inner), Some(member)) => visit(inner, member, &inner_path, problems),
            // An object without declared members takes any.
            (None, _) if schema["properties"].is_object() => {
                problems.push(Problem::new(inner_path, unknown(schema, &name)));
                members.remove(&name);
            }
            _ => {}
        }
    }
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !members.contains_key(name) {
            let inner = &schema["properties"][name];
            let inner_path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
            problems.push(Problem::new(inner_path, format!("missing; expected {}", expected_type(inner))));
            members.insert(name.to_owned(), placeholder(inner));
        }
    }
}

fn member_schema<'a>(schema: &'a Value, name: &str) -> Option<&'a Value> {
    let declared = schema["properties"].get(name);
    declared.or_else(|| schema.get("additionalProperties").filter(|values| values.is_object()))
}

fn is_required(schema: &Value, name: &str) -> bool {
    schema["required"].as_array().is_some_and(|required| required.iter().any(|field| field == name))
}

/// Numbers beyond their bounds, words that are not in the list, and what is no time.
fn outside(schema: &Value, value: &Value) -> Option<String> {
    if let Some(words) = schema["enum"].as_array().filter(|words| !words.contains(value)) {
        let words: Vec<_> = words.iter().filter_map(Value::as_str).collect();
        return Some(format!("expected {}, found {}", words.join(", "), describe(value)));
    }
    if schema["format"] == "date-time" && value.as_str()?.parse::<jiff::Timestamp>().is_err() {
        return Some(format!("expected a timestamp like 2026-11-21T06:00:00Z, found {}", describe(value)));
    }
    let number = value.as_f64()?;
    let (low, high) = (schema["minimum"].as_f64(), schema["maximum"].as_f64());
    let inside = low.is_none_or(|low| number >= low) && high.is_none_or(|high| number <= high);
    (!inside).then(|| format!("expected {}, found {value}", expected_type(schema)))
}

fn expected_type(schema: &Value) -> String {
    let words = schema["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let words: Vec<_> = words.collect();
    match (schema["type"].as_str(), schema["minimum"].as_f64(), schema["maximum"].as_f64()) {
        (Some("string"), ..) if !words.is_empty() => words.join(", "),
        (Some("string"), ..) => "text".into(),
        (Some("boolean"), ..) => "true or false".into(),
        (Some("integer"), Some(low), Some(high)) => format!("a whole number from {low} to {high}"),
        (Some("integer"), ..) => "a whole number".into(),
        (Some("array"), ..) => "a list".into(),
        _ => match schema["properties"].as_object() {
            Some(fields) => {
                format!("an object with {}", fields.keys().map(String::as_str).collect::<Vec<_>>().join(", "))
            }
            None => "an object".into(),
        },
    }
}

fn describe(value: &Value) -> String {
    const MOST: usize = 60;
    match value {
        Value::Bool(_) => value.to_string(),
        Value::Number(_) => format!("the number {value}"),
        Value::String(text) => {
            let text = without_credentials(text);
            let shown: String = text.chars().take(MOST).collect();
            let rest = if shown.len() < text.len() { "…" } else { "" };
            format!("the text {shown:?}{rest}")
        }
        _ => describe_type(value).into(),
    }
}

fn describe_type(value: &Value) -> &'static str {
    match value {
        Value::Null => "nothing",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

fn unknown(schema: &Value, name: &str) -> String {
    let fields: Vec<_> =
        schema["properties"].as_object().into_iter().flat_map(Map::keys).map(String::as_str).collect();
    if name == "topics" && fields.contains(&"topicPattern") {
        return "unknown field; several topics are a pattern, such as topicPattern: 'a|b'".into();
    }
    match fields.iter().map(|field| (distance(field, name), field)).min() {
        Some((0..=2, field)) => format!("unknown field; did you mean {field}?"),
        _ => format!("unknown field; expected {}", fields.join(", ")),
    }
}

/// Levenshtein distance, ignoring case.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.to_lowercase().chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (index, letter) in left.to_lowercase().chars().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], index + 1);
        for column in 1..=right.len() {
            let replaced = diagonal + usize::from(letter != right[column - 1]);
            diagonal = row[column];
            row[column] = replaced.min(row[column] + 1).min(row[column - 1] + 1);
        }
    }
    row[right.len()]
}

/// Something that fits a schema's types.
fn placeholder(schema: &Value) -> Value {
    if let Some(word) = schema["enum"].as_array().and_then(|words| words.first()) {
        return word.clone();
    }
    match schema["type"].as_str() {
        Some("string") if schema["format"] == "date-time" => "1970-01-01T00:00:00Z".into(),
        Some("string") if schema["pattern"] == crate::duration::PATTERN => "0s".into(),
        Some("string") => schema.get("default").cloned().unwrap_or_else(|| "".into()),
        Some("boolean") => false.into(),
        Some("integer") => (schema["minimum"].as_f64().unwrap_or_default() as i64).into(),
        Some("array") => json!([]),
        _ => {
            let required = schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str);
            required.map(|name| (name.to_owned(), placeholder(&schema["properties"][name]))).collect()
        }
    }
}
