//! The calls of [`crate::store::letter::LetterStore`], as those of [`super::store_calls`]: each takes a connection for its
//! purpose, does its work there, and gives the connection back.

/// Implements [`crate::store::letter::LetterStore`] for a backend with the methods `session` and `settle`, and those of
/// [`super::letter_queries`] in the same file, which imports what they name.
macro_rules! letter_calls {
    (store: $store:ty) => {
        use crate::store::letter::LetterStore;
        use crate::store::sql::Purpose;

        /// How often marks are tried that other commands set at the same time.
        const MARK_TRIES: u32 = 5;

        #[async_trait::async_trait]
        impl LetterStore for $store {
            async fn letters(
                &self,
                filter: &LetterFilter,
                after: i64,
                limit: u32,
            ) -> Result<Vec<LetterSummary>, StoreError> {
                let mut session = self.session(Purpose::Read).await?;
                let done = self.list_letters(&mut session, filter, after, limit).await;
                self.settle(session, done).await
            }

            async fn last_letter(&self) -> Result<i64, StoreError> {
                let mut session = self.session(Purpose::Read).await?;
                let done = self.find_last(&mut session).await;
                self.settle(session, done).await
            }

            async fn letter(&self, id: i64) -> Result<Option<StoredLetter>, StoreError> {
                let mut session = self.session(Purpose::Read).await?;
                let done = self.find_letter(&mut session, id).await;
                self.settle(session, done).await
            }

            async fn mark(&self, ids: &[i64]) -> Result<u64, StoreError> {
                let mut tries = 1;
                loop {
                    let mut session = self.session(Purpose::Upkeep).await?;
                    let done = self.mark_letters(&mut session, ids).await;
                    match self.settle(session, done).await {
                        // Another command has marked some of them at the same time: the next try sees its marks.
                        Err(error)
                            if matches!(error.kind, ErrorKind::DuplicateId | ErrorKind::Conflict)
                                && tries < MARK_TRIES =>
                        {
                            tries += 1;
                        }
                        done => return done,
                    }
                }
            }

            async fn purge(&self, ids: &[i64]) -> Result<u64, StoreError> {
                let mut session = self.session(Purpose::Upkeep).await?;
                let done = self.purge_letters(&mut session, ids).await;
                self.settle(session, done).await
            }

            async fn marked(&self) -> Result<Vec<(String, i32)>, StoreError> {
                let mut session = self.session(Purpose::Read).await?;
                let done = self.marked_partitions(&mut session).await;
                self.settle(session, done).await
            }

            async fn unsent(
                &self,
                cluster_id: &str,
                group: &str,
                after: i64,
                limit: u32,
            ) -> Result<Vec<i64>, StoreError> {
                let mut session = self.session(Purpose::Read).await?;
                let done = self.find_unsent(&mut session, (cluster_id, group), after, limit).await;
                self.settle(session, done).await
            }

            async fn count_unsent(&self, cluster_id: &str, group: &str) -> Result<u64, StoreError> {
                let mut session = self.session(Purpose::Read).await?;
                let done = self.find_unsent_count(&mut session, cluster_id, group).await;
                self.settle(session, done).await
            }

            async fn sent(&self, ids: &[i64]) -> Result<(), StoreError> {
                let mut session = self.session(Purpose::Upkeep).await?;
                let done = self.delete_unsent(&mut session, ids).await;
                self.settle(session, done).await
            }

            async fn redrive(&self, batch: &RedriveBatch<'_>) -> Result<(), StoreError> {
                let mut session = self.session(Purpose::Write).await?;
                let done = self.redrive_letters(&mut session, batch).await;
                self.settle(session, done).await
            }
        }
    };
}
pub(in crate::store) use letter_calls;
