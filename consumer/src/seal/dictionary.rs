//! The dictionary in use: how it is found, made, and looked up again.
//!
//! Replicas share dictionaries and need not agree on one: each goes on with its own for as long as that fits its bodies,
//! and looks among those of the others before it stores another.

use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use sluice_crds::problem::chain;

use super::cipher::AssociatedData;
use super::compress::Dictionary;
use super::form::{Content, NO_DICTIONARY, NOT_COMPRESSED};
use super::training::{self, Best, Samples, Trained, Training};
use super::{Scratch, SealError, Sealing};
use crate::lock::lock;
use crate::store::Store;
use crate::store::key::{KeyStore, SealedDictionary};

/// The newest dictionaries that are tried on new bodies before another one is stored.
const TRIED: usize = 4;

impl Sealing {
    /// Trains on `samples`, stores what pays and uses it. What fails is tried again with later bodies.
    pub(super) async fn train(self: Arc<Self>, store: Arc<dyn Store>, samples: Samples) {
        match self.try_train(&*store, samples).await {
            Ok(true) => {}
            Ok(false) => lock(&self.training).give_up(),
            Err(error) => {
                tracing::warn!(error = chain(&error), "no new dictionary; bodies are sealed without it");
                *lock(&self.training) = Training::new();
            }
        }
    }

    /// False where the one in use, or none, is the best there is.
    async fn try_train(&self, store: &dyn KeyStore, samples: Samples) -> Result<bool, SealError> {
        let newest = self.newest(store, TRIED).await?;
        let mut known: Vec<Arc<Dictionary>> = newest.into_iter().map(|(dictionary, _)| dictionary).collect();
        let in_use = lock(&self.dictionary).clone();
        if let Some(in_use) = &in_use
            && known.iter().all(|newer| newer.id != in_use.id)
        {
            known.push(in_use.clone());
        }
        let training = tokio::task::spawn_blocking(move || training::train(samples, &known));
        match training.await.map_err(|_| SealError::Library)?? {
            Best::Trained(trained) => self.add(store, trained).await,
            Best::Known(dictionary, _) if in_use.is_some_and(|in_use| in_use.id == dictionary.id) => {
                Ok(false)
            }
            Best::Known(dictionary, ratio) => {
                self.adopt(dictionary, permille(ratio));
                Ok(true)
            }
            Best::Nothing => Ok(false),
        }
    }

    /// Stores what was trained, and uses it; false where it cannot be, and none is there.
    async fn add(&self, store: &dyn KeyStore, trained: Trained) -> Result<bool, SealError> {
        // A dictionary that is sealed with a key that was lost could never be opened.
        self.confirm(store).await?;
        // Those that cannot be opened have numbers, too.
        let newest = store.dictionaries().await?.pop();
        let id = newest.map_or(NO_DICTIONARY, |newest| newest.id).saturating_add(1);
        if id == NOT_COMPRESSED {
            return Ok(false);
        }
        let permille = permille(trained.ratio);
        let sealed = self.seal_dictionary(store, id, &trained.bytes).await?;
        let row = SealedDictionary { id, sealed, permille, created_at_ms: 0 };
        if !store.add_dictionary(&row).await? {
            return self.adopt_newest(store).await;
        }
        self.counters.dictionaries.fetch_add(1, Relaxed);
        tracing::info!(id, permille, "a new dictionary compresses bodies");
        self.adopt(Arc::new(Dictionary::new(id, trained.bytes)), permille);
        Ok(true)
    }

    async fn seal_dictionary(
        &self,
        store: &dyn KeyStore,
        id: u16,
        bytes: &[u8],
    ) -> Result<Vec<u8>, SealError> {
        let (key, nonces) = self.nonces(store, 1).await?;
        let mut scratch = Scratch::new(None)?;
        let associated = AssociatedData::Dictionary { id };
        self.seal_one(&key, nonces.start, associated, Content::whole(bytes), &mut scratch)?;
        Ok(scratch.sealed)
    }

    /// Goes on with the dictionary in use where the table has it, else with the newest, or without.
    pub(super) async fn confirm_dictionary(&self, store: &dyn KeyStore) -> Result<(), SealError> {
        // Their numbers may mean others by now.
        lock(&self.dictionaries).clear();
        let in_use = lock(&self.dictionary).clone();
        if let Some(in_use) = in_use
            && self.is_there(store, &in_use).await?
        {
            return Ok(());
        }
        if !self.adopt_newest(store).await? && lock(&self.dictionary).take().is_some() {
            tracing::warn!("the database has lost the dictionary in use: bodies are sealed without one");
            *lock(&self.training) = Training::new();
        }
        Ok(())
    }

    /// Whether the table has this dictionary under its number.
    async fn is_there(&self, store: &dyn KeyStore, dictionary: &Dictionary) -> Result<bool, SealError> {
        let Some(row) = store.dictionary(dictionary.id).await? else { return Ok(false) };
        match self.opened_dictionary(store, &row).await {
            Ok(found) => Ok(*found.bytes == *dictionary.bytes),
            Err(error) if error.is_unavailable() => Err(error),
            Err(_) => Ok(false),
        }
    }

    /// Uses the newest dictionary of the table that can be opened; false where there is none.
    ///
    /// # Errors
    /// The database cannot be asked.
    pub(super) async fn adopt_newest(&self, store: &dyn KeyStore) -> Result<bool, SealError> {
        let newest = self.newest(store, 1).await?.pop();
        Ok(newest.map(|(dictionary, permille)| self.adopt(dictionary, permille)).is_some())
    }

    /// The newest dictionaries of the table that can be opened, and to how much each shrank bodies; `most` of them.
    async fn newest(
        &self,
        store: &dyn KeyStore,
        most: usize,
    ) -> Result<Vec<(Arc<Dictionary>, u32)>, SealError> {
        let mut found = Vec::new();
        for newest in store.dictionaries().await?.iter().rev() {
            match self.opened_dictionary(store, newest).await {
                Ok(dictionary) => found.push((dictionary, newest.permille)),
                Err(error) if error.is_unavailable() => return Err(error),
                // Its key was lost, or is not in the ring: one that can be opened serves as well.
                Err(error) if lock(&self.unopened).insert(newest.id) => {
                    let (id, error) = (newest.id, chain(&error));
                    tracing::warn!(
                        id,
                        error,
                        "a dictionary cannot be opened: bodies are sealed with another, or none"
                    );
                }
                Err(_) => {}
            }
            if found.len() == most {
                break;
            }
        }
        Ok(found)
    }

    fn adopt(&self, dictionary: Arc<Dictionary>, permille: u32) {
        lock(&self.dictionaries).insert(dictionary.id, dictionary.clone());
        let before = lock(&self.dictionary).replace(dictionary.clone());
        // What is known of the one in use by now is not forgotten when it is looked up again.
        if before.is_none_or(|before| before.id != dictionary.id) {
            lock(&self.training).settle(f64::from(permille) / 1_000.0);
        }
    }
}

fn permille(ratio: f64) -> u32 {
    (ratio * 1_000.0).ceil() as u32
}
