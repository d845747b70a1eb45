//! Rows of the trace table, as they are stored.

use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnection;

use super::PostgresStore;
use super::errors::store_error;
use crate::store::sql::{SHORT_ANSWER, SpanRow, WRITE_ANSWER, bounded, stored_spans, within};
use crate::store::{StoreError, StoredSpan};

/// The columns of a [`SpanRow`].
const COLUMNS: &str = "SELECT id, CAST(trace_id AS TEXT), CAST(COALESCE(kind, '') AS TEXT), CAST(body AS TEXT), \
     CAST(COALESCE(EXTRACT(EPOCH FROM created_at), 0) * 1000 AS BIGINT)";

impl PostgresStore {
    pub(super) async fn read_trace(
        &self,
        conn: &mut PgConnection,
        trace_id: &str,
        limit: u32,
    ) -> Result<Vec<StoredSpan>, StoreError> {
        const WHERE: &str = "WHERE trace_id = $1 ORDER BY id LIMIT $2";
        let sql = format!("{COLUMNS} FROM {} {WHERE}", self.options.table.double_quoted());
        let query = sqlx::query_as::<_, SpanRow>(AssertSqlSafe(sql)).bind(trace_id).bind(i64::from(limit));
        let rows = within(SHORT_ANSWER, bounded(query.fetch(conn))).await;
        let rows = rows.map_err(store_error("cannot read a trace"))?;
        Ok(stored_spans(rows))
    }

    pub(super) async fn read_rows_after(
        &self,
        conn: &mut PgConnection,
        after: i64,
        limit: u32,
    ) -> Result<Vec<StoredSpan>, StoreError> {
        let sql = format!(
            "{COLUMNS} FROM {} WHERE id > $1 ORDER BY id LIMIT $2",
            self.options.table.double_quoted()
        );
        let query = sqlx::query_as::<_, SpanRow>(AssertSqlSafe(sql)).bind(after).bind(i64::from(limit));
        let rows =
            within(WRITE_ANSWER, query.fetch_all(conn)).await.map_err(store_error("cannot read rows"))?;
        Ok(stored_spans(rows))
    }
}
