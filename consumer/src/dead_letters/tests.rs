use tokio_util::sync::CancellationToken;

use super::*;
use crate::store::id;
use crate::store::letter::LetterStore;
use crate::store::memory::MemoryStore;
use crate::store::{DeadLetter, Position, StreamKey, WriteBatch};

#[test]
fn a_moment_is_a_time_or_how_long_ago() {
    assert_eq!(moment("2030-01-31T06:00:00Z").unwrap().as_second(), 1_896_069_600);
    let hours = Timestamp::now().as_second() - moment("2h").unwrap().as_second();
    assert!((7_199..=7_201).contains(&hours), "{hours}");
    for wrong in ["", "2", "h", "2w", "-1d", "99999999999999999d", "yesterday"] {
        assert!(moment(wrong).unwrap_err().contains("30d"), "{wrong}");
    }
}

#[test]
fn reasons_are_named_as_they_are_stored() {
    assert_eq!(reason("undecodable"), Ok(Reason::Undecodable));
    assert!(reason("Broken").unwrap_err().contains("TooLarge"));
}

#[test]
fn nothing_is_chosen_by_accident() {
    let none = Filters::default();
    let filter = |ids: &[i64], filters, all| Chosen::new(ids, filters, all).map(|chosen| chosen.filter);
    assert!(filter(&[], &none, false).is_err());
    assert_eq!(filter(&[], &none, true).unwrap(), Some(LetterFilter::default()));
    assert_eq!(filter(&[7], &none, false).unwrap(), None);
    let topic = Filters { topic: Some("spans".to_owned()), ..Filters::default() };
    assert!(filter(&[], &topic, false).unwrap().is_some());
    assert!(filter(&[7], &topic, false).is_err());
}

#[tokio::test]
async fn ids_that_are_not_there_are_counted_and_hide_none_that_are() {
    let store = MemoryStore::new(1, usize::MAX);
    let mut chosen = Chosen::new(&[9, 7, 7], &Filters::default(), false).unwrap();
    assert!(chosen.next(&store).await.unwrap().is_empty());
    assert_eq!(chosen.missing, 2);
}

#[test]
fn letters_that_failed_again_are_looked_for_where_they_can_be() {
    let now_ms = Timestamp::now().as_millisecond();
    assert_eq!(redrive::search_after(Some(7), now_ms), 7);
    let of_a_clock_ahead = id::first_at(now_ms + 1_000_000_000);
    assert!(redrive::search_after(Some(of_a_clock_ahead), now_ms) < id::first_at(now_ms));
}

/// A store with one letter, which waits to be redriven.
async fn with_a_waiting_letter() -> MemoryStore {
    let store = MemoryStore::new(1, usize::MAX);
    let key = StreamKey { cluster_id: "c".into(), group: "g".into(), topic: "t".into(), partition: 0 };
    store.create_streams(&[(key.clone(), 0)]).await.unwrap();
    let claim = store.claim(&key, "owner").await.unwrap();
    let letter = DeadLetter {
        id: 1,
        topic: "t",
        partition: 0,
        offset: 0,
        span: None,
        timestamp: None,
        reason: Reason::Undecodable,
        detail: "",
        key: None,
        headers: b"[]",
        bytes: b"broken",
        sealed: false,
    };
    let batch = WriteBatch {
        stream: claim.stream,
        epoch: claim.epoch,
        from: claim.position,
        to: Position { next_offset: 1, last_id: 1 },
        fingerprint: None,
        rows: &[],
        dead_letters: &[letter],
        to_topic: false,
    };
    store.write(&batch).await.unwrap();
    store.mark(&[1]).await.unwrap();
    store
}

#[tokio::test(start_paused = true)]
async fn waiting_that_is_interrupted_is_no_success() {
    let store = with_a_waiting_letter().await;
    let stop = CancellationToken::new();
    let interrupt = async {
        tokio::time::sleep(Duration::from_secs(15)).await;
        stop.cancel();
    };
    let (stored, ()) = tokio::join!(redrive::wait_for_none(&store, &stop), interrupt);
    assert!(!stored.unwrap());
    store.purge(&[1]).await.unwrap();
    assert!(redrive::wait_for_none(&store, &CancellationToken::new()).await.unwrap());
}
