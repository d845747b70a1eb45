//! Topics that were made anew, and messages that expired before they were read.

use std::sync::atomic::Ordering::Relaxed;

use super::*;
use crate::pipeline::SharedRate;
use crate::store::{Position, WriteBatch, id};

#[tokio::test(start_paused = true)]
async fn a_recreated_topic_is_noticed_and_read_from_its_beginning() {
    let (source, store) = (queue(1, 50), store());
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all rows", || store.row_count() == 50).await;
    replica.stop().await;
    // As many messages under the old name, so that the offset alone shows nothing.
    let recreated = MemorySource::new("cluster", "traces", 1);
    for number in 50..120 {
        recreated.push(&at(0), &span(number));
    }
    let replica = Replica::start(&recreated, &store);
    recreated.assign(&[at(0)]);
    until("all new rows", || store.row_count() >= 120).await;
    assert_eq!(stored(&store), produced(120));
    assert_eq!(replica.meters.recreated.load(Relaxed), 1);
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_replay_reads_nothing_of_a_topic_that_was_created_again_however_often_it_is_run() {
    let (source, store) = (queue(1, 50), store());
    let start = |source: &MemorySource| {
        Replica::start_changed(source, &store, |parts| {
            let (group, table) = ("pipeline".to_owned(), parts.table.clone());
            parts.shares_rate_of = Some(SharedRate { group, table, limit: None });
        })
    };
    let replica = start(&source);
    source.assign(&[at(0)]);
    until("all rows", || store.row_count() == 50).await;
    replica.stop().await;
    let positions = store.positions("cluster", "group").await.unwrap();
    let recreated = MemorySource::new("cluster", "traces", 1);
    for number in 50..120 {
        recreated.push(&at(0), &span(number));
    }
    for _ in 0..2 {
        let replica = start(&recreated);
        recreated.assign(&[at(0)]);
        until("it to notice", || replica.meters.recreated.load(Relaxed) > 2).await;
        replica.stop().await;
        recreated.revoke(&[at(0)]);
        assert_eq!(stored(&store), produced(50));
        assert_eq!(store.positions("cluster", "group").await.unwrap(), positions);
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_that_takes_the_place_of_another_one_has_streams_of_its_own() {
    let (source, store) = (queue(1, 50), store());
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all rows", || store.row_count() == 50).await;
    source.become_cluster("other");
    source.recreate(&at(0));
    for number in 50..120 {
        source.push(&at(0), &span(number));
    }
    // Nobody there knows the member.
    source.revoke(&[at(0)]);
    source.assign(&[at(0)]);
    until("it to be told", || {
        let status = replica.meters.status(&Identity::default());
        status.last_error.is_some_and(|error| error.contains("another cluster answers at this address"))
    })
    .await;
    replica.stop().await;
    source.revoke(&[at(0)]);
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("the other cluster's", || store.row_count() >= 120).await;
    replica.stop().await;
    assert_eq!(stored(&store), produced(120));
    let positions = async |cluster: &str| store.positions(cluster, "group").await.unwrap();
    assert_eq!(positions("cluster").await.into_iter().map(|(_, next)| next).collect::<Vec<_>>(), [50]);
    assert_eq!(positions("other").await.into_iter().map(|(_, next)| next).collect::<Vec<_>>(), [70]);
}

#[tokio::test(start_paused = true)]
async fn offsets_that_expired_before_they_were_stored_are_counted() {
    let (source, store) = (queue(1, 50), store());
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all rows", || store.row_count() == 50).await;
    replica.stop().await;
    let later = queue(1, 100);
    later.expire(&at(0), 80);
    let replica = Replica::start(&later, &store);
    later.assign(&[at(0)]);
    until("the rest", || store.row_count() == 70).await;
    assert_eq!(replica.meters.status(&Identity::default()).skipped_offsets, 30);
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_gap_is_counted_once_and_passed_for_good() {
    let (source, store) = (queue(1, 50), store());
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all rows", || store.row_count() == 50).await;
    replica.stop().await;
    let emptied = queue(1, 100);
    emptied.expire(&at(0), 100);
    let mut failures = 3;
    // The move is committed, and the answer lost.
    store.on_call(move |call| {
        let fails = call == Call::Committed && failures > 0;
        failures -= usize::from(fails);
        fails.then(unavailable)
    });
    for gap in [50, 0] {
        let replica = Replica::start(&emptied, &store);
        emptied.assign(&[at(0)]);
        until("passed", || {
            replica
                .meters
                .partitions()
                .get(&at(0))
                .is_some_and(|one| one.is_some_and(|one| one.position == 100))
        })
        .await;
        assert_eq!(store.progress()[0].position.next_offset, 100);
        assert_eq!(replica.meters.status(&Identity::default()).skipped_offsets, gap);
        emptied.revoke(&[at(0)]);
        replica.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn what_expired_from_a_partition_that_was_found_later_is_a_gap() {
    let (source, store) = (queue(1, 10), store());
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all rows", || store.row_count() == 10).await;
    source.add_partition(&at(1));
    for number in 10..20 {
        source.push(&at(1), &span(number));
    }
    source.expire(&at(1), 4);
    source.assign(&[at(1)]);
    until("the rest", || store.row_count() == 16).await;
    assert_eq!(replica.meters.status(&Identity::default()).skipped_offsets, 4);
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_old_topic_that_joins_a_running_pattern_has_lost_nothing() {
    let (source, store) = (queue(1, 10), store());
    let replica = Replica::start_changed(&source, &store, |parts| parts.by_pattern = true);
    source.assign(&[at(0)]);
    until("all rows", || store.row_count() == 10).await;
    let old = |partition| TopicPartition { topic: "old".into(), partition };
    for partition in [0, 1] {
        source.add_partition(&old(partition));
        for number in 0..10 {
            source.push(&old(partition), &span(10 + 10 * partition as usize + number));
        }
        source.expire(&old(partition), 4);
    }
    source.assign(&[old(0), old(1)]);
    until("what is left of it", || store.row_count() == 22).await;
    assert_eq!(replica.meters.status(&Identity::default()).skipped_offsets, 0);
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_recreated_topic_begins_one_stream_however_often_opening_is_tried() {
    let (source, store) = (queue(1, 50), store());
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all rows", || store.row_count() == 50).await;
    replica.stop().await;
    let recreated = MemorySource::new("cluster", "traces", 1);
    for number in 50..120 {
        recreated.push(&at(0), &span(number));
    }
    let mut superseded = false;
    let mut failures = 3;
    store.on_call(move |call| {
        superseded |= call == Call::Supersede;
        let fails = superseded && call == Call::Claim && failures > 0;
        failures -= usize::from(fails);
        fails.then(unavailable)
    });
    let replica = Replica::start(&recreated, &store);
    recreated.assign(&[at(0)]);
    until("all new rows", || store.row_count() >= 120).await;
    assert_eq!(stored(&store), produced(120));
    assert_eq!(store.progress().len(), 2, "one new stream");
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn who_hears_late_that_a_topic_was_recreated_does_not_begin_it_again() {
    let (source, store) = (queue(1, 50), store());
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all rows", || store.row_count() == 50).await;
    replica.stop().await;
    let recreated = |spans: std::ops::Range<usize>| {
        let source = MemorySource::new("cluster", "traces", 1);
        for number in spans {
            source.push(&at(0), &span(number));
        }
        source
    };
    // The first claim that follows the discovery fails for so long that another replica goes ahead.
    let away = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let mut claims = 0;
    store.on_call({
        let away = away.clone();
        move |call| {
            claims += usize::from(call == Call::Claim);
            if claims == 2 {
                away.store(true, std::sync::atomic::Ordering::Relaxed);
            }
            (call == Call::Claim && away.load(std::sync::atomic::Ordering::Relaxed)).then(unavailable)
        }
    });
    let late_source = recreated(50..120);
    let late = Replica::start(&late_source, &store);
    late_source.assign(&[at(0)]);
    until("discovered", || away.load(std::sync::atomic::Ordering::Relaxed)).await;
    store.clear_hooks();
    let key = store.progress()[0].key.clone();
    let claim = store.claim(&key, "another").await.unwrap();
    store.supersede(&key, &claim, 0).await.unwrap();
    until("all new rows", || store.row_count() >= 120).await;
    assert_eq!(stored(&store), produced(120));
    assert_eq!(store.progress().len(), 2, "one new stream");
    late.stop().await;
}

#[tokio::test(start_paused = true)]
async fn ids_of_a_clock_that_was_a_year_ahead_are_not_gone_on_from() {
    const YEAR_MS: i64 = 365 * 24 * 3_600_000;
    let (source, store) = (queue(1, 50), store());
    let key = StreamKey {
        cluster_id: "cluster".to_owned(),
        group: "group".to_owned(),
        topic: "traces".to_owned(),
        partition: 0,
    };
    store.create_streams(&[(key.clone(), 0)]).await.unwrap();
    let claim = store.claim(&key, "another").await.unwrap();
    let now_ms = jiff::Timestamp::now().as_millisecond().max(store.now_ms());
    let last_id = id::first_at(now_ms + YEAR_MS);
    let batch = WriteBatch {
        stream: claim.stream,
        epoch: claim.epoch,
        from: claim.position,
        to: Position { next_offset: 20, last_id },
        fingerprint: None,
        rows: &[],
        dead_letters: &[],
        queue_copies: false,
    };
    store.write(&batch).await.unwrap();
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("the rest", || store.row_count() == 30).await;
    assert!(store.rows().iter().all(|row| row.id < id::first_at(store.now_ms() + 60_000)));
    assert_eq!(replica.meters.recreated.load(std::sync::atomic::Ordering::Relaxed), 0);
    assert_eq!(replica.meters.status(&Identity::default()).skipped_offsets, 0);
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn what_comes_into_a_topic_that_is_made_later_is_stored_also_from_latest() {
    let (source, store) = (MemorySource::new("cluster", "traces", 0), store());
    let replica = Replica::start_changed(&source, &store, |parts| {
        parts.start_from = StartFrom::Latest;
        parts.by_pattern = true;
    });
    until("it was looked", || replica.meters.preflight.source_reached.load(Relaxed)).await;
    source.add_partition(&at(0));
    source.push(&at(0), &span(0));
    source.assign(&[at(0)]);
    until("the row", || store.row_count() == 1).await;
    replica.stop().await;
}
