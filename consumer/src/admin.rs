//! What a process tells about itself: `/metrics`, `/livez`, `/readyz`, `/status`.
//!
//! Ready means: settings and a live document loaded, the database prepared once, brokers and topic reached once,
//! and the group joined. Nothing of that is taken back: later trouble, with the database or anything else, is
//! not unreadiness. A restart would not mend it, and the queue absorbs it; it shows in `/status` and in the
//! metrics.

mod metrics;

use std::net::SocketAddr;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, OnceLock};

use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::meter::{Identity, Meters};
use crate::source::Source;

/// What the endpoints read.
pub struct Admin {
    /// Which pipeline.
    pub identity: Identity,
    /// Counters.
    pub meters: Arc<Meters>,
    /// Tells whether the group was joined. Set when the source could be started.
    pub source: Arc<OnceLock<Arc<dyn Source>>>,
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
            (
                self.source.get().is_some_and(|source| source.joined()),
                "the consumer group has not been joined yet",
            ),
        ];
        steps.into_iter().find_map(|(done, text)| (!done).then_some(text))
    }
}

/// Binds `address` (port 0 picks a free one) and serves until `stop`. The address is logged.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    admin: Admin,
    stop: CancellationToken,
) -> std::io::Result<SocketAddr> {
    let listener = TcpListener::bind(address).await?;
    let bound = listener.local_addr()?;
    tracing::info!(address = %bound, "admin endpoints: /metrics /livez /readyz /status");
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/status", get(status))
        .with_state(Arc::new(admin));
    tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "the admin endpoints have stopped");
        }
    });
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
