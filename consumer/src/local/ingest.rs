//! `POST /api/v2/spans` and `POST /v1/traces`: from a client into the queue. `GET /health`: whether it takes them.
//!
//! Guarantees: a push is acknowledged after it is on the disk, and never before it was decoded once; what cannot be
//! decoded is refused with the reason and is not queued. A push whose format the pipeline would not read, or in which
//! it would find other spans, is refused, too. A single span that cannot become a row does not hold up its neighbours:
//! it is queued with them and becomes a dead letter.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;
use sluice_crds::v1alpha1::{Format, JsonPaths};

use super::body::{Bodies, HttpRefusal};
use super::otlp::{self, Encoding};
use crate::decode::{DecodeError, Decoder, RejectedSpan};
use crate::source::queue::{AppendError, Queue, Record};
use crate::span::SpanBuf;

/// When a client that was refused for a while should come again, seconds. OpenTelemetry's SDKs try six times, and wait this
/// long instead of ever longer: with 1 they gave up after 5 s.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("3");

/// Longest media type that there can be (RFC 6838, section 4.2).
const MEDIA_TYPE_CHARS: usize = 127 + 1 + 127;
/// What a row takes in the database besides its trace id, kind and body: its id and times, and its entry in the index.
const ROW_OVERHEAD: usize = 120;
/// What a dead letter takes there besides its body, trace id and kind: its row and reason, what it repeats of the push (the key
/// and the media type), and five chunks with their entries in an index.
const LETTER_OVERHEAD: usize = 1 << 10;

/// Takes pushes.
pub struct Ingest {
    queue: Queue,
    bodies: Bodies,
    /// The format that the pipeline reads, and its decoder.
    format: Format,
    decoder: Decoder,
    spans: AtomicU64,
}

/// What became of a push.
struct Pushed {
    rejected: Option<(usize, String)>,
}

/// What is in a push, without the spans themselves: these take many times as much memory, which no budget counts, and would
/// have to wait with it for the disk.
struct Found {
    spans: usize,
    rejected: usize,
    /// What is wrong with the first span that is rejected.
    reason: Option<String>,
    /// Of the first span that can be a row.
    trace_id: String,
    /// What spans and dead letters will take in the database, about.
    stored_bytes: u64,
}

impl Found {
    /// Decodes a push. Nothing where it holds nothing; refused where none of its spans can become a row.
    fn within(format: Format, payload: &[u8]) -> Result<Option<Self>, HttpRefusal> {
        let (mut spans, mut rejected) = (SpanBuf::default(), Vec::new());
        decode(format, payload, &mut spans, &mut rejected)?;
        let reason =
            rejected.first().map(|RejectedSpan { index, defect, .. }| format!("span {index}: {defect}"));
        if spans.is_empty() {
            return match reason {
                Some(reason) => Err(HttpRefusal::new(StatusCode::BAD_REQUEST, reason)),
                None => Ok(None),
            };
        }
        let rows = spans.bytes() + spans.len() * ROW_OVERHEAD;
        let letter_bytes = |letter: &RejectedSpan| {
            letter.trace_id.len() + letter.kind.len() + letter.body.len() + LETTER_OVERHEAD
        };
        let letters: usize = rejected.iter().map(letter_bytes).sum();
        Ok(Some(Self {
            spans: spans.len(),
            rejected: rejected.len(),
            reason,
            trace_id: spans.get(0).trace_id.to_owned(),
            stored_bytes: (rows + letters) as u64,
        }))
    }
}

impl Ingest {
    /// Takes pushes for a pipeline that reads `format` with `decoder`.
    pub fn new(queue: Queue, format: Format, decoder: Decoder) -> Self {
        Self { queue, bodies: Bodies::default(), format, decoder, spans: AtomicU64::new(0) }
    }

    /// Spans acknowledged since the start of the process.
    pub fn spans(&self) -> u64 {
        self.spans.load(Relaxed)
    }

    async fn push(&self, format: Format, headers: &HeaderMap, body: Body) -> Result<Pushed, HttpRefusal> {
        if self.format != Format::Auto && self.format != format {
            let reason = format!("this pipeline reads {:?}, the push is {format:?}", self.format);
            return Err(HttpRefusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason));
        }
        let received = self.bodies.receive(headers, body).await?;
        let Some(found) = Found::within(format, &received.bytes)? else {
            return Ok(Pushed { rejected: None });
        };
        self.check_recognised(&received.bytes, (found.spans, found.rejected))?;
        let trace_id = found.trace_id.into_bytes();
        let content_type =
            Some(media_type(headers)).filter(|kind| (1..=MEDIA_TYPE_CHARS).contains(&kind.len()));
        let record = Record {
            key: Some(trace_id.clone()),
            payload: received.bytes,
            // Dead letters repeat it, and a client may send 60 kB of parameters.
            headers: content_type.map(|kind| ("content-type".to_owned(), kind)).into_iter().collect(),
            stored_bytes: found.stored_bytes,
        };
        self.queue.append(&trace_id, record).await.map_err(|error| {
            let status = match error {
                AppendError::Full { .. }
                | AppendError::NoRoom
                | AppendError::Disk(_)
                | AppendError::Closing => StatusCode::SERVICE_UNAVAILABLE,
            };
            HttpRefusal::new(status, error.to_string())
        })?;
        self.spans.fetch_add((found.spans + found.rejected) as u64, Relaxed);
        Ok(Pushed { rejected: found.reason.map(|reason| (found.rejected, reason)) })
    }

    /// `Auto` knows a message by its content alone: it must find what the client says that there is.
    fn check_recognised(&self, payload: &[u8], expected: (usize, usize)) -> Result<(), HttpRefusal> {
        if self.format != Format::Auto {
            return Ok(());
        }
        let (mut spans, mut rejected) = (SpanBuf::default(), Vec::new());
        match self.decoder.decode(payload, &mut spans, &mut rejected) {
            Ok(()) if (spans.len(), rejected.len()) == expected => return Ok(()),
            // One span that is none has the message not recognised, although its client has said what it is.
            Ok(()) | Err(DecodeError::Unknown) => {}
            Err(error) => return Err(refused(&error)),
        }
        let reason = "this pipeline recognises formats by themselves and does not take the push for what it is sent as; \
                      every Zipkin span needs traceId and id";
        Err(HttpRefusal::new(StatusCode::BAD_REQUEST, reason))
    }
}

fn refused(error: &DecodeError) -> HttpRefusal {
    let status = match error {
        DecodeError::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::BAD_REQUEST,
    };
    HttpRefusal::new(status, error.to_string())
}

fn decode(
    format: Format,
    payload: &[u8],
    spans: &mut SpanBuf,
    rejected: &mut Vec<RejectedSpan>,
) -> Result<(), HttpRefusal> {
    // Nothing is a valid message without spans in protobuf, and an object without members in OTLP/JSON.
    let says_nothing = match format {
        Format::OtlpProto | Format::ZipkinProto => payload.is_empty(),
        Format::OtlpJson => payload.iter().filter(|byte| !byte.is_ascii_whitespace()).eq(b"{}"),
        _ => false,
    };
    if says_nothing {
        return Ok(());
    }
    let decoder = Decoder::new(format, &JsonPaths::default())
        .map_err(|error| HttpRefusal::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))?;
    decoder.decode(payload, spans, rejected).map_err(|error| refused(&error))
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
        "application/x-protobuf" => Format::ZipkinProto,
        "application/x-thrift" => {
            let reason = "expected application/json or application/x-protobuf; thrift is Zipkin's v1\n";
            return (StatusCode::UNSUPPORTED_MEDIA_TYPE, reason).into_response();
        }
        // As Zipkin's server has it: what is not said to be protobuf is JSON, such as what `curl -d` sends by itself.
        _ => Format::ZipkinJson,
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
            let refusal = HttpRefusal::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, reason);
            return otlp::refused(Encoding::Json, refusal);
        }
    };
    match ingest.push(format, &headers, body).await {
        Ok(Pushed { rejected }) => otlp::accepted(encoding, rejected),
        Err(refusal) => with_retry_after(otlp::refused(encoding, refusal)),
    }
}

/// `GET /health`: 200 while pushes are taken, else 503 and why.
pub async fn health(State(ingest): State<Arc<Ingest>>) -> Response {
    let (status, said) = match ingest.queue.refuses() {
        None => (StatusCode::OK, json!({"status": "UP"})),
        Some(reason) => {
            (StatusCode::SERVICE_UNAVAILABLE, json!({"status": "DOWN", "reason": reason.to_string()}))
        }
    };
    let content_type = [(header::CONTENT_TYPE, "application/json")];
    with_retry_after((status, content_type, format!("{said}\n")).into_response())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::source::queue::{DEFAULT_MAX_BYTES, Folder, QueueOptions};
    use crate::source::{Message, Source, TopicPartition};

    async fn ingest(directory: &Path, format: Format) -> Ingest {
        ingest_of(directory, format, DEFAULT_MAX_BYTES).await
    }

    async fn ingest_of(directory: &Path, format: Format, max_bytes: u64) -> Ingest {
        let options = QueueOptions {
            topic: "spans".to_owned(),
            partitions: 1,
            max_bytes,
            database: directory.join("sluice.db"),
        };
        let queue = Queue::open(Folder::lock(directory).unwrap(), options).await.unwrap();
        Ingest::new(queue, format, Decoder::new(format, &JsonPaths::default()).unwrap())
    }

    #[tokio::test]
    async fn a_push_that_the_pipeline_would_not_recognise_is_refused_and_not_queued() {
        let directory = tempfile::tempdir().unwrap();
        let ingest = ingest(directory.path(), Format::Auto).await;
        let push = async |body: &'static str| {
            ingest.push(Format::ZipkinJson, &HeaderMap::new(), Body::from(body)).await.map(|_| ())
        };
        let refusal = push(r#"[{"traceId":"a","id":"1"},{"traceId":"a"}]"#).await.unwrap_err();
        assert_eq!(refusal.status, StatusCode::BAD_REQUEST, "{refusal:?}");
        assert_eq!(ingest.queue.appended(), 0);
        push(r#"[{"traceId":"a","id":"1"},{"traceId":"a","id":"2"}]"#).await.unwrap();
        assert_eq!(ingest.queue.appended(), 1);
    }

    #[test]
    fn what_a_push_takes_in_the_database_counts_its_dead_letters() {
        let resource = format!(r#"{{"x":"{}"}}"#, "x".repeat(1_000));
        let spans = format!(r#"{{"traceId":"ab"}}{}"#, r#",{"traceId":"00"}"#.repeat(100));
        let push = format!(
            r#"{{"resourceSpans":[{{"resource":{resource},"scopeSpans":[{{"spans":[{spans}]}}]}}]}}"#
        );
        let found = Found::within(Format::OtlpJson, push.as_bytes()).unwrap().unwrap();
        assert_eq!((found.spans, found.rejected), (1, 100));
        assert!((200_000..300_000).contains(&found.stored_bytes), "{}", found.stored_bytes);
    }

    #[tokio::test]
    async fn a_record_has_the_media_type_of_its_push_and_nothing_else_of_its_header() {
        let long = "x".repeat(60_000);
        for (sent, kept) in [
            (format!("Application/JSON; x={long}"), Some("application/json")),
            (format!("application/{long}"), None),
            (String::new(), None),
        ] {
            let directory = tempfile::tempdir().unwrap();
            let ingest = ingest(directory.path(), Format::Auto).await;
            let headers =
                HeaderMap::from_iter([(header::CONTENT_TYPE, HeaderValue::try_from(sent).unwrap())]);
            let body = Body::from(r#"[{"traceId":"a","id":"1"}]"#);
            ingest.push(Format::ZipkinJson, &headers, body).await.unwrap();
            let at = TopicPartition { topic: ingest.queue.topic().into(), partition: 0 };
            let mut reader = ingest.queue.open(&at, 0).await.unwrap();
            let mut found = Vec::new();
            while found.is_empty() {
                reader.ready().await;
                let each = &mut |message: Message<'_>| {
                    found.push(format!("{:?}", message.headers));
                    true
                };
                reader.read(1, each).unwrap();
            }
            let expected = match kept {
                Some(kept) => format!("[(\"content-type\", Some({:?}))]", kept.as_bytes()),
                None => "[]".to_owned(),
            };
            assert_eq!(found, [expected]);
        }
    }

    #[tokio::test]
    async fn a_push_whose_spans_would_take_too_much_memory_is_too_large() {
        let directory = tempfile::tempdir().unwrap();
        let ingest = ingest(directory.path(), Format::OtlpJson).await;
        let resource = format!(r#"{{"x":"{}"}}"#, "x".repeat(1 << 20));
        let spans = vec![r#"{"traceId":"ab"}"#; 100].join(",");
        let body = format!(
            r#"{{"resourceSpans":[{{"resource":{resource},"scopeSpans":[{{"spans":[{spans}]}}]}}]}}"#
        );
        let refusal = ingest.push(Format::OtlpJson, &HeaderMap::new(), Body::from(body)).await.err().unwrap();
        assert_eq!(refusal.status, StatusCode::PAYLOAD_TOO_LARGE, "{refusal:?}");
        assert_eq!(ingest.queue.appended(), 0);
    }

    #[tokio::test]
    async fn it_is_in_good_health_while_it_takes_spans() {
        let directory = tempfile::tempdir().unwrap();
        let ingest = Arc::new(ingest_of(directory.path(), Format::Auto, 1).await);
        assert_eq!(health(State(ingest.clone())).await.status(), StatusCode::OK);
        let body = Body::from(r#"[{"traceId":"a","id":"1"}]"#);
        ingest.push(Format::ZipkinJson, &HeaderMap::new(), body).await.unwrap();
        let full = health(State(ingest)).await;
        assert_eq!(full.status(), StatusCode::SERVICE_UNAVAILABLE);
        let said = axum::body::to_bytes(full.into_body(), 1 << 10).await.unwrap();
        let said: serde_json::Value = serde_json::from_slice(&said).unwrap();
        assert_eq!(said["status"], "DOWN");
        assert!(said["reason"].as_str().unwrap().starts_with("the queue is full"), "{said}");
    }
}
