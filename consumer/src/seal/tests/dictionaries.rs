//! Dictionaries: how they come to be, and what is done with one that cannot be opened.

use super::*;
use crate::store::key::SealedDictionary;

#[tokio::test(start_paused = true)]
async fn samples_for_the_next_dictionary_survive_a_look_at_the_one_in_use() {
    let (safe, store) = (Safe::with(&["k1"]), memory());
    let sealing = safe.sealing(&["k1"], "k1");
    train(&sealing, &store).await;
    *lock(&sealing.training) = Training::new();
    let body = body(1);
    stored(&sealing, &store, &[row(1, &body)]).await;
    let collected = lock(&sealing.training).collected();
    sealing.doubt();
    stored(&sealing, &store, &[row(2, &body)]).await;
    assert_eq!((collected, lock(&sealing.training).collected()), (1, 2));
}

#[tokio::test]
async fn a_trained_dictionary_is_stored_sealed_and_used_by_the_next_process_too() {
    let (safe, store) = (Safe::with(&["k1"]), memory());
    let sealing = safe.sealing(&["k1"], "k1");
    let bodies = train(&sealing, &store).await;
    let rows: Vec<Row<'_>> = bodies.iter().zip(0..).map(|(body, id)| row(id, body)).collect();
    let dictionary = store.dictionary(1).await.unwrap().unwrap();
    let shared = b"GET /cart";
    assert!(!dictionary.sealed.windows(shared.len()).any(|window| window == shared), "it is sealed");
    let next = safe.sealing(&["k1"], "k1");
    next.prepare(&*store).await.unwrap();
    assert_eq!(next.dictionary_id(), Some(1));
    let spans = stored(&next, &store, &rows).await;
    let (plain, sealed): (usize, usize) =
        (bodies.iter().map(String::len).sum(), spans.iter().map(|span| span.body.len()).sum());
    assert!(sealed < plain, "{sealed} bytes of {plain}");
    let expected: Vec<_> = bodies.into_iter().map(Ok).collect();
    assert_eq!(opened(&safe.sealing(&["k1"], "k1"), &store, spans).await, expected);
}

#[tokio::test]
async fn a_dictionary_that_cannot_be_opened_is_passed_over() {
    let broken = |id| SealedDictionary { id, sealed: vec![0; 64], permille: 300, created_at_ms: 0 };
    let (safe, store) = (Safe::with(&["k1"]), memory());
    let sealing = safe.sealing(&["k1"], "k1");
    train(&sealing, &store).await;
    store.add_dictionary(&broken(2)).await.unwrap();
    sealing.doubt();
    stored(&sealing, &store, &[row(1, &body(1))]).await;
    assert_eq!(sealing.dictionary_id(), Some(1), "the one in use is still there");

    let store = memory();
    store.add_dictionary(&broken(1)).await.unwrap();
    let sealing = safe.sealing(&["k1"], "k1");
    sealing.prepare(&*store).await.unwrap();
    assert_eq!(sealing.dictionary_id(), None);
    train(&sealing, &store).await;
    assert_eq!(sealing.dictionary_id(), Some(2), "its number is taken");
}

#[tokio::test]
async fn replicas_whose_bodies_differ_each_keep_a_dictionary_of_their_own() {
    let statement = |number: usize| {
        format!(r#"{{"resource":"orders","statement":"SELECT {number} FROM stock","rows":{number}}}"#)
    };
    let statements: Vec<String> = (0..1_000).map(statement).collect();
    let (safe, store) = (Safe::with(&["k1"]), memory());
    let (one, other) = (safe.sealing(&["k1"], "k1"), safe.sealing(&["k1"], "k1"));
    let bodies = train(&one, &store).await;
    // It finds the first one, which does not fit.
    other.prepare(&*store).await.unwrap();
    *lock(&other.training) = Training::new();
    train_on(&other, &store, &statements).await;
    one.doubt();
    stored(&one, &store, &[row(1, &bodies[0])]).await;
    assert_eq!((one.dictionary_id(), other.dictionary_id()), (Some(1), Some(2)), "a look changes nothing");
    // After a start it begins with the newest, and goes back to the one that fits.
    let one = safe.sealing(&["k1"], "k1");
    one.prepare(&*store).await.unwrap();
    assert_eq!(one.dictionary_id(), Some(2));
    *lock(&one.training) = Training::new();
    train_on(&one, &store, &bodies).await;
    assert_eq!((one.dictionary_id(), store.dictionaries().await.unwrap().len()), (Some(1), 2));
}
