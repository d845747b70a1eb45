//! The reference page of the fields, from the schema's own texts.

use std::fmt::Write;

use serde_json::Value;

use crate::v1alpha1::{KAFKA_PROPERTIES, PropertyValue, crd};

/// The head of a table of fields.
const HEAD: &str = "| field | type | default | meaning |\n|---|---|---|---|\n";

/// The generated `docs/reference.md`.
///
/// # Errors
/// The schema has no JSON form.
pub fn markdown() -> Result<String, String> {
    let version =
        crd().spec.versions.into_iter().next().and_then(|version| version.schema?.open_api_v3_schema);
    let schema = serde_json::to_value(version).map_err(|error| error.to_string())?;
    let mut page = String::from(
        "<!-- Generated from crds/src/v1alpha1.rs: cargo run --bin crdgen -- reference > docs/reference.md -->\n\
         # Fields of a TracePipeline\n\n\
         `apiVersion: sluice.dev/v1alpha1`, `kind: TracePipeline`. Fields that are called *live* take effect within a second, \
         without a restart. Fields in **bold** are required where the object that holds them is set.\n\n",
    );
    page.push_str(HEAD);
    rows(&schema["properties"]["spec"], "spec", &mut page);
    page.push_str("\n## Rules\n\n");
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        // Of the name: the schema of an object's metadata is Kubernetes' own.
        if let Some((field, rule)) = rule["message"].as_str().and_then(|message| message.split_once(": ")) {
            let _ = writeln!(page, "- `{field}`: {rule}");
        }
    }
    rules(&schema["properties"]["spec"], "spec", &mut page);
    page.push_str(
        "\n## Settings allowed in `spec.source.kafka.properties`\n\n| setting | value |\n|---|---|\n",
    );
    for property in KAFKA_PROPERTIES {
        let value = match property.value {
            PropertyValue::Text => "text".to_owned(),
            PropertyValue::Bool => "`true`, `false`".to_owned(),
            PropertyValue::Integer(low, high) => format!("{low} to {high}"),
            PropertyValue::OneOf(words) => format!("`{}`", words.join("`, `")),
        };
        let _ = writeln!(page, "| `{}` | {value} |", property.name);
    }
    page.push_str(
        "\n## Status\n\n\
         What the operator tells. [What the conditions mean](operations.md#what-the-conditions-mean), and what to do.\n\n",
    );
    page.push_str(HEAD);
    rows(&schema["properties"]["status"], "status", &mut page);
    Ok(page)
}

fn rows(schema: &Value, path: &str, page: &mut String) {
    let required: Vec<_> =
        schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let shown =
            if required.contains(&name.as_str()) { format!("**`{path}`**") } else { format!("`{path}`") };
        let default = match &field["default"] {
            Value::Null | Value::Object(_) => String::new(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        let text = field["description"]
            .as_str()
            .unwrap_or_default()
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" ");
        // Writing to a String cannot fail.
        let _ = writeln!(page, "| {shown} | {} | {default} | {} |", type_of(field), text.replace('|', "\\|"));
        if !is_secret(field) && !is_condition(&field["items"]) {
            rows(field, &path, page);
            rows(&field["items"], &format!("{path}[]"), page);
        }
    }
}

/// References to Secrets are all alike: one row each is enough.
fn is_secret(field: &Value) -> bool {
    field["properties"]["secretKeyRef"].is_object()
}

/// Kubernetes' own type, of which its own reference tells.
fn is_condition(item: &Value) -> bool {
    item["properties"]["lastTransitionTime"].is_object()
}

fn type_of(field: &Value) -> String {
    if is_secret(field) {
        return "`{ secretKeyRef: { name, key } }`".into();
    }
    let number = |keyword: &str| field[keyword].as_f64();
    match field["type"].as_str() {
        Some("string") if field["enum"].is_array() => {
            let words = field["enum"].as_array().into_iter().flatten().filter_map(Value::as_str);
            words.map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", ")
        }
        Some("string") if field["format"] == "date-time" => "timestamp".into(),
        Some("string") => "text".into(),
        Some("integer") => match (number("minimum"), number("maximum")) {
            (Some(low), Some(high)) => format!("{low} to {high}"),
            _ => "number".into(),
        },
        Some("object") if field["additionalProperties"]["x-kubernetes-int-or-string"] == true => {
            "map of quantities".into()
        }
        Some("object") if field["additionalProperties"].is_object() => "map of texts".into(),
        Some(other) => other.into(),
        None => String::new(),
    }
}

fn rules(schema: &Value, path: &str, page: &mut String) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let field = format!("{path}{}", rule["fieldPath"].as_str().unwrap_or_default());
        let _ = writeln!(page, "- `{field}`: {}", rule["message"].as_str().unwrap_or_default());
    }
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        rules(field, &format!("{path}.{name}"), page);
        rules(&field["items"], &format!("{path}.{name}[]"), page);
    }
}
