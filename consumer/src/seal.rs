//! Sealed bodies: compressed, then sealed with AES-256-GCM, before they reach the store.
//!
//! Guarantees: a data key is committed to `sluice_data_key`, wrapped by a key of the ring, before its first use, and
//! a dictionary to `sluice_dictionary`, sealed. Every sealing takes a fresh nonce, a repeated one too. Table, id, trace id
//! and kind are authenticated, so that bodies cannot be swapped. What cannot be opened is an error and never a body.
//! Plain bodies stay readable: both kinds may lie in one table. Keys, and copies of bodies that are made here, are
//! wiped when they are dropped; the buffers of the decoders and of client libraries are not.
//!
//! No I/O but through [`crate::store::key::KeyStore`] and, for the ring, [`crate::secrets`].

mod cipher;
mod compress;
mod dictionary;
mod doubt;
mod error;
mod form;
mod open;
mod ring;
mod sealed;
mod training;

use std::collections::{HashMap, HashSet};
use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::lock::lock;
use crate::store::key::KeyStore;
use cipher::{AssociatedData, DataKey};
use compress::{Dictionary, Shrinker};
use doubt::Doubt;
use form::{Content, HEADER_BYTES, Header, NO_DICTIONARY, NOT_COMPRESSED};
use training::Training;

pub use error::SealError;
pub use form::PREFIX as SEALED;
pub use open::OpenedSpan;
pub use ring::KeyRing;
pub use sealed::{SealedLetters, SealedRows};

/// A data key seals no longer than this.
const KEY_PERIOD: Duration = Duration::from_secs(24 * 3_600);
/// Bodies that a data key seals at most, unless another number is given. Its counter has 48 bits; this bounds what a
/// single key is worth.
pub const BODIES_PER_KEY: u64 = 1 << 32;
/// Random numbers of data keys that are tried until one is free.
const ID_TRIES: u32 = 16;
/// Data keys that are remembered for opening.
const REMEMBERED_KEYS: usize = 4_096;

/// Seals and opens for one table in one process.
pub struct Sealing {
    table: String,
    ring: Option<KeyRing>,
    bodies_per_key: u64,
    /// What seals now.
    current: Mutex<Option<Arc<DataKey>>>,
    /// Held while a data key is made, so that lanes do not make one each.
    making: tokio::sync::Mutex<()>,
    /// What only opens, by number.
    keys: Mutex<HashMap<u32, Arc<DataKey>>>,
    dictionaries: Mutex<HashMap<u16, Arc<Dictionary>>>,
    /// What compresses now.
    dictionary: Mutex<Option<Arc<Dictionary>>>,
    /// Dictionaries that could not be opened, of which a person was told.
    unopened: Mutex<HashSet<u16>>,
    training: Mutex<Training>,
    /// Whether the database still has key and dictionary.
    doubt: Doubt,
    /// What was done so far.
    pub counters: Arc<Counters>,
}

/// Counts of one process.
#[derive(Debug, Default)]
pub struct Counters {
    /// Bodies sealed, with repeated tries.
    pub bodies: AtomicU64,
    /// Their bytes before.
    pub plain_bytes: AtomicU64,
    /// Their bytes as they are stored.
    pub sealed_bytes: AtomicU64,
    /// Data keys made.
    pub data_keys: AtomicU64,
    /// Dictionaries trained and stored.
    pub dictionaries: AtomicU64,
}

impl Sealing {
    /// For a table; without a ring bodies are stored as they are, and sealed ones cannot be opened.
    pub fn new(table: &str, ring: Option<KeyRing>) -> Self {
        Self {
            table: table.to_owned(),
            ring,
            bodies_per_key: BODIES_PER_KEY,
            current: Mutex::default(),
            making: tokio::sync::Mutex::default(),
            keys: Mutex::default(),
            dictionaries: Mutex::default(),
            dictionary: Mutex::default(),
            unopened: Mutex::default(),
            training: Mutex::new(Training::new()),
            doubt: Doubt::new(),
            counters: Arc::default(),
        }
    }

    /// Another number than [`BODIES_PER_KEY`].
    #[must_use]
    pub fn with_bodies_per_key(self, bodies_per_key: u64) -> Self {
        Self { bodies_per_key: bodies_per_key.max(1), ..self }
    }

    /// Whether bodies are sealed.
    pub fn seals(&self) -> bool {
        self.ring.is_some()
    }

    /// Number of the dictionary in use.
    pub fn dictionary_id(&self) -> Option<u16> {
        lock(&self.dictionary).as_ref().map(|dictionary| dictionary.id)
    }

    /// Before the first batch: a data key is made, and the newest dictionary that can be opened is read. Does nothing
    /// without a ring.
    ///
    /// # Errors
    /// A Secret is missing or holds another key than before; the database cannot be asked.
    pub async fn prepare(&self, store: &dyn KeyStore) -> Result<(), SealError> {
        if self.ring.is_none() {
            return Ok(());
        }
        self.data_key(store).await?;
        self.adopt_newest(store).await.map(drop)
    }

    /// Has key and dictionary looked up before they seal again: the database was away, and what is in its place now may be
    /// a replica that lagged behind and has neither.
    pub fn doubt(&self) {
        self.doubt.raise();
    }

    /// A batch was committed: the database is the one that it was.
    pub fn committed(&self) {
        self.doubt.committed();
    }

    /// Forgets a key and a dictionary that are not in the table, where there is doubt.
    async fn confirm(&self, store: &dyn KeyStore) -> Result<(), SealError> {
        if self.doubt.open().is_none() {
            return Ok(());
        }
        let _making = self.making.lock().await;
        // What arises from here on is another doubt.
        let Some(raised) = self.doubt.open() else { return Ok(()) };
        let current = lock(&self.current).clone();
        if let Some(key) = current
            && store.data_key(key.id()).await?.is_none()
        {
            tracing::warn!(id = key.id(), "the database has lost the data key in use: another one is made");
            *lock(&self.current) = None;
        }
        self.confirm_dictionary(store).await?;
        self.doubt.settle(raised);
        Ok(())
    }

    /// What seals now; made where there is none, or the present one is old. The ring's primary key must open what it wrapped
    /// before: a Secret that was replaced would wrap keys that what was sealed so far does not share.
    async fn data_key(&self, store: &dyn KeyStore) -> Result<Arc<DataKey>, SealError> {
        if let Some(key) = self.usable() {
            return Ok(key);
        }
        let _making = self.making.lock().await;
        if let Some(key) = self.usable() {
            return Ok(key);
        }
        let ring = self.ring.as_ref().ok_or(SealError::NoKeys)?;
        ring.check_against(&self.table, ring.primary(), &store.data_keys().await?)?;
        let bytes = cipher::random_key()?;
        for _ in 0..ID_TRIES {
            let id = cipher::random_id()?;
            let wrapped = ring.wrap(&self.table, id, &bytes)?;
            if store.add_data_key(&wrapped).await? {
                let key = Arc::new(DataKey::new(id, &bytes, self.bodies_per_key)?);
                *lock(&self.current) = Some(key.clone());
                self.counters.data_keys.fetch_add(1, Relaxed);
                tracing::info!(id, wrapped_by = ring.primary(), "a new data key seals bodies");
                return Ok(key);
            }
        }
        Err(SealError::Library)
    }

    fn usable(&self) -> Option<Arc<DataKey>> {
        lock(&self.current).clone().filter(|key| key.made_at().elapsed() < KEY_PERIOD)
    }

    /// A key, and nonces of it: at least one, at most `wanted`.
    async fn nonces(
        &self,
        store: &dyn KeyStore,
        wanted: u64,
    ) -> Result<(Arc<DataKey>, Range<u64>), SealError> {
        loop {
            let key = self.data_key(store).await?;
            let nonces = key.take_nonces(wanted);
            if !nonces.is_empty() {
                return Ok((key, nonces));
            }
            let mut current = lock(&self.current);
            if current.as_ref().is_some_and(|current| current.id() == key.id()) {
                *current = None;
            }
        }
    }

    /// Makes `content`, compressed and sealed, the scratch's `sealed`; returns its bytes after compression.
    fn seal_one(
        &self,
        key: &DataKey,
        nonce: u64,
        associated: AssociatedData<'_>,
        content: Content<'_>,
        with: &mut Scratch<'_>,
    ) -> Result<usize, SealError> {
        let Scratch { shrinker, dictionary, sealed, data } = with;
        let Content { bytes: content, left_out } = content;
        sealed.clear();
        sealed.resize(HEADER_BYTES, 0);
        let dictionary = if shrinker.shrink(content, sealed)? {
            *dictionary
        } else {
            sealed.extend_from_slice(content);
            NOT_COMPRESSED
        };
        let shrunk = sealed.len() - HEADER_BYTES;
        let header = Header { key: key.id(), dictionary, left_out, nonce };
        key.seal(&self.table, associated, header, sealed, data)?;
        Ok(shrunk)
    }
}

/// What sealing one thing after the other needs.
struct Scratch<'d> {
    shrinker: Shrinker<'d>,
    dictionary: u16,
    sealed: Vec<u8>,
    data: Vec<u8>,
}

impl<'d> Scratch<'d> {
    fn new(dictionary: Option<&'d Dictionary>) -> Result<Self, SealError> {
        Ok(Self {
            shrinker: Shrinker::new(dictionary)?,
            dictionary: dictionary.map_or(NO_DICTIONARY, |dictionary| dictionary.id),
            sealed: Vec::new(),
            data: Vec::new(),
        })
    }
}

/// Whether a stored body is a sealed one.
pub fn is_sealed(body: &str) -> bool {
    body.starts_with(form::PREFIX)
}

#[cfg(test)]
pub(crate) mod example;
#[cfg(test)]
mod tests;
