//! Data keys of other tables in the pipeline's database.
//!
//! A replay into a table of its own seals with the pipeline's ring, and so may another pipeline: whoever takes a key away
//! must know of their data keys. They are wrapped anew only where somebody names the table: another pipeline may not know
//! the new key yet. A data key that the ring does not open is another pipeline's, and is only counted.

use super::{KEYS, Keys};
use crate::pipeline_args::cannot_read;
use crate::seal::KeyRing;
use crate::store::key::WrappedKey;

/// What another table has.
pub(super) struct Other {
    pub(super) table: String,
    /// Those that the ring opens.
    pub(super) ours: Vec<WrappedKey>,
    /// How many it does not open.
    pub(super) foreign: usize,
}

impl Other {
    pub(super) fn new(ring: &KeyRing, table: String, found: Vec<WrappedKey>) -> Self {
        let (ours, foreign): (Vec<_>, Vec<_>) =
            found.into_iter().partition(|key| ring.unwrap(&table, key).is_ok());
        Self { table, ours, foreign: foreign.len() }
    }

    /// How many of them another key than `primary` wraps.
    pub(super) fn old(&self, primary: &str) -> usize {
        self.ours.iter().filter(|key| key.wrapped_by != primary).count()
    }

    /// For people; none where all are the pipeline's.
    pub(super) fn note(&self) -> Option<String> {
        let Self { table, foreign, .. } = self;
        (*foreign > 0).then(|| {
            format!(
                "{table}: {foreign} data keys that no key of this pipeline opens; they are another pipeline's"
            )
        })
    }
}

impl Keys {
    /// All other tables with data keys.
    pub(super) async fn others(&self) -> anyhow::Result<Vec<Other>> {
        let mut others = Vec::new();
        for table in self.store.other_tables().await.map_err(cannot_read(KEYS))? {
            let there = self.of(&table)?;
            let found = there.store.data_keys().await.map_err(cannot_read(KEYS));
            there.store.close().await;
            others.push(Other::new(&self.ring, table, found?));
        }
        Ok(others)
    }
}

#[cfg(test)]
mod tests {
    use sluice_crds::v1alpha1::{Encryption, EncryptionKey, SecretKeyRef};

    use super::*;
    use crate::keys::print::Report;
    use crate::secrets::Secrets;

    /// A ring of k1 and k2, whose bytes all are `byte`.
    fn ring(folder: &std::path::Path, byte: &str, primary: &str) -> KeyRing {
        std::fs::create_dir_all(folder.join("ring")).unwrap();
        let key = |name: &str| {
            std::fs::write(folder.join("ring").join(name), byte.repeat(43) + "=").unwrap();
            let secret_key_ref = SecretKeyRef { name: "ring".to_owned(), key: name.to_owned() };
            EncryptionKey { name: name.to_owned(), secret_key_ref }
        };
        let encryption = Encryption { keys: vec![key("k1"), key("k2")], primary_key: primary.to_owned() };
        KeyRing::new(&encryption, Secrets::new(Some(folder.to_owned())))
    }

    #[test]
    fn keys_of_a_replay_count_as_the_pipelines_and_those_that_its_ring_does_not_open_do_not() {
        let (folder, another) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ring, theirs) = (ring(folder.path(), "A", "k2"), ring(another.path(), "E", "k1"));
        let before = self::ring(folder.path(), "A", "k1");
        let bytes = Default::default();
        let found = vec![
            before.wrap("replayed", 1, &bytes).unwrap(),
            // Of the same name, and another key.
            theirs.wrap("replayed", 2, &bytes).unwrap(),
            // As somebody has copied it.
            before.wrap("spans", 3, &bytes).unwrap(),
        ];
        let other = Other::new(&ring, "replayed".to_owned(), found);
        assert_eq!(other.ours.iter().map(|key| key.id).collect::<Vec<_>>(), [1]);
        assert_eq!((other.old("k2"), other.old("k1"), other.foreign), (1, 0, 2));
        assert!(other.note().unwrap().contains("replayed: 2 data keys"));

        let own = [ring.wrap("spans", 1, &bytes).unwrap()];
        let report = Report::new(&ring, "spans", &own, std::slice::from_ref(&other), &[]);
        assert!(report.is_good(), "another pipeline's keys are no problem of this one");
        let json = report.json();
        assert_eq!((&json["keys"][0]["name"], &json["keys"][0]["dataKeys"]), (&"k1".into(), &1.into()));
        assert_eq!(
            json["otherTables"],
            serde_json::json!([{ "table": "replayed", "dataKeys": 1, "foreign": 2 }])
        );
    }
    #[test]
    fn a_key_that_does_not_open_what_was_wrapped_by_its_name_is_a_problem_and_wraps_nothing() {
        let (folder, another) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (ring, theirs) = (ring(folder.path(), "A", "k2"), ring(another.path(), "E", "k2"));
        let own = [theirs.wrap("spans", 1, &Default::default()).unwrap()];
        let report = Report::new(&ring, "spans", &own, &[], &[]);
        assert!(!report.is_good());
        let json = report.json();
        assert_eq!(json["keys"][0]["problem"], serde_json::Value::Null, "k1 has wrapped nothing");
        assert!(json["keys"][1]["problem"].as_str().unwrap().contains("put the former one back"), "{json}");
        assert!(Report::new(&theirs, "spans", &own, &[], &[]).is_good());
    }
}
