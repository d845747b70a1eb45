//! Answers of OTLP/HTTP, in the encoding of the request (OTLP specification 1.x, "OTLP/HTTP Response").

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use prost::Message;
use serde_json::json;

use super::body::HttpRefusal;

/// How a request is encoded, and so its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Encoding {
    /// `application/x-protobuf`.
    Proto,
    /// `application/json`.
    Json,
}

impl Encoding {
    fn content_type(self) -> HeaderValue {
        HeaderValue::from_static(match self {
            Self::Proto => "application/x-protobuf",
            Self::Json => "application/json",
        })
    }
}

/// `google.rpc.Status`.
#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

/// `opentelemetry.proto.collector.trace.v1.ExportTraceServiceResponse`.
#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

fn answer(status: StatusCode, encoding: Encoding, body: Vec<u8>) -> Response {
    (status, [(header::CONTENT_TYPE, encoding.content_type())], body).into_response()
}

/// Everything was accepted, but for `rejected` spans (their number and the first reason).
pub fn accepted(encoding: Encoding, rejected: Option<(usize, String)>) -> Response {
    let partial = rejected.map(|(spans, reason)| PartialSuccess {
        rejected_spans: spans as i64,
        error_message: format!("kept as dead letters; the first reason: {reason}"),
    });
    let body = match (encoding, partial) {
        (Encoding::Proto, partial_success) => ExportResponse { partial_success }.encode_to_vec(),
        (Encoding::Json, None) => b"{}".to_vec(),
        (Encoding::Json, Some(PartialSuccess { rejected_spans, error_message })) => json!({
            "partialSuccess": { "rejectedSpans": rejected_spans.to_string(), "errorMessage": error_message }
        })
        .to_string()
        .into_bytes(),
    };
    answer(StatusCode::OK, encoding, body)
}

/// Nothing was accepted.
pub fn refused(encoding: Encoding, refusal: HttpRefusal) -> Response {
    // google.rpc.Code
    let code = match refusal.status {
        StatusCode::BAD_REQUEST | StatusCode::UNSUPPORTED_MEDIA_TYPE => 3,
        StatusCode::REQUEST_TIMEOUT => 4,
        StatusCode::PAYLOAD_TOO_LARGE => 8,
        StatusCode::SERVICE_UNAVAILABLE => 14,
        _ => 13,
    };
    let body = match encoding {
        Encoding::Proto => Status { code, message: refusal.reason }.encode_to_vec(),
        Encoding::Json => json!({ "code": code, "message": refusal.reason }).to_string().into_bytes(),
    };
    answer(refusal.status, encoding, body)
}
