//! What is remembered between reconciles; losing it costs time or a write, never correctness.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kube::Client;
use kube::runtime::reflector::ObjectRef;
use sluice_crds::v1alpha1::TracePipeline;

use super::build;

/// The longest wait after failures.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// How long an answer about installed kinds, or a written PodMonitor, counts.
const REMEMBER: Duration = Duration::from_secs(600);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

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

/// PodMonitors are not watched, because their kind may not be installed: they are written again now and then.
#[derive(Default)]
pub struct PodMonitors {
    written: Mutex<HashMap<String, (String, Instant)>>,
    installed: Mutex<Option<(bool, Instant)>>,
}

impl PodMonitors {
    /// Whether the Prometheus operator's kind is there; asked every ten minutes.
    pub async fn kind_is_installed(&self, client: &Client) -> bool {
        if let Some((answer, at)) = *lock(&self.installed)
            && at.elapsed() < REMEMBER
        {
            return answer;
        }
        let kind = build::pod_monitor_kind();
        let listed = client.list_api_group_resources(&kind.api_version).await;
        let answer =
            listed.is_ok_and(|list| list.resources.iter().any(|resource| resource.kind == kind.kind));
        *lock(&self.installed) = Some((answer, Instant::now()));
        answer
    }

    /// Whether it should be written.
    pub fn is_due(&self, key: &str, hash: &str) -> bool {
        let written = lock(&self.written);
        written.get(key).is_none_or(|(last, at)| last != hash || at.elapsed() >= REMEMBER)
    }

    /// It was.
    pub fn written(&self, key: String, hash: String) {
        lock(&self.written).insert(key, (hash, Instant::now()));
    }
}
