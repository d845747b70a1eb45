//! Where reading begins, how far ahead it goes, and reads that fail.

use super::*;

#[tokio::test(start_paused = true)]
async fn latest_counts_at_the_very_first_start_only() {
    let (source, store) = (queue(1, 50), store());
    let replica = Replica::start_from(&source, &store, StartFrom::Latest);
    source.assign(&[at(0)]);
    until("the start is committed", || !store.progress().is_empty()).await;
    replica.stop().await;
    for number in 50..60 {
        source.push(&at(0), &span(number));
    }
    source.add_partition(&at(1));
    source.push(&at(1), &span(60));
    source.revoke(&[at(0)]);
    let replica = Replica::start_from(&source, &store, StartFrom::Latest);
    source.assign(&[at(0), at(1)]);
    until("what came after", || store.row_count() == 11).await;
    let expected: BTreeSet<String> = (50..61).map(|number| format!("t{number}")).collect();
    assert_eq!(stored(&store).into_iter().collect::<BTreeSet<_>>(), expected);
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_first_starts_of_many_partitions_are_resolved_once() {
    let (source, store) = (queue(40, 80), store());
    let replica = Replica::start(&source, &store);
    source.assign(&(0..40).map(at).collect::<Vec<_>>());
    until("all rows", || store.row_count() == 80).await;
    assert_eq!(source.resolved(), 40);
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn failed_reads_cost_a_pause_and_nothing_else() {
    let (source, store) = (queue(1, 30), store());
    source.fail_next_read(&at(0), "broken pipe");
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all rows", || store.row_count() == 30).await;
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_batch_that_may_have_thousands_of_rows_does_not_wait_while_there_are_more() {
    let (source, store) = (queue(1, 20_000), store());
    let replica = Replica::start_changed(&source, &store, |parts| {
        (parts.max_rows, parts.max_delay) = (5_000, Duration::from_secs(10));
    });
    source.assign(&[at(0)]);
    let began = Instant::now();
    until("all rows", || store.row_count() == 20_000).await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn partitions_of_a_lane_get_equal_parts_however_many_idle_ones_lie_between_them() {
    let store = Arc::new(MemoryStore::new(1, 1 << 20));
    let source = MemorySource::new("cluster", "traces", 12);
    for number in 0..20_000 {
        source.push(&at(if number % 2 == 0 { 0 } else { 1 }), &span(number));
    }
    let replica = Replica::start(&source, &store);
    replica.live.send_modify(|applied| (applied.live, applied.revision) = (Live::of_rate(1_000), 2));
    source.assign(&(0..12).map(at).collect::<Vec<_>>());
    until("part of the rows", || store.row_count() >= 5_000).await;
    let position = |partition: i32| {
        let progress = store.progress();
        progress.iter().find(|row| row.key.partition == partition).unwrap().position.next_offset
    };
    let (one, other) = (position(0), position(1));
    assert!(one.abs_diff(other) <= 500, "{one} and {other}");
    replica.stop().await;
}
