//! An API server that knows one ConfigMap: list, watch, and what can go wrong with them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use futures_util::stream;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{ConfigMapName, Timing};
use sluice_crds::names::LIVE_KEY;

/// What the server does with requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// Answers.
    Good,
    /// Refuses everything with this code.
    Refusing(u16),
    /// Accepts requests and never answers.
    Silent,
    /// Lists, and opens watches that tell nothing and never end.
    Deaf,
}

struct Inner {
    mood: Mood,
    version: u64,
    /// The key's text; none where the object does not exist, `Some(None)` where it lacks the key.
    object: Option<Option<String>>,
    watchers: Vec<mpsc::UnboundedSender<Result<String, std::io::Error>>>,
    watches: u32,
    lists: u32,
}

/// A running server.
#[derive(Clone)]
pub struct Fake {
    inner: Arc<Mutex<Inner>>,
    address: std::net::SocketAddr,
    _serving: Arc<Serving>,
}

struct Serving(tokio::task::JoinHandle<()>);

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// The one that it knows.
pub fn name() -> ConfigMapName {
    "shop/demo-live".parse().unwrap()
}

/// Short waits.
pub fn timing() -> Timing {
    Timing {
        watch_seconds: 1,
        silence: Duration::from_millis(1_500),
        answer: Duration::from_millis(500),
        first_pause: Duration::from_millis(10),
        longest_pause: Duration::from_millis(100),
    }
}

impl Fake {
    /// A server on a free port, without the object.
    pub async fn start() -> Self {
        let inner =
            Inner { mood: Mood::Good, version: 1, object: None, watchers: Vec::new(), watches: 0, lists: 0 };
        let inner = Arc::new(Mutex::new(inner));
        let router =
            Router::new().route("/api/v1/namespaces/shop/configmaps", get(answer)).with_state(inner.clone());
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let serving = tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        Self { inner, address, _serving: Arc::new(Serving(serving)) }
    }

    /// How to reach it.
    pub fn config(&self) -> kube::Config {
        kube::Config::new(format!("http://{}", self.address).parse().unwrap())
    }

    /// Later requests; watches that are open stay so.
    pub fn set_mood(&self, mood: Mood) {
        self.inner.lock().unwrap().mood = mood;
    }

    /// How often it was listed.
    pub fn lists(&self) -> u32 {
        self.inner.lock().unwrap().lists
    }

    /// Creates or changes the object.
    pub fn put(&self, text: Option<&str>) {
        let mut inner = self.inner.lock().unwrap();
        let kind = if inner.object.is_some() { "MODIFIED" } else { "ADDED" };
        inner.object = Some(text.map(str::to_owned));
        inner.version += 1;
        inner.tell(kind);
    }

    /// Changes the object without telling those who watch: events that got lost.
    pub fn put_unseen(&self, text: &str) {
        let mut inner = self.inner.lock().unwrap();
        inner.object = Some(Some(text.to_owned()));
        inner.version += 1;
    }

    /// Deletes the object.
    pub fn delete(&self) {
        let mut inner = self.inner.lock().unwrap();
        inner.version += 1;
        inner.tell("DELETED");
        inner.object = None;
    }

    /// Breaks the connections of those who watch.
    pub fn drop_watches(&self) {
        let mut inner = self.inner.lock().unwrap();
        for watcher in inner.watchers.drain(..) {
            let _ = watcher.send(Err(std::io::Error::other("broken")));
        }
    }

    /// Tells those who watch that what they ask for is too old.
    pub fn expire_watches(&self) {
        let status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": "too old resource version", "reason": "Expired", "code": 410,
        });
        let event = format!("{}\n", json!({ "type": "ERROR", "object": status }));
        for watcher in self.inner.lock().unwrap().watchers.drain(..) {
            let _ = watcher.send(Ok(event.clone()));
        }
    }

    /// Waits until somebody watches.
    pub async fn watched(&self) {
        self.watched_times(0).await;
    }

    /// Waits until somebody watches, after at least so many watches in all.
    pub async fn watched_times(&self, watches: u32) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
        loop {
            {
                let mut inner = self.inner.lock().unwrap();
                inner.watchers.retain(|watcher| !watcher.is_closed());
                if !inner.watchers.is_empty() && inner.watches >= watches {
                    return;
                }
            }
            assert!(tokio::time::Instant::now() < deadline, "nobody watches");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}

impl Inner {
    fn as_json(&self) -> Option<Value> {
        let text = self.object.as_ref()?;
        let data = text.as_ref().map_or(json!({}), |text| json!({ LIVE_KEY: text }));
        let metadata =
            json!({ "name": "demo-live", "namespace": "shop", "resourceVersion": self.version.to_string() });
        Some(json!({ "kind": "ConfigMap", "apiVersion": "v1", "metadata": metadata, "data": data }))
    }

    fn tell(&mut self, kind: &str) {
        let event = format!("{}\n", json!({ "type": kind, "object": self.as_json() }));
        self.watchers.retain(|watcher| watcher.send(Ok(event.clone())).is_ok());
    }
}

async fn answer(
    State(inner): State<Arc<Mutex<Inner>>>,
    Query(query): Query<HashMap<String, String>>,
) -> Response {
    let mood = inner.lock().unwrap().mood;
    if mood == Mood::Silent {
        std::future::pending::<()>().await;
    }
    let selected = query.get("fieldSelector").map(String::as_str) == Some("metadata.name=demo-live");
    match mood {
        Mood::Refusing(code) => return refusal(code),
        // A Role that names one object allows nothing else.
        _ if !selected => return refusal(403),
        _ => {}
    }
    if query.get("watch").map(String::as_str) == Some("true") {
        let number = |name: &str| query.get(name).and_then(|value| value.parse().ok()).unwrap();
        return watch(&inner, mood, number("resourceVersion"), Duration::from_secs(number("timeoutSeconds")));
    }
    let mut inner = inner.lock().unwrap();
    inner.lists += 1;
    let items: Vec<_> = inner.as_json().into_iter().collect();
    let list = json!({
        "kind": "ConfigMapList", "apiVersion": "v1",
        "metadata": { "resourceVersion": inner.version.to_string() }, "items": items,
    });
    axum::Json(list).into_response()
}

fn watch(inner: &Mutex<Inner>, mood: Mood, since: u64, limit: Duration) -> Response {
    let (sender, receiver) = mpsc::unbounded_channel();
    let end = match mood {
        Mood::Deaf => {
            // Open, and never heard of again.
            std::mem::forget(sender);
            Duration::from_secs(3_600)
        }
        _ => {
            let mut inner = inner.lock().unwrap();
            if since < inner.version && inner.object.is_some() {
                let event = format!("{}\n", json!({ "type": "MODIFIED", "object": inner.as_json() }));
                let _ = sender.send(Ok(event));
            }
            inner.watchers.push(sender);
            inner.watches += 1;
            limit
        }
    };
    let end = tokio::time::Instant::now() + end;
    let body = stream::unfold(receiver, move |mut receiver| async move {
        tokio::select! {
            event = receiver.recv() => event.map(|event| (event, receiver)),
            () = tokio::time::sleep_until(end) => None,
        }
    });
    Response::new(Body::from_stream(body))
}

fn refusal(code: u16) -> Response {
    let status = json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": "configmaps is forbidden", "reason": "Forbidden", "code": code,
    });
    (StatusCode::from_u16(code).unwrap(), axum::Json(status)).into_response()
}
