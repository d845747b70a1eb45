//! The documents that a pipeline is told by.

use sluice_consumer::config;
use sluice_consumer::live::Origin;
use sluice_consumer::live::document::{Documents, Found};
use sluice_crds::live::{LiveDocument, MAX_REVISION};
use sluice_crds::settings::Settings;
use sluice_crds::validate::{validate_live, validate_settings};
use sluice_crds::wire;

/// Whoever the documents in `crds/golden` are for.
const UID: &str = "6f0c4a52-93a5-4b7e-8d0e-2f1b6c9a7d31";
/// Separates documents that come one after the other.
const NEXT: u8 = 0;

/// A settings document is refused with reasons, or is what it says.
pub fn settings(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match config::parse_settings(text) {
        Err(problems) => assert!(!problems.to_string().is_empty()),
        Ok(config) => {
            assert_eq!(validate_settings(&config.settings), []);
            assert_eq!(config.settings_hash, wire::hash_as_written::<Settings>(text).unwrap());
            // Before a live document has come nothing is let through.
            assert_eq!(config.live.rate_limit_qps, 0);
            let written = wire::write(&config.settings).unwrap();
            let read: Settings = wire::read(&written).unwrap();
            assert_eq!(read, config.settings, "not what was written");
        }
    }
}

/// A pipeline's file is refused with reasons, or can become a settings document.
pub fn pipeline(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match config::parse(text) {
        Err(problems) => assert!(!problems.to_string().is_empty()),
        Ok(config) => {
            assert_eq!(validate_settings(&config.settings), []);
            assert_eq!(validate_live(&config.live), []);
            let written = wire::write(&config.settings).unwrap();
            assert_eq!(wire::hash_as_written::<Settings>(&written).unwrap(), config.settings_hash);
        }
    }
}

/// Whatever comes after a good document, the rate in effect is that of a good one, never more, and never goes back.
pub fn live(data: &[u8]) {
    let places = [Origin::Api, Origin::Directory];
    let mut documents = Documents::new(UID, &places);
    for (turn, part) in data.split(|byte| *byte == NEXT).take(16).enumerate() {
        let before = documents.applied().clone();
        let found = match std::str::from_utf8(part) {
            Ok("") => Found::Missing("nothing".to_owned()),
            Ok(text) => Found::Text(text.to_owned()),
            Err(_) => Found::Unreadable("no text".to_owned()),
        };
        documents.take(places[turn % places.len()], found);
        let after = documents.applied();
        assert!((before.revision..=MAX_REVISION).contains(&after.revision), "the revision went back");
        assert_eq!(validate_live(&after.live), []);
        if after.revision == before.revision {
            assert_eq!(after.live, before.live, "changed without a newer revision");
        } else {
            let document: LiveDocument = wire::read(std::str::from_utf8(part).unwrap()).unwrap();
            assert_eq!(
                (&*document.uid, document.revision, &document.live),
                (UID, after.revision, &after.live)
            );
            let again: LiveDocument = wire::read(&wire::write(&document).unwrap()).unwrap();
            assert_eq!(again.live, document.live, "not what was written");
        }
    }
}
