//! Batches: rows, dead letters, and the conditional move of the position.

use std::sync::Arc;

use sqlx::postgres::{PgArguments, PgConnection};
use sqlx::{Arguments, AssertSqlSafe, Connection};

use super::PostgresStore;
use super::copy::CopyIn;
use super::errors::store_error;
use super::transaction::commit;
use super::unnest::{Ids, Texts, bytes_of};
use crate::store::sql::{WRITE_ANSWER, detail_of, fenced, parts_of, signed, within};
use crate::store::{DeadLetter, Row, StoreError, TableName, WriteBatch};

const COPY_DEAD_LETTERS: &str = "COPY sluice_dead_letter (table_name, id, stream, topic, \"partition\", \
     \"offset\", span_index, message_time_ms, reason, detail) FROM STDIN (FORMAT binary)";
const COPY_CHUNKS: &str =
    "COPY sluice_dead_letter_chunk (table_name, id, part, seq, data) FROM STDIN (FORMAT binary)";
/// Moves the position: the first part of the one statement that most batches are, the last statement of others (ADR 5).
/// Nothing before it locks what another lane needs.
const MOVE: &str = "UPDATE sluice_progress SET next_offset = $1, last_id = $2, fingerprint = $3, \
     updated_at = now() WHERE table_name = $4 AND stream = $5 AND owner_epoch = $6 AND next_offset = $7 \
     AND last_id = $8";

/// Most bytes of rows in one statement, whose arguments are in memory here and on the server as a whole. A larger
/// batch goes in by COPY, piece by piece.
const MAX_ARGUMENT_BYTES: usize = 4 * 1024 * 1024;
/// A connection that has sent more than this gives the memory back.
const SHRINK_BYTES: usize = 1024 * 1024;

/// How rows go into the trace table; `created_at` fills itself.
pub(super) struct Statements {
    insert: Arc<str>,
    /// [`MOVE`] and the insert as one statement, which inserts nothing where no position moves.
    move_and_insert: Arc<str>,
    copy: String,
}

impl Statements {
    pub(super) fn new(table: &TableName) -> Self {
        let table = table.double_quoted();
        let insert = |from: &str| {
            format!(
                "INSERT INTO {table} (id, trace_id, kind, body) SELECT r.id, r.trace_id, r.kind, r.body FROM {from}"
            )
        };
        let rows = |first: usize| {
            format!(
                "unnest(${first}::bigint[], ${}::text[], ${}::text[], ${}::text[]) AS r (id, trace_id, kind, body)",
                first + 1,
                first + 2,
                first + 3
            )
        };
        Self {
            insert: insert(&rows(1)).into(),
            move_and_insert: format!(
                "WITH moved AS ({MOVE} RETURNING 1), stored AS ({}) SELECT count(*) FROM moved",
                insert(&format!("moved CROSS JOIN {}", rows(9)))
            )
            .into(),
            copy: format!("COPY {table} (id, trace_id, kind, body) FROM STDIN (FORMAT binary)"),
        }
    }
}

impl PostgresStore {
    /// Rows and position in one statement, where that is possible: it is a transaction of its own, so there is one
    /// round trip, and a client that stops can hold up nobody; see ADR 5.
    pub(super) async fn write_batch(
        &self,
        conn: &mut PgConnection,
        batch: &WriteBatch<'_>,
    ) -> Result<(), StoreError> {
        let bytes = bytes_of(batch.rows);
        if batch.dead_letters.is_empty() && bytes <= MAX_ARGUMENT_BYTES {
            return self.write_at_once(conn, batch, bytes).await;
        }
        self.put_batch(conn, batch).await?;
        self.move_position(conn, batch).await?;
        commit(conn).await
    }

    async fn write_at_once(
        &self,
        conn: &mut PgConnection,
        batch: &WriteBatch<'_>,
        bytes: usize,
    ) -> Result<(), StoreError> {
        let mut arguments = self.move_arguments(batch)?;
        add_rows(&mut arguments, batch.rows, bytes)?;
        let sql = AssertSqlSafe(Arc::clone(&self.statements.move_and_insert));
        let query = sqlx::query_scalar_with::<_, i64, _>(sql, arguments);
        let moved = within(WRITE_ANSWER, query.fetch_one(&mut *conn))
            .await
            .map_err(store_error("cannot write a batch"))?;
        if bytes > SHRINK_BYTES {
            conn.shrink_buffers();
        }
        if moved == 1 { Ok(()) } else { Err(fenced(batch.stream, batch.epoch)) }
    }

    pub(super) async fn insert_rows(
        &self,
        conn: &mut PgConnection,
        rows: &[Row<'_>],
    ) -> Result<(), StoreError> {
        let bytes = bytes_of(rows);
        if rows.is_empty() {
            return Ok(());
        }
        if bytes > MAX_ARGUMENT_BYTES {
            return self.copy_rows(conn, rows).await.map_err(store_error("cannot insert rows"));
        }
        let mut arguments = PgArguments::default();
        add_rows(&mut arguments, rows, bytes)?;
        let query = sqlx::query_with(AssertSqlSafe(Arc::clone(&self.statements.insert)), arguments);
        within(WRITE_ANSWER, query.execute(conn)).await.map_err(store_error("cannot insert rows"))?;
        Ok(())
    }

    async fn copy_rows(&self, conn: &mut PgConnection, rows: &[Row<'_>]) -> Result<(), sqlx::Error> {
        let mut copy = CopyIn::begin(conn, &self.statements.copy).await?;
        for row in rows {
            copy.row(4).await?;
            copy.int8(row.id);
            copy.short(row.trace_id.as_bytes());
            copy.short(row.kind.as_bytes());
            copy.long(row.body.as_bytes()).await?;
        }
        copy.finish().await
    }

    pub(super) async fn insert_dead_letters(
        &self,
        conn: &mut PgConnection,
        batch: &WriteBatch<'_>,
    ) -> Result<(), StoreError> {
        if batch.dead_letters.is_empty() {
            return Ok(());
        }
        for letter in batch.dead_letters {
            signed(letter.offset)?;
        }
        self.copy_letters(conn, batch).await.map_err(store_error("cannot store dead letters"))?;
        self.copy_chunks(conn, batch.dead_letters)
            .await
            .map_err(store_error("cannot store a dead letter's bytes"))
    }

    async fn copy_letters(&self, conn: &mut PgConnection, batch: &WriteBatch<'_>) -> Result<(), sqlx::Error> {
        let mut copy = CopyIn::begin(conn, COPY_DEAD_LETTERS).await?;
        for letter in batch.dead_letters {
            copy.row(10).await?;
            copy.short(self.options.table.as_str().as_bytes());
            copy.int8(letter.id);
            copy.int4(i32::from(batch.stream));
            copy.short(letter.topic.as_bytes());
            copy.int4(letter.partition);
            copy.int8(letter.offset.cast_signed());
            match letter.span {
                Some(span) => copy.int4(i32::try_from(span.index).unwrap_or(i32::MAX)),
                None => copy.null(),
            }
            match letter.timestamp {
                Some(timestamp) => copy.int8(timestamp),
                None => copy.null(),
            }
            copy.short(letter.reason.as_str().as_bytes());
            copy.short(detail_of(letter).as_bytes());
        }
        copy.finish().await
    }

    async fn copy_chunks(
        &self,
        conn: &mut PgConnection,
        letters: &[DeadLetter<'_>],
    ) -> Result<(), sqlx::Error> {
        let mut copy = CopyIn::begin(conn, COPY_CHUNKS).await?;
        for letter in letters {
            for chunk in parts_of(letter) {
                copy.row(5).await?;
                copy.short(self.options.table.as_str().as_bytes());
                copy.int8(letter.id);
                copy.short(chunk.part.as_bytes());
                copy.int4(chunk.seq);
                copy.long(chunk.data).await?;
            }
        }
        copy.finish().await
    }

    async fn move_position(&self, conn: &mut PgConnection, batch: &WriteBatch<'_>) -> Result<(), StoreError> {
        let query = sqlx::query_with(MOVE, self.move_arguments(batch)?);
        let matched = within(WRITE_ANSWER, query.execute(conn))
            .await
            .map_err(store_error("cannot move the position"))?
            .rows_affected();
        if matched == 1 { Ok(()) } else { Err(fenced(batch.stream, batch.epoch)) }
    }

    /// What [`MOVE`] compares and sets.
    fn move_arguments(&self, batch: &WriteBatch<'_>) -> Result<PgArguments, StoreError> {
        // `to` is checked by `signed`; `from` may be any bits: what was never stored matches nothing.
        let next_offset = signed(batch.to.next_offset)?;
        let mut arguments = PgArguments::default();
        let mut add_all = || {
            arguments.add(next_offset)?;
            arguments.add(batch.to.last_id)?;
            arguments.add(batch.fingerprint.map(u64::cast_signed))?;
            arguments.add(self.options.table.as_str())?;
            arguments.add(i32::from(batch.stream))?;
            arguments.add(batch.epoch.cast_signed())?;
            arguments.add(batch.from.next_offset.cast_signed())?;
            arguments.add(batch.from.last_id)
        };
        add_all().map_err(cannot_encode)?;
        Ok(arguments)
    }
}

/// Adds the four columns as arrays.
fn add_rows(arguments: &mut PgArguments, rows: &[Row<'_>], bytes: usize) -> Result<(), StoreError> {
    arguments.reserve(4, bytes);
    let mut add_all = || {
        arguments.add(Ids(rows))?;
        arguments.add(Texts(rows, |row| row.trace_id))?;
        arguments.add(Texts(rows, |row| row.kind))?;
        arguments.add(Texts(rows, |row| row.body))
    };
    add_all().map_err(cannot_encode)
}

fn cannot_encode(source: sqlx::error::BoxDynError) -> StoreError {
    store_error("cannot encode a batch")(sqlx::Error::Encode(source))
}
