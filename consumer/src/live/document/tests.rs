use super::*;

const UID: &str = "uid-1";

/// A document of this pipeline.
fn text(revision: u64, rate: u32) -> Found {
    of(UID, revision, rate)
}

fn of(uid: &str, revision: u64, rate: u32) -> Found {
    Found::Text(format!(r#"{{"minReader":1,"uid":"{uid}","revision":{revision},"rateLimitQPS":{rate}}}"#))
}

fn both() -> Documents {
    Documents::new(UID, &[Origin::Api, Origin::Directory])
}

/// Revision and rate in effect, and the reason why the newest document is not.
fn state(documents: &Documents) -> (u64, u32, Option<ErrorReason>) {
    let applied = documents.applied();
    (applied.revision, applied.live.rate_limit_qps, applied.refused.as_ref().map(|error| error.reason))
}

fn refusal(documents: &Documents) -> &str {
    documents.applied().refused.as_ref().map_or("", |error| &error.message)
}

#[test]
fn before_the_first_good_document_the_rate_is_0() {
    let mut documents = both();
    assert_eq!((state(&documents), documents.applied().origin), ((0, 0, None), None));
    for found in [
        Found::Missing("no such object".into()),
        Found::Unreachable("no answer".into()),
        Found::Unreadable("not text".into()),
        Found::Text("{".into()),
        Found::Text(r#"{"minReader":2,"uid":"uid-1","revision":1,"rateLimitQPS":5}"#.into()),
        of("another", 1, 5),
        text(0, 5),
        text(1, u32::MAX),
    ] {
        documents.take(Origin::Api, found);
        let (revision, rate, reason) = state(&documents);
        assert_eq!((revision, rate, documents.applied().origin), (0, 0, None));
        assert!(reason.is_some());
    }
    documents.take(Origin::Api, text(1, 5));
    assert_eq!(state(&documents), (1, 5, None));
}

#[test]
fn only_a_greater_revision_is_applied() {
    let mut documents = both();
    documents.take(Origin::Api, text(7, 700));
    documents.take(Origin::Api, text(6, 600));
    assert_eq!(state(&documents), (7, 700, Some(ErrorReason::LiveRefused)));
    assert!(refusal(&documents).contains("revision 6"), "{}", refusal(&documents));
    documents.take(Origin::Api, text(7, 700));
    assert_eq!(state(&documents), (7, 700, None));
    documents.take(Origin::Api, text(7, 701));
    assert_eq!(state(&documents), (7, 700, Some(ErrorReason::LiveRefused)));
    documents.take(Origin::Api, text(9, 900));
    assert_eq!(state(&documents), (9, 900, None));
}

#[test]
fn a_pipeline_made_again_under_the_same_name_is_another_one() {
    let mut documents = both();
    documents.take(Origin::Api, text(7, 700));
    documents.take(Origin::Api, of("uid-2", 1, 100));
    assert_eq!(state(&documents), (7, 700, Some(ErrorReason::LiveRefused)));
    assert!(refusal(&documents).contains("expected uid uid-1, found uid uid-2"), "{}", refusal(&documents));
    documents.take(Origin::Api, of("uid-2", 8, 800));
    assert_eq!(state(&documents).0, 7);
    // Its own consumers begin with its first revision.
    let mut successor = Documents::new("uid-2", &[Origin::Api]);
    successor.take(Origin::Api, of("uid-2", 1, 100));
    assert_eq!(state(&successor), (1, 100, None));
}

#[test]
fn a_document_without_a_uid_belongs_to_nobody() {
    let mut documents = both();
    documents.take(Origin::Api, Found::Text(r#"{"minReader":1,"revision":1,"rateLimitQPS":5}"#.into()));
    assert_eq!(state(&documents), (0, 0, Some(ErrorReason::LiveRefused)));
    assert!(refusal(&documents).contains("found no uid"));
}

#[test]
fn a_deleted_garbled_or_too_new_document_keeps_the_last_good_one() {
    let mut documents = both();
    documents.take(Origin::Api, text(7, 700));
    for (found, reason) in [
        (Found::Missing("deleted".into()), ErrorReason::LiveMissing),
        (Found::Text("rateLimitQPS: 5".into()), ErrorReason::LiveRefused),
        (Found::Text(r#"{"minReader":2,"rateLimitQPS":{}}"#.into()), ErrorReason::LiveRefused),
        (Found::Unreadable("too large".into()), ErrorReason::LiveRefused),
        (Found::Unreachable("forbidden".into()), ErrorReason::LiveUnreachable),
    ] {
        documents.take(Origin::Api, found);
        assert_eq!(state(&documents), (7, 700, Some(reason)));
        documents.take(Origin::Api, text(7, 700));
        assert_eq!(state(&documents), (7, 700, None));
    }
}

#[test]
fn a_directory_that_is_late_or_not_there_is_no_trouble_while_the_api_answers() {
    let mut documents = both();
    documents.take(Origin::Directory, text(1, 100));
    assert_eq!(documents.applied().origin, Some(Origin::Directory));
    documents.take(Origin::Api, text(2, 200));
    assert_eq!((state(&documents), documents.applied().origin), ((2, 200, None), Some(Origin::Api)));
    for found in [text(1, 100), Found::Missing("none".into()), Found::Text("{".into())] {
        documents.take(Origin::Directory, found);
        assert_eq!((state(&documents), documents.applied().origin), ((2, 200, None), Some(Origin::Api)));
    }
    assert_eq!(documents.applied().sources, [(Origin::Api, true), (Origin::Directory, false)]);
}

#[test]
fn the_directory_serves_while_the_api_is_out_of_reach() {
    let mut documents = both();
    documents.take(Origin::Api, text(2, 200));
    documents.take(Origin::Directory, text(2, 200));
    assert_eq!(documents.applied().origin, Some(Origin::Api));
    documents.take(Origin::Api, Found::Unreachable("refused".into()));
    assert_eq!((state(&documents), documents.applied().origin), ((2, 200, None), Some(Origin::Directory)));
    documents.take(Origin::Directory, text(3, 300));
    assert_eq!((state(&documents), documents.applied().origin), ((3, 300, None), Some(Origin::Directory)));
    // The API is back: at first with what it knew, from a member that lags behind; then with the newest.
    documents.take(Origin::Api, text(2, 200));
    assert_eq!(state(&documents), (3, 300, Some(ErrorReason::LiveRefused)));
    documents.take(Origin::Api, text(3, 300));
    assert_eq!((state(&documents), documents.applied().origin), ((3, 300, None), Some(Origin::Api)));
}

#[test]
fn an_api_that_is_silent_while_the_directory_goes_on_has_not_gone_back() {
    let mut documents = both();
    documents.take(Origin::Api, text(2, 200));
    documents.take(Origin::Directory, text(3, 300));
    assert_eq!((state(&documents), documents.applied().origin), ((3, 300, None), Some(Origin::Directory)));
    documents.take(Origin::Directory, Found::Text("{".into()));
    assert_eq!(state(&documents), (3, 300, Some(ErrorReason::LiveRefused)));
}

#[test]
fn without_any_place_that_answers_the_first_one_says_why() {
    let mut documents = both();
    documents.take(Origin::Api, Found::Unreachable("connection refused".into()));
    assert_eq!(
        (state(&documents), refusal(&documents)),
        ((0, 0, Some(ErrorReason::LiveUnreachable)), "connection refused")
    );
    documents.take(Origin::Directory, Found::Unreachable("input/output error".into()));
    assert_eq!(refusal(&documents), "connection refused");
    documents.take(Origin::Directory, Found::Missing("no live.json".into()));
    assert_eq!(state(&documents), (0, 0, Some(ErrorReason::LiveMissing)));
}

#[test]
fn any_sequence_of_finds_leaves_revisions_rising_and_the_rate_that_of_a_good_document() {
    // Every order of five finds from two places.
    let finds = [text(1, 10), text(2, 20), text(3, 30), Found::Text("{".into()), of("uid-2", 9, 90)];
    let cases = (finds.len() * 2).pow(4);
    for case in 0..cases {
        let (mut documents, mut rest, mut before) = (both(), case, 0);
        for _ in 0..4 {
            let step = rest % (finds.len() * 2);
            rest /= finds.len() * 2;
            let origin = if step.is_multiple_of(2) { Origin::Api } else { Origin::Directory };
            documents.take(origin, finds[step / 2].clone());
            let (revision, rate, _) = state(&documents);
            assert!(revision >= before && u64::from(rate) == revision * 10, "case {case}");
            before = revision;
        }
    }
}
