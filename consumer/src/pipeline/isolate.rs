//! Finds the rows that a database refuses, without ever emptying a topic into the dead letters.
//!
//! A batch that was refused is tried in halves, in transactions that are rolled back, until single rows
//! remain. A refused row is only then a refusal of its own when the database accepts a *twin*: a harmless row
//! of the same sizes. Where the twin is refused too, the table is broken, and the batch waits.

use std::ops::Range;

use super::batch::Refusal;
use crate::store::{ErrorKind, Reason, Row, Store, StoreError};

/// The refused ones among `rows`; `span_of_row` translates to the segment's numbering.
///
/// # Errors
/// Anything but a refusal; or, as [`ErrorKind::Unavailable`], a table that refuses twins too.
pub async fn find_refused(
    store: &dyn Store,
    rows: &[Row<'_>],
    span_of_row: impl Fn(usize) -> usize,
) -> Result<Vec<Refusal>, StoreError> {
    let mut refusals = Vec::new();
    let mut open = Vec::from([Range { start: 0, end: rows.len() }]);
    // Depth first and left to right: the refusals come out ascending.
    while let Some(range) = open.pop() {
        if range.is_empty() {
            continue;
        }
        let Err(error) = store.probe(&rows[range.clone()]).await else { continue };
        let reason = match error.kind {
            ErrorKind::Refused => Reason::Refused,
            ErrorKind::TooLarge => Reason::TooLarge,
            _ => return Err(error),
        };
        if range.len() > 1 {
            let (left, right) = halves(range);
            open.push(right);
            open.push(left);
            continue;
        }
        if reason == Reason::Refused {
            accepts_twin(store, &rows[range.start]).await?;
        }
        refusals.push(Refusal {
            span: span_of_row(range.start),
            reason,
            detail: sluice_crds::problem::chain(&error),
        });
    }
    Ok(refusals)
}

fn halves(range: Range<usize>) -> (Range<usize>, Range<usize>) {
    let middle = range.start + range.len() / 2;
    (range.start..middle, middle..range.end)
}

/// Asks the table for a row with as many characters and bytes, all of them plain.
async fn accepts_twin(store: &dyn Store, row: &Row<'_>) -> Result<(), StoreError> {
    let trace_id = "0".repeat(row.trace_id.chars().count());
    let kind = "K".repeat(row.kind.chars().count());
    let body = format!("\"{}\"", "x".repeat(row.body.len().saturating_sub(2)));
    let twin = Row { id: row.id, trace_id: &trace_id, kind: &kind, body: &body };
    store.probe(&[twin]).await.map_err(|error| match error.kind {
        ErrorKind::Refused | ErrorKind::TooLarge => StoreError::with_source(
            ErrorKind::Unavailable,
            "the table refuses even a plain row of the same size: mend its columns or partitions; rows are held",
            error,
        ),
        _ => error,
    })
}
