//! Which pipeline a command is about: its database, and what its bodies are sealed with.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, anyhow, bail, ensure};
use sluice_crds::problem::chain;

use crate::config::{self, Config, Database};
use crate::local;
use crate::pipeline::MAX_LANES;
use crate::seal::Sealing;
use crate::secrets::{self, Secrets};
use crate::store::mysql::{MySqlOptions, MySqlStore};
use crate::store::postgres::{PostgresOptions, PostgresStore};
use crate::store::sqlite::{SqliteOptions, SqliteStore};
use crate::store::{Store, StoreError, TableName, is_missing_table};

/// Folder for SQLite databases where none is given.
const DATA_DIR: &str = "sluice-data";

/// Where Secrets and SQLite databases lie.
#[derive(Clone, Debug, clap::Args)]
pub struct Folders {
    /// Folder with one folder a Secret and one file a key.
    #[arg(long, value_name = "DIR")]
    pub secrets_dir: Option<PathBuf>,
    /// Folder for SQLite databases: <DIR>/<claimName>/sluice.db.
    #[arg(long, value_name = "DIR", default_value = DATA_DIR)]
    pub data_dir: PathBuf,
}

/// Which pipeline.
#[derive(Clone, Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("pipeline").args(["file", "local"]).required(true).multiple(true))]
pub struct PipelineArgs {
    /// The TracePipeline, as YAML; - reads standard input.
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The data folder of `sluice local`; with -f as well where it was started with one.
    #[arg(long, value_name = "DIR")]
    pub local: Option<PathBuf>,
    /// Where Secrets and SQLite databases lie.
    #[command(flatten)]
    pub folders: Folders,
}

/// As on the command line, for a command that is to be about the same one.
impl std::fmt::Display for PipelineArgs {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { file, local, folders: Folders { secrets_dir, data_dir } } = self;
        let data_dir = Some(data_dir).filter(|folder| *folder != Path::new(DATA_DIR));
        let options = [
            ("-f", file.as_ref()),
            ("--local", local.as_ref()),
            ("--secrets-dir", secrets_dir.as_ref()),
            ("--data-dir", data_dir),
        ];
        let given = options.into_iter().filter_map(|(option, path)| Some((option, path?)));
        for (index, (option, path)) in given.enumerate() {
            let space = if index > 0 { " " } else { "" };
            write!(formatter, "{space}{option} {}", path.display())?;
        }
        Ok(())
    }
}

/// What a command works with.
pub struct Opened {
    /// The pipeline.
    pub config: Config,
    /// Connects when it is asked.
    pub store: Arc<dyn Store>,
    /// Opens what is sealed.
    pub sealing: Arc<Sealing>,
}

impl PipelineArgs {
    fn config(&self) -> anyhow::Result<Config> {
        match (&self.file, &self.local) {
            (Some(file), _) => Ok(config::load_once(file)?),
            (None, Some(folder)) => {
                let file = local::pipeline_file(folder);
                let what = file.display();
                ensure!(file.exists(), "there is no {what}: name with -f the file of this `sluice local`");
                Ok(config::load(&file)?)
            }
            (None, None) => bail!("expected -f or --local"),
        }
    }

    /// The pipeline and its database. Reads the file once.
    ///
    /// # Errors
    /// The file cannot be read, or everything that is wrong with it; or there is no SQLite database, which then is not created.
    pub fn open(&self) -> anyhow::Result<Opened> {
        self.open_table(None)
    }

    /// The same for another table of the database, into which a replay has stored; none: the pipeline's own.
    ///
    /// # Errors
    /// Likewise.
    pub fn open_table(&self, table: Option<&TableName>) -> anyhow::Result<Opened> {
        let secrets = Secrets::new(self.folders.secrets_dir.clone());
        if let Some(folder) = &self.local {
            let database = local::database(folder);
            let what = database.display();
            ensure!(database.exists(), "there is no {what}; name the folder of `sluice local`");
        }
        let mut config = self.config()?;
        if let Some(table) = table {
            config.sink.table.clone_from(table);
        }
        let store = self.open_store(&config)?;
        Ok(Opened { store, sealing: Arc::new(config.sealing(&secrets)), config })
    }

    /// The database of [`Self::open`] once more, for a configuration with another table.
    ///
    /// # Errors
    /// Likewise.
    pub fn open_store(&self, config: &Config) -> anyhow::Result<Arc<dyn Store>> {
        let secrets = Secrets::new(self.folders.secrets_dir.clone());
        Ok(match &self.local {
            Some(folder) => local::open_store(config, &local::database(folder))?,
            None => existing_store(config, &secrets, &self.folders.data_dir)?,
        })
    }
}

/// The database of a pipeline that has run before.
///
/// # Errors
/// It is a SQLite database, and not there.
pub fn existing_store(config: &Config, secrets: &Secrets, data_dir: &Path) -> anyhow::Result<Arc<dyn Store>> {
    if let Database::Sqlite { claim_name } = &config.sink.database {
        let database = sqlite_file(data_dir, claim_name);
        let what = database.display();
        ensure!(
            database.exists(),
            "there is no {what}: no consumer has started on it yet, or --data-dir is another"
        );
    }
    open_store(config, secrets, data_dir)
}

/// The store that a configuration names. Connects later, and again whenever it must.
pub(crate) fn open_store(
    config: &Config,
    secrets: &Secrets,
    data_dir: &Path,
) -> anyhow::Result<Arc<dyn Store>> {
    let (table, manage_schema) = (config.sink.table.clone(), config.sink.manage_schema);
    Ok(match &config.sink.database {
        Database::Mysql(server) => Arc::new(MySqlStore::new(MySqlOptions {
            connect: secrets::mysql(server, secrets),
            table,
            lanes: MAX_LANES,
            manage_schema,
        })),
        Database::Postgres(server) => Arc::new(PostgresStore::new(PostgresOptions {
            connect: secrets::postgres(server, secrets),
            table,
            lanes: MAX_LANES,
            manage_schema,
        })),
        Database::Sqlite { claim_name } => {
            let path = sqlite_file(data_dir, claim_name);
            Arc::new(SqliteStore::new(SqliteOptions { path, table, manage_schema }))
        }
    })
}

/// The SQLite database of a claim.
pub(crate) fn sqlite_file(data_dir: &Path, claim_name: &str) -> PathBuf {
    data_dir.join(claim_name).join("sluice.db")
}

/// Says of a database why `what` cannot be read from it.
pub fn cannot_read(what: &'static str) -> impl Fn(StoreError) -> anyhow::Error {
    move |error| {
        if is_missing_table(&error) {
            return anyhow!("cannot read {what}: no consumer has started on this database yet");
        }
        let why = chain(&error);
        anyhow!(
            "cannot read {what}: {why}; `sluice check --connect` tells whether database and rights are in order"
        )
    }
}

/// Makes a folder, and those above it.
///
/// # Errors
/// A file stands in the way, or it cannot be made.
pub fn make_folder(path: &Path) -> anyhow::Result<()> {
    if let Some(file) = path.ancestors().find(|part| part.is_file()) {
        bail!("expected a folder, and {} is a file", file.display());
    }
    std::fs::create_dir_all(path).with_context(|| format!("cannot create {}", path.display()))
}
