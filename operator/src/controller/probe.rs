//! Asks the consumers how they are: `GET /status` of every pod.
//!
//! Guarantees: an answer is bounded in size and time, redirects are not followed, and a bounded number of
//! requests is under way. A reconcile never waits for a pod: it reads the last reports, and is started again
//! when reports change in a way that somebody should see at once. Where only numbers differ from what the
//! status tells, it is started when it is the pipeline's turn, so that numbers never queue before an edit.

mod pace;
mod report;

use std::collections::hash_map::RandomState;
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher, Hasher};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use kube::runtime::reflector::ObjectRef;
use sluice_crds::names::ADMIN_PORT;
use sluice_crds::v1alpha1::TracePipeline;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use super::dereference::PodAddress;
use crate::lock::lock;
use crate::metrics::Metrics;
use crate::tasks::reap;
use pace::StatusPace;
pub use report::{CONSUMER_ERROR, Expiry, PodReport, Report, answers_of};
use report::{beginning, notable};

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
/// Requests under way at once that an edit waits for.
const MAX_URGENT: usize = 32;
/// Others under way at once.
const MAX_ROUTINE: usize = 32;
/// How often the numbers of any pipeline may lead to a status write: eight a second is what an API server does not notice.
const TURN_EVERY: Duration = Duration::from_millis(125);
/// For how long a pod is not asked after it was silent once; it doubles.
const FIRST_SILENCE: Duration = Duration::from_secs(2);
/// The longest.
const LONGEST_SILENCE: Duration = Duration::from_secs(60);

/// Which pods to ask, and what is waited for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Target {
    /// The pods.
    pub pods: Vec<PodAddress>,
    /// The revision that all of them should report.
    pub revision: u64,
    /// The pipeline that all of them should report.
    pub uid: String,
}

struct Entry {
    target: Target,
    urgent_until: Instant,
    due: Instant,
    asking: bool,
    reports: Vec<PodReport>,
    /// Pods that let a request run into its time-out; they must not hold up the others.
    silent: HashMap<String, Silence>,
    pace: StatusPace,
}

impl Entry {
    fn new(now: Instant) -> Self {
        Self {
            target: Target::default(),
            urgent_until: now,
            due: now,
            asking: false,
            reports: Vec::new(),
            silent: HashMap::new(),
            pace: StatusPace::default(),
        }
    }

    /// Each time that it is silent a pod is left alone for longer.
    fn note_silence(&mut self, answer: &Answer, now: Instant) {
        let pod = &answer.report.pod;
        if !answer.timed_out {
            self.silent.remove(pod);
            return;
        }
        let times = self.silent.get(pod).map_or(0, |silence| silence.times);
        let wait = LONGEST_SILENCE.min(FIRST_SILENCE * 2_u32.saturating_pow(times.min(16)));
        self.silent.insert(pod.clone(), Silence { times: times + 1, until: now + wait });
    }
}

#[derive(Clone, Copy, Debug)]
struct Silence {
    times: u32,
    until: Instant,
}

/// What is asked now.
struct Question {
    target: Target,
    /// Those of the target's pods that are asked.
    pods: Vec<PodAddress>,
    urgent: bool,
}

struct Answer {
    report: PodReport,
    timed_out: bool,
}

/// The consumers' reports, and the task that gathers them.
pub struct Prober {
    entries: Mutex<HashMap<ObjectRef<TracePipeline>, Entry>>,
    /// Whose numbers wait to be told; first come, first served.
    waiting: Mutex<VecDeque<ObjectRef<TracePipeline>>>,
    client: Client<HttpConnector, Empty<Bytes>>,
    urgent: Semaphore,
    routine: Semaphore,
    metrics: Arc<Metrics>,
    /// Where consumers listen.
    port: u16,
}

impl Prober {
    /// Asks nobody until [`Self::run`].
    pub fn new(metrics: Arc<Metrics>) -> Self {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(TIMEOUT));
        Self {
            entries: Mutex::default(),
            waiting: Mutex::default(),
            // No connection outlives its answer: thousands of idle ones, with their buffers, cost more than
            // making one every ten seconds.
            client: Client::builder(TokioExecutor::new()).pool_max_idle_per_host(0).build(connector),
            urgent: Semaphore::new(MAX_URGENT),
            routine: Semaphore::new(MAX_ROUTINE),
            metrics,
            port: ADMIN_PORT,
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, HashMap<ObjectRef<TracePipeline>, Entry>> {
        lock(&self.entries)
    }

    /// Says whom to ask; gives the last reports of those pods.
    pub fn look_at(&self, pipeline: &ObjectRef<TracePipeline>, target: Target) -> Vec<PodReport> {
        let now = Instant::now();
        let mut entries = self.entries();
        let entry = entries.entry(pipeline.clone()).or_insert_with(|| Entry::new(now));
        if entry.target != target {
            entry.target = target;
            entry.due = now;
            entry.urgent_until = now + URGENT_FOR;
            entry.silent.clear();
            let pods = &entry.target.pods;
            entry.reports.retain(|report| pods.iter().any(|pod| pod.name == report.pod));
        }
        entry.pace.give(&entry.reports);
        entry.reports.clone()
    }

    /// The last reports, for what needs them before it can say whom to ask.
    pub fn reports(&self, pipeline: &ObjectRef<TracePipeline>) -> Vec<PodReport> {
        self.entries().get(pipeline).map(|entry| entry.reports.clone()).unwrap_or_default()
    }

    /// The status tells what the reports say that were given last, or, where the pipeline is refused and nobody
    /// looks at it, tells nothing of them; `written` where it was written for that.
    pub fn told(&self, pipeline: &ObjectRef<TracePipeline>, written: bool) {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(pipeline) else { return };
        entry.pace.tell(&entry.reports, written);
    }

    /// Whether numbers alone may be written now.
    pub fn may_tell_numbers(&self, pipeline: &ObjectRef<TracePipeline>) -> bool {
        self.entries().get(pipeline).is_some_and(|entry| entry.pace.has_turn())
    }

    /// For how long words alone are not written yet.
    pub fn words_wait(&self, pipeline: &ObjectRef<TracePipeline>) -> Duration {
        self.entries().get(pipeline).map_or(Duration::ZERO, |entry| entry.pace.words_wait())
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
        let mut tick = tokio::time::interval(TURN_EVERY);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut questions = JoinSet::new();
        loop {
            tick.tick().await;
            reap(&mut questions);
            if changed.is_closed() {
                return;
            }
            for (pipeline, question) in self.due(Instant::now()) {
                if !exists(&pipeline) {
                    self.forget(&pipeline);
                    continue;
                }
                let (prober, changed) = (self.clone(), changed.clone());
                questions.spawn(async move {
                    let answers = prober.ask(&question).await;
                    if prober.keep(&pipeline, &question.target, answers, Instant::now()) {
                        // Nobody listens any more where the operator stops.
                        let _ = changed.send(pipeline);
                    }
                });
            }
            if let Some(pipeline) = self.next_turn() {
                // As above; the next round ends the loop.
                let _ = changed.send(pipeline);
            }
        }
    }

    fn due(&self, now: Instant) -> Vec<(ObjectRef<TracePipeline>, Question)> {
        let mut due = Vec::new();
        for (pipeline, entry) in self.entries().iter_mut() {
            if entry.asking || entry.due > now {
                continue;
            }
            entry.asking = true;
            let is_silent = |pod: &PodAddress| entry.silent.get(&pod.name).is_some_and(|it| it.until > now);
            let pods = entry.target.pods.iter().filter(|pod| !is_silent(pod)).cloned().collect();
            let urgent = now < entry.urgent_until;
            due.push((pipeline.clone(), Question { target: entry.target.clone(), pods, urgent }));
        }
        due
    }

    /// Whose numbers are told next.
    fn next_turn(&self) -> Option<ObjectRef<TracePipeline>> {
        loop {
            let pipeline = lock(&self.waiting).pop_front()?;
            let mut entries = self.entries();
            let Some(entry) = entries.get_mut(&pipeline) else { continue };
            if entry.pace.take_turn(&entry.reports) {
                return Some(pipeline);
            }
        }
    }

    async fn ask(&self, question: &Question) -> Vec<Answer> {
        let permits = if question.urgent { &self.urgent } else { &self.routine };
        let asked = question.pods.iter().map(|pod| self.ask_pod(pod, &question.target.uid, permits));
        let mut asked: FuturesUnordered<_> = asked.collect();
        let mut answers = Vec::with_capacity(question.pods.len());
        while let Some(answer) = asked.next().await {
            self.metrics.probed(answer.report.answer.is_ok());
            answers.push(answer);
        }
        answers
    }

    async fn ask_pod(&self, pod: &PodAddress, uid: &str, permits: &Semaphore) -> Answer {
        let Some(ip) = &pod.ip else {
            let answer = Err("has no address yet".to_owned());
            return Answer { report: PodReport { pod: pod.name.clone(), answer }, timed_out: false };
        };
        let _permit = permits.acquire().await;
        let began = Instant::now();
        let answer = tokio::time::timeout(TIMEOUT, self.fetch(ip))
            .await
            .unwrap_or_else(|_| Err(format!("no answer within {} s", TIMEOUT.as_secs())));
        // The connector has the same time-out, and may be the first of the two.
        let timed_out = answer.is_err() && began.elapsed() >= TIMEOUT / 2;
        // An address may be given out again while the pod of a lost node has it. Older consumers do not say whose they are.
        let answer = answer.and_then(|report| match &report.pipeline_uid {
            Some(whose) if whose != uid => Err("another pipeline's consumer answers in its place".to_owned()),
            _ => Ok(report),
        });
        Answer { report: PodReport { pod: pod.name.clone(), answer }, timed_out }
    }

    async fn fetch(&self, ip: &str) -> Result<Report, String> {
        let host = if ip.contains(':') { format!("[{ip}]") } else { ip.to_owned() };
        let uri =
            format!("http://{host}:{}/status", self.port).parse().map_err(|error| format!("{error}"))?;
        let response = self.client.get(uri).await.map_err(|error| match error.is_connect() {
            true => "cannot connect".to_owned(),
            false => format!("no answer: {error}"),
        })?;
        if !response.status().is_success() {
            return Err(format!("answers {}", response.status().as_u16()));
        }
        let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
        let body = body.map_err(|error| format!("unreadable answer: {error}"))?.to_bytes();
        // The error may quote what was sent.
        serde_json::from_slice(&body).map_err(|error| beginning(format!("unreadable answer: {error}")))
    }

    /// Keeps answers; tells whether somebody should look at them now.
    fn keep(
        &self,
        pipeline: &ObjectRef<TracePipeline>,
        asked: &Target,
        answers: Vec<Answer>,
        now: Instant,
    ) -> bool {
        let mut entries = self.entries();
        let Some(entry) = entries.get_mut(pipeline) else { return false };
        entry.asking = false;
        if entry.target != *asked {
            // The question has changed meanwhile, and is due already.
            return false;
        }
        let is_confirmed = |answer: &Answer| {
            answer.report.answer.as_ref().is_ok_and(|report| report.revision == asked.revision)
        };
        let is_urgent = now < entry.urgent_until;
        let again_soon = is_urgent && answers.iter().any(|answer| !answer.timed_out && !is_confirmed(answer));
        entry.due = now + if again_soon { URGENT_INTERVAL } else { spread(IDLE_INTERVAL) };
        answers.iter().for_each(|answer| entry.note_silence(answer, now));
        let mut reports: Vec<_> = answers.into_iter().map(|answer| answer.report).collect();
        let first_asked = entry.silent.values().map(|silence| silence.until).min();
        if let Some(first_asked) = first_asked.filter(|_| is_urgent) {
            entry.due = entry.due.min(first_asked);
        }
        let is_new = |old: &PodReport| reports.iter().any(|report| report.pod == old.pod);
        let kept: Vec<_> = entry.reports.iter().filter(|old| !is_new(old)).cloned().collect();
        reports.extend(kept);
        reports.sort_by(|left, right| left.pod.cmp(&right.pod));
        let at_once = notable(&entry.reports) != notable(&reports);
        entry.reports = reports;
        if !at_once && entry.pace.begins_to_wait(&entry.reports, now) {
            lock(&self.waiting).push_back(pipeline.clone());
        }
        at_once
    }
}

/// Up to a tenth more or less, so that pipelines that began together do not stay together.
fn spread(interval: Duration) -> Duration {
    let tenth = u32::try_from(RandomState::new().build_hasher().finish() % 200).unwrap_or_default();
    interval * (900 + tenth) / 1_000
}

#[cfg(test)]
mod strangers;
#[cfg(test)]
mod tests;
