//! The limiter on a virtual clock: gates, leases and the real code between them, with replicas that join, die,
//! leave, stand still and go on, with edits of the rate, and a database that is away, slow, or refuses batches.
//!
//! `PROPTEST_CASES=5000 SEED=7 cargo test --test limiter` runs more schedules, and other ones.
#![expect(clippy::unwrap_used, reason = "helpers of a test fail it")]

mod bench;
mod schedules;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use sluice_consumer::store::memory::Call;
use sluice_consumer::store::{ErrorKind, StoreError};
use sluice_crds::v1alpha1::{Guard, ScheduleWindow};

use bench::{Backlog, Bench, Event, LANES, check_bound, run};
use schedules::LEAST_USED;

#[test]
fn a_guard_lowers_the_rate_while_the_database_is_slow_and_gives_it_back() {
    run(async {
        let mut bench = Bench::new(4_000, 1, Duration::from_millis(5));
        bench.edit(|live| live.guard = Some(Guard::default()));
        for _ in 0..3 {
            bench.join(Backlog::Endless);
        }
        tokio::time::sleep(Duration::from_secs(15)).await;
        let fast = bench.released_between(Duration::from_secs(5), Duration::from_secs(15));
        assert!(fast as f64 >= LEAST_USED * 40_000.0, "{fast} released by a fast database");
        bench.apply(Event::Commits(Duration::from_millis(200))).await;
        tokio::time::sleep(Duration::from_secs(20)).await;
        // At most the least that the guard goes down to, of all replicas together; lanes with so slow commits use less.
        let slow = bench.released_between(Duration::from_secs(25), Duration::from_secs(35));
        assert!((100..=1_100).contains(&slow), "{slow} released in 10 s by a slow database");
        bench.apply(Event::Commits(Duration::from_millis(5))).await;
        tokio::time::sleep(Duration::from_secs(50)).await;
        let again = bench.released_between(Duration::from_secs(75), Duration::from_secs(85));
        assert!(again as f64 >= LEAST_USED * 40_000.0, "{again} released forty seconds later");
        check_bound(&bench, &[(Duration::ZERO, 4_000)]).unwrap();
    });
}

#[test]
fn after_a_suspension_the_rate_comes_back_slowly_and_is_used_five_seconds_later() {
    run(async {
        let mut bench = Bench::new(2_000, 1, Duration::from_millis(5));
        bench.join(Backlog::Endless);
        bench.join(Backlog::Endless);
        tokio::time::sleep(Duration::from_secs(1)).await;
        let first = bench.released_between(Duration::ZERO, Duration::from_secs(1));
        assert!(first > 1_500, "{first}: a start is no stop");
        bench.edit(|live| live.suspend = true);
        tokio::time::sleep(Duration::from_secs(9)).await;
        bench.edit(|live| live.suspend = false);
        tokio::time::sleep(Duration::from_secs(15)).await;
        let second = |at: u64| bench.released_between(Duration::from_secs(at), Duration::from_secs(at + 1));
        assert_eq!(second(5), 0);
        assert!((200..=400).contains(&second(10)), "{} in the first second", second(10));
        assert!((400..=800).contains(&second(11)), "{} in the second one", second(11));
        let used = bench.released_between(Duration::from_secs(15), Duration::from_secs(25));
        assert!(used as f64 >= LEAST_USED * 20_000.0, "{used}");
        check_bound(&bench, &[(Duration::ZERO, 2_000)]).unwrap();
    });
}

#[test]
fn a_database_that_took_no_batch_for_a_while_is_not_met_with_the_whole_rate() {
    run(async {
        let mut bench = Bench::new(2_000, 1, Duration::from_millis(5));
        bench.join(Backlog::Endless);
        tokio::time::sleep(Duration::from_secs(5)).await;
        // Shorter than a lease.
        bench.apply(Event::WritesFail(Duration::from_millis(2_000))).await;
        tokio::time::sleep(Duration::from_secs(15)).await;
        // Lanes try again at latest 1.6 s after it.
        let back = bench.released_between(Duration::from_secs(7), Duration::from_secs(9));
        assert!(back < 2_000, "{back} in two seconds");
        let used = bench.released_between(Duration::from_secs(14), Duration::from_secs(20));
        assert!(used as f64 >= LEAST_USED * 12_000.0, "{used}");
    });
}

#[test]
fn windows_begin_and_end_on_time_and_an_edit_of_them_counts_at_once() {
    run(async {
        let mut bench = Bench::new(2_000, 1, Duration::from_millis(5));
        bench.join(Backlog::Endless);
        tokio::time::sleep(Duration::from_secs(5)).await;
        // By the database's clock, which is not the machine's: open since the full hour, until ten seconds from now.
        let since_hour = u64::try_from(bench.store.now_ms() % 3_600_000).unwrap();
        let window = ScheduleWindow {
            cron: "0 * * * *".to_owned(),
            duration: sluice_crds::duration::Duration::from_millis(since_hour + 10_000),
            time_zone: "UTC".to_owned(),
            rate_limit_qps: 500,
        };
        bench.edit(|live| live.schedule.push(window));
        tokio::time::sleep(Duration::from_secs(20)).await;
        let second = |at: u64| bench.released_between(Duration::from_secs(at), Duration::from_secs(at + 1));
        // Counted from the moment of the edit, in which a quantum of the rate before it may have gone.
        assert!((480..=560).contains(&second(5)), "{} in the first second", second(5));
        for at in [6, 10, 14] {
            assert!((480..=520).contains(&second(at)), "{} in second {at}", second(at));
        }
        for at in [15, 20, 23] {
            assert!((1_900..=2_060).contains(&second(at)), "{} in second {at}", second(at));
        }
        check_bound(&bench, &[(Duration::ZERO, 2_000)]).unwrap();
    });
}

#[test]
fn a_skewed_backlog_gets_what_the_others_leave_within_five_seconds() {
    run(async {
        let mut bench = Bench::new(2_000, 1, Duration::from_millis(5));
        bench.join(Backlog::Endless);
        bench.join(Backlog::Stream(20));
        bench.join(Backlog::Stream(10));
        tokio::time::sleep(Duration::from_secs(5)).await;
        let before = bench.totals();
        tokio::time::sleep(Duration::from_secs(20)).await;
        let used = bench.released_between(Duration::from_secs(5), Duration::from_secs(25));
        assert!(used as f64 >= 0.98 * 2_000.0 * 20.0, "{used}");
        for (replica, arrived) in [(1, 20 * 20), (2, 10 * 20)] {
            let released = bench.totals()[replica] - before[replica];
            assert!(released + 10 >= arrived, "{released} of {arrived} that arrived at replica {replica}");
        }
        check_bound(&bench, &[(Duration::ZERO, 2_000)]).unwrap();
    });
}

#[test]
fn a_quiet_replica_is_not_starved_by_one_that_is_saturated() {
    run(async {
        let mut bench = Bench::new(5_000, 1, Duration::from_millis(5));
        bench.join(Backlog::Endless);
        bench.join(Backlog::Stream(1));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let quiet = bench.totals()[1];
        assert!(quiet >= 50, "{quiet} of 60");
        check_bound(&bench, &[(Duration::ZERO, 5_000)]).unwrap();
    });
}

#[test]
fn whoever_joins_many_that_are_saturated_gets_a_part() {
    run(async {
        let mut bench = Bench::new(20_000, 1, Duration::from_millis(5));
        for _ in 0..20 {
            bench.join(Backlog::Endless);
        }
        tokio::time::sleep(Duration::from_secs(10)).await;
        for _ in 0..2 {
            bench.join(Backlog::Endless);
        }
        tokio::time::sleep(Duration::from_secs(5)).await;
        let before = bench.totals();
        tokio::time::sleep(Duration::from_secs(10)).await;
        let fair = 20_000 * 10 / 22;
        for (replica, total) in bench.totals().into_iter().enumerate() {
            let released = total - before[replica];
            assert!(released >= fair * 3 / 4, "replica {replica} has {released} of {fair}");
        }
        let used: usize = bench.totals().iter().zip(before).map(|(total, before)| total - before).sum();
        assert!(used as f64 >= LEAST_USED * 200_000.0, "{used}");
        check_bound(&bench, &[(Duration::ZERO, 20_000)]).unwrap();
    });
}

#[test]
fn leases_are_renewed_once_a_second_where_nothing_is_to_be_gained_and_not_faster_when_they_fail() {
    run(async {
        // A lane that waits twenty seconds for its message.
        let mut bench = Bench::new(1, 20, Duration::from_millis(5));
        let renewals = Arc::new(AtomicUsize::new(0));
        let (counted, began) = (renewals.clone(), bench.began);
        bench.store.on_call(move |call| {
            let is_renewal = matches!(call, Call::Lease);
            counted.fetch_add(usize::from(is_renewal), Relaxed);
            let is_away = began.elapsed() >= Duration::from_secs(30);
            (is_renewal && is_away).then(|| StoreError::new(ErrorKind::Unavailable, "the password is wrong"))
        });
        bench.join(Backlog::Endless);
        tokio::time::sleep(Duration::from_secs(30)).await;
        let well = renewals.swap(0, Relaxed);
        assert!((28..=40).contains(&well), "{well} in 30 s");
        tokio::time::sleep(Duration::from_secs(30)).await;
        let failing = renewals.load(Relaxed);
        assert!((28..=70).contains(&failing), "{failing} in 30 s");
    });
}

#[test]
fn large_messages_at_a_low_rate_keep_bound_and_use() {
    run(async {
        let mut bench = Bench::new(6, 100, Duration::from_millis(5));
        for _ in 0..3 {
            bench.join(Backlog::Endless);
        }
        let span = 50.0 * 100.0 / 6.0;
        tokio::time::sleep(Duration::from_secs_f64(5.0 + span)).await;
        let used = bench.released_between(Duration::from_secs(5), bench.began.elapsed());
        // Each replica's last message may just not have been due.
        assert!(used as f64 + 3.0 * 100.0 >= 0.98 * 6.0 * span, "{used} of {}", 6.0 * span);
        check_bound(&bench, &[(Duration::ZERO, 6)]).unwrap();
    });
}

#[test]
fn a_large_message_is_paid_for_while_nothing_comes_and_the_next_one_does_not_wait_for_it() {
    run(async {
        let mut bench = Bench::new(20, 1_000, Duration::from_millis(5));
        // One of each lane: the second one goes when the first one is paid, and is paid itself 100 s after the start.
        let gap = Duration::from_secs(130);
        bench.join(Backlog::Every(gap));
        tokio::time::sleep(gap * 2).await;
        let before = bench.released_between(Duration::ZERO, gap);
        assert_eq!(before, 2_000);
        let at_once = bench.released_between(gap, gap + Duration::from_secs(1));
        assert_eq!(at_once, 1_000, "after half a minute in which nothing was owed");
        check_bound(&bench, &[(Duration::ZERO, 20)]).unwrap();
    });
}

#[test]
fn an_edit_is_in_effect_within_a_second_up_and_down() {
    run(async {
        let mut bench = Bench::new(2_000, 1, Duration::from_millis(5));
        for _ in 0..3 {
            bench.join(Backlog::Endless);
        }
        for (rate, at) in [(500u32, 10u64), (8_000, 20)] {
            tokio::time::sleep_until(bench.began + Duration::from_secs(at)).await;
            bench.apply(Event::Edit(rate)).await;
            tokio::time::sleep(Duration::from_secs(8)).await;
            let first = bench.released_between(Duration::from_secs(at), Duration::from_secs(at + 1));
            assert!(first as f64 <= 1.03 * f64::from(rate), "{first} at {rate}");
            assert!(first as f64 >= 0.9 * f64::from(rate), "{first} at {rate}");
        }
    });
}

#[test]
fn without_the_database_nothing_is_released_and_recovery_starts_empty() {
    run(async {
        let mut bench = Bench::new(1_000, 1, Duration::ZERO);
        bench.join(Backlog::Endless);
        tokio::time::sleep(Duration::from_secs(5)).await;
        bench.apply(Event::Outage(Duration::from_secs(60))).await;
        tokio::time::sleep(Duration::from_secs(75)).await;
        let dark = bench.released_between(Duration::from_secs(9), Duration::from_secs(65));
        assert_eq!(dark, 0, "the lease has ended");
        // Slowly at first: the next renewal comes up to a second after the outage, and the rate is whole 3.3 s later.
        let slowly = bench.released_between(Duration::from_secs(65), Duration::from_secs(66));
        assert!(slowly < 250, "{slowly}");
        let rising = bench.released_between(Duration::from_secs(66), Duration::from_secs(70));
        assert!((1_800..4_000).contains(&rising), "{rising}");
        let whole = bench.released_between(Duration::from_secs(70), Duration::from_secs(80));
        assert!(whole as f64 >= 0.98 * 1_000.0 * 10.0, "{whole}");
        check_bound(&bench, &[(Duration::ZERO, 1_000)]).unwrap();
    });
}

#[test]
fn a_replica_that_was_frozen_past_its_lease_releases_nothing_on_its_strength() {
    run(async {
        let mut bench = Bench::new(1_000, 1, Duration::from_millis(5));
        bench.join(Backlog::Endless);
        bench.join(Backlog::Endless);
        tokio::time::sleep(Duration::from_secs(5)).await;
        bench.apply(Event::Freeze(0, Duration::from_secs(20))).await;
        // The other one takes over the whole rate as soon as the lease has ended.
        tokio::time::sleep(Duration::from_secs(15)).await;
        let alone = bench.released_between(Duration::from_secs(10), Duration::from_secs(20));
        assert!(alone as f64 >= 0.98 * 1_000.0 * 10.0, "{alone}");
        tokio::time::sleep(Duration::from_secs(20)).await;
        check_bound(&bench, &[(Duration::ZERO, 1_000)]).unwrap();
        let both = bench.released_between(Duration::from_secs(30), Duration::from_secs(40));
        assert!(both as f64 >= 0.98 * 1_000.0 * 10.0, "{both}");
    });
}

#[test]
fn lanes_of_replicas_that_were_gone_before_do_not_widen_the_bound() {
    run(async {
        // 1.01 times the rate, and a message of each lane.
        let (one, two) = (101 + 50 * LANES, 101 + 2 * 50 * LANES);
        let mut bench = Bench::new(100, 50, Duration::ZERO);
        bench.releases.lock().unwrap().push((Duration::from_secs(3), two));
        bench.lives = vec![(Duration::ZERO, Some(Duration::from_secs(2))), (Duration::ZERO, None)];
        assert!(check_bound(&bench, &[(Duration::ZERO, 100)]).is_err());
        bench.lives[0].1 = Some(Duration::from_secs(3));
        check_bound(&bench, &[(Duration::ZERO, 100)]).unwrap();
        bench.lives[0].1 = Some(Duration::from_secs(2));
        bench.releases.lock().unwrap()[0].1 = one;
        check_bound(&bench, &[(Duration::ZERO, 100)]).unwrap();
    });
}

#[test]
fn the_check_of_the_bound_notices_a_burst() {
    run(async {
        let bench = Bench::new(100, 1, Duration::ZERO);
        let burst = [(Duration::from_secs(1), 90), (Duration::from_millis(1_900), 90)];
        bench.releases.lock().unwrap().extend(burst);
        assert!(check_bound(&bench, &[(Duration::ZERO, 100)]).is_err());
    });
}
