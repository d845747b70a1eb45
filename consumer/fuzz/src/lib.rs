//! What may be fed with anything, and what must hold whatever it is.
//!
//! Each [`Target`] is a function from bytes to nothing that panics where something is wrong. libFuzzer feeds it
//! (`tests/fuzz`), and an ordinary test feeds it what is kept in `corpus/`. Memory and time are bounded by the fuzzer
//! (`-rss_limit_mb`, `-timeout`).

#![allow(clippy::unwrap_used, reason = "a panic is how a target tells")]

mod body;
mod decoder;
mod documents;
mod sealed;

use sluice_crds::v1alpha1::Format;

/// Something that reads bytes from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// A message's value, by the decoder of a format.
    Decoder(Format),
    /// The settings document that the operator writes.
    Settings,
    /// The pipeline's file that a person writes.
    Pipeline,
    /// Live documents, one after the other, from several places.
    Live,
    /// The body of an HTTP request.
    Body,
    /// What lies in the place of a sealed body, of a dead letter's part, of a dictionary.
    Sealed,
}

/// Every target with its name, which is that of its folder in `corpus/`.
pub const TARGETS: [(&str, Target); 12] = [
    ("json", Target::Decoder(Format::Json)),
    ("zipkin-json", Target::Decoder(Format::ZipkinJson)),
    ("zipkin-proto", Target::Decoder(Format::ZipkinProto)),
    ("otlp-json", Target::Decoder(Format::OtlpJson)),
    ("otlp-proto", Target::Decoder(Format::OtlpProto)),
    ("jaeger-proto", Target::Decoder(Format::JaegerProto)),
    ("auto", Target::Decoder(Format::Auto)),
    ("settings", Target::Settings),
    ("pipeline", Target::Pipeline),
    ("live", Target::Live),
    ("body", Target::Body),
    ("sealed", Target::Sealed),
];

impl Target {
    /// The target of this name.
    pub fn named(name: &str) -> Option<Self> {
        TARGETS.iter().find(|(known, _)| *known == name).map(|(_, target)| *target)
    }

    /// Feeds it.
    ///
    /// # Panics
    /// Something does not hold.
    pub fn check(self, data: &[u8]) {
        match self {
            Self::Decoder(format) => decoder::check(format, data),
            Self::Settings => documents::settings(data),
            Self::Pipeline => documents::pipeline(data),
            Self::Live => documents::live(data),
            Self::Body => body::check(data),
            Self::Sealed => sealed::check(data),
        }
    }
}
