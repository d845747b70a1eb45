//! Writes what is generated from the API types to standard output:
//!
//! ```text
//! cargo run --bin crdgen > crds/tracepipelines.yaml
//! cargo run --bin crdgen -- reference > docs/reference.md
//! ```

fn main() -> Result<(), String> {
    let page = match std::env::args().nth(1).as_deref() {
        None => sluice_crds::manifest::manifest()?,
        Some("reference") => sluice_crds::reference::markdown()?,
        Some(other) => return Err(format!("expected nothing or `reference`, found {other:?}")),
    };
    print!("{page}");
    Ok(())
}
