//! Reads a dead letter and opens it, or tells that it is damaged: such a one holds up no other.

use crate::seal::{SealError, Sealing};
use crate::store::letter::StoredLetter;
use crate::store::{ErrorKind, Store, StoreError};

/// What reading a letter has shown.
pub enum ReadLetter {
    Opened(StoredLetter),
    /// It was purged, or stored after all.
    Gone,
    /// What was stored is no letter.
    Damaged(StoreError),
    /// It is sealed, and does not open.
    Unopened(SealError),
}

/// Reads and opens a letter.
///
/// # Errors
/// None can be read or opened now.
pub async fn read_letter(store: &dyn Store, sealing: &Sealing, id: i64) -> Result<ReadLetter, StoreError> {
    let letter = match store.letter(id).await {
        Ok(Some(letter)) => letter,
        Ok(None) => return Ok(ReadLetter::Gone),
        Err(error) if error.kind == ErrorKind::Schema => return Ok(ReadLetter::Damaged(error)),
        Err(error) => return Err(error),
    };
    match sealing.open_letter(store, letter).await {
        Ok(letter) => Ok(ReadLetter::Opened(letter)),
        Err(error) if error.is_unavailable() => Err(error.into()),
        Err(error) => Ok(ReadLetter::Unopened(error)),
    }
}
