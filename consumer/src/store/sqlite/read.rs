//! Rows of the trace table, as they are stored.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

use super::SqliteStore;
use super::errors::store_error;
use crate::store::sql::{SHORT_ANSWER, SpanRow, WRITE_ANSWER, bounded, stored_spans, within};
use crate::store::{StoreError, StoredSpan};

/// The columns of a [`SpanRow`]. In an adopted table the time may be a number, of seconds or a Julian day (`auto`).
const COLUMNS: &str = "SELECT id, trace_id, COALESCE(kind, ''), body, \
     COALESCE(CAST(ROUND(unixepoch(created_at, 'auto', 'subsec') * 1000) AS INTEGER), 0)";

impl SqliteStore {
    pub(super) async fn read_trace(
        &self,
        conn: &mut SqliteConnection,
        trace_id: &str,
        limit: u32,
    ) -> Result<Vec<StoredSpan>, StoreError> {
        const WHERE: &str = "WHERE trace_id = ? ORDER BY id LIMIT ?";
        let sql = format!("{COLUMNS} FROM {} {WHERE}", self.table.double_quoted());
        let query = sqlx::query_as::<_, SpanRow>(AssertSqlSafe(sql)).bind(trace_id).bind(limit);
        let rows = within(SHORT_ANSWER, bounded(query.fetch(conn))).await;
        let rows = rows.map_err(store_error("cannot read a trace"))?;
        Ok(stored_spans(rows))
    }

    pub(super) async fn read_rows_after(
        &self,
        conn: &mut SqliteConnection,
        after: i64,
        limit: u32,
    ) -> Result<Vec<StoredSpan>, StoreError> {
        let sql = format!("{COLUMNS} FROM {} WHERE id > ? ORDER BY id LIMIT ?", self.table.double_quoted());
        let query = sqlx::query_as::<_, SpanRow>(AssertSqlSafe(sql)).bind(after).bind(limit);
        let rows =
            within(WRITE_ANSWER, query.fetch_all(conn)).await.map_err(store_error("cannot read rows"))?;
        Ok(stored_spans(rows))
    }
}
