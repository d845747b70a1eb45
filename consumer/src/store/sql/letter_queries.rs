//! Reading, marking, purging and redriving dead letters: the same statements on each backend, but for quotes,
//! casts and the driver's types.

use super::dialect::Dialect;

impl Dialect {
    /// Everything of a [`LetterSummary`], in the order of [`super::letters::SummaryRow`], from `sluice_dead_letter d` and
    /// `sluice_redrive r`; to be followed by a table name and conditions. `marked`: only letters that were marked once,
    /// found from their marks. They may be few among many letters, which need not be walked then.
    pub fn select_summaries(&self, marked: bool) -> String {
        let Self { quote: q, int8, text: (before, after), .. } = self;
        let from = if marked {
            "sluice_redrive r JOIN sluice_dead_letter d ON d.table_name = r.table_name AND d.id = r.id \
             WHERE r.table_name = "
        } else {
            "sluice_dead_letter d LEFT JOIN sluice_redrive r ON r.table_name = d.table_name AND r.id = d.id \
             WHERE d.table_name = "
        };
        format!(
            "SELECT CAST(d.id AS {int8}), {before}d.topic{after}, CAST(d.{q}partition{q} AS {int8}), \
             CAST(d.{q}offset{q} AS {int8}), CAST(d.span_index AS {int8}), d.message_time_ms, d.reason, d.detail, \
             CAST(COALESCE(r.pending, 0) AS {int8}), CAST(COALESCE(r.attempts, 0) AS {int8}), \
             COALESCE(r.history, '[]') FROM {from}"
        )
    }
}

/// What the calls of [`super::letter_calls`] do, for a backend, which has the methods `table_name`,
/// `put_batch` (begins a transaction and inserts rows and letters) and the functions `begin`, `begin_reading` (of a
/// transaction whose reads a proxy sends to the primary), `commit`, `store_error`.
macro_rules! letter_queries {
    (store: $store:ty, database: $database:ty, dialect: $dialect:expr) => {
        use sqlx::{Connection, QueryBuilder};

        use crate::store::letter::{LetterFilter, LetterSummary, RedriveBatch, StoredLetter};
        use crate::store::sql::{
            SHORT_ANSWER, SummaryRow, WRITE_ANSWER, assembled, fenced, history_json, summary_of, within,
        };
        use crate::store::{ErrorKind, StoreError, WriteBatch};

        /// Rows of an `INSERT` without texts: well below every server's limit of arguments.
        const UNSENT_ROWS: usize = 1_000;

        type Conn = <$database as sqlx::Database>::Connection;
        type Builder = QueryBuilder<$database>;

        /// Adds `(id, id, …)`.
        fn push_ids(builder: &mut Builder, ids: &[i64]) {
            let mut list = builder.push("(").separated(", ");
            for id in ids {
                list.push_bind(*id);
            }
            builder.push(")");
        }

        impl $store {
            /// On the primary: a lane would look for letters that are settled, again and again, until a replica knows.
            async fn list_letters(
                &self,
                conn: &mut Conn,
                filter: &LetterFilter,
                after: i64,
                limit: u32,
            ) -> Result<Vec<LetterSummary>, StoreError> {
                begin_reading(conn, "sluice_dead_letter").await?;
                let found = self.find_letters(conn, filter, after, limit).await?;
                commit(conn).await?;
                Ok(found)
            }

            async fn find_letters(
                &self,
                conn: &mut Conn,
                filter: &LetterFilter,
                after: i64,
                limit: u32,
            ) -> Result<Vec<LetterSummary>, StoreError> {
                let mut builder = self.select_letters(filter, after, limit);
                let rows = within(SHORT_ANSWER, builder.build_query_as::<SummaryRow>().fetch_all(conn))
                    .await
                    .map_err(store_error("cannot list dead letters"))?;
                rows.into_iter().map(summary_of).collect()
            }

            pub(super) fn select_letters(&self, filter: &LetterFilter, after: i64, limit: u32) -> Builder {
                let (first, end) = filter.ids(after);
                let q = $dialect.quote;
                let is_marked = filter.pending == Some(true);
                // The marks carry the letters' topic and partition, and an index on them.
                let of = if is_marked { "r" } else { "d" };
                let mut builder = Builder::new($dialect.select_summaries(is_marked));
                builder.push_bind(self.table_name().to_owned());
                builder.push(format_args!(" AND {of}.id >= ")).push_bind(first);
                builder.push(format_args!(" AND {of}.id < ")).push_bind(end);
                if let Some(topic) = &filter.topic {
                    builder.push(format_args!(" AND {of}.topic = ")).push_bind(topic.clone());
                }
                if let Some(partition) = filter.partition {
                    builder.push(format_args!(" AND {of}.{q}partition{q} = ")).push_bind(partition);
                }
                if let Some(reason) = filter.reason {
                    builder.push(" AND d.reason = ").push_bind(reason.as_str());
                }
                match filter.pending {
                    Some(true) => builder.push(" AND r.pending = 1"),
                    Some(false) => builder.push(" AND COALESCE(r.pending, 0) = 0"),
                    None => &mut builder,
                };
                builder.push(format_args!(" ORDER BY {of}.id LIMIT ")).push_bind(i64::from(limit));
                builder
            }

            /// On the primary: what a replica does not know yet would be left out.
            async fn find_last(&self, conn: &mut Conn) -> Result<i64, StoreError> {
                begin_reading(conn, "sluice_dead_letter").await?;
                let mut builder = Builder::new(format!(
                    "SELECT CAST(COALESCE(MAX(id), 0) AS {}) FROM sluice_dead_letter WHERE table_name = ",
                    $dialect.int8
                ));
                builder.push_bind(self.table_name().to_owned());
                let last = within(SHORT_ANSWER, builder.build_query_scalar().fetch_one(&mut *conn))
                    .await
                    .map_err(store_error("cannot look for the last dead letter"))?;
                commit(conn).await?;
                Ok(last)
            }

            async fn find_summary(
                &self,
                conn: &mut Conn,
                id: i64,
            ) -> Result<Option<LetterSummary>, StoreError> {
                let found = self.find_letters(conn, &LetterFilter::default(), id - 1, 1).await?;
                Ok(found.into_iter().find(|summary| summary.id == id))
            }

            /// On the primary: a replica that lags would take a letter for one that is gone, or for an empty one.
            async fn find_letter(&self, conn: &mut Conn, id: i64) -> Result<Option<StoredLetter>, StoreError> {
                begin_reading(conn, "sluice_dead_letter").await?;
                let found = self.read_letter(conn, id).await?;
                commit(conn).await?;
                Ok(found)
            }

            async fn read_letter(&self, conn: &mut Conn, id: i64) -> Result<Option<StoredLetter>, StoreError> {
                let Some(summary) = self.find_summary(conn, id).await? else { return Ok(None) };
                let mut builder =
                    Builder::new("SELECT part, data FROM sluice_dead_letter_chunk WHERE table_name = ");
                builder.push_bind(self.table_name().to_owned()).push(" AND id = ").push_bind(id);
                builder.push(" ORDER BY part, seq");
                let query = builder.build_query_as::<(String, Vec<u8>)>();
                let chunks = within(WRITE_ANSWER, query.fetch_all(&mut *conn))
                    .await
                    .map_err(store_error("cannot read a dead letter's bytes"))?;
                match assembled(summary, chunks) {
                    Some(letter) => Ok(Some(letter)),
                    // Settled between the two looks.
                    None if self.find_summary(conn, id).await?.is_none() => Ok(None),
                    None => Err(StoreError::new(
                        ErrorKind::Schema,
                        format!("dead letter {id} has no bytes in sluice_dead_letter_chunk"),
                    )),
                }
            }

            async fn mark_letters(&self, conn: &mut Conn, ids: &[i64]) -> Result<u64, StoreError> {
                const DOING: &str = "cannot mark dead letters";
                let q = $dialect.quote;
                begin(conn).await?;
                let mut again = Builder::new("UPDATE sluice_redrive SET pending = 1 WHERE table_name = ");
                again.push_bind(self.table_name().to_owned()).push(" AND pending = 0 AND id IN ");
                push_ids(&mut again, ids);
                let again = within(SHORT_ANSWER, again.build().execute(&mut *conn))
                    .await
                    .map_err(store_error(DOING))?
                    .rows_affected();
                let mut new = Builder::new(format!(
                    "INSERT INTO sluice_redrive (table_name, id, topic, {q}partition{q}, pending, attempts, history) \
                     SELECT d.table_name, d.id, d.topic, d.{q}partition{q}, 1, 0, '[]' FROM sluice_dead_letter d \
                     WHERE NOT EXISTS (SELECT 1 FROM sluice_redrive r WHERE r.table_name = d.table_name \
                     AND r.id = d.id) AND d.table_name = "
                ));
                new.push_bind(self.table_name().to_owned()).push(" AND d.id IN ");
                push_ids(&mut new, ids);
                let new = within(SHORT_ANSWER, new.build().execute(&mut *conn))
                    .await
                    .map_err(store_error(DOING))?
                    .rows_affected();
                commit(conn).await?;
                Ok(again + new)
            }

            /// Removes letters with all that belongs to them; returns how many there were.
            async fn delete_letters(&self, conn: &mut Conn, ids: &[i64]) -> Result<u64, StoreError> {
                let mut removed = 0;
                for (table, counts) in [
                    ("sluice_dead_letter", true),
                    ("sluice_dead_letter_chunk", false),
                    ("sluice_redrive", false),
                    ("sluice_dead_letter_unsent", false),
                ] {
                    let mut builder = Builder::new(format!("DELETE FROM {table} WHERE table_name = "));
                    builder.push_bind(self.table_name().to_owned()).push(" AND id IN ");
                    push_ids(&mut builder, ids);
                    let deleted = within(WRITE_ANSWER, builder.build().execute(&mut *conn))
                        .await
                        .map_err(store_error("cannot remove dead letters"))?;
                    if counts {
                        removed = deleted.rows_affected();
                    }
                }
                Ok(removed)
            }

            /// Has the dead letters of a batch wait for their topic. Part of the batch's transaction.
            pub(super) async fn insert_unsent(
                &self,
                conn: &mut Conn,
                batch: &WriteBatch<'_>,
            ) -> Result<(), StoreError> {
                for letters in batch.dead_letters.chunks(UNSENT_ROWS) {
                    let mut builder =
                        Builder::new("INSERT INTO sluice_dead_letter_unsent (table_name, id, stream) ");
                    builder.push_values(letters, |mut row, letter| {
                        row.push_bind(self.table_name().to_owned());
                        row.push_bind(letter.id);
                        row.push_bind(i32::from(batch.stream));
                    });
                    within(WRITE_ANSWER, builder.build().execute(&mut *conn))
                        .await
                        .map_err(store_error("cannot queue dead letters for their topic"))?;
                }
                Ok(())
            }

            /// What letters are unsent, to be preceded by what is asked of them.
            fn push_unsent(&self, builder: &mut Builder, cluster_id: &str, group: &str) {
                builder.push(
                    " FROM sluice_dead_letter_unsent u JOIN sluice_progress p ON p.table_name = u.table_name \
                     AND p.stream = u.stream WHERE u.table_name = ",
                );
                builder.push_bind(self.table_name().to_owned());
                builder.push(" AND p.cluster_id = ").push_bind(cluster_id.to_owned());
                builder.push(" AND p.consumer_group = ").push_bind(group.to_owned());
            }

            /// On the primary: by a replica that lags, a letter that was sent would be sent once more.
            async fn find_unsent(
                &self,
                conn: &mut Conn,
                (cluster_id, group): (&str, &str),
                after: i64,
                limit: u32,
            ) -> Result<Vec<i64>, StoreError> {
                begin_reading(conn, "sluice_dead_letter_unsent").await?;
                let mut builder = Builder::new(format!("SELECT CAST(u.id AS {})", $dialect.int8));
                self.push_unsent(&mut builder, cluster_id, group);
                builder.push(" AND u.id > ").push_bind(after);
                builder.push(" ORDER BY u.id LIMIT ").push_bind(i64::from(limit));
                let found = within(SHORT_ANSWER, builder.build_query_scalar().fetch_all(&mut *conn))
                    .await
                    .map_err(store_error("cannot look for dead letters to send"))?;
                commit(conn).await?;
                Ok(found)
            }

            async fn find_unsent_count(
                &self,
                conn: &mut Conn,
                cluster_id: &str,
                group: &str,
            ) -> Result<u64, StoreError> {
                let mut builder = Builder::new("SELECT COUNT(*)");
                self.push_unsent(&mut builder, cluster_id, group);
                let count: i64 = within(SHORT_ANSWER, builder.build_query_scalar().fetch_one(conn))
                    .await
                    .map_err(store_error("cannot count dead letters to send"))?;
                Ok(count.unsigned_abs())
            }

            async fn delete_unsent(&self, conn: &mut Conn, ids: &[i64]) -> Result<(), StoreError> {
                let mut builder = Builder::new("DELETE FROM sluice_dead_letter_unsent WHERE table_name = ");
                builder.push_bind(self.table_name().to_owned()).push(" AND id IN ");
                push_ids(&mut builder, ids);
                within(SHORT_ANSWER, builder.build().execute(conn))
                    .await
                    .map_err(store_error("cannot note that dead letters were sent"))?;
                Ok(())
            }

            async fn purge_letters(&self, conn: &mut Conn, ids: &[i64]) -> Result<u64, StoreError> {
                begin(conn).await?;
                let removed = self.delete_letters(conn, ids).await?;
                commit(conn).await?;
                Ok(removed)
            }

            /// Of letters that are there: a mark that is set while its letter is removed may outlive it.
            async fn marked_partitions(&self, conn: &mut Conn) -> Result<Vec<(String, i32)>, StoreError> {
                let (q, (before, after)) = ($dialect.quote, $dialect.text);
                let mut builder = Builder::new(format!(
                    "SELECT {before}r.topic{after}, r.{q}partition{q} FROM sluice_redrive r WHERE r.pending = 1 \
                     AND EXISTS (SELECT 1 FROM sluice_dead_letter d WHERE d.table_name = r.table_name \
                     AND d.id = r.id) AND r.table_name = "
                ));
                builder.push_bind(self.table_name().to_owned());
                builder.push(format_args!(" GROUP BY r.topic, r.{q}partition{q}"));
                within(SHORT_ANSWER, builder.build_query_as().fetch_all(conn))
                    .await
                    .map_err(store_error("cannot look for dead letters to redrive"))
            }

            /// Rows, letters that failed again, and the end of those that are settled; the fence comes last, as
            /// in every batch.
            async fn redrive_letters(
                &self,
                conn: &mut Conn,
                batch: &RedriveBatch<'_>,
            ) -> Result<(), StoreError> {
                let write = &batch.write;
                self.put_batch(conn, write).await?;
                if self.delete_letters(conn, batch.settled).await? != batch.settled.len() as u64 {
                    let context = "a dead letter was removed while it was being redriven";
                    return Err(StoreError::new(ErrorKind::Conflict, context));
                }
                let q = $dialect.quote;
                for (letter, history) in write.dead_letters.iter().zip(batch.histories) {
                    let mut builder = Builder::new(format!(
                        "INSERT INTO sluice_redrive \
                         (table_name, id, topic, {q}partition{q}, pending, attempts, history) VALUES ("
                    ));
                    let mut values = builder.separated(", ");
                    values.push_bind(self.table_name().to_owned());
                    values.push_bind(letter.id);
                    values.push_bind(letter.topic.to_owned());
                    values.push_bind(letter.partition);
                    values.push_bind(0i32);
                    values.push_bind(i32::try_from(history.attempts).unwrap_or(i32::MAX));
                    values.push_bind(history_json(&history.failures));
                    builder.push(")");
                    within(WRITE_ANSWER, builder.build().execute(&mut *conn))
                        .await
                        .map_err(store_error("cannot keep a dead letter's history"))?;
                }
                let mut builder = Builder::new("UPDATE sluice_progress SET last_id = ");
                builder.push_bind(write.to.last_id);
                builder.push(" WHERE table_name = ").push_bind(self.table_name().to_owned());
                builder.push(" AND stream = ").push_bind(i32::from(write.stream));
                builder.push(" AND owner_epoch = ").push_bind(write.epoch.cast_signed());
                builder.push(" AND next_offset = ").push_bind(write.from.next_offset.cast_signed());
                builder.push(" AND last_id = ").push_bind(write.from.last_id);
                let matched = within(WRITE_ANSWER, builder.build().execute(&mut *conn))
                    .await
                    .map_err(store_error("cannot move the last id"))?
                    .rows_affected();
                if matched != 1 {
                    return Err(fenced(write.stream, write.epoch));
                }
                commit(conn).await?;
                conn.shrink_buffers();
                Ok(())
            }
        }
    };
}
pub(in crate::store) use letter_queries;
