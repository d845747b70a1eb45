//! `GET /api/v1/traces/{traceId}` and `GET /api/v2/trace/{traceId}`: from the database to a reader.

use std::sync::Arc;

use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::value::RawValue;

use sluice_crds::problem::chain;

use crate::read;
use crate::seal::{OpenedSpan, Sealing};
use crate::span::MAX_TRACE_ID_CHARS;
use crate::store::{Store, StoredSpan, TRACE_BYTES};

/// Most rows of one answer.
const MAX_ROWS: u32 = 10_000;

/// Where traces are read from.
#[derive(Clone)]
pub struct Traces {
    /// The rows.
    pub store: Arc<dyn Store>,
    /// What opens their bodies.
    pub sealing: Arc<Sealing>,
}

impl Traces {
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
            stored.extend(found);
        }
        stored.sort_by_key(|span| span.id);
        let whole = within_an_answer(&stored);
        let truncated = whole < stored.len();
        stored.truncate(whole);
        let opened = self.sealing.open_spans(&*self.store, stored).await;
        Ok((opened.map_err(|failed| unavailable(&failed))?, truncated))
    }
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

fn json(body: String) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], body).into_response()
}

fn unknown(trace_id: &str) -> Response {
    error(StatusCode::NOT_FOUND, format_args!("no span of trace {trace_id:?} is stored"))
}

/// The rows of a trace, oldest first, bodies verbatim; a row whose body cannot be opened says why.
pub async fn trace(State(traces): State<Traces>, Path(trace_id): Path<String>) -> Response {
    let (stored, truncated) = match traces.rows(&trace_id).await {
        Ok((stored, _)) if stored.is_empty() => return unknown(&trace_id),
        Ok(found) => found,
        Err(response) => return response,
    };
    let spans: Result<Vec<SpanRow>, _> = stored.into_iter().map(SpanRow::new).collect();
    let answer = spans.and_then(|spans| {
        serde_json::to_string(&Trace { trace_id: &trace_id, answered_by: "database", truncated, spans })
    });
    answer.map_or_else(|failed| error(StatusCode::INTERNAL_SERVER_ERROR, failed), json)
}

/// The trace as a list of Zipkin v2 spans. Bodies that are no spans of either kind are left out; one that cannot be
/// opened fails the whole, as the format has no place to say so.
pub async fn zipkin(State(traces): State<Traces>, Path(trace_id): Path<String>) -> Response {
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
    if spans.is_empty() {
        return unknown(&trace_id);
    }
    json(format!("[{}]", spans.join(",")))
}
