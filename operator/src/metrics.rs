//! The operator's own metrics, `/livez` and `/readyz`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, text};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Registry, Unit};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, EncodeLabelValue)]
enum Result {
    #[expect(non_camel_case_types, reason = "the label's value")]
    ok,
    #[expect(non_camel_case_types, reason = "the label's value")]
    error,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByResult {
    result: Result,
}

fn by_result(good: bool) -> ByResult {
    ByResult { result: if good { Result::ok } else { Result::error } }
}

/// Counters of this process.
pub struct Metrics {
    registry: Registry,
    reconciles: Family<ByResult, Counter>,
    reconcile_time: Histogram,
    probes: Family<ByResult, Counter>,
    live_writes: Counter,
    child_writes: Counter,
    status_writes: Counter,
    number_writes: Counter,
    pipelines: Gauge<i64, AtomicI64>,
    leader: Gauge<i64, AtomicI64>,
    ready: AtomicBool,
    watch_errors: Counter<u64, AtomicU64>,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("sluice_operator");
        // From a comparison in memory to a pipeline's first nine writes.
        let reconcile_time = Histogram::new([0.001, 0.005, 0.02, 0.1, 0.5, 2.0, 10.0]);
        let metrics = Self {
            reconciles: Family::default(),
            reconcile_time,
            probes: Family::default(),
            live_writes: Counter::default(),
            child_writes: Counter::default(),
            status_writes: Counter::default(),
            number_writes: Counter::default(),
            pipelines: Gauge::default(),
            leader: Gauge::default(),
            ready: AtomicBool::new(false),
            watch_errors: Counter::default(),
            registry: Registry::default(),
        };
        registry.register("reconciles", "Reconciles, by result", metrics.reconciles.clone());
        let help = "Time of a reconcile";
        registry.register_with_unit("reconcile", help, Unit::Seconds, metrics.reconcile_time.clone());
        registry.register("probes", "Questions to consumers, by result", metrics.probes.clone());
        registry.register("live_writes", "Live documents written", metrics.live_writes.clone());
        registry.register("child_writes", "Other children written", metrics.child_writes.clone());
        registry.register("status_writes", "Statuses written", metrics.status_writes.clone());
        let help = "Statuses written for numbers alone";
        registry.register("status_number_writes", help, metrics.number_writes.clone());
        registry.register("pipelines", "Pipelines that exist", metrics.pipelines.clone());
        registry.register("leader", "1 while this replica is the leader", metrics.leader.clone());
        registry.register(
            "watch_errors",
            "Watches that broke and were begun again",
            metrics.watch_errors.clone(),
        );
        Self { registry, ..metrics }
    }
}

impl Metrics {
    /// A reconcile has ended.
    pub fn reconciled(&self, good: bool, took: Duration) {
        self.reconciles.get_or_create(&by_result(good)).inc();
        self.reconcile_time.observe(took.as_secs_f64());
    }

    /// A consumer was asked.
    pub fn probed(&self, answered: bool) {
        self.probes.get_or_create(&by_result(answered)).inc();
    }

    /// A live document was written.
    pub fn live_written(&self) {
        self.live_writes.inc();
    }

    /// Another child was written.
    pub fn child_written(&self) {
        self.child_writes.inc();
    }

    /// A status was written: for more than numbers, or not.
    pub fn status_written(&self, at_once: bool) {
        self.status_writes.inc();
        if !at_once {
            self.number_writes.inc();
        }
    }

    /// A watch broke.
    pub fn watch_failed(&self) {
        self.watch_errors.inc();
    }

    /// How many pipelines there are.
    pub fn set_pipelines(&self, count: usize) {
        self.pipelines.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    /// Whether this replica leads.
    pub fn set_leader(&self, leads: bool) {
        self.leader.set(i64::from(leads));
    }

    /// Whether it is connected and either leads or waits for its turn.
    pub fn set_ready(&self, ready: bool) {
        self.ready.store(ready, Relaxed);
    }
}

/// Binds `address` and serves until `stop`; the address is logged.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(
    address: SocketAddr,
    metrics: Arc<Metrics>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let listener = TcpListener::bind(address).await?;
    tracing::info!(address = %listener.local_addr()?, "admin endpoints: /metrics /livez /readyz");
    let router = Router::new()
        .route("/metrics", get(page))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .with_state(metrics);
    tokio::spawn(async move {
        let served = axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await;
        if let Err(error) = served {
            tracing::error!(%error, "the admin endpoints have stopped");
        }
    });
    Ok(())
}

async fn page(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    let mut out = String::new();
    match text::encode(&mut out, &metrics.registry) {
        Ok(()) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], out).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readiness(State(metrics): State<Arc<Metrics>>) -> (StatusCode, &'static str) {
    if metrics.ready.load(Relaxed) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not connected to the API server yet\n")
    }
}
