//! Tries the keys that seal bodies on what consumers have wrapped by their names: one that opens nothing of it is another
//! key, whatever it is called.

use std::path::Path;
use std::time::Duration;

use sluice_crds::problem::chain;

use super::report::Finding;
use super::secret_of_key;
use crate::config::Config;
use crate::place::existing_store;
use crate::seal::KeyRing;
use crate::secrets::Secrets;
use crate::store::key::WrappedKey;
use crate::store::{StoreError, is_missing_table};

/// Time limit of the look.
const LIMIT: Duration = Duration::from_secs(15);

/// A line for each key that does not open what was wrapped by its name. None where nothing was wrapped yet.
pub async fn check(config: &Config, secrets: &Secrets, data_dir: &Path) -> Vec<Finding> {
    let Some(encryption) = &config.encryption else { return Vec::new() };
    let ring = KeyRing::new(encryption, secrets.clone());
    let wrapped = match tokio::time::timeout(LIMIT, data_keys(config, secrets, data_dir)).await {
        Ok(Ok(wrapped)) => wrapped,
        Ok(Err(error)) if is_missing_table(&error) => return Vec::new(),
        Ok(Err(error)) => return vec![skipped(&chain(&error))],
        Err(_) => return vec![skipped("no answer")],
    };
    misfits(&ring, config.sink.table.as_str(), &wrapped)
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
