use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::*;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

fn offer(available: usize) -> Offer {
    Offer { first: 1, available, most: 1000, more: true }
}

/// Releases whatever the bucket allows until `end`, with `stall` after each release, and returns the releases.
fn drain(
    bucket: &mut Bucket,
    begin: Duration,
    end: Duration,
    message: usize,
    stall: Duration,
) -> Vec<(Duration, usize)> {
    let mut now = begin;
    let mut releases = Vec::new();
    while now < end {
        match bucket.ask(now, Offer { first: message, available: 1_000_000, most: 1000, more: true }) {
            Answer::Release(most) => {
                let spans = (most / message).max(1) * message;
                bucket.released(now, spans, 1);
                releases.push((now, spans));
                now += stall;
            }
            Answer::Wait(until) => now = until.max(now + Duration::from_micros(10)),
            Answer::Stopped => break,
        }
    }
    releases
}

const SECOND: Duration = Duration::from_secs(1);

fn most_in_a_second(releases: &[(Duration, usize)]) -> usize {
    releases
        .iter()
        .enumerate()
        .map(|(index, (begin, _))| {
            releases[index..].iter().take_while(|(at, _)| *at < *begin + SECOND).map(|(_, spans)| spans).sum()
        })
        .max()
        .unwrap_or(0)
}

fn total(releases: &[(Duration, usize)]) -> usize {
    releases.iter().map(|(_, spans)| spans).sum()
}

#[test]
fn a_new_bucket_is_empty_and_stopped() {
    let mut bucket = Bucket::new(ms(0));
    assert_eq!(bucket.ask(ms(5_000), offer(1)), Answer::Stopped);
    bucket.set_rate(ms(5_000), 1_000.0);
    assert!(matches!(bucket.ask(ms(5_000), offer(100)), Answer::Wait(_)));
}

#[test]
fn a_quantum_of_the_rate_is_released_at_a_time() {
    let mut bucket = Bucket::new(ms(0));
    bucket.set_rate(ms(0), 1_000.0);
    assert_eq!(bucket.ask(ms(0), offer(500)), Answer::Wait(ms(20)));
    assert_eq!(bucket.ask(ms(20), offer(500)), Answer::Release(20));
}

#[test]
fn fewer_spans_than_a_quantum_do_not_wait_for_a_full_one() {
    let mut bucket = Bucket::new(ms(0));
    bucket.set_rate(ms(0), 1_000.0);
    assert_eq!(bucket.ask(ms(0), offer(3)), Answer::Wait(ms(3)));
}

#[test]
fn a_large_message_leaves_a_debt_that_is_paid_before_the_next() {
    let mut bucket = Bucket::new(ms(0));
    bucket.set_rate(ms(0), 6.0);
    let releases = drain(&mut bucket, ms(0), ms(60_000), 100, ms(0));
    assert_eq!(total(&releases), 400, "one message at once, then one each 16.7 s: {releases:?}");
    assert_eq!(most_in_a_second(&releases), 100);
}

#[test]
fn a_debt_outlives_a_change_of_the_rate() {
    let mut bucket = Bucket::new(ms(0));
    bucket.set_rate(ms(0), 100.0);
    assert!(matches!(
        bucket.ask(ms(20), Offer { first: 500, available: 500, most: 1000, more: true }),
        Answer::Release(500)
    ));
    bucket.released(ms(20), 500, 500);
    bucket.set_rate(ms(20), 50.0);
    let Answer::Wait(until) = bucket.ask(ms(20), offer(1)) else { panic!("must wait for the debt") };
    assert!(until > ms(9_900), "498 spans at 50 a second: {until:?}");
}

#[test]
fn a_debt_is_told_and_shrinks_by_the_rate_while_nothing_is_asked_for() {
    let mut bucket = Bucket::new(ms(0));
    bucket.set_rate(ms(0), 100.0);
    assert_eq!(bucket.owed(ms(20)), 0.0);
    bucket.released(ms(20), 502, 502);
    assert_eq!(bucket.owed(ms(1_020)).round(), 400.0);
    bucket.set_end(ms(1_020), ms(2_020));
    assert_eq!(bucket.owed(ms(60_000)).round(), 300.0, "without a lease nothing is paid");
    bucket.set_end(ms(60_000), ms(90_000));
    bucket.set_rate(ms(60_000), 100.0);
    assert_eq!(bucket.owed(ms(70_000)), 0.0);
}

#[test]
fn stalls_shorter_than_the_burst_lose_nothing() {
    let mut bucket = Bucket::new(ms(0));
    bucket.set_rate(ms(0), 2_000.0);
    // Each transaction of 40 spans takes 5 ms, and one in five hundred takes 200 ms.
    let mut now = ms(0);
    let mut releases = Vec::new();
    while now < ms(30_000) {
        let stall = if releases.len() % 500 == 499 { ms(200) } else { ms(5) };
        let part = drain(&mut bucket, now, now + ms(1), 1, stall);
        now = part.last().map_or(now + ms(1), |(at, _)| *at + stall);
        releases.extend(part);
    }
    assert!(total(&releases) as f64 >= 0.98 * 2_000.0 * 30.0, "{}", total(&releases));
    assert!(most_in_a_second(&releases) <= 2_040, "{}", most_in_a_second(&releases));
}

#[test]
fn the_first_second_after_a_decrease_complies() {
    let mut bucket = Bucket::new(ms(0));
    bucket.set_rate(ms(0), 8_000.0);
    drain(&mut bucket, ms(0), ms(1_500), 1, ms(0));
    // Credit is saved during a stall, and then the rate falls.
    bucket.forget_credit(ms(1_900));
    bucket.set_rate(ms(1_900), 500.0);
    let after = drain(&mut bucket, ms(1_900), ms(2_900), 1, ms(0));
    assert!(total(&after) <= 500, "{}", total(&after));
    assert!(total(&after) >= 480, "{}", total(&after));
}

#[test]
fn rate_zero_stops_and_saves_nothing() {
    let mut bucket = Bucket::new(ms(0));
    bucket.set_rate(ms(0), 1_000.0);
    bucket.set_rate(ms(400), 0.0);
    assert_eq!(bucket.ask(ms(900), offer(1)), Answer::Stopped);
    bucket.set_rate(ms(60_000), 1_000.0);
    assert!(matches!(bucket.ask(ms(60_000), offer(100)), Answer::Wait(_)), "the bucket starts empty again");
}

#[test]
fn a_rate_ends_by_itself_even_where_nobody_looks() {
    let mut bucket = Bucket::new(ms(0));
    bucket.set_rate(ms(0), 1_000.0);
    bucket.set_end(ms(0), ms(3_000));
    assert!(matches!(bucket.ask(ms(2_900), offer(100)), Answer::Release(_)));
    assert_eq!(bucket.ask(ms(9_000), offer(100)), Answer::Stopped, "after a freeze past the end");
    bucket.set_end(ms(9_000), ms(12_000));
    bucket.set_rate(ms(9_000), 1_000.0);
    assert!(matches!(bucket.ask(ms(9_000), offer(100)), Answer::Wait(_)), "and it starts empty again");
}

#[test]
fn a_rate_that_is_renewed_late_gives_no_credit_for_the_gap() {
    let mut bucket = Bucket::new(ms(0));
    bucket.set_rate(ms(0), 1_000.0);
    bucket.set_end(ms(0), ms(100));
    bucket.set_end(ms(9_000), ms(12_000));
    bucket.set_rate(ms(9_000), 1_000.0);
    assert!(matches!(bucket.ask(ms(9_000), offer(100)), Answer::Wait(_)));
}

proptest! {
    #![proptest_config(ProptestConfig { rng_seed: RngSeed::Fixed(1), ..ProptestConfig::default() })]

    /// The bound and the use of the rate, whatever the rate, the size of messages and the duration of commits.
    #[test]
    fn every_second_keeps_the_bound_and_the_rate_is_used(
        rate in 1.0f64..50_000.0,
        message in 1usize..300,
        stall_ms in 0u64..45,
    ) {
        let mut bucket = Bucket::new(ms(0));
        bucket.set_rate(ms(0), rate);
        let seconds = 20.0f64.max(50.0 * message as f64 / rate).min(500.0);
        let end = Duration::from_secs_f64(seconds);
        let releases = drain(&mut bucket, ms(0), end, message, ms(stall_ms));
        let quantum = (rate * QUANTUM.as_secs_f64()).max(message as f64);
        let fullest = most_in_a_second(&releases) as f64;
        let allowed = rate * 1.01 + quantum;
        prop_assert!(fullest <= allowed, "{fullest} in a second, {allowed} allowed");
        // However long a commit takes, the next transaction has what became due meanwhile, up to a batch. Of so
        // large pieces a part never fits into the window.
        let batch = ((1_000 / message).max(1) * message) as f64;
        let stall = stall_ms as f64 / 1e3;
        let fits = rate * (1.0 - 0.8 * stall);
        let possible = seconds * if stall_ms == 0 { rate } else { fits.min(batch / stall) };
        prop_assert!(
            total(&releases) as f64 + quantum + rate * (0.02 + stall) >= 0.98 * possible,
            "released {} of {}", total(&releases), possible
        );
    }

    /// The bound under arbitrary changes of the rate: never more than the largest rate of the window.
    #[test]
    fn changes_of_the_rate_keep_the_bound(
        rates in prop::collection::vec((0.0f64..5_000.0, 50u64..1_500), 1..12),
        message in 1usize..100,
        stall_ms in 0u64..50,
    ) {
        let mut bucket = Bucket::new(ms(0));
        let mut now = ms(0);
        let mut releases = Vec::new();
        let mut largest = 0.0f64;
        for (rate, duration) in rates {
            bucket.set_rate(now, rate);
            largest = largest.max(rate);
            releases.extend(drain(&mut bucket, now, now + ms(duration), message, ms(stall_ms)));
            now = (now + ms(duration)).max(releases.last().map_or(now, |(at, _)| *at));
        }
        let fullest = most_in_a_second(&releases) as f64;
        // A smaller rate has a smaller quantum, which the last message exceeds by more.
        let allowed = largest * 1.02 + message as f64;
        prop_assert!(fullest <= allowed, "{fullest} in a second, {allowed} allowed");
    }
}

#[test]
fn a_message_larger_than_the_quantum_is_not_ahead_of_the_rate_and_a_burst_is() {
    let mut bucket = Bucket::new(ms(0));
    bucket.set_end(ms(0), Duration::from_secs(3_600));
    bucket.set_rate(ms(0), 250.0);
    bucket.released(ms(400), 100, 100);
    assert!(!bucket.is_ahead(ms(401)), "its place in the queue is its own");
    bucket.released(ms(800), 100, 100);
    assert!(!bucket.is_ahead(ms(801)));
    bucket.released(ms(810), 100, 100);
    assert!(bucket.is_ahead(ms(811)), "two at once are");
    let mut small = Bucket::new(ms(0));
    small.set_end(ms(0), Duration::from_secs(3_600));
    small.set_rate(ms(0), 250.0);
    small.released(ms(400), 100, 1);
    assert!(small.is_ahead(ms(401)), "so are a hundred small ones");
}
