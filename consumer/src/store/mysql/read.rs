//! Rows of the trace table, as they are stored.

use sqlx::AssertSqlSafe;
use sqlx::mysql::MySqlConnection;

use super::MySqlStore;
use super::errors::store_error;
use crate::store::sql::{SHORT_ANSWER, SpanRow, WRITE_ANSWER, bounded, stored_spans, within};
use crate::store::{StoreError, StoredSpan};

/// The columns of a [`SpanRow`].
const COLUMNS: &str = "SELECT CAST(id AS SIGNED), CONVERT(trace_id USING utf8mb4), CONVERT(COALESCE(kind, '') USING utf8mb4), \
     CONVERT(body USING utf8mb4), CAST(COALESCE(UNIX_TIMESTAMP(created_at), 0) * 1000 AS SIGNED)";

impl MySqlStore {
    pub(super) async fn read_trace(
        &self,
        conn: &mut MySqlConnection,
        trace_id: &str,
        limit: u32,
    ) -> Result<Vec<StoredSpan>, StoreError> {
        const WHERE: &str = "WHERE trace_id = ? AND CAST(CONVERT(trace_id USING utf8mb4) AS BINARY) = CAST(? AS BINARY) ORDER BY id LIMIT ?";
        // The first comparison uses the index; the second is exact where an adopted column's collation is not.
        let sql = format!("{COLUMNS} FROM {} {WHERE}", self.options.table.backticked());
        let query =
            sqlx::query_as::<_, SpanRow>(AssertSqlSafe(sql)).bind(trace_id).bind(trace_id).bind(limit);
        let rows = within(SHORT_ANSWER, bounded(query.fetch(conn))).await;
        let rows = rows.map_err(store_error("cannot read a trace"))?;
        Ok(stored_spans(rows))
    }

    pub(super) async fn read_rows_after(
        &self,
        conn: &mut MySqlConnection,
        after: i64,
        limit: u32,
    ) -> Result<Vec<StoredSpan>, StoreError> {
        let sql =
            format!("{COLUMNS} FROM {} WHERE id > ? ORDER BY id LIMIT ?", self.options.table.backticked());
        let query = sqlx::query_as::<_, SpanRow>(AssertSqlSafe(sql)).bind(after).bind(limit);
        let rows =
            within(WRITE_ANSWER, query.fetch_all(conn)).await.map_err(store_error("cannot read rows"))?;
        Ok(stored_spans(rows))
    }
}
