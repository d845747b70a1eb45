//! Data keys and dictionaries: the same statements on each backend, but for casts and the driver's types.

use crate::store::key::{SealedDictionary, WrappedKey};

/// A row of `sluice_data_key`.
pub type KeyRow = (i64, String, Vec<u8>, i64);
/// A row of `sluice_dictionary`.
pub type DictionaryRow = (i64, Vec<u8>, i64, i64);

/// The key that a row tells of. Numbers that no program wrote become 0, which is no key.
pub fn key_of((id, wrapped_by, wrapped, created_at_ms): KeyRow) -> WrappedKey {
    WrappedKey { id: u32::try_from(id).unwrap_or(0), wrapped_by, wrapped, created_at_ms }
}

/// The dictionary that a row tells of, likewise.
pub fn dictionary_of((id, sealed, permille, created_at_ms): DictionaryRow) -> SealedDictionary {
    let permille = u32::try_from(permille).unwrap_or(0);
    SealedDictionary { id: u16::try_from(id).unwrap_or(0), sealed, permille, created_at_ms }
}

/// Implements [`crate::store::key::KeyStore`] for a backend, which has the method `table_name` and the
/// functions `store_error`, `begin_reading` (of a transaction whose reads a proxy sends to the
/// primary) and `commit`.
macro_rules! key_store {
    (store: $store:ty, database: $database:ty, dialect: $dialect:expr) => {
        use sqlx::QueryBuilder;

        use crate::store::key::{KeyStore, SealedDictionary, WrappedKey};
        use crate::store::sql::key_queries::{DictionaryRow, KeyRow, dictionary_of, key_of};
        use crate::store::sql::{Purpose, SHORT_ANSWER, WRITE_ANSWER, within};
        use crate::store::{ErrorKind, StoreError};

        type Conn = <$database as sqlx::Database>::Connection;
        type Builder = QueryBuilder<$database>;

        impl $store {
            /// On the primary: to a replica that lags, a key that was stored a moment ago looks lost.
            async fn find_keys(
                &self,
                conn: &mut Conn,
                id: Option<u32>,
            ) -> Result<Vec<WrappedKey>, StoreError> {
                begin_reading(conn, "sluice_data_key").await?;
                let (int8, (text, text_end), (ms, ms_end)) =
                    ($dialect.int8, $dialect.text, $dialect.epoch_ms);
                let mut builder = Builder::new(format!(
                    "SELECT CAST(id AS {int8}), {text}wrapped_by{text_end}, wrapped, {ms}created_at{ms_end} \
                     FROM sluice_data_key WHERE table_name = "
                ));
                builder.push_bind(self.table_name().to_owned());
                if let Some(id) = id {
                    builder.push(" AND id = ").push_bind(i64::from(id));
                }
                builder.push(" ORDER BY id");
                let rows = within(WRITE_ANSWER, builder.build_query_as::<KeyRow>().fetch_all(&mut *conn))
                    .await
                    .map_err(store_error("cannot read data keys"))?;
                commit(conn).await?;
                Ok(rows.into_iter().map(key_of).collect())
            }

            /// On the primary, likewise.
            async fn find_other_tables(&self, conn: &mut Conn) -> Result<Vec<String>, StoreError> {
                begin_reading(conn, "sluice_data_key").await?;
                let (text, text_end) = $dialect.text;
                let mut builder = Builder::new(format!(
                    "SELECT DISTINCT {text}table_name{text_end} FROM sluice_data_key WHERE table_name <> "
                ));
                builder.push_bind(self.table_name().to_owned()).push(" ORDER BY 1");
                let names = within(WRITE_ANSWER, builder.build_query_scalar().fetch_all(&mut *conn))
                    .await
                    .map_err(store_error("cannot read which tables have data keys"))?;
                commit(conn).await?;
                Ok(names)
            }

            /// On the primary, likewise.
            async fn find_dictionaries(
                &self,
                conn: &mut Conn,
                id: Option<u16>,
            ) -> Result<Vec<SealedDictionary>, StoreError> {
                begin_reading(conn, "sluice_dictionary").await?;
                let (int8, (ms, ms_end)) = ($dialect.int8, $dialect.epoch_ms);
                let mut builder = Builder::new(format!(
                    "SELECT CAST(id AS {int8}), sealed, CAST(permille AS {int8}), {ms}created_at{ms_end} \
                     FROM sluice_dictionary WHERE table_name = "
                ));
                builder.push_bind(self.table_name().to_owned());
                if let Some(id) = id {
                    builder.push(" AND id = ").push_bind(i64::from(id));
                }
                builder.push(" ORDER BY id");
                let rows =
                    within(WRITE_ANSWER, builder.build_query_as::<DictionaryRow>().fetch_all(&mut *conn))
                        .await
                        .map_err(store_error("cannot read dictionaries"))?;
                commit(conn).await?;
                Ok(rows.into_iter().map(dictionary_of).collect())
            }

            /// One statement, which is a transaction of its own; false where the number is taken.
            async fn insert_new(&self, conn: &mut Conn, mut insert: Builder) -> Result<bool, StoreError> {
                let inserted = within(WRITE_ANSWER, insert.build().execute(conn))
                    .await
                    .map_err(store_error("cannot store a data key or a dictionary"));
                match inserted {
                    Ok(_) => Ok(true),
                    Err(error) if error.kind == ErrorKind::DuplicateId => Ok(false),
                    Err(error) => Err(error),
                }
            }

            async fn swap_wrapping(
                &self,
                conn: &mut Conn,
                old: &WrappedKey,
                new: &WrappedKey,
            ) -> Result<bool, StoreError> {
                let mut builder = Builder::new("UPDATE sluice_data_key SET wrapped_by = ");
                builder.push_bind(new.wrapped_by.clone()).push(", wrapped = ").push_bind(new.wrapped.clone());
                builder.push(" WHERE table_name = ").push_bind(self.table_name().to_owned());
                builder.push(" AND id = ").push_bind(i64::from(old.id));
                builder.push(" AND wrapped = ").push_bind(old.wrapped.clone());
                let swapped = within(SHORT_ANSWER, builder.build().execute(conn))
                    .await
                    .map_err(store_error("cannot wrap a data key anew"))?;
                Ok(swapped.rows_affected() == 1)
            }
        }

        #[async_trait::async_trait]
        impl KeyStore for $store {
            async fn data_keys(&self) -> Result<Vec<WrappedKey>, StoreError> {
                let mut session = self.session(Purpose::Read).await?;
                let done = self.find_keys(&mut session, None).await;
                self.settle(session, done).await
            }

            async fn other_tables(&self) -> Result<Vec<String>, StoreError> {
                let mut session = self.session(Purpose::Read).await?;
                let done = self.find_other_tables(&mut session).await;
                self.settle(session, done).await
            }

            async fn data_key(&self, id: u32) -> Result<Option<WrappedKey>, StoreError> {
                let mut session = self.session(Purpose::Read).await?;
                let done = self.find_keys(&mut session, Some(id)).await;
                Ok(self.settle(session, done).await?.pop())
            }

            async fn add_data_key(&self, key: &WrappedKey) -> Result<bool, StoreError> {
                let mut insert = Builder::new(
                    "INSERT INTO sluice_data_key (table_name, id, wrapped_by, wrapped) VALUES (",
                );
                let mut values = insert.separated(", ");
                values.push_bind(self.table_name().to_owned()).push_bind(i64::from(key.id));
                values.push_bind(key.wrapped_by.clone()).push_bind(key.wrapped.clone());
                insert.push(")");
                let mut session = self.session(Purpose::Control).await?;
                let done = self.insert_new(&mut session, insert).await;
                self.settle(session, done).await
            }

            async fn rewrap(&self, old: &WrappedKey, new: &WrappedKey) -> Result<bool, StoreError> {
                let mut session = self.session(Purpose::Control).await?;
                let done = self.swap_wrapping(&mut session, old, new).await;
                self.settle(session, done).await
            }

            async fn dictionaries(&self) -> Result<Vec<SealedDictionary>, StoreError> {
                let mut session = self.session(Purpose::Read).await?;
                let done = self.find_dictionaries(&mut session, None).await;
                self.settle(session, done).await
            }

            async fn dictionary(&self, id: u16) -> Result<Option<SealedDictionary>, StoreError> {
                let mut session = self.session(Purpose::Read).await?;
                let done = self.find_dictionaries(&mut session, Some(id)).await;
                Ok(self.settle(session, done).await?.pop())
            }

            async fn add_dictionary(&self, dictionary: &SealedDictionary) -> Result<bool, StoreError> {
                let mut insert =
                    Builder::new("INSERT INTO sluice_dictionary (table_name, id, sealed, permille) VALUES (");
                let mut values = insert.separated(", ");
                values.push_bind(self.table_name().to_owned()).push_bind(i64::from(dictionary.id));
                values.push_bind(dictionary.sealed.clone());
                values.push_bind(i32::try_from(dictionary.permille).unwrap_or(i32::MAX));
                insert.push(")");
                let mut session = self.session(Purpose::Control).await?;
                let done = self.insert_new(&mut session, insert).await;
                self.settle(session, done).await
            }
        }
    };
}
pub(in crate::store) use key_store;
