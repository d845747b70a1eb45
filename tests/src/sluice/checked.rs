//! `sluice check --connect`, and what it reports.

use std::process::Command;

use anyhow::Context;
use serde_json::Value;

use super::{Home, Pipeline, binary};

/// The password that must not be shown.
pub const CANARY: &str = "canary-4711";

/// A report, and whether the command succeeded.
pub struct Checked {
    success: bool,
    /// All that it printed.
    pub text: String,
    report: Value,
}

impl Checked {
    /// Runs the command on a pipeline; `edit` changes its file first.
    ///
    /// # Errors
    /// It prints no report.
    pub fn run(pipeline: &Pipeline, edit: impl Fn(String) -> String) -> anyhow::Result<Self> {
        let home = Home::new(pipeline)?;
        home.save(&edit(pipeline.yaml()))?;
        Self::of(&home)
    }

    /// Runs the command on a pipeline's file and secrets as they lie there.
    ///
    /// # Errors
    /// It prints no report.
    pub fn of(home: &Home) -> anyhow::Result<Self> {
        let output = Command::new(binary()?)
            .args(["check", "--connect", "-o", "json", "-f"])
            .arg(home.path().join("pipeline.yaml"))
            .arg("--secrets-dir")
            .arg(home.path().join("secrets"))
            .arg("--data-dir")
            .arg(home.path().join("data"))
            .output()?;
        let text = String::from_utf8(output.stdout)? + &String::from_utf8(output.stderr)?;
        let report = serde_json::from_str(&text).with_context(|| text.clone())?;
        Ok(Self { success: output.status.success(), text, report })
    }

    /// The checks that failed, as `path: detail; remedy`.
    fn failed(&self) -> Vec<String> {
        let text = |check: &Value, field: &str| check[field].as_str().unwrap_or_default().to_owned();
        let checks = self.report["checks"].as_array().into_iter().flatten();
        let failed = checks.filter(|check| check["state"] == "Failed");
        let line =
            |check| format!("{}: {}; {}", text(check, "path"), text(check, "detail"), text(check, "remedy"));
        failed.map(line).collect()
    }

    /// Exactly these checks failed, by the beginnings of their lines.
    ///
    /// # Panics
    /// Others did, or the password is shown.
    pub fn expect_failed(&self, expected: &[&str]) {
        let expected: Vec<(&str, &[&str])> = expected.iter().map(|&beginning| (beginning, &[][..])).collect();
        self.expect_told(&expected);
    }

    /// As [`Self::expect_failed`], with words that each line, which ends with its remedy, must have.
    ///
    /// # Panics
    /// As [`Self::expect_failed`].
    pub fn expect_told(&self, expected: &[(&str, &[&str])]) {
        let failed = self.failed();
        let matches = failed.len() == expected.len()
            && failed.iter().zip(expected).all(|(line, (beginning, words))| {
                line.starts_with(beginning) && words.iter().all(|word| line.contains(word))
            });
        assert!(matches, "expected {expected:#?}, found {failed:#?}\n{}", self.text);
        assert_eq!(self.success, expected.is_empty());
        assert!(!self.text.contains(CANARY), "{}", self.text);
    }
}
