//! When what consumers say is told in the status of their pipeline: what is notable at once, which is not decided here, words
//! some seconds after the last write, and numbers when it is the pipeline's turn.

use std::time::{Duration, Instant};

use super::PodReport;
use crate::controller::status::Digest;

/// How often the numbers of one pipeline may lead to a status write.
pub(super) const NUMBERS_EVERY: Duration = Duration::from_secs(30);
/// For how long after a write the words of a condition wait for others to join them.
const WORDS_EVERY: Duration = Duration::from_secs(10);

/// What the status of one pipeline tells of the reports, and whether more may be written.
#[derive(Default)]
pub struct StatusPace {
    /// What the reports say that a reconcile has got.
    given: Option<Digest>,
    /// What the status tells of the reports.
    told: Option<Digest>,
    /// When the status was written.
    written: Option<Instant>,
    /// Whether the pipeline waits for its turn.
    waits: bool,
    /// Whether it has its turn.
    has_turn: bool,
}

impl StatusPace {
    /// A reconcile has got these reports.
    pub fn give(&mut self, reports: &[PodReport]) {
        self.given = Some(Digest::of(reports));
    }

    /// The status tells what was given last, or, where nobody has looked at the reports, tells nothing of them; `is_written`
    /// where it was written for that.
    pub fn tell(&mut self, reports: &[PodReport], is_written: bool) {
        self.told = Some(self.given.take().unwrap_or_else(|| Digest::of(reports)));
        self.has_turn = false;
        if is_written {
            self.written = Some(Instant::now());
        }
    }

    /// Whether numbers alone may be written now.
    pub fn has_turn(&self) -> bool {
        self.has_turn
    }

    /// For how long words alone are not written yet.
    pub fn words_wait(&self) -> Duration {
        self.written.map_or(Duration::ZERO, |written| WORDS_EVERY.saturating_sub(written.elapsed()))
    }

    /// Whether these reports make the pipeline wait for a turn from now on. They are compared with what was written, not with
    /// the last answer: the last number of a series is told, too.
    pub fn begins_to_wait(&mut self, reports: &[PodReport], now: Instant) -> bool {
        let is_due = self.written.is_none_or(|written| now >= written + NUMBERS_EVERY);
        let begins = self.differs(reports) && !self.waits && is_due;
        self.waits |= begins;
        begins
    }

    /// Its turn has come; says whether there is anything to tell, which another write may have told meanwhile.
    pub fn take_turn(&mut self, reports: &[PodReport]) -> bool {
        self.waits = false;
        let differs = self.differs(reports);
        self.has_turn |= differs;
        differs
    }

    fn differs(&self, reports: &[PodReport]) -> bool {
        self.told.as_ref() != Some(&Digest::of(reports))
    }
}
