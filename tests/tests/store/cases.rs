//! What every store must do.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_consumer::store::{ErrorKind, MAX_STREAMS, Position, Row, StreamKey, TRACE_BYTES, WriteBatch};

use crate::bed::{Bed, batch, claims, dead_letter, key, kind, row};

pub async fn rows_dead_letters_and_position_are_stored_together(bed: Bed) {
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    assert_eq!((claim.epoch, claim.position), (1, Position { next_offset: 0, last_id: 0 }));
    assert_eq!(claim.fingerprint, None);

    let rows = [row(10), row(11)];
    let letters = [dead_letter(12, b"not json\xff\x00")];
    store.write(&batch(&claim, 5, &rows, &letters)).await.unwrap();

    assert_eq!(bed.ids().await.unwrap(), [10, 11]);
    let found = bed.dead_letters().await.unwrap().remove(0);
    assert_eq!((found.topic.as_str(), found.partition, found.offset), ("topic", 0, 7));
    assert_eq!((found.span_index, found.reason.as_str()), (Some(3), "Undecodable"));
    assert_eq!((found.trace_id.as_str(), found.kind.as_str()), ("t\0", "a kind of seventeen"));
    assert_eq!(found.key.as_deref(), Some(b"\x00\xff".as_slice()));
    assert_eq!(found.headers, r#"[{"name":"h","value":null}]"#);
    assert_eq!(found.value, b"not json\xff\x00");
    let again = store.claim(&key(0), "replica").await.unwrap();
    assert_eq!(again.position, Position { next_offset: 5, last_id: 12 });
    assert_eq!(again.fingerprint, Some(u64::MAX - 5));
    assert_eq!((again.epoch, again.stream), (2, claim.stream));
    assert!(again.database_time.ms >= claim.database_time.ms);
}

pub async fn a_committed_batch_that_is_tried_again_is_fenced_and_adds_nothing(bed: Bed) {
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    let letters = [dead_letter(11, b"x")];
    store.write(&batch(&claim, 1, &[row(10)], &[])).await.unwrap();
    // New ids, as after an ambiguous commit: only the position can tell.
    let replay = store.write(&batch(&claim, 1, &[row(20)], &letters)).await;
    assert_eq!(kind(replay).unwrap(), ErrorKind::Fenced);
    assert_eq!(bed.ids().await.unwrap(), [10]);
    assert_eq!(bed.dead_letters().await.unwrap(), []);
}

pub async fn every_part_of_the_claim_is_compared(bed: Bed) {
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    store.write(&batch(&claim, 3, &[row(10)], &[])).await.unwrap();
    let rows = [row(20)];
    let good = WriteBatch {
        from: Position { next_offset: 3, last_id: 10 },
        to: Position { next_offset: 4, last_id: 20 },
        ..batch(&claim, 1, &rows, &[])
    };
    let wrong = [
        WriteBatch { stream: good.stream + 1, ..good },
        WriteBatch { epoch: good.epoch - 1, ..good },
        WriteBatch { epoch: good.epoch + 1, ..good },
        WriteBatch { from: Position { next_offset: 2, ..good.from }, ..good },
        WriteBatch { from: Position { last_id: 9, ..good.from }, ..good },
    ];
    for batch in wrong {
        assert_eq!(kind(store.write(&batch).await).unwrap(), ErrorKind::Fenced, "{batch:?}");
    }
    assert_eq!(bed.ids().await.unwrap(), [10]);
    store.write(&good).await.unwrap();
    assert_eq!(bed.ids().await.unwrap(), [10, 20]);
}

pub async fn of_two_claimants_only_the_later_one_writes(bed: Bed) {
    let (first, second) = (bed.store().await.unwrap(), bed.store().await.unwrap());
    let stale = claims(&*first, 1).await.unwrap().remove(0);
    let claim = second.claim(&key(0), "second").await.unwrap();
    assert_eq!(claim.epoch, stale.epoch + 1);
    assert_eq!(kind(first.write(&batch(&stale, 1, &[row(1)], &[])).await).unwrap(), ErrorKind::Fenced);
    second.write(&batch(&claim, 1, &[row(2)], &[])).await.unwrap();
    assert_eq!(bed.ids().await.unwrap(), [2]);
}

pub async fn claims_that_come_at_once_get_epochs_of_their_own(bed: Bed) {
    let store = bed.store().await.unwrap();
    store.create_streams(&[(key(0), 0)]).await.unwrap();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..2 {
        let replica = bed.store().await.unwrap();
        for _ in 0..4 {
            let replica = Arc::clone(&replica);
            tasks.spawn(async move { retried(|| replica.claim(&KEY_0, "replica")).await.epoch });
        }
    }
    let epochs: HashSet<u64> = tasks.join_all().await.into_iter().collect();
    assert_eq!(epochs, (1..=8).collect());
}

static KEY_0: std::sync::LazyLock<StreamKey> = std::sync::LazyLock::new(|| key(0));

/// As the pipeline does: conflicts are tried again promptly.
pub async fn retried<T, F>(mut call: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, sluice_consumer::store::StoreError>>,
{
    loop {
        match call().await {
            Ok(value) => return value,
            Err(error) if error.kind == ErrorKind::Conflict => {}
            Err(error) => panic!("{error:?}"),
        }
    }
}

pub async fn a_stream_that_was_never_created_cannot_be_claimed(bed: Bed) {
    let store = bed.store().await.unwrap();
    assert_eq!(kind(store.claim(&key(0), "replica").await).unwrap(), ErrorKind::Schema);
}

pub async fn replicas_that_create_streams_at_once_agree_on_numbers(bed: Bed) {
    let starts: Vec<_> = (0..20).map(|partition| (key(partition), 100)).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for first in 0..4 {
        let (replica, starts) = (bed.store().await.unwrap(), starts[first * 5..].to_vec());
        tasks.spawn(async move { retried(|| replica.create_streams(&starts)).await });
    }
    tasks.join_all().await;
    let store = bed.store().await.unwrap();
    // Later calls change nothing, whatever start they ask for.
    store.create_streams(&[(key(3), 7), (key(3), 8)]).await.unwrap();
    let listed = store.streams("cluster-1", "group").await.unwrap();
    assert_eq!(listed.len(), 20);
    assert_eq!(listed.into_iter().collect::<HashSet<_>>(), (0..20).map(key).collect());
    let mut numbers = HashSet::new();
    for partition in 0..20 {
        let claim = store.claim(&key(partition), "replica").await.unwrap();
        assert_eq!(claim.position.next_offset, 100);
        numbers.insert(claim.stream);
    }
    assert_eq!(numbers, (0..20).collect());
}

pub async fn replicas_that_create_groups_at_once_create_those_of_one_of_them(bed: Bed) {
    let group = |name: &str, partition| StreamKey { group: name.to_owned(), ..key(partition) };
    // Each has a partition of its own, and one that all have.
    let starts: Vec<_> = (0..4)
        .map(|replica| {
            let of = |name| [(group(name, replica), 1), (group(name, 9), replica as u64)];
            [of("begin"), of("end")].concat()
        })
        .collect();
    let mut tasks = tokio::task::JoinSet::new();
    for starts in starts.clone() {
        let store = bed.store().await.unwrap();
        tasks.spawn(async move { retried(|| store.create_groups(&starts)).await });
    }
    tasks.join_all().await;
    let store = bed.store().await.unwrap();
    let mut found = store.positions("cluster-1", "begin").await.unwrap();
    found.extend(store.positions("cluster-1", "end").await.unwrap());
    let are_of = |starts: &Vec<(StreamKey, u64)>| found.iter().all(|stream| starts.contains(stream));
    assert!(found.len() == 4 && starts.iter().any(are_of), "{found:?}");
    // One that has a stream of only one of its groups has been begun, too.
    store.create_groups(&[(group("end", 0), 0), (group("third", 0), 0)]).await.unwrap();
    assert_eq!(store.streams("cluster-1", "third").await.unwrap(), []);
}

pub async fn equal_names_on_two_clusters_or_groups_are_different_streams(bed: Bed) {
    let store = bed.store().await.unwrap();
    let keys = [
        key(0),
        StreamKey { cluster_id: "cluster-2".to_owned(), ..key(0) },
        StreamKey { group: "Group".to_owned(), ..key(0) },
        StreamKey { group: "group ".to_owned(), ..key(0) },
        StreamKey { group: "größe".to_owned(), ..key(0) },
        StreamKey { topic: "Topic".to_owned(), ..key(0) },
    ];
    let starts: Vec<_> = keys.iter().zip(1..).map(|(key, start)| (key.clone(), start)).collect();
    store.create_streams(&starts).await.unwrap();
    for (key, start) in &starts {
        assert_eq!(store.claim(key, "replica").await.unwrap().position.next_offset, *start);
    }
    assert_eq!(store.streams("cluster-2", "group").await.unwrap(), [keys[1].clone()]);
    assert_eq!(store.streams("cluster-1", "größe").await.unwrap(), [keys[4].clone()]);
}

pub async fn numbers_of_streams_run_out_with_an_error(bed: Bed) {
    let store = bed.store().await.unwrap();
    let starts: Vec<_> = (0..=i32::from(MAX_STREAMS)).map(|partition| (key(partition), 0)).collect();
    // One too many: none is created, as they come in one transaction.
    assert_eq!(kind(store.create_streams(&starts).await).unwrap(), ErrorKind::Schema);
    assert_eq!(store.streams("cluster-1", "group").await.unwrap(), []);
}

pub async fn a_superseded_stream_starts_anew_under_another_number(bed: Bed) {
    let store = bed.store().await.unwrap();
    let mut claimed = claims(&*store, 2).await.unwrap();
    let (other, old) = (claimed.remove(1), claimed.remove(0));
    store.write(&batch(&old, 9, &[row(1)], &[])).await.unwrap();
    store.supersede(&key(0), &old, 4).await.unwrap();

    assert_eq!(kind(store.supersede(&key(0), &old, 4).await).unwrap(), ErrorKind::Fenced);
    let late = WriteBatch { from: Position { next_offset: 9, last_id: 1 }, ..batch(&old, 1, &[], &[]) };
    assert_eq!(kind(store.write(&late).await).unwrap(), ErrorKind::Fenced);
    let new = store.claim(&key(0), "replica").await.unwrap();
    assert_eq!(new.position, Position { next_offset: 4, last_id: 0 });
    assert_eq!(new.fingerprint, None);
    assert!(new.stream != old.stream && new.stream != other.stream);
    store.write(&batch(&new, 1, &[row(2)], &[])).await.unwrap();
    assert_eq!(bed.ids().await.unwrap(), [1, 2]);
    assert_eq!(store.streams("cluster-1", "group").await.unwrap().len(), 2);
}

pub async fn texts_come_back_as_they_were(bed: Bed) {
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    let (emoji, wide) = ("🦀".repeat(64), "ß".repeat(64));
    let large = format!("\"{}\"", "é".repeat(400_000));
    let texts = [
        ("4bf92f3577b34da6a3ce929d0e0e4736", "SERVER", r#"{"name":"a\u0000b","s":"💥 \\ ' \" ` % _"}"#),
        (emoji.as_str(), "🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀🦀", "{}"),
        (wide.as_str(), "", " [ 1.0 , 1e400 , 18446744073709551616 ] "),
        ("trailing space ", "k ", "\u{feff}\u{202e}\t\r\n"),
        ("large", "CLIENT", large.as_str()),
    ];
    let rows: Vec<_> = texts
        .iter()
        .zip(1..)
        .map(|((trace_id, kind, body), id)| Row { id: (1 << 62) + id, trace_id, kind, body })
        .collect();
    store.write(&batch(&claim, 1, &rows, &[])).await.unwrap();
    for row in rows {
        let found = store.trace(row.trace_id, 10).await.unwrap();
        let texts: Vec<_> =
            found.iter().map(|span| (span.id, &*span.trace_id, &*span.kind, &*span.body)).collect();
        assert_eq!(texts, [(row.id, row.trace_id, row.kind, row.body)]);
    }
    assert_eq!(store.trace("LARGE", 10).await.unwrap(), []);
    assert_eq!(store.trace("large ", 10).await.unwrap(), []);
}

pub async fn batches_of_any_length_are_complete(bed: Bed) {
    let store = bed.store().await.unwrap();
    let mut claim = claims(&*store, 1).await.unwrap().remove(0);
    let body = format!("\"{}\"", "x".repeat(600));
    let mut expected = Vec::new();
    // 2,779 rows of 600 bytes are more than one packet of a mebibyte.
    for length in [0, 1, 2, 9, 99, 1000, 1234, 2779] {
        let first = claim.position.last_id + 1;
        let rows: Vec<_> =
            (first..first + length).map(|id| Row { id, trace_id: "t", kind: "", body: &body }).collect();
        let batch = batch(&claim, 1, &rows, &[]);
        store.write(&batch).await.unwrap();
        claim.position = batch.to;
        expected.extend(rows.iter().map(|row| row.id));
    }
    assert_eq!(bed.ids().await.unwrap(), expected);
}

pub async fn a_dead_letter_of_three_megabytes_comes_back(bed: Bed) {
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    let giant: Vec<u8> =
        (0..3 << 20).map(|index: u32| (index.wrapping_mul(2_654_435_761) >> 24) as u8).collect();
    let mut letters: Vec<_> = (1..=230).map(|id| dead_letter(id, b"small")).collect();
    letters[0].bytes = &giant;
    letters[1].key = None;
    letters[2].key = Some(&giant[..1 << 20]);
    letters[3].bytes = b"";
    letters[4].span = None;
    store.write(&batch(&claim, 1, &[], &letters)).await.unwrap();
    let found = bed.dead_letters().await.unwrap();
    assert_eq!(found.len(), 230);
    assert!(found[0].value == giant);
    assert_eq!(found[1].key, None);
    assert!(found[2].key.as_deref() == Some(&giant[..1 << 20]));
    assert_eq!(found[3].value, b"");
    assert_eq!((found[4].span_index, found[4].trace_id.as_str()), (None, ""));
    assert!(found[4..].iter().all(|letter| letter.value == b"small"));
}

pub async fn a_duplicate_id_is_reported_and_stores_nothing(bed: Bed) {
    let store = bed.store().await.unwrap();
    let claimed = claims(&*store, 2).await.unwrap();
    store.write(&batch(&claimed[0], 1, &[row(5)], &[])).await.unwrap();
    let rows = [row(4), row(5)];
    let twice = batch(&claimed[1], 1, &rows, &[]);
    assert_eq!(kind(store.write(&twice).await).unwrap(), ErrorKind::DuplicateId);
    assert_eq!(bed.ids().await.unwrap(), [5]);
    // The position did not move, and the connection is still good.
    store.write(&batch(&claimed[1], 1, &[row(6)], &[])).await.unwrap();
}

pub async fn a_probe_stores_nothing(bed: Bed) {
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    store.probe(&[row(1), row(2)]).await.unwrap();
    assert_eq!(bed.ids().await.unwrap(), Vec::<i64>::new());
    store.write(&batch(&claim, 1, &[row(1)], &[])).await.unwrap();
    assert_eq!(kind(store.probe(&[row(1)]).await).unwrap(), ErrorKind::DuplicateId);
}

pub async fn a_trace_is_read_oldest_first_up_to_the_limit(bed: Bed) {
    let store = bed.store().await.unwrap();
    let claimed = claims(&*store, 2).await.unwrap();
    store.write(&batch(&claimed[0], 1, &[row(30), row(50)], &[])).await.unwrap();
    store.write(&batch(&claimed[1], 1, &[row(20), row(40)], &[])).await.unwrap();
    let found = store.trace("t", 3).await.unwrap();
    assert_eq!(found.iter().map(|span| span.id).collect::<Vec<_>>(), [20, 30, 40]);
    let now = store.claim(&key(0), "replica").await.unwrap().database_time.ms;
    assert!(found.iter().all(|span| (now - 60_000..=now + 1_000).contains(&span.created_at_ms)), "{found:?}");
    assert_eq!(store.trace("nobody's", 3).await.unwrap(), []);
}

pub async fn a_trace_of_large_bodies_is_read_up_to_one_behind_the_bound(bed: Bed) {
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    // Of which each database takes one in a statement.
    let body = format!("\"{}\"", "x".repeat(700 << 10));
    let rows: Vec<_> = (1..=30).map(|id| Row { id, trace_id: "t", kind: "", body: &body }).collect();
    store.write(&batch(&claim, 30, &rows, &[])).await.unwrap();
    let first_beyond = TRACE_BYTES / body.len() + 1;
    assert_eq!(store.trace("t", 100).await.unwrap().len(), first_beyond + 1);
}

pub async fn a_write_that_is_dropped_half_way_is_stored_once_or_not_at_all(bed: Bed) {
    let store = bed.store().await.unwrap();
    store.create_streams(&[(key(0), 0)]).await.unwrap();
    let body = format!("\"{}\"", "x".repeat(300));
    let mut expected = Vec::new();
    // The first write ends, and shows how long one takes; the others get between none of that and a third more.
    let (mut takes, mut dropped) = (Duration::from_secs(60), 0);
    for round in 0..40_u32 {
        let claim = retried(|| store.claim(&KEY_0, "replica")).await;
        let first = i64::from(round) * 1000 + 1;
        let rows: Vec<_> =
            (first..first + 700).map(|id| Row { id, trace_id: "t", kind: "", body: &body }).collect();
        let patience = if round == 0 { takes } else { takes * round / 30 };
        let began = Instant::now();
        let finished = tokio::time::timeout(patience, store.write(&batch(&claim, 1, &rows, &[]))).await;
        if round == 0 {
            takes = began.elapsed();
        }
        dropped += u32::from(finished.is_err());
        let after = retried(|| store.claim(&KEY_0, "replica")).await.position;
        if after != claim.position {
            assert_eq!(after, Position { next_offset: claim.position.next_offset + 1, last_id: first + 699 });
            expected.extend(first..first + 700);
        } else {
            assert!(!matches!(finished, Ok(Ok(()))), "a write that succeeded left no trace");
        }
    }
    // The store in memory writes in one go.
    assert!(bed.database().await.is_err() || (1..40).contains(&dropped), "{dropped} were dropped");
    assert_eq!(bed.ids().await.unwrap(), expected);
}

pub async fn replicas_that_start_at_once_prepare_the_same_schema(bed: Bed) {
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let replica = bed.replica().unwrap();
        tasks.spawn(async move { retried(|| replica.prepare()).await });
    }
    tasks.join_all().await;
    // Once more, and by one that may only look.
    bed.store().await.unwrap();
    let onlooker = bed.replica_with("connectivity_trace", false).unwrap();
    onlooker.prepare().await.unwrap();
    claims(&*onlooker, 1).await.unwrap();
}
