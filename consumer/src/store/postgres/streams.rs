//! Streams: listing, creating, claiming, superseding.

use std::collections::HashSet;

use sqlx::Executor;
use sqlx::postgres::PgConnection;

use super::PostgresStore;
use super::errors::store_error;
use super::write::begin;
use crate::gate::clock::DatabaseTime;
use crate::store::sql::{
    SHORT_ANSWER, fenced, newest_positions, number_missing, stream_number, unknown_stream, within,
};
use crate::store::{Claim, ErrorKind, Position, StoreError, StreamKey};

const LIST: &str = "SELECT topic, \"partition\" FROM sluice_progress \
     WHERE cluster_id = $1 AND consumer_group = $2 AND table_name = $3 GROUP BY topic, \"partition\"";
const POSITIONS: &str = "SELECT topic, \"partition\", next_offset FROM sluice_progress \
     WHERE cluster_id = $1 AND consumer_group = $2 AND table_name = $3 ORDER BY generation";
const NEXT_STREAM: &str =
    "SELECT CAST(COALESCE(MAX(stream) + 1, 0) AS INT4) FROM sluice_progress WHERE table_name = $1";
const CREATE: &str = "INSERT INTO sluice_progress (table_name, stream, cluster_id, consumer_group, topic, \
     \"partition\", generation, owner_epoch, owner, next_offset, last_id) \
     VALUES ($1, $2, $3, $4, $5, $6, $7, 0, '', $8, 0)";
const LOCK_NEWEST: &str = "SELECT stream, generation, owner_epoch, next_offset, last_id, fingerprint \
     FROM sluice_progress WHERE cluster_id = $1 AND consumer_group = $2 AND table_name = $3 AND topic = $4 \
     AND \"partition\" = $5 ORDER BY generation DESC LIMIT 1 FOR UPDATE";
const NEWEST_GENERATION: &str = "SELECT generation FROM sluice_progress WHERE cluster_id = $1 \
     AND consumer_group = $2 AND table_name = $3 AND topic = $4 AND \"partition\" = $5 \
     ORDER BY generation DESC LIMIT 1";
const TAKE_OVER: &str = "UPDATE sluice_progress SET owner_epoch = owner_epoch + 1, owner = $1, claimed_at = now() \
     WHERE table_name = $2 AND stream = $3";
/// What every SELECT takes anyway.
const LOCK_TO_READ: &str = "LOCK TABLE sluice_progress IN ACCESS SHARE MODE";
const LOCK: &str = "SELECT 1 FROM sluice_lock WHERE name = $1 FOR UPDATE";
const CREATE_LOCK: &str = "INSERT INTO sluice_lock (name) VALUES ($1) ON CONFLICT DO NOTHING";
/// The clock as it is, not as it was when the transaction began.
const NOW: &str = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000 AS BIGINT)";

/// Stream, generation, epoch, next offset, last id, fingerprint.
type ProgressRow = (i32, i32, i64, i64, i64, Option<i64>);

impl PostgresStore {
    /// On the primary: a replica that lags would make streams that exist look new.
    pub(super) async fn streams_of(
        &self,
        conn: &mut PgConnection,
        cluster_id: &str,
        group: &str,
    ) -> Result<Vec<StreamKey>, StoreError> {
        begin_on_primary(conn).await?;
        let streams = self.list_streams(conn, cluster_id, group).await?;
        commit(conn).await?;
        Ok(streams)
    }

    /// See [`crate::store::Store::positions`]; on the primary for the same reason.
    pub(super) async fn positions_of(
        &self,
        conn: &mut PgConnection,
        cluster_id: &str,
        group: &str,
    ) -> Result<Vec<(StreamKey, u64)>, StoreError> {
        begin_on_primary(conn).await?;
        let query = sqlx::query_as::<_, (String, i32, i64)>(POSITIONS)
            .bind(cluster_id)
            .bind(group)
            .bind(self.options.table.as_str());
        let rows = within(SHORT_ANSWER, query.fetch_all(&mut *conn))
            .await
            .map_err(store_error("cannot read positions"))?;
        commit(conn).await?;
        let rows: Result<Vec<_>, StoreError> = rows
            .into_iter()
            .map(|(topic, partition, offset)| Ok((topic, partition, unsigned(offset, "next_offset")?)))
            .collect();
        Ok(newest_positions(cluster_id, group, rows?))
    }

    async fn list_streams(
        &self,
        conn: &mut PgConnection,
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
        conn: &mut PgConnection,
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
        conn: &mut PgConnection,
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
        conn: &mut PgConnection,
        key: &StreamKey,
        owner: &str,
    ) -> Result<Claim, StoreError> {
        begin(conn).await?;
        let newest = self.lock_newest(conn, key).await?.ok_or_else(|| unknown_stream(key))?;
        let (stream, generation, epoch, next_offset, last_id, fingerprint) = newest;
        if self.newest_generation(conn, key).await? != Some(generation) {
            let context = "the stream was superseded while it was being claimed";
            return Err(StoreError::new(ErrorKind::Conflict, context));
        }
        let query = sqlx::query(TAKE_OVER).bind(owner).bind(self.options.table.as_str()).bind(stream);
        within(SHORT_ANSWER, query.execute(&mut *conn))
            .await
            .map_err(store_error("cannot claim a stream"))?;
        let database_time = now(conn).await?;
        commit(conn).await?;
        Ok(Claim {
            stream: unsigned(stream, "stream")?,
            epoch: unsigned::<i64, u64>(epoch, "owner_epoch")? + 1,
            position: Position { next_offset: unsigned(next_offset, "next_offset")?, last_id },
            fingerprint: fingerprint.map(i64::cast_unsigned),
            database_time,
        })
    }

    pub(super) async fn next_generation(
        &self,
        conn: &mut PgConnection,
        key: &StreamKey,
        claim: &Claim,
        start: u64,
    ) -> Result<(), StoreError> {
        self.begin_numbering(conn).await?;
        let newest = self.lock_newest(conn, key).await?.ok_or_else(|| unknown_stream(key))?;
        let (stream, generation, epoch, ..) = newest;
        if stream != i32::from(claim.stream) || u64::try_from(epoch) != Ok(claim.epoch) {
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
        conn: &mut PgConnection,
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
        conn: &mut PgConnection,
        key: &StreamKey,
    ) -> Result<Option<i32>, StoreError> {
        let query = sqlx::query_scalar::<_, i32>(NEWEST_GENERATION)
            .bind(&key.cluster_id)
            .bind(&key.group)
            .bind(self.options.table.as_str())
            .bind(&key.topic)
            .bind(key.partition);
        within(SHORT_ANSWER, query.fetch_optional(conn)).await.map_err(store_error("cannot read a stream"))
    }

    async fn next_stream(&self, conn: &mut PgConnection) -> Result<u32, StoreError> {
        let query = sqlx::query_scalar::<_, i32>(NEXT_STREAM).bind(self.options.table.as_str());
        let next =
            within(SHORT_ANSWER, query.fetch_one(conn)).await.map_err(store_error("cannot count streams"))?;
        unsigned(next, "stream")
    }

    async fn insert_stream(
        &self,
        conn: &mut PgConnection,
        stream: u16,
        key: &StreamKey,
        generation: i32,
        start: u64,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(CREATE)
            .bind(self.options.table.as_str())
            .bind(i32::from(stream))
            .bind(&key.cluster_id)
            .bind(&key.group)
            .bind(&key.topic)
            .bind(key.partition)
            .bind(generation)
            .bind(signed(start)?);
        let created = within(SHORT_ANSWER, query.execute(conn)).await;
        created.map(drop).map_err(store_error("cannot create a stream"))
    }

    /// Begins a transaction in which nobody else gives out stream numbers of this table.
    async fn begin_numbering(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        begin_locked(conn, &format!("streams of {}", self.options.table)).await.map(drop)
    }
}

/// Begins a transaction whose reads a proxy sends to the primary. Pgpool-II gives reads to replicas until the first
/// statement of a transaction that is none (ADR 16).
async fn begin_on_primary(conn: &mut PgConnection) -> Result<(), StoreError> {
    begin(conn).await?;
    within(SHORT_ANSWER, conn.execute(LOCK_TO_READ)).await.map_err(store_error("cannot read positions"))?;
    Ok(())
}

/// Begins a transaction that holds the named lock, and reads the server's clock under it (milliseconds since
/// 1970).
pub(super) async fn begin_locked(conn: &mut PgConnection, name: &str) -> Result<DatabaseTime, StoreError> {
    const DOING: &str = "cannot take a lock";
    loop {
        begin(conn).await?;
        let locked = sqlx::query(LOCK).bind(name);
        if within(SHORT_ANSWER, locked.fetch_optional(&mut *conn))
            .await
            .map_err(store_error(DOING))?
            .is_some()
        {
            return now(conn).await;
        }
        within(SHORT_ANSWER, conn.execute("ROLLBACK")).await.map_err(store_error(DOING))?;
        let create = sqlx::query(CREATE_LOCK).bind(name);
        within(SHORT_ANSWER, create.execute(&mut *conn)).await.map_err(store_error(DOING))?;
    }
}

pub(super) async fn commit(conn: &mut PgConnection) -> Result<(), StoreError> {
    within(SHORT_ANSWER, conn.execute("COMMIT")).await.map_err(store_error("cannot commit"))?;
    Ok(())
}

async fn now(conn: &mut PgConnection) -> Result<DatabaseTime, StoreError> {
    within(SHORT_ANSWER, sqlx::query_scalar(NOW).fetch_one(conn))
        .await
        .map(DatabaseTime::told)
        .map_err(store_error("cannot read the clock"))
}

/// PostgreSQL knows no unsigned numbers.
///
/// # Errors
/// Somebody has stored a number that Sluice never stores.
fn unsigned<S: Copy + std::fmt::Display, U: TryFrom<S>>(stored: S, column: &str) -> Result<U, StoreError> {
    U::try_from(stored).map_err(|_| {
        StoreError::new(ErrorKind::Schema, format!("sluice_progress.{column} is {stored}, out of its range"))
    })
}

/// An offset as PostgreSQL stores it.
///
/// # Errors
/// It is beyond what any queue counts to (2^63).
pub(super) fn signed(offset: u64) -> Result<i64, StoreError> {
    i64::try_from(offset)
        .map_err(|_| StoreError::new(ErrorKind::Refused, format!("offset {offset} is beyond 63 bits")))
}
