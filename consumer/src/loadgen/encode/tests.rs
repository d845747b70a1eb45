use sluice_crds::v1alpha1::JsonPaths;

use super::*;
use crate::decode::Decoder;
use crate::loadgen::shop::Shop;
use crate::span::SpanBuf;

const FORMATS: [Format; 6] = [
    Format::Json,
    Format::OtlpProto,
    Format::OtlpJson,
    Format::ZipkinJson,
    Format::ZipkinProto,
    Format::JaegerProto,
];

fn decoded(format: Format, payload: &[u8]) -> SpanBuf {
    let decoder = Decoder::new(format, &JsonPaths::default()).unwrap();
    let (mut spans, mut rejected) = (SpanBuf::default(), Vec::new());
    decoder.decode(payload, &mut spans, &mut rejected).unwrap_or_else(|error| panic!("{format:?}: {error}"));
    assert!(rejected.is_empty(), "{rejected:?}");
    spans
}

#[test]
fn every_format_is_decoded_to_the_ids_that_were_emitted() {
    let spans: Vec<Span> = Shop::new(3).traces(40).into_iter().flatten().collect();
    let identity =
        |trace: u32| Identity { trace_mask: u128::from(trace) << 64 | 5, span_mask: 9, shift_us: 1_234_567 };
    let expected: Vec<String> =
        spans.iter().map(|span| format!("{:032x}", identity(span.trace).trace_id(span))).collect();
    for format in FORMATS {
        for decode_as in [format, Format::Auto] {
            let mut payload = Vec::new();
            Template::new(format, &spans).emit(&mut payload, identity);
            let found = decoded(decode_as, &payload);
            let found_ids: Vec<&str> = found.iter().map(|span| span.trace_id).collect();
            assert_eq!(found_ids, expected, "{format:?} read as {decode_as:?}");
            for (body, span) in found.iter().zip(&spans) {
                let id = format!("{:016x}", identity(span.trace).span_id(span));
                assert!(body.body.contains(&id), "{format:?}: no {id} in {}", body.body);
                let value: serde_json::Value = serde_json::from_str(body.body).unwrap();
                assert!(value.is_object());
            }
        }
    }
}

#[test]
fn times_move_by_the_shift() {
    let spans = Shop::new(3).trace();
    let shift = |shift_us| move |_| Identity { shift_us, ..Identity::default() };
    for format in FORMATS {
        let template = Template::new(format, &spans[..1]);
        let (mut moved, mut later) = (Vec::new(), spans[..1].to_vec());
        template.emit(&mut moved, shift(77_000_001));
        later[0].start_us += 77_000_001;
        if let Some(exception) = &mut later[0].exception {
            exception.at_us += 77_000_001;
        }
        assert_eq!(moved, message(format, &later), "{format:?}");
    }
}
