//! A time as a person gives it on the command line.

use jiff::Timestamp;

/// A time in RFC 3339, or how long ago.
///
/// # Errors
/// What was expected.
pub fn moment(text: &str) -> Result<Timestamp, String> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let expected =
        || "expected a time like 2030-01-31T06:00:00Z, or how long ago, like 90m, 2h or 30d".to_owned();
    let digits = text.trim_end_matches(|character: char| character.is_ascii_alphabetic());
    let count: i64 = digits.parse().map_err(|_| expected())?;
    let seconds = match &text[digits.len()..] {
        "s" => 1,
        "m" => 60,
        "h" => 3_600,
        "d" => 86_400,
        _ => return Err(expected()),
    };
    let ago = count.checked_mul(seconds).filter(|ago| *ago >= 0).ok_or_else(expected)?;
    Timestamp::from_second(Timestamp::now().as_second().saturating_sub(ago)).map_err(|_| expected())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_a_time_or_how_long_ago() {
        assert_eq!(moment("2030-01-31T06:00:00Z").unwrap().as_second(), 1_896_069_600);
        let hours = Timestamp::now().as_second() - moment("2h").unwrap().as_second();
        assert!((7_199..=7_201).contains(&hours), "{hours}");
        for wrong in ["", "2", "h", "2w", "-1d", "99999999999999999d", "yesterday"] {
            assert!(moment(wrong).unwrap_err().contains("30d"), "{wrong}");
        }
    }
}
