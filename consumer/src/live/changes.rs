//! What differs between two documents, for people.

use serde_json::Value;
use sluice_crds::live::Live;
use sluice_crds::settings::Settings;

/// Old and new value of each live field that differs, such as `rateLimitQPS 5000 -> 500`.
pub fn describe(old: &Live, new: &Live) -> String {
    let (old, new) = (as_json(old), as_json(new));
    let show = |value: &Value| if value.is_null() { "none".to_owned() } else { value.to_string() };
    let changes = differences(&old, &new, "");
    let change = |(path, old, new): &(String, Value, Value)| format!("{path} {} -> {}", show(old), show(new));
    changes.iter().map(change).collect::<Vec<_>>().join(", ")
}

/// Paths of the settings that differ, as they are called in the file.
pub fn changed_fields(old: &Settings, new: &Settings) -> Vec<String> {
    let changes = differences(&as_json(old), &as_json(new), "spec");
    let path = |path: String| if path == "spec.pipeline" { "metadata".to_owned() } else { path };
    changes.into_iter().map(|(changed, ..)| path(changed)).collect()
}

fn as_json(document: &impl serde::Serialize) -> Value {
    serde_json::to_value(document).unwrap_or_default()
}

/// Leaves that differ; a part that only one side has is named as a whole.
fn differences(old: &Value, new: &Value, path: &str) -> Vec<(String, Value, Value)> {
    let (Value::Object(left), Value::Object(right)) = (old, new) else {
        return if old == new { Vec::new() } else { vec![(path.to_owned(), old.clone(), new.clone())] };
    };
    let mut names: Vec<_> = left.keys().chain(right.keys()).collect();
    names.sort();
    names.dedup();
    let inner = |name: &String| if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
    names.iter().flat_map(|name| differences(&old[*name], &new[*name], &inner(name))).collect()
}
