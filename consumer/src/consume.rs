//! `sluice consume`: from a Kafka topic into a database.
//!
//! The pipeline comes from a file that a person writes (`-f`), or from what the operator writes (`--settings`
//! and the live document beside it). The admin endpoints come first, so that whatever is still missing, such as a
//! Secret, can be asked for there; nothing that may come later ends the process.

mod connection;
mod dead_letter_topic;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::admin::{self, Admin, CurrentSource};
use crate::config::{self, Config, Database};
use crate::decode::Decoder;
use crate::http::{self, cannot_listen};
use crate::live::api::Timing;
use crate::live::cluster::{ConfigMapName, Places};
use crate::live::{self, Applied};
use crate::logging::{self, LogFormat};
use crate::meter::Meters;
use crate::pipeline::{self, DeadLetterTopic, Parts};
use crate::pipeline_args::{Folders, make_folder, open_store};
use crate::seal::{BODIES_PER_KEY, Sealing};
use crate::secrets::Secrets;
use crate::stop;
use crate::store::Store;
use connection::Connection;
use dead_letter_topic::KafkaDeadLetterTopic;

/// Store spans from Kafka in a database, at the rate that the pipeline sets.
///
/// With -f, saving the file with another value of a live field (`rateLimitQPS`, `override`, `suspend`, `schedule`, `guard`,
/// `sink.retention`) takes effect within a second.
/// With --settings, a new live document does.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice consume -f pipeline.yaml
  sluice consume -f pipeline.yaml --secrets-dir /etc/sluice/secrets --admin 0.0.0.0:9464
  SLUICE_SECRET_DB_URL=mysql://user:password@host/traces sluice consume -f pipeline.yaml
  sluice consume -f pipeline.yaml --admin 127.0.0.1:0     (a second one on the same machine)

A secretKeyRef { name: db, key: url } is the file db/url under --secrets-dir, else the environment variable
SLUICE_SECRET_DB_URL. What is not there yet is waited for; /status names it.

In a cluster the operator runs
  sluice consume --settings /etc/sluice/settings/settings.json --live-config-map NAMESPACE/NAME \\
    --live-dir /etc/sluice/live --secrets-dir /etc/sluice/secrets --data-dir /var/lib/sluice --admin 0.0.0.0:9464")]
#[command(group = clap::ArgGroup::new("pipeline").args(["file", "settings"]).required(true))]
#[command(group = clap::ArgGroup::new("live").args(["live_config_map", "live_dir"]).multiple(true).conflicts_with("file"))]
pub struct Args {
    /// The TracePipeline, as YAML.
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// The settings document that the operator writes, instead of -f; the live document is read apart.
    #[arg(long, value_name = "FILE", requires = "live")]
    pub settings: Option<PathBuf>,
    /// The ConfigMap whose key live.json holds the live document, watched through the API server: that of the pod,
    /// or of KUBECONFIG.
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub live_config_map: Option<ConfigMapName>,
    /// Folder in which the same ConfigMap is mounted; serves while the API server is out of reach.
    #[arg(long, value_name = "DIR")]
    pub live_dir: Option<PathBuf>,
    /// Where to serve /metrics, /livez, /readyz and /status; port 0 picks a free one and logs it.
    #[arg(long, value_name = "IP:PORT", value_parser = http::address, default_value = "127.0.0.1:9464")]
    pub admin: SocketAddr,
    /// Where Secrets and SQLite databases lie.
    #[command(flatten)]
    pub folders: Folders,
    /// Most bodies that one data key seals, where `encryption` is set.
    #[arg(long, value_name = "N", default_value_t = BODIES_PER_KEY,
        value_parser = clap::value_parser!(u64).range(1..))]
    pub bodies_per_data_key: u64,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Runs until SIGTERM, SIGHUP or Ctrl-C.
///
/// # Errors
/// What a person must know; printed with its causes.
pub async fn run(args: Args) -> anyhow::Result<()> {
    logging::start(args.log_format);
    let config = load(&args)?;
    let secrets = Secrets::new(args.folders.secrets_dir.clone());
    let meters = Arc::new(Meters::default());
    let stop = stop::on_signal()?;
    let source = CurrentSource::default();
    let admin = Admin { identity: config.identity(), meters: meters.clone(), source: source.clone() };
    // Of its own: it serves until the last transaction is finished.
    let admin_stop = CancellationToken::new();
    admin::serve(args.admin, admin, admin_stop.clone())
        .await
        .map_err(cannot_listen("--admin", args.admin))?;
    if let Database::Sqlite { claim_name } = &config.sink.database {
        make_folder(&args.folders.data_dir.join(claim_name))?;
    }
    let store = open_store(&config, &secrets, &args.folders.data_dir)?;
    let live = watch_live(&args, &config, stop.clone());
    tracing::info!(pipeline = %config.pipeline, settings = %config.settings_hash, "started");
    let sealing = Arc::new(config.sealing(&secrets).with_bodies_per_key(args.bodies_per_data_key));
    let consumer =
        Consumer { args: &args, config: &config, secrets: &secrets, store, sealing, live, meters, source };
    let result = consumer.run(stop).await;
    consumer.store.close().await;
    admin_stop.cancel();
    tracing::info!("stopped");
    result
}

/// What stays while clients of Kafka come and go.
struct Consumer<'a> {
    args: &'a Args,
    config: &'a Config,
    secrets: &'a Secrets,
    store: Arc<dyn Store>,
    sealing: Arc<Sealing>,
    live: watch::Receiver<Applied>,
    meters: Arc<Meters>,
    source: CurrentSource,
}

impl Consumer<'_> {
    /// Runs pipelines, one after the other: another one where a client is outdated, see [`Connection`].
    async fn run(&self, stop: CancellationToken) -> anyhow::Result<()> {
        let mut partitions = None;
        loop {
            let starting =
                Connection::start(self.config, self.secrets, &self.meters, self.is_patient(), partitions);
            let connection = tokio::select! {
                connection = starting => connection?,
                () = show(self.live.clone(), &self.meters) => return Ok(()),
                () = stop.cancelled() => return Ok(()),
            };
            self.source.set(connection.source.clone());
            let until = stop.child_token();
            let mut running = pin!(pipeline::run(self.parts(&connection)?, until.clone()));
            let because = tokio::select! {
                ended = &mut running => return Ok(ended?),
                because = connection.outdated(&self.config.kafka, self.secrets) => because,
            };
            tracing::info!("{because}: connecting anew");
            until.cancel();
            running.await?;
            partitions = connection.source.outgrown_by();
        }
    }

    fn parts(&self, connection: &Connection) -> anyhow::Result<Parts> {
        let config = self.config;
        Ok(Parts {
            group: config.kafka.consumer_group.clone(),
            table: config.sink.table.to_string(),
            source: connection.source.clone(),
            store: self.store.clone(),
            sealing: self.sealing.clone(),
            dead_letter_topic: config.dead_letter_topic.as_ref().map(|topic| -> Arc<dyn DeadLetterTopic> {
                Arc::new(KafkaDeadLetterTopic::new(config.kafka.clone(), self.secrets.clone(), topic.clone()))
            }),
            decoder: Decoder::new(config.format, &config.json)?,
            max_rows: config.sink.max_rows,
            max_delay: config.sink.max_delay,
            start_from: config.kafka.start_from.clone(),
            by_pattern: matches!(config.topics, config::Topics::Matching { .. }),
            live: self.live.clone(),
            meters: self.meters.clone(),
            shares_rate_of: None,
            patient: self.is_patient(),
        })
    }

    /// A person at a terminal is told at once; in a pod, /status tells the operator for as long as it takes.
    fn is_patient(&self) -> bool {
        self.args.settings.is_some()
    }
}

fn load(args: &Args) -> anyhow::Result<Config> {
    match (&args.file, &args.settings) {
        (Some(file), _) => Ok(config::load(file)?),
        (None, Some(settings)) => Ok(config::load_settings(settings)?),
        (None, None) => anyhow::bail!("expected -f or --settings"),
    }
}

fn watch_live(args: &Args, config: &Config, stop: CancellationToken) -> watch::Receiver<Applied> {
    if let Some(file) = &args.file {
        return live::file::watch(file.clone(), config, stop);
    }
    let places = Places {
        config_map: args.live_config_map.clone(),
        directory: args.live_dir.clone(),
        client: None,
        timing: Timing::default(),
    };
    live::cluster::watch(config.settings.uid.as_deref().unwrap_or_default(), places, stop)
}

/// Shows the live document in `/status` while nothing runs that could apply it: the rate in effect is 0. Ends
/// with its watcher, when the process stops.
async fn show(mut live: watch::Receiver<Applied>, meters: &Meters) {
    loop {
        let applied = live.borrow_and_update().clone();
        meters.set_applied(&applied);
        let whole = applied.live.rate_at(jiff::Timestamp::now());
        meters.set_rate(whole, 0.0, 0.0, applied.live.suspend);
        if live.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests;
