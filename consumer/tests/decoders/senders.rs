//! What senders write that the definitions of the formats do not show, or leave open.

use prost::Message;
use serde_json::{Value, json};
use sluice_consumer::decode::{Decoder, RejectedSpan};
use sluice_consumer::span::{SpanDefect, SpanRef};
use sluice_crds::v1alpha1::{Format, JsonPaths};

use crate::proto::{jaeger as j, otlp as o, zipkin as z};
use crate::samples::{Outcome, decode};

/// Decodes with the format and with `Auto`, which must give the same.
fn both(format: Format, payload: &[u8]) -> Outcome {
    let (outcome, auto) = (decode(format, payload), decode(Format::Auto, payload));
    assert_eq!(
        (&auto.spans, &auto.rejected, &auto.error),
        (&outcome.spans, &outcome.rejected, &outcome.error)
    );
    outcome
}

fn body(outcome: &Outcome) -> Value {
    assert_eq!(outcome.error, None);
    serde_json::from_str(&outcome.spans[0].2).unwrap()
}

fn zipkin_span() -> z::Span {
    z::Span { trace_id: vec![0x11; 16], id: vec![0x22; 8], ..z::Span::default() }
}

fn otlp_span() -> o::Span {
    o::Span { trace_id: vec![0x11; 16], span_id: vec![0x22; 8], ..o::Span::default() }
}

fn jaeger_span() -> j::Span {
    let start = Some(j::Time { seconds: 1, nanos: 2 });
    j::Span { trace_id: vec![0x11; 16], span_id: vec![0x22; 8], start, ..j::Span::default() }
}

fn otlp_request(spans: Vec<o::Span>) -> Vec<u8> {
    let scope_spans = vec![o::ScopeSpans { spans, ..o::ScopeSpans::default() }];
    let resource_spans = vec![o::ResourceSpans { scope_spans, ..o::ResourceSpans::default() }];
    o::Request { resource_spans }.encode_to_vec()
}

/// `trace.proto`: "An ID with all zeroes OR of length other than 16 bytes is considered invalid".
#[test]
fn a_span_of_otlp_with_an_id_of_zeros_is_rejected_alone_and_never_becomes_a_row() {
    let zeros = [vec![0; 16], vec![0; 8]];
    let spans = vec![
        o::Span { trace_id: zeros[0].clone(), ..otlp_span() },
        otlp_span(),
        o::Span { span_id: zeros[1].clone(), ..otlp_span() },
        o::Span { span_id: Vec::new(), ..otlp_span() },
    ];
    let alone = spans[0].clone();
    let (trace, span) = ("1".repeat(32), "2".repeat(16));
    let json = format!(
        r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"traceId":"{0:032}","spanId":"{span}"}},
        {{"traceId":"{trace}","spanId":"{span}"}},{{"traceId":"{trace}","spanId":"{0:016}"}},{{"traceId":"{trace}"}}]}}]}}]}}"#,
        0
    );
    for (format, payload) in [(Format::OtlpProto, otlp_request(spans)), (Format::OtlpJson, json.into_bytes())]
    {
        let outcome = both(format, &payload);
        assert_eq!((outcome.spans.len(), &outcome.error), (2, &None), "{format:?}");
        let rejected: Vec<_> = outcome.rejected.iter().map(|span| (span.index, span.defect)).collect();
        assert_eq!(rejected, [(0, SpanDefect::ZeroId), (2, SpanDefect::ZeroId)], "{format:?}");
        for RejectedSpan { trace_id, kind, body, .. } in &outcome.rejected {
            for format in [format, Format::Auto] {
                let decoder = Decoder::new(format, &JsonPaths::default()).unwrap();
                assert_eq!(decoder.ids_again(SpanRef { trace_id, kind, body }), Err(SpanDefect::ZeroId));
            }
        }
    }
    let outcome = both(Format::OtlpProto, &otlp_request(vec![alone]));
    assert_eq!((outcome.rejected.len(), outcome.error), (1, None), "it is OTLP all the same");
}

/// Go's `net.IP` of an IPv4 address has 16 bytes; the Collector and zipkin-go write it as it is.
#[test]
fn an_address_of_zipkins_is_told_by_its_length_and_an_odd_one_costs_nothing_else() {
    let mapped = [&[0; 10][..], &[0xff, 0xff, 10, 1, 2, 3]].concat();
    let six: Vec<u8> = (0..16).collect();
    let endpoint = |ipv4: &[u8], ipv6: &[u8]| {
        let (ipv4, ipv6) = (ipv4.to_vec(), ipv6.to_vec());
        let local = Some(z::Endpoint { service_name: "shop".into(), ipv4, ipv6, port: 0 });
        let spans = vec![z::Span { local, ..zipkin_span() }];
        body(&both(Format::ZipkinProto, &z::ListOfSpans { spans }.encode_to_vec()))["localEndpoint"].take()
    };
    let (four, six_text) = ("10.1.2.3", "1:203:405:607:809:a0b:c0d:e0f");
    assert_eq!(endpoint(&mapped, &[]), json!({ "serviceName": "shop", "ipv4": four }));
    assert_eq!(endpoint(&[], &mapped), json!({ "serviceName": "shop", "ipv4": four }));
    assert_eq!(endpoint(&six, &[]), json!({ "serviceName": "shop", "ipv6": six_text }));
    assert_eq!(
        endpoint(&mapped[12..], &six),
        json!({ "serviceName": "shop", "ipv4": four, "ipv6": six_text })
    );
    assert_eq!(endpoint(&[1, 2, 3], &[4; 15]), json!({ "serviceName": "shop" }));
}

#[test]
fn a_number_that_is_no_port_of_zipkins_is_left_out() {
    for (port, kept) in
        [(1, Some(1)), (65_535, Some(65_535)), (0, None), (65_536, None), (70_000, None), (-1, None)]
    {
        let local = Some(z::Endpoint { service_name: "shop".into(), port, ..z::Endpoint::default() });
        let spans = vec![z::Span { local, ..zipkin_span() }];
        let body = body(&both(Format::ZipkinProto, &z::ListOfSpans { spans }.encode_to_vec()));
        assert_eq!(body["localEndpoint"].get("port").and_then(Value::as_u64), kept, "{port}");
    }
}

#[test]
fn a_parent_id_of_zeros_is_none() {
    let zeros = vec![0; 8];
    let zipkin = z::ListOfSpans { spans: vec![z::Span { parent_id: zeros.clone(), ..zipkin_span() }] };
    assert_eq!(body(&both(Format::ZipkinProto, &zipkin.encode_to_vec())).get("parentId"), None);

    let otlp = otlp_request(vec![o::Span { parent_span_id: zeros.clone(), ..otlp_span() }]);
    assert_eq!(body(&both(Format::OtlpProto, &otlp)).get("parentSpanId"), None);

    let references = vec![j::Reference { trace_id: vec![0x11; 16], span_id: zeros, kind: 0 }];
    let jaeger = j::Span { references, ..jaeger_span() };
    assert_eq!(body(&both(Format::JaegerProto, &jaeger.encode_to_vec())).get("parentSpanId"), None);
}

#[test]
fn what_a_jaeger_span_follows_is_its_parent_and_stays_a_link_that_says_so() {
    let references = vec![j::Reference { trace_id: vec![0x11; 16], span_id: vec![0x33; 8], kind: 1 }];
    let span = j::Span { references, ..jaeger_span() };
    let body = body(&both(Format::JaegerProto, &span.encode_to_vec()));
    assert_eq!(body["parentSpanId"], "3333333333333333");
    let kind = json!([{ "key": "opentracing.ref_type", "value": { "stringValue": "follows_from" } }]);
    let link = json!({ "traceId": "11".repeat(16), "spanId": "3333333333333333", "attributes": kind });
    assert_eq!(body["links"], json!([link]));
}

#[test]
fn a_jaeger_log_whose_field_event_is_no_text_keeps_it() {
    let number = j::KeyValue { key: "event".into(), value_type: 2, integer: 7, ..j::KeyValue::default() };
    let named = j::KeyValue { key: "event".into(), text: "retry".into(), ..j::KeyValue::default() };
    let attribute = json!({ "key": "event", "value": { "intValue": "7" } });
    for (fields, name) in [(vec![number.clone()], None), (vec![number, named], Some("retry"))] {
        let span = j::Span { logs: vec![j::Log { time: None, fields }], ..jaeger_span() };
        let body = body(&both(Format::JaegerProto, &span.encode_to_vec()));
        let event = &body["events"][0];
        assert_eq!((event["name"].as_str(), &event["attributes"]), (name, &json!([attribute])));
    }
}

#[test]
fn what_the_collector_writes_for_a_service_without_a_name_is_none() {
    let tag = j::KeyValue { key: "host".into(), text: "a".into(), ..j::KeyValue::default() };
    let process = Some(j::Process { service_name: "OTLPResourceNoServiceName".into(), tags: vec![tag] });
    let body = body(&both(Format::JaegerProto, &j::Span { process, ..jaeger_span() }.encode_to_vec()));
    let host = json!({ "key": "host", "value": { "stringValue": "a" } });
    assert_eq!(body["resource"], json!({ "attributes": [host] }));
}

#[test]
fn a_jaeger_tag_of_a_type_to_come_costs_its_value_and_nothing_else() {
    let tags = vec![j::KeyValue { key: "x".into(), value_type: 9, ..j::KeyValue::default() }];
    let span = j::Span { tags, ..jaeger_span() };
    let body = body(&both(Format::JaegerProto, &span.encode_to_vec()));
    let value = json!({ "stringValue": "<unknown Jaeger tag type 9>" });
    assert_eq!(body["attributes"], json!([{ "key": "x", "value": value }]));
}

#[test]
fn a_jaeger_message_with_a_field_that_it_should_not_have_costs_no_span() {
    let process = Some(j::Process { service_name: "shop".into(), ..j::Process::default() });
    let second = j::Span { span_id: vec![0x33; 8], ..jaeger_span() };
    let batch = j::Batch { spans: vec![jaeger_span(), second], process }.encode_to_vec();
    let bare = j::Span { start: None, ..jaeger_span() }.encode_to_vec();
    for (message, spans) in [(batch, 2), (jaeger_span().encode_to_vec(), 1), (bare, 1)] {
        let plain = decode(Format::JaegerProto, &message);
        assert_eq!((&plain.error, plain.rejected.len(), plain.spans.len()), (&None, 0, spans));
        // Field 3 is a text, which a `Span` has there, too; number 100 is a varint.
        for more in [&b"\x1a\x00"[..], b"\xa0\x06\x01"] {
            assert_eq!(decode(Format::JaegerProto, &[&message, more].concat()), plain);
        }
    }
}

/// A field of OTLP's that is yet to come: number 40, and what it holds.
fn later(message: &[u8]) -> Vec<u8> {
    [message, b"\xc2\x02\x03new"].concat()
}

fn field(number: u8, message: &[u8]) -> Vec<u8> {
    assert!(message.len() < 128);
    [&[number << 3 | 2, message.len() as u8], message].concat()
}

#[test]
fn auto_takes_otlp_with_fields_that_are_yet_to_come() {
    let span = otlp_span().encode_to_vec();
    let attribute = field(1, &[field(1, b"k"), field(2, &field(1, b"v"))].concat());
    let plain = |spans: &[u8]| [field(1, &attribute), field(2, spans)].concat();
    let scope_spans = field(2, &span);
    let later_attribute = field(1, &later(&[field(1, b"k"), field(2, &field(1, b"v"))].concat()));
    for message in [
        later(&field(1, &plain(&scope_spans))),
        field(1, &later(&plain(&scope_spans))),
        field(1, &plain(&later(&scope_spans))),
        field(1, &plain(&field(2, &later(&span)))),
        field(1, &[field(1, &later(&attribute)), field(2, &scope_spans)].concat()),
        field(1, &[field(1, &later_attribute), field(2, &scope_spans)].concat()),
    ] {
        let outcome = both(Format::OtlpProto, &message);
        assert_eq!((outcome.error, outcome.spans.len()), (None, 1), "{message:x?}");
    }
    // Without a span there is nothing to know it by.
    assert!(decode(Format::Auto, &field(1, &later(&field(1, &attribute)))).error.is_some());
}

#[test]
fn a_resource_that_has_only_references_to_entities_keeps_them() {
    let entity = o::EntityRef {
        kind: "service".into(),
        id_keys: vec!["service.name".into()],
        ..o::EntityRef::default()
    };
    let resource = Some(o::Resource { entity_refs: vec![entity], ..o::Resource::default() });
    let scope_spans = vec![o::ScopeSpans { spans: vec![otlp_span()], ..o::ScopeSpans::default() }];
    let resource_spans = vec![o::ResourceSpans { resource, scope_spans, ..o::ResourceSpans::default() }];
    let body = body(&both(Format::OtlpProto, &o::Request { resource_spans }.encode_to_vec()));
    assert_eq!(
        body["resource"],
        json!({ "entityRefs": [{ "type": "service", "idKeys": ["service.name"] }] })
    );
}

#[test]
fn a_resource_as_long_as_a_trace_id_is_no_span_of_zipkins() {
    let attribute = field(1, &[field(1, b"abcde"), field(2, &field(1, b"123"))].concat());
    assert_eq!(attribute.len(), 16);
    let group = [field(1, &attribute), field(3, b"https://")].concat();
    for message in [field(1, &group), field(1, &[&group[..], b"\x12\x00"].concat())] {
        let outcome = both(Format::OtlpProto, &message);
        assert_eq!((outcome.error, outcome.spans.len(), outcome.rejected.len()), (None, 0, 0));
    }
}

#[test]
fn a_byte_order_mark_before_json_is_passed_over() {
    for (format, message) in [
        (Format::Json, r#"{"traceId":"1","spans":[{"x":1}]}"#),
        (Format::ZipkinJson, r#"[{"traceId":"1","id":"2"}]"#),
        (Format::OtlpJson, r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"1"}]}]}]}"#),
    ] {
        let outcome = both(format, format!("\u{feff}{message}").as_bytes());
        assert_eq!((outcome.error, outcome.spans.len()), (None, 1), "{format:?}");
    }
}

#[test]
fn a_kind_of_otlp_json_may_be_written_as_any_whole_number() {
    for (kind, column) in
        [("2", "SERVER"), ("2.0", "SERVER"), ("\"3e0\"", "CLIENT"), ("2.5", ""), ("-1", ""), ("99", "")]
    {
        let span = format!(r#"{{"traceId":"1","kind":{kind}}}"#);
        let message = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{span}]}}]}}]}}"#);
        assert_eq!(decode(Format::OtlpJson, message.as_bytes()).spans[0].1, column, "{kind}");
    }
}
