//! What every store must do with dead letters that people look at, redrive and purge.

use sluice_consumer::store::letter::{Failure, History, LetterFilter, RedriveBatch};
use sluice_consumer::store::{ErrorKind, Position, Reason, Store, StreamKey, WriteBatch};

use crate::adoption::execute;
use crate::bed::{Bed, batch, claims, dead_letter, key, kind, row};

fn ids_of(letters: &[sluice_consumer::store::letter::LetterSummary]) -> Vec<i64> {
    letters.iter().map(|letter| letter.id).collect()
}

/// A store with the letters 1 to 5 of one stream.
async fn with_letters(bed: &Bed) -> (std::sync::Arc<dyn Store>, sluice_consumer::store::Claim) {
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    let mut letters: Vec<_> = (1..=5).map(|id| dead_letter(id, b"not json")).collect();
    letters[1].reason = Reason::Refused;
    letters[2].span = None;
    letters[3].topic = "another";
    store.write(&batch(&claim, 3, &[], &letters)).await.unwrap();
    (store, claim)
}

pub async fn dead_letters_are_listed_by_page_and_filter(bed: Bed) {
    let (store, _) = with_letters(&bed).await;
    let all = LetterFilter::default();
    assert_eq!(ids_of(&store.letters(&all, 0, 3).await.unwrap()), [1, 2, 3]);
    assert_eq!(ids_of(&store.letters(&all, 3, 3).await.unwrap()), [4, 5]);
    let refused = LetterFilter { reason: Some(Reason::Refused), ..all.clone() };
    assert_eq!(ids_of(&store.letters(&refused, 0, 9).await.unwrap()), [2]);
    let topic = LetterFilter { topic: Some("topic".to_owned()), partition: Some(0), ..all.clone() };
    assert_eq!(ids_of(&store.letters(&topic, 0, 9).await.unwrap()), [1, 2, 3, 5]);
    let later = LetterFilter { since_ms: Some(sluice_consumer::store::id::EPOCH_MS + 1), ..all };
    assert_eq!(store.letters(&later, 0, 9).await.unwrap(), []);

    let letter = store.letter(1).await.unwrap().unwrap();
    assert_eq!((letter.summary.offset, letter.summary.span_index), (7, Some(3)));
    assert_eq!(
        (letter.trace_id.as_deref(), letter.kind.as_deref()),
        (Some("t\0"), Some("a kind of seventeen"))
    );
    assert_eq!((letter.summary.attempts, letter.summary.pending), (0, false));
    assert_eq!(letter.key.as_deref(), Some(b"\x00\xff".as_slice()));
    assert_eq!(letter.headers, br#"[{"name":"h","value":null}]"#);
    assert_eq!(letter.bytes, b"not json");
    assert_eq!(store.letter(6).await.unwrap(), None);

    assert_eq!(store.last_letter().await.unwrap(), 5);
    store.purge(&[1, 2, 3, 4, 5]).await.unwrap();
    assert_eq!(store.last_letter().await.unwrap(), 0);
}

pub async fn a_letter_whose_bytes_are_not_there_is_an_error_and_no_empty_letter(bed: Bed) {
    let (store, _) = with_letters(&bed).await;
    execute(&bed, "DELETE FROM sluice_dead_letter_chunk WHERE id = 1").await;
    let error = store.letter(1).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Schema, "{error}");
    assert_eq!(store.letter(2).await.unwrap().unwrap().bytes, b"not json");
}

pub async fn marks_are_counted_once_and_tell_the_partitions(bed: Bed) {
    let (store, _) = with_letters(&bed).await;
    assert_eq!(store.marked().await.unwrap(), []);
    assert_eq!(store.mark(&[1, 3, 99]).await.unwrap(), 2);
    assert_eq!(store.mark(&[1, 2]).await.unwrap(), 1);
    assert_eq!(store.marked().await.unwrap(), [("topic".to_owned(), 0)]);
    let pending = LetterFilter { pending: Some(true), ..LetterFilter::default() };
    assert_eq!(ids_of(&store.letters(&pending, 0, 9).await.unwrap()), [1, 2, 3]);
    assert_eq!(store.purge(&[1, 5, 99]).await.unwrap(), 2);
    assert_eq!(ids_of(&store.letters(&pending, 0, 9).await.unwrap()), [2, 3]);
    assert_eq!(bed.dead_letters().await.unwrap().len(), 3);
}

/// Each sees no mark of the other before that is committed.
pub async fn commands_that_mark_at_once_mark_each_letter_once(bed: Bed) {
    let (first, second) = (bed.store().await.unwrap(), bed.store().await.unwrap());
    let claim = claims(&*first, 1).await.unwrap().remove(0);
    let ids: Vec<i64> = (1..=500).collect();
    let letters: Vec<_> = ids.iter().map(|id| dead_letter(*id, b"not json")).collect();
    first.write(&batch(&claim, 500, &[], &letters)).await.unwrap();
    for _ in 0..10 {
        let (one, other) = tokio::join!(first.mark(&ids), second.mark(&ids));
        assert_eq!(one.unwrap() + other.unwrap(), 500);
        execute(&bed, "DELETE FROM sluice_redrive").await;
    }
}

/// It was set while its letter was being removed.
pub async fn a_mark_without_its_letter_names_no_partition(bed: Bed) {
    let (store, _) = with_letters(&bed).await;
    store.mark(&[1]).await.unwrap();
    execute(&bed, "DELETE FROM sluice_dead_letter WHERE id = 1").await;
    assert_eq!(store.marked().await.unwrap(), []);
}

pub async fn a_redriven_letter_is_rows_or_a_letter_with_its_history(bed: Bed) {
    let (store, claim) = with_letters(&bed).await;
    store.mark(&[1, 2]).await.unwrap();
    let at = Position { next_offset: 3, last_id: 5 };
    let rows = [row(10)];
    let again = [dead_letter(11, b"not json")];
    let write =
        WriteBatch { from: at, to: Position { last_id: 11, ..at }, ..batch(&claim, 3, &rows, &again) };
    let before = Failure { id: 2, reason: "Refused".into(), detail: "x".into() };
    let histories = [History { attempts: 1, failures: vec![before] }];
    let redrive = RedriveBatch { write, settled: &[1, 2], histories: &histories };
    store.redrive(&redrive).await.unwrap();

    assert_eq!(bed.ids().await.unwrap(), [10]);
    assert_eq!(ids_of(&store.letters(&LetterFilter::default(), 0, 9).await.unwrap()), [3, 4, 5, 11]);
    let failed = store.letter(11).await.unwrap().unwrap().summary;
    assert_eq!((failed.attempts, failed.pending), (1, false));
    assert_eq!(failed.history, histories[0].failures);
    assert_eq!(store.marked().await.unwrap(), []);
    let next = store.claim(&key(0), "replica").await.unwrap();
    assert_eq!(next.position, Position { next_offset: 3, last_id: 11 });
    assert_eq!(next.fingerprint, Some(u64::MAX - 3), "the message before the position is the same");

    // The same once more, as after an ambiguous commit; and by an owner that was replaced.
    let late = store.redrive(&redrive).await;
    assert!(matches!(kind(late).unwrap(), ErrorKind::Fenced | ErrorKind::Conflict | ErrorKind::DuplicateId));
    let write =
        WriteBatch { from: next.position, to: Position { last_id: 20, ..at }, ..batch(&claim, 3, &[], &[]) };
    let fenced = store.redrive(&RedriveBatch { write, settled: &[3], histories: &[] }).await;
    assert_eq!(kind(fenced).unwrap(), ErrorKind::Fenced);
    assert_eq!(bed.ids().await.unwrap(), [10]);
    assert_eq!(bed.dead_letters().await.unwrap().len(), 4);
}

pub async fn a_letter_that_was_purged_meanwhile_is_not_stored(bed: Bed) {
    let (store, claim) = with_letters(&bed).await;
    store.purge(&[1]).await.unwrap();
    let at = Position { next_offset: 3, last_id: 5 };
    let rows = [row(10)];
    let write = WriteBatch { from: at, to: Position { last_id: 10, ..at }, ..batch(&claim, 3, &rows, &[]) };
    let redrive = RedriveBatch { write, settled: &[1], histories: &[] };
    assert_eq!(kind(store.redrive(&redrive).await).unwrap(), ErrorKind::Conflict);
    assert_eq!(bed.ids().await.unwrap(), Vec::<i64>::new());
}

pub async fn dead_letters_for_a_topic_wait_until_it_has_taken_them(bed: Bed) {
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    let another = StreamKey { group: "another".to_owned(), ..key(0) };
    store.create_streams(&[(another.clone(), 0)]).await.unwrap();
    let other = store.claim(&another, "replica").await.unwrap();
    let letters: Vec<_> = (1..=5).map(|id| dead_letter(id, b"not json")).collect();
    let more: Vec<_> = (6..=7).map(|id| dead_letter(id, b"not json")).collect();
    let not_for_it = [dead_letter(8, b"not json")];
    let with_copies = |write| WriteBatch { queue_copies: true, ..write };
    store.write(&with_copies(batch(&claim, 3, &[], &letters))).await.unwrap();
    store.write(&with_copies(batch(&other, 3, &[], &more))).await.unwrap();
    let next = store.claim(&key(0), "replica").await.unwrap();
    store.write(&batch(&next, 1, &[], &not_for_it)).await.unwrap();
    let unsent = async |after, limit| store.unsent("cluster-1", "group", after, limit).await.unwrap();
    assert_eq!((unsent(0, 3).await, unsent(3, 9).await), (vec![1, 2, 3], vec![4, 5]));
    assert_eq!(store.count_unsent("cluster-1", "another").await.unwrap(), 2);
    assert_eq!(store.count_unsent("cluster-2", "group").await.unwrap(), 0);

    store.sent(&[1, 3, 99]).await.unwrap();
    store.purge(&[2]).await.unwrap();
    assert_eq!(unsent(0, 9).await, [4, 5]);
    // One that is stored after all need not be sent, and one that fails again is another letter.
    let next = store.claim(&key(0), "replica").await.unwrap();
    let again = [dead_letter(11, b"not json")];
    let write = WriteBatch {
        to: Position { last_id: 11, ..next.position },
        ..with_copies(batch(&next, 0, &[], &again))
    };
    let redrive = RedriveBatch { write, settled: &[4], histories: &[History::default()] };
    store.redrive(&redrive).await.unwrap();
    assert_eq!(unsent(0, 9).await, [5, 11]);
    assert_eq!(bed.dead_letters().await.unwrap().len(), 7, "sent ones stay");
}
