//! How partitions of one replica share its rate.

use super::*;

const SPANS: usize = 100;

/// A message of so many spans.
fn large(number: usize) -> Vec<u8> {
    let spans = vec![r#"{"kind":"SERVER"}"#; SPANS].join(",");
    format!(r#"{{"traceId":"large{number}","spans":[{spans}]}}"#).into_bytes()
}

/// A backlog of large messages in one partition and of small ones in another get the same rate: in so many lanes.
async fn share_the_rate(lanes: usize) {
    let source = MemorySource::new("cluster", "traces", 2);
    for number in 0..20_000 {
        source.push(&at(1), &span(number));
        if number % SPANS == 0 {
            source.push(&at(0), &large(number));
        }
    }
    let store = Arc::new(MemoryStore::new(lanes, 1 << 20));
    let replica = Replica::start_changed(&source, &store, |_| ());
    replica.live.send_replace(Applied::new(Live::of_rate(1_000), 2, Origin::File));
    source.assign(&[at(0), at(1)]);
    until("ten seconds' worth", || store.row_count() >= 10_000).await;
    let rows = stored(&store);
    let large = rows.iter().filter(|id| id.starts_with("large")).count();
    assert!(
        large.abs_diff(rows.len() - large) <= 4 * SPANS,
        "{large} of {} rows are of large messages",
        rows.len()
    );
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn large_messages_leave_small_ones_their_part_of_the_rate_in_one_lane() {
    share_the_rate(1).await;
}

#[tokio::test(start_paused = true)]
async fn large_messages_leave_small_ones_their_part_of_the_rate_in_two_lanes() {
    share_the_rate(2).await;
}
