//! The documents of guarantees and faults, and the list of planted bugs, name tests that exist; and the map of the code
//! leaves no module out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The document with the table, from the tests' folder.
const RELIABILITY: &str = "../docs/reliability.md";
/// The document that says what lies where, likewise.
const ARCHITECTURE: &str = "../docs/architecture.md";
/// Folders each of whose modules it names.
const MAPPED: [&str; 5] =
    ["crds/src", "consumer/src", "operator/src", "operator/src/controller", "tests/src/bin"];
/// Rows of the list of faults that concern the data plane.
const ROWS: [&str; 30] = [
    "1", "2", "2a", "2b", "3", "4", "5", "6", "7", "8", "9", "10", "11", "12", "13", "14", "15", "16", "17",
    "18", "19", "20", "23", "31", "33", "34", "35", "38", "27", "37",
];

fn file(path: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Folders of tests, and whether each of their entries is a target of its own.
const FOLDERS: [(&str, bool); 7] = [
    ("tests", true),
    ("src", false),
    ("../consumer/tests", true),
    ("../consumer/src", false),
    ("../crds/tests", true),
    ("../crds/src", false),
    ("../operator/src", false),
];
/// Macros that make a test of each of their arguments.
const MACROS: [&str; 2] = ["on_every_store! {", "on_every_database! {"];
/// Where a library's own tests are.
const LIB: &str = "lib";

struct Test {
    /// As `cargo test --test` names it.
    target: String,
    /// As libtest names it, without modules that are no files: what `tests/run NAME` looks for NAME in.
    path: String,
    name: String,
}

fn is_word(text: &str) -> bool {
    let is_part = |one: char| one.is_ascii_lowercase() || one.is_ascii_digit() || one == '_';
    !text.is_empty() && text.chars().all(is_part)
}

/// The names of the tests in a source: of functions with an attribute that makes them tests, and those that a macro makes.
fn names_in(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut attribute_seen, mut in_macro) = (false, false);
    for line in source.lines().map(str::trim) {
        if line.starts_with("#[test]") || line.starts_with("#[tokio::test") {
            attribute_seen = true;
        } else if attribute_seen && let Some((_, function)) = line.split_once("fn ") {
            attribute_seen = false;
            names.extend(function.split_once('(').map(|(name, _)| name.to_owned()));
        } else if in_macro {
            in_macro = line != "}";
            names.extend(line.split(',').map(|name| name.trim().to_owned()));
        } else {
            in_macro = MACROS.contains(&line);
        }
    }
    names.retain(|name| is_word(name));
    names
}

/// Every test in the sources.
fn tests() -> Vec<Test> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut tests = Vec::new();
    for (folder, has_targets) in FOLDERS {
        let folder = root.join(folder);
        let mut open: Vec<PathBuf> = vec![folder.clone()];
        while let Some(path) = open.pop() {
            if path.is_dir() {
                open.extend(std::fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let place = path.strip_prefix(&folder).unwrap().with_extension("");
                let mut modules: Vec<&str> = place.iter().map(|part| part.to_str().unwrap()).collect();
                let target = if has_targets { modules.remove(0) } else { LIB };
                modules.retain(|module| !["main", "lib"].contains(module));
                for name in names_in(&std::fs::read_to_string(&path).unwrap()) {
                    let path: Vec<&str> = modules.iter().copied().chain([name.as_str()]).collect();
                    tests.push(Test { target: target.to_owned(), path: path.join("::"), name });
                }
            }
        }
    }
    tests
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
    let (table, tests) = (table(), tests());
    for row in ROWS {
        let names = table.get(row).unwrap_or_else(|| panic!("no row {row} in {RELIABILITY}"));
        assert!(!names.is_empty(), "row {row} has no test");
    }
    for (row, names) in &table {
        assert!(ROWS.contains(&row.as_str()), "an unknown row {row}");
        for name in names {
            assert!(
                tests.iter().any(|test| test.name == *name),
                "row {row} names {name}, which does not exist"
            );
        }
    }
}

/// What stands in backticks in the last column of every table that says what a guarantee is shown by.
fn shown_by() -> Vec<String> {
    let text = file(RELIABILITY);
    let mut in_table = false;
    let mut all = Vec::new();
    for line in text.lines() {
        in_table = line.ends_with("| shown by |") || (in_table && line.starts_with('|'));
        if in_table {
            let cell = line.trim_end_matches('|').rsplit('|').next().unwrap_or_default();
            all.extend(cell.split('`').skip(1).step_by(2).map(str::to_owned));
        }
    }
    all
}

/// A name of a part of a test's, or a command that ends with `--lib PART` or `--test TARGET`.
#[test]
fn what_a_guarantee_is_shown_by_are_tests_that_exist() {
    let (shown_by, tests) = (shown_by(), tests());
    assert!(shown_by.len() > 50, "{shown_by:?}");
    for text in shown_by {
        let exists = if let Some((_, part)) = text.split_once("--lib ") {
            tests.iter().any(|test| test.target == LIB && test.path.contains(part))
        } else if let Some((_, target)) = text.split_once("--test ") {
            tests.iter().any(|test| test.target == target)
        } else if is_word(&text) {
            tests.iter().any(|test| test.path.contains(&text))
        } else {
            // A variable of the environment.
            text.chars().all(|one| one.is_ascii_uppercase() || one == '_')
        };
        assert!(exists, "{RELIABILITY} names {text}, which is no test");
    }
}

/// The names of a program's planted bugs: its enum's variants, as `clap` spells them.
fn planted_in(program: &str) -> BTreeSet<String> {
    let source = file(&format!("../{program}/src/planted.rs"));
    let (_, variants) = source.split_once("pub enum Bug {").expect("the bugs");
    let (variants, _) = variants.split_once("\n}").expect("the end of the bugs");
    let variants = variants.lines().filter_map(|line| line.trim().strip_suffix(','));
    let names: BTreeSet<String> = variants.filter(|name| !name.starts_with("///")).map(kebab).collect();
    assert!(!names.is_empty(), "{program} has no planted bug");
    names
}

fn kebab(variant: &str) -> String {
    let mut name = String::new();
    for character in variant.chars() {
        if character.is_uppercase() && !name.is_empty() {
            name.push('-');
        }
        name.extend(character.to_lowercase());
    }
    name
}

#[test]
fn every_planted_bug_has_a_test_that_catches_it() {
    let (tests, list) = (tests(), file("planted"));
    let known: BTreeSet<String> = ["consumer", "operator"].into_iter().flat_map(planted_in).collect();
    let lines = list.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
    let listed: BTreeMap<String, Vec<&str>> = lines
        .filter_map(|line| {
            let mut parts = line.split_whitespace();
            Some((parts.next()?.to_owned(), parts.collect()))
        })
        .collect();
    assert_eq!(known, listed.keys().cloned().collect());
    for (bug, target_and_test) in listed {
        let [target, name] = target_and_test[..] else { panic!("{bug} has {target_and_test:?}") };
        let exists = tests.iter().any(|test| test.target == target && test.name == name);
        assert!(exists, "{bug} names {name} of {target}, which does not exist");
    }
}

/// The paths in the first column of the table of what lies where, without `.rs`.
fn mapped() -> BTreeSet<String> {
    let text = file(ARCHITECTURE);
    let (_, table) = text.split_once("## Where things are").expect("the table");
    let (table, _) = table.split_once("\n## ").expect("the end of its section");
    let mut paths = BTreeSet::new();
    for line in table.lines().filter(|line| line.starts_with('|')) {
        let cell = line.split('|').nth(1).unwrap_or_default();
        for path in cell.split('`').skip(1).step_by(2) {
            let path = path.trim_end_matches(".rs").trim_end_matches('/');
            let (folder, names) = path.split_once('{').unwrap_or(("", path));
            let names = names.trim_end_matches('}').split(',');
            paths.extend(names.map(|name| format!("{folder}{name}")));
        }
    }
    paths
}

#[test]
fn the_map_of_the_code_names_every_module_and_none_that_is_not_there() {
    let (mapped, root) = (mapped(), Path::new(env!("CARGO_MANIFEST_DIR")).join(".."));
    for path in &mapped {
        let exists = root.join(path).is_dir() || root.join(path).with_extension("rs").is_file();
        assert!(exists, "{ARCHITECTURE} names {path}, which does not exist");
    }
    for folder in MAPPED {
        for entry in std::fs::read_dir(root.join(folder)).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_stem().unwrap().to_str().unwrap();
            let is_named =
                ["lib", "main", "tests"].contains(&name) || mapped.contains(&format!("{folder}/{name}"));
            assert!(is_named, "{ARCHITECTURE} does not name {folder}/{name}");
        }
    }
}
