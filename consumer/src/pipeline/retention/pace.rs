//! How much is removed at once, and how long the pause is afterwards: arithmetic, on given times.
//!
//! Removing takes [`GENTLE`] of the time. Where that does not suffice, because more rows grow old than are removed, it
//! takes more, up to [`MOST`]; a backlog that shrinks, such as that of a first retention on an old table, takes no more.

use std::time::Duration;

/// How long a step should take: what a lane, or another writer of the disk, waits for it at most.
pub const STEP_TAKES: Duration = Duration::from_millis(20);
/// Fewest rows of a step, and those of the first one: fewer would cost more in commits than in rows.
const FEWEST_ROWS: u32 = 500;
/// Most rows of a step.
const MOST_ROWS: u32 = 10_000;
/// The part of the time that removing takes: where the database's processor is what limits, writers lose as much, and again
/// what it does afterwards with the rows that are gone.
const GENTLE: f64 = 0.05;
/// The largest part.
const MOST: f64 = 0.5;
/// Over this time it is measured whether the backlog shrinks.
const MEASURED_OVER: Duration = Duration::from_secs(20);
/// Shortest backlog, in time of rows, that is worth more than the gentle part.
const TOLERATED: Duration = Duration::from_secs(60);
/// Rows may outlive their retention by one part of it in so many.
pub const TOLERATED_PARTS: u32 = 20;
/// A backlog whose rows are removed more slowly than this times as fast as time passes does not shrink.
const STANDS_STILL: f64 = 1.1;
/// A backlog whose rows are removed faster than this times as fast as time passes shrinks with less as well.
const SHRINKS: f64 = 2.0;
/// How much larger, or smaller, the part becomes in one go.
const CHANGE: f64 = 1.5;

/// See the module.
#[derive(Debug)]
pub struct Pace {
    rows: u32,
    part: f64,
    window: Moved,
}

/// How far removing has come: over so much time of rows, within so much time.
#[derive(Clone, Copy, Debug, Default)]
pub struct Moved {
    pub over: Duration,
    pub within: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { rows: FEWEST_ROWS, part: GENTLE, window: Moved::default() }
    }
}

impl Pace {
    /// How many rows the next step looks at.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// After a step that took `took` and left rows behind that are older by `behind` than they are to be `kept`:
    /// the pause before the next.
    pub fn stepped(
        &mut self,
        took: Duration,
        behind: Duration,
        kept: Duration,
        moved: Option<Moved>,
    ) -> Duration {
        self.fit(took);
        if let Some(moved) = moved {
            self.window.over += moved.over;
            self.window.within += moved.within;
        }
        if self.window.within >= MEASURED_OVER {
            let speed = self.window.over.as_secs_f64() / self.window.within.as_secs_f64();
            self.window = Moved::default();
            if behind > TOLERATED.max(kept / TOLERATED_PARTS) && speed < STANDS_STILL {
                self.part = (self.part * CHANGE).min(MOST);
            } else if speed > SHRINKS {
                self.part = (self.part / CHANGE).max(GENTLE);
            }
        }
        took.mul_f64(1.0 / self.part - 1.0)
    }

    /// After a step that left nothing old.
    pub fn caught_up(&mut self, took: Duration) {
        // It may have looked at fewer rows than it was allowed: too slow counts, too fast does not.
        if took > STEP_TAKES {
            self.fit(took);
        }
        (self.part, self.window) = (GENTLE, Moved::default());
    }

    /// Moves the number of rows towards what takes [`STEP_TAKES`], at most by half or twice.
    fn fit(&mut self, took: Duration) {
        let factor = STEP_TAKES.as_secs_f64() / took.as_secs_f64().max(1e-6);
        let rows = f64::from(self.rows) * factor.clamp(0.5, 2.0);
        self.rows = (rows as u32).clamp(FEWEST_ROWS, MOST_ROWS);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Duration = Duration::from_secs(3_600);

    /// Steps of a database that removes `speed` rows a second, where `density` rows grew old a second, until `time`
    /// has passed. Returns the part of the time that it took at the end, and whether it came forward.
    fn simulate(speed: f64, density: f64, behind: Duration, time: Duration) -> (f64, Duration) {
        let mut pace = Pace::default();
        let (mut now, mut behind) = (0.0, behind.as_secs_f64());
        let (mut part, mut last) = (0.0, None);
        while now < time.as_secs_f64() {
            let rows = f64::from(pace.rows());
            let took = rows / speed;
            let over = rows / density;
            let moved = last.map(|at: f64| Moved {
                over: Duration::from_secs_f64(over),
                within: Duration::from_secs_f64(now + took - at),
            });
            last = Some(now + took);
            behind = (behind - over).max(0.0);
            let pause =
                pace.stepped(Duration::from_secs_f64(took), Duration::from_secs_f64(behind), KEPT, moved);
            let whole = took + pause.as_secs_f64();
            part = took / whole;
            now += whole;
            behind += whole;
        }
        (part, Duration::from_secs_f64(behind))
    }

    #[test]
    fn a_backlog_that_shrinks_is_removed_gently() {
        let day = Duration::from_secs(86_400);
        let (part, left) = simulate(10_000.0, 200.0, day, Duration::from_secs(600));
        assert!((part - GENTLE).abs() < 1e-6 && left < day, "{part} {left:?}");
    }

    #[test]
    fn what_grows_faster_than_it_is_removed_gently_gets_more_of_the_time() {
        let begin = Duration::from_secs(1_000);
        let (part, left) = simulate(10_000.0, 3_000.0, begin, Duration::from_secs(3_000));
        assert!(part > 0.3 && part <= MOST, "{part}");
        assert!(left < begin, "{left:?}");
        let (part, _) = simulate(1_000.0, 3_000.0, begin, Duration::from_secs(3_000));
        assert!((part - MOST).abs() < 1e-6, "never more, though it falls behind: {part}");
    }

    #[test]
    fn a_little_behind_is_no_reason_to_hurry() {
        let (part, _) = simulate(10_000.0, 3_000.0, Duration::from_secs(10), Duration::from_secs(60));
        assert!((part - GENTLE).abs() < 1e-6, "{part}");
    }

    #[test]
    fn steps_find_their_size_and_stay_within_bounds() {
        let mut pace = Pace::default();
        for _ in 0..50 {
            let took = Duration::from_secs_f64(f64::from(pace.rows()) / 50_000.0);
            pace.stepped(took, Duration::ZERO, KEPT, None);
        }
        assert!((900..=1_100).contains(&pace.rows()), "{}", pace.rows());
        for (took, rows) in [(Duration::from_secs(1), FEWEST_ROWS), (Duration::ZERO, MOST_ROWS)] {
            for _ in 0..50 {
                pace.stepped(took, Duration::ZERO, KEPT, None);
            }
            assert_eq!(pace.rows(), rows);
        }
    }
}
