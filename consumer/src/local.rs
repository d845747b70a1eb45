//! `sluice local`: the whole job in one process and one folder.
//!
//! The pipeline is that of `sluice consume`; an embedded queue stands in for Kafka and a SQLite file for the
//! database, and HTTP takes spans and gives traces. A push that was answered with success is on the disk.

pub mod body;
mod demo;
pub mod ingest;
pub mod otlp;
mod panel;
pub mod query;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::Write;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use axum::Router;
use axum::middleware::from_fn;
use axum::routing::{get, post};
use sluice_crds::settings::Settings;
use sluice_crds::v1alpha1::{Format, KafkaSource, Sink, StartFrom};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::demo::Demo;
use self::ingest::Ingest;
use self::panel::Screen;
use self::query::Traces;
use crate::admin::{self, Admin, CurrentSource};
use crate::config::{self, Config, Topics};
use crate::decode::Decoder;
use crate::http::{self, Limits, cannot_listen};
use crate::live;
use crate::logging::{self, LogFormat};
use crate::meter::Meters;
use crate::pipeline::{self, Parts};
use crate::pipeline_args::make_folder;
use crate::seal::Sealing;
use crate::secrets::Secrets;
use crate::source::queue::{DEFAULT_MAX_BYTES, DEFAULT_PARTITIONS, Folder, Queue, QueueOptions};
use crate::stop;
use crate::store::Store;
use crate::store::sqlite::{SqliteOptions, SqliteStore};

/// What is written where no pipeline file is.
const FIRST_PIPELINE: &str = include_str!("local/pipeline.yaml");
/// The topic of a pipeline that reads a pattern.
const TOPIC: &str = "spans";
/// As many as the usual limit of a process's open files allows. Their bodies have limits of their own: see [`body`].
const LIMITS: Limits = Limits { connections: 512, patience: Duration::from_secs(10) };
/// How long requests under way may take when the process stops.
const REQUESTS_WITHIN: Duration = Duration::from_secs(5);

/// Run everything in one process: queue, pipeline, SQLite database, HTTP.
///
/// Takes spans at POST /api/v2/spans (Zipkin) and POST /v1/traces (OTLP), gives traces at GET
/// /api/v2/trace/{traceId} and GET /api/v1/traces/{traceId}. GET /health answers 200 while it takes spans. Saving the
/// pipeline file changes the rate.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice local --demo
  sluice local --data-dir /var/lib/sluice --listen 0.0.0.0:9411
  sluice loadgen --http http://127.0.0.1:9411 --traces 100")]
pub struct Args {
    /// The TracePipeline, as YAML; its source and database are replaced by those in the data folder.
    /// Default: pipeline.yaml in the data folder, written at the first start.
    #[arg(short, long, value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Folder for the queue, the database and the pipeline file.
    #[arg(long, value_name = "DIR", default_value = "sluice-data")]
    pub data_dir: PathBuf,
    /// Where to take spans and give traces; port 0 picks a free one and logs it.
    #[arg(long, value_name = "IP:PORT", value_parser = http::address, default_value = "127.0.0.1:9411")]
    pub listen: SocketAddr,
    /// Where to serve /metrics, /livez, /readyz and /status; port 0 picks a free one and logs it.
    #[arg(long, value_name = "IP:PORT", value_parser = http::address, default_value = "127.0.0.1:9464")]
    pub admin: SocketAddr,
    /// Send made-up traces, first in a burst well over the rate, and show what happens.
    #[arg(long)]
    pub demo: bool,
    /// Folder with one folder a Secret and one file a key, for `encryption`.
    #[arg(long, value_name = "DIR")]
    pub secrets_dir: Option<PathBuf>,
    /// How log lines look.
    #[arg(long, value_enum, default_value_t)]
    pub log_format: LogFormat,
}

/// Runs until SIGTERM, SIGHUP or Ctrl-C.
///
/// # Errors
/// What a person must know; printed with its causes.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let screen = start_logging(&args);
    let data_dir = &args.data_dir;
    let (folder, file) = take_folder(&args)?;
    let config = config::load(&file)?;
    refuse_what_is_not_done_here(&args, &config, &file)?;
    let stop = stop::on_signal()?;
    let database = database(data_dir);
    let queue = open_queue(folder, &config, database.clone());
    let Some(queue) = stop.run_until_cancelled(queue).await else { return Ok(()) };
    let queue = queue?;
    let store = open_store(&config, &database)?;
    let sealing = Arc::new(config.sealing(&Secrets::new(args.secrets_dir.clone())));
    let meters = Arc::new(Meters::default());
    let decoder = Decoder::new(config.format, &config.json)?;
    let ingest = Arc::new(Ingest::new(queue.clone(), config.format, decoder));
    let admin_stop = CancellationToken::new();
    let source = CurrentSource::default();
    source.set(Arc::new(queue.clone()));
    let admin = Admin { identity: config.identity(), meters: meters.clone(), source };
    admin::serve(args.admin, admin, admin_stop.clone())
        .await
        .map_err(cannot_listen("--admin", args.admin))?;
    let (address, http) =
        serve(args.listen, router(ingest.clone(), Traces::new(store.clone(), sealing.clone())), stop.clone())
            .await
            .map_err(cannot_listen("--listen", args.listen))?;
    tracing::info!(%address, data = %data_dir.display(), pipeline = %file.display(),
        rate = config.live.rate_limit_qps, "started; save the pipeline file to change the rate");
    let demo = args.demo.then(|| {
        let (meters, queue) = (meters.clone(), queue.clone());
        let list_letters = list_letters(&args);
        let demo = Demo { address, file: file.clone(), list_letters, ingest, meters, queue };
        tokio::spawn(demo.run(screen, stop.clone()))
    });
    let live = live::file::watch_used(file, &config, used, stop.clone());
    let parts = parts(&config, queue.clone(), store.clone(), sealing, live, meters.clone())?;
    let result = pipeline::run(parts, stop.clone()).await;
    // The pipeline may have ended by itself, with an error.
    stop.cancel();
    for task in [Some(http), demo].into_iter().flatten() {
        task.await.context("a task ended unexpectedly")?;
    }
    queue.close().await;
    store.close().await;
    admin_stop.cancel();
    result?;
    tracing::info!(
        "stopped; look at the rows: sqlite3 {} 'SELECT * FROM {} LIMIT 5'; go on: start again",
        database.display(),
        config.sink.table
    );
    Ok(())
}

/// Settings without what stands in the data folder instead: brokers, topics, the database. An edit of those changes
/// nothing here, and is no reason to refuse the rest of it.
fn used(mut settings: Settings) -> Settings {
    if let Some(kafka) = &mut settings.source.kafka {
        *kafka = KafkaSource {
            bootstrap_servers: String::new(),
            topic: None,
            topic_pattern: None,
            exclude_pattern: None,
            consumer_group: std::mem::take(&mut kafka.consumer_group),
            start_from: StartFrom::Earliest,
            tls: None,
            sasl: None,
            properties: BTreeMap::new(),
        };
    }
    let Sink { mysql, postgres, sqlite, manage_schema, .. } = &mut settings.sink;
    (*mysql, *postgres, *sqlite, *manage_schema) = (None, None, None, true);
    settings
}

/// On a terminal the demo has a part of the screen, and the log goes around it.
fn start_logging(args: &Args) -> Option<Screen> {
    let with_screen = args.demo && args.log_format != LogFormat::Json;
    let screen = if with_screen { Screen::on_terminal() } else { None };
    match &screen {
        Some(screen) => logging::start_with(LogFormat::Human, screen.log_writer()),
        None => logging::start(args.log_format),
    }
    screen
}

fn refuse_what_is_not_done_here(args: &Args, config: &Config, file: &Path) -> anyhow::Result<()> {
    if matches!(config.format, Format::Json | Format::JaegerProto) {
        bail!(
            "spans are pushed as Zipkin or OTLP, and the pipeline reads {:?}; set format to Auto in {}",
            config.format,
            file.display()
        );
    }
    if args.demo && !demo::can_feed(config.format) {
        bail!(
            "the demo sends ZipkinJson, and the pipeline reads {:?}; set format to Auto or ZipkinJson in {}",
            config.format,
            file.display()
        );
    }
    if let Some(topic) = &config.dead_letter_topic {
        tracing::warn!(
            topic,
            "deadLetter.topic is not fed here; `{}` shows what it would get",
            list_letters(args)
        );
    }
    Ok(())
}

/// The command that lists what could not be stored.
fn list_letters(args: &Args) -> String {
    let file = args.file.as_ref().map_or_else(String::new, |file| format!(" -f {}", file.display()));
    format!("sluice dead-letters list --local {}{file}", args.data_dir.display())
}

/// The database of a data folder.
pub(crate) fn database(data_dir: &Path) -> PathBuf {
    data_dir.join("sluice.db")
}

/// The pipeline file of a data folder.
pub(crate) fn pipeline_file(data_dir: &Path) -> PathBuf {
    data_dir.join("pipeline.yaml")
}

/// The data folder, for this process alone, and the pipeline file. The lock comes first: nothing is written into a folder
/// that somebody else uses, or is just about to fill.
fn take_folder(args: &Args) -> anyhow::Result<(Folder, PathBuf)> {
    make_folder(&args.data_dir)?;
    let folder = Folder::lock(&args.data_dir)?;
    let file = match &args.file {
        Some(file) => file.clone(),
        None => first_pipeline(&args.data_dir)?,
    };
    Ok((folder, file))
}

/// The pipeline file of the data folder; written where it is missing.
fn first_pipeline(data_dir: &Path) -> anyhow::Result<PathBuf> {
    let path = pipeline_file(data_dir);
    let written = match path.try_exists() {
        Ok(true) => return Ok(path),
        // Whole or not at all: half a file would be a pipeline that somebody seems to have written.
        Ok(false) => {
            let draft = data_dir.join(".pipeline.yaml.new");
            File::create(&draft)
                .and_then(|mut file| {
                    file.write_all(FIRST_PIPELINE.as_bytes())?;
                    file.sync_all()
                })
                .and_then(|()| std::fs::rename(&draft, &path))
        }
        Err(error) => Err(error),
    };
    written.with_context(|| format!("cannot write {}", path.display()))?;
    tracing::info!(file = %path.display(), "wrote a first pipeline");
    Ok(path)
}

/// The queue of the data folder, under the topic that it had first: positions are stored under that name.
async fn open_queue(folder: Folder, config: &Config, database: PathBuf) -> anyhow::Result<Queue> {
    let topic = match &config.topics {
        Topics::Named(topic) => topic.clone(),
        Topics::Matching { .. } => TOPIC.to_owned(),
    };
    let named = topic.clone();
    let options =
        QueueOptions { topic, partitions: DEFAULT_PARTITIONS, max_bytes: DEFAULT_MAX_BYTES, database };
    let queue = Queue::open(folder, options).await?;
    if queue.topic() != named {
        tracing::warn!(topic = queue.topic(), named, "the queue keeps the topic that it was made with");
    }
    Ok(queue)
}

pub(crate) fn open_store(config: &Config, path: &Path) -> anyhow::Result<Arc<dyn Store>> {
    let table = config.sink.table.clone();
    // The file is the data folder's own: its tables are always made.
    Ok(Arc::new(SqliteStore::new(SqliteOptions { path: path.to_owned(), table, manage_schema: true })))
}

fn parts(
    config: &Config,
    queue: Queue,
    store: Arc<dyn Store>,
    sealing: Arc<Sealing>,
    live: tokio::sync::watch::Receiver<live::Applied>,
    meters: Arc<Meters>,
) -> anyhow::Result<Parts> {
    Ok(Parts {
        group: config.kafka.consumer_group.clone(),
        table: config.sink.table.to_string(),
        source: Arc::new(queue),
        store,
        sealing,
        // It has no brokers.
        dead_letter_topic: None,
        decoder: Decoder::new(config.format, &config.json)?,
        max_rows: config.sink.max_rows,
        max_delay: config.sink.max_delay,
        start_from: StartFrom::Earliest,
        by_pattern: false,
        live,
        meters,
        shares_rate_of: None,
        patient: false,
    })
}

fn router(ingest: Arc<Ingest>, traces: Traces) -> Router {
    let write = Router::new()
        .route("/api/v2/spans", post(ingest::zipkin))
        .route("/v1/traces", post(ingest::otlp))
        .route("/health", get(ingest::health))
        .with_state(ingest);
    let read = Router::new()
        .route("/api/v1/traces/{traceId}", get(query::trace))
        .route("/api/v2/trace/{traceId}", get(query::zipkin))
        .with_state(traces);
    write
        .merge(read)
        .fallback(query::no_such_path)
        .method_not_allowed_fallback(query::no_such_method)
        .layer(from_fn(body::discard_refused))
}

/// Binds and serves until `stop`; then requests under way are finished.
async fn serve(
    address: SocketAddr,
    router: Router,
    stop: CancellationToken,
) -> std::io::Result<(SocketAddr, JoinHandle<()>)> {
    let listener = admin::listen(address).await?;
    let bound = listener.local_addr()?;
    let serving = tokio::spawn(async move {
        let served = http::serve(listener, router, LIMITS, stop.clone());
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(REQUESTS_WITHIN).await;
        };
        tokio::select! {
            () = served => {}
            () = late => tracing::warn!("requests under way were not finished within {REQUESTS_WITHIN:?}"),
        }
    });
    Ok((bound, serving))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn used_of(text: &str) -> Settings {
        used(config::parse(text).unwrap().settings)
    }

    #[test]
    fn only_settings_that_are_used_here_are_told_apart() {
        let first = used_of(FIRST_PIPELINE);
        let edited = |old: &str, new: &str| {
            assert!(FIRST_PIPELINE.contains(old), "{old}");
            used_of(&FIRST_PIPELINE.replace(old, new))
        };
        assert_eq!(edited("mysql:", "postgres:"), first);
        assert_eq!(edited("topic: ", "topic: other-"), first);
        assert_ne!(edited("consumerGroup: ", "consumerGroup: other-"), first);
    }
}
