//! What the chart renders, and what it refuses; needs helm, no cluster.

mod names;
mod pods;
mod rights;
mod values;

use serde_json::Value;
use sluice_tests::helm::chart;

/// The files of values under `ci`, and none for the defaults.
pub fn values_files() -> Vec<Option<String>> {
    let files = std::fs::read_dir(chart().join("ci")).unwrap();
    let mut files: Vec<_> = files.map(|file| Some(file.unwrap().path().display().to_string())).collect();
    files.sort();
    assert!(files.len() >= 3);
    files.push(None);
    files
}

/// The arguments that name a file of values.
pub fn with(file: Option<&String>) -> Vec<&str> {
    file.map(|file| vec!["--values", file]).unwrap_or_default()
}

fn documents(rendered: &str) -> Vec<Value> {
    let documents = rendered.split("\n---").map(|text| sluice_crds::yaml::to_json(text).unwrap());
    documents.filter(|document| !document.is_null()).collect()
}

/// The one object of a kind and name.
fn named<'a>(rendered: &'a [Value], kind: &str, name: &str) -> &'a Value {
    let mut found = rendered.iter().filter(|one| one["kind"] == kind && one["metadata"]["name"] == name);
    let one = found.next().unwrap_or_else(|| panic!("there is no {kind} {name}"));
    assert!(found.next().is_none(), "there are several {kind}s {name}");
    one
}
