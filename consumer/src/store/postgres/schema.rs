//! Tables: created, migrated, adopted or verified, in one transaction.

use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection, Executor};

use super::PostgresStore;
use super::adopt::{self, Table};
use super::dialect::DIALECT;
use super::errors::{kind_of, store_error};
use super::inspect::exists;
use crate::span::{MAX_KIND_CHARS, MAX_TRACE_ID_CHARS};
use crate::store::inspect::WRITE_RIGHTS;
use crate::store::sql::adopt::{Found, INDEXED, unusable};
use crate::store::sql::{
    MISSING_TABLES, SHORT_ANSWER, Told, WRITE_ANSWER, migrations, missing_rights, within,
};
use crate::store::{ErrorKind, StoreError};

/// Held until the transaction ends; the number is "sluice" in ASCII.
const LOCK: &str = "SELECT pg_advisory_xact_lock(126943972090725)";
/// A migration may take longer than any statement of a batch.
const NO_TIME_OUT: &str = "SET LOCAL statement_timeout = 0";

const MAY_LOOK: &str =
    "SELECT COALESCE(has_table_privilege(CAST(to_regclass('sluice_migrations') AS OID), 'SELECT'), FALSE)";
/// The schema of tables that are found, where another one comes first in search_path.
const ELSEWHERE: &str = "SELECT CAST(n.nspname AS TEXT), COALESCE(CAST(current_schema() AS TEXT), 'none') \
     FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace \
     WHERE c.oid IN (to_regclass('sluice_progress'), to_regclass('sluice_migrations')) \
     AND n.nspname IS DISTINCT FROM current_schema() LIMIT 1";

/// A rule's event 3 is INSERT; a policy's command is a for INSERT, * for all.
const TABLE: &str = "SELECT CAST(relkind AS TEXT) AS kind, CAST(relpersistence AS TEXT) AS persistence, \
     (SELECT CAST(rulename AS TEXT) FROM pg_rewrite WHERE ev_class = c.oid AND CAST(ev_type AS TEXT) = '3' \
     ORDER BY 1 LIMIT 1) AS insert_rule, relrowsecurity AS is_secured, \
     EXISTS (SELECT 1 FROM pg_policy WHERE polrelid = c.oid AND polpermissive \
     AND CAST(polcmd AS TEXT) IN ('a', '*')) AS has_insert_policy \
     FROM pg_class c WHERE oid = to_regclass($1)";
/// Asked only where row security is on: other servers do not know it.
const IS_SECURED: &str = "SELECT row_security_active(CAST(to_regclass($1) AS OID))";
const COLUMNS: &str = "SELECT CAST(a.attname AS TEXT) AS name, format_type(a.atttypid, a.atttypmod) AS data_type, \
     NOT a.attnotnull AS nullable, COALESCE(pg_get_expr(d.adbin, d.adrelid), '') AS default_value, \
     a.attidentity <> '' OR a.attgenerated <> '' AS generated \
     FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum \
     WHERE a.attrelid = to_regclass($1) AND a.attnum > 0 AND NOT a.attisdropped";
const LEADING_COLUMNS: &str = "SELECT CAST(a.attname AS TEXT) FROM pg_index i \
     JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0] \
     WHERE i.indrelid = to_regclass($1) AND i.indisvalid AND i.indpred IS NULL";
/// Columns that an index only includes, which come after its keys, make nothing unique.
const FOREIGN_UNIQUE: &str = "SELECT CAST(c.relname AS TEXT) FROM pg_index i \
     JOIN pg_class c ON c.oid = i.indexrelid \
     WHERE i.indrelid = to_regclass($1) AND i.indisunique AND NOT EXISTS (SELECT 1 FROM pg_attribute a \
     WHERE a.attrelid = i.indrelid AND a.attname = 'id' \
     AND a.attnum = ANY ((CAST(i.indkey AS INT2[]))[0 : i.indnkeyatts - 1])) ORDER BY 1";

/// The lock's columns, which each kind of server has its own of.
const VERIFY_LOCK: &str = "SELECT name FROM sluice_lock LIMIT 0";
/// SQLSTATE for a table and for a column that do not exist.
const NO_TABLE: &str = "42P01";
const NO_COLUMN: &str = "42703";

impl PostgresStore {
    pub(super) async fn prepare_schema(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        // sqlx's own transaction: the migrator begins another one, which must become a savepoint.
        let mut transaction =
            within(SHORT_ANSWER, conn.begin()).await.map_err(store_error("cannot begin a transaction"))?;
        let conn = &mut *transaction;
        if self.options.manage_schema {
            for statement in [NO_TIME_OUT, LOCK] {
                within(SHORT_ANSWER, conn.execute(statement))
                    .await
                    .map_err(store_error("cannot lock the schema"))?;
            }
            self.create_tables(conn).await?;
        }
        for select in migrations::verify(DIALECT.quote).chain([VERIFY_LOCK.to_owned()]) {
            within(SHORT_ANSWER, conn.execute(AssertSqlSafe(select))).await.map_err(missing)?;
        }
        let table = self.options.table.double_quoted();
        for column in self.missing_indexes(conn).await? {
            // Built here it would keep the table's other writers out for as long as it takes.
            tracing::warn!(table = %self.options.table, column,
                "the table has no index on this column; add one with CREATE INDEX CONCURRENTLY ON {table} ({column})");
        }
        missing_rights(self.missing_rights(conn, WRITE_RIGHTS).await?)?;
        within(SHORT_ANSWER, transaction.commit()).await.map_err(store_error("cannot commit the schema"))
    }

    /// Creates what is missing, and asks first: even `IF NOT EXISTS` needs the right to create.
    async fn create_tables(&self, conn: &mut PgConnection) -> Result<(), StoreError> {
        if !self.is_migrated(conn).await? {
            if let Some(why) = hidden_tables(conn).await? {
                return Err(StoreError::new(ErrorKind::Schema, why));
            }
            migrations::run(&migrations::POSTGRES, conn)
                .await
                .map_err(|error| migrations::migrate_error(error, kind_of))?;
        }
        let table = self.options.table.double_quoted();
        if exists(conn, &table).await? {
            return Ok(());
        }
        let sql = format!(
            "CREATE TABLE {table} (id BIGINT NOT NULL PRIMARY KEY, \
             trace_id VARCHAR({MAX_TRACE_ID_CHARS}) COLLATE \"C\" NOT NULL, \
             kind VARCHAR({MAX_KIND_CHARS}) NOT NULL, body TEXT NOT NULL, \
             created_at TIMESTAMPTZ NOT NULL DEFAULT now())"
        );
        within(WRITE_ANSWER, conn.execute(AssertSqlSafe(sql)))
            .await
            .map_err(store_error("cannot create the trace table"))?;
        for column in INDEXED {
            // Without a name: the server picks one that is free in the schema.
            let sql = format!("CREATE INDEX ON {table} ({column})");
            within(WRITE_ANSWER, conn.execute(AssertSqlSafe(sql)))
                .await
                .map_err(store_error("cannot add an index"))?;
        }
        Ok(())
    }

    /// Whether no migration is left to do.
    pub(super) async fn is_migrated(&self, conn: &mut PgConnection) -> Result<bool, StoreError> {
        const DOING: &str = "cannot look for migrations";
        // Asked first, as an error would end the transaction.
        let may_look: bool = within(SHORT_ANSWER, sqlx::query_scalar(MAY_LOOK).fetch_one(&mut *conn))
            .await
            .map_err(store_error(DOING))?;
        if !may_look {
            return Ok(false);
        }
        let select = AssertSqlSafe(migrations::select_done(&migrations::POSTGRES));
        let done: i64 = within(SHORT_ANSWER, sqlx::query_scalar(select).fetch_one(conn))
            .await
            .map_err(store_error(DOING))?;
        Ok(done == migrations::POSTGRES.len() as i64)
    }

    /// Looks at the trace table as it is.
    pub(super) async fn missing_indexes(
        &self,
        conn: &mut PgConnection,
    ) -> Result<Vec<&'static str>, StoreError> {
        const DOING: &str = "cannot look at the trace table";
        let name = self.options.table.double_quoted();
        let query = sqlx::query_as(TABLE).bind(&name);
        let table: Option<Table> =
            within(SHORT_ANSWER, query.fetch_optional(&mut *conn)).await.map_err(store_error(DOING))?;
        if let Some(secured) = table.as_ref().filter(|table| table.is_secured) {
            let query = sqlx::query_scalar(IS_SECURED).bind(&name);
            let for_us: bool =
                within(SHORT_ANSWER, query.fetch_one(&mut *conn)).await.map_err(store_error(DOING))?;
            if for_us {
                adopt::check_policies(secured).map_err(unusable(&self.options.table))?;
            }
        }
        let query = sqlx::query_as(COLUMNS).bind(&name);
        let columns = within(SHORT_ANSWER, query.fetch_all(&mut *conn)).await.map_err(store_error(DOING))?;
        let query = sqlx::query_scalar(LEADING_COLUMNS).bind(&name);
        let leading = within(SHORT_ANSWER, query.fetch_all(&mut *conn)).await.map_err(store_error(DOING))?;
        let query = sqlx::query_scalar(FOREIGN_UNIQUE).bind(&name);
        let foreign_unique =
            within(SHORT_ANSWER, query.fetch_all(&mut *conn)).await.map_err(store_error(DOING))?;
        adopt::check(table.as_ref(), &Found { columns, leading, foreign_unique })
            .map_err(unusable(&self.options.table))
    }
}

/// Why nothing may be created: tables of Sluice that are in use would be hidden by new ones, and positions forgotten.
pub(super) async fn hidden_tables(conn: &mut PgConnection) -> Result<Option<String>, StoreError> {
    let found: Option<(String, String)> =
        within(SHORT_ANSWER, sqlx::query_as(ELSEWHERE).fetch_optional(conn))
            .await
            .map_err(store_error("cannot look for the tables of Sluice"))?;
    Ok(found.map(|(present, first)| {
        format!(
            "Sluice's tables are in the schema {present}, and new ones would be made in {first}, with no positions: put \
             {present} before {first} in search_path (ALTER ROLE … SET search_path)"
        )
    }))
}

fn missing(error: sqlx::Error) -> StoreError {
    let code = error.as_database_error().and_then(|reported| reported.code());
    if matches!(code.as_deref(), Some(NO_TABLE | NO_COLUMN)) {
        return StoreError::with_source(ErrorKind::Schema, MISSING_TABLES, Told(error));
    }
    store_error("cannot verify the schema")(error)
}
