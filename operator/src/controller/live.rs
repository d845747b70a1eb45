//! The live ConfigMap: what to do with the one that is there; no client.
//!
//! Its revision moves by content only, and past everything that anybody has seen of this pipeline: the
//! document, the status, the consumers' reports. So neither a thawed leader nor a restored file undoes a newer
//! value: consumers never go back.

use k8s_openapi::api::core::v1::ConfigMap;
use sluice_crds::live::{Live, LiveDocument, MAX_REVISION};
use sluice_crds::{names, wire};

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// It is as it should be.
    Keep(LiveDocument),
    /// Write this one: a new object, or over the one that was looked at.
    Write(LiveDocument),
    /// The one that is there was made immutable: delete it, then write this one.
    Recreate(LiveDocument),
    /// Something has to be written, and no revision is left for it. The one that is there stays, if it is whole.
    Exhausted(Option<LiveDocument>),
}

impl Plan {
    /// The document that is in effect afterwards.
    pub fn document(&self) -> Option<&LiveDocument> {
        match self {
            Self::Keep(document) | Self::Write(document) | Self::Recreate(document) => Some(document),
            Self::Exhausted(document) => document.as_ref(),
        }
    }
}

/// The document that is there, if it is this pipeline's and whole. Garbled, too new, or of a pipeline that is gone:
/// as if there were none.
pub fn current(actual: &ConfigMap, uid: &str) -> Option<LiveDocument> {
    let text = actual.data.as_ref()?.get(names::LIVE_KEY)?;
    let document = wire::read::<LiveDocument>(text).ok()?;
    (document.uid == uid && document.revision <= MAX_REVISION).then_some(document)
}

/// Decides. `seen` is the largest revision of this pipeline in status and reports, of those that a reader takes.
pub fn plan(actual: Option<&ConfigMap>, uid: &str, wanted: &Live, seen: u64) -> Plan {
    let text = actual.and_then(|map| map.data.as_ref()?.get(names::LIVE_KEY));
    let current = actual.and_then(|actual| current(actual, uid));
    let immutable = actual.is_some_and(|map| map.immutable == Some(true));
    let is_canonical = |document: &LiveDocument| wire::write(document).ok().as_ref() == text;
    match current {
        Some(document)
            if document.live == *wanted
                && document.revision >= seen
                && !immutable
                && is_canonical(&document) =>
        {
            Plan::Keep(document)
        }
        current => {
            let highest = current.as_ref().map_or(0, |document| document.revision).max(seen);
            if highest >= MAX_REVISION {
                return Plan::Exhausted(current);
            }
            let document = LiveDocument { uid: uid.to_owned(), revision: highest + 1, live: wanted.clone() };
            if immutable { Plan::Recreate(document) } else { Plan::Write(document) }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sluice_crds::settings::Settings;
    use sluice_crds::v1alpha1::{Guard, TracePipelineSpec};

    use super::*;

    const UID: &str = "uid-1";

    fn live(rate_limit_qps: u32) -> Live {
        Live::of_rate(rate_limit_qps)
    }

    fn map(text: &str) -> ConfigMap {
        ConfigMap { data: Some([(names::LIVE_KEY.to_owned(), text.to_owned())].into()), ..Default::default() }
    }

    fn written(uid: &str, revision: u64, rate: u32) -> ConfigMap {
        map(&wire::write(&LiveDocument { uid: uid.into(), revision, live: live(rate) }).expect("a document"))
    }

    fn document(revision: u64, rate: u32) -> LiveDocument {
        LiveDocument { uid: UID.into(), revision, live: live(rate) }
    }

    #[test]
    fn the_first_document_has_revision_1() {
        assert_eq!(plan(None, UID, &live(5), 0), Plan::Write(document(1, 5)));
    }

    #[test]
    fn the_same_content_is_never_written_again() {
        assert_eq!(plan(Some(&written(UID, 7, 5)), UID, &live(5), 7), Plan::Keep(document(7, 5)));
    }

    #[test]
    fn an_edit_moves_the_revision_by_one() {
        assert_eq!(plan(Some(&written(UID, 7, 5)), UID, &live(6), 7), Plan::Write(document(8, 6)));
    }

    #[test]
    fn a_schedule_and_a_guard_are_live_they_move_the_revision_and_leave_the_settings_alone() {
        let spec: TracePipelineSpec = serde_json::from_value(json!({
            "source": { "kafka": { "bootstrapServers": "k:9092", "topic": "t", "consumerGroup": "g" } },
            "rateLimitQPS": 5,
            "sink": { "mysql": { "urlFrom": { "secretKeyRef": { "name": "db", "key": "url" } } } },
        }))
        .expect("a spec");
        let window = json!({ "cron": "0 22 * * *", "duration": "8h", "rateLimitQPS": 9 });
        let mut changed = spec.clone();
        changed.schedule = vec![serde_json::from_value(window).expect("a window")];
        let scheduled = Live::of(&changed);
        changed.guard = Some(Guard::default());
        let guarded = Live::of(&changed);

        let hash = |spec: &TracePipelineSpec| Settings::of("shop/traces", spec).hash().expect("a hash");
        assert_eq!(hash(&changed), hash(&spec));
        let actual = written(UID, 7, 5);
        let Plan::Write(document) = plan(Some(&actual), UID, &scheduled, 7) else {
            panic!("nothing to write")
        };
        assert_eq!((document.revision, &document.live), (8, &scheduled));
        let actual = map(&wire::write(&document).expect("a document"));
        assert_eq!(plan(Some(&actual), UID, &scheduled, 8), Plan::Keep(document));
        let Plan::Write(document) = plan(Some(&actual), UID, &guarded, 8) else { panic!("nothing to write") };
        assert_eq!((document.revision, &document.live), (9, &guarded));
    }

    #[test]
    fn a_deleted_or_garbled_document_comes_back_past_everything_seen() {
        assert_eq!(plan(None, UID, &live(5), 7), Plan::Write(document(8, 5)));
        let huge =
            r#"{"minReader":1,"rateLimitQPS":5,"revision":9007199254740993,"suspend":false,"uid":"uid-1"}"#;
        for text in ["", "{", "{}", "{\"minReader\":99}", "[1]", huge] {
            assert_eq!(plan(Some(&map(text)), UID, &live(5), 7), Plan::Write(document(8, 5)), "{text}");
        }
    }

    #[test]
    fn an_older_document_put_back_by_hand_is_overtaken() {
        assert_eq!(plan(Some(&written(UID, 3, 5)), UID, &live(5), 7), Plan::Write(document(8, 5)));
    }

    #[test]
    fn the_document_of_a_deleted_pipeline_of_the_same_name_counts_for_nothing() {
        assert_eq!(plan(Some(&written("uid-0", 90, 5)), UID, &live(5), 0), Plan::Write(document(1, 5)));
    }

    #[test]
    fn past_the_highest_revision_nothing_is_written() {
        let last = written(UID, MAX_REVISION, 5);
        assert_eq!(plan(Some(&last), UID, &live(5), 7), Plan::Keep(document(MAX_REVISION, 5)));
        let stays = Plan::Exhausted(Some(document(MAX_REVISION, 5)));
        assert_eq!(plan(Some(&last), UID, &live(6), 7), stays);
        assert_eq!(plan(None, UID, &live(6), MAX_REVISION), Plan::Exhausted(None));
    }

    #[test]
    fn an_immutable_document_is_made_anew() {
        let mut map = written(UID, 7, 5);
        map.immutable = Some(true);
        assert_eq!(plan(Some(&map), UID, &live(5), 7), Plan::Recreate(document(8, 5)));
    }
}
