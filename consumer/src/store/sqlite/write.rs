//! Batches: rows, dead letters, and the conditional move of the position.

use sqlx::sqlite::{SqliteArguments, SqliteConnection};
use sqlx::{Arguments, AssertSqlSafe};

use super::SqliteStore;
use super::errors::store_error;
use super::transaction::commit;
use crate::store::sql::{FixedSizes, WRITE_ANSWER, detail_of, fenced, parts_of, signed, within};
use crate::store::{Row, StoreError, TableName, WriteBatch};

/// Row counts of the prepared `INSERT`s: each statement is one trip to the connection's thread.
const ROW_SIZES: [usize; 4] = [250, 50, 10, 1];

const DEAD_LETTER: &str = "INSERT INTO sluice_dead_letter (table_name, id, stream, topic, \"partition\", \
     \"offset\", span_index, message_time_ms, reason, detail) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)";
const CHUNK: &str =
    "INSERT INTO sluice_dead_letter_chunk (table_name, id, part, seq, data) VALUES (?, ?, ?, ?, ?)";
const MOVE: &str = "UPDATE sluice_progress SET next_offset = ?, last_id = ?, fingerprint = ?, \
     updated_at = CURRENT_TIMESTAMP WHERE table_name = ? AND stream = ? AND owner_epoch = ? \
     AND next_offset = ? AND last_id = ?";

/// How rows go into the trace table; `created_at` fills itself.
pub(super) struct RowInsert {
    sizes: FixedSizes,
}

impl RowInsert {
    pub(super) fn new(table: &TableName) -> Self {
        let head = format!("INSERT INTO {} (id, trace_id, kind, body) VALUES", table.double_quoted());
        Self { sizes: FixedSizes::new(&head, "(?,?,?,?)", &ROW_SIZES) }
    }
}

impl SqliteStore {
    pub(super) async fn write_batch(
        &self,
        conn: &mut SqliteConnection,
        batch: &WriteBatch<'_>,
    ) -> Result<(), StoreError> {
        self.put_batch(conn, batch).await?;
        self.move_position(conn, batch).await?;
        commit(conn).await
    }

    pub(super) async fn insert_rows(
        &self,
        conn: &mut SqliteConnection,
        rows: &[Row<'_>],
    ) -> Result<(), StoreError> {
        let mut rest = rows;
        while !rest.is_empty() {
            let (size, sql) = self.insert.sizes.largest(rest.len());
            let (rows, later) = rest.split_at(size);
            let arguments = arguments_of(rows)
                .map_err(|source| store_error("cannot encode a row")(sqlx::Error::Encode(source)))?;
            let query = sqlx::query_with(AssertSqlSafe(sql), arguments);
            within(WRITE_ANSWER, query.execute(&mut *conn))
                .await
                .map_err(store_error("cannot insert rows"))?;
            rest = later;
        }
        Ok(())
    }

    pub(super) async fn insert_dead_letters(
        &self,
        conn: &mut SqliteConnection,
        batch: &WriteBatch<'_>,
    ) -> Result<(), StoreError> {
        for letter in batch.dead_letters {
            let query = sqlx::query(DEAD_LETTER)
                .bind(self.table.as_str())
                .bind(letter.id)
                .bind(batch.stream)
                .bind(letter.topic)
                .bind(letter.partition)
                .bind(signed(letter.offset)?)
                .bind(letter.span.map(|span| span.index))
                .bind(letter.timestamp)
                .bind(letter.reason.as_str())
                .bind(detail_of(letter));
            within(WRITE_ANSWER, query.execute(&mut *conn))
                .await
                .map_err(store_error("cannot store dead letters"))?;
            for chunk in parts_of(letter) {
                let query = sqlx::query(CHUNK)
                    .bind(self.table.as_str())
                    .bind(letter.id)
                    .bind(chunk.part)
                    .bind(chunk.seq)
                    .bind(chunk.data);
                within(WRITE_ANSWER, query.execute(&mut *conn))
                    .await
                    .map_err(store_error("cannot store a dead letter's bytes"))?;
            }
        }
        Ok(())
    }

    async fn move_position(
        &self,
        conn: &mut SqliteConnection,
        batch: &WriteBatch<'_>,
    ) -> Result<(), StoreError> {
        // `to` is checked by `signed`; `from` may be any bits: what was never stored matches nothing.
        let query = sqlx::query(MOVE)
            .bind(signed(batch.to.next_offset)?)
            .bind(batch.to.last_id)
            .bind(batch.fingerprint.map(u64::cast_signed))
            .bind(self.table.as_str())
            .bind(i32::from(batch.stream))
            .bind(batch.epoch.cast_signed())
            .bind(batch.from.next_offset.cast_signed())
            .bind(batch.from.last_id);
        let matched = within(WRITE_ANSWER, query.execute(conn))
            .await
            .map_err(store_error("cannot move the position"))?
            .rows_affected();
        if matched == 1 { Ok(()) } else { Err(fenced(batch.stream, batch.epoch)) }
    }
}

fn arguments_of(rows: &[Row<'_>]) -> Result<SqliteArguments, sqlx::error::BoxDynError> {
    let mut arguments = SqliteArguments::default();
    arguments.reserve(4 * rows.len(), 0);
    for row in rows {
        arguments.add(row.id)?;
        arguments.add(row.trace_id)?;
        arguments.add(row.kind)?;
        arguments.add(row.body)?;
    }
    Ok(arguments)
}
