//! A real MariaDB server on a free port, or the one that `SLUICE_TEST_MYSQL_URL` names; a Galera cluster of them.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use sqlx::mysql::MySqlConnection;
use sqlx::{AssertSqlSafe, Connection};

use crate::certificates::Identity;
use crate::server::{Commands, START, Server, program};
use crate::{eventually, free_port};

const NOT_OURS: &str = "this test must own its server; unset SLUICE_TEST_MYSQL_URL";

/// A server and its address.
#[derive(Debug)]
pub struct MariaDb {
    /// Without a database at the end, with the slash.
    base: String,
    /// The same for pods.
    pod_base: String,
    own: Option<Server>,
}

impl MariaDb {
    /// Starts a server with durable settings.
    ///
    /// # Errors
    /// It is not installed, or does not answer in time.
    pub async fn start() -> anyhow::Result<Self> {
        Self::start_with(&[]).await
    }

    /// As [`Self::start`], with more options of `mariadbd`.
    ///
    /// # Errors
    /// It is not installed, or does not answer in time.
    pub async fn start_with(options: &[&str]) -> anyhow::Result<Self> {
        Self::start_listening(options, None, None, None).await
    }

    /// As [`Self::start_with`], on a disk of so many bytes.
    ///
    /// # Errors
    /// As [`Self::start`], or no disk can be mounted.
    pub async fn start_on_disk(bytes: u64, options: &[&str]) -> anyhow::Result<Self> {
        Self::start_listening(options, None, Some(bytes), None).await
    }

    /// As [`Self::start`]; nobody is served without TLS.
    ///
    /// # Errors
    /// As [`Self::start`], or the server is not ours.
    pub async fn start_secure(identity: &Identity) -> anyhow::Result<Self> {
        let mariadb = Self::start_listening(&[], None, None, Some(identity)).await?;
        ensure!(mariadb.own.is_some(), NOT_OURS);
        Ok(mariadb)
    }

    /// As [`Self::start`]; the server listens on a second address too, for pods (`Cluster::host_address`).
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_on(address: Ipv4Addr) -> anyhow::Result<Self> {
        Self::start_for_pods(address, None).await
    }

    /// As [`Self::start_on`]; nobody is served without TLS.
    ///
    /// # Errors
    /// As [`Self::start_secure`].
    pub async fn start_secure_on(address: Ipv4Addr, identity: &Identity) -> anyhow::Result<Self> {
        let mariadb = Self::start_for_pods(address, Some(identity)).await?;
        ensure!(mariadb.own.is_some(), NOT_OURS);
        Ok(mariadb)
    }

    async fn start_for_pods(address: Ipv4Addr, identity: Option<&Identity>) -> anyhow::Result<Self> {
        let mariadb = Self::start_listening(&[], Some(address), None, identity).await?;
        if mariadb.own.is_some() {
            mariadb
                .execute("CREATE USER 'pod'@'%'; GRANT ALL ON *.* TO 'pod'@'%' WITH GRANT OPTION")
                .await
                .context("cannot create the user of pods")?;
        }
        Ok(mariadb)
    }

    /// Starts so many servers that are one cluster, each of which may be written to (Galera).
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn start_cluster(nodes: usize) -> anyhow::Result<Vec<Self>> {
        let provider = program(["/usr/lib/galera/libgalera_smm.so"].map(PathBuf::from), "mariadb-server")?;
        let (mut started, mut first) = (Vec::new(), String::new());
        for node in 0..nodes {
            let [group, difference, state] = [free_port()?, free_port()?, free_port()?];
            let options = [
                "--binlog-format=ROW".to_owned(),
                "--innodb-autoinc-lock-mode=2".to_owned(),
                "--wsrep-on=ON".to_owned(),
                format!("--wsrep-provider={provider}"),
                format!("--wsrep-cluster-address=gcomm://{first}"),
                "--wsrep-node-address=127.0.0.1".to_owned(),
                format!("--wsrep-node-name=node-{node}"),
                "--wsrep-sst-method=rsync".to_owned(),
                format!("--wsrep-sst-receive-address=127.0.0.1:{state}"),
                format!(
                    "--wsrep-provider-options=base_port={group};gmcast.listen_addr=tcp://127.0.0.1:{group};\
                     ist.recv_addr=127.0.0.1:{difference}"
                ),
            ];
            let server = Self::start_with(&options.each_ref().map(String::as_str)).await?;
            ensure!(server.own.is_some(), NOT_OURS);
            eventually("a node to be in step", START, async || {
                Ok(server.execute("SELECT 1 FROM mysql.user LIMIT 1").await.ok())
            })
            .await?;
            if node == 0 {
                first = format!("127.0.0.1:{group}");
            }
            started.push(server);
        }
        Ok(started)
    }

    async fn start_listening(
        options: &[&str],
        pods: Option<Ipv4Addr>,
        disk: Option<u64>,
        identity: Option<&Identity>,
    ) -> anyhow::Result<Self> {
        if let Ok(url) = std::env::var("SLUICE_TEST_MYSQL_URL") {
            let base = url.rsplit_once('/').map_or(url.clone(), |(base, _)| base.to_owned());
            let base = format!("{base}/");
            return Ok(Self { pod_base: base.clone(), base, own: None });
        }
        let port = free_port()?;
        let loopback = Ipv4Addr::LOCALHOST;
        let listen = pods.map_or(loopback.to_string(), |address| format!("{loopback},{address}"));
        let daemon =
            program(["/usr/sbin/mariadbd", "/usr/bin/mariadbd"].map(PathBuf::from), "mariadb-server")?;
        let own = Server::start("mariadb", "mysql", disk, identity, |dir| {
            // Each server that starts removes the temporary tables it finds in this folder: in a common one also
            // those that its neighbours are using.
            let temporary = format!("--tmpdir={dir}");
            // That of the server, which would make it anew otherwise.
            let log_size = "--innodb-log-file-size=256M".to_owned();
            let initialise = vec![
                "mariadb-install-db".to_owned(),
                "--no-defaults".to_owned(),
                temporary.clone(),
                format!("--datadir={dir}/data"),
                "--auth-root-authentication-method=normal".to_owned(),
                "--skip-test-db".to_owned(),
                log_size.clone(),
            ];
            let mut run = vec![
                daemon.clone(),
                "--no-defaults".to_owned(),
                temporary,
                format!("--datadir={dir}/data"),
                format!("--port={port}"),
                format!("--socket={dir}/socket"),
                format!("--pid-file={dir}/pid"),
                format!("--bind-address={listen}"),
                "--skip-name-resolve".to_owned(),
                "--innodb-flush-log-at-trx-commit=1".to_owned(),
                "--innodb-buffer-pool-size=256M".to_owned(),
                log_size,
            ];
            run.extend(options.iter().map(|&option| option.to_owned()));
            if identity.is_some() {
                run.push(format!("--ssl-cert={dir}/server.crt"));
                run.push(format!("--ssl-key={dir}/server.key"));
                run.push("--require-secure-transport=ON".to_owned());
            }
            Commands { initialise, alike: true, run }
        })
        .await?;
        let base = format!("mysql://root@{loopback}:{port}/");
        let pod_base = pods.map_or(base.clone(), |address| format!("mysql://pod@{address}:{port}/"));
        let mut mariadb = Self { base, pod_base, own: Some(own) };
        mariadb.answers().await?;
        Ok(mariadb)
    }

    /// As [`Self::database`], in the place of the one with this name.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn new_database(&self, name: &str) -> anyhow::Result<String> {
        self.execute(&format!("DROP DATABASE IF EXISTS `{name}`")).await?;
        self.database(name).await
    }

    /// Creates a database and returns its URL.
    ///
    /// # Errors
    /// The server refuses.
    pub async fn database(&self, name: &str) -> anyhow::Result<String> {
        self.execute(&format!("CREATE DATABASE `{name}` CHARACTER SET utf8mb4")).await?;
        Ok(format!("{}{name}", self.base))
    }

    /// The URL of a database for pods, where the server was started with [`Self::start_on`]; a given server's own.
    pub fn pod_url(&self, database: &str) -> String {
        format!("{}{database}", self.pod_base)
    }

    /// The URL of a database that exists.
    pub fn url(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }

    /// Where the server listens, for a proxy.
    ///
    /// # Errors
    /// A given server's URL has a name in it.
    pub fn address(&self) -> anyhow::Result<SocketAddr> {
        let address = self.base.split(['@', '/']).nth(3).context("no address in the URL")?;
        address.parse().with_context(|| address.to_owned())
    }

    /// Runs statements as the user who may do everything.
    ///
    /// # Errors
    /// The server refuses them.
    pub async fn execute(&self, sql: &str) -> anyhow::Result<()> {
        let mut connection = MySqlConnection::connect(&self.base).await?;
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await?;
        Ok(connection.close().await?)
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
        self.server()?.run()?;
        self.answers().await
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let waited = eventually("MariaDB to answer", START, async || {
            Ok(MySqlConnection::connect(&self.base).await.ok().map(|_| ()))
        })
        .await;
        match &mut self.own {
            Some(own) => waited.with_context(|| own.component().log_tail(20)),
            None => waited,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    #[ignore = "needs MariaDB"]
    async fn a_killed_server_restarts_with_its_data() {
        let mut mariadb = MariaDb::start().await.unwrap();
        let url = mariadb.database("spans").await.unwrap();
        mariadb.server().unwrap().kill().await.unwrap();
        mariadb.restart().await.unwrap();
        MySqlConnection::connect(&url).await.unwrap();
    }
}
