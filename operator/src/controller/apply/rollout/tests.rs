use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};

use super::*;
use crate::controller::{build, example};
use crate::watch::Cache;

const MARK: &str = "upgrade-2";

fn deployment(name: &str, mark: Option<&str>, ready: i32, stalled: bool) -> Deployment {
    let mut deployment = Deployment::default();
    deployment.metadata.name = Some(name.to_owned());
    deployment.spec.replicas = Some(2);
    if let Some(mark) = mark {
        deployment.annotations_mut().insert(names::ANNOTATION_UPGRADE.to_owned(), mark.to_owned());
    }
    deployment.status = Some(DeploymentStatus {
        replicas: Some(2),
        updated_replicas: Some(2),
        ready_replicas: Some(ready),
        conditions: stalled.then(|| {
            vec![DeploymentCondition {
                type_: Some("Progressing".into()),
                reason: Some("ProgressDeadlineExceeded".into()),
                ..Default::default()
            }]
        }),
        ..Default::default()
    });
    deployment
}

fn turn(others: &[Deployment], most: usize) -> Rollout {
    let others: Vec<_> = others.iter().map(Standing::of).collect();
    Rollouts::default().turn(others.iter(), &deployment("own", None, 2, false), MARK, most)
}

fn hashed(spec: &str, template: &str) -> Deployment {
    let mut deployment = deployment("own", Some(MARK), 2, false);
    let hashes = [(names::ANNOTATION_SPEC_HASH, spec), (names::ANNOTATION_TEMPLATE_HASH, template)];
    let hashes = hashes.map(|(key, value)| (key.to_owned(), value.to_owned()));
    deployment.annotations_mut().extend(hashes);
    deployment
}

#[test]
fn what_another_version_calls_the_same_spec_is_an_upgrade_and_no_edit() {
    let desired = hashed("2:a", "x");
    let upgrade = Change::Upgrade { runs: true };
    for (actual, expected) in [
        (hashed("2:b", "y"), Change::Spec),
        (hashed("2:a", "y"), upgrade.clone()),
        (hashed("1:b", "y"), upgrade.clone()),
        // Of before versions were written down.
        (hashed("b", "y"), upgrade),
        (hashed("1:b", "x"), Change::Same(Some(MARK.to_owned()))),
    ] {
        let change = change(Some(&actual), &desired, Trouble::default());
        assert_eq!(change, expected, "{:?}", actual.annotations());
    }
    assert_eq!(change(None, &desired, Trouble::default()), Change::Spec);
}

#[test]
fn a_pipeline_in_trouble_proves_nothing_about_an_upgrade() {
    let desired = hashed("2:a", "x");
    let (before, any) = (hashed("2:a", "y"), Trouble { any: true, ..Trouble::default() });
    assert_eq!(change(Some(&before), &desired, any), Change::Upgrade { runs: false });

    let shared = Trouble { shared: true, ..any };
    let kept = Change::Same(Some(MARK.to_owned()));
    assert_eq!(change(Some(&desired), &desired, shared), kept, "it may still come to run");
    let mut failed = hashed("2:a", "x");
    failed.status = deployment("own", None, 1, true).status;
    assert_eq!(
        change(Some(&failed), &desired, any),
        kept,
        "only those of the upgrade are in trouble, or only older ones"
    );
    assert_eq!(change(Some(&failed), &desired, shared), Change::Same(None));
}

#[test]
fn a_pod_that_has_found_no_room_says_nothing_about_an_upgrade() {
    let (desired, kept) = (hashed("2:a", "x"), Change::Same(Some(MARK.to_owned())));
    let failed = |refused: Option<&str>| {
        let mut failed = hashed("2:a", "x");
        failed.status = deployment("own", None, 2, true).status;
        let refused = refused.map(|message| DeploymentCondition {
            type_: Some("ReplicaFailure".into()),
            status: Some("True".into()),
            message: Some(message.into()),
            ..Default::default()
        });
        failed
            .status
            .iter_mut()
            .flat_map(|status| &mut status.conditions)
            .for_each(|all| all.extend(refused.clone()));
        failed
    };
    let change_of = |actual: &Deployment, newest| {
        change(Some(actual), &desired, Trouble { newest, ..Trouble::default() })
    };
    let quota =
        r#"pods "a" is forbidden: exceeded quota: team, requested: pods=1, used: pods=4, limited: pods=4"#;
    assert_eq!(change_of(&failed(Some(quota)), Newest::Missing), Change::Same(None));
    assert_eq!(change_of(&failed(None), Newest::Unplaced), Change::Same(None));
    assert_eq!(change_of(&desired, Newest::Unplaced), kept, "it may still find room");
    assert_eq!(change_of(&failed(Some(quota)), Newest::Placed), kept, "it may be its template");
    assert_eq!(change_of(&failed(None), Newest::Missing), kept, "nobody knows why");
    let policy = r#"pods "a" is forbidden: violates PodSecurity "restricted:latest""#;
    assert_eq!(change_of(&failed(Some(policy)), Newest::Missing), kept);
}

#[test]
fn what_an_upgrade_withholds_is_told_as_far_as_it_can_be() {
    let with = |settings: &str, spec: &str| {
        let mut deployment = hashed(spec, "x");
        let labels = [(names::LABEL_SETTINGS.to_owned(), settings.to_owned())].into();
        deployment.spec.template.metadata.get_or_insert_default().labels = Some(labels);
        deployment
    };
    let desired = with("s", "2:a");
    for (actual, expected) in [
        (with("s", "2:a"), Withheld::Nothing),
        (with("s", "1:b"), Withheld::Unknown),
        (with("r", "1:b"), Withheld::Settings),
    ] {
        assert_eq!(withheld(Some(&actual), &desired), expected, "{:?}", actual.annotations());
    }
}

#[test]
fn as_many_roll_at_once_as_are_allowed() {
    let rolling = [deployment("a", Some(MARK), 1, false), deployment("b", Some(MARK), 0, false)];
    assert_eq!(turn(&rolling, 2), Rollout::Waiting);
    assert_eq!(turn(&rolling, 3), Rollout::Free);
    assert_eq!(turn(&[deployment("a", Some(MARK), 2, false)], 1), Rollout::Free);
}

#[test]
fn a_rollout_that_has_ended_takes_no_turn_whatever_becomes_of_its_pods() {
    let says = |reason: &str| {
        vec![DeploymentCondition {
            type_: Some("Progressing".into()),
            reason: Some(reason.into()),
            ..Default::default()
        }]
    };
    let mut other = deployment("a", Some(MARK), 1, false);
    let mut turn_after = |change: &dyn Fn(&mut DeploymentStatus)| {
        change(other.status.as_mut().expect("a status"));
        turn(std::slice::from_ref(&other), 1)
    };
    assert_eq!(turn_after(&|it| it.conditions = Some(says("ReplicaSetUpdated"))), Rollout::Waiting);
    assert_eq!(turn_after(&|it| it.conditions = Some(says("NewReplicaSetAvailable"))), Rollout::Free);
    assert_eq!(
        turn_after(&|it| it.updated_replicas = Some(0)),
        Rollout::Waiting,
        "a template that came back"
    );
    assert_eq!(turn_after(&|it| it.replicas = Some(0)), Rollout::Waiting, "the old pod goes first");
    other.metadata.generation = Some(2);
    other.status.as_mut().expect("a status").updated_replicas = Some(2);
    other.status.as_mut().expect("a status").replicas = Some(2);
    assert_eq!(turn(std::slice::from_ref(&other), 1), Rollout::Waiting, "it was of the template before");
}

#[test]
fn a_turn_counts_before_it_can_be_seen() {
    let rollouts = Rollouts::default();
    let (a, b) = (deployment("a", None, 2, false), deployment("b", None, 2, false));
    let all = [&a, &b].map(Standing::of);
    assert_eq!(rollouts.turn(all.iter(), &a, MARK, 1), Rollout::Free);
    assert_eq!(rollouts.turn(all.iter(), &b, MARK, 1), Rollout::Waiting);
}

#[test]
fn a_failed_rollout_of_the_same_upgrade_halts_the_others() {
    let mut failed = deployment("a-consumer", Some(MARK), 1, true);
    failed.metadata.namespace = Some("shop".to_owned());
    failed.labels_mut().insert(names::LABEL_PIPELINE.to_owned(), "a".to_owned());
    let halted = Rollout::Halted { because: "shop/a".into() };
    assert_eq!(turn(&[failed], 5), halted, "the pipeline is named");
}

#[test]
fn a_deployment_that_is_no_child_of_a_pipeline_halts_nobody() {
    let valid = example::valid();
    let built = build::build(&valid, &example::options(), 2, false).expect("children").deployment;
    let mut child = deployment("traces-consumer", Some(MARK), 1, true);
    child.metadata.namespace.clone_from(&built.metadata.namespace);
    child.metadata.owner_references.clone_from(&built.metadata.owner_references);
    child.metadata.labels.clone_from(&built.metadata.labels);
    let turn_beside = |pipelines: &[TracePipeline], there: &Deployment| {
        let all = Cache::of(pipelines.to_vec(), vec![there.clone()], vec![]).deployments();
        let own = deployment("own", None, 2, false);
        Rollouts::default().turn(all.iter().map(|one| &one.standing), &own, MARK, 1)
    };
    let there = [example::pipeline()];
    assert_eq!(turn_beside(&there, &child), Rollout::Halted { because: "shop/traces".into() });
    assert_eq!(turn_beside(&[], &child), Rollout::Free, "its pipeline is gone");

    let (mut copy, mut orphan, mut former) = (child.clone(), child.clone(), child);
    copy.metadata.name = Some("traces-consumer-debug".into());
    orphan.metadata.owner_references = None;
    former.owner_references_mut()[0].uid = "an-earlier-one".into();
    for other in [copy, orphan, former] {
        assert_eq!(turn_beside(&there, &other), Rollout::Free, "{:?}", other.metadata);
    }
}

#[test]
fn pipelines_that_fail_for_reasons_of_their_own_hold_nobody_up() {
    let failed = [deployment("a", None, 0, true), deployment("b", Some("upgrade-1"), 0, true)];
    assert_eq!(turn(&failed, 1), Rollout::Free);
}
