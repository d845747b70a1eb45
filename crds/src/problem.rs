//! What is wrong, for people: problems of a document with their places, errors with their causes.

use std::borrow::Cow;
use std::fmt;

/// One thing that is wrong with a document.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Path of the field, such as `spec.source.kafka.topic`; empty for the document as a whole.
    pub path: String,
    /// What was expected and what was found.
    pub message: String,
}

impl Problem {
    /// A problem of the field at `path`.
    pub fn new(path: impl Into<String>, message: impl Into<String>) -> Self {
        Self { path: path.into(), message: message.into() }
    }

    /// Whether the problem lies at `path` or below it; everything lies below the document as a whole.
    pub fn is_within(&self, path: &str) -> bool {
        path.is_empty()
            || self
                .path
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.path.is_empty() {
            return formatter.write_str(&self.message);
        }
        write!(formatter, "{}: {}", self.path, self.message)
    }
}

/// Everything that is wrong with a document; never empty where it is an error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub struct Problems(pub Vec<Problem>);

impl fmt::Display for Problems {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                formatter.write_str("; ")?;
            }
            write!(formatter, "{problem}")?;
        }
        Ok(())
    }
}

impl From<Problem> for Problems {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

/// A text from a document without what may be a credential: a person may have put a whole URL where a host or a reference
/// to a Secret belongs, and messages reach logs and `/status`. Hides what stands before the last `@`, and the
/// parameters of a URL.
pub(crate) fn without_credentials(text: &str) -> Cow<'_, str> {
    let (hidden, shown) = text.rsplit_once('@').map_or(("", text), |(_, shown)| ("…@", shown));
    let (shown, cut) = match shown.split_once('?') {
        Some((before, parameters)) if parameters.contains('=') => (before, "?…"),
        _ => (shown, ""),
    };
    if hidden.is_empty() && cut.is_empty() {
        return Cow::Borrowed(text);
    }
    Cow::Owned([hidden, shown, cut].concat())
}

/// An error with its causes, on one line. A cause that the text before it ends with is not said again: some libraries
/// print it themselves.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        let said = inner.to_string();
        if !text.ends_with(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        cause = inner.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("{text}")]
    struct Link {
        text: &'static str,
        source: Option<Box<Link>>,
    }

    fn link(text: &'static str, source: Option<Link>) -> Link {
        Link { text, source: source.map(Box::new) }
    }

    #[test]
    fn a_cause_is_said_once_also_where_an_error_prints_it_itself() {
        let refused = || link("refused", None);
        assert_eq!(chain(&link("cannot send", Some(refused()))), "cannot send: refused");
        assert_eq!(chain(&link("cannot send: refused", Some(refused()))), "cannot send: refused");
        let middle = link("connect: refused", Some(refused()));
        assert_eq!(chain(&link("cannot send", Some(middle))), "cannot send: connect: refused");
    }
}
