//! Where a database is, for people: without the credentials to it.

use std::path::Path;

use sqlx::mysql::MySqlConnectOptions;
use sqlx::postgres::PgConnectOptions;

use super::StoreError;
use super::sql::driver_error;

/// Options that say where a database is.
pub trait Address {
    /// `host:port/database`, or the socket in place of host and port.
    fn address(&self) -> String;
}

impl Address for MySqlConnectOptions {
    fn address(&self) -> String {
        let socket = self.get_socket().map(|socket| socket.as_path());
        address(socket, self.get_host(), self.get_port(), self.get_database())
    }
}

impl Address for PgConnectOptions {
    fn address(&self) -> String {
        let socket = self.get_socket().map(|socket| socket.as_path());
        // The server takes the name of the user where there is none.
        let database = self.get_database().or_else(|| Some(self.get_username()));
        address(socket, self.get_host(), self.get_port(), database)
    }
}

fn address(socket: Option<&Path>, host: &str, port: u16, database: Option<&str>) -> String {
    let server = socket.map_or_else(|| format!("{host}:{port}"), |socket| socket.display().to_string());
    match database {
        Some(database) => format!("{server}/{database}"),
        None => server,
    }
}

impl StoreError {
    /// Says of a connection that did not come about where to it was. Other errors stay as they are.
    pub(super) fn where_to(mut self, options: Option<impl Address>) -> Self {
        let is_drivers = self.source.as_deref().is_some_and(|source| driver_error(source).is_some());
        if let Some(options) = options.filter(|_| is_drivers) {
            self.context = format!("{} at {}", self.context, options.address());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::mysql::{MySqlOptions, MySqlStore};
    use crate::store::sql::Told;
    use crate::store::{ErrorKind, Store};

    #[test]
    fn a_failed_connection_names_its_place_and_no_credentials() {
        let options: MySqlConnectOptions = "mysql://user:canary@db:3307/traces".parse().unwrap();
        let kind = ErrorKind::Unavailable;
        let failed = || StoreError::with_source(kind, "cannot connect", Told(sqlx::Error::PoolTimedOut));
        assert_eq!(failed().where_to(Some(options.clone())).context, "cannot connect at db:3307/traces");
        assert_eq!(
            StoreError::new(kind, "the store is closed").where_to(Some(options)).context,
            "the store is closed"
        );
        let options: PgConnectOptions = "postgres://user:canary@db".parse().unwrap();
        assert_eq!(failed().where_to(Some(options)).context, "cannot connect at db:5432/user");
    }

    /// However the layers below wrap the driver's error.
    #[tokio::test(start_paused = true)]
    async fn a_store_names_the_place_that_it_cannot_connect_to() {
        let options: MySqlConnectOptions = "mysql://user:canary@127.0.0.1:1/traces".parse().unwrap();
        let store = MySqlStore::new(MySqlOptions {
            connect: Arc::new(move || Ok(options.clone())),
            table: "trace".parse().unwrap(),
            lanes: 1,
            manage_schema: true,
        });
        let error = store.streams("c", "g").await.unwrap_err();
        assert_eq!(error.context, "cannot connect to the database at 127.0.0.1:1/traces");
    }
}
