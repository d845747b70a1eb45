//! The database.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::secret::SecretSource;
use crate::duration::Duration;

/// Exactly one database, the table in it, and how rows are written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("[has(self.mysql), has(self.postgres), has(self.sqlite)].exists_one(set, set)")
        .message("exactly one kind of sink is needed: mysql, postgres or sqlite"),
    validation = Rule::new("!has(self.retention) || duration(self.retention) >= duration('1m')")
        .message("expected at least 1m")
        .field_path(".retention")
)]
pub struct Sink {
    /// MySQL or MariaDB. Written for TiDB, too, and not run on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mysql: Option<SqlServer>,
    /// PostgreSQL. Written for CockroachDB, too, and not run on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postgres: Option<SqlServer>,
    /// A SQLite file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sqlite: Option<Sqlite>,
    /// The table of the spans. It cannot be changed: the stored positions belong to it. Names that begin with
    /// sluice_ or sqlite_ are taken. Default: connectivity_trace.
    #[serde(default = "default_table")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[A-Za-z_][A-Za-z0-9_]{0,62}$"))]
    #[x_kube(
        validation = Rule::new("!self.matches('^(?i:sluice_|sqlite_)')")
            .message("names that begin with sluice_ or sqlite_ are taken")
    )]
    pub table: String,
    /// How many rows go into one transaction.
    #[serde(default)]
    pub batch: Batch,
    /// Whether tables are created and migrated; otherwise they are only verified. Default: true.
    #[serde(default = "default_true")]
    pub manage_schema: bool,
    /// How long rows stay, at least 1m; older ones are removed a few at a time, without slowing the writers down.
    /// Dead letters stay until they are purged. Default: rows stay for ever. Live: a change takes effect within a
    /// second, without a restart; what it removes is gone for good.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention: Option<Duration>,
}

/// A database server: either `urlFrom`, or `host`, `database`, `usernameFrom` and `passwordFrom`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new(
        "has(self.urlFrom) != (has(self.host) || has(self.port) || has(self.database) || has(self.usernameFrom) || has(self.passwordFrom))"
    )
    .message("either urlFrom is needed, or host, database, usernameFrom and passwordFrom"),
    validation = Rule::new(
        "has(self.urlFrom) || (has(self.host) && has(self.database) && has(self.usernameFrom) && has(self.passwordFrom))"
    )
    .message("without urlFrom all of host, database, usernameFrom and passwordFrom are needed")
)]
pub struct SqlServer {
    /// A URL with user and password: `mysql://user:password@host:3306/database`, or `postgres://` likewise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_from: Option<SecretSource>,
    /// Host name or address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = r"^[-A-Za-z0-9._:]+$"))]
    pub host: Option<String>,
    /// TCP port, 1 to 65535. Default: 3306 for mysql, 5432 for postgres.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535), extend("format" = "int32"))]
    pub port: Option<u16>,
    /// Name of the database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 63), regex(pattern = r"^[-A-Za-z0-9_$.]+$"))]
    pub database: Option<String>,
    /// The user's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_from: Option<SecretSource>,
    /// The password. It is read again at every connection, so that rotating it needs no restart.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_from: Option<SecretSource>,
    /// PEM certificates of the authorities to trust; with them the server's certificate and name are verified.
    /// Default: TLS as the URL says, else where the server offers it, unverified.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_from: Option<SecretSource>,
}

/// A SQLite file in a volume.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Sqlite {
    /// The PersistentVolumeClaim that holds the file `sluice.db`; outside a cluster the folder of this name
    /// under `--data-dir`.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = r"^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$")
    )]
    pub claim_name: String,
}

/// How many rows go into one transaction.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(
    validation = Rule::new("duration(self.maxDelay) <= duration('10s')")
        .message("expected at most 10s")
        .field_path(".maxDelay")
)]
pub struct Batch {
    /// Most rows in a transaction, 1 to 10000; a single message that holds more is still stored as a whole.
    /// Default: 1000.
    #[serde(default = "default_max_rows")]
    #[schemars(range(min = 1, max = 10_000), extend("format" = "int32"))]
    pub max_rows: u32,
    /// How long the first row of a batch waits for others while there is rate to spare, 0s to 10s. Default: 200ms.
    #[serde(default = "default_max_delay")]
    pub max_delay: Duration,
}

impl Default for Batch {
    fn default() -> Self {
        Self { max_rows: default_max_rows(), max_delay: default_max_delay() }
    }
}

fn default_max_rows() -> u32 {
    1000
}

fn default_max_delay() -> Duration {
    Duration::from_millis(200)
}

fn default_table() -> String {
    "connectivity_trace".into()
}

fn default_true() -> bool {
    true
}
