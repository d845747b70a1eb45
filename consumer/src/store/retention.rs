//! What retention asks of a store: one step along the old end of the trace table.
//!
//! Guarantee: a row is removed only where its id *and* its `created_at` both say that it is older. Ids of Sluice carry
//! their time, so the step is a short range of the primary key, and new rows are never in it. An id is a
//! little older than its row's `created_at`; the step ends so far before that no row of Sluice is passed by while it is
//! too young. Rows of an adopted table may have ids of another origin: a small id says nothing, so its `created_at`
//! decides; a large one keeps its row. A row without a `created_at` is kept.

use std::time::Duration;

use crate::store::id;

/// `created_at` may be cut to whole seconds, which makes a row look older.
const SECOND_MS: i64 = 1_000;
/// How far a local time lies behind UTC at most (UTC-12): where `created_at` has no zone, who wrote it may have meant
/// his own.
const WEST_MS: i64 = 12 * 3_600_000;

/// How much later than its id a row is created at most, unless its transaction takes longer than one should. A row that is
/// passed by while it is too young waits until the sweep begins again.
const LATE_MS: i64 = 10_000;

/// One step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sweep {
    /// Only ids above this one; at least 0.
    pub after: i64,
    /// Rows from before this time are old: milliseconds since 1970, by the database's clock.
    pub before_ms: i64,
    /// Most rows to look at; at least 1.
    pub rows: u32,
}

impl Sweep {
    /// Only ids below this one are looked at: their rows, if they are Sluice's, are old by `created_at`, too.
    pub(super) fn before_id(&self, tells_zone: bool) -> i64 {
        id::first_at(self.created_before_ms(tells_zone).saturating_sub(LATE_MS))
    }

    /// Only rows whose `created_at` lies before this time are old, where the column tells an instant, or a local time
    /// of nobody knows where.
    pub(super) fn created_before_ms(&self, tells_zone: bool) -> i64 {
        let uncertain = SECOND_MS + if tells_zone { 0 } else { WEST_MS };
        self.before_ms.saturating_sub(uncertain)
    }
}

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Swept {
    /// Rows removed.
    pub removed: u64,
    /// The last row that was looked at; none where the end was reached.
    pub reached: Option<Reached>,
    /// How long the database was at work, without waiting for a connection or, as far as that can be told, for answers to
    /// travel; see [`work`].
    pub took: Duration,
}

/// The database's work on a step whose two answers, to the look for its last row and to the removal, took `answers`, where an
/// answer to nothing took `trip`: otherwise a server far away would look like a slow one. The look is work, too; on
/// PostgreSQL it takes as long as the removal.
pub fn work(trip: Duration, answers: Duration) -> Duration {
    answers.saturating_sub(trip * 2).max(Duration::from_millis(1))
}

/// Where a step ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Its id: the next step begins after it.
    pub id: i64,
    /// Its `created_at`, milliseconds since 1970; none where it has none.
    pub created_at_ms: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_column_does_not_tell_keeps_rows_longer() {
        let sweep = Sweep { after: 0, before_ms: 1_795_240_800_000, rows: 1 };
        assert_eq!(sweep.created_before_ms(true), 1_795_240_799_000);
        assert_eq!(sweep.created_before_ms(false), 1_795_240_799_000 - 43_200_000);
        for tells_zone in [true, false] {
            let last_looked_at = id::time_ms(sweep.before_id(tells_zone) - 1);
            let late = sweep.created_before_ms(tells_zone) - last_looked_at;
            assert!((LATE_MS..=LATE_MS + 1).contains(&late), "{late}");
        }
    }

    #[test]
    fn before_the_epoch_of_ids_no_id_is_old() {
        assert_eq!(Sweep { after: 0, before_ms: id::EPOCH_MS - 1, rows: 1 }.before_id(true), 0);
    }
}
