//! The keys that wrap data keys, as they lie in Secrets.
//!
//! A value is read when it is needed, and not kept.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sluice_crds::v1alpha1::{Encryption, EncryptionKey};
use zeroize::Zeroizing;

use super::cipher::{self, KEY_BYTES, KeyBytes};
use super::error::SealError;
use crate::secrets::Secrets;
use crate::store::key::WrappedKey;

/// The ring of a pipeline.
#[derive(Clone, Debug)]
pub struct KeyRing {
    keys: Vec<EncryptionKey>,
    primary: String,
    secrets: Secrets,
}

impl KeyRing {
    /// The ring that a pipeline names.
    pub fn new(encryption: &Encryption, secrets: Secrets) -> Self {
        Self { keys: encryption.keys.clone(), primary: encryption.primary_key.clone(), secrets }
    }

    /// Name of the key that wraps new data keys.
    pub fn primary(&self) -> &str {
        &self.primary
    }

    /// Names of all keys, in the order of the pipeline.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().map(|key| key.name.as_str())
    }

    /// Whether the key of this name is there and of use.
    ///
    /// # Errors
    /// Why not.
    pub fn check(&self, name: &str) -> Result<(), SealError> {
        self.key(0, name).map(drop)
    }

    /// Whether the key of this name is there and opens the newest of the `table`'s data keys that are wrapped by its name:
    /// one that holds other bytes by now is of no use, and must wrap nothing.
    ///
    /// # Errors
    /// Why not.
    pub fn check_against(&self, table: &str, name: &str, wrapped: &[WrappedKey]) -> Result<(), SealError> {
        let by_this = wrapped.iter().filter(|key| key.wrapped_by == name);
        match by_this.max_by_key(|key| key.created_at_ms) {
            Some(newest) => self.unwrap(table, newest).map(drop),
            None => self.check(name),
        }
    }

    /// Wraps a data key by the primary key.
    ///
    /// # Errors
    /// The primary key is not there or no key.
    pub fn wrap(&self, table: &str, id: u32, key: &KeyBytes) -> Result<WrappedKey, SealError> {
        let by = self.key(id, &self.primary)?;
        let wrapped = cipher::wrap(table, id, key, &self.primary, &by)?;
        Ok(WrappedKey { id, wrapped_by: self.primary.clone(), wrapped, created_at_ms: 0 })
    }

    /// Unwraps a data key.
    ///
    /// # Errors
    /// The key that wraps it is not in the ring, not there, or another one.
    pub fn unwrap(&self, table: &str, wrapped: &WrappedKey) -> Result<KeyBytes, SealError> {
        let by = self.key(wrapped.id, &wrapped.wrapped_by)?;
        cipher::unwrap(table, wrapped.id, &wrapped.wrapped, &wrapped.wrapped_by, &by)
    }

    fn key(&self, id: u32, name: &str) -> Result<KeyBytes, SealError> {
        let Some(key) = self.keys.iter().find(|key| key.name == name) else {
            return Err(SealError::NotInRing { id, name: name.to_owned() });
        };
        let text = self
            .secrets
            .resolve(&key.secret_key_ref)
            .map_err(|source| SealError::Secret { name: name.to_owned(), source })?;
        let mut bytes = KeyBytes::default();
        // Room for one more: a longer key is noticed.
        let mut decoded = Zeroizing::new([0; KEY_BYTES + 3]);
        let length = BASE64.decode_slice(text.expose().trim(), decoded.as_mut());
        if !matches!(length, Ok(KEY_BYTES)) {
            return Err(SealError::NotAKey { name: name.to_owned() });
        }
        bytes.copy_from_slice(&decoded[..KEY_BYTES]);
        Ok(bytes)
    }
}
