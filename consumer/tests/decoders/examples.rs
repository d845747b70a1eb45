//! What the documentation of the decoders says, example by example.

use sluice_consumer::decode::{DecodeError, Decoder};
use sluice_consumer::span::SpanDefect;
use sluice_crds::v1alpha1::{Format, JsonPaths};

use crate::samples::{Outcome, decode, decode_with};

fn rows(outcome: &Outcome) -> Vec<(&str, &str, &str)> {
    assert_eq!(outcome.error, None);
    outcome
        .spans
        .iter()
        .map(|(trace_id, kind, body)| (trace_id.as_str(), kind.as_str(), body.as_str()))
        .collect()
}

fn paths(spans: &str, trace_id: &str, kind: &str) -> JsonPaths {
    JsonPaths { spans: spans.into(), trace_id: trace_id.into(), kind: kind.into() }
}

#[test]
fn json_looks_in_the_span_first_and_at_the_root_then_wherever_that_stands() {
    let message =
        br#"{"spans":[{"traceId":"own","kind":"A"}, {"x":1} ,2,"three",[4]],"traceId":"root","kind":"B"}"#;
    let outcome = decode(Format::Json, message);
    assert_eq!(
        rows(&outcome),
        [
            ("own", "A", r#"{"traceId":"own","kind":"A"}"#),
            ("root", "B", r#"{"x":1}"#),
            ("root", "B", "2"),
            ("root", "B", r#""three""#),
            ("root", "B", "[4]"),
        ]
    );
}

#[test]
fn json_keeps_a_span_byte_for_byte() {
    let span = "{ \"traceId\" :\"a\\u0041\" ,\r\n \"n\":1.0E+2,\"big\":123456789012345678901234567890, \"😀\":\"\\u0000\\ud83d\" ,\"n\":-0}";
    let outcome = decode(Format::Json, format!("{{\"spans\":[\n{span}\n]}}").as_bytes());
    assert_eq!(rows(&outcome), [("aA", "", span)]);
}

#[test]
fn json_takes_numbers_as_ids_as_they_are_written() {
    let outcome =
        decode(Format::Json, br#"{"spans":[{"traceId":18446744073709551616,"kind":2},{"traceId":-1e3}]}"#);
    let ids: Vec<_> = outcome.spans.iter().map(|span| (span.0.as_str(), span.1.as_str())).collect();
    assert_eq!(ids, [("18446744073709551616", "2"), ("-1e3", "")]);
}

#[test]
fn of_a_key_that_occurs_twice_the_last_counts() {
    let outcome = decode(Format::Json, br#"{"kind":"a","spans":[{"traceId":"1","traceId":"2"}],"kind":"b"}"#);
    assert_eq!(rows(&outcome), [("2", "b", r#"{"traceId":"1","traceId":"2"}"#)]);
    // So it does on the way to a path.
    let paths = paths("/spans", "/ctx/t", "/ctx/k");
    for last in [r#"{"x":1}"#, "7", "[]"] {
        let message = format!(r#"{{"ctx":{{"t":"first"}},"ctx":{last},"spans":[{{}}]}}"#);
        let outcome = decode_with(Format::Json, &paths, message.as_bytes());
        assert_eq!((outcome.spans, outcome.rejected.len()), (Vec::new(), 1), "{last}");
    }
    let span = r#"{"ctx":{"t":"first","k":"A"},"ctx":{"t":"second"}}"#;
    let outcome = decode_with(Format::Json, &paths, format!(r#"{{"spans":[{span}]}}"#).as_bytes());
    assert_eq!(rows(&outcome), [("second", "", span)]);
}

#[test]
fn a_second_list_of_spans_is_an_error_and_not_a_loss() {
    for (format, message) in [
        (Format::Json, r#"{"traceId":"1","spans":[{}],"spans":[{}]}"#),
        (Format::OtlpJson, r#"{"resourceSpans":[],"resourceSpans":[]}"#),
        (Format::OtlpJson, r#"{"resourceSpans":[{"scopeSpans":[{"spans":[],"spans":[]}]}]}"#),
        (Format::OtlpJson, r#"{"resourceSpans":[{"scopeSpans":[],"resource":{},"scopeSpans":[]}]}"#),
    ] {
        assert!(
            matches!(decode(format, message.as_bytes()).error, Some(DecodeError::Malformed { .. })),
            "{message}"
        );
    }
}

#[test]
fn spans_in_the_retired_members_of_otlp_are_an_error_and_not_a_loss() {
    let message = br#"{"resourceSpans":[{"instrumentationLibrarySpans":[{"spans":[{"traceId":"1"}]}]}]}"#;
    assert!(matches!(decode(Format::OtlpJson, message).error, Some(DecodeError::Malformed { .. })));
    // Field 1000, a message of no bytes.
    assert!(matches!(
        decode(Format::OtlpProto, b"\x0a\x03\xc2\x3e\x00").error,
        Some(DecodeError::Malformed { .. })
    ));
}

#[test]
fn retired_members_of_otlp_without_spans_or_beside_todays_cost_nothing() {
    let spans = r#""scopeSpans":[{"spans":[{"traceId":"1"}]}]"#;
    for retired in ["[]", "[ ]", "null", r#"[{"spans":[{"traceId":"1"}]}]"#] {
        for members in [
            format!(r#"{spans},"instrumentationLibrarySpans":{retired}"#),
            format!(r#""instrumentationLibrarySpans":{retired},"resource":{{}},{spans}"#),
        ] {
            let message = format!(r#"{{"resourceSpans":[{{{members}}}]}}"#);
            assert_eq!(decode(Format::OtlpJson, message.as_bytes()).spans.len(), 1, "{message}");
        }
    }
    let nothing = br#"{"resourceSpans":[{"instrumentationLibrarySpans":[]}]}"#;
    assert_eq!(rows(&decode(Format::OtlpJson, nothing)), []);
    for none in ["[]", "null"] {
        let message = format!(
            r#"{{"resourceSpans":[{{"scopeSpans":{none},"instrumentationLibrarySpans":[{{"spans":[{{"traceId":"1"}}]}}]}}]}}"#
        );
        assert!(decode(Format::OtlpJson, message.as_bytes()).error.is_some(), "{message}");
    }
    // Field 2 holds one span with a trace id of 8 bytes, field 1000 nothing.
    let both = b"\x0a\x11\x12\x0c\x12\x0a\x0a\x08\x01\x01\x01\x01\x01\x01\x01\x01\xc2\x3e\x00";
    assert_eq!(decode(Format::OtlpProto, both).spans.len(), 1);
}

#[test]
fn with_an_empty_path_the_message_is_a_span_or_a_list_of_spans() {
    let paths = paths("", "/trace/id", "/list/1");
    for format in [Format::Json, Format::Auto] {
        let one = decode_with(format, &paths, br#" {"trace":{"id":"t"},"list":["no","K"]} "#);
        assert_eq!(rows(&one), [("t", "K", r#"{"trace":{"id":"t"},"list":["no","K"]}"#)]);
        let two = decode_with(format, &paths, br#"[{"trace":{"id":"t"}},{"trace":{"id":"u"}}]"#);
        assert_eq!(rows(&two), [("t", "", r#"{"trace":{"id":"t"}}"#), ("u", "", r#"{"trace":{"id":"u"}}"#)]);
        // OTLP shows itself wherever its list stands.
        let otlp = decode_with(
            format,
            &paths,
            br#"{"a":1,"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"FF"}]}]}]}"#,
        );
        assert_eq!(otlp.spans.len(), usize::from(format == Format::Auto));
    }
}

#[test]
fn paths_are_json_pointers_with_escapes_and_indices() {
    let paths = paths("/a~1b/0/~0", "/", "/é");
    let outcome = decode_with(Format::Json, &paths, r#"{"":"t","a\/b":[{"~":[{"\u00e9":"k"}]}]}"#.as_bytes());
    assert_eq!(rows(&outcome), [("t", "k", r#"{"\u00e9":"k"}"#)]);
}

#[test]
fn paths_that_are_no_json_pointers_are_refused_with_their_field() {
    for (paths, field) in [
        (paths("spans", "/t", "/k"), "json.spans"),
        (paths("/s", "t", "/k"), "json.traceId"),
        (paths("/s", "", "/k"), "json.traceId"),
        (paths("/s", "/t", "/a~2"), "json.kind"),
        (paths("/s", "/t", "/a~"), "json.kind"),
    ] {
        let error = Decoder::new(Format::Json, &paths).unwrap_err().to_string();
        assert!(error.starts_with(field), "{error}");
    }
    assert!(Decoder::new(Format::Json, &paths("", "/t", "")).is_ok());
}

#[test]
fn a_message_without_the_list_is_an_error_and_one_with_an_empty_list_is_none() {
    assert!(decode(Format::Json, br#"{"traceId":"1","span":[]}"#).error.is_some());
    for empty in [&br#"{"traceId":"1","spans":[]}"#[..], br#"{"traceId":"1","spans":null}"#] {
        assert_eq!(rows(&decode(Format::Json, empty)), []);
        assert_eq!(rows(&decode(Format::Auto, empty)), []);
    }
}

#[test]
fn a_span_beyond_the_tables_limits_is_rejected_alone_and_its_neighbours_are_stored() {
    let long_id = format!(r#"{{"traceId":"{}"}}"#, "é".repeat(65));
    let long_kind = format!(r#"{{"traceId":"b","kind":"{}"}}"#, "k".repeat(17));
    let nul = r#"{"traceId":"c\u0000"}"#;
    let message =
        format!(r#"{{"spans":[{{"traceId":"a"}},{long_id},{long_kind},{nul},{{}},{{"traceId":"z"}}]}}"#);
    let outcome = decode(Format::Json, message.as_bytes());
    assert_eq!(rows(&outcome), [("a", "", r#"{"traceId":"a"}"#), ("z", "", r#"{"traceId":"z"}"#)]);
    let rejected: Vec<_> =
        outcome.rejected.iter().map(|span| (span.index, span.defect, span.body.as_str())).collect();
    assert_eq!(
        rejected,
        [
            (1, SpanDefect::TraceIdTooLong, long_id.as_str()),
            (2, SpanDefect::KindTooLong, long_kind.as_str()),
            (3, SpanDefect::NulCharacter, nul),
            (4, SpanDefect::MissingTraceId, "{}"),
        ]
    );
    // The row that each would have been can be made again.
    let parts: Vec<_> =
        outcome.rejected.iter().map(|span| (span.trace_id.as_str(), span.kind.as_str())).collect();
    assert_eq!(parts, [("é".repeat(65).as_str(), ""), ("b", "k".repeat(17).as_str()), ("c\0", ""), ("", "")]);
}

#[test]
fn half_a_surrogate_pair_is_kept_in_a_body_and_costs_as_an_id_its_own_span_only() {
    assert_eq!(decode(Format::Json, br#"{"traceId":"1","spans":[{"cut":"\ud83d"}]}"#).error, None);
    for id in [r"\ud83d", r"\ud83dx", r"\ud83d\u0041", r"\ude00"] {
        let bad = format!(r#"{{"traceId":"{id}","spanId":"1","id":"1"}}"#);
        let bodies = format!(r#"[{bad},{{"traceId":"ab","spanId":"2","id":"2"}}]"#);
        let otlp = format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":{bodies}}}]}}]}}"#);
        for (format, message) in [
            (Format::Json, format!(r#"{{"spans":{bodies}}}"#)),
            (Format::ZipkinJson, bodies.clone()),
            (Format::OtlpJson, otlp),
        ] {
            let outcome = decode(format, message.as_bytes());
            assert_eq!(outcome.error, None);
            let [stored] = &outcome.spans[..] else { panic!("{format:?}: {:?}", outcome.spans) };
            let [rejected] = &outcome.rejected[..] else { panic!("{format:?}: {:?}", outcome.rejected) };
            assert_eq!(stored.0, "ab");
            assert_eq!((rejected.index, rejected.defect), (0, SpanDefect::HalfSurrogate), "{format:?} {id}");
            // No row can be made of it with another id.
            assert_eq!(rejected.trace_id, "");
            assert!(rejected.body.starts_with(&bad[..bad.len() - 1]), "{}", rejected.body);
        }
    }
    let whole = decode(Format::Json, br#"{"traceId":"\ud83d\ude00","spans":[{}]}"#);
    assert_eq!(rows(&whole), [("😀", "", "{}")]);
}

#[test]
fn otlp_json_keeps_the_span_and_adds_resource_and_scope() {
    let message = br#"{"resourceSpans":[{"scopeSpans":[{"spans":[{ "traceId":"ABCD", "kind":2, "startTimeUnixNano":"18446744073709551615" },{}],"scope":{"name":"s"}}],"resource":{ "attributes":[] }}]}"#;
    for format in [Format::OtlpJson, Format::Auto] {
        let outcome = decode(format, message);
        let body = r#"{ "traceId":"ABCD", "kind":2, "startTimeUnixNano":"18446744073709551615" ,"resource":{ "attributes":[] },"scope":{"name":"s"}}"#;
        assert_eq!(rows(&outcome), [("abcd", "SERVER", body)]);
        assert_eq!(outcome.rejected[0].body, r#"{"resource":{ "attributes":[] },"scope":{"name":"s"}}"#);
    }
}

#[test]
fn otlp_json_in_the_spelling_of_protobuf_is_an_error_and_not_a_loss() {
    for message in [
        r#"{"resource_spans":[{"scopeSpans":[{"spans":[{"traceId":"1"}]}]}]}"#,
        r#"{"resourceSpans":[],"resource_spans":[{"scopeSpans":[{"spans":[{"traceId":"1"}]}]}]}"#,
        r#"{"resourceSpans":[{"scope_spans":[{"spans":[{"traceId":"1"}]}]}]}"#,
        r#"{"resourceSpans":[{"instrumentation_library_spans":[{"spans":[{"traceId":"1"}]}]}]}"#,
    ] {
        for format in [Format::OtlpJson, Format::Auto] {
            assert!(decode(format, message.as_bytes()).error.is_some(), "{format:?} took {message}");
        }
    }
}

#[test]
fn otlp_json_leaves_a_trace_id_that_is_not_hexadecimal_as_it_is() {
    for (sent, column) in [("00AbCDef", "00abcdef"), ("W47/95gDgQPSabYzgT/GDA==", "W47/95gDgQPSabYzgT/GDA==")]
    {
        let message =
            format!(r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"traceId":"{sent}"}}]}}]}}]}}"#);
        let outcome = decode(Format::OtlpJson, message.as_bytes());
        assert_eq!(outcome.error, None);
        assert_eq!(outcome.spans[0].0, column);
    }
}

#[test]
fn auto_reads_json_behind_white_space_and_one_zipkin_span_alone() {
    let outcome = decode(Format::Auto, b"\n\t {\"spans\":[{\"traceId\":\"1\"}]}");
    assert_eq!(rows(&outcome), [("1", "", r#"{"traceId":"1"}"#)]);
    let outcome = decode(Format::Auto, br#"{"traceId":"1","id":"2","kind":"CLIENT"}"#);
    assert_eq!(rows(&outcome), [("1", "CLIENT", r#"{"traceId":"1","id":"2","kind":"CLIENT"}"#)]);
}
