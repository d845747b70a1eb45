//! What was sealed, opened.

use std::sync::Arc;

use zeroize::Zeroizing;

use super::cipher::{AssociatedData, DataKey};
use super::compress::{self, Dictionary};
use super::form::{Header, NO_DICTIONARY, NOT_COMPRESSED};
use super::{REMEMBERED_KEYS, SealError, Sealing, form};
use crate::lock::lock;
use crate::store::StoredSpan;
use crate::store::key::{KeyStore, SealedDictionary};
use crate::store::letter::StoredLetter;

/// A row as a reader gets it.
#[derive(Debug)]
pub struct OpenedSpan {
    /// The row; its body is empty where it cannot be read.
    pub span: StoredSpan,
    /// Why its body cannot be read.
    pub error: Option<SealError>,
}

impl Sealing {
    /// Opens the bodies of rows; plain ones stay as they are. Ends behind the one with which they exceed `most_bytes`: a
    /// short sealed body may be a long one.
    ///
    /// # Errors
    /// Keys or dictionaries cannot be read now. What is wrong with a single row is in its [`OpenedSpan`].
    pub async fn open_spans(
        &self,
        store: &dyn KeyStore,
        spans: Vec<StoredSpan>,
        most_bytes: usize,
    ) -> Result<Vec<OpenedSpan>, SealError> {
        let (mut opened, mut bytes) = (Vec::with_capacity(spans.len()), 0);
        for mut span in spans {
            if bytes > most_bytes {
                break;
            }
            let error = match self.open_body(store, &span).await {
                Ok(None) => None,
                Ok(Some(body)) => {
                    span.body = body;
                    None
                }
                Err(error) if error.is_unavailable() => return Err(error),
                Err(error) => {
                    span.body = String::new();
                    Some(error)
                }
            };
            bytes += span.body.len();
            opened.push(OpenedSpan { span, error });
        }
        Ok(opened)
    }

    /// The body of a row; none where it is plain.
    async fn open_body(&self, store: &dyn KeyStore, span: &StoredSpan) -> Result<Option<String>, SealError> {
        let Some(sealed) = form::from_text(&span.body)? else { return Ok(None) };
        let associated = AssociatedData::Body { id: span.id, trace_id: &span.trace_id, kind: &span.kind };
        let body = self.open(store, associated, &sealed).await?;
        String::from_utf8(body.to_vec()).map(Some).map_err(|_| SealError::Malformed)
    }

    /// Opens the parts of a dead letter; a plain one stays as it is.
    ///
    /// # Errors
    /// What cannot be opened, and why.
    pub async fn open_letter(
        &self,
        store: &dyn KeyStore,
        mut letter: StoredLetter,
    ) -> Result<StoredLetter, SealError> {
        if !letter.sealed {
            return Ok(letter);
        }
        let id = letter.summary.id;
        let part = async |part, sealed: &[u8]| {
            let opened = self.open(store, AssociatedData::Letter { id, part }, sealed).await?;
            Ok::<_, SealError>(opened.to_vec())
        };
        if let Some(key) = &mut letter.key {
            *key = part("key", key).await?;
        }
        letter.headers = part("headers", &letter.headers).await?;
        letter.bytes = part("value", &letter.bytes).await?;
        letter.sealed = false;
        Ok(letter)
    }

    /// A dictionary, prepared.
    ///
    /// # Errors
    /// It cannot be opened, and why.
    pub async fn opened_dictionary(
        &self,
        store: &dyn KeyStore,
        sealed: &SealedDictionary,
    ) -> Result<Arc<Dictionary>, SealError> {
        if let Some(known) = lock(&self.dictionaries).get(&sealed.id) {
            return Ok(known.clone());
        }
        let associated = AssociatedData::Dictionary { id: sealed.id };
        let (header, rest) = Header::split(&sealed.sealed)?;
        let content =
            self.key_for_opening(store, header.key).await?.open(&self.table, associated, header, rest)?;
        // Never compressed with another one.
        let bytes = match header.dictionary {
            NOT_COMPRESSED => content,
            NO_DICTIONARY => compress::inflate(&content, None)?,
            _ => return Err(SealError::Malformed),
        };
        let dictionary = Arc::new(Dictionary::new(sealed.id, bytes));
        lock(&self.dictionaries).insert(sealed.id, dictionary.clone());
        Ok(dictionary)
    }

    async fn open(
        &self,
        store: &dyn KeyStore,
        associated: AssociatedData<'_>,
        sealed: &[u8],
    ) -> Result<Zeroizing<Vec<u8>>, SealError> {
        let (header, rest) = Header::split(sealed)?;
        let content =
            self.key_for_opening(store, header.key).await?.open(&self.table, associated, header, rest)?;
        let content = match header.dictionary {
            NOT_COMPRESSED => content,
            NO_DICTIONARY => compress::inflate(&content, None)?,
            id => compress::inflate(&content, Some(&*self.known_dictionary(store, id).await?))?,
        };
        Ok(match associated {
            AssociatedData::Body { trace_id, .. } if header.left_out => form::put_back(trace_id, &content),
            _ => content,
        })
    }

    async fn known_dictionary(&self, store: &dyn KeyStore, id: u16) -> Result<Arc<Dictionary>, SealError> {
        if let Some(known) = lock(&self.dictionaries).get(&id) {
            return Ok(known.clone());
        }
        let sealed = store.dictionary(id).await?.ok_or(SealError::UnknownDictionary { id })?;
        self.opened_dictionary(store, &sealed).await
    }

    async fn key_for_opening(&self, store: &dyn KeyStore, id: u32) -> Result<Arc<DataKey>, SealError> {
        if let Some(current) = lock(&self.current).as_ref().filter(|current| current.id() == id) {
            return Ok(current.clone());
        }
        if let Some(known) = lock(&self.keys).get(&id) {
            return Ok(known.clone());
        }
        let ring = self.ring.as_ref().ok_or(SealError::NoKeys)?;
        let wrapped = store.data_key(id).await?.ok_or(SealError::UnknownDataKey { id })?;
        let bytes = ring.unwrap(&self.table, &wrapped)?;
        let key = Arc::new(DataKey::new(id, &bytes, 0)?);
        let mut keys = lock(&self.keys);
        if keys.len() >= REMEMBERED_KEYS {
            keys.clear();
        }
        keys.insert(id, key.clone());
        Ok(key)
    }
}
