//! A strict JSON scanner that cuts texts out of a message without building a tree.
//!
//! Guarantees: accepts exactly RFC 8259 texts of at most [`MAX_NESTING`] levels; never recurses, never allocates.
//! The caller has checked UTF-8 (the input is a `str`). As RFC 8259 has it, the grammar alone decides: numbers
//! of any size and escaped lone surrogates pass, as they do in `serde_json::value::RawValue`.

/// Deepest nesting of lists and objects: what `serde_json` reads back with its own limit.
pub(crate) const MAX_NESTING: u32 = 127;

/// What is wrong with a text, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Syntax {
    /// What was expected, or what must not be.
    pub(crate) what: &'static str,
    /// Byte offset in the text.
    pub(crate) at: usize,
}

/// A position in a JSON text.
#[derive(Clone, Debug)]
pub(crate) struct Scanner<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Scanner<'a> {
    /// Starts at the beginning of a text.
    pub(crate) fn new(text: &'a str) -> Self {
        Self { text, at: 0 }
    }

    /// Byte offset of the next byte.
    pub(crate) fn position(&self) -> usize {
        self.at
    }

    /// Goes back (or on) to a position that [`Self::position`] gave.
    pub(crate) fn seek(&mut self, position: usize) {
        self.at = position;
    }

    /// The text from a position that [`Self::position`] gave up to here.
    pub(crate) fn since(&self, start: usize) -> &'a str {
        &self.text[start..self.at]
    }

    /// Skips white space; the byte that follows it, not consumed.
    #[inline]
    pub(crate) fn peek(&mut self) -> Option<u8> {
        let bytes = self.text.as_bytes();
        loop {
            match bytes.get(self.at) {
                Some(b' ' | b'\n' | b'\r' | b'\t') => self.at += 1,
                other => return other.copied(),
            }
        }
    }

    /// Skips white space and consumes `byte`.
    #[inline]
    pub(crate) fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), Syntax> {
        if self.peek() == Some(byte) {
            self.at += 1;
            return Ok(());
        }
        Err(self.error(what))
    }

    /// Nothing but white space is left.
    pub(crate) fn finish(&mut self) -> Result<(), Syntax> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error("expected the end of the text")),
        }
    }

    pub(crate) fn error(&self, what: &'static str) -> Syntax {
        Syntax { what, at: self.at }
    }

    /// Calls `member` with each key of an object; it must consume the value. `level` counts the containers
    /// that are open around the object.
    pub(crate) fn object<E: From<Syntax>>(
        &mut self,
        level: u32,
        mut member: impl FnMut(&mut Self, &str) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'{', "expected an object")?;
        self.check_level(level + 1)?;
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(());
        }
        loop {
            if self.peek() != Some(b'"') {
                return Err(self.error("expected a key").into());
            }
            let start = self.at + 1;
            let escaped = self.skip_string()?;
            let raw = &self.text[start..self.at - 1];
            self.expect(b':', "expected `:`")?;
            // A key that is no Unicode text stays as it is written.
            match if escaped { unescape(raw) } else { None } {
                Some(key) => member(self, &key)?,
                None => member(self, raw)?,
            }
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return Err(self.error("expected `,` or `}`").into()),
            }
        }
        self.at += 1;
        Ok(())
    }

    /// Calls `element` for each element of a list; it must consume the element.
    pub(crate) fn list<E: From<Syntax>>(
        &mut self,
        level: u32,
        mut element: impl FnMut(&mut Self) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'[', "expected a list")?;
        self.check_level(level + 1)?;
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            element(self)?;
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return Err(self.error("expected `,` or `]`").into()),
            }
        }
        self.at += 1;
        Ok(())
    }

    /// Consumes any value and gives its text. `level` counts the containers that are open around it.
    pub(crate) fn value(&mut self, level: u32) -> Result<&'a str, Syntax> {
        self.peek();
        let start = self.at;
        self.skip_value(level)?;
        Ok(self.since(start))
    }

    /// Consumes any value.
    pub(crate) fn skip_value(&mut self, level: u32) -> Result<(), Syntax> {
        // One bit for each container open within this value, the innermost lowest; set for an object.
        let mut objects: u128 = 0;
        let mut depth = 0;
        loop {
            match self.peek() {
                Some(b'"') => {
                    self.skip_string()?;
                }
                Some(b'-' | b'0'..=b'9') => self.number()?,
                Some(open @ (b'{' | b'[')) => {
                    self.at += 1;
                    // `{` and `}`, `[` and `]` are two apart in ASCII.
                    if self.peek() == Some(open + 2) {
                        self.check_level(level + depth + 1)?;
                        self.at += 1;
                    } else {
                        depth += 1;
                        self.check_level(level + depth)?;
                        objects = objects << 1 | u128::from(open == b'{');
                        if open == b'{' {
                            self.skip_key()?;
                        }
                        continue;
                    }
                }
                Some(b't') => self.word("true")?,
                Some(b'f') => self.word("false")?,
                Some(b'n') => self.word("null")?,
                _ => return Err(self.error("expected a value")),
            }
            // A value has ended: close what ends with it, up to the next value.
            loop {
                if depth == 0 {
                    return Ok(());
                }
                let in_object = objects & 1 == 1;
                match self.peek() {
                    Some(b',') => {
                        self.at += 1;
                        if in_object {
                            self.skip_key()?;
                        }
                        break;
                    }
                    Some(b'}') if in_object => {}
                    Some(b']') if !in_object => {}
                    _ if in_object => return Err(self.error("expected `,` or `}`")),
                    _ => return Err(self.error("expected `,` or `]`")),
                }
                self.at += 1;
                objects >>= 1;
                depth -= 1;
            }
        }
    }

    /// Consumes a key and its colon.
    #[inline]
    fn skip_key(&mut self) -> Result<(), Syntax> {
        if self.peek() != Some(b'"') {
            return Err(self.error("expected a key"));
        }
        self.skip_string()?;
        self.expect(b':', "expected `:`")
    }

    /// Consumes a string, whose opening quote is next; the raw text between the quotes.
    pub(crate) fn string(&mut self) -> Result<&'a str, Syntax> {
        let start = self.at + 1;
        self.skip_string()?;
        Ok(&self.text[start..self.at - 1])
    }

    /// Consumes a string, whose opening quote is next; whether there was an escape in it.
    #[inline]
    fn skip_string(&mut self) -> Result<bool, Syntax> {
        let bytes = self.text.as_bytes();
        let mut escaped = false;
        self.at += 1;
        loop {
            self.at = find_special(bytes, self.at);
            match bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(escaped);
                }
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(_) => return Err(self.error("a control character must be escaped")),
                None => return Err(self.error("the string has no end")),
            }
        }
    }

    fn escape(&mut self) -> Result<(), Syntax> {
        let bytes = self.text.as_bytes();
        match bytes.get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.at += 2,
            Some(b'u') => match bytes.get(self.at + 2..self.at + 6) {
                Some(digits) if digits.iter().all(u8::is_ascii_hexdigit) => self.at += 6,
                _ => return Err(self.error("expected four hexadecimal digits")),
            },
            _ => return Err(self.error("unknown escape")),
        }
        Ok(())
    }

    fn number(&mut self) -> Result<(), Syntax> {
        let bytes = self.text.as_bytes();
        if bytes.get(self.at) == Some(&b'-') {
            self.at += 1;
        }
        if bytes.get(self.at) == Some(&b'0') {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if bytes.get(self.at) == Some(&b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = bytes.get(self.at) {
            self.at += 1;
            if let Some(b'+' | b'-') = bytes.get(self.at) {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Syntax> {
        let bytes = self.text.as_bytes();
        let start = self.at;
        while bytes.get(self.at).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
        }
        if self.at == start { Err(self.error("expected a digit")) } else { Ok(()) }
    }

    fn word(&mut self, word: &'static str) -> Result<(), Syntax> {
        if self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            self.at += word.len();
            return Ok(());
        }
        Err(self.error("expected a value"))
    }

    fn check_level(&self, level: u32) -> Result<(), Syntax> {
        if level > MAX_NESTING { Err(self.error("nested more than 127 levels deep")) } else { Ok(()) }
    }
}

const ONES: u64 = u64::MAX / 0xff;
const HIGHS: u64 = ONES << 7;

/// Index of the first byte from `at` on that a JSON string cannot hold as it is (quote, backslash, below 0x20),
/// or the length.
///
/// Eight bytes at a time, after "Determine if a word has a byte less than n" of Anderson's Bit Twiddling Hacks:
/// the lowest marked byte is exact, higher ones may be false.
#[inline]
pub(crate) fn find_special(bytes: &[u8], mut at: usize) -> usize {
    while let Some(chunk) = bytes.get(at..).and_then(|rest| rest.first_chunk::<8>()) {
        let word = u64::from_le_bytes(*chunk);
        let quote = word ^ (ONES * b'"' as u64);
        let backslash = word ^ (ONES * b'\\' as u64);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let marks =
            (control | (quote.wrapping_sub(ONES) & !quote) | (backslash.wrapping_sub(ONES) & !backslash))
                & HIGHS;
        if marks != 0 {
            return at + (marks.trailing_zeros() / 8) as usize;
        }
        at += 8;
    }
    while bytes.get(at).is_some_and(|byte| *byte >= 0x20 && *byte != b'"' && *byte != b'\\') {
        at += 1;
    }
    at
}

/// Undoes the escapes of the raw text of a string; `None` where an escaped surrogate has no partner.
pub(crate) fn unescape(raw: &str) -> Option<String> {
    let (text, whole) = unescape_lossy(raw);
    whole.then_some(text)
}

/// Undoes the escapes of the raw text of a string. A surrogate without a partner becomes U+FFFD; whether there
/// was none.
pub(crate) fn unescape_lossy(raw: &str) -> (String, bool) {
    let (mut out, mut whole) = (String::with_capacity(raw.len()), true);
    let mut rest = raw;
    while let Some((before, escape)) = rest.split_once('\\') {
        out.push_str(before);
        // The scanner has seen that something follows, in ASCII.
        let (kind, after) = escape.split_at_checked(1).unwrap_or_default();
        rest = after;
        match kind {
            "b" => out.push('\u{8}'),
            "f" => out.push('\u{c}'),
            "n" => out.push('\n'),
            "r" => out.push('\r'),
            "t" => out.push('\t'),
            "u" => {
                let (char, length) = code_point(rest);
                whole &= char.is_some();
                out.push(char.unwrap_or(char::REPLACEMENT_CHARACTER));
                rest = rest.get(length..).unwrap_or_default();
            }
            same => out.push_str(same),
        }
    }
    out.push_str(rest);
    (out, whole)
}

/// The character that is escaped as `\u` and these digits, a second escape included, and their length.
fn code_point(digits: &str) -> (Option<char>, usize) {
    let Some(code) = hex4(digits) else { return (None, 4) };
    let second = digits.get(4..).and_then(|rest| rest.strip_prefix("\\u")).and_then(hex4);
    match (code, second) {
        (0xd800..0xdc00, Some(low @ 0xdc00..0xe000)) => {
            (char::from_u32(0x1_0000 + ((code - 0xd800) << 10) + (low - 0xdc00)), 10)
        }
        _ => (char::from_u32(code), 4),
    }
}

fn hex4(text: &str) -> Option<u32> {
    u32::from_str_radix(text.get(..4)?, 16).ok()
}
