//! Shares of the rate.

use sqlx::postgres::PgConnection;

use super::PostgresStore;
use super::errors::store_error;
use super::streams::{begin_locked, commit};
use crate::gate::lease::{Decide, Holder, LeaseGrant, LeaseRequest};
use crate::store::StoreError;
use crate::store::sql::{SHORT_ANSWER, share_of, within};

const OTHERS: &str = "SELECT holder, share, demand FROM sluice_rate \
     WHERE pipeline = $1 AND holder <> $2 AND expires_at_ms > $3";
const EXPIRE: &str = "DELETE FROM sluice_rate WHERE pipeline = $1 AND expires_at_ms <= $2";
const RENEW: &str = "INSERT INTO sluice_rate (pipeline, holder, share, demand, expires_at_ms) \
     VALUES ($1, $2, $3, $4, $5) ON CONFLICT (pipeline, holder) DO UPDATE SET share = excluded.share, \
     demand = excluded.demand, expires_at_ms = excluded.expires_at_ms";
const END: &str = "DELETE FROM sluice_rate WHERE pipeline = $1 AND holder = $2";

impl PostgresStore {
    pub(super) async fn renew_share(
        &self,
        conn: &mut PgConnection,
        request: &LeaseRequest,
        decide: &mut Decide<'_>,
    ) -> Result<LeaseGrant, StoreError> {
        let now = begin_locked(conn, &format!("rate of {}", request.pipeline)).await?;
        let query = sqlx::query(EXPIRE).bind(&request.pipeline).bind(now.ms);
        within(SHORT_ANSWER, query.execute(&mut *conn))
            .await
            .map_err(store_error("cannot end leases that ran out"))?;
        let query = sqlx::query_as::<_, (String, i32, i32)>(OTHERS)
            .bind(&request.pipeline)
            .bind(&request.holder)
            .bind(now.ms);
        let others: Vec<Holder> = within(SHORT_ANSWER, query.fetch_all(&mut *conn))
            .await
            .map_err(store_error("cannot read the leases"))?
            .into_iter()
            .map(|(id, share, demand)| Holder { id, share: millionths(share), demand: millionths(demand) })
            .collect();
        let share = share_of(&others, decide);
        let ttl = i64::try_from(request.ttl.as_millis()).unwrap_or(i64::MAX);
        let query = sqlx::query(RENEW)
            .bind(&request.pipeline)
            .bind(&request.holder)
            .bind(i32::try_from(share).unwrap_or(i32::MAX))
            .bind(i32::try_from(request.demand).unwrap_or(i32::MAX))
            .bind(now.ms.saturating_add(ttl));
        within(SHORT_ANSWER, query.execute(&mut *conn)).await.map_err(store_error("cannot renew a lease"))?;
        commit(conn).await?;
        Ok(LeaseGrant { share, database_time: now })
    }

    pub(super) async fn give_share_back(
        &self,
        conn: &mut PgConnection,
        pipeline: &str,
        holder: &str,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(END).bind(pipeline).bind(holder);
        let ended = within(SHORT_ANSWER, query.execute(conn)).await;
        ended.map(drop).map_err(store_error("cannot end a lease"))
    }
}

/// PostgreSQL knows no unsigned numbers; none below zero is ever stored.
fn millionths(stored: i32) -> u32 {
    u32::try_from(stored).unwrap_or(0)
}
