//! What is remembered between reconciles; losing it costs time or a write, never correctness.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use sluice_crds::names;
use sluice_crds::v1alpha1::TracePipeline;

use super::build;
use crate::lock::lock;

/// The longest wait after failures.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// How long an answer about installed kinds, or a written PodMonitor, counts.
const REMEMBER: Duration = Duration::from_secs(600);

/// Failures in a row, by pipeline.
#[derive(Default)]
pub struct Backoffs(Mutex<HashMap<ObjectRef<TracePipeline>, u32>>);

impl Backoffs {
    /// The wait after one more failure: it doubles, from `first`.
    pub fn next(&self, pipeline: &ObjectRef<TracePipeline>, first: Duration) -> Duration {
        let mut failures = lock(&self.0);
        let failures = failures.entry(pipeline.clone()).or_default();
        *failures += 1;
        LONGEST_BACKOFF.min(first * 2_u32.saturating_pow((*failures - 1).min(16)))
    }

    /// Failures in a row until now.
    pub fn count(&self, pipeline: &ObjectRef<TracePipeline>) -> u32 {
        lock(&self.0).get(pipeline).copied().unwrap_or(0)
    }

    /// A success, or the pipeline is gone.
    pub fn forget(&self, pipeline: &ObjectRef<TracePipeline>) {
        lock(&self.0).remove(pipeline);
    }
}

/// Pipelines whose condition `Conflict` was removed once, in case nobody stands behind it any more.
#[derive(Default)]
pub struct Conflicts(Mutex<HashSet<ObjectRef<TracePipeline>>>);

impl Conflicts {
    /// Whether this process has not looked at it yet; then it has.
    pub fn is_first_look(&self, pipeline: &ObjectRef<TracePipeline>) -> bool {
        lock(&self.0).insert(pipeline.clone())
    }

    /// The pipeline is gone.
    pub fn forget(&self, pipeline: &ObjectRef<TracePipeline>) {
        lock(&self.0).remove(pipeline);
    }
}

/// Children that are not as they should be after they were written, by pipeline, and in which version that has left them:
/// a write that changes nothing does not change it.
#[derive(Default)]
pub struct Stubborn(Mutex<HashMap<ObjectRef<TracePipeline>, HashMap<String, String>>>);

impl Stubborn {
    /// Whether the same was written to this very version already.
    pub fn is_left_so(
        &self,
        pipeline: &ObjectRef<TracePipeline>,
        child: &str,
        actual: &impl ResourceExt,
        desired: &impl ResourceExt,
    ) -> bool {
        let said =
            |annotations: &BTreeMap<String, String>| annotations.get(names::ANNOTATION_APPLIED_HASH).cloned();
        let left = lock(&self.0).get(pipeline).and_then(|children| children.get(child)).cloned();
        left.is_some()
            && left == actual.resource_version()
            && said(actual.annotations()) == said(desired.annotations())
    }

    /// Remembers the version that a write has left; says whether the child is new here.
    pub fn leave(&self, pipeline: ObjectRef<TracePipeline>, child: &str, written: &impl ResourceExt) -> bool {
        let version = written.resource_version().unwrap_or_default();
        lock(&self.0).entry(pipeline).or_default().insert(child.to_owned(), version).is_none()
    }

    /// The pipeline is gone.
    pub fn forget(&self, pipeline: &ObjectRef<TracePipeline>) {
        lock(&self.0).remove(pipeline);
    }
}

/// PodMonitors are not watched, because their kind may not be installed: they are written again now and then.
#[derive(Default)]
pub struct PodMonitors {
    written: Mutex<HashMap<ObjectRef<TracePipeline>, (String, Instant)>>,
    installed: Mutex<Option<(bool, Instant)>>,
}

impl PodMonitors {
    /// Whether the Prometheus operator's kind is there; asked every ten minutes. While there is no answer the last one counts.
    pub async fn kind_is_installed(&self, client: &Client) -> bool {
        let last = *lock(&self.installed);
        if let Some((answer, at)) = last
            && at.elapsed() < REMEMBER
        {
            return answer;
        }
        let kind = build::pod_monitor_kind();
        let answer = match client.list_api_group_resources(&kind.api_version).await {
            Ok(list) => list.resources.iter().any(|resource| resource.kind == kind.kind),
            // No kind of its group is.
            Err(kube::Error::Api(status)) if status.code == 404 => false,
            Err(error) => {
                tracing::warn!(error = %sluice_crds::problem::chain(&error), "cannot ask whether PodMonitors are installed");
                return last.is_some_and(|(answer, _)| answer);
            }
        };
        *lock(&self.installed) = Some((answer, Instant::now()));
        answer
    }

    /// Forgets the answer about their kind: it has turned out to be wrong.
    pub fn ask_again(&self) {
        *lock(&self.installed) = None;
    }

    /// Whether that of a pipeline should be written.
    pub fn is_due(&self, pipeline: &ObjectRef<TracePipeline>, hash: &str) -> bool {
        let written = lock(&self.written);
        written.get(pipeline).is_none_or(|(last, at)| last != hash || at.elapsed() >= REMEMBER)
    }

    /// It was.
    pub fn written(&self, pipeline: ObjectRef<TracePipeline>, hash: String) {
        lock(&self.written).insert(pipeline, (hash, Instant::now()));
    }

    /// The pipeline is gone.
    pub fn forget(&self, pipeline: &ObjectRef<TracePipeline>) {
        lock(&self.written).remove(pipeline);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::controller::example;

    #[tokio::test]
    async fn a_question_about_installed_kinds_that_fails_is_asked_again_and_an_answer_is_kept() {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let client = example::client_of(move |_| {
            std::future::ready(match count.fetch_add(1, Ordering::Relaxed) {
                0 => (503, example::refusal(503, "ServiceUnavailable")),
                _ => (200, example::monitoring_kinds()),
            })
        });
        let monitors = PodMonitors::default();
        assert!(!monitors.kind_is_installed(&client).await, "nobody has said so");
        assert!(monitors.kind_is_installed(&client).await);
        assert!(monitors.kind_is_installed(&client).await);
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }
}
