//! Streams: listing, creating, claiming, superseding.

use std::collections::HashSet;

use sqlx::sqlite::SqliteConnection;

use super::SqliteStore;
use super::errors::store_error;
use super::write::{begin, commit};
use crate::gate::clock::DatabaseTime;
use crate::store::sql::{
    SHORT_ANSWER, fenced, newest_positions, number_missing, stream_number, unknown_stream, within,
};
use crate::store::{Claim, ErrorKind, Position, StoreError, StreamKey};

const LIST: &str = "SELECT topic, \"partition\" FROM sluice_progress \
     WHERE cluster_id = ? AND consumer_group = ? AND table_name = ? GROUP BY topic, \"partition\"";
const POSITIONS: &str = "SELECT topic, \"partition\", next_offset FROM sluice_progress \
     WHERE cluster_id = ? AND consumer_group = ? AND table_name = ? ORDER BY generation";
const NEXT_STREAM: &str = "SELECT COALESCE(MAX(stream) + 1, 0) FROM sluice_progress WHERE table_name = ?";
const CREATE: &str = "INSERT INTO sluice_progress (table_name, stream, cluster_id, consumer_group, topic, \
     \"partition\", generation, owner_epoch, owner, next_offset, last_id) \
     VALUES (?, ?, ?, ?, ?, ?, ?, 0, '', ?, 0)";
const NEWEST: &str = "SELECT stream, generation, owner_epoch, next_offset, last_id, fingerprint \
     FROM sluice_progress WHERE cluster_id = ? AND consumer_group = ? AND table_name = ? AND topic = ? \
     AND \"partition\" = ? ORDER BY generation DESC LIMIT 1";
const TAKE_OVER: &str = "UPDATE sluice_progress SET owner_epoch = owner_epoch + 1, owner = ?, claimed_at = CURRENT_TIMESTAMP \
     WHERE table_name = ? AND stream = ?";
const NOW: &str = "SELECT CAST(unixepoch('now', 'subsec') * 1000 AS INTEGER)";

/// Stream, generation, epoch, next offset, last id, fingerprint.
type ProgressRow = (i32, i32, i64, i64, i64, Option<i64>);

impl SqliteStore {
    pub(super) async fn list_streams(
        &self,
        conn: &mut SqliteConnection,
        cluster_id: &str,
        group: &str,
    ) -> Result<Vec<StreamKey>, StoreError> {
        let query =
            sqlx::query_as::<_, (String, i32)>(LIST).bind(cluster_id).bind(group).bind(self.table.as_str());
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

    /// See [`crate::store::Store::positions`].
    pub(super) async fn positions_of(
        &self,
        conn: &mut SqliteConnection,
        cluster_id: &str,
        group: &str,
    ) -> Result<Vec<(StreamKey, u64)>, StoreError> {
        let query = sqlx::query_as::<_, (String, i32, i64)>(POSITIONS)
            .bind(cluster_id)
            .bind(group)
            .bind(self.table.as_str());
        let rows = within(SHORT_ANSWER, query.fetch_all(conn))
            .await
            .map_err(store_error("cannot read positions"))?;
        let rows: Result<Vec<_>, StoreError> = rows
            .into_iter()
            .map(|(topic, partition, offset)| Ok((topic, partition, unsigned(offset, "next_offset")?)))
            .collect();
        Ok(newest_positions(cluster_id, group, rows?))
    }

    pub(super) async fn create_missing(
        &self,
        conn: &mut SqliteConnection,
        starts: &[(StreamKey, u64)],
    ) -> Result<(), StoreError> {
        let known = self.known_of(conn, starts).await?;
        if starts.iter().all(|(key, _)| known.contains(key)) {
            return Ok(());
        }
        begin(conn).await?;
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
        conn: &mut SqliteConnection,
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
        conn: &mut SqliteConnection,
        key: &StreamKey,
        owner: &str,
    ) -> Result<Claim, StoreError> {
        begin(conn).await?;
        let newest = self.newest_of(conn, key).await?.ok_or_else(|| unknown_stream(key))?;
        let (stream, _, epoch, next_offset, last_id, fingerprint) = newest;
        let query = sqlx::query(TAKE_OVER).bind(owner).bind(self.table.as_str()).bind(stream);
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
        conn: &mut SqliteConnection,
        key: &StreamKey,
        claim: &Claim,
        start: u64,
    ) -> Result<(), StoreError> {
        begin(conn).await?;
        let newest = self.newest_of(conn, key).await?.ok_or_else(|| unknown_stream(key))?;
        let (stream, generation, epoch, ..) = newest;
        if stream != i32::from(claim.stream) || u64::try_from(epoch) != Ok(claim.epoch) {
            return Err(fenced(claim.stream, claim.epoch));
        }
        // The old row's last holder is fenced as well.
        let query = sqlx::query(TAKE_OVER).bind("").bind(self.table.as_str()).bind(stream);
        within(SHORT_ANSWER, query.execute(&mut *conn))
            .await
            .map_err(store_error("cannot supersede a stream"))?;
        let number = stream_number(self.next_stream(conn).await?)?;
        self.insert_stream(conn, number, key, generation + 1, start).await?;
        commit(conn).await
    }

    async fn newest_of(
        &self,
        conn: &mut SqliteConnection,
        key: &StreamKey,
    ) -> Result<Option<ProgressRow>, StoreError> {
        let query = sqlx::query_as::<_, ProgressRow>(NEWEST)
            .bind(&key.cluster_id)
            .bind(&key.group)
            .bind(self.table.as_str())
            .bind(&key.topic)
            .bind(key.partition);
        within(SHORT_ANSWER, query.fetch_optional(conn)).await.map_err(store_error("cannot lock a stream"))
    }

    async fn next_stream(&self, conn: &mut SqliteConnection) -> Result<u32, StoreError> {
        let query = sqlx::query_scalar::<_, i32>(NEXT_STREAM).bind(self.table.as_str());
        let next =
            within(SHORT_ANSWER, query.fetch_one(conn)).await.map_err(store_error("cannot count streams"))?;
        unsigned(next, "stream")
    }

    async fn insert_stream(
        &self,
        conn: &mut SqliteConnection,
        stream: u16,
        key: &StreamKey,
        generation: i32,
        start: u64,
    ) -> Result<(), StoreError> {
        let query = sqlx::query(CREATE)
            .bind(self.table.as_str())
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
}

pub(super) async fn now(conn: &mut SqliteConnection) -> Result<DatabaseTime, StoreError> {
    within(SHORT_ANSWER, sqlx::query_scalar(NOW).fetch_one(conn))
        .await
        .map(DatabaseTime::told)
        .map_err(store_error("cannot read the clock"))
}

/// SQLite knows no unsigned numbers of 64 bits.
///
/// # Errors
/// Somebody has stored a number that Sluice never stores.
fn unsigned<S: Copy + std::fmt::Display, U: TryFrom<S>>(stored: S, column: &str) -> Result<U, StoreError> {
    U::try_from(stored).map_err(|_| {
        StoreError::new(ErrorKind::Schema, format!("sluice_progress.{column} is {stored}, out of its range"))
    })
}

/// An offset as SQLite stores it.
///
/// # Errors
/// It is beyond what any queue counts to (2^63).
pub(super) fn signed(offset: u64) -> Result<i64, StoreError> {
    i64::try_from(offset)
        .map_err(|_| StoreError::new(ErrorKind::Refused, format!("offset {offset} is beyond 63 bits")))
}
