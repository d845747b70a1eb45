//! `GET /api/v1/traces/{traceId}` and `GET /api/v2/trace/{traceId}`: from the database to a reader.
//!
//! Guarantee: whatever the number of readers, [`ANSWERS`] of them are answered at once, until they have read their answers,
//! and others wait; while an answer is put together, no more of its rows are kept than twice [`TRACE_BYTES`] and a row
//! each, and no more of their opened bodies than that once.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use sluice_crds::problem::chain;

use crate::read;
use crate::seal::{OpenedSpan, Sealing};
use crate::span::MAX_TRACE_ID_CHARS;
use crate::store::{Store, StoredSpan, TRACE_BYTES};

/// Most rows of one answer.
const MAX_ROWS: u32 = 10_000;
/// Answers that are put together or sent at once: as many as the database has connections for readers. An answer of
/// [`TRACE_BYTES`] takes several times as much memory until its text is made.
const ANSWERS: usize = 4;

/// Where traces are read from.
#[derive(Clone)]
pub struct Traces {
    /// The rows.
    store: Arc<dyn Store>,
    /// What opens their bodies.
    sealing: Arc<Sealing>,
    /// A permit for each answer that may be put together or sent now.
    answers: Arc<Semaphore>,
}

impl Traces {
    /// `sealing` opens the bodies of the rows in `store`.
    pub fn new(store: Arc<dyn Store>, sealing: Arc<Sealing>) -> Self {
        Self { store, sealing, answers: Arc::new(Semaphore::new(ANSWERS)) }
    }

    /// To put an answer together and send it.
    async fn permit(&self) -> Result<OwnedSemaphorePermit, Response> {
        let closed = |failed| error(StatusCode::SERVICE_UNAVAILABLE, failed);
        self.answers.clone().acquire_owned().await.map_err(closed)
    }

    /// The oldest first, as many as an answer holds, and whether there are more.
    async fn rows(&self, trace_id: &str) -> Result<(Vec<OpenedSpan>, bool), Response> {
        if trace_id.is_empty() || trace_id.chars().count() > MAX_TRACE_ID_CHARS {
            let reason = format!("expected a trace id of 1 to {MAX_TRACE_ID_CHARS} characters");
            return Err(error(StatusCode::BAD_REQUEST, reason));
        }
        let unavailable =
            |failed: &dyn std::error::Error| error(StatusCode::SERVICE_UNAVAILABLE, chain(failed));
        let mut stored = Vec::new();
        // One trace may lie under several forms of its id: producers write it differently.
        for form in read::trace_id_forms(trace_id) {
            let found = self.store.trace(&form, MAX_ROWS + 1).await.map_err(|failed| unavailable(&failed))?;
            merge(&mut stored, found);
        }
        let whole = within_an_answer(&stored);
        let truncated = whole < stored.len();
        stored.truncate(whole);
        let opened = self.sealing.open_spans(&*self.store, stored, TRACE_BYTES).await;
        let opened = opened.map_err(|failed| unavailable(&failed))?;
        let truncated = truncated || opened.len() < whole;
        Ok((opened, truncated))
    }
}

/// Adds rows, the oldest first, and drops those that no answer holds; one of them stays, which tells that there are more.
fn merge(stored: &mut Vec<StoredSpan>, found: Vec<StoredSpan>) {
    stored.extend(found);
    stored.sort_by_key(|span| span.id);
    stored.truncate(within_an_answer(stored) + 1);
}

/// How many of these rows one answer holds.
fn within_an_answer(stored: &[StoredSpan]) -> usize {
    let mut bytes = 0;
    let fits = |span: &&StoredSpan| {
        let begins_within = bytes <= TRACE_BYTES;
        bytes += span.body.len();
        begins_within
    };
    stored.iter().take(MAX_ROWS as usize).take_while(fits).count()
}

/// A trace as it lies in the table.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Trace<'a> {
    trace_id: &'a str,
    /// What answered.
    answered_by: &'static str,
    /// Whether there are more rows than one answer holds.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    truncated: bool,
    spans: Vec<SpanRow>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpanRow {
    /// As text: JavaScript's numbers end at 53 bits.
    id: String,
    kind: String,
    created_at: String,
    /// `null` where it cannot be opened.
    body: Option<Box<RawValue>>,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

impl SpanRow {
    /// A body that is no JSON (a foreign row of an adopted table) becomes a string.
    fn new(opened: OpenedSpan) -> Result<Self, serde_json::Error> {
        let OpenedSpan { span: stored, error } = opened;
        let created_at = jiff::Timestamp::from_millisecond(stored.created_at_ms).unwrap_or_default();
        let body = match serde_json::from_str::<&RawValue>(&stored.body) {
            _ if error.is_some() => None,
            Ok(_) => Some(RawValue::from_string(stored.body)?),
            Err(_) => Some(serde_json::value::to_raw_value(&stored.body)?),
        };
        Ok(Self {
            id: stored.id.to_string(),
            kind: stored.kind,
            created_at: created_at.to_string(),
            body,
            error: error.map(|error| chain(&error)),
        })
    }
}

fn error(status: StatusCode, reason: impl std::fmt::Display) -> Response {
    (status, format!("{reason}\n")).into_response()
}

/// An answer that holds its permit until the client has taken it, or has gone.
struct Held {
    text: String,
    _permit: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Held {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

fn json(text: String, permit: OwnedSemaphorePermit) -> Response {
    let body = Bytes::from_owner(Held { text, _permit: permit });
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

/// What a client is told that asks for something else.
const PATHS: &str = "POST /api/v2/spans (Zipkin), POST /v1/traces (OTLP), GET /api/v2/trace/{traceId}, \
                     GET /api/v1/traces/{traceId} and GET /health";

/// A path that nobody serves.
pub async fn no_such_path(uri: Uri) -> Response {
    error(StatusCode::NOT_FOUND, format_args!("there is no {}, but {PATHS}", uri.path()))
}

/// A path that is served to requests of another method.
pub async fn no_such_method(method: Method, uri: Uri) -> Response {
    let reason = format_args!("{} does not take {method}; there are {PATHS}", uri.path());
    error(StatusCode::METHOD_NOT_ALLOWED, reason)
}

fn unknown(trace_id: &str) -> Response {
    error(StatusCode::NOT_FOUND, format_args!("no span of trace {trace_id:?} is stored"))
}

/// The rows of a trace, oldest first, bodies verbatim; a row whose body cannot be opened says why.
pub async fn trace(State(traces): State<Traces>, Path(trace_id): Path<String>) -> Response {
    let permit = match traces.permit().await {
        Ok(permit) => permit,
        Err(response) => return response,
    };
    let (stored, truncated) = match traces.rows(&trace_id).await {
        Ok((stored, _)) if stored.is_empty() => return unknown(&trace_id),
        Ok(found) => found,
        Err(response) => return response,
    };
    let spans: Result<Vec<SpanRow>, _> = stored.into_iter().map(SpanRow::new).collect();
    let answer = spans.and_then(|spans| {
        serde_json::to_string(&Trace { trace_id: &trace_id, answered_by: "database", truncated, spans })
    });
    answer.map_or_else(|failed| error(StatusCode::INTERNAL_SERVER_ERROR, failed), |text| json(text, permit))
}

/// The trace as a list of Zipkin v2 spans. Bodies that are no spans of either kind are left out; one that cannot be
/// opened fails the whole, as the format has no place to say so.
pub async fn zipkin(State(traces): State<Traces>, Path(trace_id): Path<String>) -> Response {
    let permit = match traces.permit().await {
        Ok(permit) => permit,
        Err(response) => return response,
    };
    let stored = match traces.rows(&trace_id).await {
        Ok((stored, _)) => stored,
        Err(response) => return response,
    };
    if let Some((id, why)) = stored.iter().find_map(|one| Some((one.span.id, one.error.as_ref()?))) {
        let reason = format_args!("cannot open the body of row {id}: {}", chain(why));
        return error(StatusCode::INTERNAL_SERVER_ERROR, reason);
    }
    let spans: Vec<_> = stored
        .iter()
        .filter_map(|opened| read::zipkin_v2(&opened.span.trace_id, &opened.span.body))
        .collect();
    if spans.is_empty() && !stored.is_empty() {
        let reason = format_args!(
            "{} row(s) of trace {trace_id:?} are stored, and none is a Zipkin or OTLP span; see /api/v1/traces/{trace_id}",
            stored.len()
        );
        return error(StatusCode::NOT_FOUND, reason);
    }
    if spans.is_empty() {
        return unknown(&trace_id);
    }
    json(format!("[{}]", spans.join(",")), permit)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;

    use super::*;
    use crate::store::memory::MemoryStore;
    use crate::store::{Position, Row, StreamKey, WriteBatch};

    fn row(id: i64, bytes: usize) -> StoredSpan {
        StoredSpan {
            id,
            trace_id: "t".to_owned(),
            kind: "SERVER".to_owned(),
            body: "x".repeat(bytes),
            created_at_ms: 0,
        }
    }

    #[test]
    fn of_all_forms_of_an_id_no_more_rows_are_kept_than_an_answer_holds_and_one() {
        let mut stored = Vec::new();
        // Each form has what an answer holds, and the rows of all lie between each other's.
        for form in 0..7 {
            merge(&mut stored, (0..17).map(|row_number| row(row_number * 7 + form, 1 << 20)).collect());
        }
        let ids: Vec<i64> = stored.iter().map(|span| span.id).collect();
        assert_eq!(ids, (0..18).collect::<Vec<_>>());
        assert_eq!(within_an_answer(&stored), 17);

        let mut stored = Vec::new();
        for form in 0..2 {
            merge(&mut stored, (0..=i64::from(MAX_ROWS)).map(|number| row(number * 2 + form, 2)).collect());
        }
        assert_eq!((stored.len(), within_an_answer(&stored)), (10_001, 10_000));
    }

    /// None where there is no answer for long.
    async fn ask(traces: &Traces, as_zipkin: bool) -> Option<StatusCode> {
        let (traces, id) = (State(traces.clone()), Path("t".to_owned()));
        let answer = async { if as_zipkin { zipkin(traces, id).await } else { trace(traces, id).await } };
        Some(tokio::time::timeout(Duration::from_secs(60), answer).await.ok()?.status())
    }

    #[tokio::test(start_paused = true)]
    async fn only_some_readers_are_answered_at_once() {
        let traces = Traces::new(Arc::new(MemoryStore::new(1, 0)), Arc::new(Sealing::new("t", None)));
        let others = traces.answers.acquire_many(ANSWERS as u32).await.unwrap();
        for as_zipkin in [false, true] {
            assert_eq!(ask(&traces, as_zipkin).await, None);
        }
        drop(others);
        for as_zipkin in [false, true] {
            assert_eq!(ask(&traces, as_zipkin).await, Some(StatusCode::NOT_FOUND));
        }
        assert_eq!(traces.answers.available_permits(), ANSWERS);
        let answer = json("{}".to_owned(), traces.permit().await.unwrap());
        assert_eq!(traces.answers.available_permits(), ANSWERS - 1, "until it is sent");
        drop(answer);
        assert_eq!(traces.answers.available_permits(), ANSWERS);
    }
    #[tokio::test]
    async fn rows_that_are_no_spans_are_told_from_none() {
        let store = MemoryStore::new(1, 1 << 20);
        let key = StreamKey { cluster_id: "c".into(), group: "g".into(), topic: "t".into(), partition: 0 };
        store.create_streams(&[(key.clone(), 0)]).await.unwrap();
        let claim = store.claim(&key, "test").await.unwrap();
        let batch = WriteBatch {
            stream: claim.stream,
            epoch: claim.epoch,
            from: claim.position,
            to: Position { next_offset: 1, last_id: 1 },
            fingerprint: None,
            rows: &[Row { id: 1, trace_id: "free", kind: "", body: "{}" }],
            dead_letters: &[],
            queue_copies: false,
        };
        store.write(&batch).await.unwrap();
        let traces = Traces::new(Arc::new(store), Arc::new(Sealing::new("t", None)));
        for (id, expected) in [("free", "1 row(s) of trace \"free\""), ("none", "no span of trace")] {
            let answer = zipkin(State(traces.clone()), Path(id.to_owned())).await;
            assert_eq!(answer.status(), StatusCode::NOT_FOUND);
            let text = answer.into_body().collect().await.unwrap().to_bytes();
            assert!(text.starts_with(expected.as_bytes()), "{text:?}");
        }
    }
}
