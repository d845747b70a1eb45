//! A trace table that exists already is used as it is, or refused with a remedy.

use std::sync::Arc;

use sluice_consumer::store::postgres::{PostgresOptions, PostgresStore};
use sluice_consumer::store::{ErrorKind, Row, Store};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::oracle::database::Database;
use sqlx::AssertSqlSafe;
use sqlx::postgres::PgConnectOptions;
use sqlx::sqlite::SqlitePool;

use crate::bed::{Bed, batch, claims, kind, row};

/// Runs statements that all have to succeed.
pub async fn execute(bed: &Bed, sql: &str) {
    let sql = AssertSqlSafe(sql.to_owned());
    if let Some(path) = bed.url().unwrap().strip_prefix("sqlite:") {
        // `Database` only reads.
        let pool = SqlitePool::connect(&format!("sqlite://{path}?mode=rwc")).await.unwrap();
        sqlx::raw_sql(sql).execute(&pool).await.unwrap();
        return pool.close().await;
    }
    match bed.database().await.unwrap() {
        Database::Mysql(pool) => drop(sqlx::raw_sql(sql).execute(&pool).await.unwrap()),
        Database::Postgres(pool) => drop(sqlx::raw_sql(sql).execute(&pool).await.unwrap()),
        Database::Sqlite(_) => unreachable!("handled above"),
    }
}

/// The same database, as a user with no other rights.
pub async fn mariadb_as(bed: &Bed, rights: &str, tables: &str) -> Bed {
    let url = bed.url().unwrap();
    let (start, name) = url.rsplit_once('/').unwrap();
    let user = format!("u{}", name.trim_start_matches(|letter: char| !letter.is_ascii_digit()));
    execute(
        bed,
        &format!("CREATE USER {user} IDENTIFIED BY 'p'; GRANT {rights} ON {name}.{tables} TO {user}"),
    )
    .await;
    let address = start.rsplit(['@', '/']).next().unwrap();
    Bed::mariadb_at(&format!("mysql://{user}:p@{address}/{name}"))
}

async fn is_adopted(bed: Bed, create: &str) {
    execute(&bed, create).await;
    execute(
        &bed,
        "INSERT INTO connectivity_trace (id, trace_id, kind, body) VALUES (1, 'old', 'SERVER', '{}')",
    )
    .await;
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    store.write(&batch(&claim, 1, &[row(2)], &[])).await.unwrap();
    assert_eq!(bed.ids().await.unwrap(), [1, 2]);
    assert_eq!(store.trace("old", 9).await.unwrap().len(), 1);
    let new = store.trace("t", 9).await.unwrap().remove(0);
    let now = store.claim(&crate::bed::key(0), "replica").await.unwrap().database_time.ms;
    assert!((now - 60_000..=now + 1000).contains(&new.created_at_ms), "{new:?} at {now}");
    let onlooker = bed.replica_with("connectivity_trace", false).unwrap();
    onlooker.prepare().await.unwrap();
}

async fn is_refused(bed: Bed, create: &str, remedy: &str) {
    execute(&bed, create).await;
    let error = bed.replica().unwrap().prepare().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Schema, "{error:?}");
    assert!(error.to_string().contains(remedy), "{error}");
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_adopts_the_users_table_as_it_is() {
    let tables = [
        // The table that this project replaces the writer of.
        "CREATE TABLE connectivity_trace (id bigint unsigned NOT NULL, trace_id varchar(64) NOT NULL, \
         kind varchar(16) NOT NULL, body longtext NOT NULL, created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, \
         PRIMARY KEY (id), KEY idx_trace_id (trace_id), KEY idx_created_at (created_at)) \
         ENGINE=InnoDB DEFAULT CHARSET=utf8mb4",
        // Signed, nullable, wider, without indexes or a default time, in another order, with columns of their own.
        "CREATE TABLE connectivity_trace (body mediumtext, created_at datetime(3) NULL, kind varchar(255), \
         trace_id varchar(128), id bigint NOT NULL, note text NULL, flag int NOT NULL DEFAULT 7, PRIMARY KEY (id)) \
         ENGINE=InnoDB DEFAULT CHARSET=latin1",
        // Partitioned by time.
        "CREATE TABLE connectivity_trace (id bigint unsigned NOT NULL, trace_id varchar(64) NOT NULL, \
         kind varchar(16) NOT NULL, body longtext NOT NULL, created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, \
         PRIMARY KEY (id, created_at)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 \
         PARTITION BY RANGE (UNIX_TIMESTAMP(created_at)) (PARTITION rest VALUES LESS THAN MAXVALUE)",
    ];
    for create in tables {
        is_adopted(Bed::mariadb().await.unwrap(), create).await;
    }
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_refuses_what_it_cannot_use_and_says_what_to_do() {
    let with = |columns: &str| format!("CREATE TABLE connectivity_trace ({columns})");
    let rest = "trace_id varchar(64), kind varchar(16), body longtext, created_at timestamp";
    let cases = [
        (with(&format!("id bigint unsigned AUTO_INCREMENT PRIMARY KEY, {rest}")), "AUTO_INCREMENT"),
        (with(&format!("id bigint unsigned PRIMARY KEY, {rest}")) + " ENGINE=MyISAM", "ENGINE=InnoDB"),
        (with(&format!("id bigint unsigned PRIMARY KEY, {rest}")) + " ENGINE=Aria", "ENGINE=InnoDB"),
        (with(&format!("id int PRIMARY KEY, {rest}")), "MODIFY id bigint unsigned"),
        (with(&format!("id bigint, {rest}")), "PRIMARY KEY (id)"),
        (with(&rest.replace("trace_id", "id bigint PRIMARY KEY, trace")), "no column trace_id"),
        (
            with(&format!("id bigint PRIMARY KEY, {}", rest.replace("64", "63"))),
            "MODIFY trace_id varchar(64)",
        ),
        (
            with(&format!("id bigint PRIMARY KEY, {}", rest.replace("longtext", "blob"))),
            "MODIFY body longtext",
        ),
        (with(&format!("id bigint PRIMARY KEY, owner int NOT NULL, {rest}")), "column owner"),
        (with(&format!("id bigint PRIMARY KEY, UNIQUE one_a_trace (trace_id), {rest}")), "one_a_trace"),
        ("CREATE VIEW connectivity_trace AS SELECT 1 AS id".to_owned(), "VIEW"),
    ];
    for (create, remedy) in cases {
        is_refused(Bed::mariadb().await.unwrap(), &create, remedy).await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_adopts_the_users_table_as_it_is() {
    let tables = [
        "CREATE TABLE connectivity_trace (id bigint PRIMARY KEY, trace_id varchar(64) NOT NULL, \
         kind varchar(16) NOT NULL, body text NOT NULL, created_at timestamptz NOT NULL DEFAULT now())",
        "CREATE TABLE connectivity_trace (body varchar, created_at timestamp(3) DEFAULT CURRENT_TIMESTAMP, \
         kind text, trace_id text, id bigint PRIMARY KEY, note text, flag int NOT NULL DEFAULT 7)",
        "CREATE TABLE connectivity_trace (id bigint, trace_id varchar(64) NOT NULL, kind varchar(16) NOT NULL, \
         body text NOT NULL, created_at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (id, created_at)) \
         PARTITION BY RANGE (created_at); CREATE TABLE rest PARTITION OF connectivity_trace DEFAULT",
    ];
    for create in tables {
        is_adopted(Bed::postgres().await.unwrap(), create).await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_refuses_what_it_cannot_use_and_says_what_to_do() {
    let with = |columns: &str| format!("CREATE TABLE connectivity_trace ({columns})");
    let rest = "trace_id varchar(64), kind varchar(16), body text, created_at timestamptz DEFAULT now()";
    let cases = [
        (with(&format!("id bigserial PRIMARY KEY, {rest}")), "DROP DEFAULT"),
        (with(&format!("id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, {rest}")), "DROP IDENTITY"),
        (with(&format!("id int PRIMARY KEY, {rest}")), "TYPE bigint"),
        (with(&format!("id bigint, {rest}")), "PRIMARY KEY (id)"),
        (with(&format!("id bigint PRIMARY KEY, {}", rest.replace("64", "63"))), "TYPE character varying(64)"),
        (with(&format!("id bigint PRIMARY KEY, {}", rest.replace("text", "jsonb"))), "TYPE text"),
        (
            with(&format!("id bigint PRIMARY KEY, {}", rest.replace(" DEFAULT now()", ""))),
            "SET DEFAULT now()",
        ),
        (
            with(&format!("id bigint PRIMARY KEY, {}", rest.replace("now()", "'2000-01-01'"))),
            "SET DEFAULT now()",
        ),
        (with(&format!("id bigint PRIMARY KEY, owner int NOT NULL, {rest}")), "column owner"),
        (
            with(&format!("id bigint PRIMARY KEY, CONSTRAINT one_a_trace UNIQUE (trace_id), {rest}")),
            "one_a_trace",
        ),
        (
            with(&format!(
                "id bigint PRIMARY KEY, CONSTRAINT one_a_trace UNIQUE (trace_id) INCLUDE (id), {rest}"
            )),
            "one_a_trace",
        ),
        (with(&format!("id bigint PRIMARY KEY, {rest}")).replace("TABLE", "UNLOGGED TABLE"), "SET LOGGED"),
        ("CREATE VIEW connectivity_trace AS SELECT 1 AS id".to_owned(), "not a table"),
        (
            with(&format!("id bigint PRIMARY KEY, {rest}"))
                + "; CREATE RULE elsewhere AS ON INSERT TO connectivity_trace DO INSTEAD NOTHING",
            "DROP RULE elsewhere",
        ),
    ];
    for (create, remedy) in cases {
        is_refused(Bed::postgres().await.unwrap(), &create, remedy).await;
    }
}

#[tokio::test]
async fn sqlite_adopts_the_users_table_as_it_is() {
    let create = "CREATE TABLE connectivity_trace (id bigint unsigned PRIMARY KEY, trace_id varchar(64), \
         kind varchar(16), body longtext, created_at timestamp DEFAULT CURRENT_TIMESTAMP, note)";
    is_adopted(Bed::sqlite().await.unwrap(), create).await;
    for time in [
        "INTEGER DEFAULT (unixepoch())",
        "TEXT DEFAULT (strftime('%s', 'now'))",
        "REAL DEFAULT (julianday('now'))",
    ] {
        is_adopted(
            Bed::sqlite().await.unwrap(),
            &create.replace("timestamp DEFAULT CURRENT_TIMESTAMP", time),
        )
        .await;
    }
}

#[tokio::test]
async fn sqlite_refuses_what_it_cannot_use_and_says_what_to_do() {
    let rest = "trace_id TEXT, kind TEXT, body TEXT, created_at TEXT DEFAULT CURRENT_TIMESTAMP";
    let cases = [
        (format!("id INTEGER PRIMARY KEY AUTOINCREMENT, {rest}"), "AUTOINCREMENT"),
        (format!("id TEXT PRIMARY KEY, {rest}"), "expected id INTEGER"),
        (format!("id INTEGER, {rest}"), "PRIMARY KEY"),
        (
            format!("id INTEGER PRIMARY KEY, {}", rest.replace("trace_id TEXT", "trace_id")),
            "expected trace_id TEXT",
        ),
        (format!("id INTEGER PRIMARY KEY, {}", rest.replace(", body TEXT", "")), "no column body"),
        (format!("id INTEGER PRIMARY KEY, owner INTEGER NOT NULL, {rest}"), "column owner"),
        (
            format!("id INTEGER PRIMARY KEY, {}", rest.replace("CURRENT_TIMESTAMP", "'2000-01-01'")),
            "DEFAULT CURRENT_TIMESTAMP",
        ),
        (
            format!(
                "id INTEGER PRIMARY KEY, {}",
                rest.replace("CURRENT_TIMESTAMP", "(unixepoch('now', 'subsec') * 1000)")
            ),
            "cannot be read",
        ),
        (format!("id INTEGER PRIMARY KEY, {rest}, UNIQUE (trace_id, kind)"), "unique index"),
    ];
    for (columns, remedy) in cases {
        let create = format!("CREATE TABLE connectivity_trace ({columns})");
        is_refused(Bed::sqlite().await.unwrap(), &create, remedy).await;
    }
}

/// Where the schema is managed by others, missing tables are an error with a remedy, not a reason to create.
async fn only_looks(bed: Bed) {
    let error = bed.replica_with("connectivity_trace", false).unwrap().prepare().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Schema, "{error:?}");
    assert!(error.to_string().contains("manageSchema: true"), "{error}");
    // Nothing was made: a table of that name can still be created.
    execute(&bed, "CREATE TABLE sluice_progress (x int)").await;
    let store: Arc<dyn Store> = bed.replica_with("connectivity_trace", false).unwrap();
    assert_eq!(store.prepare().await.unwrap_err().kind, ErrorKind::Schema);
}

#[tokio::test]
async fn sqlite_creates_nothing_where_the_schema_is_not_managed() {
    only_looks(Bed::sqlite().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_creates_nothing_where_the_schema_is_not_managed() {
    only_looks(Bed::mariadb().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_creates_nothing_where_the_schema_is_not_managed() {
    only_looks(Bed::postgres().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_migration_that_was_interrupted_is_repeated() {
    let bed = Bed::mariadb().await.unwrap();
    bed.store().await.unwrap();
    // As a process leaves it that dies in the middle.
    execute(&bed, "DROP TABLE sluice_rate; UPDATE sluice_migrations SET success = FALSE").await;
    let store = bed.store().await.unwrap();
    claims(&*store, 1).await.unwrap();
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_needs_no_right_to_create_where_everything_is_there() {
    let bed = Bed::mariadb().await.unwrap();
    bed.store().await.unwrap();
    let writer = mariadb_as(&bed, "SELECT, INSERT, UPDATE, DELETE", "*").await;
    writer.store().await.unwrap();
    // Only reads need it.
    execute(&bed, "ALTER TABLE connectivity_trace DROP INDEX idx_trace_id").await;
    writer.store().await.unwrap();
    execute(&bed, "DELETE FROM sluice_migrations WHERE version = 4").await;
    let error = writer.replica().unwrap().prepare().await.unwrap_err();
    assert!(format!("{error:?}").contains("CREATE command denied"), "{error:?}");
}

/// A name of an index that is taken keeps nobody from storing rows.
#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_stores_rows_where_an_index_cannot_be_added() {
    let create = "CREATE TABLE connectivity_trace (id bigint unsigned NOT NULL PRIMARY KEY, trace_id varchar(64) NOT NULL, \
         kind varchar(16) NOT NULL, body longtext NOT NULL, created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, \
         KEY idx_trace_id (kind)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4";
    is_adopted(Bed::mariadb().await.unwrap(), create).await;
}

/// A schema that comes first in search_path by now hides no positions.
#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_makes_no_new_tables_in_front_of_those_in_use() {
    let bed = Bed::postgres().await.unwrap();
    claims(&*bed.store().await.unwrap(), 1).await.unwrap();
    execute(
        &bed,
        "CREATE SCHEMA earlier; DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = earlier, public', \
         current_database()); END $$",
    )
    .await;
    let store = bed.store().await.unwrap();
    assert_eq!(store.streams("cluster-1", "group").await.unwrap().len(), 1);
    // As a later version finds it, which brings another migration.
    execute(&bed, "DELETE FROM sluice_migrations WHERE version = 4").await;
    let error = bed.replica().unwrap().prepare().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Schema, "{error:?}");
    assert!(error.to_string().contains("search_path"), "{error}");
    execute(&bed, "DO $$ BEGIN ASSERT to_regclass('earlier.sluice_progress') IS NULL; END $$").await;
}

/// Streams and rows are complete, and can be written, whatever sessions begin with.
async fn works_as_ever(bed: Bed) {
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 2).await.unwrap().remove(0);
    store.write(&batch(&claim, 1, &[row(1), row(2)], &[])).await.unwrap();
    assert_eq!(store.trace("t", 9).await.unwrap().len(), 2);
    assert_eq!(store.streams("cluster-1", "group").await.unwrap().len(), 2);
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_works_with_defaults_of_sessions_that_would_cut_reads_and_refuse_writes() {
    let server = MariaDb::start().await.unwrap();
    let bed = Bed::on_mariadb(&server).await.unwrap();
    execute(
        &bed,
        "SET GLOBAL sql_select_limit = 1, GLOBAL completion_type = 'RELEASE', GLOBAL tx_read_only = 1",
    )
    .await;
    works_as_ever(bed).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_works_with_a_catalogue_that_quotes_every_name() {
    let bed = Bed::postgres().await.unwrap();
    execute(
        &bed,
        "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET quote_all_identifiers = on', current_database()); END $$",
    )
    .await;
    works_as_ever(bed).await;
}

/// The same database, as a user whom row security concerns.
async fn postgres_as_nobody(bed: &Bed) -> Arc<PostgresStore> {
    let options: PgConnectOptions = bed.url().unwrap().parse().unwrap();
    let user = format!("u_{}", options.get_database().unwrap());
    execute(bed, &format!("CREATE ROLE {user} LOGIN; GRANT ALL ON ALL TABLES IN SCHEMA public TO {user}"))
        .await;
    let connect = Arc::new(move || Ok(options.clone().username(&user)));
    let table = "connectivity_trace".parse().unwrap();
    Arc::new(PostgresStore::new(PostgresOptions { connect, table, lanes: 1, manage_schema: false }))
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_needs_a_policy_where_row_security_is_on_and_tells_a_row_that_it_is_against() {
    let bed = Bed::postgres().await.unwrap();
    bed.store().await.unwrap();
    execute(&bed, "ALTER TABLE connectivity_trace ENABLE ROW LEVEL SECURITY").await;
    let store = postgres_as_nobody(&bed).await;
    let error = store.prepare().await.unwrap_err();
    assert!(error.kind == ErrorKind::Schema && error.to_string().contains("CREATE POLICY"), "{error:?}");
    execute(&bed, "CREATE POLICY servers ON connectivity_trace FOR INSERT WITH CHECK (kind = 'SERVER')")
        .await;
    store.prepare().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    let rows = [row(1), Row { kind: "none", ..row(2) }];
    assert_eq!(kind(store.write(&batch(&claim, 1, &rows, &[])).await).unwrap(), ErrorKind::Constraint);
    store.write(&batch(&claim, 1, &rows[..1], &[])).await.unwrap();
    assert_eq!(bed.ids().await.unwrap(), [1]);
    // Whom it does not concern needs none.
    execute(&bed, "DROP POLICY servers ON connectivity_trace").await;
    bed.replica().unwrap().prepare().await.unwrap();
}
