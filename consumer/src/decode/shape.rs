//! What messages of the protobuf formats look like, one by one.
//!
//! By this [`Auto`](super::auto) tells them apart, and a decoder knows that a message without a row is none of another
//! format: protobuf has no mark of its own, and one or two in a hundred random ids can be read as a message.

use super::wire::{Fields, Value, WireError};

pub(super) fn is_jaeger_span(message: &[u8]) -> bool {
    let (mut trace_id, mut span_id, mut start) = (false, false, false);
    let fits = all_fields(message, |field| {
        match field {
            (1, Value::Bytes(id)) => trace_id = id.len() == 16 || id.len() == 8,
            (2, Value::Bytes(id)) => span_id = id.len() == 8,
            (6, Value::Bytes(_)) => start = true,
            (3 | 4 | 7..=12, Value::Bytes(_)) | (5, Value::Varint(_)) => {}
            _ => return false,
        }
        true
    });
    fits && trace_id && span_id && start
}

pub(super) fn is_zipkin_span(message: &[u8]) -> bool {
    let (mut trace_id, mut id, mut more) = (false, false, false);
    let fits = all_fields(message, |field| {
        more |= field.0 > 3;
        match field {
            (1, Value::Bytes(bytes)) => trace_id = bytes.len() == 16 || bytes.len() == 8,
            (2, Value::Bytes(parent)) => return parent.len() == 8 || parent.is_empty(),
            (3, Value::Bytes(bytes)) => id = bytes.len() == 8,
            (5 | 8..=11, Value::Bytes(_)) => {}
            (4 | 7 | 12 | 13, Value::Varint(_)) | (6, Value::Fixed64(_)) => {}
            _ => return false,
        }
        true
    });
    // A small resource and its schema may be as long as ids are.
    fits && trace_id && id && (more || !is_resource_spans(message))
}

/// Refuses what can be no ids of a span: metrics and logs, whose messages look alike, have other things in their places.
pub(super) fn check_otlp_ids(trace_id: &[u8], span_id: &[u8], parent_id: &[u8]) -> Result<(), WireError> {
    if !matches!((trace_id.len(), span_id.len(), parent_id.len()), (0 | 8 | 16, 0 | 8, 0 | 8)) {
        let what = "a trace id has neither 16 nor 8 bytes, or a span id not 8; as hexadecimal digits they are for JSON";
        return Err(WireError(what));
    }
    // A metric without a description, which has its name where a span has its trace id.
    let is_name = span_id.is_empty() && !trace_id.is_empty() && trace_id.iter().all(u8::is_ascii_graphic);
    if is_name {
        Err(WireError("a span has text as its trace id, and no id: it may be a metric"))
    } else {
        Ok(())
    }
}

/// Whether a whole message is OTLP.
pub(super) fn is_otlp(message: &[u8]) -> bool {
    !message.is_empty()
        && all_fields(
            message,
            |field| matches!(field, (1, Value::Bytes(element)) if is_resource_spans(element)),
        )
}

/// Without a span nothing but what OTLP has today counts: hardly any bytes are no message of unknown fields.
pub(super) fn is_resource_spans(message: &[u8]) -> bool {
    let (mut unknown, mut has_span) = (false, false);
    let fits = all_fields(message, |field| match field {
        (1, Value::Bytes(resource)) => is_resource(resource, &mut unknown),
        (2 | 1000, Value::Bytes(scope_spans)) => is_scope_spans(scope_spans, &mut unknown, &mut has_span),
        (3, Value::Bytes(schema_url)) => {
            unknown |= std::str::from_utf8(schema_url).is_err();
            true
        }
        (number, _) => later(number, 3, &mut unknown),
    });
    fits && (has_span || !unknown)
}

/// Attributes, and what else there may be beside them. A trace id, whose place a resource has, is no list of
/// attributes; without any only a span tells.
fn is_resource(message: &[u8], unknown: &mut bool) -> bool {
    let mut has_attributes = false;
    let fits = all_fields(message, |field| match field {
        (1, Value::Bytes(attribute)) => {
            has_attributes = true;
            all_fields(attribute, |field| match field {
                (1 | 2, value) => matches!(value, Value::Bytes(_)),
                (number, _) => later(number, 2, unknown),
            })
        }
        (2, value) => matches!(value, Value::Varint(_)),
        (3, value) => matches!(value, Value::Bytes(_)),
        (number, _) => later(number, 3, unknown),
    });
    *unknown |= !has_attributes && message.len() >= 8;
    fits
}

fn is_scope_spans(message: &[u8], unknown: &mut bool, has_span: &mut bool) -> bool {
    all_fields(message, |field| match field {
        (1 | 3, Value::Bytes(_)) => true,
        (2, Value::Bytes(span)) => {
            *has_span = *has_span || is_otlp_span(span);
            true
        }
        (number, _) => later(number, 3, unknown),
    })
}

fn is_otlp_span(message: &[u8]) -> bool {
    let (mut trace_id, mut span_id) = (false, false);
    let fits = all_fields(message, |field| {
        match field {
            (1, value) => trace_id = matches!(value, Value::Bytes(id) if id.len() == 16),
            (2, value) => span_id = matches!(value, Value::Bytes(id) if id.len() == 8),
            _ => {}
        }
        true
    });
    fits && trace_id && span_id
}

/// Notes a field that came after those up to `last`, if it is one.
fn later(number: u32, last: u32, unknown: &mut bool) -> bool {
    *unknown |= number > last;
    number > last
}

fn all_fields<'a>(message: &'a [u8], mut fits: impl FnMut((u32, Value<'a>)) -> bool) -> bool {
    Fields::new(message).all(|field| field.is_ok_and(&mut fits))
}
