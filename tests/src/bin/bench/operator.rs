//! Many pipelines on a real API server: pods simulated by kwok, their `/status` by a responder here.
//!
//! kwok gives the pods addresses of 127.64.0.0/10, all of which lead to this process, so that the operator
//! asks every pod as it does in a cluster.

use std::io::{BufRead, BufReader, Lines};
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Child, ChildStdout};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::{Value, json};
use sluice_tests::cluster::{Cluster, get, kwok};
use sluice_tests::component::{Component, Launch, Scratch};
use sluice_tests::eventually;
use sluice_tests::operator::{CRD, Operator, Settings};
use sluice_tests::responder::Responder;

use crate::figure::{Figures, median};

/// Pods' addresses: all of them are this machine's.
const POD_CIDR: &str = "127.64.0.0/10";
const NAMESPACES: usize = 20;
/// Pipelines in one call of kubectl.
const BATCH: usize = 100;
/// Edits whose time is taken.
const EDITS: usize = 100;
const CONVERGE: Duration = Duration::from_secs(900);

#[derive(Debug, clap::Args)]
pub struct Args {
    /// How many pipelines, with two pods each.
    #[arg(long, default_value_t = 2_000)]
    pipelines: usize,
    /// How long nothing changes.
    #[arg(long, default_value_t = 10)]
    idle_minutes: u64,
    /// How long every consumer reports other numbers.
    #[arg(long, default_value_t = 2)]
    busy_minutes: u64,
    /// Write the figures here as well.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What every pod answers; numbers change from answer to answer while it is busy.
fn answer(number: u64, is_busy: bool) -> Value {
    let lag = if is_busy { number.wrapping_mul(7_919) % 1_000_000 } else { 1_000 };
    json!({
        "pipeline": "-", "revision": 1, "rateLimitQPS": 5_000, "effectiveQPS": 2_500.0,
        "achievedQPS": 2_500.0, "bottleneck": "Limiter", "drainSeconds": lag / 5_000,
        "partitions": [{ "topic": "t", "partition": 0, "position": 1, "lag": lag }],
        "deadLetters": 0, "lastError": null, "lastErrorReason": null,
    })
}

/// Writes that the operator has counted.
#[derive(Clone, Copy, Debug, Default)]
struct Writes {
    live: f64,
    children: f64,
    status: f64,
    numbers: f64,
}

struct Bench {
    cluster: Cluster,
    operator: Operator,
    pipelines: usize,
    responder: Responder,
    is_busy: Arc<AtomicBool>,
    _kwok: Component,
    _dir: Scratch,
}

/// Runs it.
/// Measures, and returns what was found.
pub async fn run(args: Args) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let bench = Bench::start(args.pipelines).await?;
    bench.converge(&mut figures).await?;
    bench.idle(args.idle_minutes, &mut figures).await?;
    bench.busy(args.busy_minutes, &mut figures).await?;
    bench.edits(&mut figures).await?;
    args.json.map_or(Ok(()), |path| figures.write_json(&path))?;
    Ok(figures)
}

impl Bench {
    async fn start(pipelines: usize) -> anyhow::Result<Self> {
        let cluster = Cluster::start().await?;
        let dir = Scratch::new("sluice-kwok-")?;
        let stages = dir.path().join("stages.yaml");
        std::fs::write(&stages, include_str!("../../../cluster/kwok/stages.yaml"))?;
        let launch = Launch {
            program: kwok()?,
            arguments: vec![
                format!("--kubeconfig={}", cluster.kubeconfig().display()),
                format!("--config={}", stages.display()),
                "--manage-all-nodes=true".into(),
                "--node-lease-duration-seconds=40".into(),
                format!("--cidr={POD_CIDR}"),
                "--node-ip=127.0.0.1".into(),
            ],
            log: dir.path().join("kwok.log"),
            ..Launch::default()
        };
        let kwok = Component::start("kwok", &launch)?;
        for number in 0..10 {
            cluster.apply(&node(number).to_string()).await?;
        }
        cluster.apply_crds(CRD).await?;
        for number in 0..NAMESPACES {
            cluster.kubectl(&["create", "namespace", &namespace(number)]).await?;
        }
        let is_busy = Arc::new(AtomicBool::new(false));
        let busy = is_busy.clone();
        let every_pod = Ipv4Addr::UNSPECIFIED.into();
        let responder = Responder::start(every_pod, move |number| answer(number, busy.load(Relaxed))).await?;
        let settings = Settings {
            image: "example/sluice:1".into(),
            installation: "bench".into(),
            ..Settings::default()
        };
        let operator = Operator::start(&cluster, &settings).await?;
        Ok(Self { cluster, operator, pipelines, responder, is_busy, _kwok: kwok, _dir: dir })
    }

    async fn metric(&self, name: &str) -> anyhow::Result<f64> {
        let (_, text) = get(&format!("http://{}/metrics", self.operator.admin()?)).await?;
        let line =
            text.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')));
        line.and_then(|line| line.rsplit(' ').next()?.parse().ok())
            .with_context(|| format!("no metric {name}"))
    }

    async fn writes(&self) -> anyhow::Result<Writes> {
        Ok(Writes {
            live: self.metric("sluice_operator_live_writes_total").await?,
            children: self.metric("sluice_operator_child_writes_total").await?,
            status: self.metric("sluice_operator_status_writes_total").await?,
            numbers: self.metric("sluice_operator_status_number_writes_total").await?,
        })
    }

    /// From the first `kubectl apply` until every pipeline is Ready and its rate confirmed.
    async fn converge(&self, figures: &mut Figures) -> anyhow::Result<()> {
        let began = Instant::now();
        for first in (0..self.pipelines).step_by(BATCH) {
            let last = (first + BATCH).min(self.pipelines);
            let items: Vec<_> = (first..last).map(pipeline).collect();
            let list = json!({ "apiVersion": "v1", "kind": "List", "items": items });
            self.cluster.apply(&list.to_string()).await?;
        }
        figures.note("operator/created", began.elapsed().as_secs_f64(), "s");
        let all = || async {
            let path = "jsonpath={range .items[*]}{.status.conditions[?(@.type==\"Ready\")].status}{.status.conditions[?(@.type==\"RateConfirmed\")].status}{\"\\n\"}{end}";
            let lines = self.cluster.kubectl(&["get", "tp", "--all-namespaces", "--output", path]).await?;
            Ok::<_, anyhow::Error>(lines.lines().filter(|line| *line == "TrueTrue").count())
        };
        eventually("every pipeline to be ready", CONVERGE, async || {
            tokio::time::sleep(Duration::from_secs(1)).await;
            Ok((all().await? == self.pipelines).then_some(()))
        })
        .await?;
        let writes = self.writes().await?;
        let count = self.pipelines as f64;
        figures.note("operator/converged", began.elapsed().as_secs_f64(), "s");
        figures.note("operator/child_writes_per_pipeline", (writes.children + writes.live) / count, "writes");
        figures.note("operator/status_writes_per_pipeline", writes.status / count, "writes");
        figures.at_most("operator/rss", self.operator.memory("VmRSS")? as f64 / 1_048_576.0, "MiB", 100.0);
        Ok(())
    }

    async fn idle(&self, minutes: u64, figures: &mut Figures) -> anyhow::Result<()> {
        // What converged last may still be told.
        tokio::time::sleep(Duration::from_secs(60)).await;
        let (before, cpu, asked) =
            (self.writes().await?, self.operator.cpu_time()?, self.responder.answers());
        tokio::time::sleep(Duration::from_secs(60 * minutes)).await;
        let after = self.writes().await?;
        let seconds = 60.0 * minutes as f64;
        let written =
            after.live + after.children + after.status - before.live - before.children - before.status;
        figures.at_most("operator/idle_writes", written, "writes", 0.0);
        let cpu = (self.operator.cpu_time()? - cpu).as_secs_f64() / seconds;
        figures.note("operator/idle_cpu", cpu, "cores");
        let asked = self.responder.answers() - asked;
        figures.note("operator/probes", asked as f64 / seconds, "1/s");
        Ok(())
    }

    async fn busy(&self, minutes: u64, figures: &mut Figures) -> anyhow::Result<()> {
        self.is_busy.store(true, Relaxed);
        let (before, cpu) = (self.writes().await?, self.operator.cpu_time()?);
        tokio::time::sleep(Duration::from_secs(60 * minutes)).await;
        let after = self.writes().await?;
        let seconds = 60.0 * minutes as f64;
        let budget = 10.0;
        figures.at_most(
            "operator/busy_status_writes",
            (after.status - before.status) / seconds,
            "1/s",
            budget,
        );
        ensure!(after.numbers > before.numbers, "no number was written");
        figures.note("operator/busy_cpu", (self.operator.cpu_time()? - cpu).as_secs_f64() / seconds, "cores");
        figures.at_most(
            "operator/busy_rss",
            self.operator.memory("VmRSS")? as f64 / 1_048_576.0,
            "MiB",
            100.0,
        );
        Ok(())
    }

    /// From the moment that a patch is sent to the moment that its ConfigMap is seen by a watch, while every
    /// number still moves.
    async fn edits(&self, figures: &mut Figures) -> anyhow::Result<()> {
        let mut times = Vec::new();
        for edit in 0..EDITS {
            let number = edit * self.pipelines / EDITS;
            let (space, name) = (namespace(number % NAMESPACES), format!("p-{number}"));
            let rate = 100 + edit;
            let patch = json!({ "spec": { "rateLimitQPS": rate } }).to_string();
            let watched = self.watch(&space, &format!("{name}-live")).await?;
            let began = Instant::now();
            self.cluster
                .kubectl(&["--namespace", &space, "patch", "tp", &name, "--type=merge", "-p", &patch])
                .await?;
            let seen = watched.until(format!("\"rateLimitQPS\":{rate},")).await?;
            times.push(seen.duration_since(began).as_secs_f64() * 1_000.0);
        }
        times.sort_by(f64::total_cmp);
        figures.note("operator/edit_median", median(&times), "ms");
        let p99 = times.get(times.len() * 99 / 100 - 1).copied().unwrap_or(f64::NAN);
        figures.at_most("operator/edit_p99", p99, "ms", 500.0);
        Ok(())
    }
}

/// The content of a live ConfigMap, as a watch tells it.
struct Watched {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Bench {
    /// Begins to watch, and waits until the watch stands.
    async fn watch(&self, namespace: &str, name: &str) -> anyhow::Result<Watched> {
        let output = "--output=jsonpath={.data.live\\.json}{\"\\n\"}";
        let mut command = self.cluster.kubectl_command(&[
            "--namespace",
            namespace,
            "get",
            "configmap",
            "--watch",
            "--field-selector",
            &format!("metadata.name={name}"),
            output,
        ]);
        tokio::task::spawn_blocking(move || {
            let mut child = command.spawn()?;
            let mut lines = BufReader::new(child.stdout.take().context("no output")?).lines();
            lines.next().context("the watch told nothing")??;
            Ok(Watched { child, lines })
        })
        .await?
    }
}

impl Watched {
    /// When a content with this text was told.
    async fn until(mut self, text: String) -> anyhow::Result<Instant> {
        tokio::task::spawn_blocking(move || {
            let mut seen = None;
            for line in &mut self.lines {
                if line?.contains(&text) {
                    seen = Some(Instant::now());
                    break;
                }
            }
            self.child.kill()?;
            self.child.wait()?;
            seen.context("the watch has ended")
        })
        .await?
    }
}

fn namespace(number: usize) -> String {
    format!("team-{}", number % NAMESPACES)
}

fn pipeline(number: usize) -> Value {
    json!({
        "apiVersion": "sluice.dev/v1alpha1",
        "kind": "TracePipeline",
        "metadata": { "name": format!("p-{number}"), "namespace": namespace(number) },
        "spec": {
            "source": { "kafka": { "bootstrapServers": "kafka:9092", "topic": format!("spans-{number}"), "consumerGroup": "sluice" } },
            "rateLimitQPS": 5_000,
            "sink": { "mysql": { "urlFrom": { "secretKeyRef": { "name": "db", "key": "url" } } } },
        },
    })
}

fn node(number: usize) -> Value {
    let room = json!({ "cpu": "10000", "memory": "100Ti", "pods": "10000" });
    json!({
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": { "name": format!("simulated-{number}"), "annotations": { "kwok.x-k8s.io/node": "fake" },
            "labels": { "kubernetes.io/hostname": format!("simulated-{number}") } },
        "status": { "capacity": room, "allocatable": room },
    })
}
