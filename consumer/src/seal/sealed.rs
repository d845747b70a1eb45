//! Rows and dead letters of a batch, sealed.

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use zeroize::Zeroizing;

use super::cipher::AssociatedData;
use super::form::Content;
use super::{Scratch, SealError, Sealing, form};
use crate::lock::lock;
use crate::store::{DeadLetter, Row, Store};

/// Sealed bodies of rows, in their order; none where bodies are not sealed.
pub struct SealedRows(Option<Bodies>);

struct Bodies {
    text: String,
    /// Where each body ends in `text`.
    ends: Vec<usize>,
}

impl SealedRows {
    /// The rows that were sealed, with their sealed bodies.
    pub fn rows<'a>(&'a self, plain: &'a [Row<'a>]) -> Cow<'a, [Row<'a>]> {
        let Some(Bodies { text, ends }) = &self.0 else { return Cow::Borrowed(plain) };
        let mut begin = 0;
        let with_body = |(row, end): (&Row<'a>, &usize)| {
            let body = &text[begin..*end];
            begin = *end;
            Row { body, ..*row }
        };
        plain.iter().zip(ends).map(with_body).collect()
    }
}

/// Sealed parts of dead letters, in their order; none where they are not sealed.
pub struct SealedLetters(Option<Vec<Parts>>);

struct Parts {
    key: Option<Vec<u8>>,
    headers: Vec<u8>,
    bytes: Vec<u8>,
}

impl SealedLetters {
    /// The letters that were sealed, with their sealed parts.
    pub fn letters<'a>(&'a self, plain: &'a [DeadLetter<'a>]) -> Cow<'a, [DeadLetter<'a>]> {
        let Some(sealed) = &self.0 else { return Cow::Borrowed(plain) };
        let with_parts = |(letter, parts): (&DeadLetter<'a>, &'a Parts)| DeadLetter {
            key: parts.key.as_deref(),
            headers: &parts.headers,
            bytes: &parts.bytes,
            sealed: true,
            ..letter.clone()
        };
        plain.iter().zip(sealed).map(with_parts).collect()
    }
}

impl Sealing {
    /// Seals the bodies of rows, whose ids are final.
    ///
    /// # Errors
    /// No data key can be made now.
    pub async fn rows(
        self: &Arc<Self>,
        store: &Arc<dyn Store>,
        rows: &[Row<'_>],
    ) -> Result<SealedRows, SealError> {
        if !self.seals() {
            return Ok(SealedRows(None));
        }
        self.confirm(&**store).await?;
        let dictionary = lock(&self.dictionary).clone();
        let mut scratch = Scratch::new(dictionary.as_deref())?;
        let plain: usize = rows.iter().map(|row| row.body.len()).sum();
        let (mut short, mut short_bytes) = (Zeroizing::default(), 0);
        let mut bodies =
            Bodies { text: String::with_capacity(plain / 2), ends: Vec::with_capacity(rows.len()) };
        let (mut rest, mut shrunk) = (rows, 0);
        while !rest.is_empty() {
            let (key, nonces) = self.nonces(&**store, rest.len() as u64).await?;
            let lot;
            (lot, rest) = rest.split_at((nonces.end - nonces.start) as usize);
            for (row, nonce) in lot.iter().zip(nonces) {
                let associated = AssociatedData::Body { id: row.id, trace_id: row.trace_id, kind: row.kind };
                let content = form::leave_out(row.trace_id, row.body, &mut short);
                short_bytes += content.bytes.len();
                shrunk += self.seal_one(&key, nonce, associated, content, &mut scratch)?;
                form::push_text(&scratch.sealed, &mut bodies.text);
                bodies.ends.push(bodies.text.len());
            }
        }
        self.counters.bodies.fetch_add(rows.len() as u64, Relaxed);
        self.counters.plain_bytes.fetch_add(plain as u64, Relaxed);
        self.counters.sealed_bytes.fetch_add(bodies.text.len() as u64, Relaxed);
        let sample = |row: &Row<'_>| {
            let mut short = Zeroizing::default();
            Zeroizing::new(form::leave_out(row.trace_id, row.body, &mut short).bytes.to_vec())
        };
        let samples = lock(&self.training).observe(rows, sample, short_bytes as u64, shrunk as u64);
        if let Some(samples) = samples {
            tokio::spawn(Self::train(self.clone(), store.clone(), samples));
        }
        Ok(SealedRows(Some(bodies)))
    }

    /// Seals key, headers and bytes of dead letters, whose ids are final.
    ///
    /// # Errors
    /// No data key can be made now.
    pub async fn letters(
        &self,
        store: &dyn Store,
        letters: &[DeadLetter<'_>],
    ) -> Result<SealedLetters, SealError> {
        if !self.seals() {
            return Ok(SealedLetters(None));
        }
        self.confirm(store).await?;
        let dictionary = lock(&self.dictionary).clone();
        let mut scratch = Scratch::new(dictionary.as_deref())?;
        let mut sealed = Vec::with_capacity(letters.len());
        for letter in letters {
            let mut part = async |part, content: &[u8]| {
                let (key, nonces) = self.nonces(store, 1).await?;
                let associated = AssociatedData::Letter { id: letter.id, part };
                self.seal_one(&key, nonces.start, associated, Content::whole(content), &mut scratch)?;
                Ok::<_, SealError>(scratch.sealed.clone())
            };
            let key = match letter.key {
                Some(key) => Some(part("key", key).await?),
                None => None,
            };
            sealed.push(Parts {
                key,
                headers: part("headers", letter.headers).await?,
                bytes: part("value", letter.bytes).await?,
            });
        }
        Ok(SealedLetters(Some(sealed)))
    }
}
