//! Looks at a database without changing it.

use sqlx::postgres::PgConnection;

use super::PostgresStore;
use super::errors::store_error;
use super::schema::hidden_tables;
use crate::store::StoreError;
use crate::store::inspect::{Inspection, OWN_TABLES, TableState, trace_rights};
use crate::store::sql::{Purpose, SHORT_ANSWER, within};

const SERVER: &str = "SELECT 'PostgreSQL ' || current_setting('server_version'), \
     pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on', \
     COALESCE(CAST(current_schema() AS TEXT), ''), \
     COALESCE(has_schema_privilege(current_schema(), 'CREATE'), FALSE)";
const EXISTS: &str = "SELECT to_regclass($1) IS NOT NULL";
const RIGHT: &str = "SELECT has_table_privilege(CAST(to_regclass($1) AS OID), $2)";

impl PostgresStore {
    /// What [`crate::store::Store::prepare`] would meet; with a retention, also whether rows may be removed. Changes nothing.
    ///
    /// # Errors
    /// The server cannot be reached or asked.
    pub async fn inspect(&self, has_retention: bool) -> Result<Inspection, StoreError> {
        let mut session = self.session(Purpose::Control).await?;
        let done = self.look(&mut session, has_retention).await;
        self.settle(session, done).await
    }

    async fn look(&self, conn: &mut PgConnection, has_retention: bool) -> Result<Inspection, StoreError> {
        const DOING: &str = "cannot look at the server";
        let (server, read_only, schema, may_create): (String, bool, String, bool) =
            within(SHORT_ANSWER, sqlx::query_as(SERVER).fetch_one(&mut *conn))
                .await
                .map_err(store_error(DOING))?;
        let table = if exists(conn, &self.options.table.double_quoted()).await? {
            TableState::of(self.missing_indexes(conn).await)?
        } else {
            TableState::Missing
        };

        let mut missing_tables = Vec::new();
        for (own, _) in OWN_TABLES {
            if !exists(conn, own).await? {
                missing_tables.push(own);
            }
        }
        let missing_rights = self.missing_rights(conn, trace_rights(has_retention)).await?;
        let is_migrated = self.is_migrated(conn).await?;
        let hidden = if is_migrated { None } else { hidden_tables(conn).await? };
        let cannot_create = match (schema.as_str(), may_create) {
            _ if hidden.is_some() => hidden,
            ("", _) => Some("search_path names no schema that exists".to_owned()),
            (_, false) => Some(format!("no right to create in the schema {schema}")),
            _ => None,
        };
        Ok(Inspection {
            server,
            read_only,
            settings: Vec::new(),
            table,
            missing_tables,
            is_migrated,
            cannot_create,
            missing_rights,
        })
    }

    /// The rights that this user lacks on the tables that exist.
    pub(super) async fn missing_rights(
        &self,
        conn: &mut PgConnection,
        of_trace: &'static [&'static str],
    ) -> Result<Vec<String>, StoreError> {
        let mut missing = Vec::new();
        let quoted = self.options.table.double_quoted();
        let own = OWN_TABLES.into_iter().map(|(own, rights)| (own, own, rights));
        let trace = (self.options.table.as_str(), quoted.as_str(), of_trace);
        for (name, quoted, rights) in own.chain([trace]) {
            if exists(conn, quoted).await? {
                missing.extend(denied(conn, name, quoted, rights).await?);
            }
        }
        Ok(missing)
    }
}

/// Whether a table, named as in a statement, exists.
pub(super) async fn exists(conn: &mut PgConnection, name: &str) -> Result<bool, StoreError> {
    within(SHORT_ANSWER, sqlx::query_scalar(EXISTS).bind(name).fetch_one(conn))
        .await
        .map_err(store_error("cannot look for a table"))
}

/// The rights on a table that this user lacks.
async fn denied(
    conn: &mut PgConnection,
    name: &str,
    quoted: &str,
    rights: &[&str],
) -> Result<Vec<String>, StoreError> {
    let mut missing = Vec::new();
    for right in rights {
        let query = sqlx::query_scalar(RIGHT).bind(quoted).bind(*right);
        let granted: bool = within(SHORT_ANSWER, query.fetch_one(&mut *conn))
            .await
            .map_err(store_error("cannot look at the rights on a table"))?;
        if !granted {
            missing.push(format!("{right} on {name}"));
        }
    }
    Ok(missing)
}
