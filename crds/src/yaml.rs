//! The one place that uses serde_yaml.
//!
//! serde_yaml is deprecated upstream (last release 2024) but complete, and what the project's users asked for.
//! Everything else speaks of these functions, so that replacing it is a change of this file.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_yaml::Value;

use crate::problem::Problem;

/// Reads one YAML document.
///
/// # Errors
/// The parser's message, with line and column where it knows them.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<T, String> {
    serde_yaml::from_str(without_mark(text)).map_err(|error| error.to_string())
}

/// Reads one YAML document as JSON; refuses a mapping with a repeated key. Empty documents before and after it, such as
/// a last line `---` makes, are none.
///
/// # Errors
/// The parser's message, with line and column where it knows them; or there are several documents; or a number is one
/// that JSON does not have.
pub fn to_json(text: &str) -> Result<serde_json::Value, String> {
    let (value, problems) = to_json_with_problems(text)?;
    problems.first().map_or(Ok(value), |problem| Err(problem.to_string()))
}

/// The same, and numbers that JSON does not have (`.inf`, `.nan`) as problems: null stands in their places.
///
/// # Errors
/// Likewise, but for these.
pub fn to_json_with_problems(text: &str) -> Result<(serde_json::Value, Vec<Problem>), String> {
    let text = without_mark(text);
    // JSON is YAML, but for pairs of surrogates (`\ud83d\ude00`), which the parser refuses, and Python writes.
    let mut value = documents(text).or_else(|error| serde_json::from_str(text).map_err(|_| error))?;
    value.apply_merge().map_err(|error| error.to_string())?;
    let mut problems = Vec::new();
    find_infinite(&value, "", &mut problems);
    Ok((serde_json::to_value(value).map_err(|error| error.to_string())?, problems))
}

/// The one document that is not empty.
fn documents(text: &str) -> Result<Value, String> {
    let mut value = Value::Null;
    for document in serde_yaml::Deserializer::from_str(text) {
        let next = Value::deserialize(document).map_err(|error| error.to_string())?;
        if next.is_null() {
            continue;
        }
        if !value.is_null() {
            return Err("expected one document, found several (a line `---` begins another)".to_owned());
        }
        value = next;
    }
    Ok(value)
}

fn find_infinite(value: &Value, path: &str, problems: &mut Vec<Problem>) {
    match value {
        Value::Number(number) if number.as_f64().is_some_and(|number| !number.is_finite()) => {
            problems.push(Problem::new(path, format!("expected a finite number, found {number}")));
        }
        Value::Sequence(items) => {
            for (index, item) in items.iter().enumerate() {
                find_infinite(item, &format!("{path}[{index}]"), problems);
            }
        }
        Value::Mapping(members) => {
            for (name, member) in members {
                let name = name.as_str().unwrap_or_default();
                let dot = if path.is_empty() { "" } else { "." };
                find_infinite(member, &format!("{path}{dot}{name}"), problems);
            }
        }
        Value::Tagged(tagged) => find_infinite(&tagged.value, path, problems),
        _ => {}
    }
}

/// Without the byte order mark that a document may begin with (YAML 1.2, 5.2), and that some editors write; serde_yaml
/// takes it for content.
fn without_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// Writes one YAML document.
///
/// # Errors
/// The value has no YAML form (a map with keys that are no strings, for example).
pub fn to_string<T: Serialize>(value: &T) -> Result<String, String> {
    serde_yaml::to_string(value).map_err(|error| error.to_string())
}
