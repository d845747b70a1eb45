//! Retention: old rows are removed along the primary key.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use tokio::time::Instant;

use super::PostgresStore;
use super::errors::store_error;
use crate::store::StoreError;
use crate::store::retention::{Reached, Sweep, Swept, work};
use crate::store::sql::{SHORT_ANSWER, WRITE_ANSWER, within};

/// A `timestamp` without a zone: our sessions write UTC into it, others perhaps not.
const TELLS_ZONE: &str = "SELECT COALESCE(bool_or(atttypid = CAST('timestamptz' AS regtype)), FALSE) \
     FROM pg_attribute WHERE attrelid = to_regclass($1) AND attname = 'created_at' AND NOT attisdropped";

impl PostgresStore {
    /// One step. The removal is a statement of its own: no lock is held between the two.
    pub(super) async fn sweep(&self, conn: &mut PgConnection, sweep: &Sweep) -> Result<Swept, StoreError> {
        let asked = Instant::now();
        within(SHORT_ANSWER, conn.ping()).await.map_err(store_error("cannot reach the database"))?;
        let trip = asked.elapsed();
        let tells_zone = self.tells_zone(conn).await?;
        let before_id = sweep.before_id(tells_zone);
        let began = Instant::now();
        let table = self.options.table.double_quoted();
        let sql = format!(
            "SELECT id, CAST(EXTRACT(EPOCH FROM created_at) * 1000 AS BIGINT) FROM {table} \
             WHERE id > $1 AND id < $2 ORDER BY id LIMIT 1 OFFSET $3"
        );
        let query = sqlx::query_as::<_, (i64, Option<i64>)>(AssertSqlSafe(sql))
            .bind(sweep.after)
            .bind(before_id)
            .bind(i64::from(sweep.rows.saturating_sub(1)));
        let reached = within(SHORT_ANSWER, query.fetch_optional(&mut *conn))
            .await
            .map_err(store_error("cannot look for old rows"))?
            .map(|(id, created_at_ms)| Reached { id, created_at_ms });
        // `+ INTERVAL '0'`: along the primary key, not along the index on created_at, whose oldest entries are those
        // that were removed and not vacuumed yet.
        let sql = format!(
            "DELETE FROM {table} WHERE id > $1 AND id <= $2 \
             AND created_at + INTERVAL '0' < to_timestamp(CAST($3 AS FLOAT8) / 1000)"
        );
        let query = sqlx::query(AssertSqlSafe(sql))
            .bind(sweep.after)
            .bind(reached.map_or(before_id - 1, |reached| reached.id))
            .bind(sweep.created_before_ms(tells_zone) as f64);
        let removed = within(WRITE_ANSWER, query.execute(conn))
            .await
            .map_err(store_error("cannot remove old rows"))?
            .rows_affected();
        Ok(Swept { removed, reached, took: work(trip, began.elapsed()) })
    }

    async fn tells_zone(&self, conn: &mut PgConnection) -> Result<bool, StoreError> {
        if let Some(known) = self.tells_zone.get() {
            return Ok(*known);
        }
        let query = sqlx::query_scalar::<_, bool>(TELLS_ZONE).bind(self.options.table.double_quoted());
        let found = within(SHORT_ANSWER, query.fetch_one(conn))
            .await
            .map_err(store_error("cannot look at the trace table"))?;
        Ok(*self.tells_zone.get_or_init(|| found))
    }
}
