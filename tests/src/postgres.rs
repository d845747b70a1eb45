//! A real PostgreSQL server on a free port, or the one that `SLUICE_TEST_POSTGRES_URL` names.

use std::net::Ipv4Addr;
use std::path::PathBuf;

use anyhow::{Context, ensure};
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::certificates::Identity;
use crate::server::{Commands, START, Server, program};
use crate::{eventually, free_port};

const NOT_OURS: &str = "this test must own its server; unset SLUICE_TEST_POSTGRES_URL";

/// A server and its address.
#[derive(Debug)]
pub struct Postgres {
    /// Without a database at the end, with the slash.
    base: String,
    /// Of our own one.
    port: u16,
    own: Option<Server>,
}

impl Postgres {
    /// Starts a server with durable settings.
    ///
    /// # Errors
    /// It is not installed, or does not answer in time.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// As [`Self::start`], with more settings (`name=value`).
    ///
    /// # Errors
    /// It is not installed, or does not answer in time.
    pub async fn start_with(settings: &[&str]) -> anyhow::Result<Self> {
        Self::start_having(settings, None, None, None).await
    }

    /// As [`Self::start`], with TLS for those who ask for it.
    ///
    /// # Errors
    /// As [`Self::start`], or the server is not ours.
    pub async fn start_secure(identity: &Identity) -> anyhow::Result<Self> {
        let postgres = Self::start_having(&[], None, None, Some(identity)).await?;
        ensure!(postgres.own.is_some(), NOT_OURS);
        Ok(postgres)
    }

    /// As [`Self::start_secure`]; the server listens on a second address too, for pods (`Cluster::host_address`), who
    /// need TLS and a password.
    ///
    /// # Errors
    /// As [`Self::start_secure`].
    pub async fn start_secure_on(address: Ipv4Addr, identity: &Identity) -> anyhow::Result<Self> {
        let listen = format!("listen_addresses=127.0.0.1,{address}");
        let postgres = Self::start_having(&[&listen], None, None, Some(identity)).await?;
        ensure!(postgres.own.is_some(), NOT_OURS);
        let allow = "COPY (SELECT 'hostssl all all all scram-sha-256') TO PROGRAM 'cat >>pg_hba.conf'";
        postgres.execute(&format!("{allow}; SELECT pg_reload_conf()")).await?;
        Ok(postgres)
    }

    /// As [`Self::start_with`], on a disk of so many bytes.
    ///
    /// # Errors
    /// As [`Self::start`], or no disk can be mounted.
    pub async fn start_on_disk(bytes: u64, settings: &[&str]) -> anyhow::Result<Self> {
        Self::start_having(settings, Some(bytes), None, None).await
    }

    /// Starts another server that follows this one and can be read, until it is promoted (`pg_promote()`).
    ///
    /// # Errors
    /// This server is not ours, or as [`Self::start`].
    pub async fn start_replica(&self) -> anyhow::Result<Self> {
        Self::start_having(&[], None, Some(self.own_port()?), None).await
    }

    /// With a primary's port a replica of that.
    async fn start_having(
        settings: &[&str],
        disk: Option<u64>,
        primary: Option<u16>,
        identity: Option<&Identity>,
    ) -> anyhow::Result<Self> {
        if let Ok(url) = std::env::var("SLUICE_TEST_POSTGRES_URL") {
            let base = url.rsplit_once('/').map_or(url.clone(), |(base, _)| base.to_owned());
            return Ok(Self { base: format!("{base}/"), port: 0, own: None });
        }
        let port = free_port()?;
        let (initdb, copy, daemon) =
            (installed("initdb")?, installed("pg_basebackup")?, installed("postgres")?);
        let own = Server::start("postgres", "postgres", disk, identity, |dir| {
            let initialise = match primary {
                None => {
                    format!("{initdb} -D {dir}/data -U postgres -A trust -E UTF8 --locale=C.UTF-8 --no-sync")
                }
                Some(port) => format!("{copy} -h 127.0.0.1 -p {port} -U postgres -D {dir}/data -R -c fast"),
            };
            let run = format!(
                "{daemon} -D {dir}/data -p {port} -k {dir} -c listen_addresses=127.0.0.1 -c shared_buffers=256MB"
            );
            let tls = identity.map_or_else(String::new, |_| {
                format!(" -c ssl=on -c ssl_cert_file={dir}/server.crt -c ssl_key_file={dir}/server.key")
            });
            let words = |line: String| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
            let more = settings.iter().flat_map(|&setting| ["-c".to_owned(), setting.to_owned()]);
            Commands {
                initialise: words(initialise),
                alike: primary.is_none(),
                run: words(run + &tls).into_iter().chain(more).collect(),
            }
        })
        .await?;
        let mut postgres =
            Self { base: format!("postgres://postgres@127.0.0.1:{port}/"), port, own: Some(own) };
        postgres.answers().await?;
        Ok(postgres)
    }

    /// As [`Self::database`], in the place of the one with this name.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn new_database(&self, name: &str) -> anyhow::Result<String> {
        // The server may not have noticed yet that those who used it are gone.
        self.execute(&format!("DROP DATABASE IF EXISTS \"{name}\" WITH (FORCE)")).await?;
        self.database(name).await
    }

    /// Creates a database and returns its URL.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn database(&self, name: &str) -> anyhow::Result<String> {
        self.execute(&format!("CREATE DATABASE \"{name}\"")).await?;
        Ok(self.url(name))
    }

    /// The URL of a database that exists.
    pub fn url(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }

    /// Runs statements as the user who may do everything, in the database `postgres`.
    ///
    /// # Errors
    /// The server refuses them.
    pub async fn execute(&self, sql: &str) -> anyhow::Result<()> {
        let mut connection = PgConnection::connect(&self.url("postgres")).await?;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
        Ok(connection.close().await?)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// The server is not ours.
    pub fn own_port(&self) -> anyhow::Result<u16> {
        self.own.as_ref().map(|_| self.port).context(NOT_OURS)
    }

    /// The server's process, to be hurt.
    ///
    /// # Errors
    /// The server is not ours.
    pub fn server(&mut self) -> anyhow::Result<&mut Server> {
        self.own.as_mut().context(NOT_OURS)
    }

    /// Starts a killed server again, on the same port and data; waits until it answers.
    ///
    /// # Errors
    /// The server is not ours, or does not answer.
    pub async fn restart(&mut self) -> anyhow::Result<()> {
        self.answers().await
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let url = self.url("postgres");
        let waited = eventually("PostgreSQL to answer", START, async || {
            // It refuses to start until the processes of a killed one have noticed their end.
            if let Some(own) = &mut self.own {
                own.run()?;
            }
            Ok(PgConnection::connect(&url).await.ok().map(|_| ()))
        })
        .await;
        match &mut self.own {
            Some(own) => waited.with_context(|| own.component().log_tail(20)),
            None => waited,
        }
    }
}

/// Debian keeps the server's programs outside `PATH`, by version; the newest one is taken.
fn installed(name: &str) -> anyhow::Result<String> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|entries| entries.filter_map(|entry| Some(entry.ok()?.path())).collect())
        .unwrap_or_default();
    versions.sort();
    let candidates = versions.into_iter().rev().map(|version| version.join("bin").join(name));
    program(
        candidates.chain(["/usr/bin", "/usr/local/bin"].map(|dir| PathBuf::from(dir).join(name))),
        "postgresql",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[ignore = "needs PostgreSQL"]
    async fn a_killed_server_restarts_with_its_data() {
        let mut postgres = Postgres::start().await.unwrap();
        let url = postgres.database("spans").await.unwrap();
        postgres.server().unwrap().kill().await.unwrap();
        postgres.restart().await.unwrap();
        PgConnection::connect(&url).await.unwrap();
    }
}
