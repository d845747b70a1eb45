//! What a lane does wrong while a planted bug is awake; see [`crate::planted`].

use std::ops::Range;
use std::time::Duration;

use crate::pipeline::batch::RefusedSpan;
use crate::pipeline::stream::OpenStream;
use crate::planted::{Bug, is};
use crate::source::Source;
use crate::store::{Reason, Store, StoreError, WriteBatch};

/// Between the position's transaction and that of the rows: long enough for a kill to fall into it.
const BETWEEN: Duration = Duration::from_millis(20);

/// Writes a batch.
pub(super) async fn write(store: &dyn Store, batch: WriteBatch<'_>) -> Result<(), StoreError> {
    if !is(Bug::PositionFirst) {
        return store.write(&batch).await;
    }
    store.write(&WriteBatch { rows: &[], dead_letters: &[], ..batch }).await?;
    tokio::time::sleep(BETWEEN).await;
    store.write(&WriteBatch { from: batch.to, ..batch }).await
}

/// What ids take their time from.
pub(super) fn time_of_ids(database_time_ms: i64) -> i64 {
    if is(Bug::OwnClock) { jiff::Timestamp::now().as_millisecond() } else { database_time_ms }
}

/// Whether a batch is tried only once.
pub(super) fn gives_up() -> bool {
    is(Bug::NoRetry)
}

/// All of these are to be dead letters.
pub(super) fn every_span(spans: Range<usize>) -> Vec<RefusedSpan> {
    let refusal = |span| RefusedSpan { span, reason: Reason::Refused, detail: "gave up".to_owned() };
    spans.map(refusal).collect()
}

/// Tells the queue of what was only read.
pub(super) fn commit_early(source: &dyn Source, stream: &OpenStream) {
    if is(Bug::CommitEarly) {
        source.report_position(&stream.at, stream.expected.next_offset());
    }
}
