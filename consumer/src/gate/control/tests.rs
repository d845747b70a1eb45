use super::*;
use crate::gate::bucket::{CATCH_UP, Offer};
use crate::gate::flow::Flow;
use crate::store::memory::{Call, MemoryStore};

fn request(holder: &str) -> LeaseRequest {
    LeaseRequest {
        name: "cluster/group/table".to_owned(),
        holder: holder.to_owned(),
        demand: WHOLE,
        ttl: lease::TTL,
    }
}

/// With a third of the rate, of which more than a quantum has just gone out ahead of its time.
async fn ahead_of_the_rate() -> RateControl {
    let (clock, meters) = (Arc::new(DatabaseClock::default()), Arc::new(Meters::default()));
    let control = RateControl::new(Arc::new(Gate::new()), clock, meters, Live::of_rate(30_000));
    let later = Instant::now() + lease::TTL;
    control.gate.set_rate(10_000.0, later);
    tokio::time::advance(WINDOW).await;
    let offer = Offer { first: 1, available: 100_000, most: 100_000, more: true };
    let (spans, _) = control.gate.release(&Flow::default(), offer, |most| (most, most)).await;
    assert!(spans as f64 >= 10_000.0 * CATCH_UP.as_secs_f64() && control.gate.is_ahead());
    {
        let mut inputs = control.lock();
        (inputs.share, inputs.lease_end) = (WHOLE / 3, later);
    }
    control
}

#[tokio::test(start_paused = true)]
async fn what_went_out_ahead_of_the_rate_keeps_no_share_that_others_hold_by_now() {
    for (held_by_others, kept) in [(WHOLE, 0), (WHOLE - 1_000, 1_000)] {
        let control = ahead_of_the_rate().await;
        let store = MemoryStore::new(1, 1 << 20);
        // The rows were deleted, or the database's clock stepped forward, and somebody took it all.
        store.lease(&request("other"), &mut |_| held_by_others).await.unwrap();
        control.renew_once(&store, &request("own")).await.unwrap();
        assert_eq!(control.share(), kept);
    }
}

/// The part of the rate that may be used by a replica whose lease has lapsed, soon after renewals that failed for so long,
/// once at least.
async fn part_after(failing: Duration) -> f64 {
    let (clock, meters) = (Arc::new(DatabaseClock::default()), Arc::new(Meters::default()));
    let control = Arc::new(RateControl::new(Arc::new(Gate::new()), clock, meters, Live::of_rate(1_000)));
    let store = MemoryStore::new(1, 1 << 20);
    let (until, mut is_first) = (Instant::now() + failing, true);
    store.on_call(move |call| {
        let fails = call == Call::Lease && (std::mem::take(&mut is_first) || Instant::now() < until);
        fails.then(|| StoreError::new(ErrorKind::Unavailable, "it is away"))
    });
    let (renewing, name) = (control.clone(), "cluster/group/table".to_owned());
    let renewals = tokio::spawn(async move {
        renewing.renew(&store, name, "own".to_owned(), CancellationToken::new()).await;
    });
    tokio::time::sleep(failing + Duration::from_secs(2)).await;
    assert!(control.lock().failures.is_none(), "the last renewal has succeeded");
    renewals.abort();
    control.gate.health(|health, now| health.ramp.part(now))
}

#[tokio::test(start_paused = true)]
async fn one_renewal_that_fails_is_no_outage() {
    assert_eq!(part_after(Duration::ZERO).await, 1.0);
    assert!(part_after(Duration::from_secs(5)).await < 1.0);
}
