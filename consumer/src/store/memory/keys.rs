//! The data keys and dictionaries of the store in memory.

use std::collections::btree_map::Entry;

use async_trait::async_trait;

use super::{Call, MemoryStore};
use crate::store::StoreError;
use crate::store::key::{KeyStore, SealedDictionary, WrappedKey};

#[async_trait]
impl KeyStore for MemoryStore {
    async fn data_keys(&self) -> Result<Vec<WrappedKey>, StoreError> {
        Ok(self.state().data_keys.values().cloned().collect())
    }

    /// It holds one table.
    async fn other_tables(&self) -> Result<Vec<String>, StoreError> {
        Ok(Vec::new())
    }

    async fn data_key(&self, id: u32) -> Result<Option<WrappedKey>, StoreError> {
        self.ask(Call::DataKey)?;
        Ok(self.state().data_keys.get(&id).cloned())
    }

    async fn add_data_key(&self, key: &WrappedKey) -> Result<bool, StoreError> {
        self.ask(Call::AddDataKey)?;
        let created_at_ms = self.now_ms();
        match self.state().data_keys.entry(key.id) {
            Entry::Occupied(_) => Ok(false),
            Entry::Vacant(free) => {
                free.insert(WrappedKey { created_at_ms, ..key.clone() });
                Ok(true)
            }
        }
    }

    async fn rewrap(&self, old: &WrappedKey, new: &WrappedKey) -> Result<bool, StoreError> {
        let mut state = self.state();
        let Some(stored) = state.data_keys.get_mut(&old.id).filter(|stored| stored.wrapped == old.wrapped)
        else {
            return Ok(false);
        };
        stored.wrapped_by.clone_from(&new.wrapped_by);
        stored.wrapped.clone_from(&new.wrapped);
        Ok(true)
    }

    async fn dictionaries(&self) -> Result<Vec<SealedDictionary>, StoreError> {
        Ok(self.state().dictionaries.values().cloned().collect())
    }

    async fn dictionary(&self, id: u16) -> Result<Option<SealedDictionary>, StoreError> {
        Ok(self.state().dictionaries.get(&id).cloned())
    }

    async fn add_dictionary(&self, dictionary: &SealedDictionary) -> Result<bool, StoreError> {
        let created_at_ms = self.now_ms();
        match self.state().dictionaries.entry(dictionary.id) {
            Entry::Occupied(_) => Ok(false),
            Entry::Vacant(free) => {
                free.insert(SealedDictionary { created_at_ms, ..dictionary.clone() });
                Ok(true)
            }
        }
    }
}
