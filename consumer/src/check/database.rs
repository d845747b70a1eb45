//! Tries the database: connection, table, own tables and rights. Creates no table and writes no row; a folder for SQLite is
//! tried with a file that is removed again.
//!
//! Rights are asked for where the server tells them (PostgreSQL), else tried by statements that meet no row
//! (MySQL). A probe table would be no better: it leaves traces, and needs a right to drop that nothing else
//! needs.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use sluice_crds::problem::chain;

use super::report::Finding;
use crate::config::{Config, Database};
use crate::pipeline_args::sqlite_file;
use crate::secrets::{self, Secrets};
use crate::store::inspect::{Inspection, TableState};
use crate::store::mysql::{MySqlOptions, MySqlStore};
use crate::store::postgres::{PostgresOptions, PostgresStore};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{self, Store, StoreError};

/// Time limit of the whole look.
const LIMIT: Duration = Duration::from_secs(15);
const TABLE: &str = "spec.sink.table";

/// What is not tried, and what it needs.
pub fn skip(needs: &str) -> Vec<Finding> {
    vec![Finding::skipped("spec.sink", needs)]
}

/// Tries everything of the sink.
pub async fn check(config: &Config, secrets: &Secrets, data_dir: &Path) -> Vec<Finding> {
    let path = match &config.sink.database {
        Database::Mysql(_) => "spec.sink.mysql",
        Database::Postgres(_) => "spec.sink.postgres",
        Database::Sqlite { .. } => "spec.sink.sqlite",
    };
    if let Database::Sqlite { claim_name } = &config.sink.database {
        let file = sqlite_file(data_dir, claim_name);
        if !file.exists() {
            return vec![check_folder(path, &file)];
        }
    }
    match tokio::time::timeout(LIMIT, inspect(config, secrets, data_dir)).await {
        Ok(Ok(inspection)) => judge(path, &inspection, config.sink.manage_schema),
        Ok(Err(error)) => {
            let detail = chain(&error);
            // Without names of hosts and databases, which may hold any word.
            let said = error.source.as_deref().map_or_else(|| detail.clone(), |source| chain(source));
            let remedy = match error.source.as_deref() {
                Some(source) if store::is_of_server(source) => server_remedy(&said),
                _ => connection_remedy(&said),
            };
            vec![Finding::failed(path, detail).remedy(remedy), Finding::skipped(TABLE, "needs the database")]
        }
        Err(_) => {
            let detail = format!("no answer within {} s", LIMIT.as_secs());
            let remedy = "check host and port, whether the server is overloaded, and firewalls";
            vec![Finding::failed(path, detail).remedy(remedy), Finding::skipped(TABLE, "needs the database")]
        }
    }
}

async fn inspect(config: &Config, secrets: &Secrets, data_dir: &Path) -> Result<Inspection, StoreError> {
    let table = config.sink.table.clone();
    // Never used: nothing is created here.
    let manage_schema = false;
    let has_retention = config.live.retention.is_some();
    match &config.sink.database {
        Database::Mysql(server) => {
            let connect = secrets::mysql(server, secrets);
            let store = MySqlStore::new(MySqlOptions { connect, table, lanes: 1, manage_schema });
            let found = store.inspect(has_retention).await;
            store.close().await;
            found
        }
        Database::Postgres(server) => {
            let connect = secrets::postgres(server, secrets);
            let store = PostgresStore::new(PostgresOptions { connect, table, lanes: 1, manage_schema });
            let found = store.inspect(has_retention).await;
            store.close().await;
            found
        }
        Database::Sqlite { claim_name } => {
            let path = sqlite_file(data_dir, claim_name);
            let store = SqliteStore::new(SqliteOptions { path, table, manage_schema });
            let found = store.inspect().await;
            store.close().await;
            found
        }
    }
}

/// A SQLite file that does not exist yet needs a folder in which it can be created.
fn check_folder(path: &str, file: &Path) -> Finding {
    let existing =
        file.ancestors().find(|folder| folder.exists()).map_or_else(|| PathBuf::from("."), Path::to_owned);
    if !existing.is_dir() {
        return Finding::failed(path, format!("{} is no folder", existing.display()))
            .remedy("move it away, or give another --data-dir");
    }
    match can_write(&existing) {
        Ok(()) => Finding::ok(path, format!("{} will be created at the first start", file.display())),
        Err(error) => Finding::failed(path, format!("cannot write in {}: {error}", existing.display()))
            .remedy("let this user write there, or give another --data-dir"),
    }
}

fn can_write(folder: &Path) -> io::Result<()> {
    let probe = folder.join(format!(".sluice-check-{}", std::process::id()));
    std::fs::OpenOptions::new().write(true).create_new(true).open(&probe)?;
    std::fs::remove_file(&probe)
}

/// What to do about a connection that does not come about, from the driver's own words.
fn connection_remedy(detail: &str) -> &'static str {
    let detail = detail.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| detail.contains(word));
    let of_the_url = [
        "must be a url",
        "not a usable url",
        "parameter in its url",
        "in its url that",
        "behind its host",
        "names no database",
    ];
    if has(&of_the_url) {
        "correct the URL in the Secret"
    } else if has(&["to database '", "permission denied for database"]) {
        "GRANT this user rights on the database, or correct its name"
    } else if has(&["access denied", "password authentication", "no pg_hba", "1045", "28p01"]) {
        "check user name and password, and whether this user may connect from here"
    } else if has(&["unknown database", "does not exist"]) {
        "create the database, or correct its name"
    } else if has(&["not valid for name"]) {
        "name the host as its certificate does"
    } else if has(&["certificate", "tls", "ssl"]) {
        "check that the server speaks TLS, and that caFrom holds the authority that signed its certificate"
    } else if has(&["failed to lookup", "name or service", "resolve"]) {
        "check the host name, and DNS"
    } else if has(&["not a database", "readonly", "unable to open"]) {
        "check the file and who may write it, or give another --data-dir"
    } else if has(&["authentication plugin"]) {
        "let this user authenticate by a plugin that is known here, such as caching_sha2_password or mysql_native_password"
    } else {
        UNREACHABLE
    }
}

const UNREACHABLE: &str = "check host and port, whether the server runs, and firewalls";

/// What to do about an error that the server itself has answered with: it can be reached.
fn server_remedy(detail: &str) -> &'static str {
    let lower = detail.to_lowercase();
    let has = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if has(&["is locked", "has expired", "set password", "not permitted to log in"]) {
        "unlock this user's account, let it log in, or set its password anew"
    } else if has(&["too many", "max_user_connections", "connection slots", "connections for"]) {
        "raise the server's, the database's or this user's limit of connections, or end others"
    } else {
        match connection_remedy(detail) {
            UNREACHABLE => {
                "the server answers, so it is for its administrator: see its log, and its limits for this user"
            }
            remedy => remedy,
        }
    }
}

/// Whether a pipeline can work with what was found.
fn judge(path: &str, found: &Inspection, manage_schema: bool) -> Vec<Finding> {
    let mut findings = vec![if found.read_only {
        Finding::failed(path, format!("{} refuses writes", found.server))
            .remedy("name the primary, not a replica, or lift read_only")
    } else {
        Finding::ok(path, format!("connected to {}", found.server))
    }];
    findings.extend(found.settings.iter().map(|bad| Finding::failed(path, bad.detail).remedy(bad.remedy)));
    let index = match path {
        "spec.sink.sqlite" if manage_schema => {
            "will be built at the first start, which takes long in a large table"
        }
        "spec.sink.mysql" if manage_schema => {
            "will be built at the first start if the table is small, and else would speed reads up"
        }
        // In PostgreSQL that would keep the table's other writers out.
        _ => "would speed reads up",
    };
    findings.push(judge_table(found, manage_schema, index));
    if !found.missing_tables.is_empty() {
        findings.push(judge_missing("spec.sink.manageSchema", found, manage_schema));
    } else if manage_schema
        && !found.is_migrated
        && let Some(why) = &found.cannot_create
    {
        let detail = format!("its tables exist, but not all of their changes are recorded as done: {why}");
        findings.push(Finding::failed("spec.sink.manageSchema", detail).remedy(
            "GRANT CREATE on the database (PostgreSQL: on the schema) to the user, or set manageSchema: false where \
             others keep the tables",
        ));
    }
    findings.push(if found.missing_rights.is_empty() {
        Finding::ok(path, "this user has every right that is needed on the tables that exist")
    } else {
        Finding::failed(path, format!("this user lacks {}", found.missing_rights.join(", ")))
            .remedy(format!("GRANT {} TO the user", found.missing_rights.join("; GRANT ")))
    });
    findings
}

fn judge_table(found: &Inspection, manage_schema: bool, index: &str) -> Finding {
    match (&found.table, &found.cannot_create) {
        (TableState::Usable(missing), _) if missing.is_empty() => Finding::ok(TABLE, "the table exists and can be used"),
        (TableState::Usable(missing), _) => {
            let columns = missing.join(" and ");
            Finding::ok(TABLE, format!("the table exists and can be used; an index on {columns} {index}"))
        }
        // The reason ends with its own remedy.
        (TableState::Unusable(why), _) => Finding::failed(TABLE, why.clone()),
        (TableState::Missing, None) if manage_schema => Finding::ok(TABLE, "the table will be created at the first start"),
        (TableState::Missing, Some(why)) if manage_schema => {
            Finding::failed(TABLE, format!("the table does not exist and cannot be created: {why}"))
                .remedy("GRANT CREATE, INDEX and ALTER on the database (PostgreSQL: CREATE on the schema) to the user, or create the table by hand")
        }
        (TableState::Missing, _) => Finding::failed(TABLE, "the table does not exist")
            .remedy("let it be created with manageSchema: true, create it, or correct the name"),
    }
}

fn judge_missing(path: &str, found: &Inspection, manage_schema: bool) -> Finding {
    let tables = found.missing_tables.join(", ");
    match &found.cannot_create {
        _ if !manage_schema => Finding::failed(path, format!("these tables do not exist: {tables}"))
            .remedy("set manageSchema: true, or apply the files of consumer/migrations for this kind of database by hand"),
        Some(why) => Finding::failed(path, format!("{tables} cannot be created: {why}"))
            .remedy("GRANT CREATE on the database (PostgreSQL: on the schema) to the user"),
        None => Finding::ok(path, format!("{tables} will be created at the first start")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::State;
    use super::*;
    use crate::store::inspect::BadSetting;

    #[test]
    fn who_may_not_use_a_database_is_told_apart_from_who_may_not_come_in() {
        for (detail, remedy) in [
            ("1045 (28000): Access denied for user 'a'@'%' (using password: YES)", "password"),
            ("1044 (42000): Access denied for user 'a'@'%' to database 'traces'", "GRANT"),
            ("permission denied for database \"traces\"", "GRANT"),
            ("invalid peer certificate: certificate not valid for name \"db\"", "name the host"),
            ("invalid peer certificate: UnknownIssuer", "caFrom"),
            ("the connection names no database: add one to the URL", "correct the URL"),
            (
                "the Secret db has an @ behind its host: write / ? # and @ in a password as %2F",
                "correct the URL",
            ),
            (
                "the Secret db has a value in its URL that the parameter ssl-mode cannot have",
                "correct the URL",
            ),
        ] {
            assert!(connection_remedy(detail).contains(remedy), "{detail}");
        }
    }

    #[test]
    fn a_file_where_the_folder_of_a_database_belongs_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let checked =
            |data_dir: &str| check_folder("path", &folder.path().join(data_dir).join("a/sluice.db"));
        assert_eq!(checked("new").state, State::Ok);
        std::fs::write(folder.path().join("file"), "").unwrap();
        assert_eq!(checked("file").state, State::Failed);
    }

    #[test]
    fn who_has_answered_can_be_reached() {
        for (detail, remedy) in [
            ("1040 (08004): Too many connections", "limit"),
            ("too many connections for database \"traces\"", "limit"),
            ("1820 (HY000): You must SET PASSWORD before executing this statement", "password"),
            ("4151 (HY000): Access denied, this account is locked", "unlock"),
            ("database \"traces\" is not currently accepting connections", "administrator"),
            ("1045 (28000): Access denied for user 'a'@'%' (using password: YES)", "check user name"),
        ] {
            assert!(server_remedy(detail).contains(remedy), "{detail}: {}", server_remedy(detail));
        }
        assert!(connection_remedy("unknown authentication plugin: client_ed25519").contains("by a plugin"));
        assert_eq!(connection_remedy("connection refused"), UNREACHABLE);
    }

    fn found() -> Inspection {
        Inspection {
            server: "Server 1".into(),
            read_only: false,
            settings: Vec::new(),
            table: TableState::Usable(Vec::new()),
            missing_tables: Vec::new(),
            is_migrated: true,
            cannot_create: None,
            missing_rights: Vec::new(),
        }
    }

    fn failed(found: &Inspection, manage_schema: bool) -> Vec<String> {
        let findings = judge("spec.sink.mysql", found, manage_schema);
        findings
            .into_iter()
            .filter(|finding| finding.state == State::Failed)
            .map(|finding| finding.path)
            .collect()
    }

    #[test]
    fn a_database_in_order_passes_whoever_manages_the_schema() {
        assert!(failed(&found(), true).is_empty());
        assert!(failed(&found(), false).is_empty());
    }

    #[test]
    fn what_is_missing_fails_only_where_it_cannot_be_created() {
        let empty = Inspection { table: TableState::Missing, missing_tables: vec!["sluice_rate"], ..found() };
        assert!(failed(&empty, true).is_empty());
        assert_eq!(failed(&empty, false), [TABLE, "spec.sink.manageSchema"]);
        let denied = Inspection { cannot_create: Some("denied".into()), ..empty };
        assert_eq!(failed(&denied, true), [TABLE, "spec.sink.manageSchema"]);
        // Where everything is there, nothing needs to be created; but only if that is recorded.
        let complete = Inspection { cannot_create: Some("denied".into()), ..found() };
        assert!(failed(&complete, true).is_empty());
        let unrecorded = Inspection { is_migrated: false, ..complete };
        assert_eq!(failed(&unrecorded, true), ["spec.sink.manageSchema"]);
        assert!(failed(&unrecorded, false).is_empty());
    }

    #[test]
    fn a_replica_a_bad_setting_a_foreign_table_and_missing_rights_fail() {
        let bad = Inspection {
            read_only: true,
            table: TableState::Unusable("its engine knows no transactions".into()),
            missing_rights: vec!["INSERT on sluice_rate".into()],
            settings: vec![BadSetting { detail: "a setting", remedy: "set another" }],
            ..found()
        };
        assert_eq!(failed(&bad, true), ["spec.sink.mysql", "spec.sink.mysql", TABLE, "spec.sink.mysql"]);
    }
}
