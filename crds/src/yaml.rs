//! The one place that uses serde_yaml.
//!
//! serde_yaml is deprecated upstream (last release 2024) but complete, and what the project's users asked for.
//! Everything else speaks of these functions, so that replacing it is a change of this file.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

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
/// The parser's message, with line and column where it knows them; or there are several documents.
pub fn to_json(text: &str) -> Result<serde_json::Value, String> {
    let mut value = serde_yaml::Value::Null;
    for document in serde_yaml::Deserializer::from_str(without_mark(text)) {
        let next = serde_yaml::Value::deserialize(document).map_err(|error| error.to_string())?;
        if next.is_null() {
            continue;
        }
        if !value.is_null() {
            return Err("expected one document, found several (a line `---` begins another)".to_owned());
        }
        value = next;
    }
    value.apply_merge().map_err(|error| error.to_string())?;
    serde_json::to_value(value).map_err(|error| error.to_string())
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
