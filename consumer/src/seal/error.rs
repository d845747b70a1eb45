//! Why something cannot be sealed or opened.

use std::io;

use crate::secrets::SecretError;
use crate::store::{ErrorKind, StoreError};

/// See the module. Holds no key and no content.
#[derive(Debug, thiserror::Error)]
pub enum SealError {
    /// A key of the ring is not there.
    #[error("cannot read the encryption key {name}")]
    Secret {
        /// Its name in `encryption.keys`.
        name: String,
        /// Why.
        #[source]
        source: SecretError,
    },
    /// A key of the ring is no key.
    #[error(
        "the encryption key {name} is not 32 bytes in base64: make one with `openssl rand -base64 32` (the name must \
         then never mean another key)"
    )]
    NotAKey {
        /// Its name in `encryption.keys`.
        name: String,
    },
    /// The pipeline has no `encryption`.
    #[error("it is sealed, and the pipeline has no encryption.keys to open it with")]
    NoKeys,
    /// A data key was wrapped by a key that the ring lacks.
    #[error(
        "data key {id} is wrapped by the encryption key {name}, which is not in encryption.keys: put it back"
    )]
    NotInRing {
        /// The data key.
        id: u32,
        /// What it is wrapped by.
        name: String,
    },
    /// A data key does not open with the key that wrapped it by its name.
    #[error(
        "data key {id} does not open with the encryption key {name}: either its row was altered, or the Secret holds \
         another key by now; put the former one back"
    )]
    WrongKey {
        /// The data key.
        id: u32,
        /// What it is wrapped by.
        name: String,
    },
    /// There is no such data key.
    #[error(
        "data key {id} is not in sluice_data_key: without it nothing that it sealed can be read; restore its row"
    )]
    UnknownDataKey {
        /// The data key.
        id: u32,
    },
    /// There is no such dictionary.
    #[error(
        "dictionary {id} is not in sluice_dictionary: without it nothing that was compressed with it can be read; \
         restore its row"
    )]
    UnknownDictionary {
        /// The dictionary.
        id: u16,
    },
    /// The seal is broken.
    #[error("it is not what was sealed: altered, cut, or moved from another row")]
    Altered,
    /// It begins like something sealed and is nothing of the kind.
    #[error("it begins like a sealed body and is none")]
    Malformed,
    /// zstd failed.
    #[error("cannot {doing}")]
    Compression {
        /// What was being done.
        doing: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// AES or the random numbers failed.
    #[error("the cryptographic library failed")]
    Library,
    /// Keys or dictionaries cannot be read or stored now.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl SealError {
    /// Whether the database could not be asked: later it may be different.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Store(_))
    }
}

/// For a lane: a batch that cannot be sealed is held like one that cannot be stored.
impl From<SealError> for StoreError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::Store(error) => error,
            other => Self::with_source(ErrorKind::Unavailable, "cannot seal or open bodies", other),
        }
    }
}
