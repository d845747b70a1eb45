//! Durations as GEP-2257 of the Kubernetes Gateway API defines them: `200ms`, `1m`, `1h30m`.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// What a text must match.
pub const PATTERN: &str = "^([0-9]{1,5}(h|m|s|ms)){1,4}$";

/// A span of time, at least 0, in whole milliseconds.
///
/// As text: one to four numbers of at most five digits, each with its unit `h`, `m`, `s` or `ms`
/// (<https://gateway-api.sigs.k8s.io/geps/gep-2257/>).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration(u64);

/// A text that is no GEP-2257 duration.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseDurationError {
    /// It has another form.
    #[error("expected a duration like 200ms, 30s or 1h30m, found {0:?}")]
    Form(String),
    /// It has the form, and more digits or numbers than are allowed.
    #[error(
        "expected a duration of at most four numbers, each of at most five digits (99999h at the most), found {0:?}"
    )]
    Long(String),
}

impl Duration {
    /// A duration of whole milliseconds.
    pub const fn from_millis(milliseconds: u64) -> Self {
        Self(milliseconds)
    }

    /// In milliseconds.
    pub const fn as_millis(self) -> u64 {
        self.0
    }
}

impl From<Duration> for std::time::Duration {
    fn from(duration: Duration) -> Self {
        Self::from_millis(duration.0)
    }
}

impl FromStr for Duration {
    type Err = ParseDurationError;

    fn from_str(text: &str) -> Result<Self, ParseDurationError> {
        let (milliseconds, is_long) = parse(text).ok_or_else(|| ParseDurationError::Form(text.to_owned()))?;
        if is_long { Err(ParseDurationError::Long(text.to_owned())) } else { Ok(Self(milliseconds)) }
    }
}

/// Its milliseconds, and whether it is longer than allowed: they say nothing then.
fn parse(text: &str) -> Option<(u64, bool)> {
    let mut rest = text;
    let mut total = 0;
    let mut is_long = false;
    let mut parts = 0;
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_digit).count();
        let letters = rest[digits..].bytes().take_while(u8::is_ascii_lowercase).count();
        is_long |= digits > 5;
        let number: u64 = if digits > 5 { 0 } else { rest[..digits].parse().ok()? };
        total += number
            * match &rest[digits..digits + letters] {
                "h" => 3_600_000,
                "m" => 60_000,
                "s" => 1_000,
                "ms" => 1,
                _ => return None,
            };
        parts += 1;
        rest = &rest[digits + letters..];
    }
    (parts > 0).then_some((total, is_long || parts > 4))
}

impl TryFrom<String> for Duration {
    type Error = ParseDurationError;

    fn try_from(text: String) -> Result<Self, ParseDurationError> {
        text.parse()
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> Self {
        duration.to_string()
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return formatter.write_str("0s");
        }
        let mut rest = self.0;
        for (unit, size) in [("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)] {
            if rest >= size {
                write!(formatter, "{}{unit}", rest / size)?;
                rest %= size;
            }
        }
        Ok(())
    }
}

impl JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "maxLength": 32, "pattern": PATTERN })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_examples_of_gep_2257_are_read() {
        for (text, milliseconds) in [
            ("0s", 0),
            ("0h", 0),
            ("1h", 3_600_000),
            ("1h15m", 4_500_000),
            ("1h15m30s", 4_530_000),
            ("5000ms", 5_000),
            ("720h", 2_592_000_000),
            ("99999h", 359_996_400_000),
        ] {
            assert_eq!(text.parse(), Ok(Duration::from_millis(milliseconds)), "{text}");
        }
    }

    #[test]
    fn what_gep_2257_excludes_is_refused() {
        for text in
            ["", "1", "1d", "-1s", "+1s", "1.5h", "100000h", "1h1m1s1ms1h", "s", "1 s", "1µs", "1us", "1H"]
        {
            assert!(text.parse::<Duration>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_only_too_long_is_told_from_what_is_no_duration() {
        for text in ["99999999h", "100000ms", "1h1m1s1ms1h", "99999999999999999999999h", "1h100000s"] {
            let error = text.parse::<Duration>().unwrap_err();
            assert_eq!(error, ParseDurationError::Long(text.to_owned()));
            assert!(error.to_string().contains("99999h at the most"), "{error}");
        }
        for text in ["99999999", "99999999d", "100000h1", "100000hh", "99999999hx1s"] {
            assert_eq!(text.parse::<Duration>(), Err(ParseDurationError::Form(text.to_owned())));
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for milliseconds in [0, 1, 200, 1_000, 61_001, 3_600_000, 359_996_400_000] {
            let duration = Duration::from_millis(milliseconds);
            assert_eq!(duration.to_string().parse(), Ok(duration));
        }
    }
}
