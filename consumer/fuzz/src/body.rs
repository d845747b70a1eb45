//! Bodies of requests: packed or not, in pieces of any size.

use std::convert::Infallible;
use std::io::Read;
use std::sync::LazyLock;

use axum::body::{Body, Bytes};
use axum::http::{HeaderMap, HeaderValue, header};
use flate2::read::GzDecoder;
use futures_util::stream;
use http_body_util::StreamBody;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Frame;
use sluice_consumer::local::body::{Bodies, MAX_BODY, MAX_UNPACKED};
use tokio::runtime::Runtime;

/// The first byte says how the rest is sent.
pub fn check(data: &[u8]) {
    static RUNTIME: LazyLock<Runtime> =
        LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
    let Some((how, sent)) = data.split_first() else { return };
    let packing = [None, Some("gzip"), Some("deflate"), Some("zstd")][usize::from(how & 3)];
    let (announced, piece) = (how & 4 == 4, 1 + usize::from(how >> 3));
    let mut headers = HeaderMap::new();
    if let Some(packing) = packing {
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static(packing));
    }
    if announced {
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(sent.len()));
    }
    let pieces: Vec<_> = sent.chunks(piece).map(Bytes::copy_from_slice).collect();
    let frames = pieces.into_iter().map(|piece| Ok::<_, Infallible>(Frame::data(piece)));
    let body = Body::new(UnsyncBoxBody::new(StreamBody::new(stream::iter(frames))));
    match RUNTIME.block_on(Bodies::default().receive(&headers, body)) {
        Ok(received) if packing.is_some() => {
            assert!(received.bytes.len() <= MAX_UNPACKED);
            if packing == Some("gzip") {
                // The first member is a beginning of the whole.
                let mut first = Vec::new();
                GzDecoder::new(sent).read_to_end(&mut first).unwrap();
                assert!(received.bytes.starts_with(&first));
            }
        }
        Ok(received) => assert_eq!(received.bytes, sent, "not what was sent"),
        Err(refusal) => {
            assert!(packing.is_some() || sent.len() > MAX_BODY, "a good body was refused: {refusal:?}");
            assert!([400, 413].contains(&refusal.status.as_u16()), "{refusal:?}");
            assert!(!refusal.reason.is_empty());
        }
    }
}
