//! An OpenTelemetry Collector that reads from Kafka and throws everything away.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, ensure};
use sluice_tests::cluster::get;
use sluice_tests::component::{Component, Launch, Scratch};
use sluice_tests::kafka::Kafka;
use sluice_tests::{cache_dir, eventually, free_port};

use super::turn::{Turn, measure, peak};

/// Of the builder that tests/peers/collector/go.mod pins, and of all that it builds.
const VERSION: &str = "v0.155.0";
const START: Duration = Duration::from_secs(60);

/// Reads all spans of a topic, which is named after its encoding.
///
/// # Errors
/// It does not.
pub async fn turn(kafka: &Kafka, encoding: &str, spans: u64) -> anyhow::Result<Turn> {
    let files = std::env::var_os("SLUICE_TEST_COLLECTOR")
        .map_or_else(|| cache_dir().join(format!("collector-{VERSION}/bin")), PathBuf::from);
    let program = files.join("otelcol");
    ensure!(program.is_file(), "no {}; run `tests/run --prepare --with-peers`", program.display());
    let dir = Scratch::new("sluice-collector-")?;
    let metrics = free_port()?;
    let configuration = dir.path().join("collector.yaml");
    std::fs::write(&configuration, yaml(kafka.bootstrap(), encoding, metrics))?;
    let launch = Launch {
        program,
        arguments: vec![format!("--config={}", configuration.display())],
        log: dir.path().join("collector.log"),
        ..Launch::default()
    };
    let mut collector = Component::start("the collector", &launch)?;
    let url = format!("http://127.0.0.1:{metrics}/metrics");
    eventually("the collector to tell its metrics", START, async || {
        ensure!(collector.is_running()?, "the collector ended:\n{}", collector.log_tail(30));
        Ok(get(&url).await.is_ok().then_some(()))
    })
    .await?;
    let accepted = async || {
        let (_, text) = get(&url).await?;
        accepted_spans(&text)
    };
    let measured = measure(&mut collector, None, spans / 10, spans / 10 * 9, accepted).await?;
    let peak = peak(&collector)?;
    collector.kill().await?;
    Ok(Turn::into_nothing(measured.rate, measured.cpu, peak))
}

/// The counter among the metrics; it is not there before the first span.
fn accepted_spans(text: &str) -> anyhow::Result<u64> {
    let line = text.lines().find(|line| line.starts_with("otelcol_receiver_accepted_spans"));
    let Some(value) = line.and_then(|line| line.rsplit(' ').next()) else { return Ok(0) };
    Ok(value.parse::<f64>().with_context(|| format!("no number in {line:?}"))? as u64)
}

fn yaml(bootstrap: &str, encoding: &str, metrics: u16) -> String {
    format!(
        "receivers:
  kafka:
    brokers: [\"{bootstrap}\"]
    group_id: bench-{:08x}
    initial_offset: earliest
    traces: {{ topics: [{encoding}], encoding: {encoding} }}
exporters:
  nop: {{}}
service:
  pipelines:
    traces: {{ receivers: [kafka], exporters: [nop] }}
  telemetry:
    metrics:
      readers: [{{ pull: {{ exporter: {{ prometheus: {{ host: 127.0.0.1, port: {metrics} }} }} }} }}]
",
        fastrand::u32(..)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_version_is_that_of_the_builder() {
        let module = include_str!("../../../../peers/collector/go.mod");
        assert!(module.contains(&format!("go.opentelemetry.io/collector/cmd/builder {VERSION}")));
    }

    #[test]
    fn the_spans_of_the_receiver_are_found_among_its_metrics() {
        let text = "# TYPE otelcol_receiver_accepted_spans_total counter\n\
                    otelcol_receiver_accepted_spans_total{receiver=\"kafka\",transport=\"\"} 1.2e+06\n";
        assert_eq!(accepted_spans(text).unwrap(), 1_200_000);
        assert_eq!(accepted_spans("").unwrap(), 0);
    }
}
