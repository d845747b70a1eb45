//! Bodies that are sealed, or look as if they were.

use std::path::Path;
use std::sync::{Arc, LazyLock};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD};
use sluice_consumer::seal::{KeyRing, OpenedSpan, SealError, Sealing, is_sealed};
use sluice_consumer::secrets::Secrets;
use sluice_consumer::store::key::{KeyStore, SealedDictionary, WrappedKey};
use sluice_consumer::store::letter::{LetterSummary, StoredLetter};
use sluice_consumer::store::memory::MemoryStore;
use sluice_consumer::store::{Row, Store, StoredSpan};
use sluice_crds::v1alpha1::{Encryption, EncryptionKey, SecretKeyRef};
use tokio::runtime::Runtime;

const TABLE: &str = "connectivity_trace";
const TRACE_ID: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const KIND: &str = "SERVER";
/// The data key that sealed the corpus, wrapped by the key in `ring`.
const KEY: (u32, &str) =
    (7, "AAECAwQFBgcICQoLEYjgeRQA0EB+u+yV61Fl8+g1v4cRa344H8dqs4feZAyBSVYo31Jygk6lXIH6SifU");
/// Most places of a sealed body that are altered.
const ALTERED: usize = 64;

static RUNTIME: LazyLock<Runtime> =
    LazyLock::new(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap());
/// What opens the corpus, and holds its data key.
static CORPUS: LazyLock<(Arc<Sealing>, Arc<dyn Store>)> = LazyLock::new(|| {
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(1, usize::MAX));
    let (id, wrapped) = (KEY.0, STANDARD.decode(KEY.1).unwrap());
    let key = WrappedKey { id, wrapped_by: "k1".to_owned(), wrapped, created_at_ms: 0 };
    assert!(RUNTIME.block_on(store.add_data_key(&key)).unwrap());
    (sealing(), store)
});
/// Everything that this data key has sealed for the row of the corpus, and that is text.
static SEALED: LazyLock<[String; 3]> = LazyLock::new(|| {
    let tags = ["\"GET /cart\""; 20].join(",");
    [
        format!("{{\"traceId\":\"{TRACE_ID}\",\"kind\":\"SERVER\",\"name\":\"GET /cart\"}}"),
        format!("{{\"traceId\":\"{TRACE_ID}\",\"tags\":[{tags}]}}"),
        String::new(),
    ]
});

/// A process that has the key in `ring`.
fn sealing() -> Arc<Sealing> {
    let secret_key_ref = SecretKeyRef { name: "keys".to_owned(), key: "k1".to_owned() };
    let keys = vec![EncryptionKey { name: "k1".to_owned(), secret_key_ref }];
    let secrets = Secrets::new(Some(Path::new(env!("CARGO_MANIFEST_DIR")).join("ring")));
    let ring = KeyRing::new(&Encryption { keys, primary_key: "k1".to_owned() }, secrets);
    Arc::new(Sealing::new(TABLE, Some(ring)))
}

fn span(trace_id: &str, body: String) -> StoredSpan {
    let (trace_id, kind) = (trace_id.to_owned(), KIND.to_owned());
    StoredSpan { id: 1, trace_id, kind, body, created_at_ms: 0 }
}

async fn opened(sealing: &Sealing, store: &dyn KeyStore, span: StoredSpan) -> Result<String, SealError> {
    let mut opened = sealing.open_spans(store, vec![span], usize::MAX).await.unwrap();
    let OpenedSpan { span, error } = opened.remove(0);
    match error {
        None => Ok(span.body),
        Some(error) => {
            assert!(span.body.is_empty(), "a body that cannot be read");
            assert!(!error.to_string().is_empty());
            Err(error)
        }
    }
}

/// Whatever the bytes are, they open to what was sealed there or not at all; and what was sealed of them opens to them.
pub fn check(data: &[u8]) {
    let (sealing, store) = &*CORPUS;
    RUNTIME.block_on(async {
        found(sealing, &**store, data).await;
        sealed_here(data).await;
    });
}

/// In the places of sealed things.
async fn found(sealing: &Sealing, store: &dyn KeyStore, data: &[u8]) {
    let text = std::str::from_utf8(data).ok().map(str::to_owned);
    // So that the bytes get beyond the base64.
    let packed = format!("s1:{}", STANDARD_NO_PAD.encode(data));
    for body in text.into_iter().chain([packed]) {
        match opened(sealing, store, span(TRACE_ID, body.clone())).await {
            Ok(opened) if is_sealed(&body) => assert!(SEALED.contains(&opened), "never sealed: {opened}"),
            Ok(opened) => assert_eq!(opened, body, "a plain body was changed"),
            Err(error) => assert!(is_sealed(&body), "a plain body was refused: {error}"),
        }
    }
    // Neither of these was ever sealed by that key.
    assert!(sealing.open_letter(store, letter(data)).await.is_err(), "a letter from nowhere");
    let dictionary = SealedDictionary { id: 1, sealed: data.to_vec(), permille: 500, created_at_ms: 0 };
    assert!(sealing.opened_dictionary(store, &dictionary).await.is_err(), "a dictionary from nowhere");
}

fn letter(key: &[u8]) -> StoredLetter {
    let summary = LetterSummary {
        id: 1,
        topic: String::new(),
        partition: 0,
        offset: 0,
        span_index: None,
        timestamp: None,
        reason: String::new(),
        detail: String::new(),
        pending: false,
        attempts: 0,
        history: Vec::new(),
    };
    let (headers, bytes) = (Vec::new(), Vec::new());
    StoredLetter {
        summary,
        trace_id: None,
        kind: None,
        key: Some(key.to_vec()),
        headers,
        bytes,
        sealed: true,
    }
}

/// As the body of a row, sealed by one process and opened by another one.
async fn sealed_here(data: &[u8]) {
    let body = String::from_utf8_lossy(data);
    // A part of the body, at times, as in real ones.
    let skipped = usize::from(data.first().copied().unwrap_or_default() % 16);
    let trace_id: String = body.chars().skip(skipped).take(8).collect();
    let store: Arc<dyn Store> = Arc::new(MemoryStore::new(1, usize::MAX));
    let rows = [Row { id: 1, trace_id: &trace_id, kind: KIND, body: &body }];
    let sealed = sealing().rows(&store, &rows).await.unwrap();
    let sealed = sealed.rows(&rows)[0].body.to_owned();
    assert!(is_sealed(&sealed));
    let reader = sealing();
    for altered in altered(&sealed, data) {
        let outcome = opened(&reader, &*store, span(&trace_id, altered.clone())).await;
        assert!(outcome.is_err(), "{sealed} was altered to {altered}, and opened");
    }
    assert_eq!(opened(&reader, &*store, span(&trace_id, sealed)).await.unwrap(), body);
}

/// The text with one byte changed, everywhere or, where it is long, in some places. Not in what it begins with: then it
/// is a plain body.
fn altered(sealed: &str, data: &[u8]) -> impl Iterator<Item = String> {
    let begin = "s1:".len();
    let step = sealed.len().div_ceil(ALTERED);
    (begin + data.len() % step..sealed.len()).step_by(step).map(move |at| {
        let by = 1 + data.get(at % data.len().max(1)).copied().unwrap_or_default() % 127;
        let mut bytes = sealed.as_bytes().to_vec();
        // Both are less than 128, and so is what comes of it.
        bytes[at] ^= by;
        String::from_utf8(bytes).unwrap()
    })
}
