//! The pipeline on its in-memory twins and a virtual clock: what happens when things go wrong in a given order.

mod reading;
mod redrive;
mod refusals;
mod sharing;
mod topics;

use std::collections::BTreeSet;

use sluice_crds::live::Live;
use sluice_crds::v1alpha1::{Format, Guard, JsonPaths};
use tokio::time::Instant;

use super::*;
use crate::live::Origin;
use crate::meter::{Identity, LaneMeter};
use crate::source::TopicPartition;
use crate::source::memory::MemorySource;
use crate::store::memory::{Call, MemoryStore, OwnedLetterSpan};
use crate::store::{Reason, Row, StreamKey};

/// One replica on a queue and a database that other replicas may share.
struct Replica {
    meters: Arc<Meters>,
    stop: CancellationToken,
    ended: tokio::task::JoinHandle<Result<(), PipelineError>>,
    live: watch::Sender<Applied>,
}

fn at(partition: i32) -> TopicPartition {
    TopicPartition { topic: "traces".into(), partition }
}

fn span(number: usize) -> Vec<u8> {
    format!(r#"{{"traceId":"t{number}","spans":[{{"kind":"SERVER","n":{number}}}]}}"#).into_bytes()
}

fn queue(partitions: i32, spans: usize) -> MemorySource {
    let source = MemorySource::new("cluster", "traces", partitions);
    for number in 0..spans {
        source.push(&at(number as i32 % partitions), &span(number));
    }
    source
}

impl Replica {
    fn start(source: &MemorySource, store: &Arc<MemoryStore>) -> Self {
        Self::start_from(source, store, StartFrom::Earliest)
    }

    fn start_as(format: Format, source: &MemorySource, store: &Arc<MemoryStore>) -> Self {
        Self::start_with(format, source, store, StartFrom::Earliest)
    }

    fn start_from(source: &MemorySource, store: &Arc<MemoryStore>, start_from: StartFrom) -> Self {
        Self::start_with(Format::Json, source, store, start_from)
    }

    fn start_with(
        format: Format,
        source: &MemorySource,
        store: &Arc<MemoryStore>,
        start_from: StartFrom,
    ) -> Self {
        Self::start_changed(source, store, |parts| {
            parts.decoder = Decoder::new(format, &JsonPaths::default()).unwrap();
            parts.start_from = start_from;
        })
    }

    fn start_changed(
        source: &MemorySource,
        store: &Arc<MemoryStore>,
        change: impl FnOnce(&mut Parts),
    ) -> Self {
        let live = Live::of_rate(100_000);
        let live = watch::Sender::new(Applied::new(live, 1, Origin::File));
        let (meters, stop) = (Arc::new(Meters::default()), CancellationToken::new());
        let mut parts = Parts {
            group: "group".to_owned(),
            table: "connectivity_trace".to_owned(),
            source: Arc::new(source.clone()),
            store: store.clone(),
            sealing: Arc::new(Sealing::new("connectivity_trace", None)),
            dead_letter_topic: None,
            decoder: Decoder::new(Format::Json, &JsonPaths::default()).unwrap(),
            max_rows: 100,
            max_delay: Duration::from_millis(20),
            start_from: StartFrom::Earliest,
            by_pattern: false,
            live: live.subscribe(),
            meters: meters.clone(),
            shares_rate_of: None,
            patient: false,
        };
        change(&mut parts);
        let ended = tokio::spawn(run(parts, stop.clone()));
        Self { meters, stop, ended, live }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.ended.await.unwrap().unwrap();
    }
}

/// Waits for a condition, on the virtual clock.
async fn until(what: &str, condition: impl Fn() -> bool) {
    let begin = Instant::now();
    while !condition() {
        assert!(begin.elapsed() < Duration::from_secs(300), "{what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn stored(store: &MemoryStore) -> Vec<String> {
    let mut ids: Vec<String> = store.rows().into_iter().map(|row| row.trace_id).collect();
    ids.sort_unstable();
    ids
}

fn produced(spans: usize) -> Vec<String> {
    let mut ids: Vec<String> = (0..spans).map(|number| format!("t{number}")).collect();
    ids.sort_unstable();
    ids
}

fn store() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(2, 1 << 20))
}

fn unavailable() -> StoreError {
    StoreError::new(ErrorKind::Unavailable, "the database is away")
}

#[tokio::test(start_paused = true)]
async fn every_message_becomes_a_row_and_the_position_stands_behind_the_last() {
    let (source, store) = (queue(3, 1_000), store());
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0), at(1), at(2)]);
    until("all rows", || store.row_count() == 1_000).await;
    assert_eq!(stored(&store), produced(1_000));
    let positions: Vec<u64> = store.progress().iter().map(|row| row.position.next_offset).collect();
    assert_eq!(positions, [334, 333, 333]);
    until("reported", || source.reported(&at(0)) == Some(334)).await;
    replica.stop().await;
    assert!(store.leases("cluster/group/connectivity_trace").is_empty(), "the lease is given back");
}

#[tokio::test(start_paused = true)]
async fn an_ambiguous_commit_is_resolved_by_the_position() {
    let (source, store) = (queue(1, 500), store());
    let mut commits = 0;
    store.on_call(move |call| {
        commits += usize::from(call == Call::Committed);
        (call == Call::Committed && commits % 3 == 1).then(unavailable)
    });
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all rows", || store.row_count() >= 500).await;
    assert_eq!(stored(&store), produced(500));
    assert!(store.dead_letters().is_empty());
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn two_replicas_that_both_believe_to_own_a_partition_store_every_span_once() {
    let (source, store) = (queue(1, 2_000), store());
    // Two views of one queue: the first is never told that it lost the partition, as a zombie.
    let zombie_view = queue(1, 2_000);
    let zombie = Replica::start(&zombie_view, &store);
    zombie_view.assign(&[at(0)]);
    until("the zombie has begun", || store.row_count() >= 100).await;
    let successor = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all rows", || store.row_count() >= 2_000).await;
    assert_eq!(stored(&store), produced(2_000));
    zombie.stop().await;
    successor.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_long_outage_burns_no_attempt_and_makes_no_dead_letter() {
    let (source, store) = (queue(2, 200), store());
    let outage_ends = Instant::now() + Duration::from_secs(20 * 60);
    store.on_call(move |_| (Instant::now() < outage_ends).then(unavailable));
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0), at(1)]);
    tokio::time::sleep(Duration::from_secs(19 * 60)).await;
    assert_eq!(store.row_count(), 0);
    assert!(replica.meters.status(&Identity::default()).last_error.is_some());
    tokio::time::sleep(Duration::from_secs(60)).await;
    until("all rows", || store.row_count() == 200).await;
    assert!(store.dead_letters().is_empty());
    assert_eq!(replica.meters.status(&Identity::default()).last_error, None);
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_guard_hears_of_a_database_that_fails_and_not_of_waits_at_the_gate() {
    let (source, store) = (queue(2, 3_000), store());
    let fails = Arc::new(std::sync::atomic::AtomicBool::new(false));
    store.on_call({
        let fails = fails.clone();
        move |call| (call == Call::Write && fails.load(Relaxed)).then(unavailable)
    });
    let replica = Replica::start(&source, &store);
    replica.live.send_modify(|applied| {
        applied.live = Live { guard: Some(Guard::default()), ..Live::of_rate(200) };
        applied.revision += 1;
    });
    source.assign(&[at(0), at(1)]);
    // Each batch waits at the gate for longer than the target.
    until("rows at the rate", || store.row_count() >= 1_000).await;
    assert_eq!(replica.meters.guard_lowered(), 0);
    fails.store(true, Relaxed);
    until("the guard", || replica.meters.guard_lowered() >= 2).await;
    fails.store(false, Relaxed);
    until("all rows", || store.row_count() == 3_000).await;
    assert_eq!(stored(&store), produced(3_000));
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_body_that_no_statement_can_carry_is_a_dead_letter_from_the_start() {
    let (source, store) = (queue(1, 3), Arc::new(MemoryStore::new(1, 1_000)));
    let giant = format!(r#"{{"traceId":"giant","spans":[{{"x":"{}"}}]}}"#, "y".repeat(2_000));
    source.push(&at(0), giant.as_bytes());
    source.push(&at(0), &span(3));
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all settled", || store.row_count() == 4).await;
    let letters = store.dead_letters();
    assert_eq!(letters.len(), 1);
    assert_eq!((letters[0].reason, letters[0].bytes.len()), (Reason::TooLarge, 2_008));
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_cannot_be_decoded_is_a_dead_letter_with_its_bytes_and_key() {
    let (source, store) = (queue(1, 1), store());
    source.push_stored(&at(0), Some(b"key"), Some(b"{broken"));
    source.push_stored(&at(0), Some(b"key"), None);
    source.push(&at(0), &span(1));
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all settled", || store.row_count() + store.dead_letters().len() == 4).await;
    let letters = store.dead_letters();
    let found: Vec<_> = letters
        .iter()
        .map(|letter| (letter.offset, letter.reason, letter.bytes.as_slice(), letter.key.as_deref()))
        .collect();
    assert_eq!(
        found,
        [
            (1, Reason::Undecodable, &b"{broken"[..], Some(&b"key"[..])),
            (2, Reason::Tombstone, &b""[..], Some(&b"key"[..])),
        ]
    );
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_revoked_partition_is_dropped_and_its_next_owner_goes_on() {
    let (source, store) = (queue(2, 4_000), store());
    store.set_write_latency(Duration::from_millis(50));
    let position = |partition: i32| {
        let progress = store.progress();
        let row = progress.iter().find(|row| row.key.partition == partition);
        row.map_or(0, |row| row.position.next_offset)
    };
    let first = Replica::start(&source, &store);
    source.assign(&[at(0), at(1)]);
    until("begun", || position(1) > 0).await;
    assert!(first.meters.partitions().contains_key(&at(1)));
    let revoked_at = position(1);
    source.revoke(&[at(1)]);
    until("all of the other partition", || position(0) == 2_000).await;
    assert!(!first.meters.partitions().contains_key(&at(1)));
    // What was under way may have ended.
    let left_at = position(1);
    assert!((revoked_at..=revoked_at + 100).contains(&left_at), "went on from {revoked_at} to {left_at}");
    first.stop().await;
    let again = queue(2, 4_000);
    let second = Replica::start(&again, &store);
    again.assign(&[at(0), at(1)]);
    until("all rows", || store.row_count() >= 4_000).await;
    assert_eq!(stored(&store), produced(4_000));
    second.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_duplicate_id_is_read_again_and_dead_letters_nothing() {
    let (source, store) = (queue(1, 60), store());
    let mut writes = 0;
    store.on_call(move |call| {
        writes += usize::from(call == Call::Write);
        (call == Call::Write && writes == 1).then(|| StoreError::new(ErrorKind::DuplicateId, "id exists"))
    });
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all rows", || store.row_count() == 60).await;
    assert!(store.dead_letters().is_empty());
    let key = StreamKey {
        cluster_id: "cluster".into(),
        group: "group".into(),
        topic: "traces".into(),
        partition: 0,
    };
    assert_eq!(store.progress()[0].key, key);
    assert_eq!(store.progress()[0].epoch, 2, "claimed again");
    replica.stop().await;
}
