//! Serves HTTP within bounds of connections and of patience.
//!
//! Guarantees: no more than [`Limits::connections`] are open at once. Whoever comes besides takes the place of the one that
//! has waited longest for its next request; where all are served it is told 503 or closed. A client that sends the head
//! of its request slowly, or is idle between two requests, is closed after [`Limits::patience`], and so is one that takes
//! less than [`LEAST`] of a longer answer within that time. A connection holds at most [`BUFFER`] of what was sent before
//! it is a body. How long a body may take is its reader's matter.

mod idle;

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::sync::CancellationToken;

use idle::Idle;

/// Longest head of a request, and what of a body is read ahead.
const BUFFER: usize = 64 << 10;
/// What a client must take of its answer within the patience, where there is as much: who trickles holds the whole.
const LEAST: usize = 1 << 20;
/// How many are told at once that there are too many.
const TURNED_AWAY: usize = 64;
/// How long it is tried to tell one of them.
const TELL_WITHIN: Duration = Duration::from_secs(1);
/// Who waits for less is not idle: many that come at once would put each other out before they have asked.
const LEAST_IDLE: Duration = Duration::from_millis(200);
/// How long one that makes room for another may still take what it was answered.
const LAST_ANSWER: Duration = Duration::from_millis(500);
/// Pause after an error that other connections share, such as no handle left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(500);
const BUSY: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 3\r\nConnection: close\r\n\
    Content-Type: text/plain\r\nContent-Length: 21\r\n\r\ntoo many connections\n";

/// What a server puts up with.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections served at once.
    pub connections: usize,
    /// Longest wait for the head of a request, and for a client that reads nothing.
    pub patience: Duration,
}

/// An address to listen on, from the command line.
///
/// # Errors
/// What was expected. A host's name is none: it may have several addresses.
pub fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected IP:PORT, such as 127.0.0.1:9464 or 0.0.0.0:9464".to_owned())
}

/// What a person must know of an address, given with `option`, that cannot be listened on.
pub fn cannot_listen(option: &'static str, address: SocketAddr) -> impl FnOnce(io::Error) -> anyhow::Error {
    move |error| {
        let remedy = match error.kind() {
            io::ErrorKind::AddrInUse => {
                let free = SocketAddr::new(address.ip(), 0);
                format!(
                    "stop what does, or choose another port: {option} {free} takes one that is free, and logs it"
                )
            }
            io::ErrorKind::AddrNotAvailable => {
                let own = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), address.port());
                format!(
                    "this machine does not have that address: choose one that it has, such as {option} {own}"
                )
            }
            _ => format!("choose another address with {option}"),
        };
        anyhow::anyhow!("cannot listen on {address}: {error}; {remedy}")
    }
}

/// Serves until `stop`; then requests under way are finished, for as long as that takes.
pub async fn serve(listener: TcpListener, router: Router, limits: Limits, stop: CancellationToken) {
    let permits = Arc::new(Semaphore::new(limits.connections));
    let refusals = Arc::new(Semaphore::new(TURNED_AWAY));
    let told = Arc::new(AtomicBool::new(false));
    let idle = Idle::default();
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => break,
        };
        while connections.try_join_next().is_some() {}
        let stream = match accepted {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::debug!(%error, "a connection was not accepted");
                sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let permit = permits.clone().try_acquire_owned().ok();
        if permit.is_some() || idle.close_longest(LEAST_IDLE) {
            let (permits, router, stop) = (permits.clone(), router.clone(), stop.clone());
            let (told, idle) = (told.clone(), idle.clone());
            connections.spawn(async move {
                let Some(permit) = permit_or_wait(permit, permits).await else {
                    return refuse(stream).await;
                };
                if let Err(error) = connection(stream, router, limits, idle, stop).await {
                    ended_early(&error, &told);
                }
                drop(permit);
            });
        } else if let Ok(refusal) = refusals.clone().try_acquire_owned() {
            connections.spawn(async move {
                refuse(stream).await;
                drop(refusal);
            });
        }
    }
    drop(listener);
    while connections.join_next().await.is_some() {}
}

async fn connection(
    stream: TcpStream,
    router: Router,
    limits: Limits,
    idle: Idle,
    stop: CancellationToken,
) -> hyper::Result<()> {
    // Answers are small; without this the kernel may hold one back, which costs a client time and nothing else.
    let _ = stream.set_nodelay(true);
    let stream = TokioIo::new(Impatient::new(stream, limits.patience));
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(limits.patience).max_buf_size(BUFFER);
    let waits = idle.enter();
    let (router, seen) = (TowerToHyperService::new(router), &waits);
    let service = service_fn(move |request| {
        seen.serves();
        let answer = router.call(request);
        async move {
            let answer = answer.await;
            seen.again();
            answer
        }
    });
    let mut served = pin!(builder.serve_connection(stream, service));
    tokio::select! {
        ended = &mut served => ended,
        () = waits.closed() => {
            served.as_mut().graceful_shutdown();
            // Dropped, where it waits for the rest of a head.
            timeout(LAST_ANSWER, served).await.unwrap_or(Ok(()))
        }
        () = stop.cancelled() => {
            served.as_mut().graceful_shutdown();
            served.await
        }
    }
}

/// The permit, or one that is left soon.
async fn permit_or_wait(
    permit: Option<OwnedSemaphorePermit>,
    permits: Arc<Semaphore>,
) -> Option<OwnedSemaphorePermit> {
    match permit {
        Some(permit) => Some(permit),
        None => timeout(TELL_WITHIN, permits.acquire_owned()).await.ok()?.ok(),
    }
}

/// A client that speaks HTTP/2 sees nothing but a closed connection, and comes again and again: people are told, once.
fn ended_early(error: &hyper::Error, told: &AtomicBool) {
    if error.is_parse_version_h2() && !told.swap(true, Relaxed) {
        tracing::warn!(
            "a client speaks HTTP/2, as OTLP over gRPC does, and was turned away: this port takes HTTP/1.1; \
             OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf makes an exporter of OpenTelemetry speak it"
        );
    } else {
        tracing::debug!(%error, "a connection ended early");
    }
}

/// A client that has gone, or does not listen, is as good as told.
async fn refuse(stream: TcpStream) {
    let _ = timeout(TELL_WITHIN, turn_away(stream)).await;
}

async fn turn_away(mut stream: TcpStream) -> io::Result<()> {
    stream.write_all(BUSY).await?;
    stream.shutdown().await?;
    // What was sent and not read would make the kernel reset the connection, answer and all.
    let mut sent = [0; 4096];
    while stream.read(&mut sent).await? > 0 {}
    Ok(())
}

/// A stream that gives up where too little of what is written is taken for a while.
struct Impatient<S> {
    stream: S,
    patience: Duration,
    /// Set since a write has had to wait, until [`LEAST`] or all is written.
    waits: Option<Pin<Box<Sleep>>>,
    /// Bytes written since.
    taken: usize,
}

impl<S> Impatient<S> {
    fn new(stream: S, patience: Duration) -> Self {
        Self { stream, patience, waits: None, taken: 0 }
    }

    fn wrote(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if let Poll::Ready(Ok(bytes)) = &polled {
            self.taken += bytes;
            if self.taken >= LEAST {
                self.waits = None;
            }
        }
        self.bounded(cx, polled)
    }

    /// What is written is out.
    fn flushed(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<()>>) -> Poll<io::Result<()>> {
        if polled.is_ready() {
            self.waits = None;
        }
        self.bounded(cx, polled)
    }

    fn bounded<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if polled.is_ready() {
            return polled;
        }
        let until = Instant::now() + self.patience;
        let waits = self.waits.get_or_insert_with(|| {
            self.taken = 0;
            Box::pin(tokio::time::sleep_until(until))
        });
        ready!(waits.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the client takes nothing of its answer, or too little",
        )))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Impatient<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Impatient<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        self.wrote(cx, polled)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.stream).poll_write_vectored(cx, parts);
        self.wrote(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_flush(cx);
        self.flushed(cx, polled)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.stream).poll_shutdown(cx);
        self.flushed(cx, polled)
    }
}

#[cfg(test)]
mod tests;
