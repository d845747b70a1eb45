use sluice_crds::bottleneck::Bottleneck;

use super::pace::NUMBERS_EVERY;
use super::*;

fn pipeline(name: &str) -> ObjectRef<TracePipeline> {
    ObjectRef::new(name).within("shop")
}

fn target(pods: &[&str]) -> Target {
    let address = |pod: &&str| PodAddress { name: (*pod).to_owned(), ip: Some("192.0.2.1".into()) };
    Target { pods: pods.iter().map(address).collect(), revision: 1, uid: "u".into() }
}

fn answer(pod: &str, bottleneck: Bottleneck, achieved_qps: f64) -> Answer {
    let report = Report {
        revision: 1,
        bottleneck: Some(bottleneck),
        achieved_qps,
        partitions: [Some(1)].into_iter().collect(),
        ..Report::default()
    };
    Answer { report: PodReport { pod: pod.into(), answer: Ok(report) }, timed_out: false }
}

fn timed_out(pod: &str) -> Answer {
    Answer { report: PodReport { pod: pod.into(), answer: Err("no answer".into()) }, timed_out: true }
}

/// Asks about one pod, and tells everything that it has said first.
fn prober(name: &str) -> (Prober, Instant) {
    let prober = Prober::new(Arc::default());
    prober.look_at(&pipeline(name), target(&["a"]));
    let now = Instant::now();
    assert!(prober.keep(&pipeline(name), &target(&["a"]), vec![answer("a", Bottleneck::Store, 100.0)], now));
    tell(&prober, name);
    (prober, now)
}

/// A reconcile that writes what it has got.
fn tell(prober: &Prober, name: &str) {
    prober.look_at(&pipeline(name), target(&["a"]));
    prober.told(&pipeline(name), true);
}

fn says(prober: &Prober, name: &str, bottleneck: Bottleneck, achieved_qps: f64, at: Instant) -> bool {
    prober.keep(&pipeline(name), &target(&["a"]), vec![answer("a", bottleneck, achieved_qps)], at)
}

#[test]
fn the_last_number_of_a_series_is_told_even_if_it_came_too_early() {
    let (prober, start) = prober("p");
    assert!(!says(&prober, "p", Bottleneck::Store, 0.0, start + Duration::from_secs(5)));
    assert_eq!(prober.next_turn(), None, "within the interval");
    assert!(!prober.may_tell_numbers(&pipeline("p")));
    // The same answer again.
    assert!(!says(&prober, "p", Bottleneck::Store, 0.0, start + NUMBERS_EVERY + Duration::from_secs(5)));
    assert_eq!(prober.next_turn(), Some(pipeline("p")));
    assert!(prober.may_tell_numbers(&pipeline("p")));
    tell(&prober, "p");
    assert!(!prober.may_tell_numbers(&pipeline("p")));
    says(&prober, "p", Bottleneck::Store, 0.0, start + NUMBERS_EVERY * 3);
    assert_eq!(prober.next_turn(), None, "nothing new");
}

#[test]
fn a_refused_pipeline_takes_no_turns() {
    let (prober, start) = prober("p");
    let later = start + NUMBERS_EVERY * 2;
    says(&prober, "p", Bottleneck::Store, 1.0, later);
    assert_eq!(prober.next_turn(), Some(pipeline("p")));
    // Its reconcile does not get so far as to look at the reports.
    prober.told(&pipeline("p"), false);
    says(&prober, "p", Bottleneck::Store, 1.0, later);
    assert_eq!(prober.next_turn(), None);
}

#[test]
fn numbers_wait_for_their_turn_first_come_first_served() {
    let (prober, start) = prober("p");
    prober.look_at(&pipeline("q"), target(&["a"]));
    says(&prober, "q", Bottleneck::Store, 1.0, start);
    tell(&prober, "q");
    let later = start + NUMBERS_EVERY * 2;
    for rate in [2.0, 3.0] {
        assert!(!says(&prober, "q", Bottleneck::Store, rate, later));
        assert!(!says(&prober, "p", Bottleneck::Store, rate, later));
    }
    assert_eq!([prober.next_turn(), prober.next_turn()], [Some(pipeline("q")), Some(pipeline("p"))]);
    assert_eq!(prober.next_turn(), None, "each waits once");
}

#[test]
fn what_limits_a_consumer_may_come_and_go_without_a_reconcile_unless_it_is_the_processor() {
    let (prober, start) = prober("p");
    for bottleneck in [Bottleneck::Limiter, Bottleneck::Idle, Bottleneck::Limiter] {
        assert!(!says(&prober, "p", bottleneck, 100.0, start), "{bottleneck:?}");
    }
    assert_eq!(prober.next_turn(), None, "within the interval");
    assert!(says(&prober, "p", Bottleneck::Cpu, 100.0, start));
}

#[test]
fn a_backlog_that_comes_near_the_retention_or_leaves_it_is_worth_a_reconcile() {
    let (prober, start) = prober("p");
    let mut says = |drain| {
        let mut answer = answer("a", Bottleneck::Store, 100.0);
        let report = answer.report.answer.as_mut().expect("an answer");
        (report.drain_seconds, report.retention_seconds) = (Some(drain), Some(100));
        prober.keep(&pipeline("p"), &target(&["a"]), vec![answer], start)
    };
    let told: Vec<_> = [89, 90, 100, 101, 150, 95, 89].into_iter().map(&mut says).collect();
    assert_eq!(told, [false, true, false, true, false, true, true]);
}

#[test]
fn a_silent_pod_is_asked_less_and_less_often_and_the_others_as_before() {
    let prober = Prober::new(Arc::default());
    let both = target(&["a", "b"]);
    prober.look_at(&pipeline("p"), both.clone());
    // After the edit: nothing is urgent.
    let mut now = Instant::now() + URGENT_FOR * 2;
    let mut asked_silent = Vec::new();
    for round in 0..40 {
        let due = prober.due(now);
        let [(_, question)] = &*due else { panic!("not due in round {round}") };
        let names: Vec<_> = question.pods.iter().map(|pod| &*pod.name).collect();
        assert!(names.contains(&"a"));
        let mut answers = vec![answer("a", Bottleneck::Idle, 0.0)];
        if names.contains(&"b") {
            asked_silent.push(round);
            answers.push(timed_out("b"));
        }
        prober.keep(&pipeline("p"), &both, answers, now);
        assert_eq!(prober.reports(&pipeline("p")).len(), 2, "what is known of a silent pod stays");
        now += IDLE_INTERVAL * 2;
    }
    assert!((10..=17).contains(&asked_silent.len()), "{asked_silent:?}");
    // An edit asks everybody at once.
    let edited = Target { revision: 2, ..both };
    prober.look_at(&pipeline("p"), edited);
    assert_eq!(prober.due(now)[0].1.pods.len(), 2);
}
