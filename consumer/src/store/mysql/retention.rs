//! Retention: old rows are removed along the primary key.

use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection};
use tokio::time::Instant;

use super::MySqlStore;
use super::errors::store_error;
use crate::store::StoreError;
use crate::store::retention::{Reached, Sweep, Swept, work};
use crate::store::sql::{SHORT_ANSWER, WRITE_ANSWER, within};

/// A `datetime` has no zone; our sessions write UTC into it, others perhaps not.
const TELLS_ZONE: &str = "SELECT CAST(COALESCE(MAX(LOWER(DATA_TYPE) = 'timestamp'), 0) AS SIGNED) \
     FROM information_schema.COLUMNS \
     WHERE TABLE_SCHEMA = DATABASE() AND TABLE_NAME = ? AND LOWER(COLUMN_NAME) = 'created_at'";

impl MySqlStore {
    /// One step. The removal is a statement of its own: no lock is held between the two.
    pub(super) async fn sweep(&self, conn: &mut MySqlConnection, sweep: &Sweep) -> Result<Swept, StoreError> {
        let asked = Instant::now();
        within(SHORT_ANSWER, conn.ping()).await.map_err(store_error("cannot reach the database"))?;
        let trip = asked.elapsed();
        let tells_zone = self.tells_zone(conn).await?;
        let before_id = sweep.before_id(tells_zone);
        let began = Instant::now();
        let table = self.options.table.backticked();
        let sql = format!(
            "SELECT CAST(id AS SIGNED), CAST(UNIX_TIMESTAMP(created_at) * 1000 AS SIGNED) FROM {table} \
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
        // `+ INTERVAL 0`: along the primary key, not along the index on created_at, whose oldest entries are those that
        // were removed and not purged yet.
        let sql = format!(
            "DELETE FROM {table} WHERE id > ? AND id <= ? \
             AND created_at + INTERVAL 0 SECOND < FROM_UNIXTIME(? / 1000)"
        );
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(sweep.after)
            .bind(reached.map_or(before_id - 1, |reached| reached.id))
            .bind(sweep.created_before_ms(tells_zone));
        let removed = within(WRITE_ANSWER, query.execute(conn))
            .await
            .map_err(store_error("cannot remove old rows"))?
            .rows_affected();
        Ok(Swept { removed, reached, took: work(trip, began.elapsed()) })
    }

    async fn tells_zone(&self, conn: &mut MySqlConnection) -> Result<bool, StoreError> {
        if let Some(known) = self.tells_zone.get() {
            return Ok(*known);
        }
        let query = sqlx::query_scalar::<_, i64>(TELLS_ZONE).bind(self.table_name());
        let found = within(SHORT_ANSWER, query.fetch_one(conn))
            .await
            .map_err(store_error("cannot look at the trace table"))?;
        Ok(*self.tells_zone.get_or_init(|| found == 1))
    }
}
