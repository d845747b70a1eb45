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
pub(crate) fn integer(out: &mut String, value: impl itoa::Integer) {
    out.push_str(itoa::Buffer::new().format(value));
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

/// The name of a member as it is written: one piece of text, put together while this is compiled.
macro_rules! name {
    ($name:literal) => {
        concat!("\"", $name, "\":")
    };
}
pub(crate) use name;

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

    /// Writes a key as [`name!`] gives it; the value is to follow.
    pub(crate) fn key(&mut self, name: &str) -> &mut String {
        if !self.first {
            self.out.push(',');
        }
        self.first = false;
        self.out.push_str(name);
        self.out
    }

    /// Writes a string, unless it is empty, as proto3 does with what was not set.
    pub(crate) fn text(&mut self, name: &str, text: &str) {
        if !text.is_empty() {
            string(self.key(name), text);
        }
    }

    /// Writes an id in hexadecimal digits, unless it is empty.
    pub(crate) fn id(&mut self, name: &str, id: &[u8]) {
        if !id.is_empty() {
            let out = self.key(name);
            out.push('"');
            hex(out, id);
            out.push('"');
        }
    }

    /// Writes the id of a parent: one of zeros, which many write into roots, stands for none.
    pub(crate) fn parent_id(&mut self, name: &str, id: &[u8]) {
        if id.iter().any(|byte| *byte != 0) {
            self.id(name, id);
        }
    }

    /// Writes a number, unless it is zero.
    pub(crate) fn number(&mut self, name: &str, value: u64) {
        if value != 0 {
            integer(self.key(name), value);
        }
    }

    /// Writes a 64-bit number as a string, zero too.
    pub(crate) fn long(&mut self, name: &str, value: impl itoa::Integer) {
        let out = self.key(name);
        out.push('"');
        integer(out, value);
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
            integer(&mut out, unsigned_value);
            prop_assert_eq!(&out, &unsigned_value.to_string());
            out.clear();
            integer(&mut out, signed_value);
            prop_assert_eq!(&out, &signed_value.to_string());
            out.clear();
            double(&mut out, double_value);
            if double_value.is_finite() {
                prop_assert_eq!(out.parse::<f64>().unwrap().to_bits(), double_value.to_bits());
                prop_assert!(serde_json::from_str::<&serde_json::value::RawValue>(&out).is_ok(), "no JSON: {}", out);
            }
        }
    }
}
