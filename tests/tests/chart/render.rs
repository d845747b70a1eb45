//! What the chart renders, and what it refuses; needs helm, no cluster.

mod names;
mod pods;
mod rights;
mod values;

use serde_json::Value;
use sluice_tests::helm::{Helm, chart};

/// What is applied without helm stays: neither a pipeline nor a pod may be among it that helm would delete after the test.
#[tokio::test]
#[ignore = "needs helm"]
async fn without_its_tests_the_chart_has_no_pipeline_and_no_hook() {
    for major in [3, 4] {
        let helm = Helm::new(major).unwrap();
        for file in values_files() {
            let all = [&["--skip-tests"], &with(file.as_ref())[..]].concat();
            let rendered = documents(&helm.template("sluice-system", &all).await.unwrap());
            assert!(rendered.iter().any(|one| one["kind"] == "Deployment"));
            for one in rendered {
                assert!(one["kind"] != "TracePipeline" && one["kind"] != "Pod", "helm {major}: {one}");
                assert!(one["metadata"]["annotations"]["helm.sh/hook"].is_null(), "helm {major}: {one}");
            }
        }
    }
}

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
