//! An upgrade of the operator changes the pods of every pipeline: a few at a time, and no more after a failure.
//!
//! What an upgrade rolls carries its mark, so that a pipeline that fails for reasons of its own (its database
//! is away, its spec was changed) neither takes a turn nor halts anybody. One that did not run before the
//! upgrade, or was in trouble, proves nothing about it, and is not marked either. Consumers never take their
//! readiness back, but a new one is not ready before it has reached topic and database. The mark stays, unless a
//! rollout has failed for a reason that consumers of an older template tell of, too (that those are in trouble for a
//! moment explains no new one that ends, or says nothing), or for want of room: where no new pod has had a node, none has
//! shown anything of the upgrade. What else refuses pods, such as an admission policy, may mean their template. One whose
//! rollout has ended takes no turn any more, whatever becomes of its pods. A Deployment that is no child of a pipeline, such as a
//! copy of one that somebody looks at, counts for nothing.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::Deployment;
use kube::ResourceExt;
use kube::runtime::reflector::ObjectRef;
use sluice_crds::names;
use sluice_crds::v1alpha1::TracePipeline;

use super::Rollout;
use crate::controller::dereference::settings_of;
use crate::controller::status::Pods;
use crate::lock::lock;
use crate::watch::controller_of;

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
    /// The uid of what controls it.
    owner: Option<Box<str>>,
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
            owner: controller_of(deployment),
            mark: mark.map(|mark| mark.as_str().into()),
            stalled: pods.stalled,
            rolls: !pods.rolled_out(),
        }
    }

    /// Whether it is a child, as far as `uid_of` knows pipelines.
    pub fn is_of_one(&self, uid_of: impl FnOnce(&ObjectRef<TracePipeline>) -> Option<String>) -> bool {
        let Some((namespace, name)) = self.name.split_once('/') else { return false };
        let owner = || uid_of(&ObjectRef::new(name).within(namespace));
        self.owner.is_some() && self.owner.as_deref() == owner().as_deref()
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
mod tests;
