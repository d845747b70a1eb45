//! Life and death of what is reconciled, on an API server of answers.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::stream::iter;
use hyper::{Method, Request, Response};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::ResourceExt;
use kube::client::Body;
use serde_json::{Value, json};
use sluice_crds::live::{Live, LiveDocument};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::controller::build::live_name;
use crate::controller::example;

#[tokio::test]
async fn nothing_is_said_of_a_pipeline_that_was_deleted() {
    let context = Arc::new(example::Server::default().context());
    let pipeline = ObjectRef::from_obj(&example::pipeline());
    let condition = Condition { reason: "InvalidSpec".into(), ..example::condition("Ready", "False") };
    context.metrics.judged(&pipeline, &[condition]);
    context.pod_monitors.written(pipeline.clone(), "hash".into());
    let (_changed, changes) = mpsc::unbounded_channel();
    let gone = iter([Ok(Change::Gone(pipeline.clone()))]).boxed();
    feed(gone, changes, Queues::default(), context.clone()).await;
    let page = context.metrics.page().expect("a page");
    assert!(page.contains("status=\"False\",reason=\"InvalidSpec\"} 0\n"), "{page}");
    assert!(context.pod_monitors.is_due(&pipeline, "hash"));
}

#[tokio::test]
async fn an_api_server_that_is_busy_is_told_of_and_not_asked_again_in_silence() {
    const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let uri = format!("http://{}", listener.local_addr().expect("an address")).parse().expect("a URI");
    let busy = async {
        loop {
            let (mut connection, _) = listener.accept().await.expect("a connection");
            // A request of a few hundred bytes comes at once.
            let read = connection.read(&mut [0; 4_096]).await.expect("a request");
            assert!(read > 0);
            connection.write_all(BUSY).await.expect("it is read");
        }
    };
    let client = client(kube::Config::new(uri)).expect("a client");
    let told = tokio::select! {
        told = client.apiserver_version() => told,
        () = busy => unreachable!("it has no end"),
        () = tokio::time::sleep(TOGETHER) => panic!("nothing was told"),
    };
    assert!(matches!(&told, Err(kube::Error::Api(status)) if status.code == 503), "{told:?}");
}

#[tokio::test(start_paused = true)]
async fn an_api_server_that_cannot_be_reached_is_waited_for_in_a_pod_and_nowhere_else() {
    let unreachable = Arc::new(AtomicBool::new(true));
    let state = unreachable.clone();
    let service = tower::service_fn(move |_: Request<Body>| {
        let answer = if state.load(Ordering::Relaxed) {
            Err(std::io::Error::from(std::io::ErrorKind::ConnectionRefused))
        } else {
            let version = json!({ "major": "1", "minor": "34", "gitVersion": "v1.34.4", "gitCommit": "",
                "gitTreeState": "", "buildDate": "", "goVersion": "", "compiler": "", "platform": "" });
            Ok(Response::new(Body::from(version.to_string().into_bytes())))
        };
        std::future::ready(answer)
    });
    let client = Client::new(service, "default");
    let error = answering(&client, false).await.expect_err("whoever has started it wants to know");
    assert!(matches!(error, kube::Error::Service(_)), "{error:?}");
    let back = async {
        tokio::time::sleep(TOGETHER).await;
        unreachable.store(false, Ordering::Relaxed);
        std::future::pending::<()>().await;
    };
    let version = tokio::select! {
        version = answering(&client, true) => version,
        () = back => unreachable!("it has no end"),
    };
    assert_eq!(version.expect("it is back").git_version, "v1.34.4");
}

/// Lists of namespaces: what is in them, as far as it may be seen.
async fn answer(request: Request<Body>, created: mpsc::UnboundedSender<String>) -> (u16, Value) {
    let path = request.uri().path().to_owned();
    let refused = |code: u16, reason: &str| (code, example::refusal(code, reason));
    let is_list = path.contains("/namespaces/") && path.split('/').rev().nth(1) == Some("a");
    match *request.method() {
        _ if path.contains("/namespaces/b/") => refused(403, "Forbidden"),
        Method::GET if request.uri().query().is_some_and(|query| query.contains("watch=true")) => {
            std::future::pending().await
        }
        Method::GET if is_list => {
            let pipelines = path.ends_with("/tracepipelines").then(|| {
                let mut pipeline = example::pipeline();
                pipeline.metadata.namespace = Some("a".into());
                pipeline
            });
            let items: Vec<_> = pipelines.into_iter().collect();
            let metadata = json!({ "resourceVersion": "1" });
            (200, json!({ "apiVersion": "v1", "kind": "List", "metadata": metadata, "items": items }))
        }
        Method::POST => {
            let _ = created.send(path);
            refused(404, "NotFound")
        }
        _ => refused(404, "NotFound"),
    }
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_cannot_be_listed_holds_up_no_other() {
    let (created, mut creations) = mpsc::unbounded_channel();
    let client = example::client_of(move |request| answer(request, created.clone()));
    let metrics = Arc::new(Metrics::default());
    let options = Options { namespaces: vec!["a".into(), "b".into()], ..example::options() };
    let reconciled = reconcile_all(client, options, metrics.clone(), CancellationToken::new());
    let created = tokio::select! {
        ended = reconciled => panic!("{ended:?}"),
        created = creations.recv() => created.expect("something is created"),
        () = tokio::time::sleep(REFUSED * 2) => panic!("nothing was reconciled"),
    };
    assert_eq!(created, "/api/v1/namespaces/a/configmaps");
    let page = metrics.page().expect("a page");
    for (namespace, listed) in [("a", 1), ("b", 0)] {
        let line =
            format!("sluice_operator_namespace_listed{{watched_namespace=\"{namespace}\"}} {listed}\n");
        assert!(page.contains(&line), "{page}");
    }
}

/// As an API server answers about a namespace without pipelines: lists, and watches of 20 s in which nothing happens.
async fn answer_of_nothing(request: Request<Body>, is_lost: bool) -> (u16, Value) {
    if is_lost {
        return (403, example::refusal(403, "Forbidden"));
    }
    if request.uri().query().is_some_and(|query| query.contains("watch=true")) {
        tokio::time::sleep(Duration::from_secs(20)).await;
        return (200, Value::Null);
    }
    let metadata = json!({ "resourceVersion": "1" });
    (200, json!({ "apiVersion": "v1", "kind": "List", "metadata": metadata, "items": [] }))
}

/// For how many seconds `a`, which is listed at once, waits for `b`, and whether that is listed then. For lists of `b` there
/// is this code by the time since the start; without one there is no answer.
async fn waits_for(code: fn(Duration) -> Option<u16>) -> (u64, bool) {
    let began = tokio::time::Instant::now();
    let client = example::client_of(move |request| async move {
        let is_of_b = request.uri().path().contains("/namespaces/b/");
        let Some(code) = code(began.elapsed()).or((!is_of_b).then_some(200)) else {
            return std::future::pending().await;
        };
        answer_of_nothing(request, is_of_b && code == 403).await
    });
    let (cache, triggers) = Cache::watch(&client, &["a".to_owned(), "b".to_owned()]);
    tokio::select! {
        () = wait_for_lists(&cache) => {}
        () = triggers.for_each(|_| std::future::ready(())) => unreachable!("they have no end"),
    }
    (began.elapsed().as_secs(), cache.namespace("b").is_some_and(|cached| cached.is_listed()))
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_refused_is_asked_once_more_and_a_silent_one_is_waited_for() {
    assert_eq!(waits_for(|_| Some(403)).await, (REFUSED.as_secs(), false));
    assert_eq!(waits_for(|after| Some(if after.is_zero() { 403 } else { 200 })).await, (2, true));
    assert_eq!(waits_for(|_| None).await, (TOGETHER.as_secs(), false));
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_is_lost_is_told_until_it_is_listed_again() {
    let is_lost = Arc::new(AtomicBool::new(false));
    let lost = is_lost.clone();
    let client = example::client_of(move |request| answer_of_nothing(request, lost.load(Ordering::Relaxed)));
    let metrics = Arc::new(Metrics::default());
    let options = Options { namespaces: vec!["a".into()], ..example::options() };
    let reconciled = reconcile_all(client, options, metrics.clone(), CancellationToken::new());
    let until = async |listed: u8| {
        let line = format!("sluice_operator_namespace_listed{{watched_namespace=\"a\"}} {listed}\n");
        while !metrics.page().expect("a page").contains(&line) {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    };
    let story = async {
        for listed in [1, 0, 1, 0] {
            is_lost.store(listed == 0, Ordering::Relaxed);
            until(listed).await;
        }
    };
    tokio::select! {
        ended = reconciled => panic!("{ended:?}"),
        told = tokio::time::timeout(Duration::from_secs(600), story) => told.expect("all of it is told"),
    }
}

/// Pipelines of a namespace whose rate was edited a moment ago, with their live documents.
fn edited(namespace: &str, count: usize) -> Vec<(TracePipeline, ConfigMap)> {
    let document = LiveDocument { uid: "u".into(), revision: 7, live: Live::of_rate(400) };
    let text = sluice_crds::wire::write(&document).expect("a document");
    let one = |index: usize| {
        let (mut pipeline, mut map, name) =
            (example::pipeline(), example::live_map(&text), format!("{namespace}-{index}"));
        pipeline.metadata.name = Some(name.clone());
        pipeline.metadata.namespace = Some(namespace.into());
        pipeline.spec.source.kafka.as_mut().expect("its source").consumer_group.clone_from(&name);
        map.metadata.name = Some(live_name(&name));
        map.metadata.namespace = Some(namespace.into());
        map.labels_mut().insert(names::LABEL_PIPELINE.into(), name);
        (pipeline, map)
    };
    (0..count).map(one).collect()
}

/// Many edited pipelines of a namespace in which the API server does not answer, and after them one of another; gives the path
/// of each write that is answered.
fn with_a_namespace_that_hangs()
-> (Arc<Context>, Vec<ObjectRef<TracePipeline>>, mpsc::UnboundedReceiver<String>) {
    let (written, writes) = mpsc::unbounded_channel();
    let client = example::client_of(move |request| {
        let (path, written) = (request.uri().path().to_owned(), written.clone());
        async move {
            if path.contains("/namespaces/hangs/") {
                std::future::pending::<()>().await;
            }
            let _ = written.send(path);
            (500, example::refusal(500, "InternalError"))
        }
    });
    let (pipelines, maps): (Vec<_>, Vec<_>) =
        edited("hangs", 2 * AT_ONCE).into_iter().chain(edited("works", 1)).unzip();
    let refs = pipelines.iter().map(ObjectRef::from_obj).collect();
    let nothing = Cache::watch(&example::Server::default().context().client, &[]).0;
    let mut context = Context::new(client, example::options(), nothing, Arc::default());
    context.cache = Cache::of(pipelines, vec![], maps);
    (Arc::new(context), refs, writes)
}

#[tokio::test(start_paused = true)]
async fn reconciles_that_hang_in_one_namespace_hold_up_no_other() {
    let (context, refs, mut writes) = with_a_namespace_that_hangs();
    let mut queues = Queues::default();
    let queue = queues.add(None);
    refs.into_iter().for_each(|pipeline| queues.push(pipeline));
    let cached = context.cache.namespaces().next().expect("one for all").clone();
    let began = tokio::time::Instant::now();
    tokio::select! {
        () = work(cached, queue, context, CancellationToken::new()) => panic!("it has no end"),
        path = writes.recv() => {
            assert_eq!(path.as_deref(), Some("/api/v1/namespaces/works/configmaps/works-0-live"));
        }
    }
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn edits_that_hang_in_one_namespace_hold_up_no_other_and_are_left_to_their_reconciles() {
    let (context, refs, mut writes) = with_a_namespace_that_hangs();
    let mut edits = Edits::default();
    let (then, mut passed_on) = mpsc::unbounded_channel();
    let began = tokio::time::Instant::now();
    for pipeline in refs {
        edits.apply_edit_ahead(pipeline, &context, then.clone());
    }
    let path = writes.recv().await.expect("it is written");
    assert_eq!(path, "/api/v1/namespaces/works/configmaps/works-0-live");
    assert!(began.elapsed() < EDIT_LIMIT, "{:?}", began.elapsed());
    for _ in 0..=2 * AT_ONCE {
        passed_on.recv().await.expect("each has its reconcile");
    }
    assert!(began.elapsed() <= EDIT_LIMIT * 11, "{:?}", began.elapsed());
}
