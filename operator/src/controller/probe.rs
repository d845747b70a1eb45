//! Asks the consumers how they are: `GET /status` of every pod.
//!
//! Guarantees: an answer is bounded in size and time, redirects are not followed, and at most
//! [`MAX_AT_ONCE`] requests are under way. A reconcile never waits for a pod: it reads the last reports, and
//! is started again when reports change in a way that somebody should see at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::runtime::reflector::ObjectRef;
use serde::Deserialize;
use sluice_crds::names::ADMIN_PORT;
use sluice_crds::v1alpha1::TracePipeline;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::MissedTickBehavior;

use super::dereference::PodAddress;
use crate::metrics::Metrics;

/// Between two questions while nothing is expected.
const IDLE_INTERVAL: Duration = Duration::from_secs(10);
/// Between two questions while an edit is on its way.
const URGENT_INTERVAL: Duration = Duration::from_millis(250);
/// For how long an edit is asked after that often.
const URGENT_FOR: Duration = Duration::from_secs(30);
/// Longest wait for an answer.
const TIMEOUT: Duration = Duration::from_secs(2);
/// Largest answer: thousands of partitions fit.
const MAX_ANSWER_BYTES: usize = 1 << 20;
/// Requests under way at once.
const MAX_AT_ONCE: usize = 64;
/// How often numbers alone may lead to a status write.
pub const NUMBERS_EVERY: Duration = Duration::from_secs(30);

/// What is read of a consumer's `/status`; anything else in it is ignored.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Report {
    /// Revision of the live document in effect.
    pub revision: u64,
    /// The pipeline's uid; none of older consumers.
    pub pipeline_uid: Option<String>,
    /// Spans per second set for the whole pipeline.
    #[serde(rename = "rateLimitQPS")]
    pub rate_limit_qps: u32,
    /// Spans per second that this replica may release.
    #[serde(rename = "effectiveQPS")]
    pub effective_qps: f64,
    /// Spans per second stored.
    #[serde(rename = "achievedQPS")]
    pub achieved_qps: f64,
    /// What limits it.
    pub bottleneck: String,
    /// Its partitions.
    pub partitions: Vec<PartitionReport>,
    /// Dead letters since its start.
    pub dead_letters: u64,
    /// The newest unresolved error.
    pub last_error: Option<String>,
    /// Its class.
    pub last_error_reason: Option<String>,
    /// Seconds until its backlog is drained.
    pub drain_seconds: Option<u64>,
}

/// One partition of a [`Report`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PartitionReport {
    /// Messages that wait.
    pub lag: Option<u64>,
}

/// What a pod has said, or why it has not.
#[derive(Clone, Debug, PartialEq)]
pub struct PodReport {
    /// Name of the pod.
    pub pod: String,
    /// Its answer.
    pub answer: Result<Report, String>,
}

/// Which pods to ask, and what is waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The pods.
    pub pods: Vec<PodAddress>,
    /// The revision that all of them should report.
    pub revision: u64,
}

struct Entry {
    target: Target,
    urgent_until: Instant,
    due: Instant,
    asking: bool,
    reports: Vec<PodReport>,
    numbers_seen: Instant,
}

/// The consumers' reports, and the task that gathers them.
pub struct Prober {
    entries: Mutex<HashMap<ObjectRef<TracePipeline>, Entry>>,
    client: Client<HttpConnector, Empty<Bytes>>,
    at_once: Semaphore,
    metrics: Arc<Metrics>,
}

impl Prober {
    /// Asks nobody until [`Self::run`].
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(TIMEOUT));
        Self {
            entries: Mutex::default(),
            client: Client::builder(TokioExecutor::new())
                .pool_max_idle_per_host(1)
                .pool_idle_timeout(IDLE_INTERVAL * 3)
                .build(connector),
            at_once: Semaphore::new(MAX_AT_ONCE),
            metrics,
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectRef<TracePipeline>, Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says whom to ask; gives the last reports of those pods.
    pub fn look_at(&self, pipeline: &ObjectRef<TracePipeline>, target: Target) -> Vec<PodReport> {
        let now = Instant::now();
        let mut entries = self.entries();
        let entry = entries.entry(pipeline.clone()).or_insert_with(|| Entry {
            target: Target::default(),
            urgent_until: now,
            due: now,
            asking: false,
            reports: Vec::new(),
            numbers_seen: now,
        });
        if entry.target != target {
            entry.target = target;
            entry.due = now;
            entry.urgent_until = now + URGENT_FOR;
            let pods = &entry.target.pods;
            entry.reports.retain(|report| pods.iter().any(|pod| pod.name == report.pod));
        }
        entry.reports.clone()
    }

    /// The last reports, for what needs them before it can say whom to ask.
    pub fn reports(&self, pipeline: &ObjectRef<TracePipeline>) -> Vec<PodReport> {
        self.entries().get(pipeline).map(|entry| entry.reports.clone()).unwrap_or_default()
    }

    /// The pipeline is gone.
    pub fn forget(&self, pipeline: &ObjectRef<TracePipeline>) {
        self.entries().remove(pipeline);
    }

    /// Asks until the receiver of `changed` is gone. Pipelines that `exists` does not know are forgotten.
    pub async fn run(
        self: Arc<Self>,
        changed: mpsc::UnboundedSender<ObjectRef<TracePipeline>>,
        exists: impl Fn(&ObjectRef<TracePipeline>) -> bool,
    ) {
        let mut tick = tokio::time::interval(URGENT_INTERVAL / 2);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            if changed.is_closed() {
                return;
            }
            for (pipeline, target) in self.due() {
                if !exists(&pipeline) {
                    self.forget(&pipeline);
                    continue;
                }
                let (prober, changed) = (self.clone(), changed.clone());
                tokio::spawn(async move {
                    let reports = prober.ask(&target).await;
                    if prober.keep(&pipeline, &target, reports) {
                        // Nobody listens any more where the operator stops.
                        let _ = changed.send(pipeline);
                    }
                });
            }
        }
    }

    fn due(&self) -> Vec<(ObjectRef<TracePipeline>, Target)> {
        let now = Instant::now();
        let mut due = Vec::new();
        for (pipeline, entry) in self.entries().iter_mut() {
            if !entry.asking && entry.due <= now {
                entry.asking = true;
                due.push((pipeline.clone(), entry.target.clone()));
            }
        }
        due
    }

    async fn ask(&self, target: &Target) -> Vec<PodReport> {
        let mut answers: FuturesUnordered<_> = target.pods.iter().map(|pod| self.ask_pod(pod)).collect();
        let mut reports = Vec::with_capacity(target.pods.len());
        while let Some(report) = answers.next().await {
            self.metrics.probed(report.answer.is_ok());
            reports.push(report);
        }
        reports.sort_by(|left, right| left.pod.cmp(&right.pod));
        reports
    }

    async fn ask_pod(&self, pod: &PodAddress) -> PodReport {
        let _permit = self.at_once.acquire().await;
        let answer = match &pod.ip {
            None => Err("has no address yet".to_owned()),
            Some(ip) => tokio::time::timeout(TIMEOUT, self.fetch(ip))
                .await
                .unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs()))),
        };
        PodReport { pod: pod.name.clone(), answer }
    }

    async fn fetch(&self, ip: &str) -> Result<Report, String> {
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let uri = format!("http://{host}:{ADMIN_PORT}/status").parse().map_err(|error| format!("{error}"))?;
        let response = self.client.get(uri).await.map_err(|error| match error.is_connect() {
            true => "cannot connect".to_owned(),
            false => format!("no answer: {error}"),
        })?;
        if !response.status().is_success() {
            return Err(format!("answers {}", response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| format!("unreadable answer: {error}"))?.to_bytes();
        serde_json::from_slice(&body).map_err(|error| format!("unreadable answer: {error}"))
    }

    /// Keeps reports; tells whether somebody should look at them now.
    fn keep(&self, pipeline: &ObjectRef<TracePipeline>, asked: &Target, reports: Vec<PodReport>) -> bool {
        let now = Instant::now();
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(pipeline) else { return false };
        entry.asking = false;
        if entry.target != *asked {
            // The question has changed meanwhile, and is due already.
            return false;
        }
        let confirmed = reports
            .iter()
            .all(|report| report.answer.as_ref().is_ok_and(|answer| answer.revision == asked.revision));
        let interval = if confirmed || now >= entry.urgent_until { IDLE_INTERVAL } else { URGENT_INTERVAL };
        entry.due = now + interval;
        let at_once = notable(&entry.reports) != notable(&reports);
        let numbers = entry.reports != reports && now.duration_since(entry.numbers_seen) >= NUMBERS_EVERY;
        if at_once || numbers {
            entry.numbers_seen = now;
        }
        entry.reports = reports;
        at_once || numbers
    }
}

/// What of a report is worth a status at once. The rest are numbers, and texts of errors may hold some, too.
#[derive(PartialEq)]
struct Notable<'a> {
    pod: &'a str,
    answers: bool,
    revision: u64,
    rate: u32,
    bottleneck: &'a str,
    has_error: bool,
    error_reason: Option<&'a str>,
}

fn notable(reports: &[PodReport]) -> Vec<Notable<'_>> {
    reports
        .iter()
        .map(|report| {
            let answer = report.answer.as_ref().ok();
            Notable {
                pod: &report.pod,
                answers: answer.is_some(),
                revision: answer.map_or(0, |answer| answer.revision),
                rate: answer.map_or(0, |answer| answer.rate_limit_qps),
                bottleneck: answer.map_or("", |answer| &answer.bottleneck),
                has_error: answer.is_some_and(|answer| answer.last_error.is_some()),
                error_reason: answer.and_then(|answer| answer.last_error_reason.as_deref()),
            }
        })
        .collect()
}
