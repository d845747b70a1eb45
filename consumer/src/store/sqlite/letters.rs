//! Dead letters, for people and for redriving.

use super::SqliteStore;
use super::dialect::DIALECT;
use super::errors::store_error;
use super::transaction::{begin, begin_reading, commit};
use crate::store::sql::letter_calls::letter_calls;
use crate::store::sql::letter_queries::letter_queries;

letter_queries! { store: SqliteStore, database: sqlx::Sqlite, dialect: DIALECT }
letter_calls! { store: SqliteStore }

#[cfg(test)]
mod tests {
    use sqlx::{AssertSqlSafe, Row};

    use super::*;
    use crate::store::Store;
    use crate::store::sqlite::SqliteOptions;

    /// What the plan of a query says, a line a step.
    async fn plan(filter: &LetterFilter) -> String {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sluice.db");
        let table = "connectivity_trace".parse().unwrap();
        let store = SqliteStore::new(SqliteOptions { path, table, manage_schema: true });
        store.prepare().await.unwrap();
        let sql = format!("EXPLAIN QUERY PLAN {}", store.select_letters(filter, 0, 100).sql().as_str());
        let mut session = store.session(Purpose::Read).await.unwrap();
        let steps = sqlx::query(AssertSqlSafe(sql)).fetch_all(&mut *session).await.unwrap();
        store.close().await;
        steps.iter().map(|step| step.get::<String, _>("detail")).collect::<Vec<_>>().join("\n")
    }

    #[tokio::test]
    async fn marked_letters_are_found_by_their_marks() {
        let marked = LetterFilter {
            topic: Some("topic".to_owned()),
            partition: Some(0),
            pending: Some(true),
            ..LetterFilter::default()
        };
        let plan = plan(&marked).await;
        let by_id = "SEARCH d USING INDEX sqlite_autoindex_sluice_dead_letter_1 (table_name=? AND id=?)";
        assert!(plan.starts_with("SEARCH r USING INDEX") && plan.ends_with(by_id), "{plan}");
    }
}
