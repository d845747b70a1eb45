//! The operator's admin endpoints: `/metrics`, `/livez` and `/readyz`.
//!
//! Guarantee: whoever connects, there are at most [`CONNECTIONS`] connections, none for longer than [`PATIENCE`]. One
//! serves one request: probes and scrapers come seconds apart.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::TokioIo;
use hyper_util::service::TowerToHyperService;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::metrics::Metrics;

/// Connections at once: many more than a kubelet and some scrapers need.
const CONNECTIONS: usize = 128;
/// How long a connection may take, from the first byte asked to the last one answered; a probe waits a second.
const PATIENCE: Duration = Duration::from_secs(10);
/// Pause after an error that other connections share, such as no handle left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);

/// Binds `address` and serves until `stop`; the address is logged.
///
/// # Errors
/// The address cannot be bound.
pub async fn serve(address: SocketAddr, metrics: Arc<Metrics>, stop: CancellationToken) -> io::Result<()> {
    let listener = listen(address).await?;
    tracing::info!(address = %listener.local_addr()?, "admin endpoints: /metrics /livez /readyz");
    tokio::spawn(stop.run_until_cancelled_owned(accept(listener, metrics)));
    Ok(())
}

/// Listens on `address`. `[::]` is every address of this machine, of IPv4 and IPv6; where it has no IPv6, every one that it
/// has.
///
/// # Errors
/// The address cannot be bound.
async fn listen(address: SocketAddr) -> io::Result<TcpListener> {
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

async fn accept(listener: TcpListener, metrics: Arc<Metrics>) {
    let router = Router::new()
        .route("/metrics", get(page))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readiness))
        .with_state(metrics);
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // Where there is no place the connection is closed: those that hold them are closed soon, too.
                let Ok(place) = places.clone().try_acquire_owned() else { continue };
                let router = router.clone();
                tokio::spawn(async move {
                    connection(stream, router).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection to the admin endpoints was not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router) {
    let served = http1::Builder::new()
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    match tokio::time::timeout(PATIENCE, served).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "a connection to the admin endpoints ended early"),
        Err(_) => tracing::debug!("a connection to the admin endpoints took longer than {PATIENCE:?}"),
    }
}

async fn page(State(metrics): State<Arc<Metrics>>) -> impl IntoResponse {
    match metrics.page() {
        Ok(page) => {
            let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
            ([(header::CONTENT_TYPE, content_type)], page).into_response()
        }
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn readiness(State(metrics): State<Arc<Metrics>>) -> (StatusCode, &'static str) {
    if metrics.is_ready() {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "not connected to the API server yet\n")
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::time::Instant;

    use super::*;

    /// Starts the endpoints; returns what connects to them.
    async fn served(metrics: Arc<Metrics>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(accept(listener, metrics));
        address
    }

    async fn answer(address: SocketAddr, request: &str) -> String {
        let mut stream = TcpStream::connect(address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_endpoints_answer_and_readiness_is_told() {
        let metrics = Arc::new(Metrics::default());
        let address = served(metrics.clone()).await;
        let get =
            async |path: &str| answer(address, &format!("GET {path} HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        assert!(get("/livez").await.starts_with("HTTP/1.1 200 "));
        assert!(get("/readyz").await.starts_with("HTTP/1.1 503 "));
        metrics.set_ready(true);
        assert!(get("/readyz").await.starts_with("HTTP/1.1 200 "));
        let page = get("/metrics").await;
        assert!(page.contains("application/openmetrics-text") && page.ends_with("# EOF\n"), "{page}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_its_request_slowly_is_closed() {
        let address = served(Arc::default()).await;
        for sent in ["", "GET /livez HTTP/1.1\r\nhost: "] {
            let began = Instant::now();
            assert_eq!(answer(address, sent).await, "", "after {sent:?}");
            assert!(began.elapsed() >= PATIENCE);
        }
    }

    #[tokio::test]
    async fn every_address_is_every_one_of_ipv4_where_there_is_no_ipv6() {
        let every = |port| SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port);
        for (kind, address, expected) in [
            (io::ErrorKind::Unsupported, every(80), Some("0.0.0.0:80")),
            (io::ErrorKind::AddrNotAvailable, every(80), Some("0.0.0.0:80")),
            // Somebody else serves there.
            (io::ErrorKind::AddrInUse, every(80), None),
            // This one was meant, and no other.
            (io::ErrorKind::AddrNotAvailable, SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 80), None),
        ] {
            let bind =
                async |address: SocketAddr| if address.is_ipv6() { Err(kind.into()) } else { Ok(address) };
            let bound = listen_by(address, bind).await;
            assert_eq!(
                bound.ok().map(|address| address.to_string()).as_deref(),
                expected,
                "{kind} {address}"
            );
        }
        let listener = listen(every(0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.unwrap();
    }

    #[tokio::test]
    async fn there_are_no_more_connections_than_places() {
        let address = served(Arc::default()).await;
        let mut idle = Vec::new();
        for _ in 0..CONNECTIONS {
            idle.push(TcpStream::connect(address).await.unwrap());
        }
        let began = Instant::now();
        let mut besides = TcpStream::connect(address).await.unwrap();
        assert_eq!(besides.read(&mut [0; 1]).await.unwrap(), 0, "it is closed, and told nothing");
        assert!(began.elapsed() < PATIENCE, "closed before any of the others");
    }
}
