//! Writes JSON text straight into an arena.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::scan::find_special;

/// A string with its quotes.
pub(crate) fn string(out: &mut String, text: &str) {
    out.push('"');
    escaped(out, text);
    out.push('"');
}

/// The inside of a string.
pub(crate) fn escaped(out: &mut String, text: &str) {
    let bytes = text.as_bytes();
    let mut from = 0;
    loop {
        let at = find_special(bytes, from);
        out.push_str(&text[from..at]);
        let Some(byte) = bytes.get(at) else { return };
        match byte {
            b'"' => out.push_str("\\\""),
            b'\\' => out.push_str("\\\\"),
            b'\n' => out.push_str("\\n"),
            b'\r' => out.push_str("\\r"),
            b'\t' => out.push_str("\\t"),
            control => {
                out.push_str("\\u00");
                hex(out, &[*control]);
            }
        }
        from = at + 1;
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(out: &mut String, bytes: &[u8]) {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    for part in bytes.chunks(16) {
        let mut digits = [0; 32];
        for (pair, byte) in digits.chunks_exact_mut(2).zip(part) {
            pair[0] = DIGITS[usize::from(byte >> 4)];
            pair[1] = DIGITS[usize::from(byte & 15)];
        }
        // Digits are ASCII: the check cannot fail.
        out.push_str(std::str::from_utf8(&digits[..2 * part.len()]).unwrap_or_default());
    }
}

/// A decimal number.
pub(crate) fn unsigned(out: &mut String, mut value: u64) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.push_str(std::str::from_utf8(&digits[at..]).unwrap_or_default());
}

/// A decimal number.
pub(crate) fn signed(out: &mut String, value: i64) {
    if value < 0 {
        out.push('-');
    }
    unsigned(out, value.unsigned_abs());
}

/// A decimal number beyond 64 bits.
pub(crate) fn wide(out: &mut String, value: i128) {
    // Writing to a String cannot fail.
    let _ = write!(out, "{value}");
}

/// A number, or one of the three strings that the proto3 JSON mapping has for what JSON cannot write.
pub(crate) fn double(out: &mut String, value: f64) {
    if value.is_nan() {
        out.push_str("\"NaN\"");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
    } else {
        // `Debug` writes the shortest text that reads back as the same number, with an exponent where it is far
        // from one, and always as JSON has it. Writing to a String cannot fail.
        let _ = write!(out, "{value:?}");
    }
}

/// A string of base64, with padding.
pub(crate) fn base64(out: &mut String, bytes: &[u8]) {
    out.push('"');
    STANDARD.encode_string(bytes, out);
    out.push('"');
}

/// The members of an object: the first without a comma.
pub(crate) struct Members<'o> {
    out: &'o mut String,
    first: bool,
}

impl<'o> Members<'o> {
    /// Opens an object.
    pub(crate) fn open(out: &'o mut String) -> Self {
        out.push('{');
        Self { out, first: true }
    }

    /// Writes a key (which needs no escape); the value is to follow.
    pub(crate) fn key(&mut self, key: &str) -> &mut String {
        if !self.first {
            self.out.push(',');
        }
        self.first = false;
        self.out.push('"');
        self.out.push_str(key);
        self.out.push_str("\":");
        self.out
    }

    /// Writes a string, unless it is empty, as proto3 does with what was not set.
    pub(crate) fn text(&mut self, key: &str, text: &str) {
        if !text.is_empty() {
            string(self.key(key), text);
        }
    }

    /// Writes an id in hexadecimal digits, unless it is empty.
    pub(crate) fn id(&mut self, key: &str, id: &[u8]) {
        if !id.is_empty() {
            let out = self.key(key);
            out.push('"');
            hex(out, id);
            out.push('"');
        }
    }

    /// Writes a number, unless it is zero.
    pub(crate) fn number(&mut self, key: &str, value: u64) {
        if value != 0 {
            unsigned(self.key(key), value);
        }
    }

    /// Writes a 64-bit number as a string, zero too.
    pub(crate) fn long(&mut self, key: &str, value: u64) {
        let out = self.key(key);
        out.push('"');
        unsigned(out, value);
        out.push('"');
    }

    /// Closes the object.
    pub(crate) fn close(self) {
        self.out.push('}');
    }
}

/// Writes the elements of a list with commas between.
pub(crate) fn list<T, E>(
    out: &mut String,
    elements: impl Iterator<Item = Result<T, E>>,
    mut write: impl FnMut(&mut String, T) -> Result<(), E>,
) -> Result<(), E> {
    out.push('[');
    for (index, element) in elements.enumerate() {
        if index > 0 {
            out.push(',');
        }
        write(out, element?)?;
    }
    out.push(']');
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn strings_are_read_back_as_they_were(text in any::<String>()) {
            let mut out = String::new();
            string(&mut out, &text);
            prop_assert_eq!(serde_json::from_str::<String>(&out).unwrap(), text);
        }

        #[test]
        fn numbers_are_exact(unsigned_value in any::<u64>(), signed_value in any::<i64>(), double_value in any::<f64>()) {
            let mut out = String::new();
            unsigned(&mut out, unsigned_value);
            prop_assert_eq!(&out, &unsigned_value.to_string());
            out.clear();
            signed(&mut out, signed_value);
            prop_assert_eq!(&out, &signed_value.to_string());
            out.clear();
            double(&mut out, double_value);
            if double_value.is_finite() {
                prop_assert_eq!(out.parse::<f64>().unwrap().to_bits(), double_value.to_bits());
                prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(&out).is_ok(), "no JSON: {}", out);
            }
        }
    }

    #[test]
    fn extreme_numbers_are_exact() {
        let mut out = String::new();
        for value in [0, 9, 10, u64::MAX] {
            out.clear();
            unsigned(&mut out, value);
            assert_eq!(out, value.to_string());
        }
        out.clear();
        signed(&mut out, i64::MIN);
        assert_eq!(out, i64::MIN.to_string());
    }
}
