//! Messages of every format.

use sluice_consumer::decode::{Decoder, RejectedSpan};
use sluice_consumer::span::{MAX_KIND_CHARS, MAX_TRACE_ID_CHARS, SpanBuf, SpanDefect};
use sluice_crds::v1alpha1::{Format, JsonPaths};

/// What the spans of a message may take beyond its own length: the decoder's own bound, and what counting leaves out.
const ADDED: usize = (64 << 20) + (1 << 20);
/// How deep a body may be nested.
const DEPTH: usize = 127;

/// Decodes a message into outputs that hold something already.
pub fn check(format: Format, data: &[u8]) {
    let decoder = Decoder::new(format, &JsonPaths::default()).unwrap();
    let mut spans = SpanBuf::default();
    spans.push("earlier", "KIND", "{}").unwrap();
    let mut rejected = Vec::new();
    let bytes = spans.bytes();
    let outcome = decoder.decode(data, &mut spans, &mut rejected);
    assert_eq!(spans.get(0).trace_id, "earlier");
    if let Err(error) = &outcome {
        assert_eq!(
            (spans.len(), spans.bytes(), rejected.len()),
            (1, bytes, 0),
            "an error left something behind"
        );
        assert!(!error.to_string().is_empty());
    }
    for span in spans.iter().skip(1) {
        assert!((1..=MAX_TRACE_ID_CHARS).contains(&span.trace_id.chars().count()));
        assert!(span.kind.chars().count() <= MAX_KIND_CHARS);
        assert!(!span.trace_id.contains('\0') && !span.kind.contains('\0'));
        body(format, data, span.body);
    }
    rejects(&rejected, spans.len() - 1);
    for one in &rejected {
        body(format, data, &one.body);
    }
    let held: usize = rejected.iter().map(|one| one.trace_id.len() + one.kind.len() + one.body.len()).sum();
    assert!(spans.bytes() + held <= data.len() + ADDED, "{} bytes of {}", spans.bytes() + held, data.len());

    // Nothing is kept from one message to the next.
    let (mut again, mut rejected_again) = (SpanBuf::default(), Vec::new());
    assert_eq!(decoder.decode(data, &mut again, &mut rejected_again), outcome);
    assert!(
        again.iter().eq(spans.iter().skip(1)) && rejected_again == rejected,
        "another answer the second time"
    );
}

/// A rejected span is one for a reason, and has a number of its own.
fn rejects(rejected: &[RejectedSpan], stored: usize) {
    assert!(rejected.is_sorted_by(|one, next| one.index < next.index), "numbers do not ascend");
    for one in rejected {
        assert!(
            (one.index as usize) < stored + rejected.len(),
            "span {} of {}",
            one.index,
            stored + rejected.len()
        );
        let holds = match one.defect {
            SpanDefect::MissingTraceId | SpanDefect::HalfSurrogate => one.trace_id.is_empty(),
            SpanDefect::TraceIdTooLong => one.trace_id.chars().count() > MAX_TRACE_ID_CHARS,
            SpanDefect::KindTooLong => one.kind.chars().count() > MAX_KIND_CHARS,
            SpanDefect::ZeroId => is_zero(&one.trace_id) || has_zero_span_id(&one.body),
            SpanDefect::NulCharacter => one.trace_id.contains('\0') || one.kind.contains('\0'),
        };
        assert!(holds, "{:?} of {:?} {:?}", one.defect, one.trace_id, one.kind);
    }
}

fn is_zero(id: &str) -> bool {
    !id.is_empty() && id.bytes().all(|digit| digit == b'0')
}

/// Also true where serde_json does not read the body, such as for half a surrogate pair.
fn has_zero_span_id(body: &str) -> bool {
    let Ok(body) = serde_json::from_str::<serde_json::Value>(body) else { return true };
    let id = &body["spanId"];
    is_zero(id.as_str().unwrap_or_default()) || id.as_u64() == Some(0)
}

/// A body is JSON, not too deep, and where the format promises it a part of the message.
fn body(format: Format, data: &[u8], body: &str) {
    assert!(serde_json::from_str::<&serde_json::value::RawValue>(body).is_ok(), "no JSON: {body}");
    assert!(depth(body) <= DEPTH, "nested {} levels deep", depth(body));
    if matches!(format, Format::Json | Format::ZipkinJson) {
        let verbatim = data.windows(body.len().max(1)).any(|part| part == body.as_bytes());
        assert!(verbatim, "not as it was sent: {body}");
    }
}

/// How deep lists and objects are nested in a text that is JSON.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0_usize, 0, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth -= 1,
            _ => {}
        }
    }
    deepest
}
