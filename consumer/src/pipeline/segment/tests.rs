use sluice_crds::v1alpha1::{Format, JsonPaths};

use super::*;
use crate::source::{Headers, NoHeaders};

fn append(segment: &mut Segment, offset: u64, payload: &[u8]) {
    append_with(segment, offset, payload, &NoHeaders);
}

fn append_with(segment: &mut Segment, offset: u64, payload: &[u8], headers: &dyn Headers) {
    let decoder = Decoder::new(Format::Json, &JsonPaths::default()).unwrap();
    let message = Message { offset, timestamp: None, key: Some(b"key"), payload: Some(payload), headers };
    segment.append(&decoder, &message);
}

/// One of this name and many bytes.
struct Header(usize);

impl Headers for Header {
    fn visit(&self, each: &mut dyn FnMut(&str, Option<&[u8]>)) {
        each("baggage", Some(&vec![b'x'; self.0]));
        each("empty", None);
    }
}

fn message_of(spans: usize) -> String {
    format!(r#"{{"spans":[{{"traceId":"good"}},{}]}}"#, vec!["{}"; spans].join(","))
}

#[test]
fn messages_that_cannot_be_decoded_fill_a_segment_like_others() {
    let (mut segment, garbage) = (Segment::default(), vec![b'x'; 100_000]);
    let mut offset = 0;
    while !segment.is_full(1_000) {
        append(&mut segment, offset, &garbage);
        offset += 1;
    }
    assert_eq!(offset, 11, "of 100 kB each");
    let (_, messages) = segment.cut(1_000);
    assert_eq!(messages, 10, "a batch holds no more than {SEGMENT_BYTES} bytes");
    segment.settle(10, 1 << 20);
    assert_eq!(segment.cut(1_000), (1, 1));
    segment.settle(1, 1 << 20);
    assert_eq!(segment.bytes(), 0);
    assert_eq!(segment.rejects.capacity(), 0);
}

#[test]
fn small_messages_behind_a_giant_are_not_written_with_it() {
    let mut segment = Segment::default();
    append(&mut segment, 0, br#"{"traceId":"a","spans":[{}]}"#);
    let body = "x".repeat(2 << 20);
    append(&mut segment, 1, format!(r#"{{"traceId":"b","spans":["{body}"]}}"#).as_bytes());
    append(&mut segment, 2, br#"{"traceId":"c","spans":[{}]}"#);
    for _ in 0..3 {
        assert_eq!(segment.cut(1_000), (1, 1));
        segment.settle(1, 1 << 20);
    }
    assert!(segment.is_empty());
    assert!(segment.spans.bytes() == 0 && segment.entries.capacity() <= (1 << 20) / size_of::<Entry>());
}

#[test]
fn the_index_of_a_span_counts_the_rejected_ones_before_it() {
    let mut segment = Segment::default();
    append(&mut segment, 0, br#"{"spans":[{"traceId":"first"}]}"#);
    append(&mut segment, 1, br#"{"spans":[{},{"traceId":"a"},{},{},{"traceId":"b"},{"traceId":"c"},{}]}"#);
    let rejected: Vec<_> = segment.rejects().iter().map(|reject| reject.span().unwrap().index).collect();
    assert_eq!(rejected, [0, 2, 3, 6]);
    let indices: Vec<_> = (0..4).map(|span| segment.entry_of_span(span).1).collect();
    assert_eq!(indices, [0, 1, 4, 5]);
}

#[test]
fn spans_that_would_repeat_too_much_of_their_message_are_one_letter_with_it() {
    let (mut segment, payload) = (Segment::default(), message_of(4_000));
    append(&mut segment, 0, br#"{"traceId":"a","spans":[{}]}"#);
    append_with(&mut segment, 1, payload.as_bytes(), &Header(100_000));
    assert_eq!((segment.spans().len(), segment.rejects().len()), (1, 1));
    let whole = &segment.rejects()[0];
    assert_eq!((whole.span(), whole.reason, &*whole.bytes), (None, Reason::Undecodable, payload.as_bytes()));
    assert!(
        whole.detail.starts_with("4000 of its spans") && whole.detail.contains("trace id"),
        "{}",
        whole.detail
    );
    // Many more take too much memory whatever is repeated.
    append(&mut segment, 3, message_of(200_000).as_bytes());
    assert_eq!((segment.spans().len(), segment.rejects().len()), (1, 2));
    assert_eq!(segment.rejects()[1].reason, Reason::TooLarge);
    // As many with small headers are letters of their own beside their neighbour.
    append_with(&mut segment, 4, payload.as_bytes(), &Header(100));
    assert_eq!((segment.spans().len(), segment.rejects().len()), (2, 4_002));
}

#[test]
fn what_letters_repeat_of_their_message_fills_a_segment() {
    let mut segment = Segment::default();
    append_with(&mut segment, 0, message_of(20).as_bytes(), &Header(100_000));
    assert!(segment.bytes() > 19 * 100_000 && segment.is_full(1_000), "{}", segment.bytes());
    append_with(&mut segment, 1, message_of(20).as_bytes(), &Header(100_000));
    assert_eq!(segment.cut(1_000), (21, 1), "one transaction each");
}

#[test]
fn key_and_headers_are_kept_as_they_came() {
    let mut segment = Segment::default();
    for (offset, length) in [(0, 0), (1, 3)] {
        append_with(&mut segment, offset, b"{", &Header(length));
    }
    for (entry, value) in segment.front(2).iter().zip([&b""[..], b"xxx"]) {
        assert_eq!(segment.key(entry), Some(&b"key"[..]));
        let mut found = Vec::new();
        segment
            .headers(entry)
            .visit(&mut |name, value| found.push((name.to_owned(), value.map(<[u8]>::to_vec))));
        assert_eq!(found, [("baggage".to_owned(), Some(value.to_vec())), ("empty".to_owned(), None)]);
    }
}
