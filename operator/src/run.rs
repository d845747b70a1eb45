//! The life of the process: connect, wait for the lead, reconcile until told to stop.

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::stream::{BoxStream, StreamExt, poll_fn, select_all};
use kube::Client;
use kube::runtime::controller::{Config, applier};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::runtime::watcher;
use sluice_crds::v1alpha1::TracePipeline;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::controller::autoscale::Autoscaler;
use crate::controller::probe::Prober;
use crate::controller::{self, Context, apply};
use crate::lead::Candidate;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::watch::{Change, Trigger, World};

/// Reconciles under way at once: each waits for the API server most of its time.
const CONCURRENCY: u16 = 32;
/// Edits on their way to a live document at once, beside those reconciles.
const EDITS_AT_ONCE: usize = 16;
/// An answer that stays away for longer counts as none; without this a dead connection would be waited for until TCP
/// gives up. Longer than a watch is silent.
const SILENCE: Duration = Duration::from_secs(30);

/// HTTP's code where a watch asks for what is no longer kept.
const GONE: u16 = 410;

/// Runs until SIGTERM or Ctrl-C, or until the lead is lost: then everything that acts is dropped at once and the
/// process ends; its supervisor starts a new one that waits for the lead again.
///
/// # Errors
/// What a person must know.
pub async fn run(options: Options) -> anyhow::Result<()> {
    let stop = stop_on_signal()?;
    let metrics = Arc::new(Metrics::default());
    admin::serve(options.admin, metrics.clone(), stop.clone())
        .await
        .with_context(|| format!("cannot serve the admin endpoints on {}", options.admin))?;
    let mut config = kube::Config::infer()
        .await
        .context("cannot find an API server: no service account, no KUBECONFIG")?;
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    let client = Client::try_from(config).context("cannot make a client of the API server")?;
    let version = client.apiserver_version().await.context("the API server does not answer")?;
    tracing::info!(api_server = %version.git_version, installation = %options.installation,
        namespaces = ?options.namespaces, "connected");
    metrics.set_ready(true);

    let lease = format!("sluice-operator-{}", options.installation);
    let candidate = Candidate::new(client.clone(), &options.namespace, lease, options.identity.clone());
    tracing::info!("waiting for the lead");
    let lead = tokio::select! {
        lead = candidate.win() => Some(lead),
        () = stop.cancelled() => None,
    };
    let mut result = Ok(());
    if let Some(mut lead) = lead {
        tracing::info!("leading");
        metrics.set_leader(true);
        tokio::select! {
            // First, so that a process that thaws does not go on with what it was about to do.
            biased;
            lost = lead.keep() => result = Err(lost.into()),
            reconciled = reconcile_all(client, options, metrics.clone(), stop.clone()) => {
                result = reconciled;
                lead.give_back().await;
            }
        }
        metrics.set_leader(false);
    }
    stop.cancel();
    tracing::info!("stopped");
    result
}

/// Ends with `stop`; whoever drops it ends everything that it has begun.
async fn reconcile_all(
    client: Client,
    options: Options,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (world, triggers) = World::watch(&client, &options.namespaces);
    let reporter =
        Reporter { controller: apply::FIELD_MANAGER.into(), instance: Some(options.identity.clone()) };
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        options,
        world,
        prober: Arc::new(Prober::new(metrics.clone())),
        metrics: metrics.clone(),
        rollouts: apply::Rollouts::default(),
        autoscaler: Autoscaler::default(),
        backoffs: controller::Backoffs::default(),
        dead_letters: controller::dead_letters::DeadLetters::default(),
        conflicts: controller::Conflicts::default(),
        pod_monitors: controller::PodMonitors::default(),
    });
    let (changed, changes) = mpsc::unbounded_channel();
    let mut queues = Queues::default();
    let appliers: Vec<_> = context
        .world
        .pipelines
        .stores()
        .map(|(namespace, store)| {
            let queue = queues.add(namespace).take_until(stop.clone().cancelled_owned());
            applier(
                |pipeline, context| Box::pin(controller::reconcile(pipeline, context)),
                controller::retry,
                context.clone(),
                store,
                queue,
                Config::default().concurrency(CONCURRENCY),
            )
            .boxed()
        })
        .collect();
    let mut tasks = JoinSet::new();
    let known = context.clone();
    let exists = move |pipeline: &ObjectRef<TracePipeline>| known.exists(pipeline);
    tasks.spawn(context.prober.clone().run(changed, exists));
    tasks.spawn(feed(triggers, changes, queues, context.clone()));
    // Nothing is judged before everything was listed once: what is not there yet may only be unknown.
    tokio::select! {
        ready = context.world.ready() => anyhow::ensure!(ready, "watching has ended"),
        () = stop.cancelled() => return Ok(()),
    }
    tracing::info!(pipelines = context.world.pipelines.count(), "everything is listed");
    // Results were counted and logged where they arose.
    select_all(appliers).for_each(|_| std::future::ready(())).await;
    Ok(())
}

/// Which applier works on which namespace.
#[derive(Default)]
struct Queues(HashMap<Option<String>, mpsc::UnboundedSender<ObjectRef<TracePipeline>>>);

type Queue = BoxStream<'static, Result<ObjectRef<TracePipeline>, Infallible>>;

impl Queues {
    fn add(&mut self, namespace: Option<String>) -> Queue {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        self.0.insert(namespace, sender);
        poll_fn(move |cx| receiver.poll_recv(cx)).map(Ok).boxed()
    }

    fn push(&self, pipeline: ObjectRef<TracePipeline>) {
        let queue = self.0.get(&pipeline.namespace).or_else(|| self.0.get(&None));
        if let Some(queue) = queue {
            // Its applier has ended where the operator stops.
            let _ = queue.send(pipeline);
        }
    }
}

/// Polls the watches, and passes on what they and the consumers' reports ask for.
async fn feed(
    mut triggers: BoxStream<'static, Trigger>,
    mut changes: mpsc::UnboundedReceiver<ObjectRef<TracePipeline>>,
    queues: Queues,
    context: Arc<Context>,
) {
    let mut edits = Edits::default();
    let (hurried, mut edited) = mpsc::unbounded_channel();
    loop {
        tokio::select! {
            trigger = triggers.next() => match trigger {
                Some(Ok(Change::Child(pipeline))) => queues.push(pipeline),
                Some(Ok(Change::Pipeline(pipeline))) => {
                    if !context.exists(&pipeline) {
                        context.forget(&pipeline);
                    }
                    context.metrics.set_pipelines(context.world.pipelines.count());
                    edits.hurry(pipeline, &context, hurried.clone());
                }
                Some(Err(error)) => {
                    context.metrics.watch_failed();
                    let told = sluice_crds::problem::chain(&error);
                    // An API server keeps its past for a while only, a new one has none: no fault of anything.
                    if matches!(&error, watcher::Error::WatchError(status) if status.code == GONE) {
                        tracing::info!(reason = %told, "a watch begins again");
                    } else {
                        tracing::warn!(error = %told, "a watch broke and begins again");
                    }
                }
                None => return,
            },
            Some(pipeline) = edited.recv() => queues.push(pipeline),
            Some(pipeline) = changes.recv() => queues.push(pipeline),
        }
    }
}

/// The way of edits to live documents, past the queue of reconciles.
struct Edits {
    permits: Arc<Semaphore>,
    /// They end with it.
    under_way: JoinSet<()>,
}

impl Default for Edits {
    fn default() -> Self {
        Self { permits: Arc::new(Semaphore::new(EDITS_AT_ONCE)), under_way: JoinSet::new() }
    }
}

impl Edits {
    /// Hurries an edit, then passes the pipeline on. Before everything is listed nothing can be judged.
    fn hurry(
        &mut self,
        pipeline: ObjectRef<TracePipeline>,
        context: &Arc<Context>,
        then: mpsc::UnboundedSender<ObjectRef<TracePipeline>>,
    ) {
        let (permits, context) = (self.permits.clone(), context.clone());
        if !context.world.is_listed() || !context.exists(&pipeline) {
            let _ = then.send(pipeline);
            return;
        }
        while self.under_way.try_join_next().is_some() {}
        self.under_way.spawn(async move {
            let _permit = permits.acquire_owned().await;
            controller::hurry(&pipeline, &context).await;
            // Nobody listens any more where the operator stops.
            let _ = then.send(pipeline);
        });
    }
}

fn stop_on_signal() -> anyhow::Result<CancellationToken> {
    let stop = CancellationToken::new();
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stopping = stop.clone();
    tokio::spawn(async move {
        tokio::select! { _ = terminate.recv() => {} _ = interrupt.recv() => {} }
        tracing::info!("stopping");
        stopping.cancel();
    });
    Ok(stop)
}
