//! Data keys: what seals bodies, and what wraps them.
//!
//! Guarantee: no nonce is used twice with a key. A data key belongs to one process, which made it and keeps it in
//! memory only, and its nonces are a counter: a process that starts again makes another key. A key of the ring
//! wraps few keys, each with a random nonce of 96 bits (NIST SP 800-38D, section 8.2.2: up to 2^32 of them).

use std::ops::Range;
use std::sync::atomic::{AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use aws_lc_rs::rand;
use tokio::time::Instant;
use zeroize::Zeroizing;

use super::error::SealError;
use super::form::{HEADER_BYTES, Header, TAG_BYTES};

/// Bytes of every key.
pub const KEY_BYTES: usize = 32;
/// Bytes of a wrapped key: nonce, key, tag.
const WRAPPED_BYTES: usize = NONCE_LEN + KEY_BYTES + TAG_BYTES;

/// The bytes of a key; wiped when it is dropped.
pub type KeyBytes = Zeroizing<[u8; KEY_BYTES]>;

/// What a sealed thing is bound to, so that it cannot be put elsewhere: with table and header the associated data of
/// AES-GCM.
#[derive(Clone, Copy, Debug)]
pub enum AssociatedData<'a> {
    /// The body of a row.
    Body {
        /// Of the row.
        id: i64,
        /// Of the row.
        trace_id: &'a str,
        /// Of the row.
        kind: &'a str,
    },
    /// A part of a dead letter.
    Letter {
        /// Of the letter.
        id: i64,
        /// `value`, `key` or `headers`.
        part: &'a str,
    },
    /// A dictionary.
    Dictionary {
        /// Of the dictionary.
        id: u16,
    },
}

/// Additional authenticated data: what it is, table, what it is bound to, and header, each text with its length before it.
fn authenticated(table: &str, associated: AssociatedData<'_>, header: &[u8], data: &mut Vec<u8>) {
    let text = |text: &str, data: &mut Vec<u8>| {
        data.extend((text.len() as u64).to_be_bytes());
        data.extend(text.as_bytes());
    };
    data.clear();
    match associated {
        AssociatedData::Body { id, trace_id, kind } => {
            text("sluice body 1", data);
            text(table, data);
            data.extend(id.to_be_bytes());
            text(trace_id, data);
            text(kind, data);
        }
        AssociatedData::Letter { id, part } => {
            text("sluice dead letter 1", data);
            text(table, data);
            data.extend(id.to_be_bytes());
            text(part, data);
        }
        AssociatedData::Dictionary { id } => {
            text("sluice dictionary 1", data);
            text(table, data);
            data.extend(id.to_be_bytes());
        }
    }
    data.extend(header);
}

/// A key that seals. Its bytes are held by AWS-LC.
pub struct DataKey {
    id: u32,
    key: LessSafeKey,
    next_nonce: AtomicU64,
    budget: u64,
    made_at: Instant,
}

impl DataKey {
    /// A key of these bytes, which seals at most `budget` times (0: it only opens).
    ///
    /// # Errors
    /// [`SealError::Library`].
    pub fn new(id: u32, bytes: &KeyBytes, budget: u64) -> Result<Self, SealError> {
        Ok(Self { id, key: aes(bytes)?, next_nonce: AtomicU64::new(0), budget, made_at: Instant::now() })
    }

    /// Its number.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// When it was made, here.
    pub fn made_at(&self) -> Instant {
        self.made_at
    }

    /// Up to `wanted` nonces that nobody else gets; none once the budget is used up.
    pub fn take_nonces(&self, wanted: u64) -> Range<u64> {
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Bug::ReuseNonce) {
            return 0..wanted.min(self.budget);
        }
        let take = |next: u64| Some(next.saturating_add(wanted).min(self.budget));
        // The closure never refuses.
        let first = self.next_nonce.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take);
        let first = first.unwrap_or(self.budget);
        first..first.saturating_add(wanted).min(self.budget)
    }

    /// Seals in place: `sealed` holds [`HEADER_BYTES`] of any content and what is to be sealed; afterwards header,
    /// ciphertext and tag. `scratch` saves allocations.
    ///
    /// # Errors
    /// [`SealError::Library`].
    pub fn seal(
        &self,
        table: &str,
        associated: AssociatedData<'_>,
        header: Header,
        sealed: &mut Vec<u8>,
        scratch: &mut Vec<u8>,
    ) -> Result<(), SealError> {
        let header_bytes = header.to_bytes();
        authenticated(table, associated, &header_bytes, scratch);
        sealed[..HEADER_BYTES].copy_from_slice(&header_bytes);
        let content = &mut sealed[HEADER_BYTES..];
        let tag = self
            .key
            .seal_in_place_separate_tag(nonce_of(header), Aad::from(&*scratch), content)
            .map_err(|_| SealError::Library)?;
        sealed.extend_from_slice(tag.as_ref());
        Ok(())
    }

    /// The content (compressed as the header says) of what [`Self::seal`] made.
    ///
    /// # Errors
    /// [`SealError::Altered`].
    pub fn open(
        &self,
        table: &str,
        associated: AssociatedData<'_>,
        header: Header,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let mut data = Vec::with_capacity(128);
        authenticated(table, associated, &header.to_bytes(), &mut data);
        let mut content = Zeroizing::new(sealed.to_vec());
        let length = self
            .key
            .open_in_place(nonce_of(header), Aad::from(&data), &mut content)
            .map_err(|_| SealError::Altered)?
            .len();
        content.truncate(length);
        Ok(content)
    }
}

fn nonce_of(header: Header) -> Nonce {
    let mut nonce = [0; NONCE_LEN];
    nonce[NONCE_LEN - 8..].copy_from_slice(&header.nonce.to_be_bytes());
    Nonce::assume_unique_for_key(nonce)
}

fn aes(bytes: &KeyBytes) -> Result<LessSafeKey, SealError> {
    let key = UnboundKey::new(&AES_256_GCM, bytes.as_ref()).map_err(|_| SealError::Library)?;
    Ok(LessSafeKey::new(key))
}

/// A new random key.
///
/// # Errors
/// [`SealError::Library`].
pub fn random_key() -> Result<KeyBytes, SealError> {
    let mut bytes = KeyBytes::default();
    rand::fill(bytes.as_mut()).map_err(|_| SealError::Library)?;
    Ok(bytes)
}

/// A new random number for a data key; never 0.
///
/// # Errors
/// [`SealError::Library`].
pub fn random_id() -> Result<u32, SealError> {
    let mut bytes = [0; 4];
    rand::fill(&mut bytes).map_err(|_| SealError::Library)?;
    Ok(u32::from_be_bytes(bytes).max(1))
}

fn wrapped_data(table: &str, id: u32, name: &str) -> Vec<u8> {
    let mut data = b"sluice data key 1".to_vec();
    for text in [table, name] {
        data.extend((text.len() as u64).to_be_bytes());
        data.extend(text.as_bytes());
    }
    data.extend(id.to_be_bytes());
    data
}

/// Wraps a data key by a key of the ring: nonce, ciphertext, tag. Table, number and the wrapping key's name are
/// authenticated.
///
/// # Errors
/// [`SealError::Library`].
pub fn wrap(table: &str, id: u32, key: &KeyBytes, name: &str, by: &KeyBytes) -> Result<Vec<u8>, SealError> {
    let mut nonce = [0; NONCE_LEN];
    rand::fill(&mut nonce).map_err(|_| SealError::Library)?;
    let mut content = Zeroizing::new(key.to_vec());
    let tag = aes(by)?
        .seal_in_place_separate_tag(
            Nonce::assume_unique_for_key(nonce),
            Aad::from(wrapped_data(table, id, name)),
            &mut content,
        )
        .map_err(|_| SealError::Library)?;
    Ok([&nonce[..], &content[..], tag.as_ref()].concat())
}

/// The data key that [`wrap`] wrapped.
///
/// # Errors
/// [`SealError::WrongKey`].
pub fn unwrap(
    table: &str,
    id: u32,
    wrapped: &[u8],
    name: &str,
    by: &KeyBytes,
) -> Result<KeyBytes, SealError> {
    let wrong = || SealError::WrongKey { id, name: name.to_owned() };
    if wrapped.len() != WRAPPED_BYTES {
        return Err(wrong());
    }
    let (nonce, content) = wrapped.split_first_chunk::<NONCE_LEN>().ok_or_else(wrong)?;
    let mut content = Zeroizing::new(content.to_vec());
    let opened = aes(by)?
        .open_in_place(
            Nonce::assume_unique_for_key(*nonce),
            Aad::from(wrapped_data(table, id, name)),
            &mut content,
        )
        .map_err(|_| wrong())?;
    let mut key = KeyBytes::default();
    key.copy_from_slice(opened);
    Ok(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TABLE: &str = "connectivity_trace";
    const ROW: AssociatedData<'_> = AssociatedData::Body { id: 7, trace_id: "abc", kind: "SERVER" };

    fn key(budget: u64) -> DataKey {
        DataKey::new(9, &random_key().unwrap(), budget).unwrap()
    }

    fn sealed(key: &DataKey, associated: AssociatedData<'_>, nonce: u64) -> (Header, Vec<u8>) {
        let header = Header { key: 9, dictionary: 0, left_out: false, nonce };
        let mut sealed = [&[0; HEADER_BYTES][..], b"content"].concat();
        key.seal(TABLE, associated, header, &mut sealed, &mut Vec::new()).unwrap();
        (header, sealed)
    }

    #[test]
    fn what_was_sealed_opens_in_its_own_place_only() {
        let key = key(10);
        let (header, sealed) = sealed(&key, ROW, 0);
        let rest = &sealed[HEADER_BYTES..];
        assert_eq!(*key.open(TABLE, ROW, header, rest).unwrap(), b"content");
        let elsewhere = [
            AssociatedData::Body { id: 8, trace_id: "abc", kind: "SERVER" },
            AssociatedData::Body { id: 7, trace_id: "abd", kind: "SERVER" },
            // The same letters, cut elsewhere.
            AssociatedData::Body { id: 7, trace_id: "abcS", kind: "ERVER" },
            AssociatedData::Letter { id: 7, part: "value" },
        ];
        for place in elsewhere {
            assert!(matches!(key.open(TABLE, place, header, rest), Err(SealError::Altered)), "{place:?}");
        }
        assert!(matches!(key.open("other", ROW, header, rest), Err(SealError::Altered)));
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let key = key(10);
        let (_, sealed) = sealed(&key, ROW, 3);
        for bit in 0..sealed.len() * 8 {
            let mut altered = sealed.clone();
            altered[bit / 8] ^= 1 << (bit % 8);
            let (header, rest) = Header::split(&altered).unwrap();
            assert!(matches!(key.open(TABLE, ROW, header, rest), Err(SealError::Altered)), "bit {bit}");
        }
    }

    #[test]
    fn nonces_are_given_out_once_and_within_the_budget() {
        let key = key(10);
        assert_eq!([key.take_nonces(4), key.take_nonces(4), key.take_nonces(4)], [0..4, 4..8, 8..10]);
        assert!(key.take_nonces(1).is_empty());
    }

    #[test]
    fn a_wrapped_key_opens_with_its_own_name_number_and_table() {
        let (key, by) = (random_key().unwrap(), random_key().unwrap());
        let wrapped = wrap(TABLE, 5, &key, "k1", &by).unwrap();
        assert_eq!(unwrap(TABLE, 5, &wrapped, "k1", &by).unwrap(), key);
        assert!(unwrap(TABLE, 6, &wrapped, "k1", &by).is_err());
        assert!(unwrap(TABLE, 5, &wrapped, "k2", &by).is_err());
        assert!(unwrap("other", 5, &wrapped, "k1", &by).is_err());
        assert!(unwrap(TABLE, 5, &wrapped, "k1", &random_key().unwrap()).is_err());
        assert!(unwrap(TABLE, 5, &wrapped[1..], "k1", &by).is_err());
    }
}
