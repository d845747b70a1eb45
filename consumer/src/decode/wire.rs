//! The protobuf wire format, read without building messages.
//!
//! Source: "Encoding" in the Protocol Buffers documentation. Guarantees: borrows everything, allocates nothing,
//! never recurses. Groups are refused: none of the formats read here has ever had one.

/// What is wrong with a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct WireError(pub(super) &'static str);

/// The value of one field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Value<'a> {
    /// An integer, a boolean or an enum.
    pub(super) fn varint(self) -> Result<u64, WireError> {
        match self {
            Self::Varint(value) => Ok(value),
            _ => Err(WireError("a field that must be a varint has another wire type")),
        }
    }

    pub(super) fn fixed64(self) -> Result<u64, WireError> {
        match self {
            Self::Fixed64(value) => Ok(value),
            _ => Err(WireError("a field that must be a fixed64 has another wire type")),
        }
    }

    pub(super) fn fixed32(self) -> Result<u32, WireError> {
        match self {
            Self::Fixed32(value) => Ok(value),
            _ => Err(WireError("a field that must be a fixed32 has another wire type")),
        }
    }

    /// Bytes, or a message within.
    pub(super) fn bytes(self) -> Result<&'a [u8], WireError> {
        match self {
            Self::Bytes(value) => Ok(value),
            _ => Err(WireError("a field that must have a length has another wire type")),
        }
    }

    /// An id of at most so many bytes: what is longer is something else in another format's message.
    pub(super) fn id(self, longest: usize) -> Result<&'a [u8], WireError> {
        let id = self.bytes()?;
        if id.len() > longest {
            return Err(WireError("an id is longer than the format's ids are"));
        }
        Ok(id)
    }

    pub(super) fn text(self) -> Result<&'a str, WireError> {
        text(self.bytes()?)
    }
}

/// A string, which must be UTF-8.
pub(super) fn text(bytes: &[u8]) -> Result<&str, WireError> {
    std::str::from_utf8(bytes).map_err(|_| WireError("a string is not UTF-8"))
}

/// The fields of one message, in the order in which they were written.
#[derive(Clone, Debug)]
pub(super) struct Fields<'a> {
    rest: &'a [u8],
    /// How long `rest` was before the last field.
    before: usize,
}

impl<'a> Fields<'a> {
    pub(super) fn new(message: &'a [u8]) -> Self {
        Self { rest: message, before: message.len() }
    }

    /// Has a stretch reach to the field that was read last.
    #[inline]
    pub(super) fn note(&self, stretch: &mut Stretch) {
        if stretch.from == 0 {
            stretch.from = self.before;
        }
        stretch.to = self.rest.len();
    }

    #[inline]
    fn varint(&mut self) -> Result<u64, WireError> {
        if let [byte @ 0..0x80, rest @ ..] = self.rest {
            self.rest = rest;
            return Ok(u64::from(*byte));
        }
        self.long_varint()
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0;
        for (index, byte) in self.rest.iter().enumerate().take(10) {
            // The tenth byte has room for one bit.
            if index == 9 && *byte > 1 {
                break;
            }
            value |= u64::from(byte & 0x7f) << (7 * index);
            if *byte < 0x80 {
                self.rest = &self.rest[index + 1..];
                return Ok(value);
            }
        }
        Err(WireError("a varint has no end or is longer than 64 bits"))
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], WireError> {
        let (taken, rest) = self.rest.split_first_chunk::<N>().ok_or(WireError("the message ends early"))?;
        self.rest = rest;
        Ok(*taken)
    }

    // Measured: a call, with its answer through memory, takes a tenth of decoding.
    #[inline(always)]
    fn field(&mut self) -> Result<(u32, Value<'a>), WireError> {
        let tag = u32::try_from(self.varint()?).map_err(|_| WireError("a field number is too large"))?;
        let value = match tag & 7 {
            0 => Value::Varint(self.varint()?),
            1 => Value::Fixed64(u64::from_le_bytes(self.take()?)),
            2 => {
                let length = usize::try_from(self.varint()?).unwrap_or(usize::MAX);
                let (bytes, rest) =
                    self.rest.split_at_checked(length).ok_or(WireError("the message ends early"))?;
                self.rest = rest;
                Value::Bytes(bytes)
            }
            5 => Value::Fixed32(u32::from_le_bytes(self.take()?)),
            _ => return Err(WireError("unknown wire type")),
        };
        match tag >> 3 {
            0 => Err(WireError("field number 0")),
            number => Ok((number, value)),
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Result<(u32, Value<'a>), WireError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() {
            return None;
        }
        self.before = self.rest.len();
        let field = self.field();
        if field.is_err() {
            self.rest = &[];
        }
        Some(field)
    }
}

/// The part of a message that a repeated field takes, from its first to its last occurrence: what there is to read of it
/// again once the message was read. Encoders write a field's elements one after the other, so that is little else.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stretch {
    /// Both counted from the message's end. 0, which no field begins at, stands for a field that does not occur.
    from: usize,
    to: usize,
}

impl Stretch {
    pub(super) fn is_empty(self) -> bool {
        self.from == 0
    }

    /// The messages of the field with this number, which the stretch is of.
    pub(super) fn elements(
        self,
        message: &[u8],
        number: u32,
    ) -> impl Iterator<Item = Result<&[u8], WireError>> {
        repeated(&message[message.len() - self.from..message.len() - self.to], number)
    }
}

/// The messages of one repeated field.
pub(super) fn repeated(message: &[u8], number: u32) -> impl Iterator<Item = Result<&[u8], WireError>> {
    Fields::new(message).filter_map(move |field| match field {
        Ok((found, value)) if found == number => Some(value.bytes()),
        Ok(_) => None,
        Err(error) => Some(Err(error)),
    })
}

/// A message within another. Where it occurs more than once, its parts are merged, which by definition equals
/// reading them one after the other.
#[derive(Clone, Debug, Default)]
pub(super) enum Embedded<'a> {
    #[default]
    Absent,
    Once(&'a [u8]),
    Merged(Vec<u8>),
}

impl<'a> Embedded<'a> {
    pub(super) fn merge(&mut self, bytes: &'a [u8]) {
        match self {
            Self::Absent => *self = Self::Once(bytes),
            Self::Once(first) => *self = Self::Merged([first, bytes].concat()),
            Self::Merged(all) => all.extend_from_slice(bytes),
        }
    }

    pub(super) fn get(&self) -> Option<&[u8]> {
        match self {
            Self::Absent => None,
            Self::Once(bytes) => Some(bytes),
            Self::Merged(bytes) => Some(bytes),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn elements_are_found_again_also_where_other_fields_lie_between_them() {
        // Tags: number << 3 | 2. Fields 9, 11, 9, 5.
        let message = b"\x4a\x01a\x5a\x01x\x4a\x01b\x2a\x01n";
        let (mut nines, mut elevens, mut thirteens) = Default::default();
        let mut fields = Fields::new(message);
        while let Some(field) = fields.next() {
            match field.unwrap() {
                (9, _) => fields.note(&mut nines),
                (11, _) => fields.note(&mut elevens),
                (13, _) => fields.note(&mut thirteens),
                _ => {}
            }
        }
        let elements = |stretch: Stretch, number| {
            stretch.elements(message, number).collect::<Result<Vec<_>, _>>().unwrap()
        };
        assert_eq!(elements(nines, 9), [b"a", b"b"]);
        assert_eq!(elements(elevens, 11), [b"x"]);
        assert!(thirteens.is_empty() && elements(thirteens, 13).is_empty());
    }
}
