//! Bodies made smaller, with a trained dictionary where there is one.
//!
//! Format: a zstd frame (RFC 8878) with its content's size, without checksum and dictionary id, and without the four
//! bytes of its magic number, which always are the same. What does not get smaller stays as it is.

use std::io;

use zeroize::Zeroizing;
use zstd::bulk::{Compressor, Decompressor};
use zstd::dict::{DecoderDictionary, EncoderDictionary};
use zstd::zstd_safe::{self, CParameter};

use super::error::SealError;

/// Level of compression. Of 520-byte bodies with a dictionary, higher levels gain less than they cost.
const LEVEL: i32 = 1;
/// What every frame begins with.
const MAGIC: [u8; 4] = 0xFD2F_B528_u32.to_le_bytes();
/// Most bytes that are inflated: more than any database takes in one column.
const MOST_BYTES: u64 = 1 << 32;

/// A dictionary, prepared for both ways.
pub struct Dictionary {
    /// Its number within the table.
    pub id: u16,
    /// Its bytes.
    pub bytes: Zeroizing<Vec<u8>>,
    encoder: EncoderDictionary<'static>,
    decoder: DecoderDictionary<'static>,
}

impl Dictionary {
    /// Prepares a dictionary.
    pub fn new(id: u16, bytes: Zeroizing<Vec<u8>>) -> Self {
        let encoder = EncoderDictionary::copy(&bytes, LEVEL);
        let decoder = DecoderDictionary::copy(&bytes);
        Self { id, bytes, encoder, decoder }
    }
}

/// Makes bodies smaller, one after the other.
pub struct Shrinker<'d> {
    compressor: Compressor<'d>,
    frame: Zeroizing<Vec<u8>>,
}

impl<'d> Shrinker<'d> {
    /// With a dictionary or without.
    ///
    /// # Errors
    /// zstd fails.
    pub fn new(dictionary: Option<&'d Dictionary>) -> Result<Self, SealError> {
        let prepare = || -> io::Result<Compressor<'d>> {
            let mut compressor = match dictionary {
                Some(dictionary) => Compressor::with_prepared_dictionary(&dictionary.encoder)?,
                None => Compressor::new(LEVEL)?,
            };
            compressor.set_parameter(CParameter::ChecksumFlag(false))?;
            compressor.set_parameter(CParameter::DictIdFlag(false))?;
            Ok(compressor)
        };
        let compressor = prepare().map_err(|source| failed("prepare the compression", source))?;
        Ok(Self { compressor, frame: Zeroizing::default() })
    }

    /// Appends what is smaller than `body`, or nothing and false.
    ///
    /// # Errors
    /// zstd fails.
    pub fn shrink(&mut self, body: &[u8], to: &mut Vec<u8>) -> Result<bool, SealError> {
        self.frame.clear();
        self.frame.reserve(zstd_safe::compress_bound(body.len()));
        self.compressor
            .compress_to_buffer(body, &mut *self.frame)
            .map_err(|source| failed("compress a body", source))?;
        match self.frame.strip_prefix(&MAGIC) {
            Some(rest) if rest.len() < body.len() => {
                to.extend_from_slice(rest);
                Ok(true)
            }
            _ => Ok(false),
        }
    }
}

/// What was shrunk.
///
/// # Errors
/// It is no frame.
pub fn inflate(shrunk: &[u8], dictionary: Option<&Dictionary>) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let frame = Zeroizing::new([&MAGIC[..], shrunk].concat());
    let size = match zstd_safe::get_frame_content_size(&frame) {
        Ok(Some(size)) if size <= MOST_BYTES => size as usize,
        _ => return Err(SealError::Malformed),
    };
    let mut content = Zeroizing::new(Vec::with_capacity(size));
    let inflated = match dictionary {
        Some(dictionary) => Decompressor::with_prepared_dictionary(&dictionary.decoder),
        None => Decompressor::new(),
    }
    .and_then(|mut decompressor| decompressor.decompress_to_buffer(&frame, &mut *content));
    inflated.map_err(|source| failed("inflate a body", source))?;
    Ok(content)
}

/// A dictionary of at most `bytes` bytes, trained on samples.
///
/// # Errors
/// There are too few samples, or they have nothing in common.
pub fn train(samples: &[Zeroizing<Vec<u8>>], bytes: usize) -> Result<Zeroizing<Vec<u8>>, SealError> {
    let sizes: Vec<usize> = samples.iter().map(|sample| sample.len()).collect();
    let mut all = Zeroizing::new(Vec::with_capacity(sizes.iter().sum()));
    for sample in samples {
        all.extend_from_slice(sample);
    }
    zstd::dict::from_continuous(&all, &sizes, bytes)
        .map(Zeroizing::new)
        .map_err(|source| failed("train a dictionary", source))
}

fn failed(doing: &'static str, source: io::Error) -> SealError {
    SealError::Compression { doing, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(number: usize) -> Vec<u8> {
        format!(
            r#"{{"traceId":"{number:032x}","name":"GET /cart","kind":"SERVER","tags":{{"http.method":"GET","user":"{}"}}}}"#,
            number * 7919
        )
        .into_bytes()
    }

    fn shrunk(body: &[u8], dictionary: Option<&Dictionary>) -> Option<Vec<u8>> {
        let mut to = Vec::new();
        Shrinker::new(dictionary).unwrap().shrink(body, &mut to).unwrap().then_some(to)
    }

    #[test]
    fn bodies_come_back_with_and_without_a_dictionary() {
        let samples: Vec<_> = (0..2_000).map(|number| Zeroizing::new(body(number))).collect();
        let dictionary = Dictionary::new(1, train(&samples, 4096).unwrap());
        let one = body(5_000);
        let with = shrunk(&one, Some(&dictionary)).unwrap();
        assert_eq!(*inflate(&with, Some(&dictionary)).unwrap(), one);
        assert!(with.len() * 2 < one.len(), "{} of {}", with.len(), one.len());
        let repeated = one.repeat(3);
        let without = shrunk(&repeated, None).unwrap();
        assert_eq!(*inflate(&without, None).unwrap(), repeated);
    }

    #[test]
    fn what_does_not_get_smaller_stays_as_it_is() {
        assert_eq!(shrunk(b"", None), None);
        assert_eq!(shrunk(b"{}", None), None);
        let noise: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(1_000).collect();
        assert_eq!(shrunk(&noise, None), None);
    }

    #[test]
    fn something_else_is_refused() {
        assert!(inflate(b"", None).is_err());
        assert!(inflate(b"no frame", None).is_err());
    }
}
