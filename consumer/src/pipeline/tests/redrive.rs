//! Dead letters that are stored after all.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;
use crate::seal::example::Safe;
use crate::store::letter::{LetterFilter, LetterStore};

/// Three messages that no decoder of another format understands, as dead letters.
async fn letters_of_a_wrong_format(source: &MemorySource, store: &Arc<MemoryStore>) -> Vec<i64> {
    let replica = Replica::start_as(Format::JaegerProto, source, store);
    source.assign(&[at(0)]);
    until("dead letters", || store.dead_letters().len() == 3).await;
    replica.stop().await;
    source.revoke(&[at(0)]);
    store.dead_letters().iter().map(|letter| letter.id).collect()
}

#[tokio::test(start_paused = true)]
async fn a_marked_letter_is_stored_once_it_can_be_decoded() {
    let (source, store) = (queue(1, 3), store());
    let ids = letters_of_a_wrong_format(&source, &store).await;
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(store.row_count(), 0, "nobody asked for it");
    store.mark(&ids).await.unwrap();
    until("all rows", || store.row_count() == 3).await;
    assert_eq!(stored(&store), produced(3));
    assert!(store.dead_letters().is_empty());
    assert_eq!(store.progress()[0].position.next_offset, 3);
    // New messages go on behind it.
    source.push(&at(0), &span(3));
    until("the new row", || store.row_count() == 4).await;
    replica.stop().await;
}

/// Of a queue that is idle: no message wakes the lane between two pages.
#[tokio::test(start_paused = true)]
async fn letters_are_stored_at_the_rate_and_their_partitions_take_turns() {
    const LETTERS: usize = 1_600;
    let source = queue(2, LETTERS);
    // One lane for both.
    let store = Arc::new(MemoryStore::new(1, 1 << 20));
    let before = Replica::start_as(Format::JaegerProto, &source, &store);
    source.assign(&[at(0), at(1)]);
    until("dead letters", || store.dead_letters().len() == LETTERS).await;
    before.stop().await;
    source.revoke(&[at(0), at(1)]);
    let ids: Vec<i64> = store.dead_letters().iter().map(|letter| letter.id).collect();
    store.mark(&ids).await.unwrap();
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0), at(1)]);
    until("the first rows", || store.row_count() > 0).await;
    let begin = Instant::now();
    until("half of the rows", || store.row_count() >= LETTERS / 2).await;
    let of_the_first = store.dead_letters().iter().filter(|letter| letter.partition == 0).count();
    let of_the_other = store.dead_letters().len() - of_the_first;
    assert!(of_the_first.abs_diff(of_the_other) <= 100, "{of_the_first} and {of_the_other} are left");
    until("all rows", || store.row_count() == LETTERS).await;
    assert!(begin.elapsed() < Duration::from_secs(1), "{:?} at 100,000/s", begin.elapsed());
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_fails_again_keeps_its_history_and_is_not_tried_again() {
    let (source, store) = (queue(1, 3), store());
    let ids = letters_of_a_wrong_format(&source, &store).await;
    let replica = Replica::start_as(Format::JaegerProto, &source, &store);
    source.assign(&[at(0)]);
    store.mark(&ids[..1]).await.unwrap();
    until("failed again", || store.dead_letters().iter().all(|letter| letter.id != ids[0])).await;
    tokio::time::sleep(Duration::from_secs(60)).await;
    let letters = store.letters(&LetterFilter::default(), 0, 9).await.unwrap();
    assert_eq!(letters.len(), 3);
    let failed = letters.last().unwrap();
    assert_eq!((failed.attempts, failed.pending, failed.offset), (1, false, 0));
    assert_eq!(failed.history.iter().map(|failure| failure.id).collect::<Vec<_>>(), ids[..1]);
    let letter = store.letter(failed.id).await.unwrap().unwrap();
    assert_eq!(letter.bytes, span(0), "the original bytes");
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn redriving_through_ambiguous_commits_and_outages_stores_every_letter_once() {
    let (source, store) = (queue(1, 3), store());
    let ids = letters_of_a_wrong_format(&source, &store).await;
    let mut calls = 0;
    store.on_call(move |call| {
        calls += usize::from(matches!(call, Call::Redrive | Call::Redriven));
        (calls < 6 && matches!(call, Call::Redrive | Call::Redriven)).then(unavailable)
    });
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    store.mark(&ids).await.unwrap();
    until("all rows", || store.row_count() == 3).await;
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert_eq!(stored(&store), produced(3));
    assert!(store.dead_letters().is_empty());
    source.push(&at(0), &span(3));
    until("the new row", || store.row_count() == 4).await;
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_span_that_was_refused_becomes_the_row_that_it_would_have_been() {
    let (source, store) = (queue(1, 3), store());
    store.on_row(|row| (row.trace_id == "t1").then_some(ErrorKind::Refused));
    let replica = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("all settled", || (store.row_count(), store.dead_letters().len()) == (2, 1)).await;
    store.clear_hooks();
    store.mark(&[store.dead_letters()[0].id]).await.unwrap();
    until("all rows", || store.row_count() == 3).await;
    assert_eq!(stored(&store), produced(3));
    assert!(store.rows().iter().all(|row| row.kind == "SERVER"));
    assert!(store.dead_letters().is_empty());
    replica.stop().await;
}

#[tokio::test(start_paused = true)]
async fn an_invalid_span_is_stored_once_its_ids_are_looked_for_elsewhere() {
    let (source, store) = (MemorySource::new("cluster", "traces", 1), store());
    // The kind of the second was found beside the spans.
    let long = "k".repeat(17);
    let kinds = format!(r#"{{"kind":"{long}","spans":[{{"traceId":"b"}},{{"traceId":"c","k":"SERVER"}}]}}"#);
    for message in [r#"{"spans":[{"tid":"a"}]}"#, &kinds] {
        source.push(&at(0), message.as_bytes());
    }
    let before = Replica::start(&source, &store);
    source.assign(&[at(0)]);
    until("dead letters", || store.dead_letters().len() == 3).await;
    before.stop().await;
    source.revoke(&[at(0)]);

    let with = |trace_id: &str, kind: &str| {
        let paths = JsonPaths { trace_id: trace_id.into(), kind: kind.into(), ..JsonPaths::default() };
        Replica::start_changed(&source, &store, move |parts| {
            parts.decoder = Decoder::new(Format::Json, &paths).unwrap();
        })
    };
    for (trace_id, kind, rows) in [
        ("/tid", "/kind", vec![("a", "")]),
        ("/traceId", "/k", vec![("a", ""), ("c", "SERVER")]),
        ("/traceId", "", vec![("a", ""), ("b", ""), ("c", "SERVER")]),
    ] {
        let ids: Vec<i64> = store.dead_letters().iter().map(|letter| letter.id).collect();
        store.mark(&ids).await.unwrap();
        let replica = with(trace_id, kind);
        source.assign(&[at(0)]);
        until("the rows", || store.row_count() == rows.len() && store.dead_letters().len() == 3 - rows.len())
            .await;
        replica.stop().await;
        source.revoke(&[at(0)]);
        let mut found: Vec<_> = store.rows().into_iter().map(|row| (row.trace_id, row.kind)).collect();
        found.sort();
        assert_eq!(
            found,
            rows.iter().map(|(id, kind)| ((*id).into(), (*kind).into())).collect::<Vec<(String, String)>>()
        );
    }
}

/// Three pages of them, which are one page a turn.
#[tokio::test(start_paused = true)]
async fn letters_that_cannot_be_opened_hold_up_neither_others_nor_new_messages() {
    const SEALED: usize = 250;
    let (source, store, safe) = (queue(1, SEALED), store(), Safe::with(&["k1"]));
    let wrong_format = |parts: &mut Parts| {
        parts.decoder = Decoder::new(Format::JaegerProto, &JsonPaths::default()).unwrap();
    };
    let sealing = Replica::start_changed(&source, &store, |parts| {
        wrong_format(parts);
        parts.sealing = safe.sealing(&["k1"], "k1");
    });
    source.assign(&[at(0)]);
    until("sealed letters", || store.dead_letters().len() == SEALED).await;
    sealing.stop().await;
    source.revoke(&[at(0)]);
    source.push(&at(0), &span(SEALED));
    let plain = Replica::start_changed(&source, &store, wrong_format);
    source.assign(&[at(0)]);
    until("a plain letter", || store.dead_letters().len() == SEALED + 1).await;
    plain.stop().await;
    source.revoke(&[at(0)]);
    let ids: Vec<i64> = store.dead_letters().iter().map(|letter| letter.id).collect();
    store.mark(&ids).await.unwrap();
    let looked_at = Arc::new(AtomicUsize::new(0));
    let (counted, most) = (looked_at.clone(), Arc::new(AtomicUsize::new(0)));
    let between = most.clone();
    store.on_call(move |call| {
        match call {
            Call::Letter => drop(counted.fetch_add(1, Relaxed)),
            Call::Write | Call::Redrive => drop(between.fetch_max(counted.swap(0, Relaxed), Relaxed)),
            _ => {}
        }
        None
    });
    // Without the ring the first ones are out of reach. A new message waits for no other.
    let replica = Replica::start_changed(&source, &store, |parts| parts.max_rows = 1);
    source.push(&at(0), &span(SEALED + 1));
    source.push(&at(0), &span(SEALED + 2));
    source.assign(&[at(0)]);
    until("the rows of the last", || store.row_count() == 3).await;
    let expected: Vec<String> = (SEALED..SEALED + 3).map(|number| format!("t{number}")).collect();
    assert_eq!(stored(&store), expected);
    assert!(most.load(Relaxed) < SEALED, "{most:?} letters were looked at before anything was written");
    let pending = LetterFilter { pending: Some(true), ..LetterFilter::default() };
    assert_eq!(store.letters(&pending, 0, 999).await.unwrap().len(), SEALED);
    // What cannot be opened is not looked at again and again.
    looked_at.store(0, Relaxed);
    tokio::time::sleep(Duration::from_secs(30)).await;
    assert!(looked_at.load(Relaxed) <= SEALED, "{looked_at:?} looks in half a minute");
    // Nothing is stored meanwhile that would end the error.
    tokio::time::sleep(Duration::from_secs(60)).await;
    for _ in 0..200 {
        let error = replica.meters.status(&Identity::default()).last_error.expect("it is told all the time");
        assert!(
            error.contains("a dead letter cannot be opened") && error.contains("encryption.keys"),
            "{error}"
        );
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
    store.purge(&ids).await.unwrap();
    until("an end", || replica.meters.status(&Identity::default()).last_error.is_none()).await;
    replica.stop().await;
}

/// Which of its rows is refused is looked for at the gate, that is closed.
#[tokio::test(start_paused = true)]
async fn a_stop_does_not_wait_for_the_search_among_redriven_letters() {
    let (source, store) = (queue(1, 3), store());
    let ids = letters_of_a_wrong_format(&source, &store).await;
    store.on_row(|_| Some(ErrorKind::Refused));
    let replica = Replica::start(&source, &store);
    let (live, redriven) = (replica.live.clone(), Arc::new(AtomicUsize::new(0)));
    let counted = redriven.clone();
    store.on_call(move |call| {
        if call == Call::Redrive {
            counted.fetch_add(1, Relaxed);
            live.send_modify(|applied| applied.live.suspend = true);
        }
        None
    });
    source.assign(&[at(0)]);
    store.mark(&ids).await.unwrap();
    until("a try", || redriven.load(Relaxed) > 0).await;
    tokio::time::sleep(Duration::from_secs(10)).await;
    let begin = Instant::now();
    replica.stop().await;
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
    assert_eq!(store.dead_letters().len(), 3, "nothing was changed");
}
