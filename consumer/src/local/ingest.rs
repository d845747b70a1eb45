//! `POST /api/v2/spans` and `POST /v1/traces`: from a client into the queue.
//!
//! Guarantees: a push is acknowledged after it is on the disk, and never before it was decoded once; what
//! cannot be decoded is refused with the reason and is not queued. A push whose format the pipeline would not
//! read is refused, too. A single span that cannot become a row does not hold up its neighbours: it is queued
//! with them and becomes a dead letter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use sluice_crds::v1alpha1::{Format, JsonPaths};

use super::body::{Bodies, Refusal};
use super::otlp::{self, Encoding};
use crate::decode::{Decoder, RejectedSpan};
use crate::source::queue::{AppendError, Queue, Record};
use crate::span::SpanBuf;

/// When a client that was refused for a while should come again, seconds.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// Takes pushes.
pub struct Ingest {
    queue: Queue,
    bodies: Bodies,
    /// The format that the pipeline reads.
    format: Format,
    spans: AtomicU64,
}

/// What became of a push.
struct Pushed {
    rejected: Option<(usize, String)>,
}

impl Ingest {
    /// Takes pushes for a pipeline that reads `format`.
    pub fn new(queue: Queue, format: Format) -> Self {
        Self { queue, bodies: Bodies::default(), format, spans: AtomicU64::new(0) }
    }

    /// Spans acknowledged since the start of the process.
    pub fn spans(&self) -> u64 {
        self.spans.load(Relaxed)
    }

    async fn push(&self, format: Format, headers: &HeaderMap, body: Body) -> Result<Pushed, Refusal> {
        if self.format != Format::Auto && self.format != format {
            let reason = format!("this pipeline reads {:?}, the push is {format:?}", self.format);
            return Err(Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
        }
        let received = self.bodies.receive(headers, body).await?;
        let (mut spans, mut rejected) = (SpanBuf::default(), Vec::new());
        decode(format, &received.bytes, &mut spans, &mut rejected)?;
        let count = (spans.len() + rejected.len()) as u64;
        if count == 0 {
            return Ok(Pushed { rejected: None });
        }
        let reason =
            rejected.first().map(|RejectedSpan { index, defect, .. }| format!("span {index}: {defect}"));
        if let (true, Some(reason)) = (spans.is_empty(), &reason) {
            return Err(Refusal::new(StatusCode::BAD_REQUEST, reason));
        }
        let trace_id = spans.get(0).trace_id.to_owned();
        drop(spans);
        let content_type = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let record = Record {
            key: Some(trace_id.as_bytes().to_vec()),
            payload: received.bytes,
            headers: content_type
                .map(|value| ("content-type".to_owned(), value.to_owned()))
                .into_iter()
                .collect(),
        };
        self.queue.append(trace_id.as_bytes(), record).await.map_err(|error| {
            let status = match error {
                AppendError::Full { .. } | AppendError::Disk(_) | AppendError::Closing => {
                    StatusCode::SERVICE_UNAVAILABLE
                }
            };
            Refusal::new(status, error.to_string())
        })?;
        self.spans.fetch_add(count, Relaxed);
        Ok(Pushed { rejected: reason.map(|reason| (rejected.len(), reason)) })
    }
}

fn decode(
    format: Format,
    payload: &[u8],
    spans: &mut SpanBuf,
    rejected: &mut Vec<RejectedSpan>,
) -> Result<(), Refusal> {
    // In protobuf, nothing is a valid message without spans.
    if payload.is_empty() && matches!(format, Format::OtlpProto | Format::ZipkinProto) {
        return Ok(());
    }
    let decoder = Decoder::new(format, &JsonPaths::default())
        .map_err(|error| Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, error))?;
    let decoded = decoder.decode(payload, spans, rejected);
    decoded.map_err(|error| Refusal::new(StatusCode::BAD_REQUEST, error.to_string()))
}

/// The media type without its parameters, in lower case.
fn media_type(headers: &HeaderMap) -> String {
    let value = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    value.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

fn with_retry_after(mut response: Response) -> Response {
    if response.status() == StatusCode::SERVICE_UNAVAILABLE {
        response.headers_mut().insert(header::RETRY_AFTER, RETRY_AFTER);
    }
    response
}

/// `POST /api/v2/spans`: 202, or the reason as text.
pub async fn zipkin(State(ingest): State<Arc<Ingest>>, headers: HeaderMap, body: Body) -> Response {
    let format = match media_type(&headers).as_str() {
        "" | "application/json" | "text/plain" => Format::ZipkinJson,
        "application/x-protobuf" => Format::ZipkinProto,
        other => {
            let reason = format!("expected application/json or application/x-protobuf, found {other:?}\n");
            return (StatusCode::UNSUPPORTED_MEDIA_TYPE, reason).into_response();
        }
    };
    match ingest.push(format, &headers, body).await {
        Ok(_) => StatusCode::ACCEPTED.into_response(),
        Err(refusal) => with_retry_after((refusal.status, format!("{}\n", refusal.reason)).into_response()),
    }
}

/// `POST /v1/traces`: 200 with an `ExportTraceServiceResponse`, or a `google.rpc.Status`.
pub async fn otlp(State(ingest): State<Arc<Ingest>>, headers: HeaderMap, body: Body) -> Response {
    let (format, encoding) = match media_type(&headers).as_str() {
        "application/x-protobuf" => (Format::OtlpProto, Encoding::Proto),
        "application/json" => (Format::OtlpJson, Encoding::Json),
        other => {
            let reason = format!("expected application/x-protobuf or application/json, found {other:?}");
            let refusal = Refusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason);
            return otlp::refused(Encoding::Json, refusal);
        }
    };
    match ingest.push(format, &headers, body).await {
        Ok(Pushed { rejected }) => otlp::accepted(encoding, rejected),
        Err(refusal) => with_retry_after(otlp::refused(encoding, refusal)),
    }
}
