//! Row ids: 63 bits, unique without coordination, ascending in time.
//!
//! ```text
//!  62            22 21        8 7       0
//! | milliseconds    | stream   | sequence |
//!  41 bits, since    14 bits    8 bits
//!  2024-01-01 UTC
//! ```
//!
//! Within a stream ids ascend strictly: the last one lies in the stream's progress row and moves with the
//! position. The sequence carries into the milliseconds, so a stream that gives out more than 256 ids in a
//! millisecond borrows from the next one instead of waiting. Time is the database's, so a replica with a wrong
//! clock does no harm.

/// 2024-01-01T00:00:00Z, in milliseconds since 1970.
pub const EPOCH_MS: i64 = 1_704_067_200_000;

/// How far the ids of a stream may be ahead of the clocks. A clock that was set back further was wrong before: ids that went
/// on from there would keep their rows from retention until that time has come.
pub const MOST_AHEAD_MS: i64 = 24 * 3_600_000;

/// How many bits tell the stream.
pub const STREAM_BITS: u32 = 14;
const SEQUENCE_BITS: u32 = 8;
const TIME_BITS: u32 = 41;
const TICK_MASK: i64 = (1 << (TIME_BITS + SEQUENCE_BITS)) - 1;

/// Ids of one stream in the order in which they are given out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IdSequence {
    stream: u16,
    /// Milliseconds and sequence as one number; the next id to give out.
    next: i64,
}

impl IdSequence {
    /// Goes on after `last_id` (0: none yet), not before `database_time_ms` (milliseconds since 1970).
    pub fn after(stream: u16, last_id: i64, database_time_ms: i64) -> Self {
        let now = (database_time_ms - EPOCH_MS).max(0) << SEQUENCE_BITS;
        let next = if last_id == 0 { now } else { now.max(tick(last_id) + 1) };
        Self { stream, next: next & TICK_MASK }
    }

    /// The next id.
    pub fn take(&mut self) -> i64 {
        let id = assemble(self.next, self.stream);
        self.next += 1;
        id
    }
}

/// The smallest id that can be given out at a time, in milliseconds since 1970: 0 before the epoch of ids, and the largest
/// number there is where they have ended.
pub fn first_at(database_time_ms: i64) -> i64 {
    let milliseconds = database_time_ms.saturating_sub(EPOCH_MS).max(0);
    milliseconds.saturating_mul(1 << (SEQUENCE_BITS + STREAM_BITS))
}

/// When an id was given out, in milliseconds since 1970, of the database's clock.
pub fn time_ms(id: i64) -> i64 {
    (tick(id) >> SEQUENCE_BITS) + EPOCH_MS
}

fn tick(id: i64) -> i64 {
    let milliseconds = id >> (SEQUENCE_BITS + STREAM_BITS);
    (milliseconds << SEQUENCE_BITS) | (id & ((1 << SEQUENCE_BITS) - 1))
}

fn assemble(tick: i64, stream: u16) -> i64 {
    let milliseconds = tick >> SEQUENCE_BITS;
    let sequence = tick & ((1 << SEQUENCE_BITS) - 1);
    (milliseconds << (SEQUENCE_BITS + STREAM_BITS)) | (i64::from(stream) << SEQUENCE_BITS) | sequence
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_795_240_800_000;

    #[test]
    fn ids_ascend_strictly_and_carry_into_the_milliseconds() {
        let mut ids = IdSequence::after(7, 0, NOW);
        let given: Vec<i64> = (0..1_000).map(|_| ids.take()).collect();
        assert!(given.is_sorted_by(|a, b| a < b));
        assert_eq!(time_ms(given[0]), NOW);
        assert_eq!(time_ms(given[999]), NOW + 3);
    }

    #[test]
    fn a_clock_that_goes_back_does_not_repeat_an_id() {
        let mut ids = IdSequence::after(7, 0, NOW);
        let last = (0..300).map(|_| ids.take()).last().unwrap();
        assert!(IdSequence::after(7, last, NOW - 3_600_000).take() > last);
    }

    #[test]
    fn streams_never_share_an_id() {
        let one: Vec<i64> = (0..600).scan(IdSequence::after(1, 0, NOW), |ids, _| Some(ids.take())).collect();
        let mut two = IdSequence::after(2, 0, NOW);
        assert!((0..600).all(|_| !one.contains(&two.take())));
    }

    #[test]
    fn the_first_id_of_a_time_parts_what_was_before_from_what_was_not() {
        let largest = (1 << STREAM_BITS) - 1;
        let before = (0..256).scan(IdSequence::after(largest, 0, NOW - 1), |ids, _| Some(ids.take())).last();
        assert!(before.unwrap() < first_at(NOW));
        assert!(IdSequence::after(0, 0, NOW).take() >= first_at(NOW));
        assert_eq!((first_at(EPOCH_MS - 1), time_ms(first_at(NOW))), (0, NOW));
        assert_eq!((first_at(i64::MIN), first_at(i64::MAX)), (0, i64::MAX));
    }

    #[test]
    fn the_largest_stream_and_the_last_millisecond_stay_positive() {
        let mut ids = IdSequence::after((1 << STREAM_BITS) - 1, 0, EPOCH_MS + (1 << TIME_BITS) - 1);
        assert!(ids.take() > 0);
    }
}
