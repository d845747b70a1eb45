//! The calls of [`crate::store::Store`]: each takes a connection for its purpose, does its work there, and gives the
//! connection back, the same way on each backend. It also puts batches together and probes rows.

/// Implements [`crate::store::Store`] for a backend, which has the methods `session`, `settle` and those that do the
/// work, the field `sessions`, and the functions `store_error`, `begin` and `check_deferred`. `looks` says which connection
/// looks for streams and positions. `own` has `prepare` and what the backend bounds; the file imports what it names.
macro_rules! sql_store {
    (store: $store:ty, database: $database:ty, looks: $looks:expr, own: { $($own:tt)* }) => {
        use sqlx::Executor;

        use crate::gate::lease::{Decide, LeaseGrant, LeaseRequest};
        use crate::store::retention::{Sweep, Swept};
        use crate::store::sql::{WRITE_ANSWER, within};
        use crate::store::{Claim, Row, StoredSpan, StreamKey, WriteBatch};

        type Conn = <$database as sqlx::Database>::Connection;

        impl $store {
            /// Begins a transaction and inserts rows and dead letters.
            async fn put_batch(&self, conn: &mut Conn, batch: &WriteBatch<'_>) -> Result<(), StoreError> {
                begin(conn).await?;
                self.insert_rows(conn, batch.rows).await?;
                self.insert_dead_letters(conn, batch).await?;
                if batch.queue_copies { self.insert_unsent(conn, batch).await } else { Ok(()) }
            }

            async fn try_rows(&self, conn: &mut Conn, rows: &[Row<'_>]) -> Result<(), StoreError> {
                begin(conn).await?;
                self.insert_rows(conn, rows).await?;
                check_deferred(conn).await?;
                within(WRITE_ANSWER, conn.execute("ROLLBACK"))
                    .await
                    .map_err(store_error("cannot roll back a probe"))?;
                Ok(())
            }
        }

        #[async_trait::async_trait]
        impl Store for $store {
            $($own)*

            async fn streams(&self, cluster_id: &str, group: &str) -> Result<Vec<StreamKey>, StoreError> {
                let mut session = self.session($looks).await?;
                let done = self.streams_of(&mut session, cluster_id, group).await;
                self.settle(session, done).await
            }

            async fn create_streams(&self, starts: &[(StreamKey, u64)]) -> Result<(), StoreError> {
                let mut session = self.session(Purpose::Control).await?;
                let done = self.create_missing(&mut session, starts).await;
                self.settle(session, done).await
            }

            async fn create_groups(&self, starts: &[(StreamKey, u64)]) -> Result<(), StoreError> {
                let mut session = self.session(Purpose::Control).await?;
                let done = self.create_all_or_none(&mut session, starts).await;
                self.settle(session, done).await
            }

            async fn claim(&self, key: &StreamKey, owner: &str) -> Result<Claim, StoreError> {
                let mut session = self.session(Purpose::Control).await?;
                let done = self.claim_stream(&mut session, key, owner).await;
                self.settle(session, done).await
            }

            async fn supersede(&self, key: &StreamKey, claim: &Claim, start: u64) -> Result<(), StoreError> {
                let mut session = self.session(Purpose::Control).await?;
                let done = self.next_generation(&mut session, key, claim, start).await;
                self.settle(session, done).await
            }

            async fn write(&self, batch: &WriteBatch<'_>) -> Result<(), StoreError> {
                let mut session = self.session(Purpose::Write).await?;
                let done = self.write_batch(&mut session, batch).await;
                self.settle(session, done).await
            }

            async fn probe(&self, rows: &[Row<'_>]) -> Result<(), StoreError> {
                let mut session = self.session(Purpose::Write).await?;
                let done = self.try_rows(&mut session, rows).await;
                self.settle(session, done).await
            }

            async fn lease(
                &self,
                request: &LeaseRequest,
                decide: &mut Decide<'_>,
            ) -> Result<LeaseGrant, StoreError> {
                let mut session = self.session(Purpose::Lease).await?;
                let done = self.renew_share(&mut session, request, decide).await;
                self.settle(session, done).await
            }

            async fn end_lease(&self, name: &str, holder: &str) -> Result<(), StoreError> {
                let mut session = self.session(Purpose::Lease).await?;
                let done = self.give_share_back(&mut session, name, holder).await;
                self.settle(session, done).await
            }

            async fn trace(&self, trace_id: &str, limit: u32) -> Result<Vec<StoredSpan>, StoreError> {
                let mut session = self.session(Purpose::Read).await?;
                let done = self.read_trace(&mut session, trace_id, limit).await;
                self.settle(session, done).await
            }

            async fn rows_after(&self, after: i64, limit: u32) -> Result<Vec<StoredSpan>, StoreError> {
                let mut session = self.session(Purpose::Read).await?;
                let done = self.read_rows_after(&mut session, after, limit).await;
                self.settle(session, done).await
            }

            async fn positions(
                &self,
                cluster_id: &str,
                group: &str,
            ) -> Result<Vec<(StreamKey, u64)>, StoreError> {
                let mut session = self.session($looks).await?;
                let done = self.positions_of(&mut session, cluster_id, group).await;
                self.settle(session, done).await
            }

            async fn remove_older(&self, sweep: &Sweep) -> Result<Swept, StoreError> {
                let mut session = self.session(Purpose::Upkeep).await?;
                let done = self.sweep(&mut session, sweep).await;
                // Whatever stands in the way of this concerns no other connection.
                if done.is_ok() {
                    session.keep();
                }
                done
            }

            async fn close(&self) {
                self.sessions.close().await;
            }
        }
    };
}
pub(in crate::store) use sql_store;
