//! Rows that the database refuses, and tables that refuse everything.

use super::super::isolate::{Probe, Witness};
use super::*;
use crate::gate::flow::Flow;
use crate::seal::example::Safe;

#[tokio::test(start_paused = true)]
async fn refused_rows_are_isolated_and_their_neighbours_stored() {
    let (source, store) = (queue(1, 300), store());
    let bad = ["t7", "t8", "t150", "t299"];
    store.on_row(move |row| bad.contains(&row.trace_id).then_some(ErrorKind::Refused));
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all settled", || store.row_count() + store.dead_letters().len() == 300).await;
    let letters = store.dead_letters();
    let found: Vec<_> =
        letters.iter().map(|letter| (letter.offset, letter.span.clone(), letter.reason)).collect();
    let expected = [7, 8, 150, 299].map(|offset| {
        let span = OwnedLetterSpan { index: 0, trace_id: format!("t{offset}"), kind: "SERVER".to_owned() };
        (offset, Some(span), Reason::Refused)
    });
    assert_eq!(found, expected, "with coordinates and all that a row is made of, in order");
    assert_eq!(letters[0].bytes, br#"{"kind":"SERVER","n":7}"#);
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_broken_table_holds_the_batch_and_goes_on_once_mended() {
    let (source, store) = (queue(1, 100), store());
    store.on_row(|_| Some(ErrorKind::Refused));
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(store.dead_letters().is_empty(), "never emptied into the dead letters");
    let error = replica.meters.status(&Identity::default()).last_error.unwrap();
    assert!(error.contains("plain row of the same size"), "{error}");
    store.clear_hooks();
    until("all rows", || store.row_count() == 100).await;
    assert!(store.dead_letters().is_empty());
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_refuses_plain_rows_too_is_held_against_a_row_that_was_accepted() {
    let (source, store) = (queue(1, 300), store());
    // As CHECK (kind IN ('SERVER') AND …): no plain row is accepted, and the first in line is a bad one.
    store.on_row(|row| {
        let broken = row.kind != "SERVER" || matches!(row.trace_id, "t0" | "t150");
        broken.then_some(ErrorKind::Constraint)
    });
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all settled", || store.row_count() + store.dead_letters().len() == 300).await;
    let offsets: Vec<u64> = store.dead_letters().iter().map(|letter| letter.offset).collect();
    assert_eq!(offsets, [0, 150]);
    replica.stop().await;
}

/// As CHECK (json_valid(body)), and as a column of a type that parses its text.
#[tokio::test(start_paused = true)]
async fn a_table_that_wants_json_holds_sealed_bodies() {
    for kind in [ErrorKind::Constraint, ErrorKind::Refused] {
        let (source, store, safe) = (queue(1, 20), store(), Safe::with(&["k1"]));
        store.on_row(move |row| (!row.body.starts_with(['{', '"'])).then_some(kind));
        // What was stored before sealing began is no witness.
        let plain = Replica::start(&source, &store);
        source.assign(&[at(0)]);
        until("plain rows", || store.row_count() == 20).await;
        plain.stop().await;
        source.revoke(&[at(0)]);
        source.push(&at(0), &span(20));
        let sealing = Replica::start_changed(&source, &store, |parts| {
            parts.sealing = safe.sealing(&["k1"], "k1");
        });
        source.assign(&[at(0)]);
        tokio::time::sleep(Duration::from_secs(600)).await;
        assert_eq!(store.dead_letters().len(), 0, "{kind:?}: never emptied into the dead letters");
        let error = sealing.meters.status(&Identity::default()).last_error.unwrap();
        assert!(error.contains("no JSON"), "{error}");
        store.clear_hooks();
        until("all rows", || store.row_count() == 21).await;
        sealing.stop().await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_sealed_body_is_not_held_against_a_plain_row_that_was_stored_before() {
    let (store, gate, activity) = (store(), crate::gate::Gate::new(), LaneMeter::new(Arc::default()));
    gate.set_rate(100.0, Instant::now() + Duration::from_secs(3_600));
    store.on_row(|row| (row.body != "{\"n\":1}").then_some(ErrorKind::Constraint));
    let (witness, flow) = (Witness::default(), Flow::default());
    witness.saw(&[Row { id: 1, trace_id: "t1", kind: "SERVER", body: "{\"n\":1}" }]);
    let probe = Probe { store: &*store, gate: &gate, flow: &flow, activity: &activity };
    let found_in = async |body| {
        let rows = [Row { id: 2, trace_id: "t2", kind: "SERVER", body }];
        probe.find_refused(&rows, &witness, |row| row).await.map(|found| found.len())
    };
    assert_eq!(found_in("{}").await.unwrap(), 1);
    assert_eq!(found_in("s1:AAAA").await.unwrap_err().kind, ErrorKind::Unavailable);
}

/// As CHECK (kind IN ('SERVER')), in a table that cannot hold some bodies.
fn refused_beside_a_rule(row: &Row<'_>) -> Option<ErrorKind> {
    match row.trace_id {
        _ if row.kind != "SERVER" => Some(ErrorKind::Constraint),
        _ if row.body == "{}" => None,
        "t7" => Some(ErrorKind::Refused),
        "t150" => Some(ErrorKind::TooLarge),
        _ => None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_refused_by_a_table_with_a_rule_is_held_against_a_row_that_was_accepted() {
    let (source, store) = (queue(1, 300), store());
    store.on_row(refused_beside_a_rule);
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all settled", || store.row_count() + store.dead_letters().len() == 300).await;
    let letters: Vec<_> = store.dead_letters().iter().map(|letter| (letter.offset, letter.reason)).collect();
    assert_eq!(letters, [(7, Reason::Refused), (150, Reason::TooLarge)]);
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_refused_body_that_comes_alone_is_held_against_its_row_without_it() {
    let (store, gate, activity) = (store(), crate::gate::Gate::new(), LaneMeter::new(Arc::default()));
    gate.set_rate(100.0, Instant::now() + Duration::from_secs(3_600));
    store.on_row(refused_beside_a_rule);
    let rows = [Row { id: 1, trace_id: "t7", kind: "SERVER", body: "1" }];
    let flow = Flow::default();
    let probe = Probe { store: &*store, gate: &gate, flow: &flow, activity: &activity };
    let found = probe.find_refused(&rows, &Witness::default(), |row| row).await.unwrap();
    assert_eq!((found.len(), found[0].reason), (1, Reason::Refused));
}

#[tokio::test(start_paused = true)]
async fn a_row_is_no_dead_letter_of_a_table_that_is_mended_while_it_is_tried() {
    let (store, gate, activity) = (store(), crate::gate::Gate::new(), LaneMeter::new(Arc::default()));
    gate.set_rate(100.0, Instant::now() + Duration::from_secs(3_600));
    let is_broken = std::sync::atomic::AtomicBool::new(true);
    store.on_row(move |_| {
        is_broken.swap(false, std::sync::atomic::Ordering::Relaxed).then_some(ErrorKind::Refused)
    });
    let rows = [Row { id: 1, trace_id: "t7", kind: "SERVER", body: "1" }];
    let flow = Flow::default();
    let probe = Probe { store: &*store, gate: &gate, flow: &flow, activity: &activity };
    let found = probe.find_refused(&rows, &Witness::default(), |row| row).await.unwrap();
    assert!(found.is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_every_row_breaks_holds_the_batch() {
    let (source, store) = (queue(1, 20), store());
    store.on_row(|_| Some(ErrorKind::Constraint));
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(store.dead_letters().is_empty());
    store.clear_hooks();
    until("all rows", || store.row_count() == 20).await;
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_table_that_finds_every_row_too_large_holds_the_batch() {
    let (source, store) = (queue(1, 20), store());
    store.on_row(|_| Some(ErrorKind::TooLarge));
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert!(store.dead_letters().is_empty());
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn the_search_for_refused_rows_keeps_to_the_rate() {
    let store = store();
    let tries = Arc::new(std::sync::Mutex::new(Vec::new()));
    store.on_row({
        let tries = tries.clone();
        move |row| {
            tries.lock().unwrap().push(Instant::now());
            (row.trace_id == "t37").then_some(ErrorKind::Refused)
        }
    });
    let gate = crate::gate::Gate::new();
    gate.set_rate(100.0, Instant::now() + Duration::from_secs(3_600));
    let ids: Vec<String> = (0..200).map(|number| format!("t{number}")).collect();
    let rows: Vec<Row<'_>> =
        ids.iter().zip(1..).map(|(trace_id, id)| Row { id, trace_id, kind: "SERVER", body: "{}" }).collect();
    let activity = LaneMeter::new(Arc::default());
    let flow = Flow::default();
    let probe = Probe { store: &*store, gate: &gate, flow: &flow, activity: &activity };
    let found = probe.find_refused(&rows, &Witness::default(), |row| row).await.unwrap();
    assert_eq!(found.iter().map(|refusal| refusal.span).collect::<Vec<_>>(), [37]);
    let tries = tries.lock().unwrap();
    let most = tries
        .iter()
        .map(|from| tries.iter().filter(|at| (*from..*from + Duration::from_secs(1)).contains(*at)).count());
    assert!(most.max().unwrap() <= 104, "rows in some second");
}

#[tokio::test(start_paused = true)]
async fn a_row_that_breaks_a_rule_alone_is_held_against_what_was_stored_before() {
    let (source, store) = (queue(1, 3), store());
    store.on_row(|row| (row.kind != "SERVER").then_some(ErrorKind::Constraint));
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("good rows", || store.row_count() == 3).await;
    source.push(&at(0), br#"{"traceId":"bad","spans":[{"kind":"NONE"}]}"#);
    until("the bad one", || store.dead_letters().len() == 1).await;
    // The table changes, and every row is against it from then on.
    store.on_row(|_| Some(ErrorKind::Constraint));
    source.push(&at(0), &span(3));
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!(store.dead_letters().len(), 1);
    replica.stop().await;
}

/// That they are so many is known when their message is gone: their letters have all of it but what they repeat.
#[tokio::test(start_paused = true)]
async fn refused_spans_of_one_message_repeat_no_more_of_it_than_is_bounded() {
    let (source, store) = (queue(1, 1), store());
    store.on_row(|row| (row.trace_id == "bad").then_some(ErrorKind::Refused));
    let message = format!(r#"{{"traceId":"bad","spans":[{}]}}"#, vec!["{}"; 20].join(","));
    let key = vec![b'k'; 1 << 20];
    source.push_stored(&at(0), Some(&key), Some(message.as_bytes()));
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("letters", || store.dead_letters().len() == 20).await;
    let letters = store.dead_letters();
    let (with, without): (Vec<_>, Vec<_>) = letters.iter().partition(|letter| letter.key.is_some());
    assert_eq!((with.len(), without.len()), (8, 12));
    assert_eq!(letters[0].key.as_deref(), Some(&*key));
    assert!(without.iter().all(|letter| letter.detail.starts_with("key and headers are with")));
    replica.stop().await;
}
