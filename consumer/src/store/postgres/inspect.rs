//! Looks at a database without changing it.

use sqlx::postgres::PgConnection;

use super::PostgresStore;
use super::errors::store_error;
use crate::store::inspect::{Inspection, OWN_TABLES, TRACE_RIGHTS, TableState};
use crate::store::sql::{Purpose, SHORT_ANSWER, within};
use crate::store::{ErrorKind, StoreError};

const SERVER: &str = "SELECT 'PostgreSQL ' || current_setting('server_version'), \
     pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on', \
     COALESCE(CAST(current_schema() AS TEXT), ''), \
     COALESCE(has_schema_privilege(current_schema(), 'CREATE'), FALSE)";
const EXISTS: &str = "SELECT to_regclass($1) IS NOT NULL";
const RIGHT: &str = "SELECT has_table_privilege(CAST(to_regclass($1) AS OID), $2)";

impl PostgresStore {
    /// What [`crate::store::Store::prepare`] would meet. Changes nothing.
    ///
    /// # Errors
    /// The server cannot be reached or asked.
    pub async fn inspect(&self) -> Result<Inspection, StoreError> {
        let mut session = self.session(Purpose::Control).await?;
        let done = self.look(&mut session).await;
        self.settle(session, done).await
    }

    async fn look(&self, conn: &mut PgConnection) -> Result<Inspection, StoreError> {
        const DOING: &str = "cannot look at the server";
        let (server, read_only, schema, may_create): (String, bool, String, bool) =
            within(SHORT_ANSWER, sqlx::query_as(SERVER).fetch_one(&mut *conn))
                .await
                .map_err(store_error(DOING))?;
        let name = self.options.table.as_str();
        let quoted = self.options.table.double_quoted();
        let table_exists = exists(conn, &quoted).await?;
        let table = if table_exists { self.look_at_table(conn).await? } else { TableState::Missing };

        let (mut missing_tables, mut missing_rights) = (Vec::new(), Vec::new());
        for (own, rights) in OWN_TABLES {
            if exists(conn, own).await? {
                missing_rights.extend(denied(conn, own, own, rights).await?);
            } else {
                missing_tables.push(own);
            }
        }
        if table_exists {
            missing_rights.extend(denied(conn, name, &quoted, TRACE_RIGHTS).await?);
        }
        let cannot_create = match (schema.as_str(), may_create) {
            ("", _) => Some("search_path names no schema that exists".to_owned()),
            (_, false) => Some(format!("no right to create in the schema {schema}")),
            _ => None,
        };
        Ok(Inspection { server, read_only, table, missing_tables, cannot_create, missing_rights })
    }

    async fn look_at_table(&self, conn: &mut PgConnection) -> Result<TableState, StoreError> {
        match self.missing_indexes(conn).await {
            Ok(missing) => Ok(TableState::Usable(missing)),
            Err(error) if error.kind == ErrorKind::Schema => Ok(TableState::Unusable(error.context)),
            Err(error) => Err(error),
        }
    }
}

async fn exists(conn: &mut PgConnection, name: &str) -> Result<bool, StoreError> {
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
