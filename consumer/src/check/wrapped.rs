//! Tries the keys that seal bodies on what consumers have wrapped by their names: one that opens nothing of it is another
//! key, whatever it is called; and what was wrapped by a key that is not named any more cannot be read.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use sluice_crds::problem::chain;

use super::report::Finding;
use super::secret_of_key;
use crate::config::Config;
use crate::pipeline_args::existing_store;
use crate::seal::KeyRing;
use crate::secrets::Secrets;
use crate::store::key::WrappedKey;
use crate::store::{StoreError, is_missing_table};

/// Time limit of the look.
const LIMIT: Duration = Duration::from_secs(15);

/// A line for each key that does not open what was wrapped by its name, or that wraps something and is not named. None
/// where nothing was wrapped yet.
pub async fn check(config: &Config, secrets: &Secrets, data_dir: &Path) -> Vec<Finding> {
    let Some(encryption) = &config.encryption else { return Vec::new() };
    let ring = KeyRing::new(encryption, secrets.clone());
    let wrapped = match tokio::time::timeout(LIMIT, data_keys(config, secrets, data_dir)).await {
        Ok(Ok(wrapped)) => wrapped,
        Ok(Err(error)) if is_missing_table(&error) => return Vec::new(),
        Ok(Err(error)) => return vec![skipped(&chain(&error))],
        Err(_) => return vec![skipped("no answer")],
    };
    let mut findings = misfits(&ring, config.sink.table.as_str(), &wrapped);
    findings.extend(unnamed(&ring, &wrapped));
    findings
}

fn skipped(why: &str) -> Finding {
    Finding::skipped("spec.encryption.keys", format!("cannot read the data keys: {why}"))
}

async fn data_keys(
    config: &Config,
    secrets: &Secrets,
    data_dir: &Path,
) -> Result<Vec<WrappedKey>, StoreError> {
    // A SQLite database that is not there has none.
    let Ok(store) = existing_store(config, secrets, data_dir) else { return Ok(Vec::new()) };
    let found = store.data_keys().await;
    store.close().await;
    found
}

fn misfits(ring: &KeyRing, table: &str, wrapped: &[WrappedKey]) -> Vec<Finding> {
    // Of those that are of no use at all there is a line already.
    let of_use = ring.names().enumerate().filter(|(_, name)| ring.check(name).is_ok());
    let misfit = |(index, name)| {
        let error = ring.check_against(table, name, wrapped).err()?;
        let remedy = "put the former key back; a new key needs a name of its own";
        Some(Finding::failed(secret_of_key(index), chain(&error)).remedy(remedy))
    };
    of_use.filter_map(misfit).collect()
}

fn unnamed(ring: &KeyRing, wrapped: &[WrappedKey]) -> Vec<Finding> {
    let mut by_name: BTreeMap<&str, usize> = BTreeMap::new();
    for key in wrapped.iter().filter(|key| ring.names().all(|name| name != key.wrapped_by)) {
        *by_name.entry(&key.wrapped_by).or_default() += 1;
    }
    let line = |(name, count): (&str, usize)| {
        let keys = if count == 1 { "1 data key is".to_owned() } else { format!("{count} data keys are") };
        let what =
            format!("{keys} wrapped by {name}, which is not among them: what they sealed cannot be read");
        Finding::failed("spec.encryption.keys", what).remedy(format!(
            "put {name} back; with `sluice keys rotate` the primary key wraps them, and it may go"
        ))
    };
    by_name.into_iter().map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::super::report::Report;
    use super::*;

    #[test]
    fn a_key_that_still_wraps_something_and_is_not_named_any_more_is_told_once() {
        let encryption = sluice_crds::yaml::from_str(
            "{ keys: [{ name: k2, secretKeyRef: { name: k, key: k2 } }], primaryKey: k2 }",
        )
        .unwrap();
        let ring = KeyRing::new(&encryption, Secrets::new(None));
        let by = |id, name: &str| WrappedKey {
            id,
            wrapped_by: name.to_owned(),
            wrapped: Vec::new(),
            created_at_ms: 0,
        };
        assert!(unnamed(&ring, &[by(1, "k2")]).is_empty());
        let mut report = Report::new(Path::new("pipeline.yaml"));
        report.extend(unnamed(&ring, &[by(1, "k1"), by(2, "k2"), by(3, "k1"), by(4, "k0")]));
        let shown = report.to_string();
        assert_eq!(report.failed(), 2, "{shown}");
        for part in ["1 data key is wrapped by k0", "2 data keys are wrapped by k1", "put k1 back"] {
            assert!(shown.contains(part), "{part} is not in\n{shown}");
        }
    }
}
