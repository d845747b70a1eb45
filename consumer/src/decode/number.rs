//! Whole numbers as JSON may have them.

/// Most digits that a whole number may have, far beyond those of any time in nanoseconds.
const MAX_DIGITS: usize = 38;

/// The whole number that a text means, exactly: `12`, and as the proto3 JSON mapping allows, `12.0` and `1.2e1`. `None`
/// for a fraction, for what does not fit, and for what is no number.
pub(crate) fn integer(text: &str) -> Option<i128> {
    if let Ok(number) = text.parse() {
        return Some(number);
    }
    let (negative, text) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
    let (mantissa, exponent) = text.split_once(['e', 'E']).unwrap_or((text, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{}", fraction.trim_end_matches('0'));
    if whole.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return Some(0);
    }
    let places = exponent.parse::<i64>().ok()?.checked_sub(fraction.trim_end_matches('0').len() as i64)?;
    let number = match usize::try_from(places) {
        Ok(zeros) if significant.len().checked_add(zeros)? <= MAX_DIGITS => {
            format!("{significant:0<width$}", width = significant.len() + zeros)
        }
        Ok(_) => return None,
        Err(_) => {
            let cut = significant.len().checked_sub(usize::try_from(places.checked_neg()?).ok()?)?;
            let (kept, zeros) = significant.split_at(cut);
            if kept.is_empty() || zeros.bytes().any(|byte| byte != b'0') {
                return None;
            }
            kept.to_owned()
        }
    };
    let number: i128 = number.parse().ok()?;
    Some(if negative { -number } else { number })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_whole_number_is_exact_however_it_is_written() {
        for (text, number) in [
            ("0", 0),
            ("-7", -7),
            ("2.0", 2),
            ("1.7637048e18", 1_763_704_800_000_000_000),
            ("1.7637048005E+18", 1_763_704_800_500_000_000),
            ("18446744073709551615", u64::MAX.into()),
            ("18446744073709551615.00", u64::MAX.into()),
            ("1200e-2", 12),
            ("-0.0", 0),
            ("0e999999999", 0),
        ] {
            assert_eq!(integer(text), Some(number), "{text}");
        }
    }

    #[test]
    fn what_is_no_whole_number_or_too_large_is_none() {
        let long = "9".repeat(60);
        for text in [
            "",
            "-",
            "1.5",
            "15e-1",
            "1e400",
            "1e-400",
            "1e99999999999999999999",
            ".",
            "e5",
            "0x1",
            "NaN",
            &long,
        ] {
            assert_eq!(integer(text), None, "{text}");
        }
    }
}
