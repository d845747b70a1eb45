//! One suite for every decoder: what holds for all of them is checked for all of them.

#![allow(clippy::unwrap_used, reason = "a panic is how a test fails")]

mod examples;
mod hostile;
mod json_grammar;
mod producers;
mod proto;
mod samples;
mod samples_jaeger;
mod samples_json;
mod samples_proto;
mod senders;

use proptest::prelude::*;
use samples::{FORMATS, Outcome, Sample, decode, explicit_and_auto};

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn every_format_gives_back_what_was_put_in(sample in samples::any_sample()) {
        let outcome = decode(sample.format, &sample.payload);
        sample.assert_decoded(&outcome);
    }

    #[test]
    fn auto_decodes_every_message_as_its_format_does(sample in samples::any_sample()) {
        let (explicit, auto) = explicit_and_auto(&sample);
        prop_assert_eq!(explicit, auto, "{:?}: {:?}", sample.format, String::from_utf8_lossy(&sample.payload));
    }

    #[test]
    fn a_message_cut_short_never_panics_and_leaves_no_trace_of_itself(sample in samples::any_sample()) {
        for length in 0..sample.payload.len() {
            for outcome in [decode(sample.format, &sample.payload[..length]), auto(&sample.payload[..length])] {
                if sample.is_json() {
                    prop_assert!(outcome.error.is_some(), "a cut message was taken for a whole one");
                }
                check(&outcome)?;
            }
        }
    }

    #[test]
    fn flipped_bytes_never_panic_and_never_yield_a_broken_body(
        sample in samples::any_sample(),
        flips in prop::collection::vec((any::<prop::sample::Index>(), 1u8..), 1..4),
    ) {
        let mut payload = sample.payload.clone();
        for (index, mask) in flips {
            let length = payload.len();
            payload[index.index(length)] ^= mask;
        }
        check(&decode(sample.format, &payload))?;
        check(&auto(&payload))?;
    }

    #[test]
    fn arbitrary_bytes_never_panic(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        for format in FORMATS {
            check(&decode(format, &payload))?;
        }
        check(&auto(&payload))?;
    }
}

fn auto(payload: &[u8]) -> Outcome {
    decode(sluice_crds::v1alpha1::Format::Auto, payload)
}

/// What holds for any outcome: `decode` has checked that an error leaves the outputs alone; bodies are JSON
/// within the limits.
fn check(outcome: &Outcome) -> Result<(), TestCaseError> {
    for (trace_id, kind, body) in &outcome.spans {
        prop_assert!((1..=64).contains(&trace_id.chars().count()));
        prop_assert!(kind.chars().count() <= 16);
        prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(body).is_ok(), "no JSON: {body}");
    }
    for rejected in &outcome.rejected {
        prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(&rejected.body).is_ok());
    }
    Ok(())
}

#[test]
fn the_table_of_samples_has_every_format() {
    for format in FORMATS {
        let sample: Sample = samples::one(format);
        assert_eq!(sample.format, format);
        assert!(!sample.payload.is_empty());
    }
}
