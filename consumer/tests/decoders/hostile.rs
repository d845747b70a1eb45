//! Input that nobody means well with, for every format alike.

use sluice_consumer::decode::DecodeError;
use sluice_crds::v1alpha1::{Format, JsonPaths};

use crate::proto::{jaeger as j, otlp as o, zipkin as z};
use crate::samples::{self, FORMATS, decode, decode_with};
use proptest::prelude::*;
use prost::Message;

#[test]
fn an_empty_message_is_an_error_of_its_own() {
    for format in FORMATS.into_iter().chain([Format::Auto]) {
        assert_eq!(decode(format, b"").error, Some(DecodeError::Empty), "{format:?}");
    }
    for format in [Format::Json, Format::OtlpJson, Format::ZipkinJson] {
        assert_eq!(decode(format, b" \r\n\t").error, Some(DecodeError::Empty), "{format:?}");
    }
}

#[test]
fn json_nested_10_000_levels_deep_is_refused_without_a_stack_overflow() {
    for (open, close) in
        [("[", "]"), ("{\"a\":", "}"), ("{\"spans\":[", "]}"), ("{\"resourceSpans\":[", "]}")]
    {
        let deep = [open.repeat(10_000), "1".into(), close.repeat(10_000)].concat();
        let unclosed = open.repeat(10_000);
        for payload in [deep, unclosed] {
            for format in FORMATS.into_iter().chain([Format::Auto]) {
                assert!(decode(format, payload.as_bytes()).error.is_some(), "{format:?} took {open}");
            }
        }
    }
}

#[test]
fn deep_json_paths_end_with_the_nesting_limit() {
    let paths =
        JsonPaths { spans: "/a".repeat(5_000), trace_id: "/a".repeat(5_000), kind: "/0".repeat(5_000) };
    for open in ["{\"a\":", "["] {
        assert!(decode_with(Format::Json, &paths, open.repeat(5_000).as_bytes()).error.is_some());
    }
}

#[test]
fn protobuf_values_nested_too_deep_are_refused_and_those_at_the_limit_stay_readable() {
    let nested = |levels: usize| {
        let mut value = o::AnyValue { value: Some(o::Value::Bool(true)) };
        for _ in 0..levels {
            let entry = o::KeyValue { key: "k".into(), value: Some(value) };
            value = o::AnyValue { value: Some(o::Value::Map(o::KeyValueList { values: vec![entry] })) };
        }
        let attribute = o::KeyValue { key: "deep".into(), value: Some(value) };
        let event = o::Event { attributes: vec![attribute], ..o::Event::default() };
        let span = o::Span { trace_id: vec![1; 16], events: vec![event], ..o::Span::default() };
        let scope_spans = vec![o::ScopeSpans { spans: vec![span], ..o::ScopeSpans::default() }];
        let resource_spans = vec![o::ResourceSpans { scope_spans, ..o::ResourceSpans::default() }];
        o::Request { resource_spans }.encode_to_vec()
    };
    let outcome = decode(Format::OtlpProto, &nested(30));
    assert_eq!(outcome.error, None);
    assert!(serde_json::from_str::<serde_json::Value>(&outcome.spans[0].2).is_ok(), "too deep for readers");
    for levels in [31, 1_000] {
        assert!(matches!(
            decode(Format::OtlpProto, &nested(levels)).error,
            Some(DecodeError::Malformed { .. })
        ));
    }
}

#[test]
fn broken_utf8_is_refused_wherever_it_stands() {
    for bad in [&b"\xff"[..], b"\xc3", b"\xed\xa0\x80", b"\xc0\x80", b"\xf4\x90\x80\x80"] {
        let message = |before: &str, after: &str| [before.as_bytes(), bad, after.as_bytes()].concat();
        for (format, payload) in [
            (Format::Json, message(r#"{"traceId":"a","spans":[{"x":""#, r#""}]}"#)),
            (Format::Json, message(r#"{"traceId":"a","spans":[]}"#, "")),
            (Format::ZipkinJson, message(r#"[{"traceId":"a","id":"b","name":""#, r#""}]"#)),
            (Format::OtlpJson, message(r#"{"resourceSpans":[],"x":""#, r#""}"#)),
        ] {
            assert!(
                matches!(decode(format, &payload).error, Some(DecodeError::Malformed { .. })),
                "{format:?}"
            );
            assert!(decode(Format::Auto, &payload).error.is_some());
        }
    }
}

#[test]
fn lengths_beyond_the_message_and_endless_varints_are_refused() {
    for payload in [
        &b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"[..],
        b"\x0a\x05abcd",
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
        b"\x0a",
        b"\x09\x00\x00",
        b"\x0b\x0c",
        b"\x00\x00",
        b"\x0f",
    ] {
        for format in [Format::OtlpProto, Format::ZipkinProto, Format::JaegerProto, Format::Auto] {
            assert!(decode(format, payload).error.is_some(), "{format:?} took {payload:x?}");
        }
    }
}

#[test]
fn auto_guesses_nothing() {
    for payload in [
        &b"hello"[..],
        b"null",
        b"\"text\"",
        b"12",
        b"{}",
        b"[1,2]",
        br#"{"traceId":"1"}"#,
        br#"[{"traceId":"1"}]"#,
        // One element that is no span: the list is none of Zipkin's.
        br#"[{"traceId":"1","id":"2"},{"traceId":"3"}]"#,
        br#"[{"traceId":1,"id":"2"}]"#,
        // Jaeger JSON, as the Collector's `jaeger_json` writes it.
        br#"{"traceId":"AAECAwQFBgcICQoLDA0ODw==","spanId":"AAECAwQFBgc=","operationName":"get","startTime":"2026-11-21T06:00:00Z"}"#,
        // Zipkin thrift: a list (12 = struct) of one span.
        b"\x0c\x00\x00\x00\x01\x0a\x00\x01\x00\x00\x00\x00\x00\x00\x00\x01\x00",
        // Avro behind Confluent's header.
        b"\x00\x00\x00\x00\x07\x02\x06abc",
        // Protobuf of someone else.
        b"\x0a\x05hello\x10\x01",
        b"\x0a\x05hello",
        b"\x12\x03abc",
    ] {
        assert_eq!(decode(Format::Auto, payload).error, Some(DecodeError::Unknown), "{payload:x?}");
    }
}

#[test]
fn another_formats_protobuf_is_an_error_and_no_message_without_spans() {
    // Field 2 as text, a varint in field 9.
    for payload in [&b"\x12\x05hello"[..], b"\x48\x01"] {
        for format in [Format::OtlpProto, Format::ZipkinProto, Format::JaegerProto] {
            let error = decode(format, payload).error;
            assert!(matches!(error, Some(DecodeError::Malformed { .. })), "{format:?} took {payload:x?}");
        }
    }
    let empty = o::Request { resource_spans: vec![o::ResourceSpans::default()] }.encode_to_vec();
    assert_eq!(decode(Format::OtlpProto, &empty).error, None);
}

fn resource_attributes() -> Vec<u8> {
    let value = Some(o::AnyValue { value: Some(o::Value::String("shop".into())) });
    let attributes = vec![o::KeyValue { key: "service.name".into(), value }];
    o::Resource { attributes, ..o::Resource::default() }.encode_to_vec()
}

/// A field that has a length: one byte of it is enough here.
fn field(number: u8, message: &[u8]) -> Vec<u8> {
    assert!(message.len() < 128);
    [&[number << 3 | 2, message.len() as u8], message].concat()
}

/// `ExportMetricsServiceRequest` with one gauge, whose point's time may, as bytes, be text.
fn gauge(name: &str, description: &str, time: u64) -> Vec<u8> {
    let point = [&b"\x19"[..], &time.to_le_bytes(), b"\x31", &7_u64.to_le_bytes()].concat();
    let metric = [
        field(1, name.as_bytes()),
        if description.is_empty() { Vec::new() } else { field(2, description.as_bytes()) },
        field(3, b"1"),
        field(5, &field(1, &point)),
    ];
    field(1, &[field(1, &resource_attributes()), field(2, &field(2, &metric.concat()))].concat())
}

#[test]
fn neither_metrics_nor_logs_are_spans() {
    let mut messages = Vec::new();
    for name in ["queue.length", "jvm.gc", "requests", "process.cpu.time", "http.server.request.duration"] {
        for description in ["", "Requests that wait."] {
            for time in [0x1111_1111_1111_1111, 0x6161_6161_6161_6161, 1_763_704_800_000_000_000] {
                messages.push(gauge(name, description, time));
            }
        }
    }
    // A record as SDKs write it: its time, when it was seen, a body, severity and ids.
    let fixed64 = |tag: u8, value: u64| [&[tag], &value.to_le_bytes()[..]].concat();
    let ids = [field(9, &[1; 16]), field(10, &[2; 8])].concat();
    for record in [
        [fixed64(0x09, 0x1111_1111_1111_1111), field(5, &field(1, b"hello")), ids.clone()].concat(),
        [b"\x10\x09".to_vec(), field(3, b"INFO"), field(5, &field(1, b"hello"))].concat(),
        [field(5, &field(1, b"hello")), fixed64(0x59, 0x1111_1111_1111_1111)].concat(),
        [field(5, &field(1, b"hello")), ids].concat(),
    ] {
        let group = [field(1, &resource_attributes()), field(2, &field(2, &record))].concat();
        messages.push(field(1, &group));
    }
    for format in FORMATS.into_iter().chain([Format::Auto]) {
        for message in &messages {
            assert!(decode(format, message).error.is_some(), "{format:?} took {message:x?}");
        }
    }
}

#[test]
fn an_id_of_otlp_that_has_another_length_is_an_error_of_the_message() {
    let with = |trace_id: &[u8], span_id: &[u8], parent_span_id: &[u8]| {
        let (trace_id, span_id, parent_span_id) =
            (trace_id.to_vec(), span_id.to_vec(), parent_span_id.to_vec());
        let spans = vec![o::Span { trace_id, span_id, parent_span_id, ..o::Span::default() }];
        let scope_spans = vec![o::ScopeSpans { spans, ..o::ScopeSpans::default() }];
        let resource_spans = vec![o::ResourceSpans { scope_spans, ..o::ResourceSpans::default() }];
        decode(Format::OtlpProto, &o::Request { resource_spans }.encode_to_vec())
    };
    let (trace_id, span_id) = ([1; 16], [2; 8]);
    for parent in [&[][..], &span_id] {
        assert_eq!(with(&trace_id, &span_id, parent).spans.len(), 1);
        assert_eq!(with(&trace_id[..8], &span_id, parent).spans.len(), 1);
        assert_eq!(with(&[], &span_id, parent).rejected.len(), 1);
    }
    // Hexadecimal digits, a UUID, one byte too few.
    let hex = b"5b8efff798038103d269b633813fc60c";
    for (trace_id, span_id, parent) in [
        (&hex[..], &hex[..16], &[][..]),
        (hex, &span_id, &[]),
        (b"5b8efff7-9803-8103-d269-b633813fc60c", &span_id, &[]),
        (&trace_id[..15], &span_id, &[]),
        (&trace_id, &span_id[..7], &[]),
        (&trace_id, &span_id, &hex[..16]),
    ] {
        let error = with(trace_id, span_id, parent).error;
        let Some(DecodeError::Malformed { detail, .. }) = error else { panic!("{trace_id:x?}: {error:?}") };
        assert!(detail.contains("hexadecimal"), "{detail}");
    }
}

#[test]
fn one_value_without_a_trace_id_is_no_message_of_zipkins() {
    for message in [r#"{"resourceSpans":[]}"#, r#" {"spanId":"1"}"#, "{}", "12", "\"x\"", "null"] {
        let error = decode(Format::ZipkinJson, message.as_bytes()).error;
        assert!(matches!(error, Some(DecodeError::Malformed { .. })), "{message}: {error:?}");
    }
    // A list says what it is: each span that lacks one is a letter of its own.
    let outcome = decode(Format::ZipkinJson, br#"[{"id":"1"},{"traceId":"1","id":"2"}]"#);
    assert_eq!((outcome.error, outcome.spans.len(), outcome.rejected.len()), (None, 1, 1));
    assert_eq!(decode(Format::ZipkinJson, br#"{"traceId":1}"#).spans.len(), 1);
}

const PROTOBUF: [Format; 3] = [Format::OtlpProto, Format::ZipkinProto, Format::JaegerProto];

fn assert_malformed_elsewhere(own: Format, message: &[u8]) {
    for format in PROTOBUF.into_iter().filter(|format| *format != own) {
        let outcome = decode(format, message);
        assert!(
            matches!(outcome.error, Some(DecodeError::Malformed { .. })),
            "{format:?} took {own:?}, {message:x?}: {outcome:?}"
        );
    }
}

/// One or two in a hundred random ids can be read as a message.
#[test]
fn no_id_has_another_format_take_its_message() {
    let mut random = fastrand::Rng::with_seed(7);
    for _ in 0..20_000 {
        let mut id = |length| std::iter::repeat_with(|| random.u8(..)).take(length).collect::<Vec<u8>>();
        let (trace_id, half, span_id) = (id(16), id(8), id(8));
        for trace_id in [&trace_id, &half] {
            let spans =
                vec![z::Span { trace_id: trace_id.clone(), id: span_id.clone(), ..z::Span::default() }];
            assert_malformed_elsewhere(Format::ZipkinProto, &z::ListOfSpans { spans }.encode_to_vec());
        }
        let span = j::Span { trace_id, span_id, start: Some(j::Time::default()), ..j::Span::default() };
        assert_malformed_elsewhere(Format::JaegerProto, &span.encode_to_vec());
        let process = Some(j::Process { service_name: "cart".into(), ..j::Process::default() });
        let batch = j::Batch { spans: vec![span], process };
        assert_malformed_elsewhere(Format::JaegerProto, &batch.encode_to_vec());
    }
}

#[test]
fn a_resource_without_spans_is_no_span_of_another_format() {
    let value = |text: &str| Some(o::AnyValue { value: Some(o::Value::String(text.into())) });
    for (key, text, schema_url) in [("service.name", "cart", ""), ("a", "b", ""), ("host", "a", "https://x")]
    {
        let attributes = vec![o::KeyValue { key: key.into(), value: value(text) }];
        let resource = Some(o::Resource { attributes, ..o::Resource::default() });
        let group =
            o::ResourceSpans { resource, schema_url: schema_url.into(), ..o::ResourceSpans::default() };
        let message = o::Request { resource_spans: vec![group] }.encode_to_vec();
        assert_eq!(decode(Format::OtlpProto, &message).error, None);
        assert_malformed_elsewhere(Format::OtlpProto, &message);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_a_protobuf_format_has_is_an_error_of_the_others(
        sample in prop::sample::select(PROTOBUF.to_vec()).prop_flat_map(samples::sample),
    ) {
        if !sample.want.is_empty() {
            assert_malformed_elsewhere(sample.format, &sample.payload);
        }
    }
}

/// Messages of a megabyte or a few, whose spans take many times as much.
fn multiplied() -> Vec<(Format, Vec<u8>)> {
    let text = "x".repeat(500_000);
    let attribute = o::KeyValue {
        key: "k".into(),
        value: Some(o::AnyValue { value: Some(o::Value::String(text.clone())) }),
    };
    // With and without a trace id: rows and rejected spans alike.
    let proto_spans = |trace_id: Vec<u8>| vec![o::Span { trace_id, ..o::Span::default() }; 10_000];
    let in_resource = |spans| {
        let scope_spans = vec![o::ScopeSpans { spans, ..o::ScopeSpans::default() }];
        let resource = Some(o::Resource { attributes: vec![attribute.clone()], ..o::Resource::default() });
        let resource_spans = vec![o::ResourceSpans { resource, scope_spans, ..o::ResourceSpans::default() }];
        o::Request { resource_spans }.encode_to_vec()
    };
    let scope = Some(o::Scope { attributes: vec![attribute.clone()], ..o::Scope::default() });
    let scope_spans =
        vec![o::ScopeSpans { scope, spans: proto_spans(vec![1; 16]), ..o::ScopeSpans::default() }];
    let in_scope =
        o::Request { resource_spans: vec![o::ResourceSpans { scope_spans, ..o::ResourceSpans::default() }] };
    let tag = j::KeyValue { key: "k".into(), text: text.clone(), ..j::KeyValue::default() };
    let jaeger = |trace_id: Vec<u8>| {
        let process = Some(j::Process { tags: vec![tag.clone()], ..j::Process::default() });
        let span =
            j::Span { trace_id, span_id: vec![1; 8], start: Some(j::Time::default()), ..j::Span::default() };
        j::Batch { spans: vec![span; 10_000], process }.encode_to_vec()
    };
    let json_spans = |span: &str| vec![span; 50_000].join(",");
    let otlp_json = |span: &str| {
        format!(
            r#"{{"resourceSpans":[{{"resource":{{"x":"{text}"}},"scopeSpans":[{{"spans":[{}]}}]}}]}}"#,
            json_spans(span)
        )
    };
    vec![
        (Format::OtlpProto, in_resource(proto_spans(vec![1; 16]))),
        (Format::OtlpProto, in_resource(proto_spans(Vec::new()))),
        (Format::OtlpProto, in_scope.encode_to_vec()),
        (Format::OtlpJson, otlp_json(r#"{"traceId":"1"}"#).into_bytes()),
        (Format::OtlpJson, otlp_json("{}").into_bytes()),
        (Format::JaegerProto, jaeger(vec![1; 16])),
        (Format::JaegerProto, jaeger(Vec::new())),
        (Format::Json, format!(r#"{{"traceId":"{text}","spans":[{}]}}"#, json_spans("{}")).into_bytes()),
        // Numbers take two bytes each here, and far more each on their way.
        (Format::Json, format!(r#"{{"spans":[{}]}}"#, vec!["1"; 500_000].join(",")).into_bytes()),
        (Format::ZipkinJson, format!("[{}]", vec!["1"; 1_000_000].join(",")).into_bytes()),
        (Format::ZipkinProto, b"\x0a\x03\x1a\x01x".repeat(700_000)),
    ]
}

#[test]
fn a_message_whose_spans_would_take_many_times_its_size_is_refused_and_leaves_nothing() {
    for (format, payload) in multiplied() {
        assert!(payload.len() < 3_600_000, "{format:?}: {}", payload.len());
        assert_eq!(decode(format, &payload).error, Some(DecodeError::TooLarge), "{format:?}");
    }
}

#[test]
fn a_large_honest_batch_is_taken() {
    let attribute = o::KeyValue {
        key: "k".into(),
        value: Some(o::AnyValue { value: Some(o::Value::String("x".repeat(7_000))) }),
    };
    let span =
        o::Span { trace_id: vec![1; 16], span_id: vec![2; 8], name: "n".repeat(500), ..o::Span::default() };
    let scope_spans = vec![o::ScopeSpans { spans: vec![span; 8_192], ..o::ScopeSpans::default() }];
    let resource = Some(o::Resource { attributes: vec![attribute], ..o::Resource::default() });
    let resource_spans = vec![o::ResourceSpans { resource, scope_spans, ..o::ResourceSpans::default() }];
    let outcome = decode(Format::OtlpProto, &o::Request { resource_spans }.encode_to_vec());
    assert_eq!((outcome.error, outcome.spans.len()), (None, 8_192));
}
