//! Retention: old rows are removed along the primary key.
//!
//! Lanes wait while a step holds the only connection that writes, so its steps are kept short by whoever asks for them.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;
use tokio::time::Instant;

use super::SqliteStore;
use super::errors::store_error;
use super::transaction::{begin, commit};
use crate::store::StoreError;
use crate::store::retention::{Reached, Sweep, Swept};
use crate::store::sql::{SHORT_ANSWER, WRITE_ANSWER, within};

/// Texts tell UTC unless the table says otherwise.
const TELLS_ZONE: &str = "SELECT COALESCE(MAX(sql NOT LIKE '%localtime%'), 0) FROM sqlite_schema WHERE type = 'table' AND name = ?";

impl SqliteStore {
    /// One step, in one transaction.
    pub(super) async fn sweep(
        &self,
        conn: &mut SqliteConnection,
        sweep: &Sweep,
    ) -> Result<Swept, StoreError> {
        let began = Instant::now();
        begin(conn).await?;
        let table = self.table.double_quoted();
        let query = sqlx::query_scalar::<_, i64>(TELLS_ZONE).bind(self.table.as_str());
        let tells_zone = within(SHORT_ANSWER, query.fetch_one(&mut *conn))
            .await
            .map_err(store_error("cannot look at the trace table"))?
            == 1;
        let before_id = sweep.before_id(tells_zone);
        // NULL where a text is no time: such a row is kept. A number is one (`auto`).
        let sql = format!(
            "SELECT id, CAST(unixepoch(created_at, 'auto', 'subsec') * 1000 AS INTEGER) FROM {table} \
             WHERE id > ? AND id < ? ORDER BY id LIMIT 1 OFFSET ?"
        );
        let query = sqlx::query_as::<_, (i64, Option<i64>)>(AssertSqlSafe(sql))
            .bind(sweep.after)
            .bind(before_id)
            .bind(sweep.rows.saturating_sub(1));
        let reached = within(SHORT_ANSWER, query.fetch_optional(&mut *conn))
            .await
            .map_err(store_error("cannot look for old rows"))?
            .map(|(id, created_at_ms)| Reached { id, created_at_ms });
        let sql = format!(
            "DELETE FROM {table} WHERE id > ? AND id <= ? AND unixepoch(created_at, 'auto', 'subsec') * 1000 < ?"
        );
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(sweep.after)
            .bind(reached.map_or(before_id - 1, |reached| reached.id))
            .bind(sweep.created_before_ms(tells_zone));
        let removed = within(WRITE_ANSWER, query.execute(&mut *conn))
            .await
            .map_err(store_error("cannot remove old rows"))?
            .rows_affected();
        commit(conn).await?;
        Ok(Swept { removed, reached, took: began.elapsed() })
    }
}
