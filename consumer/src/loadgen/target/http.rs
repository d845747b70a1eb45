//! Load over HTTP, as Zipkin reporters and OTLP exporters send it.
//!
//! A refusal that asks to come again (429, 503) or a broken connection is tried again for a while, as good
//! clients do; anything else counts as not acknowledged. Where there has never been an answer, not even a refusal, the
//! run ends soon: the address is wrong, or nothing listens there.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sluice_crds::v1alpha1::Format;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::TargetError;
use crate::loadgen::round::{Emitted, Stream};
use crate::loadgen::tally::{Pace, Tally};
use crate::lock::lock;

/// How long one message is tried.
const KEEP_TRYING: Duration = Duration::from_secs(30);
/// How long a first answer is waited for while connections fail.
const FIRST_ANSWER: Duration = Duration::from_secs(5);
/// Pause before the next try.
const PAUSE: Duration = Duration::from_millis(200);
/// Longest wait for a connection.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest wait for an answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// The same after a stop.
const ANSWER_STOPPED: Duration = Duration::from_secs(3);

/// Where to.
#[derive(Clone, Debug)]
pub struct HttpTarget {
    /// Base URL, such as `http://127.0.0.1:9411`.
    pub url: String,
    /// Requests under way at the same time.
    pub connections: usize,
}

struct Sender {
    client: Client<HttpConnector, Full<Bytes>>,
    uri: Uri,
    content_type: &'static str,
    tally: Arc<Tally>,
    began: Instant,
    /// Whether there was any answer.
    answered: AtomicBool,
    /// Whether anything was taken.
    taken: AtomicBool,
    /// Cancelled where nothing will be, and when the run is to stop.
    give_up: CancellationToken,
}

/// Path and content type of a format.
fn endpoint(format: Format) -> Result<(&'static str, &'static str), TargetError> {
    match format {
        Format::ZipkinJson => Ok(("/api/v2/spans", "application/json")),
        Format::ZipkinProto => Ok(("/api/v2/spans", "application/x-protobuf")),
        Format::OtlpProto => Ok(("/v1/traces", "application/x-protobuf")),
        Format::OtlpJson => Ok(("/v1/traces", "application/json")),
        Format::Json | Format::JaegerProto | Format::Auto => Err(TargetError::Configuration(format!(
            "{format:?} has no HTTP endpoint; use ZipkinJson, ZipkinProto, OtlpJson or OtlpProto"
        ))),
    }
}

/// Where spans are posted. A URL may be given with its path, as exporters are configured.
fn endpoint_url(url: &str, path: &str) -> String {
    let url = url.trim_end_matches('/');
    format!("{}{path}", url.strip_suffix(path).unwrap_or(url))
}

/// Sends the stream; returns when everything is answered. The stream may be gone on with.
///
/// # Errors
/// The URL or the format cannot work, or nobody answers at all. What was sent and failed is in the tally.
pub async fn run(
    target: &HttpTarget,
    format: Format,
    stream: &Arc<Mutex<Stream>>,
    pace: Pace,
    tally: &Arc<Tally>,
    stop: &CancellationToken,
) -> Result<(), TargetError> {
    let (path, content_type) = endpoint(format)?;
    let url = endpoint_url(&target.url, path);
    let uri: Uri =
        url.parse().map_err(|error| TargetError::Configuration(format!("{url:?} is no URL: {error}")))?;
    if uri.scheme_str() != Some("http") {
        return Err(TargetError::Configuration(format!("expected a URL http://host:port, found {url:?}")));
    }
    let mut connector = HttpConnector::new();
    connector.set_connect_timeout(Some(CONNECT));
    let client = Client::builder(TokioExecutor::new()).build(connector);
    let sender = Arc::new(Sender {
        client,
        uri,
        content_type,
        tally: tally.clone(),
        began: Instant::now(),
        answered: AtomicBool::new(false),
        taken: AtomicBool::new(false),
        give_up: stop.child_token(),
    });
    let supply = Supply { stream: stream.clone(), sent: Arc::default() };
    let mut workers = JoinSet::new();
    for _ in 0..target.connections.max(1) {
        workers.spawn(work(sender.clone(), supply.clone(), pace));
    }
    while let Some(ended) = workers.join_next().await {
        if let Err(error) = ended {
            return Err(TargetError::Interrupted(error));
        }
    }
    if stop.is_cancelled() || !sender.give_up.is_cancelled() {
        return Ok(());
    }
    Err(TargetError::Unreachable {
        address: target.url.clone(),
        reason: tally.refusal().unwrap_or_default(),
        remedy: "start what takes them, such as `sluice local`, or name another URL with --http",
    })
}

/// What the senders share.
#[derive(Clone)]
struct Supply {
    stream: Arc<Mutex<Stream>>,
    /// Spans taken so far, for the pace.
    sent: Arc<AtomicU64>,
}

struct Outgoing {
    payload: Vec<u8>,
    emitted: Emitted,
    ids: Vec<(u128, u64)>,
    wait: Duration,
}

fn take(supply: &Supply, pace: Pace, tally: &Tally) -> Option<Outgoing> {
    let mut stream = lock(&supply.stream);
    let wait = pace.wait(supply.sent.load(Relaxed))?;
    let mut payload = Vec::new();
    let emitted = stream.next(&mut payload)?;
    supply.sent.fetch_add(emitted.len() as u64, Relaxed);
    let ids = if tally.wants_ids() { stream.ids(&emitted) } else { Vec::new() };
    Some(Outgoing { payload, emitted, ids, wait })
}

async fn work(sender: Arc<Sender>, supply: Supply, pace: Pace) {
    while !sender.give_up.is_cancelled()
        && let Some(outgoing) = take(&supply, pace, &sender.tally)
    {
        tokio::select! {
            () = sender.give_up.cancelled() => return,
            () = tokio::time::sleep(outgoing.wait) => {}
        }
        let spans = outgoing.emitted.len() as u64;
        sender.tally.sent(spans, outgoing.payload.len() as u64);
        match sender.send(outgoing.payload.into()).await {
            Ok(()) => sender.tally.acknowledged(spans, &outgoing.ids),
            Err(error) => sender.tally.failed(spans, &error),
        }
    }
}

impl Sender {
    /// Tries until it is taken, refused for good, or not worth another try: after a stop there is none.
    async fn send(&self, payload: Bytes) -> Result<(), String> {
        let began = Instant::now();
        loop {
            let stopped = async {
                self.give_up.cancelled().await;
                tokio::time::sleep(ANSWER_STOPPED).await;
            };
            let answer = tokio::select! {
                () = stopped => return Err("stopped before there was an answer".to_owned()),
                answer = tokio::time::timeout(ANSWERED_WITHIN, self.post(payload.clone())) => answer,
            };
            let is_late = |one: &AtomicBool| !one.load(Relaxed) && self.began.elapsed() >= FIRST_ANSWER;
            let error = match answer {
                Ok(Ok((status, _))) if status.is_success() => {
                    self.taken.store(true, Relaxed);
                    return Ok(());
                }
                Ok(Ok((status, body))) => {
                    let error = match status {
                        StatusCode::NOT_FOUND => {
                            format!("{status}: nothing takes spans at {}", self.uri.path())
                        }
                        _ => format!("{status}: {}", body.trim()),
                    };
                    if status != StatusCode::SERVICE_UNAVAILABLE && status != StatusCode::TOO_MANY_REQUESTS {
                        if is_late(&self.taken) {
                            self.tally.refused(&error);
                            self.give_up.cancel();
                        }
                        return Err(error);
                    }
                    error
                }
                Ok(Err(error)) => error,
                Err(_) => format!("no answer within {ANSWERED_WITHIN:?}"),
            };
            if is_late(&self.answered) {
                self.give_up.cancel();
            }
            if began.elapsed() > KEEP_TRYING {
                return Err(error);
            }
            self.tally.refused(&error);
            tokio::select! {
                () = self.give_up.cancelled() => return Err(error),
                () = tokio::time::sleep(PAUSE) => {}
            }
        }
    }

    async fn post(&self, payload: Bytes) -> Result<(StatusCode, String), String> {
        let request = Request::post(self.uri.clone())
            .header(header::CONTENT_TYPE, self.content_type)
            .body(Full::new(payload))
            .map_err(|error| error.to_string())?;
        let response =
            self.client.request(request).await.map_err(|error| sluice_crds::problem::chain(&error))?;
        self.answered.store(true, Relaxed);
        let status = response.status();
        let body = response.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_may_be_given_with_its_path_or_without() {
        for url in ["http://h:1", "http://h:1/", "http://h:1/v1/traces", "http://h:1/v1/traces/"] {
            assert_eq!(endpoint_url(url, "/v1/traces"), "http://h:1/v1/traces");
        }
        assert_eq!(endpoint_url("http://h:1/otlp", "/v1/traces"), "http://h:1/otlp/v1/traces");
    }
}
