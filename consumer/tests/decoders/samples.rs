//! Messages of every format together with what must come out of them.

use std::fmt;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use serde_json::Value;
use sluice_consumer::decode::{DecodeError, Decoder, RejectedSpan};
use sluice_consumer::span::{SpanBuf, SpanDefect};
use sluice_crds::v1alpha1::{Format, JsonPaths};

use crate::{samples_jaeger, samples_json, samples_proto};

pub const FORMATS: [Format; 6] = [
    Format::Json,
    Format::OtlpProto,
    Format::OtlpJson,
    Format::ZipkinJson,
    Format::ZipkinProto,
    Format::JaegerProto,
];

/// The body that a span must have.
#[derive(Clone, Debug)]
pub enum Body {
    /// Byte for byte.
    Text(String),
    /// The same JSON value.
    Json(Value),
}

impl Body {
    fn assert(&self, body: &str) {
        match self {
            Self::Text(text) => assert_eq!(body, text),
            Self::Json(value) => {
                let found: Value =
                    serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}"));
                assert_eq!(&found, value);
            }
        }
    }
}

#[derive(Clone, Debug)]
pub struct Want {
    pub trace_id: String,
    pub kind: String,
    pub body: Body,
}

impl Want {
    /// The table's limits, told anew.
    pub fn defect(&self) -> Option<SpanDefect> {
        if self.trace_id.is_empty() {
            Some(SpanDefect::MissingTraceId)
        } else if self.trace_id.chars().count() > 64 {
            Some(SpanDefect::TraceIdTooLong)
        } else if self.kind.chars().count() > 16 {
            Some(SpanDefect::KindTooLong)
        } else if self.trace_id.contains('\0') || self.kind.contains('\0') {
            Some(SpanDefect::NulCharacter)
        } else {
            None
        }
    }
}

#[derive(Clone)]
pub struct Sample {
    pub format: Format,
    pub payload: Vec<u8>,
    pub want: Vec<Want>,
}

impl fmt::Debug for Sample {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:?} {:?}", self.format, String::from_utf8_lossy(&self.payload))
    }
}

impl Sample {
    pub fn is_json(&self) -> bool {
        matches!(self.format, Format::Json | Format::OtlpJson | Format::ZipkinJson)
    }

    pub fn assert_decoded(&self, outcome: &Outcome) {
        assert_eq!(outcome.error, None);
        let mut spans = outcome.spans.iter();
        let mut rejected = outcome.rejected.iter();
        for (index, want) in self.want.iter().enumerate() {
            if let Some(defect) = want.defect() {
                let found = rejected.next().expect("one more rejected span");
                assert_eq!((found.index as usize, found.defect), (index, defect));
                want.body.assert(&found.body);
            } else {
                let (trace_id, kind, body) = spans.next().expect("one more span");
                assert_eq!((trace_id, kind), (&want.trace_id, &want.kind));
                want.body.assert(body);
            }
        }
        assert_eq!((spans.next(), rejected.next()), (None, None), "more than was put in");
    }
}

/// What a decoder made of a message.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    pub spans: Vec<(String, String, String)>,
    pub rejected: Vec<RejectedSpan>,
    pub error: Option<DecodeError>,
}

/// Decodes into outputs that hold something already, and checks that it stays.
pub fn decode(format: Format, payload: &[u8]) -> Outcome {
    decode_with(format, &JsonPaths::default(), payload)
}

pub fn decode_with(format: Format, paths: &JsonPaths, payload: &[u8]) -> Outcome {
    let mut spans = SpanBuf::default();
    spans.push("earlier", "KIND", "{}").unwrap();
    let earlier = RejectedSpan {
        index: 7,
        defect: SpanDefect::KindTooLong,
        trace_id: "t".into(),
        kind: "k".into(),
        body: "{}".into(),
    };
    let mut rejected = vec![earlier.clone()];
    let bytes = spans.bytes();
    let error = Decoder::new(format, paths).unwrap().decode(payload, &mut spans, &mut rejected).err();
    assert_eq!((spans.get(0).trace_id, &rejected[0]), ("earlier", &earlier));
    if error.is_some() {
        assert_eq!(
            (spans.len(), spans.bytes(), rejected.len()),
            (1, bytes, 1),
            "an error left something behind"
        );
    }
    Outcome {
        spans: spans
            .iter()
            .skip(1)
            .map(|span| (span.trace_id.to_owned(), span.kind.to_owned(), span.body.to_owned()))
            .collect(),
        rejected: rejected.split_off(1),
        error,
    }
}

pub fn explicit_and_auto(sample: &Sample) -> (Outcome, Outcome) {
    (decode(sample.format, &sample.payload), decode(Format::Auto, &sample.payload))
}

/// The generator of each format.
pub fn sample(format: Format) -> BoxedStrategy<Sample> {
    match format {
        Format::Json => samples_json::json().boxed(),
        Format::ZipkinJson => samples_json::zipkin().boxed(),
        Format::OtlpJson => samples_json::otlp().boxed(),
        Format::OtlpProto => samples_proto::otlp().boxed(),
        Format::ZipkinProto => samples_proto::zipkin().boxed(),
        Format::JaegerProto => samples_jaeger::jaeger().boxed(),
        Format::Auto => unreachable!("not a format of its own"),
    }
}

pub fn any_sample() -> impl Strategy<Value = Sample> {
    prop::sample::select(FORMATS.to_vec()).prop_flat_map(sample)
}

/// Any one message of a format.
pub fn one(format: Format) -> Sample {
    sample(format).new_tree(&mut TestRunner::deterministic()).unwrap().current()
}

/// Texts that have broken others before: quotes, controls, NUL, emoji, right-to-left, long ones.
pub fn text() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => "[a-z./]{0,12}",
        2 => any::<String>(),
        1 => prop::sample::select(vec![
            "\0", "\"\\\n\r\t\u{8}\u{c}\u{1f}\u{7f}", "😀👩‍👩‍👧 e\u{301}", "\u{202e}אבג", "\u{2028}\u{feff}\u{ffff}", "}],{[",
        ]).prop_map(str::to_owned),
        1 => "[xyz\"]{60,70}",
    ]
}
