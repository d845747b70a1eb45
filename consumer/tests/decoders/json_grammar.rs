//! The JSON scanner accepts what serde_json accepts, and nothing else.
//!
//! Where they may differ: nesting beyond 127 levels is refused here, and serde_json's `RawValue` has no limit;
//! numbers beyond a double and escaped halves of surrogate pairs are grammar, and pass in both.

use proptest::prelude::*;
use serde_json::value::RawValue;
use sluice_consumer::decode::DecodeError;
use sluice_crds::v1alpha1::{Format, JsonPaths};

use crate::samples::{Outcome, decode_with};
use crate::samples_json;

/// A whole message as one span, whatever it is.
fn scan(payload: &[u8]) -> Outcome {
    let paths = JsonPaths { spans: String::new(), trace_id: "/no such key".into(), kind: String::new() };
    decode_with(Format::Json, &paths, payload)
}

fn agree(payload: &[u8]) -> Result<(), TestCaseError> {
    let ours = scan(payload);
    let theirs = serde_json::from_slice::<&RawValue>(payload);
    prop_assert_eq!(ours.error.is_none(), theirs.is_ok(), "{:?} {:?}", ours.error, theirs);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn valid_json_is_accepted(text in samples_json::value()) {
        prop_assert_eq!(scan(text.as_bytes()).error, None);
        agree(text.as_bytes())?;
    }

    #[test]
    fn json_with_a_byte_changed_is_judged_as_serde_json_judges(
        text in samples_json::value(),
        place in any::<prop::sample::Index>(),
        byte in prop_oneof![any::<u8>(), prop::sample::select(b"{}[]\",:\\0-+.eE \x01tfnu".to_vec())],
        insert in any::<bool>(),
    ) {
        let mut payload = text.into_bytes();
        let place = place.index(payload.len());
        if insert { payload.insert(place, byte) } else { payload[place] = byte }
        agree(&payload)?;
    }

    #[test]
    fn soups_of_json_characters_are_judged_as_serde_json_judges(
        text in r#"([\[\]{},:"\\ \n]|"a"|"\\u[0-9a-fD]{3,4}"|true|false|null|nul|-|0|1|\.5|e\+?|E-|é|\x01|\x7f){0,12}"#,
    ) {
        agree(text.as_bytes())?;
    }
}

#[test]
fn the_grammar_of_numbers_strings_and_words_is_followed_to_the_letter() {
    for good in [
        "0",
        "-0",
        "1e5",
        "1E+5",
        "0.0",
        "-1.5e-300",
        "1e999999",
        "123456789012345678901234567890",
        r#""\ud800""#,
        r#""\u0000\/""#,
        "\"\u{7f}\u{2028}\"",
        " [ ] ",
        "{\"\":{}}",
        "true",
        "\r\n\tnull ",
    ] {
        assert_eq!(scan(good.as_bytes()).error, None, "{good}");
    }
    for bad in [
        "01",
        "+1",
        "1.",
        ".5",
        "1e",
        "1e+",
        "-",
        "0x1",
        "NaN",
        "Infinity",
        "'a'",
        "\"a",
        "\"\t\"",
        r#""\x""#,
        r#""\u12g4""#,
        r#""\u123""#,
        "[1,]",
        "[,1]",
        "{\"a\":1,}",
        "{\"a\" 1}",
        "{a:1}",
        "{1:1}",
        "[1}",
        "{\"a\":1]",
        "1 2",
        "[1]]",
        "tru",
        "truex",
        "nulL",
        "// a",
        "[1 2]",
        "\u{a0}1",
        "{\"a\":}",
        "{:1}",
        "[",
        "{",
        "\\",
        "]",
    ] {
        assert!(matches!(scan(bad.as_bytes()).error, Some(DecodeError::Malformed { .. })), "{bad}");
        assert!(serde_json::from_str::<&RawValue>(bad).is_err(), "{bad}");
    }
}

#[test]
fn nesting_is_accepted_up_to_127_levels_as_serde_json_reads_it_back() {
    let nested = |levels: usize| ["[".repeat(levels), "]".repeat(levels)].concat();
    assert_eq!(scan(nested(127).as_bytes()).error, None);
    assert!(serde_json::from_str::<serde_json::Value>(&nested(127)).is_ok());
    assert!(scan(nested(128).as_bytes()).error.is_some());
    assert!(serde_json::from_str::<serde_json::Value>(&nested(128)).is_err());
    let objects =
        |levels: usize| ["{\"a\":".repeat(levels - 1), "{}".into(), "}".repeat(levels - 1)].concat();
    assert_eq!(scan(objects(127).as_bytes()).error, None);
    assert!(scan(objects(128).as_bytes()).error.is_some());
}
