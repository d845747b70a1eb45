//! Sealing and opening, against a store in memory.

mod dictionaries;

use std::collections::HashSet;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use sluice_crds::problem::chain;

use super::doubt::QUIET;
use super::example::{Safe, TABLE, body, memory, opened, row, stored, train, train_on};
use super::*;
use crate::store::memory::MemoryStore;
use crate::store::{DeadLetter, ErrorKind, Reason, Row, Store, StoreError, StoredSpan};

#[tokio::test]
async fn short_sealed_bodies_are_opened_to_no_more_than_is_asked_for() {
    let (safe, store) = (Safe::with(&["k1"]), memory());
    let sealing = safe.sealing(&["k1"], "k1");
    let long = format!("\"{}\"", "x".repeat(1 << 20));
    let rows: Vec<Row<'_>> = (1..=8).map(|id| row(id, &long)).collect();
    let spans = stored(&sealing, &store, &rows).await;
    assert!(spans.iter().all(|span| span.body.len() < 10_000));
    let opened = sealing.open_spans(&*store, spans, 3 << 20).await.unwrap();
    assert_eq!(opened.iter().map(|one| one.span.id).collect::<Vec<_>>(), [1, 2, 3]);
}

#[tokio::test]
async fn bodies_come_back_byte_for_byte_in_another_process_too() {
    let (safe, store) = (Safe::with(&["k1"]), memory());
    let bodies =
        [body(1), String::new(), "{}".to_owned(), "\"ü\\u0000\u{1f600}\"".to_owned(), body(2).repeat(500)];
    let rows: Vec<Row<'_>> = bodies.iter().zip(1..).map(|(body, id)| row(id, body)).collect();
    let spans = stored(&safe.sealing(&["k1"], "k1"), &store, &rows).await;
    for span in &spans {
        assert!(is_sealed(&span.body) && !span.body.contains("cart"), "{}", span.body);
    }
    let expected: Vec<_> = bodies.iter().cloned().map(Ok).collect();
    assert_eq!(opened(&safe.sealing(&["k1"], "k1"), &store, spans).await, expected);
}

#[tokio::test]
async fn plain_and_sealed_bodies_are_read_from_one_table() {
    let (safe, store) = (Safe::with(&["k1"]), memory());
    let sealing = safe.sealing(&["k1"], "k1");
    let mut spans = stored(&sealing, &store, &[row(1, "{\"a\":1}")]).await;
    spans.extend(stored(&Arc::new(Sealing::new(TABLE, None)), &store, &[row(2, "{\"b\":2}")]).await);
    assert_eq!(
        opened(&sealing, &store, spans.clone()).await,
        [Ok("{\"a\":1}".to_owned()), Ok("{\"b\":2}".to_owned())]
    );
    let without = opened(&Sealing::new(TABLE, None), &store, spans).await;
    assert!(without[0].as_ref().unwrap_err().contains("no encryption.keys"), "{without:?}");
    assert_eq!(without[1], Ok("{\"b\":2}".to_owned()));
}

#[tokio::test]
async fn swapped_altered_and_foreign_bodies_are_explicit_errors() {
    let (safe, store) = (Safe::with(&["k1"]), memory());
    let sealing = safe.sealing(&["k1"], "k1");
    let (first, second) = (body(1), body(2));
    let good = stored(&sealing, &store, &[row(1, &first), row(2, &second)]).await;
    let mut swapped = good.clone();
    swapped[0].body.clone_from(&good[1].body);
    swapped[1].kind = "CLIENT".to_owned();
    for outcome in opened(&sealing, &store, swapped).await {
        assert!(outcome.unwrap_err().contains("not what was sealed"));
    }
    let with_body = |body: String| StoredSpan { body, ..good[0].clone() };
    let mut bytes = form::from_text(&good[0].body).unwrap().unwrap();
    bytes[3] ^= 1;
    let mut unknown_key = String::new();
    form::push_text(&bytes, &mut unknown_key);
    let cut = good[0].body[..good[0].body.len() - 4].to_owned();
    let broken = vec![
        with_body(unknown_key),
        with_body(cut),
        with_body("s1:".to_owned()),
        with_body("s1:?".to_owned()),
    ];
    let errors: Vec<_> = opened(&sealing, &store, broken).await.into_iter().map(Result::unwrap_err).collect();
    assert!(errors[0].contains("not in sluice_data_key"), "{errors:?}");
    assert!(errors[1].contains("not what was sealed"), "{errors:?}");
    assert!(errors[2..].iter().all(|error| error.contains("begins like a sealed body")), "{errors:?}");
}

#[tokio::test]
async fn a_data_key_is_stored_before_its_first_use_and_replaced_when_its_budget_is_used_up() {
    let (safe, store) = (Safe::with(&["k1"]), memory());
    let ring = safe.ring(&["k1"], "k1");
    let sealing = Arc::new(Sealing::new(TABLE, Some(ring)).with_bodies_per_key(1_000));
    let text = body(1);
    let rows: Vec<Row<'_>> = (0..700).map(|id| row(id, &text)).collect();
    let mut seen = HashSet::new();
    for batch in 1..=5_usize {
        for span in stored(&sealing, &store, &rows).await {
            let bytes = form::from_text(&span.body).unwrap().unwrap();
            let (header, _) = Header::split(&bytes).unwrap();
            assert!(header.nonce < 1_000);
            assert!(seen.insert((header.key, header.nonce)), "a nonce was used twice");
            assert!(store.data_key(header.key).await.unwrap().is_some());
        }
        let keys = store.data_keys().await.unwrap().len();
        assert_eq!(keys, (batch * 700).div_ceil(1_000), "after {batch} batches");
    }
}

#[tokio::test(start_paused = true)]
async fn a_data_key_is_replaced_after_a_day() {
    let (safe, store) = (Safe::with(&["k1"]), memory());
    let sealing = safe.sealing(&["k1"], "k1");
    for day in 1..=3 {
        stored(&sealing, &store, &[row(day, "{}")]).await;
        assert_eq!(store.data_keys().await.unwrap().len(), usize::try_from(day).unwrap());
        tokio::time::advance(KEY_PERIOD).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_secret_that_is_replaced_while_it_is_used_wraps_nothing() {
    let (safe, store) = (Safe::with(&["k1"]), memory());
    let sealing = safe.sealing(&["k1"], "k1");
    sealing.prepare(&*store).await.unwrap();
    let former = safe.bytes("k1");
    safe.put("k1", &BASE64.encode(*cipher::random_key().unwrap()));
    let row = [row(1, "{}")];
    stored(&sealing, &store, &row).await;
    tokio::time::advance(KEY_PERIOD).await;
    let error = sealing.rows(&store, &row).await.err().expect("another key");
    assert!(matches!(&error, SealError::WrongKey { name, .. } if name == "k1"), "{error}");
    assert_eq!(store.data_keys().await.unwrap().len(), 1);
    safe.put("k1", &former);
    stored(&sealing, &store, &row).await;
    assert_eq!(store.data_keys().await.unwrap().len(), 2);
}

#[tokio::test]
async fn nothing_is_sealed_while_no_data_key_can_be_stored() {
    let safe = Safe::with(&["k1"]);
    let memory = Arc::new(MemoryStore::new(1, usize::MAX));
    memory.on_call(|call| {
        let refused = call == crate::store::memory::Call::AddDataKey;
        refused.then(|| StoreError::new(ErrorKind::Unavailable, "read-only"))
    });
    let store: Arc<dyn Store> = memory.clone();
    let sealing = safe.sealing(&["k1"], "k1");
    let error = sealing.rows(&store, &[row(1, "{}")]).await.err().expect("refused");
    assert!(error.is_unavailable());
    memory.clear_hooks();
    assert_eq!(stored(&sealing, &store, &[row(1, "{}")]).await.len(), 1);
}

#[tokio::test]
async fn a_missing_or_changed_secret_is_named_before_anything_is_sealed() {
    let (safe, store) = (Safe::with(&["k1"]), memory());
    let prepared = async |names: &[&str]| {
        let outcome = safe.sealing(names, names[0]).prepare(&*store).await;
        outcome.map_err(|error| chain(&error))
    };
    assert!(prepared(&["k2"]).await.unwrap_err().contains("keys/k2 was not found"));
    safe.put("k2", "c2hvcnQ=");
    assert!(prepared(&["k2"]).await.unwrap_err().contains("openssl rand -base64 32"));
    prepared(&["k1"]).await.unwrap();
    // Another key under the same name would make what it wrapped unreadable.
    safe.put("k1", &BASE64.encode([7; 32]));
    assert!(prepared(&["k1"]).await.unwrap_err().contains("holds another key"));
}

#[tokio::test]
async fn rows_stay_readable_after_their_data_keys_were_wrapped_by_another_key() {
    let (safe, store) = (Safe::with(&["k1", "k2"]), memory());
    let text = body(1);
    let spans = stored(&safe.sealing(&["k1"], "k1"), &store, &[row(1, &text)]).await;
    let ring = safe.ring(&["k1", "k2"], "k2");
    for old in store.data_keys().await.unwrap() {
        let bytes = ring.unwrap(TABLE, &old).unwrap();
        assert!(store.rewrap(&old, &ring.wrap(TABLE, old.id, &bytes).unwrap()).await.unwrap());
        assert!(!store.rewrap(&old, &old).await.unwrap(), "somebody else was first");
    }
    assert_eq!(opened(&safe.sealing(&["k2"], "k2"), &store, spans.clone()).await, [Ok(text)]);
    let error = opened(&safe.sealing(&["k1"], "k1"), &store, spans).await.remove(0).unwrap_err();
    assert!(error.contains("k2, which is not in encryption.keys"), "{error}");
}

/// What tails off with a primary that a replica which lagged behind replaces.
#[tokio::test]
async fn a_key_and_a_dictionary_that_the_database_has_lost_seal_nothing_more() {
    let (safe, before, after) = (Safe::with(&["k1"]), memory(), memory());
    let sealing = safe.sealing(&["k1"], "k1");
    train(&sealing, &before).await;
    let body = body(1);
    sealing.doubt();
    let kept = stored(&sealing, &before, &[row(1, &body)]).await;
    assert_eq!((sealing.dictionary_id(), before.data_keys().await.unwrap().len()), (Some(1), 1));
    assert_eq!(opened(&safe.sealing(&["k1"], "k1"), &before, kept).await, [Ok(body.clone())]);

    sealing.doubt();
    let spans = stored(&sealing, &after, &[row(2, &body)]).await;
    assert_eq!(sealing.dictionary_id(), None);
    assert_eq!(opened(&safe.sealing(&["k1"], "k1"), &after, spans).await, [Ok(body)]);
}

/// Nobody wrote while a replica took the primary's place, so that no write has failed.
#[tokio::test(start_paused = true)]
async fn after_a_pause_key_and_dictionary_are_looked_up_before_they_seal() {
    let (safe, before, after) = (Safe::with(&["k1"]), memory(), memory());
    let (sealing, body) = (safe.sealing(&["k1"], "k1"), body(1));
    stored(&sealing, &before, &[row(1, &body)]).await;
    tokio::time::advance(QUIET).await;
    let spans = stored(&sealing, &after, &[row(2, &body)]).await;
    assert_eq!(opened(&safe.sealing(&["k1"], "k1"), &after, spans).await, [Ok(body.clone())]);

    // Commits show that it is the same one: nothing is looked up.
    for id in 3..9 {
        tokio::time::advance(QUIET / 2).await;
        sealing.committed();
        stored(&sealing, &before, &[row(id, &body)]).await;
    }
    assert_eq!(sealing.counters.data_keys.load(Relaxed), 2);
}

/// Somebody has put the tables of keys back from a backup, while commits went on.
#[tokio::test(start_paused = true)]
async fn a_busy_pipeline_looks_key_and_dictionary_up_every_minute() {
    let (safe, before, after) = (Safe::with(&["k1"]), memory(), memory());
    let (sealing, body) = (safe.sealing(&["k1"], "k1"), body(1));
    stored(&sealing, &before, &[row(1, &body)]).await;
    for _ in 0..24 {
        tokio::time::advance(QUIET / 2).await;
        sealing.committed();
    }
    let spans = stored(&sealing, &after, &[row(2, &body)]).await;
    assert_eq!(opened(&safe.sealing(&["k1"], "k1"), &after, spans).await, [Ok(body)]);
}

#[tokio::test]
async fn a_doubt_that_arises_while_another_is_settled_is_settled_too() {
    let (safe, before, after) = (Safe::with(&["k1"]), memory(), memory());
    let (sealing, body) = (safe.sealing(&["k1"], "k1"), body(1));
    stored(&sealing, &before, &[row(1, &body)]).await;
    sealing.doubt();
    let raised = sealing.doubt.open().unwrap();
    sealing.doubt();
    // What the look-up for the first one does at its end.
    sealing.doubt.settle(raised);
    let spans = stored(&sealing, &after, &[row(2, &body)]).await;
    assert_eq!(opened(&safe.sealing(&["k1"], "k1"), &after, spans).await, [Ok(body)]);
}

#[tokio::test]
async fn dead_letters_are_sealed_part_by_part() {
    let (safe, store) = (Safe::with(&["k1"]), memory());
    let sealing = safe.sealing(&["k1"], "k1");
    let letter = DeadLetter {
        id: 5,
        topic: "t",
        partition: 0,
        offset: 1,
        span: None,
        timestamp: None,
        reason: Reason::Undecodable,
        detail: "",
        key: Some(b""),
        headers: b"[]",
        bytes: b"not\xffJSON",
        sealed: false,
    };
    let plain = [letter.clone(), DeadLetter { key: None, id: 6, ..letter }];
    let sealed = sealing.letters(&*store, &plain).await.unwrap();
    let sealed = sealed.letters(&plain);
    assert!(sealed.iter().all(|letter| letter.sealed && letter.bytes != b"not\xffJSON"));
    for (sealed, plain) in sealed.iter().zip(&plain) {
        let stored = crate::store::letter::StoredLetter {
            summary: crate::store::letter::LetterSummary {
                id: sealed.id,
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
            },
            trace_id: None,
            kind: None,
            key: sealed.key.map(<[u8]>::to_vec),
            headers: sealed.headers.to_vec(),
            bytes: sealed.bytes.to_vec(),
            sealed: true,
        };
        let opened = sealing.open_letter(&*store, stored).await.unwrap();
        assert_eq!(
            (opened.key.as_deref(), &*opened.headers, &*opened.bytes),
            (plain.key, plain.headers, plain.bytes)
        );
    }
}
