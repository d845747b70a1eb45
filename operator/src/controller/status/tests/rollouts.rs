//! Tests: what conditions say of the Deployment's pods.

use k8s_openapi::api::apps::v1::DeploymentCondition;

use super::*;
use crate::controller::apply::{Rollout, Withheld};

fn says(type_: &str, status: &str, reason: &str, message: &str) -> Option<Vec<DeploymentCondition>> {
    Some(vec![DeploymentCondition {
        type_: Some(type_.into()),
        status: Some(status.into()),
        reason: Some(reason.into()),
        message: Some(message.into()),
        ..Default::default()
    }])
}

#[test]
fn rollouts_show_as_they_go() {
    let mut case = Case::new();
    case.deployment = Some(deployment(1, 2));
    assert_eq!(case.condition("Ready"), is("Unknown", "RollingOut"));
    assert_eq!(case.condition("Progressing"), is("True", "RollingOut"));
    case.deployment = Some(deployment(1, 1));
    assert_eq!(case.condition("Ready"), is("False", "ConsumersNotReady"));
    let mut stalled = deployment(1, 1);
    let deadline = says("Progressing", "False", "ProgressDeadlineExceeded", "");
    stalled.status.as_mut().expect("a status").conditions = deadline;
    case.deployment = Some(stalled);
    assert_eq!(case.condition("Ready"), is("False", "RolloutStalled"));
    assert_eq!(case.condition("Degraded"), is("True", "RolloutStalled"));
    case.deployment = Some(deployment(2, 2));
    case.outcome.rollout = Rollout::Waiting;
    assert_eq!(case.condition("Progressing"), is("True", "WaitingForTurn"));
}

#[test]
fn a_pod_that_is_missing_after_the_rollout_is_no_rollout() {
    let mut case = Case::new();
    let mut rolled = deployment(2, 1);
    rolled.status.as_mut().expect("a status").conditions =
        says("Progressing", "True", "NewReplicaSetAvailable", "");
    case.deployment = Some(rolled);
    assert_eq!(case.condition("Progressing"), is("False", "RolledOut"));
    assert_eq!(case.condition("Ready"), is("False", "ConsumersNotReady"));
}

#[test]
fn a_pipeline_is_not_ready_while_an_edit_waits_for_its_turn() {
    let mut case = Case::new();
    case.outcome.rollout = Rollout::Waiting;
    assert_eq!(case.condition("Ready"), is("True", "ConsumersReady"), "no edit waits");
    case.outcome.withheld = Withheld::Settings;
    assert_eq!(case.condition("Ready"), is("Unknown", "WaitingForTurn"));
    case.outcome.rollout = Rollout::Halted { because: "shop/first".into() };
    assert_eq!(case.condition("Ready"), is("Unknown", "UpgradeHalted"));
    case.deployment = Some(deployment(2, 1));
    assert_eq!(case.condition("Ready"), is("False", "ConsumersNotReady"), "which is worse");
}

#[test]
fn what_another_version_has_built_is_ready_for_the_generation_that_it_was_ready_for() {
    let mut case = Case::new();
    case.pipeline.status = Some(case.status());
    (case.outcome.rollout, case.outcome.withheld) = (Rollout::Waiting, Withheld::Unknown);
    assert_eq!(case.condition("Ready"), is("True", "ConsumersReady"));
    // As if it were of the spec before.
    for condition in &mut case.pipeline.status.as_mut().expect("a status").conditions {
        condition.observed_generation = Some(2);
    }
    assert_eq!(case.condition("Ready"), is("Unknown", "WaitingForTurn"));
}

#[test]
fn a_spec_that_has_not_reached_the_pods_is_not_ready_and_nothing_is_broken() {
    let mut case = Case::new();
    let mut written = deployment(2, 2);
    written.metadata.generation = Some(8);
    written.status.as_mut().expect("a status").observed_generation = Some(7);
    case.deployment = Some(written.clone());
    assert_eq!(case.condition("Ready"), is("Unknown", "RollingOut"));
    assert_eq!(case.condition("Progressing"), is("True", "RollingOut"));
    written.status.as_mut().expect("a status").ready_replicas = None;
    case.deployment = Some(written);
    assert_eq!(case.condition("Ready"), is("False", "Starting"));
}

#[test]
fn pods_that_the_api_server_refuses_are_told_in_its_words() {
    let mut case = Case::new();
    let words = "pods \"traces-consumer-1-a\" is forbidden: exceeded quota: team";
    let mut refused = deployment(1, 1);
    refused.status.as_mut().expect("a status").conditions =
        says("ReplicaFailure", "True", "FailedCreate", words);
    case.deployment = Some(refused);
    assert_eq!(case.condition("Degraded"), is("True", "PodsRefused"));
    assert_eq!(case.status().conditions.swap_remove(2).message, words);
    case.deployment.as_mut().expect("a deployment").status.as_mut().expect("a status").conditions =
        says("ReplicaFailure", "False", "FailedCreate", words);
    assert_eq!(case.condition("Degraded"), is("False", "AsExpected"));
}
