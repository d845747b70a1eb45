//! What the documents between operator and consumer have in common.
//!
//! Both sides are upgraded at different times, so that each must read what its neighbouring versions write:
//!
//! - unknown fields are ignored; a new field whose absence changes nothing is simply added;
//! - a change of meaning that an older reader would get wrong raises the document's `minReader`, and a reader
//!   below that number refuses the document as a whole, with a clear message, and keeps what it has.
//!
//! `crds/golden/` holds documents of the neighbouring versions; tests read them.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::names;

/// A document that is written by one program and read by another one of another version.
pub trait Document: Serialize + DeserializeOwned {
    /// What it is called in messages.
    const NAME: &'static str;
    /// The newest meaning that this program understands.
    const READER: u32;

    /// The oldest reader that gets this document's meaning right: one that ignores the fields which it does not
    /// know.
    fn min_reader(&self) -> u32;
}

/// Why a document cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// It is not JSON, or a field is missing or of another type.
    #[error("cannot read the {name} document: {message}")]
    Malformed {
        /// Which document.
        name: &'static str,
        /// What was expected and found, and where.
        message: String,
    },
    /// It was written for newer programs.
    #[error(
        "the {name} document needs a reader of version {needed}, this program is version {reader}: upgrade the consumers"
    )]
    TooNew {
        /// Which document.
        name: &'static str,
        /// The document's `minReader`.
        needed: u64,
        /// What this program understands.
        reader: u32,
    },
}

/// Reads a document that this or another version has written.
///
/// # Errors
/// See [`DocumentError`].
pub fn read<D: Document>(text: &str) -> Result<D, DocumentError> {
    let value: Value = serde_json::from_str(text).map_err(malformed::<D>)?;
    // Looked at before anything else: a newer document may have fields of other types.
    match value.get("minReader").map(Value::as_u64) {
        Some(Some(needed)) if needed > u64::from(D::READER) => {
            return Err(DocumentError::TooNew { name: D::NAME, needed, reader: D::READER });
        }
        Some(Some(_)) => {}
        _ => {
            let message = "expected a whole number in minReader".to_owned();
            return Err(DocumentError::Malformed { name: D::NAME, message });
        }
    }
    serde_json::from_value(value).map_err(malformed::<D>)
}

/// Writes a document, canonically: keys sorted, no spaces.
///
/// # Errors
/// The document has no JSON form.
pub fn write<D: Document>(document: &D) -> Result<String, DocumentError> {
    let mut value = serde_json::to_value(document).map_err(malformed::<D>)?;
    if let Some(members) = value.as_object_mut() {
        members.insert("minReader".into(), document.min_reader().into());
    }
    Ok(canonical(&value))
}

/// The [hash](names::hash) of the canonical document.
///
/// # Errors
/// As [`write`].
pub fn hash<D: Document>(document: &D) -> Result<String, DocumentError> {
    Ok(names::hash(write(document)?))
}

/// The [`hash`] that the writer of `text` gave it, however it is laid out. Fields that this program does not know
/// count as well, so that both sides call a document by the same hash while their versions differ.
///
/// # Errors
/// The text is not JSON.
pub fn hash_as_written<D: Document>(text: &str) -> Result<String, DocumentError> {
    let value: Value = serde_json::from_str(text).map_err(malformed::<D>)?;
    Ok(names::hash(canonical(&value)))
}

fn malformed<D: Document>(error: serde_json::Error) -> DocumentError {
    DocumentError::Malformed { name: D::NAME, message: error.to_string() }
}

/// JSON with sorted keys and without spaces. Sorted here, because serde_json keeps the order of insertion
/// where any crate of the build asks for that.
fn canonical(value: &Value) -> String {
    match value {
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| key.as_str());
            let members: Vec<_> = members
                .into_iter()
                .map(|(key, value)| format!("{}:{}", Value::from(key.as_str()), canonical(value)))
                .collect();
            format!("{{{}}}", members.join(","))
        }
        Value::Array(items) => format!("[{}]", items.iter().map(canonical).collect::<Vec<_>>().join(",")),
        leaf => leaf.to_string(),
    }
}
