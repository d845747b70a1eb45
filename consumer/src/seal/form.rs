//! What something sealed looks like.
//!
//! Twelve bytes of header, the ciphertext, sixteen bytes of tag. The header is the number of the data key (4 bytes), that of
//! the dictionary (2, of which the highest bit tells whether the trace id was left out, see [`leave_out`]) and the nonce
//! (6), all big endian. A sealed body is text: `s1:` and the whole in base64 without
//! padding (RFC 4648, section 4). No JSON text begins with an `s`, so that sealed and plain bodies differ at their first
//! byte.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD as BASE64;

use zeroize::Zeroizing;

use super::error::SealError;

/// What a sealed body begins with; the number is that of this format.
pub const PREFIX: &str = "s1:";
/// Bytes of a [`Header`].
pub const HEADER_BYTES: usize = 12;
/// Bytes of AES-GCM's tag.
pub const TAG_BYTES: usize = 16;
/// [`Header::dictionary`] of what was compressed without one.
pub const NO_DICTIONARY: u16 = 0;
/// [`Header::dictionary`] of what was not compressed.
pub const NOT_COMPRESSED: u16 = LEFT_OUT - 1;
/// Bit of the dictionary's number.
const LEFT_OUT: u16 = 1 << 15;
/// What stands for the trace id where it was left out. No JSON text has this byte (RFC 8259, section 7).
const TRACE_ID: u8 = 0;
/// Shorter trace ids are worth no search.
const SHORTEST_LEFT_OUT: usize = 4;

/// What is needed to open, besides the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Number of the data key.
    pub key: u32,
    /// Number of the dictionary, [`NO_DICTIONARY`] or [`NOT_COMPRESSED`].
    pub dictionary: u16,
    /// Whether a byte stands for the trace id.
    pub left_out: bool,
    /// Counts what the data key has sealed; below 2^48.
    pub nonce: u64,
}

impl Header {
    /// As it is written.
    pub fn to_bytes(self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[..4].copy_from_slice(&self.key.to_be_bytes());
        let flag = if self.left_out { LEFT_OUT } else { 0 };
        bytes[4..6].copy_from_slice(&(self.dictionary | flag).to_be_bytes());
        bytes[6..].copy_from_slice(&self.nonce.to_be_bytes()[2..]);
        bytes
    }

    /// Header and the rest (ciphertext and tag).
    ///
    /// # Errors
    /// [`SealError::Malformed`] where there is not even room for them.
    pub fn split(sealed: &[u8]) -> Result<(Self, &[u8]), SealError> {
        let (header, rest) = sealed.split_first_chunk::<HEADER_BYTES>().ok_or(SealError::Malformed)?;
        if rest.len() < TAG_BYTES {
            return Err(SealError::Malformed);
        }
        let [k0, k1, k2, k3, d0, d1, n0, n1, n2, n3, n4, n5] = *header;
        let dictionary = u16::from_be_bytes([d0, d1]);
        let header = Self {
            key: u32::from_be_bytes([k0, k1, k2, k3]),
            dictionary: dictionary & !LEFT_OUT,
            left_out: dictionary & LEFT_OUT != 0,
            nonce: u64::from_be_bytes([0, 0, n0, n1, n2, n3, n4, n5]),
        };
        Ok((header, rest))
    }
}

/// What is compressed and sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Content<'c> {
    /// Its bytes.
    pub bytes: &'c [u8],
    /// See [`Header::left_out`].
    pub left_out: bool,
}

impl<'c> Content<'c> {
    /// Everything.
    pub fn whole(bytes: &'c [u8]) -> Self {
        Self { bytes, left_out: false }
    }
}

/// A body in which one byte stands for the first trace id, if it has one: the row keeps it anyway, it is
/// authenticated, and random digits are what compresses worst. `room` is written over.
pub fn leave_out<'c>(trace_id: &str, body: &'c str, room: &'c mut Zeroizing<Vec<u8>>) -> Content<'c> {
    if trace_id.len() < SHORTEST_LEFT_OUT || body.as_bytes().contains(&TRACE_ID) {
        return Content::whole(body.as_bytes());
    }
    let Some((before, after)) = body.split_once(trace_id) else { return Content::whole(body.as_bytes()) };
    room.clear();
    room.extend_from_slice(before.as_bytes());
    room.push(TRACE_ID);
    room.extend_from_slice(after.as_bytes());
    Content { bytes: room, left_out: true }
}

/// The body that [`leave_out`] was given.
pub fn put_back(trace_id: &str, content: &[u8]) -> Zeroizing<Vec<u8>> {
    let at = content.iter().position(|byte| *byte == TRACE_ID).unwrap_or(content.len());
    let (before, after) = content.split_at(at);
    Zeroizing::new([before, trace_id.as_bytes(), after.get(1..).unwrap_or_default()].concat())
}

/// Appends a body's text.
pub fn push_text(sealed: &[u8], text: &mut String) {
    text.push_str(PREFIX);
    BASE64.encode_string(sealed, text);
}

/// The bytes of a sealed body; none where it is a plain one.
///
/// # Errors
/// [`SealError::Malformed`] where it only begins like one.
pub fn from_text(body: &str) -> Result<Option<Vec<u8>>, SealError> {
    let Some(text) = body.strip_prefix(PREFIX) else { return Ok(None) };
    BASE64.decode(text).map(Some).map_err(|_| SealError::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_is_read_as_it_was_written() {
        let header =
            Header { key: 0x0102_0304, dictionary: 0x0506, left_out: false, nonce: 0x0708_090a_0b0c };
        let mut sealed = header.to_bytes().to_vec();
        assert_eq!(sealed, (1..=12).collect::<Vec<u8>>());
        sealed.extend([0; TAG_BYTES]);
        assert_eq!(Header::split(&sealed).unwrap(), (header, &[0; TAG_BYTES][..]));
        assert!(matches!(Header::split(&sealed[..27]), Err(SealError::Malformed)));
        let shorter = Header { left_out: true, ..header };
        sealed[..HEADER_BYTES].copy_from_slice(&shorter.to_bytes());
        assert_eq!((sealed[4], Header::split(&sealed).unwrap().0), (0x85, shorter));
    }

    #[test]
    fn the_first_trace_id_is_left_out_and_put_back() {
        let body = r#"{"traceId":"4bf92f35","parent":"4bf92f35"}"#;
        let mut room = Zeroizing::default();
        let short = leave_out("4bf92f35", body, &mut room);
        assert!(short.left_out);
        assert_eq!(short.bytes, b"{\"traceId\":\"\0\",\"parent\":\"4bf92f35\"}");
        assert_eq!(*put_back("4bf92f35", short.bytes), body.as_bytes());
        for (trace_id, body) in [("4bf9", "{}"), ("", "{}"), ("{}", "{}"), ("4bf9", "\u{0}4bf9")] {
            let mut room = Zeroizing::default();
            assert_eq!(leave_out(trace_id, body, &mut room), Content::whole(body.as_bytes()), "{trace_id:?}");
        }
    }

    #[test]
    fn plain_bodies_are_told_from_sealed_ones() {
        for plain in ["{}", "[1]", "\"s1:\"", "null", "", " s1:"] {
            assert_eq!(from_text(plain).unwrap(), None, "{plain}");
        }
        let mut text = String::new();
        push_text(b"\xff\xfe", &mut text);
        assert_eq!(text, "s1://4");
        assert_eq!(from_text(&text).unwrap().as_deref(), Some(&b"\xff\xfe"[..]));
        assert!(matches!(from_text("s1:not base64"), Err(SealError::Malformed)));
    }
}
