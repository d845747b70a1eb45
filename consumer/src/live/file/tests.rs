use std::fs;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use super::*;

const GOOD: &str = "
apiVersion: sluice.dev/v1alpha1
kind: TracePipeline
metadata: { name: demo }
spec:
  source: { kafka: { bootstrapServers: 'kafka:9092', topic: spans, consumerGroup: sluice } }
  sink: { sqlite: { claimName: demo } }
  rateLimitQPS: 5000
  replicas: 1
";
const DEADLINE: Duration = Duration::from_secs(10);

struct Bench {
    dir: TempDir,
    path: PathBuf,
    applied: watch::Receiver<Applied>,
    stop: CancellationToken,
}

impl Bench {
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("pipeline.yaml");
        fs::write(&path, GOOD).unwrap();
        let stop = CancellationToken::new();
        let applied = watch(path.clone(), &config::load(&path).unwrap(), stop.clone());
        Self { dir, path, applied, stop }
    }

    fn save(&self, text: &str) {
        fs::write(&self.path, text).unwrap();
    }

    /// Waits for a state; fails where it does not come within a second.
    async fn until(&mut self, condition: impl Fn(&Applied) -> bool) -> Applied {
        let reached = tokio::time::timeout(DEADLINE, self.applied.wait_for(|applied| condition(applied)));
        reached.await.expect("no effect within a second").expect("the watcher ended").clone()
    }
}

#[tokio::test]
async fn a_saved_edit_takes_effect_within_a_second() {
    let mut bench = Bench::start();
    assert_eq!(bench.applied.borrow().revision, 1);
    let saved = Instant::now();
    bench.save(&GOOD.replace("5000", "500\n  suspend: true"));
    let applied = bench.until(|applied| applied.revision == 2).await;
    assert!(saved.elapsed() < Duration::from_secs(1));
    assert_eq!((applied.live.rate_limit_qps, applied.live.suspend), (500, true));
    assert_eq!(applied.refused, None);
}

#[tokio::test]
async fn an_editor_that_renames_is_followed() {
    let mut bench = Bench::start();
    for rate in 1..=3 {
        let other = bench.dir.path().join(".pipeline.yaml.swp");
        fs::write(&other, GOOD.replace("5000", &rate.to_string())).unwrap();
        fs::rename(&other, &bench.path).unwrap();
        bench.until(|applied| applied.live.rate_limit_qps == rate).await;
    }
    assert_eq!(bench.applied.borrow().revision, 4);
}

#[cfg(unix)]
#[tokio::test]
async fn a_config_map_volume_that_switches_its_link_is_followed() {
    let dir = tempfile::tempdir().unwrap();
    for (version, rate) in [("..one", "1"), ("..two", "2")] {
        fs::create_dir(dir.path().join(version)).unwrap();
        fs::write(dir.path().join(version).join("pipeline.yaml"), GOOD.replace("5000", rate)).unwrap();
    }
    let link = |version: &str| {
        std::os::unix::fs::symlink(version, dir.path().join("..tmp")).unwrap();
        fs::rename(dir.path().join("..tmp"), dir.path().join("..data")).unwrap();
    };
    link("..one");
    let path = dir.path().join("pipeline.yaml");
    std::os::unix::fs::symlink("..data/pipeline.yaml", &path).unwrap();
    let mut applied = watch(path.clone(), &config::load(&path).unwrap(), CancellationToken::new());
    link("..two");
    let reached =
        tokio::time::timeout(DEADLINE, applied.wait_for(|applied| applied.live.rate_limit_qps == 2));
    reached.await.expect("no effect within a second").unwrap();
}

#[tokio::test]
async fn a_broken_file_keeps_the_last_good_values_and_says_everything_that_is_wrong() {
    let mut bench = Bench::start();
    bench.save(&GOOD.replace("5000", "-1\n  formt: Json"));
    let applied = bench.until(|applied| applied.refused.is_some()).await;
    let refused = applied.refused.unwrap();
    let text = &refused.message;
    assert!(text.contains("spec.rateLimitQPS") && text.contains("spec.formt"), "{text}");
    assert_eq!((refused.reason, applied.sources), (ErrorReason::LiveRefused, vec![(Origin::File, false)]));
    assert_eq!((applied.revision, applied.live.rate_limit_qps), (1, 5000));

    bench.save("spec: [");
    bench.until(|applied| applied.refused.as_ref().is_some_and(|now| *now != refused)).await;
    bench.save(GOOD);
    let applied = bench.until(|applied| applied.refused.is_none()).await;
    assert_eq!((applied.revision, applied.live.rate_limit_qps), (1, 5000));
}

#[tokio::test]
async fn settings_that_are_not_used_are_not_compared() {
    let Bench { dir, path, stop, .. } = Bench::start();
    let used = |mut settings: Settings| {
        settings.sink.sqlite = None;
        settings
    };
    let applied = watch_used(path.clone(), &config::load(&path).unwrap(), used, stop.clone());
    let mut bench = Bench { dir, path, applied, stop };
    bench.save(&GOOD.replace("5000", "500").replace("claimName: demo", "claimName: other"));
    let applied = bench.until(|applied| applied.revision == 2 || applied.refused.is_some()).await;
    assert_eq!((applied.live.rate_limit_qps, applied.refused), (500, None));
}

#[tokio::test]
async fn a_change_that_needs_a_restart_is_not_applied_by_half() {
    let mut bench = Bench::start();
    bench.save(&GOOD.replace("5000", "500").replace("topic: spans", "topic: others"));
    let applied = bench.until(|applied| applied.refused.is_some()).await;
    let refused = applied.refused.unwrap();
    let expected = "pipeline.yaml: a restart is needed to change spec.source.kafka.topic";
    assert!(refused.message.ends_with(expected), "{}", refused.message);
    assert_eq!((applied.revision, applied.live.rate_limit_qps), (1, 5000));

    bench.save(&GOOD.replace("5000", "500"));
    let applied = bench.until(|applied| applied.refused.is_none()).await;
    assert_eq!((applied.revision, applied.live.rate_limit_qps), (2, 500));
}

#[tokio::test]
async fn a_deleted_file_keeps_the_last_good_values() {
    let mut bench = Bench::start();
    fs::remove_file(&bench.path).unwrap();
    let applied = bench.until(|applied| applied.refused.is_some()).await;
    let refused = applied.refused.unwrap();
    assert!(refused.reason == ErrorReason::LiveMissing && refused.message.contains("pipeline.yaml"));
    assert_eq!((applied.revision, applied.live.rate_limit_qps), (1, 5000));
    bench.save(&GOOD.replace("5000", "500"));
    bench.until(|applied| applied.refused.is_none() && applied.live.rate_limit_qps == 500).await;
}

#[tokio::test]
async fn the_watcher_ends_when_it_is_told_to() {
    let mut bench = Bench::start();
    bench.stop.cancel();
    let ended = tokio::time::timeout(DEADLINE, async { while bench.applied.changed().await.is_ok() {} });
    ended.await.expect("still running after a second");
}

#[test]
fn what_the_positions_belong_to_is_not_said_to_need_a_restart_only() {
    let settings = |text: &str| config::parse(text).unwrap().settings;
    let reason = |edited: &str| refusal(&settings(GOOD), &settings(edited)).unwrap();
    for (edited, path) in [
        (GOOD.replace("consumerGroup: sluice", "consumerGroup: other"), "spec.source.kafka.consumerGroup"),
        (GOOD.replace("} }\n  rate", "}, table: other }\n  rate"), "spec.sink.table"),
        (
            GOOD.replace(
                "sqlite: { claimName: demo }",
                "mysql: { urlFrom: { secretKeyRef: { name: a, key: b } } }",
            ),
            "spec.sink.mysql, spec.sink.sqlite",
        ),
    ] {
        let reason = reason(&edited);
        assert!(reason.starts_with(&format!("cannot change {path}: ")), "{reason}");
        assert!(reason.contains("once more") && !reason.contains("restart"), "{reason}");
    }
    let both =
        reason(&GOOD.replace("topic: spans, consumerGroup: sluice", "topic: others, consumerGroup: other"));
    assert!(both.ends_with("; a restart is needed to change spec.source.kafka.topic"), "{both}");
}

#[test]
fn a_change_is_described_with_old_and_new_values() {
    let live = |text: &str| config::parse(text).unwrap().live;
    let new =
        live(&GOOD.replace("5000", "500\n  override: { rateLimitQPS: 7, until: 2030-01-01T00:00:00Z }"));
    let told = |now: &str| describe_at(now.parse().unwrap(), &live(GOOD), &new);
    let changes =
        r#"override none -> {"rateLimitQPS":7,"until":"2030-01-01T00:00:00Z"}, rateLimitQPS 5000 -> 500"#;
    assert_eq!(told("2029-12-31T23:59:59Z"), changes);
    let ended = format!("{changes}; override ended at 2030-01-01T00:00:00Z: no effect");
    assert_eq!(told("2030-01-01T00:00:00Z"), ended);
}
