//! Streams: listing, creating, claiming, superseding.

use std::collections::HashSet;

use sqlx::Executor;
use sqlx::mysql::MySqlConnection;

use super::MySqlStore;
use super::errors::store_error;
use super::write::begin;
use crate::gate::clock::DatabaseTime;
use crate::store::sql::{
    SHORT_ANSWER, fenced, newest_positions, number_missing, stream_number, unknown_stream, within,
};
use crate::store::{Claim, ErrorKind, Position, StoreError, StreamKey};

const LIST: &str = "SELECT CONVERT(topic USING utf8mb4), `partition` FROM sluice_progress \
     WHERE cluster_id = ? AND consumer_group = ? AND table_name = ? GROUP BY topic, `partition`";
const POSITIONS: &str = "SELECT CONVERT(topic USING utf8mb4), `partition`, next_offset FROM sluice_progress \
     WHERE cluster_id = ? AND consumer_group = ? AND table_name = ? ORDER BY generation";
const NEXT_STREAM: &str =
    "SELECT CAST(COALESCE(MAX(stream) + 1, 0) AS UNSIGNED) FROM sluice_progress WHERE table_name = ?";
const CREATE: &str = "INSERT INTO sluice_progress (table_name, stream, cluster_id, consumer_group, topic, \
     `partition`, generation, owner_epoch, owner, next_offset, last_id) \
     VALUES (?, ?, ?, ?, ?, ?, ?, 0, '', ?, 0)";
/// Locks the row; the clock is read when the lock is held (SYSDATE), not when the statement began (NOW).
const LOCK_NEWEST: &str = "SELECT stream, generation, owner_epoch, next_offset, CAST(last_id AS SIGNED), \
     fingerprint, CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED) FROM sluice_progress \
     WHERE cluster_id = ? AND consumer_group = ? AND table_name = ? AND topic = ? AND `partition` = ? \
     ORDER BY generation DESC LIMIT 1 FOR UPDATE";
const NEWEST_GENERATION: &str = "SELECT generation FROM sluice_progress WHERE cluster_id = ? \
     AND consumer_group = ? AND table_name = ? AND topic = ? AND `partition` = ? ORDER BY generation DESC LIMIT 1";
const TAKE_OVER: &str = "UPDATE sluice_progress SET owner_epoch = owner_epoch + 1, owner = ?, \
     claimed_at = CURRENT_TIMESTAMP WHERE table_name = ? AND stream = ?";
/// Changes the row instead of only locking it: in a cluster that certifies transactions when they commit (Galera)
/// locks hold on one node, and of two holders on two nodes one is refused only where both have written.
const LOCK: &str = "UPDATE sluice_lock SET turns = turns + 1 WHERE name = ?";
const NOW: &str = "SELECT CAST(UNIX_TIMESTAMP(SYSDATE(3)) * 1000 AS SIGNED)";
const CREATE_LOCK: &str = "INSERT IGNORE INTO sluice_lock (name) VALUES (?)";

type ProgressRow = (u16, u32, u64, u64, i64, Option<u64>, i64);

impl MySqlStore {
    /// In a transaction, which proxies send to the primary: a replica that lags would make streams that exist
    /// look new.
    pub(super) async fn streams_of(
        &self,
        conn: &mut MySqlConnection,
        cluster_id: &str,
        group: &str,
    ) -> Result<Vec<StreamKey>, StoreError> {
        begin(conn).await?;
        let streams = self.list_streams(conn, cluster_id, group).await?;
        commit(conn).await?;
        Ok(streams)
    }

    /// See [`crate::store::Store::positions`]; in a transaction for the same reason.
    pub(super) async fn positions_of(
        &self,
        conn: &mut MySqlConnection,
        cluster_id: &str,
        group: &str,
    ) -> Result<Vec<(StreamKey, u64)>, StoreError> {
        begin(conn).await?;
        let query = sqlx::query_as::<_, (String, i32, u64)>(POSITIONS)
            .bind(cluster_id)
            .bind(group)
            .bind(self.options.table.as_str());
        let rows = within(SHORT_ANSWER, query.fetch_all(&mut *conn))
            .await
            .map_err(store_error("cannot read positions"))?;
        commit(conn).await?;
        Ok(newest_positions(cluster_id, group, rows))
    }

    async fn list_streams(
        &self,
        conn: &mut MySqlConnection,
        cluster_id: &str,
        group: &str,
    ) -> Result<Vec<StreamKey>, StoreError> {
        let query = sqlx::query_as::<_, (String, i32)>(LIST)
            .bind(cluster_id)
            .bind(group)
            .bind(self.options.table.as_str());
        let rows =
            within(SHORT_ANSWER, query.fetch_all(conn)).await.map_err(store_error("cannot list streams"))?;
        Ok(rows
            .into_iter()
            .map(|(topic, partition)| StreamKey {
                cluster_id: cluster_id.to_owned(),
                group: group.to_owned(),
                topic,
                partition,
            })
            .collect())
    }

    pub(super) async fn create_missing(
        &self,
        conn: &mut MySqlConnection,
        starts: &[(StreamKey, u64)],
    ) -> Result<(), StoreError> {
        let known = self.known_of(conn, starts).await?;
        if starts.iter().all(|(key, _)| known.contains(key)) {
            return Ok(());
        }
        self.begin_numbering(conn).await?;
        // Again, now that nobody else can create any.
        let known = self.known_of(conn, starts).await?;
        let first_free = self.next_stream(conn).await?;
        for (stream, key, start) in number_missing(starts, &known, first_free)? {
            self.insert_stream(conn, stream, key, 0, start).await?;
        }
        commit(conn).await
    }

    async fn known_of(
        &self,
        conn: &mut MySqlConnection,
        starts: &[(StreamKey, u64)],
    ) -> Result<HashSet<StreamKey>, StoreError> {
        let groups: HashSet<_> =
            starts.iter().map(|(key, _)| (key.cluster_id.as_str(), key.group.as_str())).collect();
        let mut known = HashSet::new();
        for (cluster_id, group) in groups {
            known.extend(self.list_streams(conn, cluster_id, group).await?);
        }
        Ok(known)
    }

    pub(super) async fn claim_stream(
        &self,
        conn: &mut MySqlConnection,
        key: &StreamKey,
        owner: &str,
    ) -> Result<Claim, StoreError> {
        begin(conn).await?;
        let (stream, generation, epoch, next_offset, last_id, fingerprint, database_time_ms) =
            self.lock_newest(conn, key).await?.ok_or_else(|| unknown_stream(key))?;
        let database_time = DatabaseTime::told(database_time_ms);
        if self.newest_generation(conn, key).await? != Some(generation) {
            let context = "the stream was superseded while it was being claimed";
            return Err(StoreError::new(ErrorKind::Conflict, context));
        }
        let query = sqlx::query(TAKE_OVER).bind(owner).bind(self.options.table.as_str()).bind(stream);
        within(SHORT_ANSWER, query.execute(&mut *conn))
            .await
            .map_err(store_error("cannot claim a stream"))?;
        commit(conn).await?;
        let position = Position { next_offset, last_id };
        Ok(Claim { stream, epoch: epoch + 1, position, fingerprint, database_time })
    }

    pub(super) async fn next_generation(
        &self,
        conn: &mut MySqlConnection,
        key: &StreamKey,
        claim: &Claim,
        start: u64,
    ) -> Result<(), StoreError> {
        self.begin_numbering(conn).await?;
        let newest = self.lock_newest(conn, key).await?.ok_or_else(|| unknown_stream(key))?;
        let (stream, generation, epoch, ..) = newest;
        if stream != claim.stream || epoch != claim.epoch {
            return Err(fenced(claim.stream, claim.epoch));
        }
        // The old row's last holder is fenced as well.
        let query = sqlx::query(TAKE_OVER).bind("").bind(self.options.table.as_str()).bind(stream);
        within(SHORT_ANSWER, query.execute(&mut *conn))
            .await
            .map_err(store_error("cannot supersede a stream"))?;
        let number = stream_number(self.next_stream(conn).await?)?;
        self.insert_stream(conn, number, key, generation + 1, start).await?;
        commit(conn).await
    }

    async fn lock_newest(
        &self,
        conn: &mut MySqlConnection,
        key: &StreamKey,
    ) -> Result<Option<ProgressRow>, StoreError> {
        let query = sqlx::query_as::<_, ProgressRow>(LOCK_NEWEST)
            .bind(&key.cluster_id)
            .bind(&key.group)
            .bind(self.options.table.as_str())
            .bind(&key.topic)
            .bind(key.partition);
        within(SHORT_ANSWER, query.fetch_optional(conn)).await.map_err(store_error("cannot lock a stream"))
    }

    async fn newest_generation(
        &self,
        conn: &mut MySqlConnection,
        key: &StreamKey,
    ) -> Result<Option<u32>, StoreError> {
        let query = sqlx::query_scalar::<_, u32>(NEWEST_GENERATION)
            .bind(&key.cluster_id)
            .bind(&key.group)
            .bind(self.options.table.as_str())
            .bind(&key.topic)
            .bind(key.partition);
        within(SHORT_ANSWER, query.fetch_optional(conn)).await.map_err(store_error("cannot read a stream"))
    }

    async fn next_stream(&self, conn: &mut MySqlConnection) -> Result<u32, StoreError> {
        let query = sqlx::query_scalar::<_, u64>(NEXT_STREAM).bind(self.options.table.as_str());
        let next =
            within(SHORT_ANSWER, query.fetch_one(conn)).await.map_err(store_error("cannot count streams"))?;
        Ok(u32::try_from(next).unwrap_or(u32::MAX))
    }

    async fn insert_stream(
        &self,
        conn: &mut MySqlConnection,
        stream: u16,
        key: &StreamKey,
        generation: u32,
        start: u64,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(CREATE)
            .bind(self.options.table.as_str())
            .bind(stream)
            .bind(&key.cluster_id)
            .bind(&key.group)
            .bind(&key.topic)
            .bind(key.partition)
            .bind(generation)
            .bind(start);
        let created = within(SHORT_ANSWER, query.execute(conn)).await;
        created.map(drop).map_err(store_error("cannot create a stream"))
    }

    /// Begins a transaction in which nobody else gives out stream numbers of this table.
    async fn begin_numbering(&self, conn: &mut MySqlConnection) -> Result<(), StoreError> {
        begin_locked(conn, &format!("streams of {}", self.options.table)).await.map(drop)
    }
}

/// Begins a transaction that holds the named lock, and reads the server's clock under it (milliseconds since
/// 1970).
pub(super) async fn begin_locked(conn: &mut MySqlConnection, name: &str) -> Result<DatabaseTime, StoreError> {
    const DOING: &str = "cannot take a lock";
    loop {
        begin(conn).await?;
        let lock = sqlx::query(LOCK).bind(name);
        let locked = within(SHORT_ANSWER, lock.execute(&mut *conn)).await.map_err(store_error(DOING))?;
        if locked.rows_affected() == 1 {
            return within(SHORT_ANSWER, sqlx::query_scalar(NOW).fetch_one(conn))
                .await
                .map(DatabaseTime::told)
                .map_err(store_error("cannot read the clock"));
        }
        within(SHORT_ANSWER, conn.execute("ROLLBACK")).await.map_err(store_error(DOING))?;
        let create = sqlx::query(CREATE_LOCK).bind(name);
        within(SHORT_ANSWER, create.execute(&mut *conn)).await.map_err(store_error(DOING))?;
    }
}

pub(super) async fn commit(conn: &mut MySqlConnection) -> Result<(), StoreError> {
    within(SHORT_ANSWER, conn.execute("COMMIT")).await.map_err(store_error("cannot commit"))?;
    Ok(())
}
