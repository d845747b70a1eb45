//! What every store must do with leases of shares of a rate.

use std::time::Duration;

use sluice_consumer::gate::lease::{Holder, LeaseRequest, WHOLE};
use sluice_consumer::store::ErrorKind;
use sluice_tests::eventually;

use crate::bed::Bed;

const DEADLINE: Duration = Duration::from_secs(20);

pub fn request(holder: &str, ttl: Duration) -> LeaseRequest {
    LeaseRequest { name: "c/g/t".to_owned(), holder: holder.to_owned(), demand: WHOLE, ttl }
}

pub fn free(others: &[Holder]) -> u32 {
    WHOLE - others.iter().map(|holder| holder.share).sum::<u32>()
}

pub async fn shares_never_exceed_the_whole_while_many_renew(bed: Bed) {
    let mut tasks = tokio::task::JoinSet::new();
    for replica in 0..4 {
        let store = bed.store().await.unwrap();
        tasks.spawn(async move {
            let request = request(&format!("replica-{replica}"), DEADLINE);
            for round in 0..15_u32 {
                let greedy = |others: &[Holder]| {
                    assert!(others.iter().all(|other| other.id != request.holder));
                    let taken: u32 = others.iter().map(|holder| holder.share).sum();
                    assert!(taken <= WHOLE, "{others:?}");
                    // Now all that is free, now a little.
                    if (round + replica) % 3 == 0 { free(others) } else { free(others).min(1000 * round) }
                };
                let mut decide = greedy;
                loop {
                    match store.lease(&request, &mut decide).await {
                        Ok(grant) => break assert!(grant.share <= WHOLE),
                        Err(error) => assert_eq!(error.kind, ErrorKind::Conflict, "{error:?}"),
                    }
                }
            }
        });
    }
    tasks.join_all().await;
}

pub async fn a_lease_ends_by_itself(bed: Bed) {
    const TTL: Duration = Duration::from_millis(300);
    let (first, second) = (bed.store().await.unwrap(), bed.store().await.unwrap());
    let taken = first.lease(&request("first", TTL), &mut |others| free(others)).await.unwrap();
    assert_eq!(taken.share, WHOLE);
    let ended = eventually("the lease to end", DEADLINE, async || {
        let grant = second.lease(&request("second", DEADLINE), &mut |others| free(others)).await?;
        Ok((grant.share == WHOLE).then_some(grant.database_time.ms))
    })
    .await
    .unwrap();
    let lasted = ended - taken.database_time.ms;
    assert!(lasted >= TTL.as_millis() as i64, "it ended after {lasted} ms");
    // The first one gets nothing back, although it never gave anything up.
    let late = first.lease(&request("first", DEADLINE), &mut |others| free(others)).await.unwrap();
    assert_eq!(late.share, 0);
}

/// As a dead replica leaves it, when the database's clock was set back by an hour since.
pub async fn a_lease_that_ends_later_than_any_can_is_shortened(bed: Bed) {
    const HOUR: Duration = Duration::from_secs(3_600);
    const TTL: Duration = Duration::from_millis(300);
    let store = bed.store().await.unwrap();
    store.lease(&request("dead", HOUR), &mut |others| free(others)).await.unwrap();
    let other = LeaseRequest { name: "another".to_owned(), ..request("alive", HOUR) };
    store.lease(&other, &mut |others| free(others)).await.unwrap();
    let renew = async || store.lease(&request("second", TTL), &mut |others| free(others)).await;
    assert_eq!(renew().await.unwrap().share, 0, "it lasts as long as any");
    eventually("the lease to end", DEADLINE, async || Ok((renew().await?.share == WHOLE).then_some(())))
        .await
        .unwrap();
    let other = LeaseRequest { holder: "second".to_owned(), ..other };
    assert_eq!(
        store.lease(&other, &mut |others| free(others)).await.unwrap().share,
        0,
        "not of this pipeline"
    );
}

pub async fn a_lease_that_is_given_back_is_free_at_once(bed: Bed) {
    let store = bed.store().await.unwrap();
    store.lease(&request("first", DEADLINE), &mut |others| free(others)).await.unwrap();
    let other = LeaseRequest { name: "another".to_owned(), ..request("second", DEADLINE) };
    assert_eq!(store.lease(&other, &mut |others| free(others)).await.unwrap().share, WHOLE);
    let mut seen = Vec::new();
    let decide = &mut |others: &[Holder]| {
        seen = others.to_vec();
        0
    };
    store.lease(&request("second", DEADLINE), decide).await.unwrap();
    assert_eq!(seen, [Holder { id: "first".to_owned(), share: WHOLE, demand: WHOLE }]);
    store.end_lease("c/g/t", "first").await.unwrap();
    let grant = store.lease(&request("second", DEADLINE), &mut |others| free(others)).await.unwrap();
    assert_eq!(grant.share, WHOLE);
}
