use jiff::SignedDuration;
use proptest::prelude::*;

use super::*;
use crate::v1alpha1::RateOverride;

const BASE: u32 = 1_000;

fn window(cron: &str, duration: &str, zone: &str, rate: u32) -> ScheduleWindow {
    ScheduleWindow {
        cron: cron.to_owned(),
        duration: duration.parse().unwrap(),
        time_zone: zone.to_owned(),
        rate_limit_qps: rate,
    }
}

fn plan(windows: Vec<ScheduleWindow>) -> RatePlan {
    RatePlan::new(Live { schedule: windows, ..Live::of_rate(BASE) })
}

fn time(text: &str) -> Timestamp {
    text.parse().unwrap()
}

/// Rate at a time, and when it may change.
fn at(plan: &RatePlan, now: &str) -> (u32, String) {
    let step = plan.at(time(now));
    (step.rate, step.until.map_or_else(String::new, |until| until.to_string()))
}

fn told(rate: u32, until: &str) -> (u32, String) {
    (rate, until.to_owned())
}

#[test]
fn a_window_counts_from_its_beginning_until_just_before_its_end() {
    let plan = plan(vec![window("0 22 * * 1-5", "8h", "UTC", 50)]);
    // A Wednesday.
    assert_eq!(at(&plan, "2026-11-25T21:59:59.999Z"), told(BASE, "2026-11-25T22:00:00Z"));
    assert_eq!(at(&plan, "2026-11-25T22:00:00Z"), told(50, "2026-11-26T06:00:00Z"));
    assert_eq!(at(&plan, "2026-11-26T05:59:59.999Z"), told(50, "2026-11-26T06:00:00Z"));
    assert_eq!(at(&plan, "2026-11-26T06:00:00Z"), told(BASE, "2026-11-26T22:00:00Z"));
    // Saturday: the next one is on Monday.
    assert_eq!(at(&plan, "2026-11-28T22:30:00Z"), told(BASE, "2026-11-30T22:00:00Z"));
}

#[test]
fn the_first_open_window_of_the_list_counts() {
    let night = window("0 20 * * *", "10h", "UTC", 200);
    let backup = window("0 2 * * *", "1h", "UTC", 0);
    let order = plan(vec![backup.clone(), night.clone()]);
    assert_eq!(at(&order, "2026-11-25T01:00:00Z"), told(200, "2026-11-25T02:00:00Z"));
    assert_eq!(at(&order, "2026-11-25T02:30:00Z"), told(0, "2026-11-25T03:00:00Z"));
    assert_eq!(at(&order, "2026-11-25T03:00:00Z"), told(200, "2026-11-25T06:00:00Z"));
    let other_way_round = plan(vec![night, backup]);
    assert_eq!(at(&other_way_round, "2026-11-25T02:30:00Z"), told(200, "2026-11-25T06:00:00Z"));
}

#[test]
fn an_active_override_counts_before_a_window_and_a_suspension_before_both() {
    let mut live = Live { schedule: vec![window("0 * * * *", "1h", "UTC", 50)], ..Live::of_rate(BASE) };
    live.rate_override = Some(RateOverride { rate_limit_qps: 9, until: time("2026-11-25T12:00:00Z") });
    let plan = RatePlan::new(live.clone());
    assert_eq!(at(&plan, "2026-11-25T11:30:00Z"), told(9, "2026-11-25T12:00:00Z"));
    assert_eq!(at(&plan, "2026-11-25T12:00:00Z"), told(50, "2026-11-25T13:00:00Z"));
    live.suspend = true;
    assert_eq!(at(&RatePlan::new(live), "2026-11-25T11:30:00Z"), told(0, ""));
}

#[test]
fn a_window_that_begins_again_before_its_end_lasts_from_the_later_beginning() {
    let plan = plan(vec![window("0,30 10 * * *", "45m", "UTC", 50)]);
    assert_eq!(at(&plan, "2026-11-25T10:29:00Z"), told(50, "2026-11-25T10:45:00Z"));
    assert_eq!(at(&plan, "2026-11-25T10:45:00Z"), told(50, "2026-11-25T11:15:00Z"));
    assert_eq!(at(&plan, "2026-11-25T11:15:00Z"), told(BASE, "2026-11-26T10:00:00Z"));
}

#[test]
fn a_beginning_that_clocks_skip_in_spring_is_right_after_the_gap() {
    // Berlin: 02:00 becomes 03:00 (01:00 UTC) on 2027-03-28.
    let plan = plan(vec![window("30 2 * * *", "2h", "Europe/Berlin", 50)]);
    assert_eq!(at(&plan, "2027-03-27T01:00:00Z"), told(BASE, "2027-03-27T01:30:00Z"));
    assert_eq!(at(&plan, "2027-03-28T00:59:00Z"), told(BASE, "2027-03-28T01:00:00Z"));
    // Two hours of time that passes: until 05:00 by the clock.
    assert_eq!(at(&plan, "2027-03-28T01:00:00Z"), told(50, "2027-03-28T03:00:00Z"));
    assert_eq!(at(&plan, "2027-03-28T03:00:00Z"), told(BASE, "2027-03-29T00:30:00Z"));
}

#[test]
fn a_beginning_that_clocks_repeat_in_autumn_comes_once() {
    // Berlin: 03:00 becomes 02:00 (01:00 UTC) on 2026-10-25, so that 02:30 comes at 00:30 and at 01:30 UTC.
    let plan = plan(vec![window("30 2 * * *", "30m", "Europe/Berlin", 50)]);
    assert_eq!(at(&plan, "2026-10-25T00:30:00Z"), told(50, "2026-10-25T01:00:00Z"));
    assert_eq!(at(&plan, "2026-10-25T01:30:00Z"), told(BASE, "2026-10-26T01:30:00Z"));
}

#[test]
fn a_window_over_a_change_of_clocks_lasts_as_long_as_it_says() {
    let plan = plan(vec![window("0 22 * * *", "8h", "America/New_York", 50)]);
    // Until 07:00 by the clock in spring (2027-03-14), 05:00 in autumn (2026-11-01).
    assert_eq!(at(&plan, "2027-03-14T07:30:00Z"), told(50, "2027-03-14T11:00:00Z"));
    assert_eq!(at(&plan, "2026-11-01T06:30:00Z"), told(50, "2026-11-01T10:00:00Z"));
}

#[test]
fn what_cannot_be_read_is_refused_and_never_open() {
    for text in [
        "",
        "*",
        "61 * * * *",
        "0 0 * * * *",
        "0 0 0 1 1 * 2030",
        "0 25 * * *",
        "a b c d e",
        "0 22 * * 1-9",
        "0 0 30 2 *",
        "0 0 31 4,6,9,11 *",
    ] {
        let why = cron(text).expect_err(text);
        assert!(!why.is_empty() && why.len() < 200, "{text}: {why}");
        let plan = plan(vec![window(text, "99999h", "UTC", 7), window("* * * * *", "1m", "UTC", 8)]);
        assert_eq!(plan.at(time("2026-11-25T12:00:00Z")).rate, 8, "{text}");
    }
    for name in ["", "Mars/Olympus", "CET ", "+02:00", "../UTC"] {
        assert!(time_zone(name).is_err(), "{name}");
        let plan = plan(vec![window("* * * * *", "1m", name, 7)]);
        assert_eq!(plan.at(time("2026-11-25T12:00:00Z")), Step { rate: BASE, window: None, until: None });
    }
    for good in ["0 22 * * 1-5", "*/15 8-18 * * MON-FRI", "0 0 L * *", "0 9 * * 1#1", "@daily", "0 0 29 2 *"]
    {
        cron(good).expect(good);
    }
}

#[test]
fn times_beyond_the_calendar_have_the_base_rate() {
    let plan = plan(vec![window("0 22 * * *", "8h", "Europe/Berlin", 50)]);
    for now in [Timestamp::MIN, Timestamp::MAX] {
        assert_eq!(plan.at(now).rate, BASE);
    }
}

fn minute_or_hour(most: u32) -> impl Strategy<Value = String> {
    prop_oneof![
        Just("*".to_owned()),
        (2u32..15).prop_map(|step| format!("*/{step}")),
        (0..most).prop_map(|one| one.to_string()),
        (0..most, 0..most).prop_map(|(one, other)| format!("{one},{other}")),
    ]
}

fn windows() -> impl Strategy<Value = Vec<ScheduleWindow>> {
    const ZONES: [&str; 5] =
        ["UTC", "Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu"];
    let parts =
        (minute_or_hour(60), minute_or_hour(24), 1u64..2_000, prop::sample::select(&ZONES[..]), 0u32..50);
    let one = parts.prop_map(|(minute, hour, minutes, zone, rate)| {
        window(&format!("{minute} {hour} * * *"), &format!("{minutes}m"), zone, rate)
    });
    prop::collection::vec(one, 1..4)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, failure_persistence: None, ..ProptestConfig::default() })]

    /// Going from one change to the next shows the same rate as looking at every minute does, also through both
    /// changes of clocks: so nobody who sleeps until then misses any.
    #[test]
    fn nothing_changes_before_the_time_that_is_told(
        windows in windows(),
        begin in prop::sample::select(&["2027-03-13T20:00:00Z", "2026-10-24T20:00:00Z", "2026-11-01T00:00:00Z",
            "2027-03-28T00:00:00Z", "2026-10-03T12:00:00Z"][..]),
    ) {
        let plan = plan(windows);
        let begin = time(begin);
        let mut step = plan.at(begin);
        for minute in 0..900 {
            let now = begin + SignedDuration::from_mins(minute);
            let found = plan.at(now);
            prop_assert!(found.until.is_none_or(|until| until > now), "{found:?} at {now}");
            if step.until.is_some_and(|until| now >= until) {
                step = found;
            }
            prop_assert_eq!((step.rate, step.window), (found.rate, found.window), "at {}", now);
        }
    }
}
