//! `sluice loadgen`: traces of a made-up shop into Kafka or over HTTP, every span accounted for.

pub mod encode;
pub mod round;
pub mod shop;
pub mod tally;
pub mod target;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use indicatif::ProgressBar;
use sluice_crds::v1alpha1::Format;
use tokio_util::sync::CancellationToken;

use self::round::{Shape, Stream};
use self::tally::{Pace, Summary, Tally};
use self::target::http::{self, HttpTarget};
use self::target::kafka::{self, KafkaTarget};
use crate::out::{self, Output, bar};
use crate::stop;

/// Largest message that is made: it lies in memory several times over.
const MESSAGE_BYTES: u64 = 256 << 20;
/// How often the progress bar moves.
const REFRESH: Duration = Duration::from_millis(200);
/// When a trouble that lasts is told once where there is no progress bar.
const NOTE_AFTER: Duration = Duration::from_secs(2);

/// Send made-up traces to Kafka or over HTTP.
///
/// The traces are those of a shop of a dozen services, with errors and exceptions. The same seed gives the
/// same ids in the same messages. Exits with an error when anything was not acknowledged, or when it is
/// stopped before what was asked for is sent.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  sluice loadgen --http http://127.0.0.1:9411 --traces 100
  sluice loadgen --bootstrap-servers localhost:9092 --topic spans --rate 5000 --duration 60
  sluice loadgen --bootstrap-servers localhost:9092 --topic spans --spans 1000000 --format OtlpProto -o json")]
#[command(group = clap::ArgGroup::new("target").args(["http", "topic"]).required(true))]
pub struct Args {
    /// Send over HTTP to this base URL.
    #[arg(long, value_name = "URL")]
    pub http: Option<String>,
    /// Requests under way at the same time.
    #[arg(long, value_name = "N", default_value_t = 8)]
    pub connections: usize,
    /// Send to this Kafka topic.
    #[arg(long, value_name = "TOPIC")]
    pub topic: Option<String>,
    /// Brokers to ask first, host:port, separated by commas.
    #[arg(long, value_name = "BROKERS", default_value = "localhost:9092", conflicts_with = "http")]
    pub bootstrap_servers: String,
    /// Send everything to this partition instead of spreading by trace id.
    #[arg(long, value_name = "N", requires = "topic", conflicts_with = "http")]
    pub partition: Option<i32>,
    /// A librdkafka setting; may be repeated.
    #[arg(long = "property", value_name = "NAME=VALUE", value_parser = property, conflicts_with = "http")]
    pub properties: Vec<(String, String)>,
    /// How messages are encoded.
    #[arg(long, value_name = "FORMAT", default_value = "ZipkinJson", value_parser = format)]
    pub format: Format,
    /// Spans per second; 0: as fast as possible.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub rate: u64,
    /// Spans to send.
    #[arg(long, value_name = "N")]
    pub spans: Option<u64>,
    /// Traces to send.
    #[arg(long, value_name = "N", conflicts_with = "spans")]
    pub traces: Option<u64>,
    /// Seconds to send for. Without this, --spans and --traces: until Ctrl-C.
    #[arg(long, value_name = "SECONDS")]
    pub duration: Option<u64>,
    /// Spans in a message. The last one of all may have fewer; with --traces also one now and then, as the traces that are
    /// made come round again whole.
    #[arg(long, value_name = "N", default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub spans_per_message: u32,
    /// Bytes that a span takes in its message at least; 0: as it comes (400 to 1,500).
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(0..=8_000_000))]
    pub body_bytes: u32,
    /// Same seed, same traces.
    #[arg(long, value_name = "N", default_value_t = 1)]
    pub seed: u64,
    /// Write a line "traceId spanId" for each acknowledged span.
    #[arg(long, value_name = "FILE")]
    pub ledger: Option<PathBuf>,
    /// How the summary looks.
    #[arg(short, long, value_enum, default_value_t)]
    pub output: Output,
}

/// Formats are named as in the pipeline file.
fn format(text: &str) -> Result<Format, String> {
    let format = serde_json::from_value(serde_json::Value::String(text.to_owned())).ok();
    format.filter(|format| *format != Format::Auto).ok_or_else(|| {
        "expected Json, OtlpProto, OtlpJson, ZipkinJson, ZipkinProto or JaegerProto".to_owned()
    })
}

fn property(text: &str) -> Result<(String, String), String> {
    let pair = text.split_once('=').ok_or_else(|| "expected NAME=VALUE".to_owned())?;
    Ok((pair.0.to_owned(), pair.1.to_owned()))
}

/// Runs the command.
///
/// # Errors
/// What a person must know; printed with its causes.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let message_bytes = u64::from(args.spans_per_message) * u64::from(args.body_bytes);
    ensure!(
        message_bytes <= MESSAGE_BYTES,
        "a message of {} spans with {} bytes each would have {} MiB, and {} MiB is the most: lower --spans-per-message or \
         --body-bytes",
        args.spans_per_message,
        args.body_bytes,
        message_bytes >> 20,
        MESSAGE_BYTES >> 20
    );
    let shape = Shape {
        seed: args.seed,
        format: args.format,
        spans_per_message: args.spans_per_message as usize,
        body_bytes: args.body_bytes as usize,
    };
    let stream = match (args.spans, args.traces) {
        (_, Some(traces)) => Stream::of_traces(shape, traces),
        (spans, None) => Stream::of_spans(shape, spans.unwrap_or(u64::MAX)),
    };
    let ledger = args.ledger.as_deref();
    let tally = Arc::new(Tally::new(ledger).context("cannot make the ledger")?);
    let stop = stop::on_signal()?;
    let progress = progress(stream.left());
    let pace = Pace::start(args.rate, args.duration.map(Duration::from_secs));
    let showing = tokio::spawn(show(progress.clone(), tally.clone(), pace.began()));
    let output = args.output;
    let has_end = args.spans.is_some() || args.traces.is_some() || args.duration.is_some();
    let sent = send(args, stream, pace, &tally, stop.clone()).await;
    showing.abort();
    progress.finish_and_clear();
    sent?;
    let summary = tally.finish(pace.began());
    print(&summary, output)?;
    if let Some(error) = tally.ledger_error() {
        bail!("the ledger does not hold every acknowledged span: {error}");
    }
    if summary.not_acknowledged_spans > 0 {
        bail!(
            "{} of {} spans were not acknowledged{}",
            summary.not_acknowledged_spans,
            summary.spans,
            summary.first_error.map_or_else(String::new, |error| format!("; the first reason: {error}"))
        );
    }
    // Without an end this is the way to end it.
    if has_end && stop.is_cancelled() {
        bail!("stopped before everything was sent");
    }
    Ok(())
}

/// Sends everything; ends when it is answered.
async fn send(
    args: Args,
    stream: Stream,
    pace: Pace,
    tally: &Arc<Tally>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    match (args.http, args.topic) {
        (Some(url), _) => {
            let target = HttpTarget { url, connections: args.connections };
            let stream = Arc::new(Mutex::new(stream));
            http::run(&target, args.format, &stream, pace, tally, &stop).await?;
        }
        (None, Some(topic)) => {
            let target = KafkaTarget {
                bootstrap_servers: args.bootstrap_servers,
                topic,
                partition: args.partition,
                properties: args.properties,
            };
            let (tally, mut stream) = (tally.clone(), stream);
            tokio::task::spawn_blocking(move || kafka::run(&target, &mut stream, pace, &tally, &stop))
                .await??;
        }
        (None, None) => bail!("either --http or --topic is needed"),
    }
    Ok(())
}

fn progress(spans: u64) -> ProgressBar {
    if spans == u64::MAX {
        bar(ProgressBar::new_spinner(), "{spinner} {human_pos} spans acknowledged, {msg}")
    } else {
        let template = "{bar:30} {human_pos} of {human_len} spans acknowledged, {msg}, {eta} left";
        bar(ProgressBar::new(spans), template)
    }
}

async fn show(progress: ProgressBar, tally: Arc<Tally>, began: Instant) {
    let mut ticks = tokio::time::interval(REFRESH);
    let mut noted = false;
    loop {
        ticks.tick().await;
        let (under_way, acknowledged, failed) = tally.progress();
        let rate = acknowledged as f64 / began.elapsed().as_secs_f64().max(1e-3);
        let trouble = tally.refusal();
        let told = trouble.as_ref().map_or_else(String::new, |reason| format!(", last error: {reason}"));
        progress.set_position(acknowledged);
        progress.set_message(format!("{under_way} under way, {failed} failed, {rate:.0}/s{told}"));
        progress.tick();
        if let Some(reason) =
            trouble.filter(|_| progress.is_hidden() && !noted && began.elapsed() >= NOTE_AFTER)
        {
            out::note(format_args!(
                "{under_way} spans are under way and {acknowledged} were taken so far: {reason}"
            ));
            noted = true;
        }
    }
}

fn print(summary: &Summary, output: Output) -> anyhow::Result<()> {
    if output == Output::Json {
        out::line(serde_json::to_string(summary)?);
        return Ok(());
    }
    let Summary { messages, spans, bytes, seconds, .. } = summary;
    out::line(format_args!("messages            {messages:>14}"));
    out::line(format_args!("spans               {spans:>14}"));
    out::line(format_args!("  acknowledged      {:>14}", summary.acknowledged_spans));
    out::line(format_args!("  not acknowledged  {:>14}", summary.not_acknowledged_spans));
    out::line(format_args!("bytes               {bytes:>14}"));
    out::line(format_args!("seconds             {seconds:>14.3}"));
    out::line(format_args!("spans per second    {:>14.0}", summary.spans_per_second));
    Ok(())
}
