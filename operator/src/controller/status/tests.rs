mod not_built;
mod rollouts;
mod silence;

use jiff::SignedDuration;
use k8s_openapi::api::apps::v1::DeploymentStatus;
use serde_json::json;
use sluice_crds::bottleneck::Bottleneck;
use sluice_crds::error_reason::ErrorReason;

use super::*;
use crate::controller::apply::ApplyError;
use crate::controller::example::pipeline;

fn deployment(updated: i32, ready: i32) -> Deployment {
    let mut deployment = Deployment::default();
    deployment.spec.replicas = Some(2);
    deployment.status = Some(DeploymentStatus {
        replicas: Some(2),
        updated_replicas: Some(updated),
        ready_replicas: Some(ready),
        ..Default::default()
    });
    deployment
}

fn answer(revision: u64, rate: u32) -> Report {
    Report {
        revision,
        rate_limit_qps: rate,
        effective_qps: f64::from(rate) / 2.0,
        achieved_qps: f64::from(rate) / 2.0,
        bottleneck: Some(Bottleneck::Limiter),
        partitions: [Some(1_234)].into_iter().collect(),
        drain_seconds: Some(7),
        ..Report::default()
    }
}

fn pods(answers: Vec<Result<Report, String>>) -> Vec<PodReport> {
    let report = |(index, answer)| PodReport { pod: format!("pod-{index}"), answer };
    answers.into_iter().enumerate().map(report).collect()
}

/// A case: everything in order unless it is changed.
struct Case {
    pipeline: TracePipeline,
    refusal: Option<Refusal>,
    outcome: Outcome,
    deployment: Option<Deployment>,
    reports: Vec<PodReport>,
    idle: Vec<String>,
    dead_letters_grow: bool,
    now: Timestamp,
    /// The live document of a refused pipeline.
    kept: Option<LiveDocument>,
    wanted: Option<u32>,
}

impl Case {
    fn new() -> Self {
        Self {
            pipeline: pipeline(),
            refusal: None,
            outcome: Outcome::default(),
            deployment: Some(deployment(2, 2)),
            reports: pods(vec![Ok(answer(4, 500)), Ok(answer(4, 500))]),
            idle: Vec::new(),
            dead_letters_grow: false,
            now: "2026-11-24T12:00:00Z".parse().expect("a time"),
            kept: None,
            wanted: Some(2),
        }
    }

    fn status(&self) -> TracePipelineStatus {
        let live = Live::of_rate(500);
        let document = LiveDocument { uid: "u".into(), revision: 4, live };
        status(&Facts {
            pipeline: &self.pipeline,
            refusal: self.refusal.as_ref(),
            outcome: self.refusal.is_none().then_some(&self.outcome),
            document: if self.refusal.is_some() { self.kept.as_ref() } else { Some(&document) },
            deployment: self.deployment.as_ref(),
            wanted: self.wanted,
            reports: &self.reports,
            idle: &self.idle,
            dead_letters_grow: self.dead_letters_grow,
            now: self.now,
        })
    }

    /// Status and reason of a condition.
    fn condition(&self, type_: &str) -> (String, String) {
        let conditions = self.status().conditions;
        let found = conditions.into_iter().find(|condition| condition.type_ == type_).expect("the condition");
        assert_eq!(found.observed_generation, Some(3));
        (found.status, found.reason)
    }
}

fn is(status: &str, reason: &str) -> (String, String) {
    (status.to_owned(), reason.to_owned())
}

#[test]
fn a_pipeline_in_order_says_what_is() {
    let case = Case::new();
    let status = case.status();
    assert_eq!(
        status.rate,
        RateStatus { desired: 500, applied: Some(500), effective: Some(500), revision: 4 }
    );
    assert_eq!((status.throughput, status.lag, status.drain_seconds), (Some(500), Some(2_500), Some(7)));
    for (type_, expected) in [
        ("Ready", is("True", "ConsumersReady")),
        ("Progressing", is("False", "RolledOut")),
        ("Degraded", is("False", "AsExpected")),
        ("Throttled", is("True", "RateLimit")),
        ("Suspended", is("False", "Running")),
        ("RateConfirmed", is("True", "Confirmed")),
        ("Stalled", is("False", "NotStalled")),
        ("DeadLettersGrowing", is("False", "NoneLately")),
    ] {
        assert_eq!(case.condition(type_), expected, "{type_}");
    }
}

#[test]
fn a_pod_with_an_older_revision_is_told() {
    let mut case = Case::new();
    case.reports = pods(vec![Ok(answer(4, 500)), Ok(answer(3, 900))]);
    assert_eq!(case.condition("RateConfirmed"), is("False", "Applying"));
    assert_eq!(case.status().rate.applied, None);
    let message = case.status().conditions.swap_remove(5).message;
    assert_eq!(message, "1 of 2 consumers have not applied revision 4 yet, such as pod-1");
}

#[test]
fn a_pod_of_an_earlier_pipeline_of_the_same_name_confirms_nothing() {
    let mut case = Case::new();
    let of = |uid: &str| Report { pipeline_uid: Some(uid.into()), ..answer(4, 500) };
    case.reports = pods(vec![Ok(of("u")), Ok(of("an earlier one"))]);
    assert_eq!(case.condition("RateConfirmed"), is("False", "Applying"));
    case.reports = pods(vec![Ok(of("u")), Ok(of("u"))]);
    assert_eq!(case.condition("RateConfirmed"), is("True", "Confirmed"));
}

#[test]
fn another_rate_than_the_spec_asks_for_is_not_confirmed() {
    let mut case = Case::new();
    case.reports = pods(vec![Ok(answer(4, 900)), Ok(answer(4, 900))]);
    assert_eq!(case.condition("RateConfirmed"), is("False", "Applying"));
    assert_eq!(case.status().rate.applied, Some(900));
}

#[test]
fn a_backlog_that_outlives_the_topics_retention_degrades() {
    let mut case = Case::new();
    let expiring =
        |drain| Report { drain_seconds: Some(drain), retention_seconds: Some(60), ..answer(4, 500) };
    case.reports = pods(vec![Ok(expiring(60)), Ok(expiring(60))]);
    assert_eq!(case.condition("Degraded"), is("False", "AsExpected"));
    case.reports = pods(vec![Ok(expiring(60)), Ok(expiring(61))]);
    assert_eq!(case.condition("Degraded"), is("True", "DrainExceedsRetention"));
    // Once told it stays until there is room.
    case.pipeline.status = Some(case.status());
    case.reports = pods(vec![Ok(expiring(54)), Ok(expiring(53))]);
    assert_eq!(case.condition("Degraded"), is("True", "DrainExceedsRetention"));
    case.reports = pods(vec![Ok(expiring(53)), Ok(expiring(53))]);
    assert_eq!(case.condition("Degraded"), is("False", "AsExpected"));
}

#[test]
fn growing_dead_letters_are_told() {
    let mut case = Case::new();
    case.dead_letters_grow = true;
    assert_eq!(case.condition("DeadLettersGrowing"), is("True", "NewDeadLetters"));
}

#[test]
fn another_installation_says_so_in_a_condition_of_its_own_once() {
    let case = Case::new();
    let refusal = Refusal::Conflict { child: "Deployment a".into(), installation: "first".into() };
    let own = conflict(&[], &refusal, case.now);
    assert_eq!((own.type_.as_str(), own.status.as_str()), ("Conflict", "True"));
    let later = conflict(std::slice::from_ref(&own), &refusal, case.now + SignedDuration::from_secs(10));
    assert_eq!(later, own);
}

#[test]
fn a_consumers_error_degrades_with_its_reason_and_its_pod() {
    let mut case = Case::new();
    let troubled = Report {
        last_error: Some("no value for db/url".into()),
        last_error_reason: Some(ErrorReason::SecretMissing.as_str().into()),
        ..answer(4, 500)
    };
    case.reports = pods(vec![Ok(answer(4, 500)), Ok(troubled)]);
    assert_eq!(case.condition("Degraded"), is("True", ErrorReason::SecretMissing.as_str()));
    let message = case.status().conditions.swap_remove(2).message;
    assert_eq!(message, "pod-1: no value for db/url");
}

#[test]
fn numbers_of_a_consumer_that_lies_are_some_that_the_api_server_takes() {
    let mut case = Case::new();
    let lies = Report {
        effective_qps: f64::MAX,
        achieved_qps: f64::MAX,
        partitions: [Some(u64::MAX)].into_iter().collect(),
        dead_letters: u64::MAX,
        drain_seconds: Some(u64::MAX),
        ..answer(4, 500)
    };
    case.reports = pods(vec![Ok(lies.clone()), Ok(lies)]);
    let status = case.status();
    let numbers = [status.throughput, status.lag, status.drain_seconds, status.dead_letters];
    assert!(numbers.iter().all(|number| i64::try_from(number.expect("a number")).is_ok()), "{numbers:?}");
}

#[test]
fn children_that_cannot_be_written_are_told() {
    let mut case = Case::new();
    case.outcome.error = Some(ApplyError::Taken { child: "Service traces-consumer".into() });
    assert_eq!(case.condition("Ready"), is("False", "NotApplied"));
    assert_eq!(case.condition("Degraded"), is("True", "NameTaken"));
    assert_eq!(case.condition("Stalled"), is("True", "NameTaken"));
    case.outcome.error = Some(ApplyError::RevisionExhausted);
    assert_eq!(case.condition("Degraded"), is("True", "RevisionExhausted"));
    assert_eq!(case.condition("Stalled"), is("True", "RevisionExhausted"));
}

#[test]
fn a_live_document_that_cannot_be_written_is_not_in_effect() {
    let mut case = Case::new();
    case.pipeline.spec.suspend = true;
    assert_eq!(case.condition("Suspended"), is("True", "Suspended"), "it was written");
    case.outcome.error = Some(ApplyError::RevisionExhausted);
    assert_eq!(case.condition("Suspended"), is("False", "Running"));
    assert_eq!(case.condition("RateConfirmed"), is("False", "NotApplied"));
    let message = case.status().conditions.swap_remove(4).message;
    assert_eq!(message, "suspend is false in the live document in effect; for the spec, see Ready");
    // What could not be written is something else.
    case.pipeline.spec.suspend = false;
    assert_eq!(case.condition("Suspended"), is("False", "Running"));
    assert_eq!(case.condition("RateConfirmed"), is("True", "Confirmed"));
}

#[test]
fn a_deployment_that_somebody_else_scales_is_not_ready() {
    let mut case = Case::new();
    let none = deployment(0, 0);
    let status = DeploymentStatus { replicas: Some(0), ..none.status.unwrap_or_default() };
    case.deployment = Some(Deployment { status: Some(status), ..deployment(0, 0) });
    case.deployment.as_mut().expect("it is there").spec.replicas = Some(0);
    case.wanted = Some(0);
    assert_eq!(case.condition("Ready"), is("True", "ScaledToZero"));
    case.wanted = Some(2);
    assert_eq!(case.condition("Ready"), is("False", "ConsumersNotReady"));
    let message = case.status().conditions.swap_remove(0).message;
    let told = "0 of 0 consumers are ready, and 2 are wanted: somebody else scales the Deployment";
    assert_eq!(message, told);
}

#[test]
fn a_pod_monitor_that_cannot_be_written_degrades_a_pipeline_that_is_ready() {
    let mut case = Case::new();
    case.outcome.pod_monitor = Some(ApplyError::Taken { child: "PodMonitor traces-consumer".into() });
    assert_eq!(case.condition("Degraded"), is("True", "NameTaken"));
    assert_eq!(case.condition("Ready"), is("True", "ConsumersReady"));
    assert_eq!(case.condition("Stalled"), is("False", "NotStalled"));
}

#[test]
fn a_guard_that_holds_the_rate_down_is_the_reason_of_throttled() {
    let mut case = Case::new();
    let held =
        |qps: f64| Report { bottleneck: Some(Bottleneck::Guard), guard_qps: Some(qps), ..answer(4, 500) };
    case.reports = pods(vec![Ok(held(331.0)), Ok(held(287.4))]);
    assert_eq!(case.condition("Throttled"), is("True", "Guard"));
    assert_eq!(case.condition("RateConfirmed"), is("True", "Confirmed"), "the rate is what was asked for");
    let message = case.status().conditions.swap_remove(3).message;
    assert_eq!(message, "the database suffers: the guard lets about 290 of 500 spans per second pass");
    for report in &mut case.reports {
        report.answer.as_mut().expect("an answer").partitions = [Some(0)].into_iter().collect();
    }
    assert_eq!(case.condition("Throttled"), is("False", "NotLimited"), "nothing waits");
}

#[test]
fn a_window_counts_while_it_is_open() {
    let mut case = Case::new();
    let window =
        json!({ "cron": "30 12 * * *", "duration": "1h", "timeZone": "Europe/Berlin", "rateLimitQPS": 70 });
    case.pipeline.spec.schedule = vec![serde_json::from_value(window).expect("a window")];
    assert_eq!(case.status().rate.desired, 70, "it is 13:00 in Berlin");
    case.now += SignedDuration::from_mins(30);
    assert_eq!(case.status().rate.desired, 500);
}

#[test]
fn an_override_counts_until_it_expires() {
    let mut case = Case::new();
    case.pipeline.spec.rate_override =
        Some(sluice_crds::v1alpha1::RateOverride { rate_limit_qps: 0, until: case.now });
    assert_eq!(case.status().rate.desired, 500);
    case.now -= SignedDuration::from_secs(1);
    assert_eq!(case.status().rate.desired, 0);
    assert_eq!(case.condition("Suspended"), is("True", "RateIsZero"));
}

#[test]
fn an_unchanged_status_is_equal_and_transition_times_stay() {
    let mut case = Case::new();
    let first = case.status();
    case.pipeline.status = Some(first.clone());
    case.now += SignedDuration::from_secs(100);
    // A little more lag is the same number.
    case.reports[0].answer.as_mut().expect("an answer").partitions = [Some(1_240)].into_iter().collect();
    assert_eq!(case.status(), first);
    case.reports[0].answer.as_mut().expect("an answer").partitions = [Some(9_000)].into_iter().collect();
    let later = case.status();
    assert_eq!(Change::between(&first, &later), Change::Numbers);
    case.reports[0].answer.as_mut().expect("an answer").revision = 3;
    let later = case.status();
    assert_eq!(Change::between(&first, &later), Change::AtOnce);
    let times: Vec<_> =
        later.conditions.iter().filter(|now| now.last_transition_time.0 == case.now).collect();
    assert_eq!(times.len(), 1, "only RateConfirmed has flipped");
}

#[test]
fn the_first_status_is_written_at_once_over_the_one_of_the_schema() {
    let nothing = TracePipelineStatus { observed_generation: Some(-1), ..TracePipelineStatus::default() };
    assert_eq!(Change::between(&nothing, &Case::new().status()), Change::AtOnce);
}

#[test]
fn what_pods_that_start_go_through_is_words_until_they_have_started() {
    let mut case = Case::new();
    let mut last = None;
    let mut step = |ready: i32, answers: Vec<Result<Report, String>>| {
        let deployment = case.deployment.as_mut().expect("a deployment");
        deployment.metadata.generation = Some(1);
        let status = deployment.status.as_mut().expect("a status");
        // Its controller has not looked at it yet.
        status.observed_generation = (ready >= 0).then_some(1);
        status.ready_replicas = Some(ready.max(0));
        case.reports = pods(answers);
        let new = case.status();
        case.pipeline.status = Some(new.clone());
        last.replace(new.clone()).map(|old| Change::between(&old, &new))
    };
    let silent = |why: &str| Err(why.to_owned());
    step(-1, vec![silent("not asked yet"), silent("not asked yet")]);
    let change = step(0, vec![silent("not asked yet"), silent("not asked yet")]);
    assert_eq!(change, Some(Change::Words), "the Deployment is there");
    step(0, vec![silent("not asked yet"), silent("not asked yet")]);
    let address = "has no address yet";
    assert_eq!(step(0, vec![silent(address), silent(address)]), Some(Change::Words));
    assert_eq!(step(1, vec![Ok(answer(4, 500)), silent("cannot connect")]), Some(Change::Words));
    assert_eq!(step(1, vec![Ok(answer(4, 500)), silent("cannot connect")]), Some(Change::Nothing));
    assert_eq!(step(1, vec![Ok(answer(4, 500)), Ok(answer(4, 500))]), Some(Change::AtOnce), "confirmed");
    assert_eq!(step(2, vec![Ok(answer(4, 500)), Ok(answer(4, 500))]), Some(Change::AtOnce), "ready");
}
