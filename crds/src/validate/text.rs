//! What a text must be like: names, patterns, pointers; and how one is shown.

use std::fmt::Display;

use regex::bytes::{Regex, RegexBuilder};

use super::MAX_PIPELINE_NAME;
use crate::problem::without_credentials;

/// Longest DNS subdomain (RFC 1123), and longest key of a Secret.
pub(super) const MAX_SUBDOMAIN: usize = 253;
/// Longest DNS label (RFC 1123).
const MAX_LABEL: usize = 63;
/// Longest name of a table: PostgreSQL's bound, the smallest of the backends.
const MAX_TABLE_NAME: usize = 63;

/// The pattern as it is applied: to whole topic names. Those are ASCII, so that classes such as `\w` are, too.
///
/// # Errors
/// What is wrong with the expression.
pub fn topic_regex(pattern: &str) -> Result<Regex, String> {
    let compile = |pattern: &str| RegexBuilder::new(pattern).unicode(false).build();
    // Compiled as it stands first: `a)(b` must not become valid by the parentheses around it.
    compile(pattern)
        .and_then(|_| compile(&format!("^(?:{pattern})$")))
        .map_err(|error| format!("not a regular expression: {}", last_line(&error.to_string())))
}

fn last_line(text: &str) -> &str {
    text.lines().last().unwrap_or(text).trim_start_matches("error: ")
}

/// Whether a text is a JSON Pointer (RFC 6901).
pub fn is_json_pointer(text: &str) -> bool {
    let escapes_are_whole =
        || text.split('~').skip(1).all(|after| after.starts_with('0') || after.starts_with('1'));
    text.is_empty() || (text.starts_with('/') && escapes_are_whole())
}

/// Whether a text can name a trace table in every backend, and is none of ours or SQLite's.
pub fn is_table_name(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=MAX_TABLE_NAME).contains(&text.len())
        && !text.as_bytes()[0].is_ascii_digit()
        && text.bytes().all(word)
        && !["sluice_", "sqlite_"].iter().any(|taken| text.to_ascii_lowercase().starts_with(taken))
}

/// Whether a text is a DNS subdomain (RFC 1123), as names of Kubernetes objects are.
pub fn is_object_name(text: &str) -> bool {
    text.len() <= MAX_SUBDOMAIN && text.split('.').all(is_label)
}

/// Whether a text is a DNS label (RFC 1123), as names of namespaces are.
pub fn is_namespace_name(text: &str) -> bool {
    text.len() <= MAX_LABEL && is_label(text)
}

/// Whether a text has the letters of a DNS label, whatever its length.
fn is_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// Whether a text can name a pipeline: one of the objects whose children are called after it is a Service, whose name
/// begins with a letter.
pub fn is_pipeline_name(text: &str) -> bool {
    is_object_name(text) && text.len() <= MAX_PIPELINE_NAME && text.as_bytes()[0].is_ascii_lowercase()
}

/// Whether a text can be a key of a Secret, and so the name of a file.
pub fn is_secret_key(text: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    (1..=MAX_SUBDOMAIN).contains(&text.len())
        && text.bytes().all(allowed)
        && text != "."
        && !text.starts_with("..")
}

/// A found value, quoted, never longer than a line, and without credentials.
pub(super) struct Quoted<'a>(pub(super) &'a str);

impl Display for Quoted<'_> {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const MOST: usize = 80;
        let text = without_credentials(self.0);
        match text.char_indices().nth(MOST) {
            Some((end, _)) => write!(formatter, "{:?}… ({} characters)", &text[..end], text.chars().count()),
            None => write!(formatter, "{text:?}"),
        }
    }
}
