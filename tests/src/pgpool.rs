//! A real Pgpool-II: a proxy that gives to a replica what it takes for reading.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context;
use sqlx::{Connection, PgConnection};

use crate::postgres::Postgres;
use crate::server::{Commands, START, Server, program};
use crate::{eventually, free_port};

/// It, and where it listens.
#[derive(Debug)]
pub struct Pgpool {
    base: String,
    server: Server,
}

impl Pgpool {
    /// Starts one in front of a primary and its replica, which gets every read that may be given away.
    ///
    /// # Errors
    /// It is not installed, does not answer in time, or the servers are not ours.
    pub async fn start(primary: &Postgres, replica: &Postgres) -> anyhow::Result<Self> {
        let (port, control) = (free_port()?, free_port()?);
        let backends = [(primary.own_port()?, 0), (replica.own_port()?, 1)];
        let pgpool = program(["/usr/sbin/pgpool", "/usr/bin/pgpool"].map(PathBuf::from), "pgpool2")?;
        let server = Server::start("pgpool", "postgres", None, None, |dir| {
            let write = [
                "/bin/sh".to_owned(),
                "-c".to_owned(),
                "printf '%s' \"$1\" > \"$2\" && : > \"$3\"".to_owned(),
                "write".to_owned(),
                settings(dir, port, control, &backends),
                format!("{dir}/pgpool.conf"),
                format!("{dir}/empty.conf"),
            ];
            // `-n`: stay in front.
            let run = format!("{pgpool} -n -f {dir}/pgpool.conf -a {dir}/empty.conf -F {dir}/empty.conf");
            let run = run.split(' ').map(str::to_owned).collect();
            Commands { initialise: write.to_vec(), alike: false, run }
        })
        .await?;
        let mut pgpool = Self { base: format!("postgres://postgres@127.0.0.1:{port}/"), server };
        pgpool.answers().await?;
        Ok(pgpool)
    }

    /// The URL of a database that exists.
    pub fn url(&self, name: &str) -> String {
        format!("{}{name}", self.base)
    }

    async fn answers(&mut self) -> anyhow::Result<()> {
        let url = self.url("postgres");
        let waited = eventually("Pgpool-II to answer", START, async || {
            Ok(PgConnection::connect(&url).await.ok().map(|_| ()))
        });
        waited.await.with_context(|| self.server.component().log_tail(20))
    }
}

/// Pgpool-II 4.3, "Server Configuration". A backend that does not answer is waited for, not left out.
fn settings(dir: &str, port: u16, control: u16, backends: &[(u16, u32)]) -> String {
    let mut text = format!(
        "backend_clustering_mode = 'streaming_replication'\nlisten_addresses = '127.0.0.1'\nport = {port}\n\
         unix_socket_directories = '{dir}'\npcp_listen_addresses = ''\npcp_port = {control}\n\
         pcp_socket_dir = '{dir}'\npid_file_name = '{dir}/pid'\nlogdir = '{dir}'\nnum_init_children = 64\n\
         load_balance_mode = on\nsr_check_user = 'postgres'\nsr_check_period = 1\ndelay_threshold = 0\n\
         enable_pool_hba = off\npool_passwd = ''\n"
    );
    for (index, (port, weight)) in backends.iter().enumerate() {
        let flags = if index == 0 { "ALWAYS_PRIMARY|DISALLOW_TO_FAILOVER" } else { "DISALLOW_TO_FAILOVER" };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "backend_hostname{index} = '127.0.0.1'\nbackend_port{index} = {port}\nbackend_weight{index} = {weight}\n\
             backend_flag{index} = '{flags}'\n"
        );
    }
    text
}
