use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;

use super::*;

fn later() -> Instant {
    Instant::now() + Duration::from_secs(3_600)
}

const OFFER: Offer = Offer { first: 1, available: 100, most: 1000, more: true };

#[tokio::test(start_paused = true)]
async fn a_waiting_lane_notices_a_change_of_the_rate_at_once() {
    let gate = Arc::new(Gate::new());
    let lane = tokio::spawn({
        let gate = gate.clone();
        async move { gate.release(&Flow::default(), OFFER, |most| (most, most)).await }
    });
    tokio::task::yield_now().await;
    gate.set_rate(1_000.0, later());
    let begin = Instant::now();
    assert_eq!(lane.await.unwrap().0, 20);
    assert!(begin.elapsed() < Duration::from_millis(30), "{:?}", begin.elapsed());
}

/// The bucket itself checks, in a debug build, that no time goes back.
#[test]
fn threads_that_meet_at_the_gate_bring_it_times_in_their_order() {
    let gate = Gate::new();
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let gate = &gate;
            scope.spawn(move || {
                for turn in 0..10_000 {
                    gate.set_rate(f64::from(1_000 + thread + turn % 2), later());
                    gate.forget_credit();
                }
            });
        }
    });
}

#[tokio::test(start_paused = true)]
async fn a_cancelled_wait_takes_nothing() {
    let gate = Gate::new();
    gate.set_rate(10.0, later());
    let waited = tokio::time::timeout(
        Duration::from_millis(1),
        gate.release(&Flow::default(), OFFER, |most| (most, ())),
    )
    .await;
    assert!(waited.is_err());
    assert_eq!(gate.take_usage().released, 0);
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_counted_and_wakes_the_lease() {
    let gate = Arc::new(Gate::new());
    gate.set_rate(1.0, later());
    gate.release(&Flow::default(), OFFER, |most| (most, ())).await;
    let lane = tokio::spawn({
        let gate = gate.clone();
        async move { gate.release(&Flow::default(), OFFER, |_| (1, ())).await }
    });
    tokio::task::yield_now().await;
    assert_eq!(gate.take_usage(), Usage { released: 1, waiting: 100, owed: 0, saturated: true });
    tokio::time::timeout(Duration::from_millis(1), gate.hungry()).await.unwrap();
    lane.await.unwrap();
    assert_eq!(gate.take_usage(), Usage { released: 1, waiting: 0, owed: 0, saturated: true });
    assert!(!gate.take_usage().saturated);
}

/// Asks for spans of messages of a size again and again, from when it is spawned on, with a pause for each commit.
/// Counts what it got.
fn backlog(gate: &Arc<Gate>, message: usize, got: &Arc<AtomicUsize>) {
    let (gate, got, flow) = (gate.clone(), got.clone(), Flow::default());
    tokio::spawn(async move {
        let offer = Offer { first: message, available: 1_000, most: 1_000, more: true };
        loop {
            let whole = |most: usize| (most / message).max(1) * message;
            let (spans, _) = gate.release(&flow, offer, |most| (whole(most), whole(most))).await;
            got.fetch_add(spans, Relaxed);
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    });
}

#[tokio::test(start_paused = true)]
async fn backlogs_of_large_and_of_small_messages_get_the_same() {
    let gate = Arc::new(Gate::new());
    gate.set_rate(1_000.0, later());
    let (large, small) = <(Arc<AtomicUsize>, Arc<AtomicUsize>)>::default();
    backlog(&gate, 1_000, &large);
    backlog(&gate, 1, &small);
    tokio::time::sleep(Duration::from_secs(60)).await;
    let (large, small) = (large.load(Relaxed), small.load(Relaxed));
    assert!(large.abs_diff(small) <= 1_000 && large + small >= 58_000, "{large} and {small} spans");
}

#[tokio::test(start_paused = true)]
async fn who_wants_less_than_its_part_waits_for_one_message_of_the_others_at_most() {
    let gate = Arc::new(Gate::new());
    gate.set_rate(1_000.0, later());
    let other = Arc::default();
    backlog(&gate, 400, &other);
    let flow = Flow::default();
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        let came = Instant::now();
        let offer = Offer { first: 1, available: 10, most: 1_000, more: false };
        gate.release(&flow, offer, |most| (most, ())).await;
        assert!(came.elapsed() <= Duration::from_millis(450), "waited {:?}", came.elapsed());
    }
    assert!(other.load(Relaxed) >= 4_000, "{other:?} spans");
}
