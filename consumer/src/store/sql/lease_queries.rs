//! Shares of the rate, and turns: the same transaction on each backend, but for how it takes its lock and replaces a row.

use crate::gate::lease::Holder;

/// Holder, share, demand, and when it ends.
pub type HolderRow = (String, i64, i64, i64);

/// The holder that a row tells of. Numbers that no program wrote become the nearest that one could have: a share that is
/// too large is never free for others.
pub fn holder_of((id, share, demand, _ends): HolderRow) -> Holder {
    let nearest = |number: i64| u32::try_from(number.max(0)).unwrap_or(u32::MAX);
    Holder { id, share: nearest(share), demand: nearest(demand) }
}

/// How a row replaces the one of the same holder, in SQL that knows `ON CONFLICT`.
pub const ON_CONFLICT: &str = " ON CONFLICT (pipeline, holder) DO UPDATE SET share = excluded.share, \
     demand = excluded.demand, expires_at_ms = excluded.expires_at_ms";

/// Implements `renew_share` and `give_share_back` for a backend, which has the functions `store_error`, `commit`,
/// `begin_alone` (it begins a transaction and waits until no other replica is in one of that name), `check_lock` (whether
/// that held while everything was read) and `now` (the database's clock).
macro_rules! lease_store {
    (store: $store:ty, database: $database:ty, dialect: $dialect:expr, replace: $replace:expr) => {
        use sqlx::QueryBuilder;

        use crate::gate::lease::{Decide, Holder, LeaseGrant, LeaseRequest};
        use crate::store::StoreError;
        use crate::store::sql::lease_queries::{HolderRow, holder_of};
        use crate::store::sql::{SHORT_ANSWER, share_of, within};

        type Conn = <$database as sqlx::Database>::Connection;
        type Builder = QueryBuilder<$database>;

        impl $store {
            pub(super) async fn renew_share(
                &self,
                conn: &mut Conn,
                request: &LeaseRequest,
                decide: &mut Decide<'_>,
            ) -> Result<LeaseGrant, StoreError> {
                begin_alone(conn, &request.name).await?;
                let database_time = self::now(conn).await?;
                let now = database_time.ms;
                let mut expire = Builder::new("DELETE FROM sluice_rate WHERE pipeline = ");
                expire.push_bind(request.name.clone()).push(" AND expires_at_ms <= ").push_bind(now);
                within(SHORT_ANSWER, expire.build().execute(&mut *conn))
                    .await
                    .map_err(store_error("cannot end leases that ran out"))?;
                let ttl = i64::try_from(request.ttl.as_millis()).unwrap_or(i64::MAX);
                let end = now.saturating_add(ttl);
                let others = self.other_holders(conn, request, now).await?;
                check_lock(conn).await?;
                if others.iter().any(|(.., ends)| *ends > end) {
                    self.shorten_leases(conn, &request.name, end).await?;
                }
                let others: Vec<Holder> = others.into_iter().map(holder_of).collect();
                let share = share_of(&others, decide);
                let mut renew = Builder::new(
                    "INSERT INTO sluice_rate (pipeline, holder, share, demand, expires_at_ms) VALUES (",
                );
                let mut values = renew.separated(", ");
                values.push_bind(request.name.clone()).push_bind(request.holder.clone());
                values.push_bind(i64::from(share)).push_bind(i64::from(request.demand));
                values.push_bind(end);
                renew.push(")").push($replace);
                within(SHORT_ANSWER, renew.build().execute(&mut *conn))
                    .await
                    .map_err(store_error("cannot renew a lease"))?;
                commit(conn).await?;
                Ok(LeaseGrant { share, database_time })
            }

            async fn other_holders(
                &self,
                conn: &mut Conn,
                request: &LeaseRequest,
                now: i64,
            ) -> Result<Vec<HolderRow>, StoreError> {
                let (int8, (text, text_end)) = ($dialect.int8, $dialect.text);
                let mut others = Builder::new(format!(
                    "SELECT {text}holder{text_end}, CAST(share AS {int8}), CAST(demand AS {int8}), \
                     CAST(expires_at_ms AS {int8}) FROM sluice_rate WHERE pipeline = "
                ));
                others.push_bind(request.name.clone());
                others.push(" AND holder <> ").push_bind(request.holder.clone());
                others.push(" AND expires_at_ms > ").push_bind(now);
                within(SHORT_ANSWER, others.build_query_as::<HolderRow>().fetch_all(conn))
                    .await
                    .map_err(store_error("cannot read the leases"))
            }

            /// Has no lease of that name end later than one that is renewed now. All last equally long, so the
            /// database's clock was set back, and a holder that died would keep its share for as long as the step was.
            async fn shorten_leases(
                &self,
                conn: &mut Conn,
                pipeline: &str,
                end: i64,
            ) -> Result<(), StoreError> {
                let mut shorten = Builder::new("UPDATE sluice_rate SET expires_at_ms = ");
                shorten.push_bind(end).push(" WHERE pipeline = ").push_bind(pipeline.to_owned());
                shorten.push(" AND expires_at_ms > ").push_bind(end);
                let shortened = within(SHORT_ANSWER, shorten.build().execute(conn)).await;
                shortened.map(drop).map_err(store_error("cannot shorten leases"))
            }

            pub(super) async fn give_share_back(
                &self,
                conn: &mut Conn,
                pipeline: &str,
                holder: &str,
            ) -> Result<(), StoreError> {
                let mut end = Builder::new("DELETE FROM sluice_rate WHERE pipeline = ");
                end.push_bind(pipeline.to_owned()).push(" AND holder = ").push_bind(holder.to_owned());
                let ended = within(SHORT_ANSWER, end.build().execute(conn)).await;
                ended.map(drop).map_err(store_error("cannot end a lease"))
            }
        }
    };
}
pub(in crate::store) use lease_store;
