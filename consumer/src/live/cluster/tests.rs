use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use sluice_crds::error_reason::ErrorReason;
use sluice_crds::names::LIVE_KEY;

use super::*;
use crate::live::api::fake::{self, Fake, Mood};

const UID: &str = "uid-1";
/// "Takes effect within a second."
const SOON: Duration = Duration::from_secs(10);

fn document(revision: u64, rate: u32) -> String {
    format!(r#"{{"minReader":1,"uid":"{UID}","revision":{revision},"rateLimitQPS":{rate}}}"#)
}

/// A mounted ConfigMap, as the kubelet writes it: a new folder, then the link `..data` is switched.
fn mount(dir: &Path, text: &str) {
    let version = tempfile::Builder::new().prefix("..").tempdir_in(dir).unwrap().keep();
    std::fs::write(version.join(LIVE_KEY), text).unwrap();
    symlink(version.file_name().unwrap(), dir.join("..data_tmp")).unwrap();
    std::fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    if !dir.join(LIVE_KEY).is_symlink() {
        symlink(format!("..data/{LIVE_KEY}"), dir.join(LIVE_KEY)).unwrap();
    }
}

fn places(api: Option<&Fake>, directory: Option<&Path>) -> Places {
    Places {
        config_map: api.map(|_| fake::name()),
        directory: directory.map(Path::to_owned),
        client: api.map(Fake::config),
        timing: fake::timing(),
    }
}

async fn until(
    applied: &mut watch::Receiver<Applied>,
    within: Duration,
    condition: impl Fn(&Applied) -> bool,
) -> Applied {
    let reached = tokio::time::timeout(within, applied.wait_for(|applied| condition(applied))).await;
    let reached = reached.ok().map(|reached| reached.unwrap().clone());
    reached.unwrap_or_else(|| panic!("not within {within:?}: {:?}", applied.borrow()))
}

#[tokio::test]
async fn a_change_is_applied_within_a_second() {
    let api = Fake::start().await;
    api.put(Some(&document(1, 100)));
    let mut applied = super::watch(UID, places(Some(&api), None), CancellationToken::new());
    assert_eq!(applied.borrow().live.rate_limit_qps, 0);
    until(&mut applied, SOON, |applied| applied.revision == 1).await;
    api.watched().await;
    let mut delays = Vec::new();
    for revision in 2..52 {
        let began = Instant::now();
        api.put(Some(&document(revision, 100 * revision as u32)));
        let now = until(&mut applied, SOON, |applied| applied.revision == revision).await;
        delays.push(began.elapsed());
        assert_eq!((now.origin, now.live.rate_limit_qps), (Some(Origin::Api), 100 * revision as u32));
    }
    delays.sort_unstable();
    println!("from the API server to the rate, slowest of 50 edits: {:?}", &delays[48..]);
    // One may meet a moment in which the machine stood still.
    assert!(delays[48] < Duration::from_secs(1), "{delays:?}");
}

#[tokio::test]
async fn a_mounted_document_is_followed_through_the_switch_of_its_link() {
    let dir = tempfile::tempdir().unwrap();
    let mut applied = super::watch(UID, places(None, Some(dir.path())), CancellationToken::new());
    let now = until(&mut applied, SOON, |applied| applied.refused.is_some()).await;
    assert_eq!((now.refused.unwrap().reason, now.revision), (ErrorReason::LiveMissing, 0));
    for revision in 1..=5 {
        mount(dir.path(), &document(revision, revision as u32));
        let now = until(&mut applied, SOON, |applied| applied.revision == revision).await;
        assert_eq!((now.origin, now.live.rate_limit_qps), (Some(Origin::Directory), revision as u32));
        assert_eq!(now.refused, None);
    }
    mount(dir.path(), "{");
    let now = until(&mut applied, SOON, |applied| applied.refused.is_some()).await;
    assert_eq!((now.refused.unwrap().reason, now.revision), (ErrorReason::LiveRefused, 5));
    std::fs::remove_file(dir.path().join(LIVE_KEY)).unwrap();
    let missing = |applied: &Applied| {
        applied.refused.as_ref().is_some_and(|error| error.reason == ErrorReason::LiveMissing)
    };
    assert_eq!(until(&mut applied, SOON, missing).await.revision, 5);
}

#[tokio::test]
async fn the_directory_serves_while_the_api_server_is_away_and_undoes_nothing() {
    let (api, dir) = (Fake::start().await, tempfile::tempdir().unwrap());
    api.put(Some(&document(2, 200)));
    mount(dir.path(), &document(1, 100));
    let stop = CancellationToken::new();
    let mut applied = super::watch(UID, places(Some(&api), Some(dir.path())), stop.clone());
    let by_api = |applied: &Applied| applied.origin == Some(Origin::Api) && applied.revision == 2;
    until(&mut applied, SOON, by_api).await;
    until(&mut applied, SOON, |applied| applied.sources == [(Origin::Api, true), (Origin::Directory, true)])
        .await;
    api.watched().await;

    api.set_mood(Mood::Refusing(503));
    api.drop_watches();
    let api_is_away = |applied: &Applied| applied.sources[0] == (Origin::Api, false);
    let now = until(&mut applied, SOON, api_is_away).await;
    assert_eq!((now.revision, now.refused), (2, None));
    mount(dir.path(), &document(3, 300));
    let now = until(&mut applied, SOON, |applied| applied.revision == 3).await;
    assert_eq!((now.origin, now.refused), (Some(Origin::Directory), None));

    api.put_unseen(&document(4, 400));
    api.set_mood(Mood::Good);
    let now = until(&mut applied, SOON, |applied| applied.revision == 4).await;
    assert_eq!((now.origin, now.live.rate_limit_qps), (Some(Origin::Api), 400));

    stop.cancel();
    let ended = async { while applied.changed().await.is_ok() {} };
    tokio::time::timeout(SOON, ended).await.expect("still running");
}

#[tokio::test]
async fn a_deleted_and_recreated_document_never_changes_the_rate_in_between() {
    let api = Fake::start().await;
    api.put(Some(&document(7, 700)));
    let mut applied = super::watch(UID, places(Some(&api), None), CancellationToken::new());
    until(&mut applied, SOON, |applied| applied.revision == 7).await;
    api.watched().await;
    for (step, reason) in [
        (None, ErrorReason::LiveMissing),
        (Some("garbage".to_owned()), ErrorReason::LiveRefused),
        (Some(document(8, 800).replace(UID, "uid-2")), ErrorReason::LiveRefused),
        (Some(document(6, 600)), ErrorReason::LiveRefused),
    ] {
        match &step {
            Some(text) => api.put(Some(text)),
            None => api.delete(),
        }
        let is_told =
            |applied: &Applied| applied.refused.as_ref().is_some_and(|error| error.reason == reason);
        let now = until(&mut applied, SOON, is_told).await;
        assert_eq!((now.revision, now.live.rate_limit_qps), (7, 700), "{step:?}");
        api.put(Some(&document(7, 700)));
        until(&mut applied, SOON, |applied| applied.refused.is_none()).await;
    }
}
