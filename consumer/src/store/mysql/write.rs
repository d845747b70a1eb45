//! Batches: rows, dead letters, and the conditional move of the position.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use sqlx::Arguments;
use sqlx::AssertSqlSafe;
use sqlx::Connection;
use sqlx::mysql::{MySqlArguments, MySqlConnection};

use super::errors::store_error;
use super::transaction::commit;
use super::{MySqlStore, ROW_OVERHEAD_BYTES};
use crate::store::sql::{FixedSizes, WRITE_ANSWER, detail_of, fenced, parts_of, within};
use crate::store::{ErrorKind, Row, StoreError, TableName, WriteBatch};

/// Row counts of the prepared `INSERT`s. The largest is the default of `batch.maxRows`.
const ROW_SIZES: [usize; 10] = [1000, 500, 200, 100, 50, 20, 10, 5, 2, 1];
const LETTER_SIZES: [usize; 3] = [100, 10, 1];
/// Protocol bytes of a row besides its texts: id, three lengths, four types, and its share of the NULL map.
const ROW_PROTOCOL_BYTES: usize = 8 + 3 * 9 + 4 * 2 + 1;
/// A connection that has sent more than this gives the memory back.
const SHRINK_BYTES: usize = 1024 * 1024;

const DEAD_LETTERS: &str = "INSERT INTO sluice_dead_letter (table_name, id, stream, topic, `partition`, \
     `offset`, span_index, message_time_ms, reason, detail) VALUES";
const CHUNK: &str =
    "INSERT INTO sluice_dead_letter_chunk (table_name, id, part, seq, data) VALUES (?, ?, ?, ?, ?)";
/// The last statement of every batch: no earlier one locks anything that another lane needs. None reads: what was read
/// might be of no transaction any more, see [`super::transaction::check_lock`], and this one would be alone.
const MOVE: &str = "UPDATE sluice_progress SET next_offset = ?, last_id = ?, fingerprint = ?, \
     updated_at = CURRENT_TIMESTAMP WHERE table_name = ? AND stream = ? AND owner_epoch = ? \
     AND next_offset = ? AND last_id = ?";

/// Statements that do not depend on the trace table.
pub(super) struct Statements {
    dead_letters: FixedSizes,
}

impl Statements {
    pub(super) fn new() -> Self {
        Self { dead_letters: FixedSizes::new(DEAD_LETTERS, "(?,?,?,?,?,?,?,?,?,?)", &LETTER_SIZES) }
    }
}

/// How rows go into the trace table.
pub(super) struct RowInsert {
    sizes: FixedSizes,
    /// Whether texts are sent as bytes. MariaDB reads a text parameter character by character before it stores it, an
    /// eighth of what a row costs it; bytes it only checks while it copies them into the column. It would convert no
    /// bytes: only where the columns keep texts as they are here. Other servers were not measured.
    as_bytes: bool,
}

impl RowInsert {
    /// `fills_created_at`: whether the column has a default of its own.
    pub(super) fn new(table: &TableName, fills_created_at: bool, as_bytes: bool) -> Self {
        let table = table.backticked();
        let sizes = if fills_created_at {
            let head = format!("INSERT INTO {table} (`id`, `trace_id`, `kind`, `body`) VALUES");
            FixedSizes::new(&head, "(?,?,?,?)", &ROW_SIZES)
        } else {
            let head = format!("INSERT INTO {table} (`id`, `trace_id`, `kind`, `body`, `created_at`) VALUES");
            FixedSizes::new(&head, "(?,?,?,?,CURRENT_TIMESTAMP)", &ROW_SIZES)
        };
        Self { sizes, as_bytes }
    }
}

impl MySqlStore {
    pub(super) async fn write_batch(
        &self,
        conn: &mut MySqlConnection,
        batch: &WriteBatch<'_>,
    ) -> Result<(), StoreError> {
        self.put_batch(conn, batch).await?;
        self.move_position(conn, batch).await?;
        commit(conn).await
    }

    pub(super) async fn insert_rows(
        &self,
        conn: &mut MySqlConnection,
        rows: &[Row<'_>],
    ) -> Result<(), StoreError> {
        let insert = self
            .insert
            .get()
            .ok_or_else(|| StoreError::new(ErrorKind::Unavailable, "the trace table was not prepared yet"))?;
        let limit = self.chunk_bytes();
        let mut rest = rows;
        while !rest.is_empty() {
            let fitting = prefix_within(rest, limit.saturating_sub(ROW_OVERHEAD_BYTES));
            let (size, sql) = insert.sizes.largest(fitting);
            let (rows, later) = rest.split_at(size);
            let longest = rows.iter().map(|row| row.body.len()).max().unwrap_or_default();
            if longest > self.max_column.load(Ordering::Relaxed) {
                return Err(self.no_room(conn, longest).await);
            }
            let bytes = rows.iter().map(protocol_bytes).sum();
            if bytes > self.max_statement_bytes() {
                return Err(too_large(bytes, self.max_statement_bytes()));
            }
            insert_chunk(conn, sql, rows, bytes, insert.as_bytes).await?;
            rest = later;
        }
        Ok(())
    }

    /// The column has no room for such a body, or had none when it was last looked at: once it was widened, the same batch
    /// needs no look.
    async fn no_room(&self, conn: &mut MySqlConnection, bytes: usize) -> StoreError {
        let room = match self.adopted(conn).await {
            Ok(adopted) => adopted.max_body_bytes,
            Err(error) => return error,
        };
        self.max_column.store(room, Ordering::Relaxed);
        if bytes <= room {
            return StoreError::new(ErrorKind::Conflict, "the body's column was widened meanwhile");
        }
        let context =
            format!("a body of {bytes} bytes is larger than the {room} that its column has room for");
        StoreError::new(ErrorKind::TooLarge, context)
    }

    pub(super) async fn insert_dead_letters(
        &self,
        conn: &mut MySqlConnection,
        batch: &WriteBatch<'_>,
    ) -> Result<(), StoreError> {
        let mut rest = batch.dead_letters;
        while !rest.is_empty() {
            let (size, sql) = self.statements.dead_letters.largest(rest.len());
            let (letters, later) = rest.split_at(size);
            let mut query = sqlx::query(AssertSqlSafe(sql));
            for letter in letters {
                query = query
                    .bind(self.options.table.as_str())
                    .bind(letter.id)
                    .bind(batch.stream)
                    .bind(letter.topic)
                    .bind(letter.partition)
                    .bind(letter.offset)
                    .bind(letter.span.map(|span| span.index))
                    .bind(letter.timestamp)
                    .bind(letter.reason.as_str())
                    .bind(detail_of(letter));
            }
            within(WRITE_ANSWER, query.execute(&mut *conn))
                .await
                .map_err(store_error("cannot store dead letters"))?;
            rest = later;
        }
        for letter in batch.dead_letters {
            for chunk in parts_of(letter) {
                let query = sqlx::query(CHUNK)
                    .bind(self.options.table.as_str())
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
        conn: &mut MySqlConnection,
        batch: &WriteBatch<'_>,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(MOVE)
            .bind(batch.to.next_offset)
            .bind(batch.to.last_id)
            .bind(batch.fingerprint)
            .bind(self.options.table.as_str())
            .bind(batch.stream)
            .bind(batch.epoch)
            .bind(batch.from.next_offset)
            .bind(batch.from.last_id);
        #[cfg(feature = "planted")]
        let query = match crate::planted::is(crate::planted::Bug::DropComparison) {
            true => sqlx::query(
                "UPDATE sluice_progress SET next_offset = ?, last_id = ?, fingerprint = ? \
                 WHERE table_name = ? AND stream = ?",
            )
            .bind(batch.to.next_offset)
            .bind(batch.to.last_id)
            .bind(batch.fingerprint)
            .bind(self.options.table.as_str())
            .bind(batch.stream),
            false => query,
        };
        // Matching rows, not changed ones: sqlx connects with CLIENT_FOUND_ROWS.
        let matched = within(WRITE_ANSWER, query.execute(conn))
            .await
            .map_err(store_error("cannot move the position"))?
            .rows_affected();
        if matched == 1 { Ok(()) } else { Err(fenced(batch.stream, batch.epoch)) }
    }
}

async fn insert_chunk(
    conn: &mut MySqlConnection,
    sql: Arc<str>,
    rows: &[Row<'_>],
    bytes: usize,
    as_bytes: bool,
) -> Result<(), StoreError> {
    let mut arguments = MySqlArguments::default();
    arguments.reserve(4 * rows.len(), bytes);
    for row in rows {
        add_row(&mut arguments, row, as_bytes)
            .map_err(|source| store_error("cannot encode a row")(sqlx::Error::Encode(source)))?;
    }
    let query = sqlx::query_with(AssertSqlSafe(sql), arguments);
    within(WRITE_ANSWER, query.execute(&mut *conn)).await.map_err(store_error("cannot insert rows"))?;
    if bytes > SHRINK_BYTES {
        conn.shrink_buffers();
    }
    Ok(())
}

fn add_row(
    arguments: &mut MySqlArguments,
    row: &Row<'_>,
    as_bytes: bool,
) -> Result<(), sqlx::error::BoxDynError> {
    arguments.add(row.id)?;
    for text in [row.trace_id, row.kind, row.body] {
        if as_bytes { arguments.add(text.as_bytes())? } else { arguments.add(text)? }
    }
    Ok(())
}

/// How many of the first rows stay within `limit` bytes together; at least one.
fn prefix_within(rows: &[Row<'_>], limit: usize) -> usize {
    let mut bytes = 0;
    for (count, row) in rows.iter().enumerate() {
        bytes += protocol_bytes(row);
        if bytes > limit && count > 0 {
            return count;
        }
    }
    rows.len()
}

fn protocol_bytes(row: &Row<'_>) -> usize {
    ROW_PROTOCOL_BYTES + row.trace_id.len() + row.kind.len() + row.body.len()
}

fn too_large(bytes: usize, limit: usize) -> StoreError {
    StoreError::new(
        ErrorKind::TooLarge,
        format!("a row of {bytes} bytes is larger than the {limit} that max_allowed_packet leaves room for"),
    )
}
