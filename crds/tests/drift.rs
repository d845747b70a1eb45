//! What is generated from the types is what is committed.

fn compare(path: &str, generated: Result<String, String>, command: &str) {
    let file = format!("{}/{path}", env!("CARGO_MANIFEST_DIR"));
    let committed = std::fs::read_to_string(file).expect("it is committed");
    assert!(committed == generated.expect("it can be generated"), "{path} is out of date: {command}");
}

#[test]
fn the_generated_crd_is_up_to_date() {
    let command = "cargo run --bin crdgen > crds/tracepipelines.yaml";
    compare("tracepipelines.yaml", sluice_crds::manifest::manifest(), command);
}

#[test]
fn the_generated_reference_is_up_to_date() {
    let command = "cargo run --bin crdgen -- reference > docs/reference.md";
    compare("../docs/reference.md", sluice_crds::reference::markdown(), command);
}
