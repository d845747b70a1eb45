use std::fs;

use sluice_crds::v1alpha1::{SecretSource, SqlServer};

use super::*;

const CANARY: &str = "canary-4711";

fn reference(name: &str, key: &str) -> SecretKeyRef {
    SecretKeyRef { name: name.into(), key: key.into() }
}

fn source(name: &str, key: &str) -> Option<SecretSource> {
    Some(SecretSource { secret_key_ref: reference(name, key) })
}

fn folder(files: &[(&str, &str)]) -> (tempfile::TempDir, Secrets) {
    let dir = tempfile::tempdir().unwrap();
    for (path, content) in files {
        fs::create_dir_all(dir.path().join(path).parent().unwrap()).unwrap();
        fs::write(dir.path().join(path), content).unwrap();
    }
    let secrets = Secrets { dir: Some(dir.path().into()), environment: |_| None };
    (dir, secrets)
}

fn everything_shown(error: &dyn std::error::Error) -> String {
    let mut text = format!("{error:?} {error}");
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(" {error:?} {error}");
        cause = error.source();
    }
    text
}

#[test]
fn a_file_is_read_anew_at_every_call() {
    let (dir, secrets) = folder(&[("db/password", "one\n")]);
    assert_eq!(secrets.resolve(&reference("db", "password")).unwrap().expose(), "one");
    fs::write(dir.path().join("db/password"), "two").unwrap();
    assert_eq!(secrets.resolve(&reference("db", "password")).unwrap().expose(), "two");
}

#[test]
fn without_a_file_the_environment_variable_counts() {
    let environment: Environment = |name| (name == "SLUICE_SECRET_MY_DB_TLS_CRT").then(|| "value".into());
    for dir in [None, Some(PathBuf::from("/nonexistent"))] {
        let secrets = Secrets { dir, environment };
        assert_eq!(secrets.resolve(&reference("my-db", "tls.crt")).unwrap().expose(), "value");
    }
}

#[test]
fn a_missing_value_is_reported_with_the_file_and_the_variable() {
    let (dir, secrets) = folder(&[]);
    let error = secrets.resolve(&reference("my-db", "url")).unwrap_err().to_string();
    assert!(error.contains(&dir.path().join("my-db/url").display().to_string()), "{error}");
    assert!(error.contains("SLUICE_SECRET_MY_DB_URL"), "{error}");
}

#[test]
fn no_reference_leads_out_of_the_folder() {
    let (_dir, secrets) = folder(&[("db/url", CANARY), ("db/inner", CANARY)]);
    for (name, key) in
        [("..", "db"), ("db", "../db/url"), ("db/..", "x"), ("", "url"), ("db", ""), ("db", "..")]
    {
        let result = secrets.resolve(&reference(name, key));
        assert!(matches!(result, Err(SecretError::InvalidReference(_))), "{name}/{key}");
    }
}

#[test]
fn a_secret_is_hidden_when_shown() {
    let secret = Secret::new(CANARY);
    assert_eq!(format!("{secret} {secret:?} {:?}", Some(&secret)), "[hidden] [hidden] Some([hidden])");
}

#[test]
fn urls_and_parts_become_the_same_options() {
    let (_dir, secrets) = folder(&[
        ("db/mysql", "mysql://app:p%40ss@db.example:3307/traces"),
        ("db/postgres", "postgres://app:p%40ss@db.example:3307/traces"),
        ("db/user", "app"),
        ("db/password", "p@ss"),
    ]);
    let apart = SqlServer {
        host: Some("db.example".into()),
        port: Some(3307),
        database: Some("traces".into()),
        username_from: source("db", "user"),
        password_from: source("db", "password"),
        ..SqlServer::default()
    };
    let by_url = |key| SqlServer { url_from: source("db", key), ..SqlServer::default() };
    for server in [&apart, &by_url("mysql")] {
        let options = mysql(server, &secrets)().unwrap();
        assert_eq!((options.get_host(), options.get_port()), ("db.example", 3307));
        assert_eq!((options.get_username(), options.get_database()), ("app", Some("traces")));
    }
    for server in [&apart, &by_url("postgres")] {
        let options = postgres(server, &secrets)().unwrap();
        assert_eq!((options.get_host(), options.get_port()), ("db.example", 3307));
        assert_eq!((options.get_username(), options.get_database()), ("app", Some("traces")));
        // A start-up parameter that PgBouncer refuses.
        assert!(format!("{options:?}").contains("extra_float_digits: None"));
    }
}

#[test]
fn an_authority_turns_verification_on() {
    let (_dir, secrets) = folder(&[("db/url", "postgres://u:p@h/d?sslmode=disable"), ("db/ca", "PEM")]);
    let server =
        SqlServer { url_from: source("db", "url"), ca_from: source("db", "ca"), ..SqlServer::default() };
    let options = postgres(&server, &secrets)().unwrap();
    assert!(matches!(options.get_ssl_mode(), sqlx::postgres::PgSslMode::VerifyFull));
}

#[test]
fn no_error_about_a_url_shows_its_password() {
    let hostile = [
        "redis://u:canary-4711@h/d",
        "canary-4711",
        "postgres://u:canary-4711@h:99999999/d",
        "postgres://u:canary-4711@[h/d",
        "postgres://u:canary-4711@h:port/d",
        "postgres://u:%ffcanary-4711@h/d",
        "postgres://u:x@h/d?password=canary-4711",
        "postgres://u:x@h/d?unknown=canary-4711",
        "mysql://u:canary-4711@h:99999999/d",
        "mysql://u:canary-4711@h/d?canary-4711",
        "mysql://u:x@h/d?ssl-mode=canary-4711",
        "postgres://u:x@h/d?sslmode=canary-4711",
        // A password with characters that should have been escaped.
        "postgres://u:x?sslmode=canary-4711@h/d",
        "postgres://u:42/canary-4711@h/d",
        "mysql://u:/canary-4711@h/d",
        "mysql://u:#canary-4711@h/d",
        "://canary-4711",
    ];
    for url in hostile {
        let (_dir, secrets) = folder(&[("db/url", url)]);
        let server = SqlServer { url_from: source("db", "url"), ..SqlServer::default() };
        let errors = [postgres(&server, &secrets)().err(), mysql(&server, &secrets)().err()];
        for error in errors.into_iter().flatten() {
            let shown = everything_shown(error.as_ref());
            assert!(!shown.contains(CANARY), "{shown}");
        }
    }
}

/// What is told of a database is its place, which a password must not reach.
#[test]
fn a_password_that_ends_early_is_refused() {
    for url in ["postgres://u:42/secret@h/d", "mysql://u:/secret@h/d", "mysql://u:7#secret@h/d"] {
        let (_dir, secrets) = folder(&[("db/url", url)]);
        let server = SqlServer { url_from: source("db", "url"), ..SqlServer::default() };
        let error = match url.starts_with("mysql") {
            true => mysql(&server, &secrets)().expect_err("refused"),
            false => postgres(&server, &secrets)().expect_err("refused"),
        };
        assert!(everything_shown(error.as_ref()).contains("%2F"), "{url}");
    }
}

#[test]
fn texts_are_utf_8_whatever_a_url_asks_for() {
    let (_dir, secrets) = folder(&[("db/url", "mysql://u:p@h/d?charset=latin1&collation=latin1_bin")]);
    let server = SqlServer { url_from: source("db", "url"), ..SqlServer::default() };
    let options = mysql(&server, &secrets)().unwrap();
    assert_eq!((options.get_charset(), options.get_collation()), ("utf8mb4", Some("utf8mb4_bin")));
}

#[test]
fn a_byte_order_mark_is_no_part_of_a_value() {
    let (_dir, secrets) = folder(&[("db/url", "\u{feff}mysql://u:p@h/d\n"), ("db/password", "\u{feff}")]);
    assert_eq!(secrets.resolve(&reference("db", "url")).unwrap().expose(), "mysql://u:p@h/d");
    assert_eq!(secrets.resolve(&reference("db", "password")).unwrap().expose(), "");
    let environment: Environment = |_| Some("\u{feff}one\u{feff}".into());
    let value = Secrets { dir: None, environment }.resolve(&reference("db", "password")).unwrap();
    assert_eq!(value.expose(), "one\u{feff}");
}

#[test]
fn a_value_is_wiped_when_it_is_dropped() {
    fn is_wiped(_: &impl zeroize::ZeroizeOnDrop) {}
    let (_dir, secrets) = folder(&[("db/password", "one\n")]);
    let Secret(value) = secrets.resolve(&reference("db", "password")).unwrap();
    is_wiped(&value);
}
