//! Reads request bodies within bounds of size, time and memory.
//!
//! Guarantee: however many clients send at once, bodies that arrive take at most [`ARRIVING_BYTES`], and
//! unpacked ones at most [`UNPACKED_BYTES`]. A body that does not say how long it is counts as the longest. Whoever is
//! refused hears it: what is left of the body is read and thrown away first ([`discard_refused`]).

use std::io::Read;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, Bytes, HttpBody};
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::Response;
use flate2::read::{MultiGzDecoder, ZlibDecoder};
use http_body_util::BodyExt;
use hyper::body::{Frame, SizeHint};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

use crate::lock::lock;

/// Longest body as it is sent.
pub const MAX_BODY: usize = 4 << 20;
/// Longest body after unpacking.
pub const MAX_UNPACKED: usize = 8 << 20;
/// How much of a body that is refused is read and thrown away.
const DISCARDED: usize = 64 << 20;
const ARRIVING_BYTES: usize = 32 << 20;
const UNPACKED_BYTES: usize = 32 << 20;
/// Largest window of zstd: what may come after it needs no more.
const ZSTD_WINDOW_LOG: u32 = MAX_UNPACKED.ilog2();
/// Longest wait for memory.
const MEMORY_WITHIN: Duration = Duration::from_secs(5);
/// How long a client may take to send a body.
const SENT_WITHIN: Duration = Duration::from_secs(10);

/// Why a request is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpRefusal {
    /// HTTP status.
    pub status: StatusCode,
    /// What is wrong and, where there is one, the remedy.
    pub reason: String,
}

impl HttpRefusal {
    /// A refusal.
    pub fn new(status: StatusCode, reason: impl Into<String>) -> Self {
        Self { status, reason: reason.into() }
    }
}

/// Memory for bodies.
#[derive(Clone, Debug)]
pub struct Bodies {
    arriving: Arc<Semaphore>,
    unpacked: Arc<Semaphore>,
}

/// A body, and the memory that it may take.
#[derive(Debug)]
pub struct Received {
    /// The body, unpacked.
    pub bytes: Vec<u8>,
    _memory: OwnedSemaphorePermit,
}

impl Default for Bodies {
    fn default() -> Self {
        Self {
            arriving: Arc::new(Semaphore::new(ARRIVING_BYTES)),
            unpacked: Arc::new(Semaphore::new(UNPACKED_BYTES)),
        }
    }
}

impl Bodies {
    /// Reads and unpacks a body.
    ///
    /// # Errors
    /// 408, 413, 415 or 503, each with its reason.
    pub async fn receive(&self, headers: &HeaderMap, body: Body) -> Result<Received, HttpRefusal> {
        let packing = packing(headers)?;
        let announced = match headers.get(header::CONTENT_LENGTH) {
            Some(length) => length.to_str().ok().and_then(|text| text.parse().ok()).unwrap_or(MAX_BODY),
            None => MAX_BODY,
        };
        if announced > MAX_BODY {
            return Err(too_large(MAX_BODY));
        }
        let arriving = reserve(&self.arriving, announced).await?;
        let bytes = match tokio::time::timeout(SENT_WITHIN, read(body)).await {
            Ok(bytes) => bytes?,
            Err(_) => {
                let reason = format!("the body did not arrive within {SENT_WITHIN:?}");
                return Err(HttpRefusal::new(StatusCode::REQUEST_TIMEOUT, reason));
            }
        };
        let Some(packing) = packing else {
            return Ok(Received { bytes, _memory: arriving });
        };
        let memory = reserve(&self.unpacked, packing.memory()).await?;
        let unpacking = tokio::task::spawn_blocking(move || packing.unpack(&bytes)).await;
        let bytes = unpacking
            .map_err(|error| HttpRefusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))??;
        Ok(Received { bytes, _memory: memory })
    }
}

/// Reads a body.
async fn read(mut body: Body) -> Result<Vec<u8>, HttpRefusal> {
    let mut bytes = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|error| {
            HttpRefusal::new(StatusCode::BAD_REQUEST, format!("the body ended early: {error}"))
        })?;
        let Ok(data) = frame.into_data() else { continue };
        if bytes.len() + data.len() > MAX_BODY {
            return Err(too_large(MAX_BODY));
        }
        bytes.extend_from_slice(&data);
    }
    Ok(bytes)
}

/// Answers a refusal, whoever made it, after what is left of the body was read for a while: a client that is still sending
/// when the connection closes would not see the answer, and send all of it again. One that waits for 100 (RFC 9110, section
/// 10.1.1) is not sending.
pub async fn discard_refused(request: Request, next: Next) -> Response {
    let until = Instant::now() + SENT_WITHIN;
    let (parts, body) = request.into_parts();
    let waits = expects_continue(&parts.headers);
    let lent = Arc::new(Mutex::new(Lent { body, begun: false }));
    let request = Request::from_parts(parts, Body::new(Borrowed(lent.clone())));
    let response = next.run(request).await;
    let refused = response.status().is_client_error() || response.status().is_server_error();
    if let (true, Some(left)) = (refused, Arc::into_inner(lent)) {
        let Lent { body, begun } = left.into_inner().unwrap_or_else(PoisonError::into_inner);
        if begun || !waits {
            // Whoever sends on after that is cut off.
            let _ = tokio::time::timeout_at(until, discard(body)).await;
        }
    }
    response
}

async fn discard(mut body: Body) {
    let mut length = 0;
    while length <= DISCARDED
        && let Some(Ok(frame)) = body.frame().await
    {
        length += frame.data_ref().map_or(0, Bytes::len);
    }
}

/// Whether the client sends its body only when it is told to.
fn expects_continue(headers: &HeaderMap) -> bool {
    headers.get(header::EXPECT).is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue"))
}

/// A body that is not lost with who reads it.
struct Lent {
    body: Body,
    begun: bool,
}

struct Borrowed(Arc<Mutex<Lent>>);

impl HttpBody for Borrowed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let mut lent = lock(&self.0);
        lent.begun = true;
        Pin::new(&mut lent.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        lock(&self.0).body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        lock(&self.0).body.size_hint()
    }
}

async fn reserve(memory: &Arc<Semaphore>, bytes: usize) -> Result<OwnedSemaphorePermit, HttpRefusal> {
    // Bounded by the limits above, far below 4 GiB.
    let waiting = memory.clone().acquire_many_owned(bytes.max(1) as u32);
    match tokio::time::timeout(MEMORY_WITHIN, waiting).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(HttpRefusal::new(StatusCode::SERVICE_UNAVAILABLE, "too many bodies arrive at once")),
    }
}

fn too_large(limit: usize) -> HttpRefusal {
    let reason = format!("the body is longer than {limit} bytes; send smaller batches");
    HttpRefusal::new(StatusCode::PAYLOAD_TOO_LARGE, reason)
}

/// How a body is packed: what exporters of OpenTelemetry offer, and the standard library of most languages unpacks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Packing {
    Gzip,
    /// The zlib format (RFC 1950), which HTTP calls `deflate` (RFC 9110, section 8.4.1.2).
    Zlib,
    Zstd,
}

/// What a body's `content-encoding` says.
fn packing(headers: &HeaderMap) -> Result<Option<Packing>, HttpRefusal> {
    let encoding = headers.get(header::CONTENT_ENCODING).map(|value| value.to_str().unwrap_or("?"));
    match encoding.map(str::to_ascii_lowercase).as_deref() {
        None | Some("" | "identity") => Ok(None),
        Some("gzip" | "x-gzip") => Ok(Some(Packing::Gzip)),
        Some("deflate" | "zlib") => Ok(Some(Packing::Zlib)),
        Some("zstd") => Ok(Some(Packing::Zstd)),
        Some(other) => Err(HttpRefusal::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            format!("expected content-encoding gzip, deflate, zstd or none, found {other:?}"),
        )),
    }
}

impl Packing {
    fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zlib => "deflate",
            Self::Zstd => "zstd",
        }
    }

    /// Most bytes that unpacking holds; zstd keeps a window of what it has given.
    fn memory(self) -> usize {
        match self {
            Self::Gzip | Self::Zlib => MAX_UNPACKED,
            Self::Zstd => MAX_UNPACKED + (1 << ZSTD_WINDOW_LOG),
        }
    }

    fn unpack(self, packed: &[u8]) -> Result<Vec<u8>, HttpRefusal> {
        let read = || match self {
            Self::Gzip => read_unpacked(MultiGzDecoder::new(packed), packed.len()),
            Self::Zlib => read_unpacked(ZlibDecoder::new(packed), packed.len()),
            Self::Zstd => {
                let mut reader = zstd::Decoder::with_buffer(packed)?;
                reader.window_log_max(ZSTD_WINDOW_LOG)?;
                read_unpacked(reader, packed.len())
            }
        };
        match read() {
            Ok(unpacked) if unpacked.len() > MAX_UNPACKED => Err(too_large(MAX_UNPACKED)),
            Ok(unpacked) => Ok(unpacked),
            Err(error) => {
                let reason = format!("not valid {}: {error}", self.name());
                Err(HttpRefusal::new(StatusCode::BAD_REQUEST, reason))
            }
        }
    }
}

/// At most a byte more than the limit.
fn read_unpacked(reader: impl Read, packed: usize) -> std::io::Result<Vec<u8>> {
    let mut unpacked = Vec::with_capacity((packed * 4).min(MAX_UNPACKED));
    reader.take(MAX_UNPACKED as u64 + 1).read_to_end(&mut unpacked)?;
    Ok(unpacked)
}

#[cfg(test)]
mod tests;
