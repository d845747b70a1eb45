//! Attributes of OTLP as protobuf (`KeyValue` and `AnyValue` of opentelemetry-proto 1.x, `common/v1/common.proto`), to those of
//! OTLP/JSON.

use super::wire::{Embedded, Fields, Value, WireError, repeated};
use super::write::{self, Members, name};

/// Deepest nesting of attribute values: a list of maps 30 deep in an event still yields a body that is nested
/// no deeper than what readers take.
const MAX_VALUE_NESTING: u32 = 30;

/// A list of `KeyValue`s.
pub(super) fn attributes<'a>(
    out: &mut String,
    elements: impl Iterator<Item = Result<&'a [u8], WireError>>,
) -> Result<(), WireError> {
    write::list(out, elements, |out, attribute| key_value(out, attribute, 0))
}

fn key_value(out: &mut String, message: &[u8], nesting: u32) -> Result<(), WireError> {
    let (mut key, mut value) = ("", Embedded::default());
    for field in Fields::new(message) {
        match field? {
            (1, field) => key = field.text()?,
            (2, field) => value.merge(field.bytes()?),
            _ => {}
        }
    }
    out.push_str("{\"key\":\"");
    write::escaped(out, key);
    out.push_str("\",\"value\":");
    any_value(out, value.get().unwrap_or_default(), nesting)?;
    out.push('}');
    Ok(())
}

fn any_value(out: &mut String, message: &[u8], nesting: u32) -> Result<(), WireError> {
    if nesting > MAX_VALUE_NESTING {
        return Err(WireError("an attribute's value is nested more than 30 levels deep"));
    }
    // A `oneof`: the last one counts.
    let mut chosen = None;
    for field in Fields::new(message) {
        let (number, value) = field?;
        if (1..=7).contains(&number) {
            chosen = Some((number, value));
        }
    }
    let Some((number, value)) = chosen else {
        out.push_str("{}");
        return Ok(());
    };
    let mut members = Members::open(out);
    match number {
        1 => write::string(members.key(name!("stringValue")), value.text()?),
        2 => members.key(name!("boolValue")).push_str(if value.varint()? != 0 { "true" } else { "false" }),
        3 => members.long(name!("intValue"), value.varint()? as i64),
        4 => write::double(members.key(name!("doubleValue")), f64::from_bits(value.fixed64()?)),
        5 => values(members.key(name!("arrayValue")), value, |out, element| {
            any_value(out, element, nesting + 1)
        })?,
        6 => {
            values(members.key(name!("kvlistValue")), value, |out, entry| key_value(out, entry, nesting + 1))?
        }
        _ => write::base64(members.key(name!("bytesValue")), value.bytes()?),
    }
    members.close();
    Ok(())
}

/// `ArrayValue` and `KeyValueList`, which differ in what their one field holds.
fn values(
    out: &mut String,
    value: Value<'_>,
    write: impl FnMut(&mut String, &[u8]) -> Result<(), WireError>,
) -> Result<(), WireError> {
    out.push_str("{\"values\":");
    write::list(out, repeated(value.bytes()?, 1), write)?;
    out.push('}');
    Ok(())
}
