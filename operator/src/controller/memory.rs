//! What is remembered between reconciles; losing it costs time or a write, never correctness.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use kube::runtime::reflector::ObjectRef;
use kube::{Client, ResourceExt};
use sluice_crds::v1alpha1::{TracePipeline, TracePipelineStatus};

use super::build;
use crate::lock::lock;

/// The watch shows a status that was written within this, or it is not what it was: an API server has other data, such as
/// those of a backup.
const SHOWN_WITHIN: Duration = Duration::from_secs(60);
/// The longest wait after failures.
const LONGEST_BACKOFF: Duration = Duration::from_secs(60);
/// How long an answer about installed kinds, or a written PodMonitor, counts.
const REMEMBER: Duration = Duration::from_secs(600);
/// How long the answer before counts on where a question about installed kinds has failed: each may last as long as a reconcile.
const ASK_AGAIN: Duration = Duration::from_secs(10);

/// So many writes of one and the same content over a child within [`CONTEST`] mean that somebody writes another one each time.
const MOST_REPAIRS: u32 = 5;
/// See there.
const CONTEST: Duration = Duration::from_secs(60);

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

/// Statuses that were written and that the watch does not show yet. Who looks at a pipeline as the watch shows it may take the
/// status before the last for the last one, and leave it at that.
#[derive(Default)]
pub struct UnobservedStatuses(Mutex<HashMap<ObjectRef<TracePipeline>, Written>>);

struct Written {
    /// Versions that are older than this one.
    over: HashSet<String>,
    version: Option<String>,
    status: Option<TracePipelineStatus>,
    at: Instant,
}

impl UnobservedStatuses {
    /// A status was written over a version of the pipeline; gives `version` and `status`.
    pub fn wrote(
        &self,
        pipeline: &TracePipeline,
        over: Option<String>,
        version: Option<String>,
        status: Option<TracePipelineStatus>,
    ) {
        let mut all = lock(&self.0);
        let last = all.remove(&ObjectRef::from_obj(pipeline));
        let mut older = last.map_or_else(HashSet::new, |last| last.over);
        older.extend(pipeline.resource_version().into_iter().chain(over));
        let written = Written { over: older, version, status, at: Instant::now() };
        all.insert(ObjectRef::from_obj(pipeline), written);
    }

    /// The pipeline with its last status, of what the watch shows.
    pub fn newest<'a>(&self, shown: &'a TracePipeline) -> Cow<'a, TracePipeline> {
        let (name, mut all) = (ObjectRef::from_obj(shown), lock(&self.0));
        let is_older = |written: &&Written| {
            written.at.elapsed() < SHOWN_WITHIN
                && shown.metadata.resource_version.as_ref().is_some_and(|it| written.over.contains(it))
        };
        let Some(written) = all.get(&name).filter(is_older) else {
            all.remove(&name);
            return Cow::Borrowed(shown);
        };
        let mut newest = shown.clone();
        newest.metadata.resource_version.clone_from(&written.version);
        newest.status.clone_from(&written.status);
        Cow::Owned(newest)
    }

    /// The pipeline is gone.
    pub fn forget(&self, pipeline: &ObjectRef<TracePipeline>) {
        lock(&self.0).remove(pipeline);
    }
}

/// Children that are not as they should be after they were written, by pipeline, and as what that has left them: without their
/// status, which goes on changing.
#[derive(Default)]
pub struct UnmendedChildren(Mutex<HashMap<ObjectRef<TracePipeline>, HashMap<String, String>>>);

impl UnmendedChildren {
    /// As what the last write has left a child, where that is not as it should be.
    pub fn left(&self, pipeline: &ObjectRef<TracePipeline>, child: &str) -> Option<String> {
        lock(&self.0).get(pipeline).and_then(|children| children.get(child)).cloned()
    }

    /// Remembers as what a write has left a child; says whether the child is new here.
    pub fn leave(&self, pipeline: ObjectRef<TracePipeline>, child: &str, left: String) -> bool {
        lock(&self.0).entry(pipeline).or_default().insert(child.to_owned(), left).is_none()
    }

    /// The pipeline is gone.
    pub fn forget(&self, pipeline: &ObjectRef<TracePipeline>) {
        lock(&self.0).remove(pipeline);
    }
}

/// How often children were repaired lately, by pipeline: two writers that disagree would go on without an end.
#[derive(Default)]
pub struct Repairs(Mutex<HashMap<ObjectRef<TracePipeline>, HashMap<String, Repaired>>>);

struct Repaired {
    /// Hash of what was written.
    content: String,
    since: Instant,
    times: u32,
    told: bool,
}

impl Repaired {
    fn is_contested(&self, now: Instant) -> bool {
        self.times >= MOST_REPAIRS && now < self.since + CONTEST
    }
}

impl Repairs {
    /// Whether a child is left to whoever else writes it, for now.
    pub fn is_contested(
        &self,
        pipeline: &ObjectRef<TracePipeline>,
        child: &str,
        content: &str,
        now: Instant,
    ) -> bool {
        let all = lock(&self.0);
        let repaired = all.get(pipeline).and_then(|children| children.get(child));
        repaired.is_some_and(|it| it.content == content && it.is_contested(now))
    }

    /// A child was there, and a write has changed it.
    pub fn repaired(&self, pipeline: ObjectRef<TracePipeline>, child: &str, content: &str, now: Instant) {
        let mut all = lock(&self.0);
        let children = all.entry(pipeline).or_default();
        match children.get_mut(child).filter(|last| last.content == content) {
            Some(last) if now < last.since + CONTEST => last.times += 1,
            // It is told once, however long it lasts.
            Some(last) => {
                (last.since, last.times, last.told) = (now, 1, last.told && last.times >= MOST_REPAIRS)
            }
            None => {
                let first = Repaired { content: content.to_owned(), since: now, times: 1, told: false };
                children.insert(child.to_owned(), first);
            }
        }
    }

    /// A child that is left so, if there is one, and whether that was not told yet; then it was.
    pub fn contested(&self, pipeline: &ObjectRef<TracePipeline>, now: Instant) -> Option<(String, bool)> {
        let mut all = lock(&self.0);
        let mut contested = all.get_mut(pipeline)?.iter_mut().filter(|(_, it)| it.is_contested(now));
        let (child, repaired) = contested.next()?;
        Some((child.clone(), !std::mem::replace(&mut repaired.told, true)))
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
    /// Until when an answer counts.
    installed: Mutex<Option<(bool, Instant)>>,
}

impl PodMonitors {
    /// Whether the Prometheus operator's kind is there; asked every ten minutes. While there is no answer the last one counts,
    /// and where there never was one, it is not there.
    pub async fn kind_is_installed(&self, client: &Client) -> bool {
        let last = *lock(&self.installed);
        if let Some((answer, until)) = last
            && Instant::now() < until
        {
            return answer;
        }
        let kind = build::pod_monitor_kind();
        let (answer, counts) = match client.list_api_group_resources(&kind.api_version).await {
            Ok(list) => (list.resources.iter().any(|resource| resource.kind == kind.kind), REMEMBER),
            // No kind of its group is. The answer is plain text, of which `is_not_found` knows nothing.
            Err(kube::Error::Api(status)) if status.code == 404 => (false, REMEMBER),
            Err(error) => {
                tracing::warn!(error = %crate::problem::chain(&error), "cannot ask whether PodMonitors are installed");
                (last.is_some_and(|(answer, _)| answer), ASK_AGAIN)
            }
        };
        *lock(&self.installed) = Some((answer, Instant::now() + counts));
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

    #[test]
    fn a_child_that_is_written_over_each_time_is_left_alone_for_the_rest_of_a_minute_and_told_once() {
        let (repairs, pipeline, start) = (Repairs::default(), ObjectRef::new("traces"), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let write = |seconds| repairs.repaired(pipeline.clone(), "Service a", "x", at(seconds));
        (0..4).for_each(write);
        assert_eq!(repairs.contested(&pipeline, at(4)), None);
        write(4);
        assert!(repairs.is_contested(&pipeline, "Service a", "x", at(59)));
        assert!(!repairs.is_contested(&pipeline, "Service a", "y", at(59)), "something else is wanted");
        assert!(!repairs.is_contested(&pipeline, "Role a", "x", at(59)));
        assert_eq!(repairs.contested(&pipeline, at(5)), Some(("Service a".into(), true)));
        assert!(!repairs.is_contested(&pipeline, "Service a", "x", at(60)));
        (60..65).for_each(write);
        assert_eq!(repairs.contested(&pipeline, at(65)), Some(("Service a".into(), false)));
        (130..131).for_each(write);
        (200..205).for_each(write);
        assert_eq!(repairs.contested(&pipeline, at(205)), Some(("Service a".into(), true)), "it was over");
    }

    #[tokio::test]
    async fn a_question_about_installed_kinds_that_fails_is_asked_again_after_a_while_and_an_answer_is_kept()
    {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = asked.clone();
        let client = example::client_of(move |_| {
            std::future::ready(match count.fetch_add(1, Ordering::Relaxed) {
                0 => (503, example::refusal(503, "ServiceUnavailable")),
                _ => (200, example::monitoring_kinds()),
            })
        });
        let monitors = PodMonitors::default();
        for _ in 0..3 {
            assert!(!monitors.kind_is_installed(&client).await, "nobody has said so");
        }
        assert_eq!(asked.load(Ordering::Relaxed), 1, "one reconcile has waited for it");
        lock(&monitors.installed).as_mut().expect("an answer").1 = Instant::now();
        assert!(monitors.kind_is_installed(&client).await);
        assert!(monitors.kind_is_installed(&client).await);
        assert_eq!(asked.load(Ordering::Relaxed), 2);
    }

    #[tokio::test]
    async fn a_group_that_is_not_there_is_an_answer() {
        let client = example::client_of(|_| std::future::ready((404, "404 page not found".into())));
        let monitors = PodMonitors::default();
        assert!(!monitors.kind_is_installed(&client).await);
        let (installed, until) = lock(&monitors.installed).expect("an answer");
        assert!(!installed && until > Instant::now() + ASK_AGAIN, "it counts as long as any other");
    }
}
