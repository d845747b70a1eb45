//! Finds the rows that a database refuses, without ever emptying a topic into the dead letters.
//!
//! A batch that was refused is tried in halves, in transactions that are rolled back, until single rows
//! remain. A refused row is only then a refusal of its own when the database accepts a *twin*: a harmless row
//! of the same sizes, or of the smallest size where the row was too large. A rule of the table (CHECK, foreign
//! key, trigger) may refuse the twin as well; there a row that was accepted is tried in the place of the refused
//! one, or where there is none, the refused one without its body, and a row that was stored before. A sealed body
//! is only held against what begins like one: a rule that wants JSON refuses every sealed body, and no other.
//! Where nothing is accepted the table is broken, and the batch waits. The last word is the refused row's own,
//! once more: the table may have been mended between.
//!
//! A row that is tried costs the database what a stored one does: every try is released by the gate.

use std::ops::Range;
use std::sync::Mutex;

use super::batch::RefusedSpan;
use crate::gate::Gate;
use crate::gate::bucket::Offer;
use crate::gate::flow::Flow;
use crate::lock::lock;
use crate::meter::{Activity, LaneMeter};
use crate::seal::{SEALED, is_sealed};
use crate::store::{ErrorKind, Reason, Row, Store, StoreError};

/// Tries rows in the table, at the gate's rate.
#[derive(Clone, Copy)]
pub struct Probe<'a> {
    /// The table.
    pub store: &'a dyn Store,
    /// Lets each try through.
    pub gate: &'a Gate,
    /// Whose rows they are.
    pub flow: &'a Flow,
    /// Learns what the lane waits for.
    pub activity: &'a LaneMeter,
}

impl Probe<'_> {
    /// The refused ones among `rows`; `span_of_row` translates to the segment's numbering.
    ///
    /// # Errors
    /// Anything but a refusal; or, as [`ErrorKind::Unavailable`], a table that refuses twins too.
    pub async fn find_refused(
        &self,
        rows: &[Row<'_>],
        witness: &Witness,
        span_of_row: impl Fn(usize) -> usize,
    ) -> Result<Vec<RefusedSpan>, StoreError> {
        let mut refusals = Vec::new();
        let mut undecided = None;
        let mut accepted = None;
        // All of them together were refused already.
        let (left, right) = halves(0..rows.len());
        let mut open = Vec::from([right, left]);
        while let Some(range) = open.pop() {
            if range.is_empty() {
                continue;
            }
            let released = range.start + self.release(range.len()).await;
            open.push(released..range.end);
            let range = range.start..released;
            let Err(error) = self.store.probe(&rows[range.clone()]).await else {
                accepted = Some(range.start);
                continue;
            };
            if !error.kind.is_refusal() {
                return Err(error);
            }
            if range.len() > 1 {
                let (left, right) = halves(range);
                open.extend([right, left]);
                continue;
            }
            let row = &rows[range.start];
            let reason = match error.kind {
                ErrorKind::TooLarge => Reason::TooLarge,
                _ => Reason::Refused,
            };
            // Whether some row is accepted is known at the end.
            if self.breaks_a_rule(row, error.kind).await? {
                undecided = Some(row);
            }
            let detail = sluice_crds::problem::chain(&error);
            refusals.push((row, RefusedSpan { span: span_of_row(range.start), reason, detail }));
        }
        match (undecided, accepted) {
            // With the refused row's id and now: it may be these that have no place in the table.
            (Some(row), Some(index)) => {
                self.accepts(Row { id: row.id, ..rows[index] }).await.map_err(as_held(row))?;
            }
            (Some(row), None) => self.accepts_another(row, witness).await.map_err(as_held(row))?,
            (None, _) => {}
        }
        self.still_refused(refusals).await
    }

    /// Those that are refused once more: a table that was mended after it refused a row accepts its twin as well.
    async fn still_refused(
        &self,
        refusals: Vec<(&Row<'_>, RefusedSpan)>,
    ) -> Result<Vec<RefusedSpan>, StoreError> {
        let mut still = Vec::new();
        for (row, refusal) in refusals {
            match self.accepts(*row).await {
                Ok(()) => {}
                Err(error) if error.kind.is_refusal() => still.push(refusal),
                Err(error) => return Err(error),
            }
        }
        Ok(still)
    }

    /// Whether a rule of the table, whose word on harmless rows says nothing, is against a refused row or its twin.
    async fn breaks_a_rule(&self, row: &Row<'_>, kind: ErrorKind) -> Result<bool, StoreError> {
        let twin = match kind {
            ErrorKind::Constraint => return Ok(true),
            ErrorKind::TooLarge => smallest_twin(row),
            _ => twin(row),
        };
        match self.accepts(twin.row(row.id)).await {
            Ok(()) => Ok(false),
            Err(error) if error.kind == ErrorKind::Constraint => Ok(true),
            Err(error) => Err(as_held(row)(error)),
        }
    }

    /// Where no row was accepted: a rule that knows trace ids or kinds may let the row's own pass, without its body; and
    /// what was stored before has passed. The error is the twin's.
    async fn accepts_another(&self, row: &Row<'_>, witness: &Witness) -> Result<(), StoreError> {
        let mut refused = None;
        let own = Texts { body: smallest_body(row).to_owned(), ..Texts::of(row) };
        let before = witness.last().filter(|before| is_sealed(&before.body) == is_sealed(row.body));
        for texts in [Some(twin(row)), Some(own), before].into_iter().flatten() {
            match self.accepts(texts.row(row.id)).await {
                Err(error) if error.kind.is_refusal() => refused = refused.or(Some(error)),
                done => return done,
            }
        }
        refused.map_or(Ok(()), Err)
    }

    /// How many of the rows, at least one, may be tried now.
    async fn release(&self, rows: usize) -> usize {
        let offer = Offer { first: 1, available: rows, most: rows, more: true };
        self.activity.enter(Activity::Gate);
        let released = self.gate.release(self.flow, offer, |most| (most, most)).await.0;
        self.activity.enter(Activity::Store);
        released
    }

    /// Waits until all of the rows have been let through.
    pub async fn release_all(&self, rows: usize) {
        let mut left = rows;
        while left > 0 {
            left -= self.release(left).await.min(left);
        }
    }

    /// Asks the table whether it takes a row.
    async fn accepts(&self, row: Row<'_>) -> Result<(), StoreError> {
        self.release(1).await;
        self.store.probe(&[row]).await
    }
}

fn halves(range: Range<usize>) -> (Range<usize>, Range<usize>) {
    let middle = range.start + range.len() / 2;
    (range.start..middle, middle..range.end)
}

/// No larger body is remembered.
const WITNESS_BYTES: usize = 16 * 1024;

/// The last row that a lane has stored, for a batch of which every row is refused: at a low rate a batch is one row.
#[derive(Default)]
pub struct Witness(Mutex<Option<Texts>>);

impl Witness {
    /// Remembers one of the rows that were stored.
    pub fn saw(&self, rows: &[Row<'_>]) {
        if let Some(row) = rows.last().filter(|row| row.body.len() <= WITNESS_BYTES) {
            *lock(&self.0) = Some(Texts::of(row));
        }
    }

    fn last(&self) -> Option<Texts> {
        lock(&self.0).clone()
    }
}

#[derive(Clone)]
struct Texts {
    trace_id: String,
    kind: String,
    body: String,
}

impl Texts {
    fn of(row: &Row<'_>) -> Self {
        Self { trace_id: row.trace_id.to_owned(), kind: row.kind.to_owned(), body: row.body.to_owned() }
    }

    fn row(&self, id: i64) -> Row<'_> {
        Row { id, trace_id: &self.trace_id, kind: &self.kind, body: &self.body }
    }
}

/// As many characters and bytes, all of them plain.
fn twin(row: &Row<'_>) -> Texts {
    Texts {
        trace_id: "0".repeat(row.trace_id.chars().count()),
        kind: "K".repeat(row.kind.chars().count()),
        body: match is_sealed(row.body) {
            true => format!("{SEALED}{}", "x".repeat(row.body.len() - SEALED.len())),
            false => format!("\"{}\"", "x".repeat(row.body.len().saturating_sub(2))),
        },
    }
}

fn smallest_twin(row: &Row<'_>) -> Texts {
    Texts { body: smallest_body(row).to_owned(), ..twin(row) }
}

/// The smallest body of the same kind.
fn smallest_body(row: &Row<'_>) -> &'static str {
    if is_sealed(row.body) { SEALED } else { "{}" }
}

/// What it means that the table refuses a row that nothing but the table itself can speak against.
fn as_held(row: &Row<'_>) -> impl Fn(StoreError) -> StoreError {
    let message = if is_sealed(row.body) {
        "the table refuses even a plain row of the same size whose body begins as sealed ones do: they are no JSON; mend \
         its columns, rules or partitions; rows are held"
    } else {
        "the table refuses even a plain row of the same size: mend its columns, rules or partitions; rows are held"
    };
    move |error| {
        if !error.kind.is_refusal() {
            return error;
        }
        StoreError::with_source(ErrorKind::Unavailable, message, error)
    }
}
