//! What was checked, and how it is printed.

use std::fmt;
use std::path::Path;

use serde::Serialize;

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum State {
    /// It is as it must be.
    Ok,
    /// It is allowed, and hardly what was meant.
    Notice,
    /// It is not; the pipeline would not work.
    Failed,
    /// It could not be tried, because something before it failed.
    Skipped,
}

/// One line of the report.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// Path of the field that it belongs to, or `file`.
    pub path: String,
    /// How it ended.
    pub state: State,
    /// What was found.
    pub detail: String,
    /// What to do; empty where nothing needs to be done.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Finding {
    /// Something that is as it must be.
    pub fn ok(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { path: path.into(), state: State::Ok, detail: detail.into(), remedy: String::new() }
    }

    /// Something that may be so, and is hardly meant.
    pub fn notice(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { state: State::Notice, ..Self::ok(path, detail) }
    }

    /// Something that is not.
    pub fn failed(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { state: State::Failed, ..Self::ok(path, detail) }
    }

    /// Something that could not be tried.
    pub fn skipped(path: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { state: State::Skipped, ..Self::ok(path, detail) }
    }

    /// Adds what to do.
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy = remedy.into();
        self
    }
}

/// Everything that was checked.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The file.
    pub file: String,
    /// `namespace/name`, where the file is valid.
    pub pipeline: Option<String>,
    /// Whether nothing failed.
    ok: bool,
    checks: Vec<Finding>,
}

impl Report {
    /// An empty report on a file.
    pub fn new(file: &Path) -> Self {
        Self { file: file.display().to_string(), pipeline: None, ok: true, checks: Vec::new() }
    }

    /// Adds a line.
    pub fn push(&mut self, finding: Finding) {
        self.ok &= finding.state != State::Failed;
        self.checks.push(finding);
    }

    /// Adds lines.
    pub fn extend(&mut self, findings: Vec<Finding>) {
        findings.into_iter().for_each(|finding| self.push(finding));
    }

    /// Number of checks.
    pub fn len(&self) -> usize {
        self.checks.len()
    }

    /// Whether a check at this path or below it failed.
    pub fn has_failed(&self, path: &str) -> bool {
        let failed = |finding: &&Finding| finding.state == State::Failed;
        self.checks.iter().filter(failed).any(|finding| finding.path.starts_with(path))
    }

    /// Number of checks that failed.
    pub fn failed(&self) -> usize {
        self.checks.iter().filter(|finding| finding.state == State::Failed).count()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|finding| finding.path.len()).max().unwrap_or_default();
        for Finding { path, state, detail, remedy } in &self.checks {
            let state = match state {
                State::Ok => "OK",
                State::Notice => "NOTICE",
                State::Failed => "FAILED",
                State::Skipped => "SKIPPED",
            };
            writeln!(formatter, "{state:<8}{path:<width$}  {detail}")?;
            if !remedy.is_empty() {
                writeln!(formatter, "{:8}{:width$}  remedy: {remedy}", "", "")?;
            }
        }
        match self.failed() {
            0 => Ok(()),
            failed => writeln!(formatter, "{failed} of {} checks failed", self.len()),
        }
    }
}
