//! Names, labels and keys that operator, consumer and chart agree on.

use sha2::{Digest, Sha256};

/// Longest DNS label.
const MAX_NAME: usize = 63;
/// Hexadecimal digits that tell contents apart.
const HASH: usize = 16;
/// Hexadecimal digits that keep shortened names apart.
const SHORT_HASH: usize = 8;

/// Key of the settings document in its ConfigMap.
pub const SETTINGS_KEY: &str = "settings.json";
/// Key of the live document in its ConfigMap.
pub const LIVE_KEY: &str = "live.json";
/// The operator: its command, its pods' `app.kubernetes.io/name`, and who manages what it writes.
pub const OPERATOR: &str = "sluice-operator";
/// Value of [`LABEL_ROLE`] of the pods that store spans.
pub const ROLE_CONSUMER: &str = "consumer";
/// The container of those pods that stores them.
pub const CONSUMER_CONTAINER: &str = "consumer";
/// Port of `/metrics`, `/livez`, `/readyz` and `/status` in a pod.
pub const ADMIN_PORT: u16 = 9464;

/// Label: the name of the pipeline that an object belongs to; names are at most
/// [`crate::validate::MAX_PIPELINE_NAME`] long so that they fit.
pub const LABEL_PIPELINE: &str = "sluice.dev/pipeline";
/// Label: what a pod does, such as [`ROLE_CONSUMER`].
pub const LABEL_ROLE: &str = "sluice.dev/role";
/// Label: the installation of the operator that an object belongs to.
pub const LABEL_INSTALLATION: &str = "sluice.dev/installation";
/// Label: the hash of the settings that an object holds or a pod runs with.
pub const LABEL_SETTINGS: &str = "sluice.dev/settings";
/// Annotation of a Deployment: hash of its pod template.
pub const ANNOTATION_TEMPLATE_HASH: &str = "sluice.dev/template-hash";
/// Annotation of a Deployment: hash of the part of the spec that shapes pods. Where it has stayed and the
/// template's has not, the operator is what has changed.
pub const ANNOTATION_SPEC_HASH: &str = "sluice.dev/spec-hash";
/// Annotation of a Deployment: which upgrade of the operator has rolled it.
pub const ANNOTATION_UPGRADE: &str = "sluice.dev/upgrade";
/// Annotation of a child: hash of what was applied, so that a field that is not wanted any more is noticed.
pub const ANNOTATION_APPLIED_HASH: &str = "sluice.dev/applied-hash";

/// The name of a pipeline's child: `<pipeline>-<suffix>`, shortened with a hash where it would be too long.
pub fn child(pipeline: &str, suffix: &str) -> String {
    let name = format!("{}-{suffix}", pipeline.replace('.', "-"));
    if name.len() <= MAX_NAME && !pipeline.contains('.') {
        return name;
    }
    let kept = MAX_NAME.saturating_sub(suffix.len() + SHORT_HASH + 2).min(pipeline.len());
    let readable = pipeline[..kept].replace('.', "-");
    format!("{}-{}-{suffix}", readable.trim_end_matches('-'), short_hash(pipeline))
}

/// The name of everything that a pipeline has once, its Deployment above all.
pub fn consumer_name(pipeline: &str) -> String {
    child(pipeline, ROLE_CONSUMER)
}

/// Tells one text from another in a label or an annotation: the first 16 hexadecimal digits of its SHA-256.
pub fn hash(text: impl AsRef<[u8]>) -> String {
    digits(text.as_ref(), HASH)
}

/// As [`hash`], of 8 digits, where a name has no room for more.
pub fn short_hash(text: impl AsRef<[u8]>) -> String {
    digits(text.as_ref(), SHORT_HASH)
}

fn digits(text: &[u8], count: usize) -> String {
    Sha256::digest(text).iter().take(count / 2).map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn children_of_ordinary_names_are_readable() {
        assert_eq!(child("action-traces", "consumer"), "action-traces-consumer");
    }

    #[test]
    fn long_and_dotted_names_stay_legal_and_apart() {
        let long = "a".repeat(253);
        let other = format!("{}b", "a".repeat(252));
        for name in [long.as_str(), other.as_str(), "a.b", "a-b"] {
            let text = child(name, "settings-0123456789abcdef");
            assert!(text.len() <= MAX_NAME && !text.contains('.'), "{text}");
        }
        assert_ne!(child(&long, "consumer"), child(&other, "consumer"));
        assert_ne!(child("a.b", "consumer"), child("a-b", "consumer"));
    }
}
