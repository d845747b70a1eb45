//! The manifest of the CRD, as it is committed and applied.

use crate::v1alpha1::crd;
use crate::yaml::to_string;

/// The generated `crds/tracepipelines.yaml`.
///
/// # Errors
/// As [`to_string`].
pub fn manifest() -> Result<String, String> {
    Ok(format!(
        "# Generated from crds/src/v1alpha1.rs: cargo run --bin crdgen > crds/tracepipelines.yaml\n{}",
        to_string(&crd())?
    ))
}
