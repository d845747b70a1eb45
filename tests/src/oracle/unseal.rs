//! Opens sealed bodies and dead letters as docs/adr/0008-bodies-are-sealed-in-the-lane.md describes their format, with
//! another library than the data plane.

use std::collections::HashMap;

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use anyhow::{Context, ensure};
use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use super::FoundRow;

/// What every zstd frame begins with; sealed ones leave it out.
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A key of the ring.
#[derive(Clone, Debug)]
pub struct RingKey {
    /// As in `encryption.keys`.
    pub name: String,
    /// 32 bytes.
    pub bytes: Vec<u8>,
}

/// Data keys and dictionaries of one table, opened.
pub struct Unsealer {
    table: String,
    keys: HashMap<u32, Aes256Gcm>,
    dictionaries: HashMap<u16, Vec<u8>>,
}

fn cipher(key: &[u8]) -> anyhow::Result<Aes256Gcm> {
    Aes256Gcm::new_from_slice(key).map_err(|_| anyhow::anyhow!("a key of {} bytes", key.len()))
}

fn open(key: &Aes256Gcm, nonce: [u8; 12], aad: &[u8], msg: &[u8]) -> anyhow::Result<Vec<u8>> {
    let opened = key.decrypt(&Nonce::from(nonce), Payload { msg, aad });
    opened.map_err(|_| anyhow::anyhow!("the tag does not fit"))
}

fn texts(what: &str, rest: &[&[u8]]) -> Vec<u8> {
    let text = |text: &[u8]| [&(text.len() as u64).to_be_bytes(), text].concat();
    [text(what.as_bytes()), rest.concat()].concat()
}

fn with_length(text: &str) -> Vec<u8> {
    [&(text.len() as u64).to_be_bytes(), text.as_bytes()].concat()
}

impl Unsealer {
    /// From the rows of `sluice_data_key` (number, name of what wraps it, wrapped) and of `sluice_dictionary` (number,
    /// sealed).
    ///
    /// # Errors
    /// One of them does not open.
    pub fn new(
        table: &str,
        ring: &[RingKey],
        data_keys: Vec<(i64, String, Vec<u8>)>,
        dictionaries: Vec<(i64, Vec<u8>)>,
    ) -> anyhow::Result<Self> {
        let mut unsealer =
            Self { table: table.to_owned(), keys: HashMap::new(), dictionaries: HashMap::new() };
        for (id, name, wrapped) in data_keys {
            let id = u32::try_from(id)?;
            let by = ring.iter().find(|key| key.name == name).with_context(|| format!("no key {name}"))?;
            let (nonce, sealed) = wrapped.split_first_chunk().context("a wrapped key of no length")?;
            let aad =
                [b"sluice data key 1", &*with_length(table), &with_length(&name), &id.to_be_bytes()].concat();
            let key = open(&cipher(&by.bytes)?, *nonce, &aad, sealed)
                .with_context(|| format!("data key {id} wrapped by {name}"))?;
            unsealer.keys.insert(id, cipher(&key)?);
        }
        for (id, sealed) in dictionaries {
            let id = u16::try_from(id)?;
            let place = [&*with_length(table), &id.to_be_bytes()].concat();
            let bytes = unsealer.unseal("sluice dictionary 1", &place, &sealed)?;
            unsealer.dictionaries.insert(id, bytes);
        }
        Ok(unsealer)
    }

    /// A row with its body opened.
    ///
    /// # Errors
    /// The body is not sealed, or does not open.
    pub fn row(&self, row: FoundRow) -> anyhow::Result<FoundRow> {
        let text = row.body.strip_prefix("s1:").with_context(|| format!("row {} is plain", row.id))?;
        let place = [
            &*with_length(&self.table),
            &row.id.to_be_bytes(),
            &with_length(&row.trace_id),
            &with_length(&row.kind),
        ]
        .concat();
        let sealed = STANDARD_NO_PAD.decode(text)?;
        let body =
            self.unseal("sluice body 1", &place, &sealed).with_context(|| format!("row {}", row.id))?;
        let body = String::from_utf8(body)?;
        // The highest bit of the dictionary's number: a NUL stands for the trace id.
        let body = if sealed[4] & 0x80 == 0 { body } else { body.replacen('\0', &row.trace_id, 1) };
        Ok(FoundRow { body, ..row })
    }

    /// A part of a dead letter, opened.
    ///
    /// # Errors
    /// It does not open.
    pub fn part(&self, letter: i64, part: &str, sealed: &[u8]) -> anyhow::Result<Vec<u8>> {
        let place = [&*with_length(&self.table), &letter.to_be_bytes(), &with_length(part)].concat();
        self.unseal("sluice dead letter 1", &place, sealed)
    }

    fn unseal(&self, what: &str, place: &[u8], sealed: &[u8]) -> anyhow::Result<Vec<u8>> {
        ensure!(sealed.len() >= 28, "{} bytes are no seal", sealed.len());
        let (header, rest) = sealed.split_at(12);
        let key = u32::from_be_bytes(header[..4].try_into()?);
        let dictionary = u16::from_be_bytes(header[4..6].try_into()?) & 0x7fff;
        let mut nonce = [0; 12];
        nonce[6..].copy_from_slice(&header[6..]);
        let key = self.keys.get(&key).with_context(|| format!("no data key {key}"))?;
        let content = open(key, nonce, &texts(what, &[place, header]), rest)?;
        if dictionary == 0x7fff {
            return Ok(content);
        }
        let frame = [&MAGIC[..], &content].concat();
        let mut decompressor = match dictionary {
            0 => zstd::bulk::Decompressor::new()?,
            id => zstd::bulk::Decompressor::with_dictionary(
                self.dictionaries.get(&id).with_context(|| format!("no dictionary {id}"))?,
            )?,
        };
        Ok(decompressor.decompress(&frame, 64 << 20)?)
    }
}
