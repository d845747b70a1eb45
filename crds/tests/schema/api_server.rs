//! What an API server does with a custom resource in strict mode.

use jsonschema::PatternOptions;
use kube_cel::{CompiledSchema, Validator, apply_defaults, compile_schema, estimate_rule_cost};
use serde_json::{Value, json};
use sluice_crds::problem::Problem;
use sluice_crds::v1alpha1::crd;

/// Paths of problems.
pub fn paths(problems: &[Problem]) -> impl Iterator<Item = &str> {
    problems.iter().map(|problem| problem.path.as_str())
}

/// Applies the generated CRD.
pub struct ApiServer {
    schema: Value,
    strict: jsonschema::Validator,
    rules: CompiledSchema,
}

impl ApiServer {
    /// With the CRD as the types generate it.
    pub fn new() -> Self {
        let props = crd().spec.versions.remove(0).schema.unwrap().open_api_v3_schema.unwrap();
        let mut schema = serde_json::to_value(props).unwrap();
        schema["properties"]["apiVersion"] = json!({ "type": "string" });
        schema["properties"]["kind"] = json!({ "type": "string" });
        schema["properties"]["metadata"] = json!({ "type": "object", "additionalProperties": true });
        let mut strict = schema.clone();
        refuse_unknown(&mut strict);
        let strict = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft7)
            // Like Go's regular expressions: linear, without look-around.
            .with_pattern_options(PatternOptions::regex())
            .should_validate_formats(true)
            .build(&strict)
            .unwrap();
        Self { rules: compile_schema(&schema), schema, strict }
    }

    /// What it gives to those who read a document that was created.
    pub fn stored(&self, document: &Value) -> Value {
        apply_defaults(&self.schema, document)
    }

    /// Everything that it says about a creation, or about an update of `old`.
    pub fn refuses(&self, document: &Value, old: Option<&Value>) -> Vec<Problem> {
        let document = apply_defaults(&self.schema, document);
        let old = old.map(|old| apply_defaults(&self.schema, old));
        let by_schema = self.strict.iter_errors(&document).map(|error| {
            let missing = match error.kind() {
                jsonschema::error::ValidationErrorKind::Required { property } => property.as_str(),
                _ => None,
            };
            Problem::new(dotted(error.instance_path().as_str(), missing), error.to_string())
        });
        let mut problems: Vec<_> = by_schema.collect();
        // As the API server does: rules count where the structure is right.
        if problems.is_empty() {
            let rules = Validator::new().validate_compiled(&self.rules, &document, old.as_ref());
            let errors = rules.err().map(|errors| errors.into_vec()).unwrap_or_default();
            problems.extend(errors.into_iter().map(|error| Problem::new(error.field_path, error.message)));
        }
        problems
    }

    /// Rules that do not compile or may cost more than an API server allows.
    pub fn rule_warnings(&self) -> Vec<String> {
        fn visit(schema: &Value, compiled: &CompiledSchema, warnings: &mut Vec<String>) {
            warnings.extend(compiled.compilation_errors().iter().map(ToString::to_string));
            for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
                let found = estimate_rule_cost(rule["rule"].as_str().unwrap(), compiled);
                warnings.extend(
                    found.into_iter().map(|warning| format!("{}: {}", warning.rule, warning.message)),
                );
            }
            for (name, inner) in &compiled.properties {
                visit(&schema["properties"][name], inner, warnings);
            }
        }
        let mut warnings = Vec::new();
        visit(&self.schema, &self.rules, &mut warnings);
        warnings
    }

    /// Fields without bounds.
    pub fn unbounded(&self) -> Vec<String> {
        let mut found = Vec::new();
        unbounded(&self.schema["properties"]["spec"], "spec", &mut found);
        found
    }
}

fn unbounded(schema: &Value, path: &str, found: &mut Vec<String>) {
    let has = |keyword: &str| schema.get(keyword).is_some();
    let bounded = match schema["type"].as_str() {
        Some("string") => has("enum") || has("maxLength"),
        Some("integer") => has("minimum") && has("maximum"),
        Some("array") => has("maxItems"),
        Some("object") => has("properties") || has("maxProperties"),
        Some("boolean") => true,
        // The integer is one of 64 bits.
        None if schema["x-kubernetes-int-or-string"] == true => has("maxLength") && has("minimum"),
        _ => false,
    };
    if !bounded {
        found.push(path.to_owned());
    }
    for (name, inner) in schema["properties"].as_object().into_iter().flatten() {
        if inner["description"].as_str().is_none_or(str::is_empty) {
            found.push(format!("{path}.{name} has no description"));
        }
        unbounded(inner, &format!("{path}.{name}"), found);
    }
    for keyword in ["items", "additionalProperties"] {
        if schema[keyword].is_object() {
            unbounded(&schema[keyword], &format!("{path}[]"), found);
        }
    }
}

fn refuse_unknown(schema: &mut Value) {
    if schema.get("properties").is_some() && schema.get("additionalProperties").is_none() {
        schema["additionalProperties"] = false.into();
    }
    let fields = schema.get_mut("properties").and_then(Value::as_object_mut);
    fields.into_iter().flat_map(|fields| fields.values_mut()).for_each(refuse_unknown);
}

/// A JSON Pointer as a path of fields.
fn dotted(pointer: &str, missing: Option<&str>) -> String {
    let parts =
        pointer.split('/').skip(1).chain(missing).map(|part| part.replace("~1", "/").replace("~0", "~"));
    let mut path = String::new();
    for part in parts {
        let in_map = [".properties", ".requests", ".limits"].iter().any(|map| path.ends_with(map));
        let is_index = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if in_map || is_index {
            path += &format!("[{part}]");
        } else {
            if !path.is_empty() {
                path.push('.');
            }
            path += &part;
        }
    }
    path
}
