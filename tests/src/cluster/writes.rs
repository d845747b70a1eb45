//! A proxy before the API server that counts writes, and lets a test act right after the n-th of them.
//!
//! Plain HTTP on both sides: the way behind it carries the credentials.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context;
use http_body_util::BodyExt;
use http_body_util::combinators::BoxBody;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpListener;
use tokio::sync::Notify;

use super::{ApiProxy, Cluster};
use crate::component::Scratch;

type Body = BoxBody<Bytes, hyper::Error>;

/// A write as the API server answered it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Write {
    /// The method.
    pub method: String,
    /// The path, without its query.
    pub path: String,
    /// The answer's code.
    pub status: u16,
}

impl Write {
    /// Whether only a status was written. How many of those there are is a matter of time: several changes may be
    /// told at once.
    pub fn is_status(&self) -> bool {
        self.path.ends_with("/status")
    }
}

/// After how many writes nothing is answered any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopAfter {
    /// Of objects themselves.
    Objects(usize),
    /// Of statuses.
    Statuses(usize),
}

#[derive(Default)]
struct Seen {
    writes: Vec<Write>,
    stop_after: Option<StopAfter>,
}

impl Seen {
    fn is_stopped(&self) -> bool {
        let statuses = self.writes.iter().filter(|write| write.is_status()).count();
        match self.stop_after {
            Some(StopAfter::Objects(most)) => self.writes.len() - statuses >= most,
            Some(StopAfter::Statuses(most)) => statuses >= most,
            None => false,
        }
    }
}

/// The proxy.
pub struct WriteProxy {
    seen: Arc<Mutex<Seen>>,
    stopped: Arc<Notify>,
    kubeconfig: PathBuf,
    _dir: Scratch,
    _upstream: ApiProxy,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for WriteProxy {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl WriteProxy {
    /// Starts one.
    ///
    /// # Errors
    /// It cannot be started.
    pub async fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let dir = Scratch::new("sluice-proxy-")?;
        let upstream = ApiProxy::start(cluster).await?;
        let port = upstream.port();
        let client: Client<HttpConnector, Incoming> = Client::builder(TokioExecutor::new()).build_http();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let kubeconfig = dir.path().join("kubeconfig");
        std::fs::write(&kubeconfig, kubeconfig_for(&format!("http://{address}")))?;
        let (seen, stopped) = (Arc::<Mutex<Seen>>::default(), Arc::new(Notify::new()));
        let server = tokio::spawn(serve(listener, client, port, seen.clone(), stopped.clone()));
        Ok(Self { seen, stopped, kubeconfig, _dir: dir, _upstream: upstream, server })
    }

    /// Leads to the proxy.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig.clone()
    }

    /// Forgets what was seen; after `stop_after` nothing is answered.
    pub fn restart(&self, stop_after: Option<StopAfter>) {
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Seen { writes: Vec::new(), stop_after };
    }

    /// Waits for the moment from which nothing is answered.
    pub async fn stopped(&self) {
        self.stopped.notified().await;
    }

    /// The writes since [`Self::restart`] that succeeded; leases and events do not count.
    pub fn writes(&self) -> Vec<Write> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).writes.clone()
    }
}

fn kubeconfig_for(server: &str) -> String {
    format!(
        "apiVersion: v1
kind: Config
clusters: [{{ name: c, cluster: {{ server: '{server}' }} }}]
users: [{{ name: u, user: {{}} }}]
contexts: [{{ name: x, context: {{ cluster: c, user: u }} }}]
current-context: x
"
    )
}

async fn serve(
    listener: TcpListener,
    client: Client<HttpConnector, Incoming>,
    upstream: u16,
    seen: Arc<Mutex<Seen>>,
    stopped: Arc<Notify>,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (client, seen, stopped) = (client.clone(), seen.clone(), stopped.clone());
        let service = service_fn(move |request| {
            let (client, seen, stopped) = (client.clone(), seen.clone(), stopped.clone());
            async move { Ok::<_, Infallible>(forward(request, &client, upstream, &seen, &stopped).await) }
        });
        tokio::spawn(async move {
            let connection = hyper::server::conn::http1::Builder::new();
            // A client that goes away in the middle is what the test wants.
            let _ = connection.serve_connection(TokioIo::new(stream), service).await;
        });
    }
}

async fn forward(
    request: Request<Incoming>,
    client: &Client<HttpConnector, Incoming>,
    upstream: u16,
    seen: &Mutex<Seen>,
    stopped: &Notify,
) -> Response<Body> {
    let is_stopped = || seen.lock().unwrap_or_else(PoisonError::into_inner).is_stopped();
    if is_stopped() {
        return std::future::pending().await;
    }
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let counts = method != Method::GET && !path.contains("/leases") && !path.contains("/events");
    match pass_on(request, client, upstream).await {
        Ok(response) => {
            if counts && response.status().is_success() {
                let status = response.status().as_u16();
                let write = Write { method: method.to_string(), path, status };
                seen.lock().unwrap_or_else(PoisonError::into_inner).writes.push(write);
                if is_stopped() {
                    stopped.notify_one();
                    return std::future::pending().await;
                }
            }
            response
        }
        Err(error) => {
            let text = Bytes::from(format!("{error:#}"));
            let body = http_body_util::Full::new(text).map_err(|never| match never {}).boxed();
            let mut response = Response::new(body);
            *response.status_mut() = hyper::StatusCode::BAD_GATEWAY;
            response
        }
    }
}

async fn pass_on(
    mut request: Request<Incoming>,
    client: &Client<HttpConnector, Incoming>,
    upstream: u16,
) -> anyhow::Result<Response<Body>> {
    let path = request.uri().path_and_query().context("a request without a path")?;
    *request.uri_mut() = format!("http://127.0.0.1:{upstream}{path}").parse()?;
    request.headers_mut().remove(hyper::header::HOST);
    Ok(client.request(request).await?.map(BodyExt::boxed))
}
