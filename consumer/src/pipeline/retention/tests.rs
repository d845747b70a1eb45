//! Retention on the store in memory and a virtual clock.

use std::sync::atomic::{AtomicI64, Ordering};

use sluice_crds::error_reason::ErrorReason;
use sluice_crds::live::Live;

use super::*;
use crate::gate::lease::WHOLE;
use crate::live::Origin;
use crate::store::id;
use crate::store::memory::{CLOCK_START_MS, Call, MemoryStore};
use crate::store::{ErrorKind, Position, Row, StreamKey, WriteBatch};

const MINUTE: i64 = 60_000;

struct Bed {
    store: Arc<MemoryStore>,
    live: watch::Sender<Applied>,
    meters: Arc<Meters>,
    stop: CancellationToken,
}

fn applied(retention: &str) -> Applied {
    let retention = (!retention.is_empty()).then(|| retention.parse().unwrap());
    Applied::new(Live { retention, ..Live::closed() }, 1, Origin::File)
}

impl Bed {
    fn new(retention: &str) -> Self {
        Self {
            store: Arc::new(MemoryStore::new(1, 1 << 20)),
            live: watch::Sender::new(applied(retention)),
            meters: Arc::default(),
            stop: CancellationToken::new(),
        }
    }

    /// Rows whose ids lie this long before the start, in milliseconds; their `created_at` is now.
    async fn write(&self, ages_ms: &[i64]) -> Vec<i64> {
        let key = StreamKey { cluster_id: "c".into(), group: "g".into(), topic: "t".into(), partition: 0 };
        self.store.create_streams(&[(key.clone(), 0)]).await.unwrap();
        let claim = self.store.claim(&key, "r").await.unwrap();
        let ids: Vec<i64> = ages_ms.iter().map(|age| id::first_at(CLOCK_START_MS - age) + 7).collect();
        let rows: Vec<_> =
            ids.iter().map(|id| Row { id: *id, trace_id: "t", kind: "", body: "{}" }).collect();
        let to = Position { next_offset: claim.position.next_offset + 1, last_id: 1 };
        let batch = WriteBatch {
            stream: claim.stream,
            epoch: claim.epoch,
            from: claim.position,
            to,
            fingerprint: None,
            rows: &rows,
            dead_letters: &[],
            queue_copies: false,
        };
        self.store.write(&batch).await.unwrap();
        ids
    }

    fn start_as(&self, replica: &str, own_time_ms: fn() -> i64) -> tokio::task::JoinHandle<()> {
        let clock: Arc<DatabaseClock> = Arc::default();
        let name = "retention of c/g/t".to_owned();
        let remover = RowRemover {
            store: self.store.clone(),
            clock: clock.clone(),
            meters: self.meters.clone(),
            lease: ExclusiveLease::new(self.store.clone(), clock, name, replica.to_owned()),
            own_time_ms,
        };
        tokio::spawn(remover.run(self.live.subscribe(), self.stop.clone()))
    }

    fn start(&self) -> tokio::task::JoinHandle<()> {
        self.start_as("one", || i64::MAX)
    }

    fn ids(&self) -> Vec<i64> {
        self.store.rows().iter().map(|row| row.id).collect()
    }

    fn leases(&self) -> Vec<(String, u32)> {
        let mut leases = self.store.leases("retention of c/g/t");
        leases.sort();
        leases
    }
}

async fn pass(milliseconds: i64) {
    tokio::time::sleep(Duration::from_millis(milliseconds.unsigned_abs())).await;
}

#[tokio::test(start_paused = true)]
async fn rows_go_when_id_and_created_at_are_both_old() {
    let bed = Bed::new("10m");
    let ids = bed.write(&[30 * MINUTE, 9 * MINUTE, MINUTE]).await;
    bed.start();
    pass(9 * MINUTE).await;
    assert_eq!(bed.ids(), ids, "the first one has an old id, and was written just now");
    pass(2 * MINUTE).await;
    assert_eq!(bed.ids(), [] as [i64; 0]);
    let young = bed.write(&[-11 * MINUTE]).await;
    pass(9 * MINUTE).await;
    assert_eq!(bed.ids(), young);
    let status = bed.meters.retention.status().unwrap();
    assert_eq!((status.seconds, status.removed, status.behind_seconds), (600, 3, Some(0)));
}

/// A row is created a moment after its id was given out: it is not passed by in between.
#[tokio::test(start_paused = true)]
async fn rows_of_a_stream_go_within_a_minute_of_their_time() {
    let bed = Bed::new("10m");
    bed.start();
    // Moments that any rhythm of looking meets at some time.
    for number in 0..60 {
        bed.write(&[-number * 1_700]).await;
        pass(1_700).await;
    }
    pass(11 * MINUTE).await;
    assert_eq!(bed.ids(), [] as [i64; 0]);
}

#[tokio::test(start_paused = true)]
async fn without_a_retention_everything_stays_and_an_edit_takes_effect() {
    let bed = Bed::new("");
    bed.write(&[0; 1]).await;
    bed.start();
    pass(365 * 24 * 60 * MINUTE).await;
    assert_eq!((bed.ids().len(), bed.meters.retention.status()), (1, None));
    assert_eq!(bed.leases(), [], "nothing is asked for");
    bed.live.send_replace(applied("720h"));
    pass(1_000).await;
    assert_eq!(bed.ids().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_runs_ahead_removes_nothing() {
    static OWN: AtomicI64 = AtomicI64::new(CLOCK_START_MS + MINUTE);
    let bed = Bed::new("10m");
    bed.write(&[MINUTE]).await;
    bed.start_as("one", || OWN.load(Ordering::Relaxed));
    // The database's clock has gone on for an hour, ours has not.
    pass(60 * MINUTE).await;
    assert_eq!(bed.ids().len(), 1);
    OWN.store(CLOCK_START_MS + 60 * MINUTE, Ordering::Relaxed);
    pass(MINUTE).await;
    assert_eq!(bed.ids().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_replica_removes_and_another_takes_over() {
    let bed = Bed::new("10m");
    let first = bed.start_as("one", || i64::MAX);
    pass(1_000).await;
    bed.start_as("two", || i64::MAX);
    pass(5 * MINUTE).await;
    assert_eq!(bed.leases(), [("one".to_owned(), WHOLE), ("two".to_owned(), 0)]);
    // Killed: nothing is given back.
    first.abort();
    pass(2 * MINUTE).await;
    assert_eq!(bed.leases(), [("two".to_owned(), WHOLE)]);
    bed.stop.cancel();
    pass(1_000).await;
    assert_eq!(bed.leases(), [], "given back at the end");
}

#[tokio::test(start_paused = true)]
async fn errors_are_waited_out_and_shown() {
    let bed = Bed::new("10m");
    bed.write(&[MINUTE]).await;
    bed.store.on_call(|call| {
        let error = || crate::store::StoreError::new(ErrorKind::Unavailable, "away");
        (call == Call::RemoveOlder).then(error)
    });
    bed.start();
    pass(30 * MINUTE).await;
    let error = bed.meters.retention.error().unwrap();
    assert_eq!(error.reason, ErrorReason::RetentionFailed);
    assert!(error.message.contains("away"), "{}", error.message);
    bed.store.clear_hooks();
    pass(2 * MINUTE).await;
    assert_eq!((bed.ids().len(), bed.meters.retention.error()), (0, None));
}

#[tokio::test(start_paused = true)]
async fn rows_that_were_too_young_when_they_were_passed_go_an_hour_later_at_the_latest() {
    let bed = Bed::new("10m");
    // Small ids, as in an adopted table: more than one step's worth.
    let ages = vec![CLOCK_START_MS - id::EPOCH_MS - 1; 1];
    bed.write(&ages).await;
    bed.start();
    pass(5 * MINUTE).await;
    assert_eq!(bed.ids().len(), 1);
    pass(70 * MINUTE).await;
    assert_eq!(bed.ids().len(), 0);
}
