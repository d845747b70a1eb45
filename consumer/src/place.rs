//! Which pipeline a command is about: its database, and what its bodies are sealed with.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{bail, ensure};

use crate::config::{self, Config};
use crate::seal::Sealing;
use crate::secrets::Secrets;
use crate::store::Store;
use crate::{consume, local};

/// Which pipeline.
#[derive(Clone, Debug, clap::Args)]
pub struct Place {
    /// The TracePipeline, as YAML.
    #[arg(short, long, value_name = "FILE", required_unless_present = "local", conflicts_with = "local")]
    pub file: Option<PathBuf>,
    /// The data folder of `sluice local`, instead of -f.
    #[arg(long, value_name = "DIR")]
    pub local: Option<PathBuf>,
    /// Folder with one folder a Secret and one file a key.
    #[arg(long, value_name = "DIR")]
    pub secrets_dir: Option<PathBuf>,
    /// Folder for SQLite databases: <DIR>/<claimName>/sluice.db.
    #[arg(long, value_name = "DIR", default_value = "sluice-data")]
    pub data_dir: PathBuf,
}

/// What a command works with.
pub struct Opened {
    /// Connects when it is asked.
    pub store: Arc<dyn Store>,
    /// Opens what is sealed.
    pub sealing: Arc<Sealing>,
}

impl Place {
    /// The pipeline's configuration.
    ///
    /// # Errors
    /// The file cannot be read, or everything that is wrong with it.
    pub fn config(&self) -> anyhow::Result<Config> {
        match (&self.file, &self.local) {
            (Some(file), _) => Ok(config::load(file)?),
            (None, Some(folder)) => Ok(config::load(&local::pipeline_file(folder))?),
            (None, None) => bail!("expected -f or --local"),
        }
    }

    /// The pipeline's database.
    ///
    /// # Errors
    /// As [`Self::config`]; or the folder of `sluice local` holds no database.
    pub fn open(&self) -> anyhow::Result<Opened> {
        let secrets = Secrets::new(self.secrets_dir.clone());
        if let Some(folder) = &self.local {
            let database = local::database(folder);
            let what = database.display();
            ensure!(database.exists(), "there is no {what}; name the folder of `sluice local`");
        }
        let config = self.config()?;
        let store = match &self.local {
            Some(folder) => local::open_store(&config, &local::database(folder))?,
            None => consume::open_store(&config, &secrets, &self.data_dir)?,
        };
        Ok(Opened { store, sealing: Arc::new(config.sealing(&secrets)) })
    }
}
