//! Headers of a message whose names may be any bytes.
//!
//! Kafka's protocol says that a header's name is a UTF-8 string, and no broker checks it. The `rdkafka` crate
//! unwraps the conversion (`BorrowedHeaders::try_get`), so one message of a careless producer would end the
//! process again and again. The panic is caught a header at a time: the crate has only read when it panics, so
//! nothing is left half-done. Reading the name through `rdkafka-sys` instead would need `unsafe` code that leans on
//! how the crate lays out its types.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use crate::source::Headers;

/// Stands for the name of a header that cannot be read; its value cannot be had, either.
pub const UNREADABLE: &str = "\u{fffd}";

/// A message's headers.
pub struct KafkaHeaders<'a, H>(pub &'a H);

impl<H: rdkafka::message::Headers + Sync> Headers for KafkaHeaders<'_, H> {
    fn visit(&self, each: &mut dyn FnMut(&str, Option<&[u8]>)) {
        for index in 0..self.0.count() {
            match quietly(|| self.0.try_get(index)) {
                Some(Some(header)) => each(header.key, header.value),
                Some(None) => {}
                None => each(UNREADABLE, None),
            }
        }
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// What `read` gives, or none if it panics; then nothing is written about it, as a topic may be full of such
/// messages.
fn quietly<T>(read: impl FnOnce() -> T) -> Option<T> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |panic| {
            if !QUIET.get() {
                before(panic);
            }
        }));
    });
    QUIET.set(true);
    let outcome = catch_unwind(AssertUnwindSafe(read));
    QUIET.set(false);
    outcome.ok()
}

#[cfg(test)]
mod tests {
    use rdkafka::message::Header;

    use super::*;

    /// The crate's headers with one whose name is not UTF-8.
    struct Careless;

    impl rdkafka::message::Headers for Careless {
        fn count(&self) -> usize {
            3
        }

        fn try_get(&self, index: usize) -> Option<Header<'_, &[u8]>> {
            let names: [&[u8]; 3] = [b"first", b"caf\xe9", b"last"];
            let key = std::str::from_utf8(names[index]).unwrap();
            Some(Header { key, value: Some(b"value") })
        }
    }

    #[test]
    fn a_name_that_is_not_utf_8_costs_that_header_only() {
        let mut found = Vec::new();
        KafkaHeaders(&Careless)
            .visit(&mut |name, value| found.push((name.to_owned(), value.map(<[u8]>::to_vec))));
        let value = Some(b"value".to_vec());
        let expected =
            [("first".to_owned(), value.clone()), (UNREADABLE.to_owned(), None), ("last".to_owned(), value)];
        assert_eq!(found, expected);
    }
}
