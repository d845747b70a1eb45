//! A pipeline like any other, for tests.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use clap::Parser;
use hyper::{Method, Request, Response};
use k8s_openapi::api::core::v1::ConfigMap;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use kube::Client;
use kube::client::Body;
use serde_json::{Value, json};
use sluice_crds::names;
use sluice_crds::v1alpha1::TracePipeline;
use tower::service_fn;

use super::dereference::Found;
use super::validate::{Valid, validate};
use super::{Context, build};
use crate::options::Options;
use crate::watch::Cache;

/// The operator's options.
pub fn options() -> Options {
    Options::parse_from(["sluice-operator", "--consumer-image", "sluice:test"])
}

/// `shop/traces`, of generation 3.
pub fn pipeline() -> TracePipeline {
    let pipeline = json!({
        "apiVersion": "sluice.dev/v1alpha1", "kind": "TracePipeline",
        "metadata": { "name": "traces", "namespace": "shop", "uid": "u", "generation": 3 },
        "spec": {
            "source": { "kafka": { "bootstrapServers": "k:9092", "topic": "t", "consumerGroup": "g" } },
            "rateLimitQPS": 500,
            "sink": { "mysql": { "urlFrom": { "secretKeyRef": { "name": "db", "key": "url" } } } },
        },
    });
    serde_json::from_value(pipeline).expect("a pipeline")
}

/// A condition that was true or not since ever.
pub fn condition(type_: &str, status: &str) -> Condition {
    Condition {
        type_: type_.into(),
        status: status.into(),
        reason: String::new(),
        message: String::new(),
        last_transition_time: Time(jiff::Timestamp::UNIX_EPOCH),
        observed_generation: None,
    }
}

/// [`pipeline`], checked.
pub fn valid() -> Valid {
    validate(&pipeline(), &Found::default(), &options()).expect("it is valid")
}

/// The live ConfigMap of [`pipeline`], with a text for its document.
pub fn live_map(text: &str) -> ConfigMap {
    let owner = valid().owner;
    ConfigMap {
        metadata: build::metadata(&owner, &options(), build::live_name(&owner.name)),
        data: Some([(names::LIVE_KEY.to_owned(), text.to_owned())].into()),
        ..Default::default()
    }
}

/// A client of an API server that answers so, with a code and a body; null is none.
pub fn client_of<F>(mut answer: impl FnMut(Request<Body>) -> F + Send + 'static) -> Client
where
    F: Future<Output = (u16, Value)> + Send + 'static,
{
    let service = service_fn(move |request: Request<Body>| {
        let answer = answer(request);
        async move {
            let (code, body) = answer.await;
            let body = if body.is_null() { Vec::new() } else { body.to_string().into_bytes() };
            Response::builder().status(code).body(Body::from(body))
        }
    });
    Client::new(service, "default")
}

/// What an API server with Prometheus' operator says of its kinds.
pub fn monitoring_kinds() -> Value {
    let kind = json!({
        "name": "podmonitors", "singularName": "podmonitor", "namespaced": true, "kind": "PodMonitor", "verbs": [],
    });
    json!({ "groupVersion": "monitoring.coreos.com/v1", "resources": [kind] })
}

/// An API server that has nothing, takes everything and remembers what it was asked to write.
#[derive(Clone, Default)]
pub struct Server {
    writes: Arc<Mutex<Vec<String>>>,
    bodies: Arc<Mutex<Vec<Value>>>,
    answers: Arc<Mutex<HashMap<String, (u16, Value)>>>,
}

impl Server {
    /// Gives this answer to a request, such as `GET /api/v1/namespaces/shop/configmaps/traces-live`, from now on.
    pub fn answers(&self, request: impl Into<String>, code: u16, answer: Value) {
        self.answers.lock().expect("nobody panics with it").insert(request.into(), (code, answer));
    }

    /// What reconciles share; nothing is watched.
    pub fn context(&self) -> Context {
        let server = self.clone();
        let client = client_of(move |request| {
            let server = server.clone();
            async move { server.answer(request).await }
        });
        let (cache, _) = Cache::watch(&client, &[]);
        Context::new(client, options(), cache, Arc::default())
    }

    /// Method and path of each write.
    pub fn writes(&self) -> Vec<String> {
        self.writes.lock().expect("nobody panics with it").clone()
    }

    /// What was sent with each write that has a body.
    pub fn bodies(&self) -> Vec<Value> {
        self.bodies.lock().expect("nobody panics with it").clone()
    }

    async fn answer(&self, request: Request<Body>) -> (u16, Value) {
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        let asked = format!("{method} {path}");
        let prepared = self.answers.lock().expect("nobody panics with it").get(&asked).cloned();
        if method == Method::GET {
            return prepared.unwrap_or_else(|| (404, refusal(404, "NotFound")));
        }
        self.writes.lock().expect("nobody panics with it").push(asked);
        if method == Method::DELETE {
            return (200, json!({ "kind": "Status", "status": "Success" }));
        }
        let body = request.into_body().collect_bytes().await.expect("a body");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        self.bodies.lock().expect("nobody panics with it").push(body.clone());
        prepared.unwrap_or((200, body))
    }
}

/// What an API server says where it does not do what it is asked for.
pub fn refusal(code: u16, reason: &str) -> Value {
    json!({ "kind": "Status", "status": "Failure", "code": code, "reason": reason })
}
