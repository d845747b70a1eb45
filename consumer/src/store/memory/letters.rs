//! The dead letters of the store in memory.

use async_trait::async_trait;

use super::state::{OwnedDeadLetter, Redrive};
use super::{Call, MemoryStore};
use crate::store::letter::{LetterFilter, LetterStore, LetterSummary, RedriveBatch, StoredLetter};
use crate::store::sql::fenced;
use crate::store::{ErrorKind, StoreError};

fn summary_of(letter: &OwnedDeadLetter, redrive: &Redrive) -> LetterSummary {
    LetterSummary {
        id: letter.id,
        topic: letter.topic.clone(),
        partition: letter.partition,
        offset: letter.offset,
        span_index: letter.span.as_ref().map(|span| span.index),
        timestamp: letter.timestamp,
        reason: letter.reason.as_str().to_owned(),
        detail: letter.detail.clone(),
        pending: redrive.pending,
        attempts: redrive.history.attempts,
        history: redrive.history.failures.clone(),
    }
}

fn fits(filter: &LetterFilter, letter: &OwnedDeadLetter, redrive: &Redrive) -> bool {
    filter.topic.as_ref().is_none_or(|topic| *topic == letter.topic)
        && filter.partition.is_none_or(|partition| partition == letter.partition)
        && filter.reason.is_none_or(|reason| reason == letter.reason)
        && filter.pending.is_none_or(|pending| pending == redrive.pending)
}

#[async_trait]
impl LetterStore for MemoryStore {
    async fn letters(
        &self,
        filter: &LetterFilter,
        after: i64,
        limit: u32,
    ) -> Result<Vec<LetterSummary>, StoreError> {
        let (first, end) = filter.ids(after);
        let state = self.state();
        let unmarked = Redrive::default();
        let letters = state.dead_letters.values().filter(|letter| (first..end).contains(&letter.id));
        Ok(letters
            .map(|letter| (letter, state.redrives.get(&letter.id).unwrap_or(&unmarked)))
            .filter(|(letter, redrive)| fits(filter, letter, redrive))
            .map(|(letter, redrive)| summary_of(letter, redrive))
            .take(limit as usize)
            .collect())
    }

    async fn last_letter(&self) -> Result<i64, StoreError> {
        Ok(self.state().dead_letters.last_key_value().map_or(0, |(id, _)| *id))
    }

    async fn letter(&self, id: i64) -> Result<Option<StoredLetter>, StoreError> {
        self.ask(Call::Letter)?;
        let state = self.state();
        let redrive = state.redrives.get(&id).cloned().unwrap_or_default();
        Ok(state.dead_letters.get(&id).map(|letter| StoredLetter {
            summary: summary_of(letter, &redrive),
            trace_id: letter.span.as_ref().map(|span| span.trace_id.clone()),
            kind: letter.span.as_ref().map(|span| span.kind.clone()),
            key: letter.key.clone(),
            headers: letter.headers.clone(),
            bytes: letter.bytes.clone(),
            sealed: letter.sealed,
        }))
    }

    async fn mark(&self, ids: &[i64]) -> Result<u64, StoreError> {
        let mut state = self.state();
        let mut marked = 0;
        for id in ids {
            if state.dead_letters.contains_key(id) {
                let redrive = state.redrives.entry(*id).or_default();
                marked += u64::from(!redrive.pending);
                redrive.pending = true;
            }
        }
        Ok(marked)
    }

    async fn purge(&self, ids: &[i64]) -> Result<u64, StoreError> {
        let mut state = self.state();
        let removed = ids.iter().filter(|id| state.dead_letters.remove(id).is_some()).count();
        for id in ids {
            state.redrives.remove(id);
            state.unsent.remove(id);
        }
        Ok(removed as u64)
    }

    async fn marked(&self) -> Result<Vec<(String, i32)>, StoreError> {
        self.ask(Call::Marked)?;
        let state = self.state();
        let pending = state.redrives.iter().filter(|(_, redrive)| redrive.pending);
        let mut found: Vec<_> = pending
            .filter_map(|(id, _)| state.dead_letters.get(id))
            .map(|letter| (letter.topic.clone(), letter.partition))
            .collect();
        found.sort();
        found.dedup();
        Ok(found)
    }

    async fn unsent(
        &self,
        cluster_id: &str,
        group: &str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<i64>, StoreError> {
        let state = self.state();
        let unsent = state.unsent.range(after + 1..);
        let ours = unsent.filter(|(_, stream)| {
            let key = &state.progress[usize::from(**stream)].key;
            key.cluster_id == cluster_id && key.group == group
        });
        Ok(ours.map(|(id, _)| *id).take(limit as usize).collect())
    }

    async fn count_unsent(&self, cluster_id: &str, group: &str) -> Result<u64, StoreError> {
        Ok(self.unsent(cluster_id, group, 0, u32::MAX).await?.len() as u64)
    }

    async fn sent(&self, ids: &[i64]) -> Result<(), StoreError> {
        self.ask(Call::Sent)?;
        let mut state = self.state();
        for id in ids {
            state.unsent.remove(id);
        }
        Ok(())
    }

    async fn redrive(&self, batch: &RedriveBatch<'_>) -> Result<(), StoreError> {
        self.ask(Call::Redrive)?;
        self.check_rows(batch.write.rows)?;
        let now = self.now_ms();
        {
            let mut state = self.state();
            let fingerprint = state.progress.get(usize::from(batch.write.stream)).map(|row| row.fingerprint);
            let fingerprint = fingerprint.ok_or_else(|| fenced(batch.write.stream, batch.write.epoch))?;
            if !batch.settled.iter().all(|id| state.dead_letters.contains_key(id)) {
                let context = "a dead letter was removed while it was being redriven";
                return Err(StoreError::new(ErrorKind::Conflict, context));
            }
            state.write(&batch.write, now)?;
            // The position stands still, and so does what is known of the message before it.
            state.progress[usize::from(batch.write.stream)].fingerprint = fingerprint;
            for id in batch.settled {
                state.dead_letters.remove(id);
                state.redrives.remove(id);
                state.unsent.remove(id);
            }
            for (letter, history) in batch.write.dead_letters.iter().zip(batch.histories) {
                state.redrives.insert(letter.id, Redrive { pending: false, history: history.clone() });
            }
        }
        self.ask(Call::Redriven)
    }
}
