//! The life of the process: connect, wait for the lead, reconcile until told to stop.

mod permits;

use std::collections::HashMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use futures_util::future::join_all;
use futures_util::stream::{BoxStream, StreamExt, poll_fn};
use k8s_openapi::apimachinery::pkg::version::Info;
use kube::Client;
use kube::runtime::controller::{Action, Config, applier};
use kube::runtime::reflector::ObjectRef;
use sluice_crds::names;
use sluice_crds::v1alpha1::TracePipeline;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::admin;
use crate::controller::apply::may_pass;
use crate::controller::{self, Context, ReconcileError};
use crate::leader_election::Candidate;
use crate::metrics::Metrics;
use crate::options::Options;
use crate::tasks;
use crate::watch::{Cache, Change, NamespaceCache, Trigger};
use permits::Permits;

/// Reconciles under way at once, and as many edits on their way to a live document beside them: each waits for the API server
/// most of its time.
const AT_ONCE: usize = 64;
/// So many of them of one namespace.
const OF_A_NAMESPACE: usize = 16;
/// An edit that takes longer is left to its reconcile.
const EDIT_LIMIT: Duration = Duration::from_secs(1);
/// An answer that stays away for longer counts as none; without this a dead connection would be waited for until TCP
/// gives up. Longer than a watch is silent.
const SILENCE: Duration = Duration::from_secs(30);

/// Pause before an API server that is not ready is asked again.
const NOT_READY: Duration = Duration::from_secs(2);

/// For so long all namespaces wait for the lists of each other, so that at a start nobody is judged by a half of what is
/// there: an older rival, a rollout that has failed. One that is not listed then holds up no other.
const TOGETHER: Duration = Duration::from_secs(20);
/// For so long they wait for one that the API server refuses to show while it shows another: until it was asked once more,
/// because one that has just begun refuses some of what it shows soon.
const REFUSED: Duration = Duration::from_secs(3);

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
    let config = kube::Config::infer()
        .await
        .context("cannot find an API server: no service account, no KUBECONFIG")?;
    let client = client(config).context("cannot make a client of the API server")?;
    // Beside a pod's own API server there is no other, and a process that ends would be started after longer and longer pauses.
    let is_in_pod = std::env::var_os("KUBERNETES_SERVICE_HOST").is_some();
    let asking = answering(&client, is_in_pod);
    let Some(version) = stop.run_until_cancelled(asking).await else { return Ok(()) };
    let version = version.context("the API server does not answer")?;
    tracing::info!(api_server = %version.git_version, installation = %options.installation,
        namespaces = ?options.namespaces, "connected");
    metrics.set_ready(true);

    let lease = format!("{}-{}", names::OPERATOR, options.installation);
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

/// The version of an API server that has begun to answer: one that starts, or has too much to do, is waited for, and where
/// `is_in_pod` says that it is the right one, one that cannot be reached as well.
async fn answering(client: &Client, is_in_pod: bool) -> kube::Result<Info> {
    loop {
        match client.apiserver_version().await {
            Err(error) if may_pass(&error) && (is_in_pod || matches!(error, kube::Error::Api(_))) => {
                tracing::info!(reason = %crate::problem::chain(&error), "the API server is not ready");
                tokio::time::sleep(NOT_READY).await;
            }
            answer => return answer,
        }
    }
}

fn client(mut config: kube::Config) -> kube::Result<Client> {
    config.read_timeout = Some(SILENCE);
    config.reset_reader_on_write = true;
    // Tries and pauses are ours: the client's own take minutes, in silence.
    config.default_retry = false;
    Client::try_from(config)
}

/// Ends with `stop`; whoever drops it ends everything that it has begun.
async fn reconcile_all(
    client: Client,
    options: Options,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let (cache, triggers) = Cache::watch(&client, &options.namespaces);
    let context = Arc::new(Context::new(client, options, cache, metrics));
    let (changed, changes) = mpsc::unbounded_channel();
    let mut queues = Queues::default();
    let work: Vec<_> = context
        .cache
        .namespaces()
        .map(|cached| {
            context.metrics.set_listed(cached.namespace.as_deref(), false);
            work(cached.clone(), queues.add(cached.namespace.clone()), context.clone(), stop.clone())
        })
        .collect();
    let mut tasks = JoinSet::new();
    let known = context.clone();
    let exists = move |pipeline: &ObjectRef<TracePipeline>| known.exists(pipeline);
    tasks.spawn(context.prober.clone().run(changed, exists));
    tasks.spawn(feed(triggers, changes, queues, context.clone()));
    let all_work = async {
        if stop.run_until_cancelled(wait_for_lists(&context.cache)).await.is_some() {
            join_all(work).await;
        }
    };
    tokio::select! {
        () = all_work => Ok(()),
        // They have no end: without one of them the operator would go on, deaf or blind.
        error = tasks::ended(&mut tasks) => Err(error),
    }
}

/// Waits until everything is listed, or tells what is not.
async fn wait_for_lists(cache: &Cache) {
    let refused = async {
        cache.answered().await;
        tokio::time::sleep(REFUSED).await;
    };
    tokio::select! {
        biased;
        () = cache.listed() => {
            tracing::info!(pipelines = cache.count(), "everything is listed");
            return;
        }
        () = refused => {}
        () = tokio::time::sleep(TOGETHER) => {}
    }
    for cached in cache.namespaces().filter(|cached| !cached.is_listed()) {
        tracing::warn!(namespace = cached.namespace.as_deref().unwrap_or("all"), kinds = ?cached.unlisted(),
            "a namespace is not listed yet, and nothing in it is looked after: see that it exists, with the operator's \
             Role and RoleBinding in it (helm upgrade makes them), or take it out of --namespaces");
    }
}

/// Reconciles what lies in a namespace, from when that is listed until `stop`.
async fn work(cached: Arc<NamespaceCache>, queue: Queue, context: Arc<Context>, stop: CancellationToken) {
    let is_late = !cached.is_listed();
    if stop.run_until_cancelled(cached.listed()).await.is_none() {
        return;
    }
    let namespace = cached.namespace.as_deref();
    let metrics = context.metrics.clone();
    metrics.set_listed(namespace, true);
    if is_late {
        tracing::info!(namespace = namespace.unwrap_or("all"), "the namespace is listed now");
    }
    let permits = Arc::new(Permits::new(AT_ONCE, OF_A_NAMESPACE));
    let applier = applier(
        move |pipeline, context| Box::pin(reconcile_in_turn(pipeline, context, permits.clone())),
        controller::retry,
        context,
        cached.pipelines.clone(),
        queue.take_until(stop.cancelled_owned()),
        // They wait for permits.
        Config::default().concurrency(0),
    );
    tokio::select! {
        // Results were counted and logged where they arose.
        () = applier.for_each(|_| std::future::ready(())) => {}
        () = tell_of_losses(&cached, &metrics) => {}
    }
}

/// A reconcile with a permit.
async fn reconcile_in_turn(
    pipeline: Arc<TracePipeline>,
    context: Arc<Context>,
    permits: Arc<Permits>,
) -> Result<Action, ReconcileError> {
    let _permit = permits.acquire(pipeline.metadata.namespace.clone()).await;
    // It may have been edited meanwhile.
    let newest = context.cache.pipeline(&ObjectRef::from_obj(&*pipeline)).unwrap_or(pipeline);
    // Thousands may wait: what a reconcile needs is had when it begins.
    Box::pin(controller::reconcile(newest, context)).await
}

/// Tells when a namespace that was listed is lost, and when it is back. It has no end.
async fn tell_of_losses(cached: &NamespaceCache, metrics: &Metrics) {
    let namespace = cached.namespace.as_deref();
    let name = namespace.unwrap_or("all");
    loop {
        cached.lost().await;
        metrics.set_listed(namespace, false);
        // An API server that has just begun refuses some of what it shows soon.
        let is_back = tokio::time::timeout(TOGETHER, cached.listed()).await.is_ok();
        if !is_back {
            tracing::warn!(namespace = name, kinds = ?cached.unlisted(),
                "a namespace that was listed is lost, and what is in it is not seen: see that it exists, with the operator's \
                 Role and RoleBinding in it (helm upgrade makes them), or take it out of --namespaces");
            cached.listed().await;
            tracing::info!(namespace = name, "the namespace is listed again");
        }
        metrics.set_listed(namespace, true);
    }
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
    let (applied_ahead, mut edited) = mpsc::unbounded_channel();
    loop {
        tokio::select! {
            trigger = triggers.next() => match trigger {
                Some(Ok(Change::Child(pipeline))) => queues.push(pipeline),
                Some(Ok(Change::Gone(pipeline))) => {
                    context.forget(&pipeline);
                    context.metrics.set_pipelines(context.cache.count());
                }
                Some(Ok(Change::Pipeline(pipeline))) => {
                    context.metrics.set_pipelines(context.cache.count());
                    edits.apply_edit_ahead(pipeline, &context, applied_ahead.clone());
                }
                Some(Err(_)) => context.metrics.watch_failed(),
                None => return,
            },
            Some(pipeline) = edited.recv() => queues.push(pipeline),
            Some(pipeline) = changes.recv() => queues.push(pipeline),
        }
    }
}

/// The way of edits to live documents, past the queue of reconciles.
struct Edits {
    permits: Arc<Permits>,
    /// They end with it.
    under_way: JoinSet<()>,
}

impl Default for Edits {
    fn default() -> Self {
        Self { permits: Arc::new(Permits::new(AT_ONCE, OF_A_NAMESPACE)), under_way: JoinSet::new() }
    }
}

impl Edits {
    /// Carries an edit to its live document, then passes the pipeline on. Before its namespace is listed nothing can be judged.
    fn apply_edit_ahead(
        &mut self,
        pipeline: ObjectRef<TracePipeline>,
        context: &Arc<Context>,
        then: mpsc::UnboundedSender<ObjectRef<TracePipeline>>,
    ) {
        let (permits, context) = (self.permits.clone(), context.clone());
        let cached = context.cache.namespace(pipeline.namespace.as_deref().unwrap_or_default());
        if !cached.is_some_and(|cached| cached.is_listed()) || !context.exists(&pipeline) {
            // As below.
            let _ = then.send(pipeline);
            return;
        }
        tasks::reap(&mut self.under_way);
        self.under_way.spawn(async move {
            let _permit = permits.acquire(pipeline.namespace.clone()).await;
            let apply_edit_ahead = controller::apply_edit_ahead(&pipeline, &context);
            if tokio::time::timeout(EDIT_LIMIT, apply_edit_ahead).await.is_err() {
                tracing::debug!(%pipeline, "an edit takes long, and is left to its reconcile");
            }
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
        // First of all: a log that nobody reads must not keep it from stopping.
        stopping.cancel();
        tracing::info!("stopping");
    });
    Ok(stop)
}

#[cfg(test)]
mod tests;
