use proptest::prelude::*;

use super::*;

const AIM: Aim = Aim { target: Duration::from_millis(50), least: 100.0 };
const WHOLE: f64 = 5_000.0;

fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// A guard, and a clock that goes on by periods.
struct Bench {
    guard: Guard,
    now: Duration,
}

impl Bench {
    fn new() -> Self {
        let mut guard = Guard::default();
        guard.set_aim(Duration::ZERO, Some(AIM));
        Self { guard, now: Duration::ZERO }
    }

    /// Writes that take so long each, one after the other, until the period is over; then the limit.
    fn period(&mut self, each: Duration, outcome: Outcome) -> Option<f64> {
        let end = self.now + PERIOD;
        while self.now + each <= end {
            let write = self.guard.began(self.now);
            self.now += each;
            self.guard.ended(self.now, write, outcome);
        }
        self.now = end;
        self.guard.limit(self.now, WHOLE)
    }

    fn periods(&mut self, count: usize, each: Duration) -> Option<f64> {
        (0..count).map(|_| self.period(each, Outcome::Committed)).last().flatten()
    }
}

#[test]
fn a_fast_database_is_given_the_whole_rate() {
    assert_eq!(Bench::new().periods(100, ms(49)), None);
}

#[test]
fn each_period_of_slow_writes_takes_thirty_percent_down_to_the_least() {
    let mut bench = Bench::new();
    assert_eq!(bench.period(ms(60), Outcome::Committed), Some(WHOLE * 0.7));
    assert_eq!(bench.period(ms(60), Outcome::Committed), Some(WHOLE * 0.7 * 0.7));
    assert_eq!(bench.periods(100, ms(60)), Some(AIM.least));
    assert_eq!(bench.guard.lowered(), 102);
}

#[test]
fn a_failed_write_counts_as_a_slow_one_and_data_that_is_refused_does_not() {
    let mut bench = Bench::new();
    assert_eq!(bench.period(ms(10), Outcome::Unclear), None);
    assert_eq!(bench.period(ms(10), Outcome::Failed), Some(WHOLE * 0.7));
}

#[test]
fn it_comes_back_carefully_at_first_and_within_half_a_minute() {
    let mut bench = Bench::new();
    bench.period(ms(60), Outcome::Committed);
    // What a period took comes back in six.
    assert!(bench.periods(5, ms(10)).unwrap() < WHOLE);
    assert_eq!(bench.periods(2, ms(10)), None);
    assert_eq!(bench.periods(100, ms(60)), Some(AIM.least));
    assert!(bench.periods(10, ms(10)).unwrap() < 2.0 * AIM.least);
    assert_eq!(bench.periods(60, ms(10)), None, "the whole rate after 35 s");
}

#[test]
fn a_write_that_does_not_end_lowers_the_rate_all_the_same() {
    let mut bench = Bench::new();
    let hanging = bench.guard.began(bench.now);
    bench.now += PERIOD;
    let first = bench.guard.limit(bench.now, WHOLE);
    assert_eq!(first, Some(WHOLE * 0.7));
    bench.now += PERIOD;
    let second = bench.guard.limit(bench.now, WHOLE);
    assert_eq!(second, Some(WHOLE * 0.7 * 0.7));
    // It began at a larger rate: that it took long is known already.
    bench.guard.ended(bench.now, hanging, Outcome::Committed);
    bench.now += PERIOD;
    assert!(bench.guard.limit(bench.now, WHOLE) > second);
}

#[test]
fn one_write_that_hangs_beside_hundreds_that_do_not_is_no_trouble() {
    let mut bench = Bench::new();
    bench.guard.began(bench.now);
    assert_eq!(bench.periods(20, ms(5)), None);
}

#[test]
fn time_without_writes_is_no_trouble_however_long_anybody_waits_for_the_gate() {
    let mut bench = Bench::new();
    bench.period(ms(60), Outcome::Committed);
    assert!(bench.periods(1, ms(501)).is_some());
    assert_eq!(bench.periods(40, ms(501)), None);
}

#[test]
fn a_stopped_pipeline_learns_nothing() {
    let mut bench = Bench::new();
    let before = bench.period(ms(60), Outcome::Committed);
    for _ in 0..100 {
        bench.now += PERIOD;
        assert_eq!(bench.guard.limit(bench.now, 0.0), None);
    }
    assert_eq!(bench.guard.limit(bench.now + ms(1), WHOLE), before);
}

#[test]
fn without_an_aim_nothing_is_held_back_any_more() {
    let mut bench = Bench::new();
    bench.period(ms(60), Outcome::Committed);
    bench.guard.set_aim(bench.now, None);
    assert_eq!((bench.guard.limit(bench.now, WHOLE), bench.guard.next_look()), (None, None));
    bench.guard.set_aim(bench.now, Some(AIM));
    assert_eq!(bench.guard.limit(bench.now, WHOLE), None);
}

#[test]
fn an_aim_that_is_slower_than_a_period_can_be_missed() {
    let mut bench = Bench::new();
    bench.guard.set_aim(Duration::ZERO, Some(Aim { target: ms(2_000), ..AIM }));
    let write = bench.guard.began(bench.now);
    bench.now += ms(2_100);
    bench.guard.ended(bench.now, write, Outcome::Committed);
    assert!(bench.guard.limit(bench.now, WHOLE).is_some());
}

fn outcomes() -> impl Strategy<Value = Vec<(u64, u64, Outcome, u32)>> {
    let outcome = prop_oneof![
        4 => Just(Outcome::Committed),
        1 => Just(Outcome::Failed),
        1 => Just(Outcome::Unclear),
    ];
    // Pause, length, how it ended, and the rate from then on.
    prop::collection::vec((0u64..700, 0u64..900, outcome, 0u32..20_000), 1..200)
}

proptest! {
    /// Whatever the database does and however the rate is edited, the guard only lowers it, never below its least; and
    /// calm brings back all of it.
    #[test]
    fn it_only_lowers_never_below_its_least_and_recovers(
        outcomes in outcomes(),
        target in 1u64..2_000,
        least in 1u32..30_000,
    ) {
        let aim = Aim { target: ms(target), least: f64::from(least) };
        let (mut guard, mut now) = (Guard::default(), Duration::ZERO);
        guard.set_aim(now, Some(aim));
        for (pause, length, outcome, whole) in outcomes {
            now += ms(pause);
            let write = guard.began(now);
            now += ms(length);
            guard.ended(now, write, outcome);
            let whole = f64::from(whole);
            if let Some(limit) = guard.limit(now, whole) {
                prop_assert!(limit < whole && limit >= aim.least.min(whole), "{limit} of {whole}");
            }
        }
        let mut left = 240;
        while guard.limit(now, WHOLE).is_some() {
            prop_assert!(left > 0, "not back after two minutes");
            left -= 1;
            now += PERIOD;
        }
    }
}
