//! Streams, listed, created, claimed and superseded: the same transactions on each backend, but for how it locks, casts,
//! and the driver's types.

use std::collections::{BTreeMap, HashSet};

use super::{stream_number, unsigned};
use crate::gate::clock::DatabaseTime;
use crate::store::{Claim, Position, StoreError, StreamKey};

/// Topic and partition.
pub type StreamRow = (String, i32);
/// Topic, partition and next offset.
pub type PositionRow = (String, i32, i64);

/// Stream, generation, owner's epoch, next offset, last id, fingerprint.
pub type NewestRow = (i64, i64, i64, i64, i64, Option<i64>);

/// The newest generation of a stream.
pub struct Newest {
    pub stream: i64,
    pub generation: i64,
    owner_epoch: i64,
    next_offset: i64,
    last_id: i64,
    fingerprint: Option<i64>,
}

impl From<NewestRow> for Newest {
    fn from((stream, generation, owner_epoch, next_offset, last_id, fingerprint): NewestRow) -> Self {
        Self { stream, generation, owner_epoch, next_offset, last_id, fingerprint }
    }
}

impl Newest {
    /// What its next owner begins with.
    ///
    /// # Errors
    /// Somebody has stored a number that Sluice never stores.
    pub fn claim(&self, database_time: DatabaseTime) -> Result<Claim, StoreError> {
        Ok(Claim {
            stream: unsigned(self.stream, "stream")?,
            epoch: unsigned::<u64>(self.owner_epoch, "owner_epoch")? + 1,
            position: Position {
                next_offset: unsigned(self.next_offset, "next_offset")?,
                last_id: self.last_id,
            },
            fingerprint: self.fingerprint.map(i64::cast_unsigned),
            database_time,
        })
    }

    /// Whether it still is as it was claimed.
    pub fn is_held_by(&self, claim: &Claim) -> bool {
        self.stream == i64::from(claim.stream) && u64::try_from(self.owner_epoch) == Ok(claim.epoch)
    }
}

/// The streams that rows tell of.
pub fn streams_in(cluster_id: &str, group: &str, rows: Vec<StreamRow>) -> Vec<StreamKey> {
    rows.into_iter().map(|at| key_of(cluster_id, group, at)).collect()
}

fn key_of(cluster_id: &str, group: &str, (topic, partition): StreamRow) -> StreamKey {
    StreamKey { cluster_id: cluster_id.to_owned(), group: group.to_owned(), topic, partition }
}

/// The last position of each partition, from rows in the order of generations.
///
/// # Errors
/// Somebody has stored a number that Sluice never stores.
pub fn newest_positions(
    cluster_id: &str,
    group: &str,
    rows: Vec<PositionRow>,
) -> Result<Vec<(StreamKey, u64)>, StoreError> {
    let newest: BTreeMap<_, _> =
        rows.into_iter().map(|(topic, partition, next_offset)| ((topic, partition), next_offset)).collect();
    newest
        .into_iter()
        .map(|(at, next_offset)| Ok((key_of(cluster_id, group, at), unsigned(next_offset, "next_offset")?)))
        .collect()
}

/// Clusters and groups of these streams, each once.
pub fn groups_of(starts: &[(StreamKey, u64)]) -> HashSet<(&str, &str)> {
    starts.iter().map(|(key, _)| (key.cluster_id.as_str(), key.group.as_str())).collect()
}

/// The streams among `starts` that `existing` lacks, with the numbers that they get.
///
/// # Errors
/// The numbers do not suffice.
pub fn number_missing<'a>(
    starts: &'a [(StreamKey, u64)],
    existing: &HashSet<StreamKey>,
    first_free: i64,
) -> Result<Vec<(u16, &'a StreamKey, u64)>, StoreError> {
    let mut seen = HashSet::new();
    starts
        .iter()
        .filter(|(key, _)| !existing.contains(key) && seen.insert(key))
        .zip(first_free..)
        .map(|((key, start), number)| Ok((stream_number(number)?, key, *start)))
        .collect()
}

/// Implements `streams_of`, `positions_of`, `create_missing`, `create_all_or_none`, `claim_stream` and `next_generation`
/// for a backend, which has the method `table_name` and the functions `store_error`, `begin`, `begin_reading` (of a
/// transaction whose reads a proxy sends to the primary: a replica that lags would make streams that exist look new),
/// `begin_numbering` (of one in which nobody else gives out stream numbers of the table), `check_lock` (whether that held
/// while everything was read), `now` (the database's clock as it is, not as it was when the transaction began) and
/// `commit`. `lock` ends a SELECT that locks its rows.
macro_rules! stream_store {
    (store: $store:ty, database: $database:ty, dialect: $dialect:expr, lock: $lock:expr) => {
        use std::collections::HashSet;

        use sqlx::QueryBuilder;

        use crate::store::sql::stream_queries::{
            Newest, NewestRow, PositionRow, StreamRow, groups_of, newest_positions, number_missing, streams_in,
        };
        use crate::store::sql::{SHORT_ANSWER, fenced, signed, stream_number, unknown_stream, within};
        use crate::store::{Claim, ErrorKind, StoreError, StreamKey};

        type Conn = <$database as sqlx::Database>::Connection;
        type Builder = QueryBuilder<$database>;

        impl $store {
            pub(super) async fn streams_of(
                &self,
                conn: &mut Conn,
                cluster_id: &str,
                group: &str,
            ) -> Result<Vec<StreamKey>, StoreError> {
                begin_reading(conn, "sluice_progress").await?;
                let streams = self.list_streams(conn, cluster_id, group).await?;
                commit(conn).await?;
                Ok(streams)
            }

            pub(super) async fn positions_of(
                &self,
                conn: &mut Conn,
                cluster_id: &str,
                group: &str,
            ) -> Result<Vec<(StreamKey, u64)>, StoreError> {
                begin_reading(conn, "sluice_progress").await?;
                let (q, int8, (text, text_end)) = ($dialect.quote, $dialect.int8, $dialect.text);
                let mut builder = Builder::new(format!(
                    "SELECT {text}topic{text_end}, {q}partition{q}, CAST(next_offset AS {int8}) FROM sluice_progress"
                ));
                self.push_group(&mut builder, cluster_id, group);
                builder.push(" ORDER BY generation");
                let rows = within(SHORT_ANSWER, builder.build_query_as::<PositionRow>().fetch_all(&mut *conn))
                    .await
                    .map_err(store_error("cannot read positions"))?;
                commit(conn).await?;
                newest_positions(cluster_id, group, rows)
            }

            async fn list_streams(
                &self,
                conn: &mut Conn,
                cluster_id: &str,
                group: &str,
            ) -> Result<Vec<StreamKey>, StoreError> {
                let (q, (text, text_end)) = ($dialect.quote, $dialect.text);
                let mut builder = Builder::new(format!(
                    "SELECT {text}topic{text_end}, {q}partition{q} FROM sluice_progress"
                ));
                self.push_group(&mut builder, cluster_id, group);
                builder.push(format_args!(" GROUP BY topic, {q}partition{q}"));
                let rows = within(SHORT_ANSWER, builder.build_query_as::<StreamRow>().fetch_all(conn))
                    .await
                    .map_err(store_error("cannot list streams"))?;
                Ok(streams_in(cluster_id, group, rows))
            }

            pub(super) async fn create_missing(
                &self,
                conn: &mut Conn,
                starts: &[(StreamKey, u64)],
            ) -> Result<(), StoreError> {
                let known = self.known_of(conn, starts).await?;
                if starts.iter().all(|(key, _)| known.contains(key)) {
                    return Ok(());
                }
                begin_numbering(conn, self.table_name()).await?;
                // Again, now that nobody else can create any.
                let known = self.known_of(conn, starts).await?;
                self.insert_missing(conn, starts, &known).await?;
                commit(conn).await
            }

            pub(super) async fn create_all_or_none(
                &self,
                conn: &mut Conn,
                starts: &[(StreamKey, u64)],
            ) -> Result<(), StoreError> {
                begin_numbering(conn, self.table_name()).await?;
                let known = self.known_of(conn, starts).await?;
                if known.is_empty() {
                    self.insert_missing(conn, starts, &known).await?;
                }
                commit(conn).await
            }

            async fn insert_missing(
                &self,
                conn: &mut Conn,
                starts: &[(StreamKey, u64)],
                known: &HashSet<StreamKey>,
            ) -> Result<(), StoreError> {
                let first_free = self.next_stream(conn).await?;
                check_lock(conn).await?;
                for (stream, key, start) in number_missing(starts, known, first_free)? {
                    self.insert_stream(conn, stream, key, 0, start).await?;
                }
                Ok(())
            }

            async fn known_of(
                &self,
                conn: &mut Conn,
                starts: &[(StreamKey, u64)],
            ) -> Result<HashSet<StreamKey>, StoreError> {
                let mut known = HashSet::new();
                for (cluster_id, group) in groups_of(starts) {
                    known.extend(self.list_streams(conn, cluster_id, group).await?);
                }
                Ok(known)
            }

            pub(super) async fn claim_stream(
                &self,
                conn: &mut Conn,
                key: &StreamKey,
                owner: &str,
            ) -> Result<Claim, StoreError> {
                begin(conn).await?;
                let newest = self.lock_newest(conn, key).await?;
                // The row that was locked may have been superseded while its lock was waited for.
                if self.newest_generation(conn, key).await? != Some(newest.generation) {
                    let context = "the stream was superseded while it was being claimed";
                    return Err(StoreError::new(ErrorKind::Conflict, context));
                }
                let database_time = now(conn).await?;
                self.take_over(conn, &newest, owner).await.map_err(store_error("cannot claim a stream"))?;
                commit(conn).await?;
                newest.claim(database_time)
            }

            pub(super) async fn next_generation(
                &self,
                conn: &mut Conn,
                key: &StreamKey,
                claim: &Claim,
                start: u64,
            ) -> Result<(), StoreError> {
                begin_numbering(conn, self.table_name()).await?;
                let newest = self.lock_newest(conn, key).await?;
                if !newest.is_held_by(claim) {
                    return Err(fenced(claim.stream, claim.epoch));
                }
                let number = stream_number(self.next_stream(conn).await?)?;
                check_lock(conn).await?;
                // The old row's last holder is fenced as well.
                self.take_over(conn, &newest, "").await.map_err(store_error("cannot supersede a stream"))?;
                self.insert_stream(conn, number, key, newest.generation + 1, start).await?;
                commit(conn).await
            }

            async fn lock_newest(&self, conn: &mut Conn, key: &StreamKey) -> Result<Newest, StoreError> {
                let columns = ["stream", "generation", "owner_epoch", "next_offset", "last_id", "fingerprint"]
                    .map(|column| format!("CAST({column} AS {})", $dialect.int8));
                let mut builder = Builder::new(format!("SELECT {} FROM sluice_progress", columns.join(", ")));
                self.push_partition(&mut builder, key);
                builder.push(" ORDER BY generation DESC LIMIT 1").push($lock);
                let newest = within(SHORT_ANSWER, builder.build_query_as::<NewestRow>().fetch_optional(conn))
                    .await
                    .map_err(store_error("cannot lock a stream"))?;
                newest.map(Newest::from).ok_or_else(|| unknown_stream(key))
            }

            async fn newest_generation(
                &self,
                conn: &mut Conn,
                key: &StreamKey,
            ) -> Result<Option<i64>, StoreError> {
                let mut builder = Builder::new(format!(
                    "SELECT CAST(MAX(generation) AS {}) FROM sluice_progress",
                    $dialect.int8
                ));
                self.push_partition(&mut builder, key);
                within(SHORT_ANSWER, builder.build_query_scalar().fetch_one(conn))
                    .await
                    .map_err(store_error("cannot read a stream"))
            }

            async fn take_over(
                &self,
                conn: &mut Conn,
                newest: &Newest,
                owner: &str,
            ) -> Result<(), sqlx::Error> {
                let mut builder =
                    Builder::new("UPDATE sluice_progress SET owner_epoch = owner_epoch + 1, owner = ");
                builder.push_bind(owner.to_owned()).push(", claimed_at = CURRENT_TIMESTAMP WHERE table_name = ");
                builder.push_bind(self.table_name().to_owned()).push(" AND stream = ").push_bind(newest.stream);
                within(SHORT_ANSWER, builder.build().execute(conn)).await.map(drop)
            }

            async fn next_stream(&self, conn: &mut Conn) -> Result<i64, StoreError> {
                let mut builder = Builder::new(format!(
                    "SELECT CAST(COALESCE(MAX(stream) + 1, 0) AS {}) FROM sluice_progress WHERE table_name = ",
                    $dialect.int8
                ));
                builder.push_bind(self.table_name().to_owned());
                within(SHORT_ANSWER, builder.build_query_scalar().fetch_one(conn))
                    .await
                    .map_err(store_error("cannot count streams"))
            }

            async fn insert_stream(
                &self,
                conn: &mut Conn,
                stream: u16,
                key: &StreamKey,
                generation: i64,
                start: u64,
            ) -> Result<(), StoreError> {
                let q = $dialect.quote;
                let mut builder = Builder::new(format!(
                    "INSERT INTO sluice_progress (table_name, stream, cluster_id, consumer_group, topic, \
                     {q}partition{q}, generation, next_offset, owner_epoch, owner, last_id) VALUES ("
                ));
                let mut values = builder.separated(", ");
                values.push_bind(self.table_name().to_owned()).push_bind(i32::from(stream));
                values.push_bind(key.cluster_id.clone()).push_bind(key.group.clone());
                values.push_bind(key.topic.clone()).push_bind(key.partition);
                values.push_bind(generation).push_bind(signed(start)?);
                builder.push(", 0, '', 0)");
                let created = within(SHORT_ANSWER, builder.build().execute(conn)).await;
                created.map(drop).map_err(store_error("cannot create a stream"))
            }

            fn push_group(&self, builder: &mut Builder, cluster_id: &str, group: &str) {
                builder.push(" WHERE cluster_id = ").push_bind(cluster_id.to_owned());
                builder.push(" AND consumer_group = ").push_bind(group.to_owned());
                builder.push(" AND table_name = ").push_bind(self.table_name().to_owned());
            }

            fn push_partition(&self, builder: &mut Builder, key: &StreamKey) {
                self.push_group(builder, &key.cluster_id, &key.group);
                builder.push(" AND topic = ").push_bind(key.topic.clone());
                builder.push(format_args!(" AND {q}partition{q} = ", q = $dialect.quote));
                builder.push_bind(key.partition);
            }
        }
    };
}
pub(in crate::store) use stream_store;
