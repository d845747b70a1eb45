//! A producer without a client library: it sends what those refuse to build.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use anyhow::ensure;

/// Sends one message to partition 0 of a topic that the broker leads; the header's name may be any bytes.
pub fn send(
    broker: &str,
    topic: &str,
    key: &[u8],
    value: &[u8],
    header: (&[u8], &[u8]),
) -> anyhow::Result<()> {
    let batch = record_batch(&record(key, value, header));
    // Produce, version 3, correlation 1, no client id; no transaction, acks by the leader, 10 s.
    let mut request = Vec::new();
    request.extend([0, 0, 0, 3, 0, 0, 0, 1, 0xff, 0xff]);
    request.extend([0xff, 0xff, 0, 1]);
    request.extend(10_000i32.to_be_bytes());
    request.extend(1i32.to_be_bytes());
    request.extend((topic.len() as i16).to_be_bytes());
    request.extend(topic.as_bytes());
    request.extend(1i32.to_be_bytes());
    request.extend(0i32.to_be_bytes());
    request.extend((batch.len() as i32).to_be_bytes());
    request.extend(batch);
    let mut stream = TcpStream::connect(broker)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(&(request.len() as i32).to_be_bytes())?;
    stream.write_all(&request)?;
    let mut length = [0; 4];
    stream.read_exact(&mut length)?;
    let mut response = vec![0; i32::from_be_bytes(length) as usize];
    stream.read_exact(&mut response)?;
    // Behind correlation, one topic, its name, one partition, its number.
    let code = response.get(4 + 4 + 2 + topic.len() + 4 + 4..).unwrap_or_default();
    ensure!(code.starts_with(&[0, 0]), "the broker answered {response:?}");
    Ok(())
}

/// Format: <https://kafka.apache.org/documentation/#record>
fn record(key: &[u8], value: &[u8], (name, content): (&[u8], &[u8])) -> Vec<u8> {
    let mut body = vec![0, 0, 0];
    for part in [key, value] {
        varint(&mut body, part.len());
        body.extend(part);
    }
    varint(&mut body, 1);
    for part in [name, content] {
        varint(&mut body, part.len());
        body.extend(part);
    }
    let mut record = Vec::new();
    varint(&mut record, body.len());
    record.extend(body);
    record
}

/// Format: <https://kafka.apache.org/documentation/#recordbatch>
fn record_batch(record: &[u8]) -> Vec<u8> {
    let mut checked = vec![0; 6];
    checked.extend([1_700_000_000_000i64.to_be_bytes(); 2].concat());
    // No producer id, epoch or sequence.
    checked.extend([0xff; 14]);
    checked.extend(1i32.to_be_bytes());
    checked.extend(record);
    let mut batch = vec![0; 8];
    batch.extend((checked.len() as i32 + 9).to_be_bytes());
    batch.extend([0xff, 0xff, 0xff, 0xff, 2]);
    batch.extend(crc32c(&checked).to_be_bytes());
    batch.extend(checked);
    batch
}

/// A length, zigzag-encoded.
fn varint(bytes: &mut Vec<u8>, length: usize) {
    let mut left = length << 1;
    while left > 0x7f {
        bytes.push(left as u8 | 0x80);
        left >>= 7;
    }
    bytes.push(left as u8);
}

/// RFC 3720, appendix B.4.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| (crc >> 1) ^ (0x82f6_3b78 * (crc & 1)))
    })
}
