//! `tests/bench peers`: Sluice beside what people use today, on the same topic and the same servers, in one run.
//!
//! Into MariaDB: `sluice consume`, with plain and with sealed bodies, and Zipkin's server. Into nothing: Sluice's
//! pipeline with its null store, and an OpenTelemetry Collector with its nop exporter. Arms take turns; every turn has
//! an empty database or a consumer group of its own, and a process of its own.

mod collector;
mod nothing;
mod sluice;
mod summary;
mod turn;
mod zipkin;

use std::path::PathBuf;

use clap::ValueEnum;
use sluice_tests::kafka::Kafka;
use sluice_tests::mariadb::MariaDb;
use sluice_tests::workload::{SPANS_PER_MESSAGE, otlp_proto, zipkin_json};

use crate::figure::Figures;
use crate::store::{PARTITIONS, pin};
use summary::Summary;
use turn::{Database, Durability};

pub use nothing::{ChildArgs, child};

/// Spans as Zipkin JSON: what all arms read that store.
const ZIPKIN_JSON: &str = "zipkin_json";
/// Spans as OTLP protobuf.
const OTLP_PROTO: &str = "otlp_proto";
/// How many times Zipkin's speed is wanted.
const FASTER: f64 = 200.0;
/// What the collector's processor time is divided by.
const LEANER: f64 = 5.0;

/// What to measure.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:
  tests/bench peers --json peers.json
  tests/bench peers --only nothing --rounds 5
  tests/bench peers --rounds 1 --spans 300000 --zipkin-spans 5000 --chart /tmp/peers.svg")]
pub struct Args {
    /// Write the figures as JSON, too.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// How often each arm has its turn.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Spans in the topic, and of a turn of every arm but Zipkin's.
    #[arg(long, default_value_t = 1_200_000)]
    spans: u64,
    /// Spans of a turn of Zipkin's.
    #[arg(long, default_value_t = 10_000)]
    zipkin_spans: u64,
    /// Only this part.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Where the chart goes; it is drawn when both parts are measured.
    #[arg(long, value_name = "FILE", default_value = "docs/peers.svg")]
    chart: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Into MariaDB.
    Database,
    /// Into nothing.
    Nothing,
}

/// Measures, and returns what was found.
pub async fn run(args: Args) -> anyhow::Result<Figures> {
    let kafka = Kafka::start().await?;
    fill(&kafka, ZIPKIN_JSON, args.spans, zipkin_json).await?;
    let mut summary = Summary::default();
    if args.only != Some(Part::Nothing) {
        into_a_database(&kafka, &args, &mut summary).await?;
    }
    if args.only != Some(Part::Database) {
        fill(&kafka, OTLP_PROTO, args.spans, otlp_proto).await?;
        into_nothing(&kafka, &args, &mut summary).await?;
    }
    let figures = figures(&summary);
    println!("\n{}", summary.table());
    if args.only.is_none() {
        std::fs::write(&args.chart, summary.chart()?)?;
        println!("# drawn: {}", args.chart.display());
    }
    args.json.map_or(Ok(()), |path| figures.write_json(&path))?;
    Ok(figures)
}

async fn fill(kafka: &Kafka, topic: &str, spans: u64, message: fn(u64) -> Vec<u8>) -> anyhow::Result<()> {
    kafka.create_topic(topic, PARTITIONS, &[]).await?;
    let sender = kafka.producer()?;
    let mut bytes = 0;
    for number in 0..spans / SPANS_PER_MESSAGE {
        let value = message(number);
        bytes += value.len() as u64;
        sender.send(topic, (number % PARTITIONS as u64) as i32, Some(&value), None, None).await?;
    }
    sender.flush()?;
    println!("# {spans} spans of {} bytes on the average in {topic}", bytes / spans);
    Ok(())
}

async fn into_a_database(kafka: &Kafka, args: &Args, summary: &mut Summary) -> anyhow::Result<()> {
    let mut server =
        MariaDb::start_with(&["--innodb-buffer-pool-size=2G", "--innodb-log-file-size=1G"]).await?;
    let pid = server.server()?.component().pid();
    pin(pid)?;
    let database = Database { server, pid };
    let sealing = sluice::knows_sealing(kafka)?;
    for round in 0..args.rounds {
        let plain = sluice::turn(kafka, &database, ZIPKIN_JSON, args.spans, sluice::Bodies::Plain).await?;
        summary.add("sluice", plain);
        if sealing {
            let sealed =
                sluice::turn(kafka, &database, ZIPKIN_JSON, args.spans, sluice::Bodies::Sealed).await?;
            summary.add("sluice_sealed", sealed);
        }
        for (name, durability, streams) in [
            ("zipkin", Durability::Equal, 1),
            ("zipkin_relaxed", Durability::Relaxed, 1),
            ("zipkin_streams", Durability::Equal, PARTITIONS),
        ] {
            let settings = zipkin::Settings { durability, streams, round };
            summary
                .add(name, zipkin::turn(kafka, &database, ZIPKIN_JSON, args.zipkin_spans, settings).await?);
        }
    }
    Ok(())
}

async fn into_nothing(kafka: &Kafka, args: &Args, summary: &mut Summary) -> anyhow::Result<()> {
    for _ in 0..args.rounds {
        for encoding in [ZIPKIN_JSON, OTLP_PROTO] {
            let pipeline = nothing::turn(kafka, encoding, args.spans).await?;
            summary.add(&format!("sluice_null/{encoding}"), pipeline);
            summary
                .add(&format!("collector/{encoding}"), collector::turn(kafka, encoding, args.spans).await?);
        }
    }
    Ok(())
}

/// Every arm's medians, and the ratios with their goals.
fn figures(summary: &Summary) -> Figures {
    let mut figures = Figures::default();
    summary.note(&mut figures);
    let ratio = |name: &str, of: &str, value: turn::Value| summary.ratio(name, of, value);
    for (peer, goal) in [("zipkin", Some(FASTER)), ("zipkin_relaxed", None), ("zipkin_streams", None)] {
        if let Some(times) = ratio("sluice", peer, |turn| turn.spans) {
            let name = format!("peers/ratio/sluice_to_{peer}/spans");
            match goal {
                Some(goal) => figures.at_least(name, times, "times", goal),
                None => figures.note(name, times, "times"),
            }
        }
        for (what, value) in turn::COSTS {
            if let Some(times) = ratio("sluice", peer, value) {
                figures.note(format!("peers/ratio/sluice_to_{peer}/{what}"), times, "times");
            }
        }
    }
    if let Some(times) = ratio("sluice_sealed", "sluice", |turn| turn.spans) {
        figures.at_least("peers/ratio/sealed_to_plain/spans", times, "times", 1.0);
    }
    if let Some(times) = ratio("sluice_sealed", "sluice", |turn| turn.bytes) {
        figures.at_most("peers/ratio/sealed_to_plain/bytes", times, "times", 0.55);
    }
    for encoding in [ZIPKIN_JSON, OTLP_PROTO] {
        let (pipeline, peer) = (format!("sluice_null/{encoding}"), format!("collector/{encoding}"));
        if let Some(times) = ratio(&pipeline, &peer, |turn| turn.spans) {
            figures.note(format!("peers/ratio/null_to_collector/{encoding}/spans"), times, "times");
        }
        if let Some(times) = ratio(&pipeline, &peer, |turn| turn.cpu) {
            let name = format!("peers/ratio/null_to_collector/{encoding}/cpu");
            figures.at_most(name, times, "times", 1.0 / LEANER);
        }
        if let Some(times) = ratio(&pipeline, &peer, |turn| turn.peak) {
            figures.note(format!("peers/ratio/null_to_collector/{encoding}/peak"), times, "times");
        }
    }
    figures
}
