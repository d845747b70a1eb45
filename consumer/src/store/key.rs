//! Data keys and dictionaries as rows: what sealed bodies need to be read again.
//!
//! Both are written once and never removed; only what a data key is wrapped by changes ([`KeyStore::rewrap`]).
//! Nothing here knows a key's content: see [`crate::seal`].

use async_trait::async_trait;

use super::StoreError;

/// A data key, wrapped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WrappedKey {
    /// Its number within the table; random.
    pub id: u32,
    /// Name of the key that wraps it.
    pub wrapped_by: String,
    /// Nonce, ciphertext and tag.
    pub wrapped: Vec<u8>,
    /// When it was stored, milliseconds since 1970 in database time; 0 before.
    pub created_at_ms: i64,
}

/// A dictionary, sealed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedDictionary {
    /// Its number within the table, from 1.
    pub id: u16,
    /// Header, ciphertext and tag.
    pub sealed: Vec<u8>,
    /// What it shrank bodies to when it was trained, in thousandths of their size.
    pub permille: u32,
    /// When it was stored, milliseconds since 1970 in database time; 0 before.
    pub created_at_ms: i64,
}

/// Data keys and dictionaries of one trace table.
#[async_trait]
pub trait KeyStore: Send + Sync {
    /// Every data key, in the order of their numbers.
    async fn data_keys(&self) -> Result<Vec<WrappedKey>, StoreError>;

    /// Names of the other tables in this database that have data keys, in order.
    async fn other_tables(&self) -> Result<Vec<String>, StoreError>;

    /// One data key.
    async fn data_key(&self, id: u32) -> Result<Option<WrappedKey>, StoreError>;

    /// Stores a new data key; false where its number is taken. It is committed when this returns.
    async fn add_data_key(&self, key: &WrappedKey) -> Result<bool, StoreError>;

    /// Replaces what a data key is wrapped by; false where it is not `old` any more.
    async fn rewrap(&self, old: &WrappedKey, new: &WrappedKey) -> Result<bool, StoreError>;

    /// Every dictionary, oldest first.
    async fn dictionaries(&self) -> Result<Vec<SealedDictionary>, StoreError>;

    /// One dictionary.
    async fn dictionary(&self, id: u16) -> Result<Option<SealedDictionary>, StoreError>;

    /// Stores a new dictionary; false where its number is taken. It is committed when this returns.
    async fn add_dictionary(&self, dictionary: &SealedDictionary) -> Result<bool, StoreError>;
}
