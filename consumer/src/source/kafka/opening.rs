//! One opening of a partition.
//!
//! librdkafka has one queue a partition, whoever opened it. A reader of an earlier opening would take messages
//! away from the next one, so it may only look into the queue while its own opening lasts.

use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use tokio::sync::Notify;

use crate::lock::lock;
use crate::source::ReadEnd;

/// Shared by a reader and by who ends it.
pub struct Opening {
    state: Mutex<State>,
    /// Offset behind the last message that was read.
    pub read_to: AtomicU64,
    /// Notified when the queue was empty and is not any more, and when the opening has ended.
    pub arrived: Notify,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Reading,
    /// Whether it is still the same topic must be found out.
    Doubtful,
    Ended,
}

impl Opening {
    /// Of a reader that begins at an offset.
    pub fn at(offset: u64) -> Self {
        Self { state: Mutex::default(), read_to: AtomicU64::new(offset), arrived: Notify::new() }
    }

    /// The reader gives nothing more. Returns when no poll of it is under way.
    pub fn end(&self) {
        *lock(&self.state) = State::Ended;
        self.arrived.notify_one();
    }

    /// The reader asks to be opened again.
    pub fn doubt(&self) {
        {
            let mut state = lock(&self.state);
            if *state == State::Reading {
                *state = State::Doubtful;
            }
        }
        self.arrived.notify_one();
    }

    /// Runs `poll` while the opening lasts and cannot end.
    ///
    /// # Errors
    /// What reading ends with where it does not last.
    pub fn poll<T>(&self, poll: impl FnOnce() -> T) -> Result<T, ReadEnd> {
        let state = lock(&self.state);
        match *state {
            State::Reading => Ok(poll()),
            State::Doubtful => Err(ReadEnd::Reopen),
            State::Ended => Err(ReadEnd::Drained),
        }
    }

    #[cfg(test)]
    pub fn is_doubtful(&self) -> bool {
        *lock(&self.state) == State::Doubtful
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_opening_that_has_ended_never_looks_into_the_queue_again() {
        let opening = Opening::at(0);
        assert_eq!(opening.poll(|| 1), Ok(1));
        opening.doubt();
        assert_eq!(opening.poll(|| 1), Err(ReadEnd::Reopen));
        opening.end();
        opening.doubt();
        assert_eq!(opening.poll(|| 1), Err(ReadEnd::Drained));
    }
}
