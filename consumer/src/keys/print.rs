//! What `sluice keys status` and `rotate` print.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use jiff::Timestamp;
use serde::Serialize;
use serde_json::{Value, json};
use sluice_crds::problem::chain;

use super::others::Other;
use crate::seal::KeyRing;
use crate::store::key::{SealedDictionary, WrappedKey};

/// A key of the ring, or one that data keys need and the ring lacks.
struct Line {
    name: String,
    primary: bool,
    /// Why it is of no use.
    problem: Option<String>,
    data_keys: usize,
    newest_ms: Option<i64>,
}

/// All that is shown.
pub(super) struct Report<'a> {
    lines: Vec<Line>,
    others: &'a [Other],
    dictionaries: &'a [SealedDictionary],
}

impl<'a> Report<'a> {
    /// What ring and tables hold; `wrapped` and `dictionaries` are those of the pipeline's own `table`.
    pub(super) fn new(
        ring: &KeyRing,
        table: &str,
        wrapped: &[WrappedKey],
        others: &'a [Other],
        dictionaries: &'a [SealedDictionary],
    ) -> Self {
        let mut by_name: BTreeMap<&str, Vec<i64>> = BTreeMap::new();
        for key in wrapped.iter().chain(others.iter().flat_map(|other| &other.ours)) {
            by_name.entry(&key.wrapped_by).or_default().push(key.created_at_ms);
        }
        let mut lines: Vec<Line> = ring
            .names()
            .map(|name| {
                let times = by_name.remove(name).unwrap_or_default();
                Line {
                    name: name.to_owned(),
                    primary: name == ring.primary(),
                    problem: ring.check_against(table, name, wrapped).err().map(|error| chain(&error)),
                    data_keys: times.len(),
                    newest_ms: times.into_iter().max(),
                }
            })
            .collect();
        lines.extend(by_name.into_iter().map(|(name, times)| Line {
            name: name.to_owned(),
            primary: false,
            problem: Some(
                "not in encryption.keys: put it back, or what these sealed cannot be read".to_owned(),
            ),
            data_keys: times.len(),
            newest_ms: times.into_iter().max(),
        }));
        Self { lines, others, dictionaries }
    }

    /// Whether every key that is needed is there.
    pub fn is_good(&self) -> bool {
        self.lines.iter().all(|line| line.problem.is_none())
    }

    /// For people.
    pub fn table(&self) -> String {
        let mut out = String::new();
        let width = self.lines.iter().map(|line| line.name.len()).max().unwrap_or_default().max(4);
        let _ = writeln!(out, "{:<width$}  PRIMARY  DATA KEYS  NEWEST                STATE", "KEY");
        for line in &self.lines {
            let primary = if line.primary { "yes" } else { "" };
            let newest = line.newest_ms.map(time).unwrap_or_default();
            let state = line.problem.as_deref().unwrap_or("good");
            let _ = writeln!(
                out,
                "{:<width$}  {primary:<7}  {:>9}  {newest:<20}  {state}",
                line.name, line.data_keys
            );
        }
        for other in self.others.iter().filter(|other| !other.ours.is_empty()) {
            let _ = writeln!(out, "{} of these data keys are those of {}", other.ours.len(), other.table);
        }
        for note in self.others.iter().filter_map(Other::note) {
            let _ = writeln!(out, "{note}");
        }
        match self.dictionaries.last() {
            None => out.push_str("no dictionary yet: bodies are compressed without one\n"),
            Some(newest) => {
                let count = self.dictionaries.len();
                let percent = f64::from(newest.permille) / 10.0;
                let since = time(newest.created_at_ms);
                let _ = writeln!(
                    out,
                    "{count} dictionaries; the newest (of {since}) shrank bodies to {percent:.1} %"
                );
            }
        }
        out
    }

    /// For programs.
    pub fn json(&self) -> Value {
        let keys: Vec<Value> = self
            .lines
            .iter()
            .map(|line| {
                json!({
                    "name": line.name, "primary": line.primary, "dataKeys": line.data_keys,
                    "newest": line.newest_ms.map(time), "problem": line.problem,
                })
            })
            .collect();
        let dictionaries: Vec<Value> = self
            .dictionaries
            .iter()
            .map(
                |one| json!({ "id": one.id, "permille": one.permille, "createdAt": time(one.created_at_ms) }),
            )
            .collect();
        let other = |Other { table, ours, foreign }: &Other| json!({ "table": table, "dataKeys": ours.len(), "foreign": foreign });
        let others: Vec<Value> = self.others.iter().map(other).collect();
        json!({ "keys": keys, "otherTables": others, "dictionaries": dictionaries })
    }
}

/// What a rotation did.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rotated<'k> {
    /// Nothing was wrapped; `wrapped` says how many would be.
    pub dry_run: bool,
    /// What all data keys are wrapped by afterwards.
    pub primary_key: &'k str,
    /// All that there are.
    pub data_keys: usize,
    /// Those that were wrapped anew, by this rotation.
    pub wrapped: usize,
    /// Those that could not be.
    pub failed: usize,
    /// Data keys of other tables that other keys of the ring wrap still; not counted above.
    pub elsewhere: usize,
}

/// For people.
impl fmt::Display for Rotated<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { dry_run, primary_key, data_keys, wrapped, .. } = self;
        if *dry_run {
            return write!(formatter, "{wrapped} of {data_keys} data keys would be wrapped by {primary_key}");
        }
        write!(formatter, "{wrapped} data keys wrapped by {primary_key}; no row was rewritten")
    }
}

fn time(ms: i64) -> String {
    let whole_seconds = Timestamp::from_second(ms.div_euclid(1_000)).unwrap_or_default();
    whole_seconds.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_get_the_figures_of_a_rotation_that_people_are_told() {
        let mut rotated =
            Rotated { dry_run: true, primary_key: "k2", data_keys: 9, wrapped: 7, failed: 0, elsewhere: 3 };
        assert_eq!(rotated.to_string(), "7 of 9 data keys would be wrapped by k2");
        let figures = json!({ "dryRun": true, "primaryKey": "k2", "dataKeys": 9, "wrapped": 7, "failed": 0, "elsewhere": 3 });
        assert_eq!(serde_json::to_value(&rotated).unwrap(), figures);
        rotated.dry_run = false;
        assert_eq!(rotated.to_string(), "7 data keys wrapped by k2; no row was rewritten");
    }
}
