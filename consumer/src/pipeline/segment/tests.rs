use sluice_crds::v1alpha1::{Format, JsonPaths};

use super::*;
use crate::source::Headers;

struct NoHeaders;

impl Headers for NoHeaders {
    fn visit(&self, _: &mut dyn FnMut(&str, Option<&[u8]>)) {}
}

fn append(segment: &mut Segment, offset: u64, payload: &[u8]) {
    let decoder = Decoder::new(Format::Json, &JsonPaths::default()).unwrap();
    let message = Message { offset, timestamp: None, key: None, payload: Some(payload), headers: &NoHeaders };
    segment.append(&decoder, &message);
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
