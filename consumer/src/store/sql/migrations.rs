//! The migrations of each backend, embedded, and whether the tables are there that they make.
//!
//! Listed by hand instead of by `sqlx::migrate!`: sqlx's macros compile sqlx with SQLite, rustls and AWS-LC a
//! second time for the build machine, which takes minutes of a first build.

use std::time::Duration;

use sqlx::SqlSafeStr;
use sqlx::migrate::{Migrate, MigrateError, Migration, MigrationType, Migrator};

use super::{MIGRATION_ANSWER, within};
use crate::store::{ErrorKind, StoreError};

/// Own bookkeeping of migrations, so that a user's `_sqlx_migrations` stays theirs.
const MIGRATIONS_TABLE: &str = "sluice_migrations";

/// A file of `migrations/BACKEND`: version and description as in its name, and its text.
pub type File = (i64, &'static str, &'static str);

/// Files of `migrations/mysql`.
pub const MYSQL: [File; 4] = [
    (1, "tables", include_str!("../../../migrations/mysql/0001_tables.sql")),
    (2, "redrive", include_str!("../../../migrations/mysql/0002_redrive.sql")),
    (3, "keys", include_str!("../../../migrations/mysql/0003_keys.sql")),
    (4, "dead letter topic", include_str!("../../../migrations/mysql/0004_dead_letter_topic.sql")),
];
/// Files of `migrations/postgres`.
pub const POSTGRES: [File; 4] = [
    (1, "tables", include_str!("../../../migrations/postgres/0001_tables.sql")),
    (2, "redrive", include_str!("../../../migrations/postgres/0002_redrive.sql")),
    (3, "keys", include_str!("../../../migrations/postgres/0003_keys.sql")),
    (4, "dead letter topic", include_str!("../../../migrations/postgres/0004_dead_letter_topic.sql")),
];
/// Files of `migrations/sqlite`.
pub const SQLITE: [File; 4] = [
    (1, "tables", include_str!("../../../migrations/sqlite/0001_tables.sql")),
    (2, "redrive", include_str!("../../../migrations/sqlite/0002_redrive.sql")),
    (3, "keys", include_str!("../../../migrations/sqlite/0003_keys.sql")),
    (4, "dead letter topic", include_str!("../../../migrations/sqlite/0004_dead_letter_topic.sql")),
];

/// Every column of Sluice's own tables that a statement of each backend names. Only what SQL has as a word is in quotes:
/// SQLite takes another name in quotes, of a column that is missing, for a text.
const COLUMNS: [(&str, &str); 8] = [
    (
        "sluice_progress",
        "table_name, stream, cluster_id, consumer_group, topic, `partition`, generation, owner_epoch, owner, next_offset, \
         last_id, fingerprint, claimed_at, updated_at",
    ),
    ("sluice_rate", "pipeline, holder, share, demand, expires_at_ms"),
    (
        "sluice_dead_letter",
        "table_name, id, stream, topic, `partition`, `offset`, span_index, message_time_ms, reason, detail",
    ),
    ("sluice_dead_letter_chunk", "table_name, id, part, seq, data"),
    ("sluice_redrive", "table_name, id, topic, `partition`, pending, attempts, history"),
    ("sluice_dead_letter_unsent", "table_name, id, stream"),
    ("sluice_data_key", "table_name, id, wrapped_by, wrapped, created_at"),
    ("sluice_dictionary", "table_name, id, sealed, permille, created_at"),
];

/// Statements that fail where a table of Sluice is missing or too old, and read nothing.
pub fn verify(quote: char) -> impl Iterator<Item = String> {
    COLUMNS.into_iter().map(move |(table, columns)| {
        let columns = columns.replace('`', quote.encode_utf8(&mut [0; 4]));
        format!("SELECT {columns} FROM {table} LIMIT 0")
    })
}

/// Runs those of `files` that are not recorded as done. The caller holds a lock; a newer replica may have gone ahead.
///
/// # Errors
/// One of them failed, or the server did not answer within [`MIGRATION_ANSWER`].
pub async fn run(files: &[File], conn: &mut impl Migrate) -> Result<(), MigrateError> {
    run_within(MIGRATION_ANSWER, files, conn).await
}

async fn run_within(limit: Duration, files: &[File], conn: &mut impl Migrate) -> Result<(), MigrateError> {
    let migrator = migrator(files);
    within(limit, async { Ok(migrator.run_direct(None, conn, false).await) }).await?
}

fn migrator(files: &[File]) -> Migrator {
    let migrations = files.iter().map(|(version, description, sql)| {
        Migration::new(*version, (*description).into(), MigrationType::Simple, sql.into_sql_str(), false)
    });
    let mut migrator = Migrator::with_migrations(migrations.collect());
    migrator.dangerous_set_table_name(MIGRATIONS_TABLE);
    migrator.set_locking(false);
    migrator.set_ignore_missing(true);
    migrator
}

/// Counts those of `files` that are recorded as done.
pub fn select_done(files: &[File]) -> String {
    let versions: Vec<String> = files.iter().map(|(version, ..)| version.to_string()).collect();
    let versions = versions.join(", ");
    format!("SELECT COUNT(*) FROM {MIGRATIONS_TABLE} WHERE success AND version IN ({versions})")
}

/// A failed migration; where the database reported an error, `kind_of` tells what it means.
pub fn migrate_error(error: MigrateError, kind_of: fn(&sqlx::Error) -> ErrorKind) -> StoreError {
    let kind = match &error {
        MigrateError::Execute(reported) | MigrateError::ExecuteMigration(reported, _) => {
            match kind_of(reported) {
                ErrorKind::Conflict => ErrorKind::Conflict,
                _ => ErrorKind::Unavailable,
            }
        }
        _ => ErrorKind::Schema,
    };
    StoreError::with_source(kind, "cannot migrate the schema", error)
}

#[cfg(test)]
mod tests {
    use sqlx::{Connection, SqliteConnection};

    use super::*;
    use crate::store::inspect::OWN_TABLES;

    /// The lock is the servers' own.
    #[test]
    fn each_table_of_sluice_is_verified_as_its_backend_quotes() {
        let own = OWN_TABLES.map(|(table, _)| table).into_iter().filter(|table| *table != "sluice_lock");
        let verified: Vec<String> = verify('"').collect();
        assert!(own.eq(COLUMNS.map(|(table, _)| table)), "{verified:?}");
        let redrive = "table_name, id, topic, \"partition\", pending, attempts, history";
        assert_eq!(verified[4], format!("SELECT {redrive} FROM sluice_redrive LIMIT 0"));
        assert!(verify('`').any(|select| select.contains("`offset`")));
    }

    #[tokio::test]
    async fn a_server_that_does_not_answer_is_not_waited_for_for_ever() {
        let mut conn = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        let failed = run_within(Duration::ZERO, &SQLITE, &mut conn).await.unwrap_err();
        let error = migrate_error(failed, |_| ErrorKind::Unavailable);
        assert_eq!(error.kind, ErrorKind::Unavailable);
        let told = sluice_crds::problem::chain(&error);
        assert!(told.contains("no answer within 0 s"), "{told}");
    }

    #[test]
    fn every_file_is_listed_under_its_name() {
        for (backend, files) in [("mysql", &MYSQL[..]), ("postgres", &POSTGRES), ("sqlite", &SQLITE)] {
            let folder = format!("{}/migrations/{backend}", env!("CARGO_MANIFEST_DIR"));
            let mut found: Vec<String> = std::fs::read_dir(folder)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            found.sort();
            let listed: Vec<String> = files
                .iter()
                .map(|(version, description, _)| {
                    format!("{version:04}_{}.sql", description.replace(' ', "_"))
                })
                .collect();
            assert_eq!(found, listed, "{backend}");
        }
    }
}
