//! Sluice's pipeline with its null store, in a process of its own: what it uses is then nobody else's.

use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use sluice_consumer::pipeline::MAX_LANES;
use sluice_consumer::store::memory::MemoryStore;
use sluice_crds::v1alpha1::Format;
use sluice_tests::component::{Component, Launch, Scratch};
use sluice_tests::kafka::Kafka;

use super::turn::Turn;
use crate::pipeline::{Measured, drain};

const DEADLINE: Duration = Duration::from_secs(180);

/// What the process is told.
#[derive(Debug, clap::Args)]
pub struct ChildArgs {
    #[arg(long, value_enum)]
    encoding: Encoding,
    #[arg(long)]
    spans: u64,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Encoding {
    ZipkinJson,
    OtlpProto,
}

/// Runs the process, which reads all spans of a topic that is named after its encoding.
///
/// # Errors
/// It failed.
pub async fn turn(kafka: &Kafka, encoding: &str, spans: u64) -> anyhow::Result<Turn> {
    let dir = Scratch::new("sluice-null-")?;
    let arguments = ["drain-into-nothing", "--encoding", encoding, "--spans", &spans.to_string()];
    let launch = Launch {
        program: std::env::current_exe()?,
        arguments: arguments.map(str::to_owned).into(),
        // The child uses the broker that is there.
        environment: vec![("SLUICE_TEST_KAFKA".to_owned(), kafka.bootstrap().to_owned())],
        log: dir.path().join("null.log"),
    };
    let mut component = Component::start("the null pipeline", &launch)?;
    let code = component.ended(DEADLINE).await?;
    let said = component.log_tail(30);
    ensure!(code == 0, "the null pipeline ended with {code}:\n{said}");
    let value: serde_json::Value =
        serde_json::from_str(said.trim()).with_context(|| format!("the null pipeline said {said}"))?;
    let number = |name: &str| value[name].as_f64().with_context(|| format!("no {name} in {said}"));
    Ok(Turn::into_nothing(number("spans")?, number("cpu")?, number("peak")?))
}

/// The process: drains a topic and prints what it took as JSON.
pub async fn child(args: ChildArgs) -> anyhow::Result<()> {
    let kafka = Kafka::start().await?;
    let (topic, format) = match args.encoding {
        Encoding::ZipkinJson => (super::ZIPKIN_JSON, Format::ZipkinJson),
        Encoding::OtlpProto => (super::OTLP_PROTO, Format::OtlpProto),
    };
    let run = drain(
        &kafka,
        topic,
        format,
        Measured::to_the_end(args.spans),
        std::sync::Arc::new(MemoryStore::without_rows(MAX_LANES)),
    )
    .await?;
    let status = std::fs::read_to_string("/proc/self/status")?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let peak: f64 = peak.and_then(|rest| rest.split_whitespace().next()).context("no VmHWM")?.parse()?;
    println!("{}", serde_json::json!({ "spans": run.rate, "cpu": run.cpu_micros, "peak": peak / 1_024.0 }));
    Ok(())
}
