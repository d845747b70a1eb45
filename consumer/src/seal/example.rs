//! Keys, bodies and stored rows, for tests.

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sluice_crds::problem::chain;
use sluice_crds::v1alpha1::{Encryption, EncryptionKey, SecretKeyRef};

use super::*;
use crate::secrets::Secrets;
use crate::store::memory::MemoryStore;
use crate::store::{Row, Store, StoredSpan};

pub(super) const TABLE: &str = "connectivity_trace";

/// Secrets in a folder, and rings that name them.
pub(crate) struct Safe(tempfile::TempDir);

impl Safe {
    pub(crate) fn with(names: &[&str]) -> Self {
        let safe = Self(tempfile::tempdir().unwrap());
        names.iter().for_each(|name| safe.put(name, &BASE64.encode(*cipher::random_key().unwrap())));
        safe
    }

    pub(super) fn put(&self, name: &str, value: &str) {
        let dir = self.0.path().join("keys");
        std::fs::create_dir_all(&dir).unwrap();
        std::fs::write(dir.join(name), format!("{value}\n")).unwrap();
    }

    /// What lies there.
    pub(super) fn bytes(&self, name: &str) -> String {
        std::fs::read_to_string(self.0.path().join("keys").join(name)).unwrap()
    }

    pub(super) fn ring(&self, names: &[&str], primary: &str) -> KeyRing {
        let key = |name: &&str| EncryptionKey {
            name: (*name).to_owned(),
            secret_key_ref: SecretKeyRef { name: "keys".to_owned(), key: (*name).to_owned() },
        };
        let encryption =
            Encryption { keys: names.iter().map(key).collect(), primary_key: primary.to_owned() };
        KeyRing::new(&encryption, Secrets::new(Some(self.0.path().to_owned())))
    }

    pub(crate) fn sealing(&self, names: &[&str], primary: &str) -> Arc<Sealing> {
        Arc::new(Sealing::new(TABLE, Some(self.ring(names, primary))))
    }
}

pub(super) fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new(1, usize::MAX))
}

pub(super) fn body(number: usize) -> String {
    format!(
        r#"{{"traceId":"{number:032x}","name":"GET /cart","kind":"SERVER","tags":{{"user":"{}"}}}}"#,
        number * 7919
    )
}

pub(super) fn row(id: i64, body: &str) -> Row<'_> {
    Row { id, trace_id: "abc", kind: "SERVER", body }
}

/// The rows as a reader would find them.
pub(super) async fn stored(
    sealing: &Arc<Sealing>,
    store: &Arc<dyn Store>,
    rows: &[Row<'_>],
) -> Vec<StoredSpan> {
    let sealed = sealing.rows(store, rows).await.unwrap();
    let as_stored = |row: &Row<'_>| StoredSpan {
        id: row.id,
        trace_id: row.trace_id.to_owned(),
        kind: row.kind.to_owned(),
        body: row.body.to_owned(),
        created_at_ms: 0,
    };
    sealed.rows(rows).iter().map(as_stored).collect()
}

pub(super) async fn opened(
    sealing: &Sealing,
    store: &Arc<dyn Store>,
    spans: Vec<StoredSpan>,
) -> Vec<Result<String, String>> {
    let opened = sealing.open_spans(&**store, spans, usize::MAX).await.unwrap();
    let outcome = |one: OpenedSpan| one.error.map_or(Ok(one.span.body), |error| Err(chain(&error)));
    opened.into_iter().map(outcome).collect()
}

/// Seals until there is a dictionary; returns the bodies.
pub(super) async fn train(sealing: &Arc<Sealing>, store: &Arc<dyn Store>) -> Vec<String> {
    let bodies: Vec<String> = (0..1_000).map(body).collect();
    train_on(sealing, store, &bodies).await;
    bodies
}

/// Seals these bodies until another dictionary is in use.
pub(super) async fn train_on(sealing: &Arc<Sealing>, store: &Arc<dyn Store>, bodies: &[String]) {
    let before = sealing.dictionary_id();
    let rows: Vec<Row<'_>> = bodies.iter().zip(0..).map(|(body, id)| row(id, body)).collect();
    let deadline = tokio::time::Instant::now() + Duration::from_secs(60);
    while sealing.dictionary_id() == before {
        assert!(tokio::time::Instant::now() < deadline, "no dictionary");
        stored(sealing, store, &rows).await;
        tokio::task::yield_now().await;
    }
}
