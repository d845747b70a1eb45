//! Answers to `/status`, for consumers' pods that do not run.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use anyhow::Context;
use http_body_util::Full;
use hyper::Response;
use hyper::body::Bytes;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// The port of a consumer's `/status`.
const PORT: u16 = 9464;

/// Answers every request to one address, until it is dropped.
pub struct Responder {
    answers: Arc<AtomicU64>,
    task: JoinHandle<()>,
}

impl Responder {
    /// Starts one; `answer` is given the number of answers before it.
    ///
    /// # Errors
    /// The port is taken.
    pub async fn start(
        address: IpAddr,
        answer: impl Fn(u64) -> Value + Send + Sync + 'static,
    ) -> anyhow::Result<Self> {
        let listener = TcpListener::bind((address, PORT)).await;
        let listener = listener
            .with_context(|| format!("cannot listen on {address}:{PORT}: does a consumer run here?"))?;
        let (answers, answer) = (Arc::new(AtomicU64::new(0)), Arc::new(answer));
        let counted = answers.clone();
        let task = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (counted, answer) = (counted.clone(), answer.clone());
                let service = service_fn(move |_request| {
                    let body = answer(counted.fetch_add(1, Relaxed)).to_string();
                    std::future::ready(Ok::<_, Infallible>(Response::new(Full::new(Bytes::from(body)))))
                });
                // The operator closes connections as it likes.
                tokio::spawn(Builder::new().serve_connection(TokioIo::new(stream), service));
            }
        });
        Ok(Self { answers, task })
    }

    /// How often it was asked.
    pub fn answers(&self) -> u64 {
        self.answers.load(Relaxed)
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.task.abort();
    }
}
