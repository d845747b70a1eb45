//! The list of faults, and of planted bugs, names tests that exist.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The document with the table, from the tests' folder.
const RELIABILITY: &str = "../docs/reliability.md";
/// Rows of the list of faults that concern the data plane.
const ROWS: [&str; 30] = [
    "1", "2", "2a", "2b", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17",
    "18", "19", "20", "23", "31", "33", "34", "35", "38", "27", "37",
];

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every word in the tests' sources that may name a test: a function, or one that a macro makes a function of.
fn words() -> BTreeSet<String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut open: Vec<PathBuf> =
        ["tests", "../consumer/tests", "../consumer/src"].map(|dir| root.join(dir)).into();
    let mut words = BTreeSet::new();
    while let Some(path) = open.pop() {
        if path.is_dir() {
            open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(path).unwrap();
            let is_word = |character: char| character.is_alphanumeric() || character == '_';
            words.extend(text.split(|character| !is_word(character)).map(str::to_owned));
        }
    }
    words
}

/// The rows of the table of faults: number, and names in backticks. `tests/run --faults` reads them in the same way.
fn table() -> BTreeMap<String, Vec<String>> {
    let text = file(RELIABILITY);
    let begin = text.find("<!-- faults -->").expect("the table's begin");
    let end = text.find("<!-- end of faults -->").expect("the table's end");
    let rows = text[begin..end].lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|row| {
        let cells: Vec<&str> = row.split('|').collect();
        let names = cells[3].split('`').skip(1).step_by(2).map(str::to_owned);
        (cells[1].trim().to_owned(), names.collect())
    })
    .collect()
}

#[test]
fn every_fault_of_the_data_plane_names_tests_that_exist() {
    let (table, words) = (table(), words());
    for row in ROWS {
        let names = table.get(row).unwrap_or_else(|| panic!("no row {row} in {RELIABILITY}"));
        assert!(!names.is_empty(), "row {row} has no test");
    }
    for (row, names) in &table {
        assert!(ROWS.contains(&row.as_str()), "an unknown row {row}");
        for name in names {
            assert!(words.contains(name), "row {row} names {name}, which does not exist");
        }
    }
}

#[test]
fn every_planted_bug_has_a_test_that_catches_it() {
    let (words, source, list) = (words(), file("../consumer/src/planted.rs"), file("planted"));
    let known: BTreeSet<&str> = source
        .lines()
        .filter_map(|line| line.trim().strip_prefix("(\"")?.split_once('"').map(|(name, _)| name))
        .collect();
    let lines = list.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let listed: BTreeMap<&str, Vec<&str>> = lines
        .filter_map(|line| {
            let mut parts = line.split_whitespace();
            Some((parts.next()?, parts.collect()))
        })
        .collect();
    assert!(!known.is_empty());
    assert_eq!(known, listed.keys().copied().collect());
    for (bug, target_and_test) in listed {
        let [_, test] = target_and_test[..] else { panic!("{bug} has {target_and_test:?}") };
        assert!(words.contains(test), "{bug} names {test}, which does not exist");
    }
}
