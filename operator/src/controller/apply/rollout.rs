//! An upgrade of the operator changes the pods of every pipeline: a few at a time, and no more after a failure.
//!
//! What an upgrade rolls carries its mark, so that a pipeline that fails for reasons of its own (its database
//! is away, its spec was changed) neither takes a turn nor halts anybody. One that did not run before the
//! upgrade, or was in trouble, proves nothing about it, and is not marked either. Consumers never take their
//! readiness back, but a new one is not ready before it has reached topic and database. The mark stays, unless a
//! rollout has failed for a reason that consumers of an older template tell of, too (that those are in trouble for a
//! moment explains no new one that ends, or says nothing), or for want of room: where no new pod has had a node, none has
//! shown anything of the upgrade. What else refuses pods, such as an admission policy, may mean their template. One whose
//! rollout has ended takes no turn any more, whatever becomes of its pods.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use sluice_crds::names;

use super::Rollout;
use crate::controller::dereference::settings_of;
use crate::controller::status::Pods;
use crate::lock::lock;

/// How long a turn counts before the watch shows the rollout that it has begun.
const UNTIL_SEEN: Duration = Duration::from_secs(10);

/// In the API server's words where a ResourceQuota has no room for a pod.
const OUT_OF_QUOTA: &str = "exceeded quota";

/// How a Deployment is to be changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Now: it is new, or its spec asks for it. No mark.
    Spec,
    /// It keeps its mark, as far as it has one.
    Same(Option<String>),
    /// Only the operator has changed: in its turn, and with the mark if it runs.
    Upgrade {
        /// Whether all its pods are as they should be, and none is in trouble.
        runs: bool,
    },
}

/// Trouble of consumers that a new one has as well, whatever its image is: their database is away, their topic is gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// Any of them has it.
    pub any: bool,
    /// One of the newest template has it, and so has one of an older template: the newest is not the cause.
    pub shared: bool,
    /// Whether pods of the newest template have a node.
    pub newest: Newest,
}

/// Whether pods of the newest template have a node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Newest {
    /// There is none.
    #[default]
    Missing,
    /// None of them has had one.
    Unplaced,
    /// One has.
    Placed,
}

impl Trouble {
    /// Whether a rollout that has stopped moving says nothing about its template.
    fn explains(self, pods: &Pods) -> bool {
        self.shared
            || match self.newest {
                Newest::Missing => pods.refused.as_ref().is_some_and(|why| why.contains(OUT_OF_QUOTA)),
                Newest::Unplaced => true,
                Newest::Placed => false,
            }
    }
}

/// Compares what is with what should be.
pub fn change(actual: Option<&Deployment>, desired: &Deployment, trouble: Trouble) -> Change {
    let Some(actual) = actual else { return Change::Spec };
    let of = annotation;
    let is_same = |hash: &str| of(actual, hash) == of(desired, hash);
    let same_spec = is_same(names::ANNOTATION_SPEC_HASH) || !is_comparable(actual, desired);
    match (same_spec, is_same(names::ANNOTATION_TEMPLATE_HASH)) {
        (false, _) => Change::Spec,
        (true, true) => {
            let pods = Pods::of(actual);
            let mark = || of(actual, names::ANNOTATION_UPGRADE).map(str::to_owned);
            Change::Same(if pods.stalled && trouble.explains(&pods) { None } else { mark() })
        }
        (true, false) => Change::Upgrade { runs: Pods::of(actual).settled() && !trouble.any },
    }
}

/// What of the spec a Deployment does not have whose turn has not come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Withheld {
    /// Nothing.
    #[default]
    Nothing,
    /// Another version has written it: an edit since then cannot be told from other words for the same.
    Unknown,
    /// Its settings.
    Settings,
}

/// Compares what is with what should be, where only the turn is missing.
pub fn withheld(actual: Option<&Deployment>, desired: &Deployment) -> Withheld {
    match actual {
        Some(actual) if settings_of(actual) != settings_of(desired) => Withheld::Settings,
        Some(actual) if !is_comparable(actual, desired) => Withheld::Unknown,
        _ => Withheld::Nothing,
    }
}

fn annotation<'a>(deployment: &'a Deployment, name: &str) -> Option<&'a str> {
    deployment.annotations().get(name).map(String::as_str)
}

/// Another version may write the same spec in other words: its hash says nothing about the spec.
fn is_comparable(actual: &Deployment, desired: &Deployment) -> bool {
    let version = |deployment| hash_version(annotation(deployment, names::ANNOTATION_SPEC_HASH));
    version(actual) == version(desired)
}

/// Which version of the operator has made a spec's hash; none of those that did not say.
fn hash_version(hash: Option<&str>) -> Option<&str> {
    Some(hash?.split_once(':')?.0)
}

/// What of a Deployment counts for the turns of others.
pub struct Standing {
    /// Namespace and name of its pipeline.
    name: Box<str>,
    /// Of the upgrade that rolled it last.
    mark: Option<Box<str>>,
    /// Whether its rollout has failed.
    stalled: bool,
    /// Whether it has not ended.
    rolls: bool,
}

impl Standing {
    /// Reads a Deployment.
    pub fn of(deployment: &Deployment) -> Self {
        let mark = deployment.annotations().get(names::ANNOTATION_UPGRADE);
        let pods = Pods::of(deployment);
        Self {
            name: key(deployment).into(),
            mark: mark.map(|mark| mark.as_str().into()),
            stalled: pods.stalled,
            rolls: !pods.rolled_out(),
        }
    }
}

/// The pipeline, because people repair pipelines.
fn key(deployment: &Deployment) -> String {
    let pipeline = deployment.labels().get(names::LABEL_PIPELINE).cloned();
    let pipeline = pipeline.unwrap_or_else(|| deployment.name_any());
    format!("{}/{pipeline}", deployment.namespace().unwrap_or_default())
}

/// Turns that were given and are not visible yet.
#[derive(Default)]
pub struct Rollouts {
    begun: Mutex<HashMap<String, Instant>>,
}

impl Rollouts {
    /// Whether `own` may roll now, given all Deployments; if so, it counts as rolling. `mark` is that of this
    /// upgrade.
    pub fn turn<'a>(
        &self,
        all: impl Iterator<Item = &'a Standing>,
        own: &Deployment,
        mark: &str,
        most: usize,
    ) -> Rollout {
        #[cfg(feature = "planted")]
        if crate::planted::is(crate::planted::Bug::RollAll) {
            return Rollout::Free;
        }
        let own = key(own);
        let mut begun = lock(&self.begun);
        begun.retain(|_, since| since.elapsed() < UNTIL_SEEN);
        let mut rolling = 0;
        for other in all {
            let marked = other.mark.as_deref() == Some(mark);
            if *other.name == *own {
                continue;
            }
            if marked && other.stalled {
                return Rollout::Halted { because: other.name.to_string() };
            }
            if (marked && other.rolls) || begun.contains_key(&*other.name) {
                rolling += 1;
            }
        }
        if rolling >= most {
            return Rollout::Waiting;
        }
        begun.insert(own, Instant::now());
        Rollout::Free
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::api::apps::v1::{DeploymentCondition, DeploymentStatus};

    use super::*;

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
        let quota = r#"pods "a" is forbidden: exceeded quota: team, requested: pods=1, used: pods=4, limited: pods=4"#;
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
    fn pipelines_that_fail_for_reasons_of_their_own_hold_nobody_up() {
        let failed = [deployment("a", None, 0, true), deployment("b", Some("upgrade-1"), 0, true)];
        assert_eq!(turn(&failed, 1), Rollout::Free);
    }
}
