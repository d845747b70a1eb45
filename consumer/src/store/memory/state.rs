//! What the store in memory holds.

use std::collections::BTreeMap;

use crate::gate::lease::{Decide, Holder, LeaseRequest};
use crate::store::key::{SealedDictionary, WrappedKey};
use crate::store::letter::History;
use crate::store::sql::{fenced, share_of, stream_number};
use crate::store::{
    DeadLetter, ErrorKind, Position, Reason, Row, StoreError, StoredSpan, StreamKey, WriteBatch,
};

/// A row of `sluice_progress`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Whose position this is.
    pub key: StreamKey,
    /// Counts the re-creations of the topic.
    pub generation: u32,
    /// Number of the stream.
    pub stream: u16,
    /// Counts the claims.
    pub epoch: u64,
    /// Who claimed it last.
    pub owner: String,
    /// The settled prefix.
    pub position: Position,
    /// See [`crate::store::Claim::fingerprint`].
    pub fingerprint: Option<u64>,
}

/// A dead letter as it was stored; see [`DeadLetter`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of `DeadLetter`, owned")]
pub struct OwnedDeadLetter {
    pub id: i64,
    pub topic: String,
    pub partition: i32,
    pub offset: u64,
    pub span: Option<OwnedLetterSpan>,
    pub timestamp: Option<i64>,
    pub reason: Reason,
    pub detail: String,
    pub key: Option<Vec<u8>>,
    pub headers: Vec<u8>,
    pub bytes: Vec<u8>,
    pub sealed: bool,
}

/// See [`crate::store::LetterSpan`].
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields of `LetterSpan`, owned")]
pub struct OwnedLetterSpan {
    pub index: u32,
    pub trace_id: String,
    pub kind: String,
}

impl From<&DeadLetter<'_>> for OwnedDeadLetter {
    fn from(letter: &DeadLetter<'_>) -> Self {
        Self {
            id: letter.id,
            topic: letter.topic.to_owned(),
            partition: letter.partition,
            offset: letter.offset,
            span: letter.span.map(|span| OwnedLetterSpan {
                index: span.index,
                trace_id: span.trace_id.to_owned(),
                kind: span.kind.to_owned(),
            }),
            timestamp: letter.timestamp,
            reason: letter.reason,
            detail: letter.detail.to_owned(),
            key: letter.key.map(<[u8]>::to_vec),
            headers: letter.headers.to_vec(),
            bytes: letter.bytes.to_vec(),
            sealed: letter.sealed,
        }
    }
}

/// A row of `sluice_redrive`.
#[derive(Clone, Debug, Default)]
pub struct Redrive {
    pub pending: bool,
    pub history: History,
}

pub struct Lease {
    pub share: u32,
    demand: u32,
    expires_at_ms: i64,
}

#[derive(Default)]
pub struct State {
    pub rows: BTreeMap<i64, StoredSpan>,
    pub dead_letters: BTreeMap<i64, OwnedDeadLetter>,
    /// By id of the dead letter.
    pub redrives: BTreeMap<i64, Redrive>,
    /// Stream by id of the dead letter.
    pub unsent: BTreeMap<i64, u16>,
    /// Index = number of the stream.
    pub progress: Vec<Progress>,
    /// By name and holder.
    pub leases: BTreeMap<(String, String), Lease>,
    pub data_keys: BTreeMap<u32, WrappedKey>,
    pub dictionaries: BTreeMap<u16, SealedDictionary>,
}

impl State {
    pub fn streams(&self, cluster_id: &str, group: &str) -> Vec<StreamKey> {
        self.progress
            .iter()
            .filter(|row| row.generation == 0 && row.key.cluster_id == cluster_id && row.key.group == group)
            .map(|row| row.key.clone())
            .collect()
    }

    pub fn newest(&mut self, key: &StreamKey) -> Option<&mut Progress> {
        self.progress.iter_mut().filter(|row| row.key == *key).max_by_key(|row| row.generation)
    }

    pub fn create_missing(&mut self, starts: &[(StreamKey, u64)]) -> Result<(), StoreError> {
        let before = self.progress.len();
        for (key, start) in starts {
            if self.newest(key).is_some() {
                continue;
            }
            if let Err(error) = self.add_stream(key, 0, *start) {
                self.progress.truncate(before);
                return Err(error);
            }
        }
        Ok(())
    }

    pub fn add_stream(&mut self, key: &StreamKey, generation: u32, start: u64) -> Result<(), StoreError> {
        let number = i64::try_from(self.progress.len()).unwrap_or(i64::MAX);
        self.progress.push(Progress {
            key: key.clone(),
            generation,
            stream: stream_number(number)?,
            epoch: 0,
            owner: String::new(),
            position: Position { next_offset: start, last_id: 0 },
            fingerprint: None,
        });
        Ok(())
    }

    pub fn check_ids(&self, rows: &[Row<'_>]) -> Result<(), StoreError> {
        match rows.iter().find(|row| self.rows.contains_key(&row.id)) {
            Some(row) => Err(StoreError::new(ErrorKind::DuplicateId, format!("id {} exists", row.id))),
            None => Ok(()),
        }
    }

    pub fn write(&mut self, batch: &WriteBatch<'_>, now_ms: i64) -> Result<(), StoreError> {
        self.check_ids(batch.rows)?;
        let progress = self
            .progress
            .get_mut(usize::from(batch.stream))
            .filter(|row| row.epoch == batch.epoch && row.position == batch.from)
            .ok_or_else(|| fenced(batch.stream, batch.epoch))?;
        progress.position = batch.to;
        progress.fingerprint = batch.fingerprint;
        self.rows.extend(batch.rows.iter().map(|row| {
            let stored = StoredSpan {
                id: row.id,
                trace_id: row.trace_id.to_owned(),
                kind: row.kind.to_owned(),
                body: row.body.to_owned(),
                created_at_ms: now_ms,
            };
            (row.id, stored)
        }));
        self.dead_letters.extend(batch.dead_letters.iter().map(|letter| (letter.id, letter.into())));
        if batch.queue_copies {
            self.unsent.extend(batch.dead_letters.iter().map(|letter| (letter.id, batch.stream)));
        }
        Ok(())
    }

    pub fn live_leases(&self, name: &str, now_ms: i64) -> impl Iterator<Item = (&str, &Lease)> {
        self.leases
            .iter()
            .filter(move |((of, _), lease)| of == name && lease.expires_at_ms > now_ms)
            .map(|((_, holder), lease)| (holder.as_str(), lease))
    }

    pub fn lease(&mut self, request: &LeaseRequest, now_ms: i64, decide: &mut Decide<'_>) -> u32 {
        let ttl = i64::try_from(request.ttl.as_millis()).unwrap_or(i64::MAX);
        let end = now_ms.saturating_add(ttl);
        for ((name, _), lease) in &mut self.leases {
            if *name == request.name {
                lease.expires_at_ms = lease.expires_at_ms.min(end);
            }
        }
        let others: Vec<Holder> = self
            .live_leases(&request.name, now_ms)
            .filter(|(holder, _)| *holder != request.holder)
            .map(|(holder, lease)| Holder { id: holder.to_owned(), share: lease.share, demand: lease.demand })
            .collect();
        let share = share_of(&others, decide);
        let lease = Lease { share, demand: request.demand, expires_at_ms: end };
        self.leases.retain(|_, lease| lease.expires_at_ms > now_ms);
        self.leases.insert((request.name.clone(), request.holder.clone()), lease);
        share
    }
}
