//! What a process tells about itself: `/metrics`, `/livez`, `/readyz`, `/status`.
//!
//! Ready means: settings and a live document loaded, the database prepared once, brokers and topic reached once,
//! and the group joined. Nothing of that is taken back: later trouble, with the database or anything else, is
//! not unreadiness. A restart would not mend it, and the queue absorbs it; it shows in `/status` and in the
//! metrics.

mod metrics;

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::http::{self, Limits};
use crate::meter::{Identity, Meters};
use crate::source::Source;

/// The operator, Prometheus, the kubelet and a person or two ask at once. Whoever does not ask keeps none of them from being
/// answered: where `/livez` fails the process is ended.
const LIMITS: Limits = Limits { connections: 64, patience: Duration::from_secs(30) };

/// What the endpoints read.
pub struct Admin {
    pub identity: Identity,
    pub meters: Arc<Meters>,
    /// Tells where partitions end.
    pub source: CurrentSource,
}

/// The source that is read now: none before it could be started, and another one after credentials were replaced.
#[derive(Clone, Default)]
pub struct CurrentSource(Arc<RwLock<Option<Arc<dyn Source>>>>);

impl CurrentSource {
    /// From now on this one is read.
    pub fn set(&self, source: Arc<dyn Source>) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Some(source);
    }

    /// The one that is read now.
    pub fn get(&self) -> Option<Arc<dyn Source>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Admin {
    fn update_ends(&self) {
        if let Some(source) = self.source.get() {
            self.meters.update_ends(|at| source.known_end(at));
        }
    }

    /// What is still waited for; none when ready.
    fn waits_for(&self) -> Option<&'static str> {
        let preflight = &self.meters.preflight;
        let steps = [
            (self.meters.has_live(), "no live document has been read yet"),
            (self.source.get().is_some(), "the client of the source could not be started yet"),
            (preflight.store_prepared.load(Relaxed), "the database has not been prepared yet"),
            (preflight.source_reached.load(Relaxed), "brokers and topic have not been reached yet"),
            (preflight.group_joined.load(Relaxed), "the consumer group has not been joined yet"),
        ];
        steps.into_iter().find_map(|(done, text)| (!done).then_some(text))
    }
}

/// Listens on `address`. `[::]` is every address of this machine, of IPv4 and IPv6; where it has no IPv6, every one that it
/// has.
///
/// # Errors
/// The address cannot be bound.
pub async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
    listen_by(address, async |address| TcpListener::bind(address).await).await
}

async fn listen_by<T>(address: SocketAddr, bind: impl AsyncFn(SocketAddr) -> io::Result<T>) -> io::Result<T> {
    match bind(address).await {
        Err(error) if address.ip() == Ipv6Addr::UNSPECIFIED && error.kind() != io::ErrorKind::AddrInUse => {
            let instead = SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), address.port());
            let listener = bind(instead).await?;
            tracing::info!(%instead, reason = %error, "there is no IPv6 to listen on");
            Ok(listener)
        }
        listener => listener,
    }
}

/// Binds `address` (port 0 picks a free one) and serves until `stop`. The address is logged.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(address: SocketAddr, admin: Admin, stop: CancellationToken) -> io::Result<SocketAddr> {
    let listener = listen(address).await?;
    let bound = listener.local_addr()?;
    tracing::info!(address = %bound, "admin endpoints: /metrics /livez /readyz /status");
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .with_state(Arc::new(admin));
    tokio::spawn(http::serve(listener, router, LIMITS, stop));
    Ok(bound)
}

async fn metrics(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    match metrics::encode(&admin) {
        Ok(text) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], text).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn ready(State(admin): State<Arc<Admin>>) -> (StatusCode, String) {
    match admin.waits_for() {
        None => (StatusCode::OK, "ready\n".to_owned()),
        Some(text) => (StatusCode::SERVICE_UNAVAILABLE, format!("{text}\n")),
    }
}

async fn status(State(admin): State<Arc<Admin>>) -> impl IntoResponse {
    admin.update_ends();
    Json(admin.meters.status(&admin.identity))
}

#[cfg(test)]
mod tests;
