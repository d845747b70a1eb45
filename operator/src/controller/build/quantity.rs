//! Quantities as the API server writes them: what is not written so would look like drift for ever.

/// The canonical form of a quantity: without a fraction, with the largest suffix that keeps it whole. A text that
/// is none, or one far beyond all machines, stays as it is.
pub fn canonical(text: &str) -> String {
    convert(text).unwrap_or_else(|| text.to_owned())
}

const BINARY: [&str; 7] = ["", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
/// From billionths.
const DECIMAL: [&str; 10] = ["n", "u", "m", "", "k", "M", "G", "T", "P", "E"];

fn convert(text: &str) -> Option<String> {
    let digits_end =
        text.find(|letter: char| letter != '.' && !letter.is_ascii_digit()).unwrap_or(text.len());
    let (number, suffix) = text.split_at(digits_end);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let mantissa: u128 = format!("{whole}{fraction}").parse().ok()?;
    let mut scale = 10_u128.checked_pow(u32::try_from(fraction.len()).ok()?)?;
    let (unit, is_binary) = match BINARY.iter().position(|binary| *binary == suffix) {
        Some(power) => (1024_u128.pow(u32::try_from(power).ok()?).checked_mul(1_000_000_000)?, power > 0),
        None if suffix.len() > 1 && suffix.starts_with(['e', 'E']) => {
            let exponent: i32 = suffix[1..].parse().ok()?;
            let factor = 10_u128.checked_pow(exponent.unsigned_abs())?;
            if exponent < 0 {
                scale = scale.checked_mul(factor)?;
                (1_000_000_000, false)
            } else {
                (factor.checked_mul(1_000_000_000)?, false)
            }
        }
        None => {
            let power = DECIMAL.iter().position(|decimal| *decimal == suffix)?;
            (1000_u128.pow(u32::try_from(power).ok()?), false)
        }
    };
    // What is smaller than a billionth is rounded up.
    let billionths = mantissa.checked_mul(unit)?.div_ceil(scale);
    if is_binary && billionths >= 1024 * 1_000_000_000 {
        return Some(shortest(billionths.div_ceil(1_000_000_000), 1024, &BINARY));
    }
    Some(shortest(billionths, 1000, &DECIMAL))
}

fn shortest(mut number: u128, base: u128, suffixes: &[&str]) -> String {
    if number == 0 {
        return "0".to_owned();
    }
    let mut power = 0;
    while number.is_multiple_of(base) && power + 1 < suffixes.len() {
        number /= base;
        power += 1;
    }
    format!("{number}{}", suffixes[power])
}

#[cfg(test)]
mod tests {
    use super::canonical;

    #[test]
    fn quantities_are_written_as_the_api_server_writes_them() {
        for (text, expected) in [
            ("100m", "100m"),
            ("1000m", "1"),
            ("1500m", "1500m"),
            ("0.5", "500m"),
            (".5", "500m"),
            ("2.", "2"),
            ("1000", "1k"),
            ("1024", "1024"),
            ("1000k", "1M"),
            ("0", "0"),
            ("0Gi", "0"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("1.5Gi", "1536Mi"),
            ("2048Ki", "2Mi"),
            ("0.5Ki", "512"),
            ("0.1Ki", "102400m"),
            ("128Mi", "128Mi"),
            ("0.0000000001", "1n"),
            ("1e3", "1k"),
            ("1E3", "1k"),
            ("1.5e+09", "1500M"),
            ("1e-3", "1m"),
            ("1E", "1E"),
            ("1e99", "1e99"),
            ("much", "much"),
            ("99999999999999999999999999999999E", "99999999999999999999999999999999E"),
        ] {
            assert_eq!(canonical(text), expected, "{text}");
        }
    }
}
