//! Connect options of the databases, with credentials that are resolved anew for every connection.

use std::str::FromStr;
use std::sync::Arc;

use sluice_crds::v1alpha1::{SecretSource, SqlServer};
use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use zeroize::Zeroizing;

use super::{SecretError, Secrets};
use crate::store::ConnectWith;

/// What a URL may ask of the MySQL driver.
const MYSQL_PARAMETERS: &[&str] = &[
    "ssl-mode",
    "sslmode",
    "ssl-ca",
    "sslca",
    "ssl-cert",
    "sslcert",
    "ssl-key",
    "sslkey",
    "charset",
    "collation",
    "socket",
];
/// What a URL may ask of the PostgreSQL driver.
const POSTGRES_PARAMETERS: &[&str] = &[
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "application_name",
    "options",
];

/// How to connect to a database that speaks the MySQL protocol.
pub fn mysql(server: &SqlServer, secrets: &Secrets) -> ConnectWith<MySqlConnectOptions> {
    let (server, secrets) = (server.clone(), secrets.clone());
    Arc::new(move || Ok(mysql_now(&server, &secrets)?))
}

/// How to connect to a database that speaks the PostgreSQL protocol.
pub fn postgres(server: &SqlServer, secrets: &Secrets) -> ConnectWith<PgConnectOptions> {
    let (server, secrets) = (server.clone(), secrets.clone());
    Arc::new(move || Ok(postgres_now(&server, &secrets)?))
}

fn mysql_now(server: &SqlServer, secrets: &Secrets) -> Result<MySqlConnectOptions, SecretError> {
    let mut options: MySqlConnectOptions = match &server.url_from {
        Some(source) => from_url(source, secrets, &["mysql", "mariadb"], MYSQL_PARAMETERS)?,
        None => {
            let parts = Parts::of(server, secrets)?;
            MySqlConnectOptions::new()
                .host(parts.host)
                .port(server.port.unwrap_or(3306))
                .database(parts.database)
                .username(parts.username.expose())
                .password(parts.password.expose())
        }
    };
    // A URL that other programs use may name what they write in; texts are exact here, and UTF-8.
    options = options.charset("utf8mb4").collation("utf8mb4_bin");
    if let Some(source) = &server.ca_from {
        let ca = secrets.resolve(&source.secret_key_ref)?;
        options =
            options.ssl_ca_from_pem(ca.expose().as_bytes().to_vec()).ssl_mode(MySqlSslMode::VerifyIdentity);
    }
    Ok(options)
}

fn postgres_now(server: &SqlServer, secrets: &Secrets) -> Result<PgConnectOptions, SecretError> {
    let mut options: PgConnectOptions = match &server.url_from {
        Some(source) => from_url(source, secrets, &["postgres", "postgresql"], POSTGRES_PARAMETERS)?,
        None => {
            let parts = Parts::of(server, secrets)?;
            PgConnectOptions::new_without_pgpass()
                .host(parts.host)
                .port(server.port.unwrap_or(5432))
                .database(parts.database)
                .username(parts.username.expose())
                .password(parts.password.expose())
        }
    };
    // The driver's own start-up parameter, which PgBouncer refuses; no float is read.
    options = options.extra_float_digits(None);
    if options.get_application_name().is_none() {
        options = options.application_name("sluice");
    }
    if let Some(source) = &server.ca_from {
        let ca = secrets.resolve(&source.secret_key_ref)?;
        options =
            options.ssl_root_cert_from_pem(ca.expose().as_bytes().to_vec()).ssl_mode(PgSslMode::VerifyFull);
    }
    Ok(options)
}

struct Parts<'a> {
    host: &'a str,
    database: &'a str,
    username: super::Secret,
    password: super::Secret,
}

impl<'a> Parts<'a> {
    fn of(server: &'a SqlServer, secrets: &Secrets) -> Result<Self, SecretError> {
        let (Some(host), Some(database), Some(username), Some(password)) =
            (&server.host, &server.database, &server.username_from, &server.password_from)
        else {
            return Err(SecretError::Incomplete);
        };
        Ok(Self {
            host,
            database,
            username: secrets.resolve(&username.secret_key_ref)?,
            password: secrets.resolve(&password.secret_key_ref)?,
        })
    }
}

/// Parses a URL. Of what stands before its parameters the driver's own error is shown, which names a part and never
/// the whole. Its errors and warnings about parameters would show their values: those are told of in other words.
fn from_url<O: FromStr<Err = sqlx::Error>>(
    source: &SecretSource,
    secrets: &Secrets,
    schemes: &[&str],
    parameters: &[&str],
) -> Result<O, SecretError> {
    let reference = &source.secret_key_ref;
    let unusable = |message: String| SecretError::Unusable { reference: reference.clone(), message };
    let url = secrets.resolve(reference)?;
    #[cfg(feature = "planted")]
    if crate::planted::is(crate::planted::Bug::TellPassword) {
        tracing::debug!(url = url.expose(), "connecting");
    }
    let scheme = url.expose().split_once("://").map(|(scheme, _)| scheme);
    if !scheme.is_some_and(|scheme| schemes.contains(&scheme)) {
        return Err(unusable(format!("must be a URL that begins with {}://", schemes.join(":// or "))));
    }
    // The password ends at the first of these, and the rest of it would be the name of a database, which is told.
    let behind_host = url.expose().split_once("://").and_then(|(_, rest)| rest.split_once(['/', '#']));
    if behind_host.is_some_and(|(_, path)| path.contains('@')) {
        return Err(unusable(
            "has an @ behind its host: write / ? # and @ in a password as %2F %3F %23 %40".into(),
        ));
    }
    let (base, query) = url.expose().split_once('?').unwrap_or((url.expose(), ""));
    base.parse::<O>().map_err(|error| match error {
        sqlx::Error::Configuration(error) => unusable(format!("is not a usable URL: {error}")),
        _ => unusable("is not a usable URL".into()),
    })?;
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let name = pair.split('=').next().unwrap_or_default();
        if !parameters.contains(&name) {
            return Err(unusable(format!(
                "has an unknown parameter in its URL; known are {}",
                parameters.join(", ")
            )));
        }
        // With the password in it.
        let with_one = Zeroizing::new(format!("{base}?{pair}"));
        if with_one.parse::<O>().is_err() {
            return Err(unusable(format!("has a value in its URL that the parameter {name} cannot have")));
        }
    }
    url.expose().parse().map_err(|_| unusable("is not a usable URL".into()))
}
