//! The settings ConfigMap: one for each content, never changed.

use k8s_openapi::api::core::v1::ConfigMap;
use sluice_crds::{names, wire};

use super::{BuildError, metadata};
use crate::controller::validate::Valid;
use crate::options::Options;

/// Named by its content, so that an old pod that restarts during a rollout still finds its own.
pub fn config_map(valid: &Valid, options: &Options) -> Result<ConfigMap, BuildError> {
    let mut metadata = metadata(&valid.owner, options, name(valid));
    let labels = metadata.labels.get_or_insert_default();
    labels.insert(names::LABEL_SETTINGS.to_owned(), valid.settings_hash.clone());
    Ok(ConfigMap {
        metadata,
        data: Some([(names::SETTINGS_KEY.to_owned(), wire::write(&valid.settings)?)].into()),
        immutable: Some(true),
        ..Default::default()
    })
}

/// The name of the settings ConfigMap of this content.
pub fn name(valid: &Valid) -> String {
    #[cfg(feature = "planted")]
    if crate::planted::is(crate::planted::Bug::NameByProcess) {
        return names::child(&valid.owner.name, &format!("settings-{}", std::process::id()));
    }
    settings_name(&valid.owner.name, &valid.settings_hash)
}

/// The same, by the content's hash.
pub fn settings_name(pipeline: &str, hash: &str) -> String {
    names::child(pipeline, &format!("settings-{hash}"))
}
