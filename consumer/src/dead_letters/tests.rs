use clap::Parser;
use serde_json::json;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::store::id;
use crate::store::letter::LetterStore;
use crate::store::memory::MemoryStore;
use crate::store::{DeadLetter, Position, StreamKey, WriteBatch};

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

fn key() -> StreamKey {
    StreamKey { cluster_id: "c".into(), group: "g".into(), topic: "t".into(), partition: 0 }
}

/// Has a lane store letters.
async fn store_letters(store: &MemoryStore, ids: &[i64]) {
    let claim = store.claim(&key(), "owner").await.unwrap();
    let letter = |id: &i64| DeadLetter {
        id: *id,
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
    let letters: Vec<_> = ids.iter().map(letter).collect();
    let last_id = ids.iter().copied().max().unwrap_or_default();
    let batch = WriteBatch {
        stream: claim.stream,
        epoch: claim.epoch,
        from: claim.position,
        to: Position { next_offset: claim.position.next_offset + 1, last_id },
        fingerprint: None,
        rows: &[],
        dead_letters: &letters,
        queue_copies: false,
    };
    store.write(&batch).await.unwrap();
}

async fn with_letters(ids: &[i64]) -> MemoryStore {
    let store = MemoryStore::new(1, usize::MAX);
    store.create_streams(&[(key(), 0)]).await.unwrap();
    store_letters(&store, ids).await;
    store
}

/// A store with one letter, which waits to be redriven.
async fn with_a_waiting_letter() -> MemoryStore {
    let store = with_letters(&[1]).await;
    store.mark(&[1]).await.unwrap();
    store
}

#[tokio::test]
async fn letters_that_come_while_a_command_runs_are_not_chosen() {
    let store = with_letters(&[1, 2]).await;
    let mut chosen = Chosen::new(&[], &Filters::default(), true).unwrap();
    let ids = |page: Vec<LetterSummary>| page.iter().map(|letter| letter.id).collect::<Vec<_>>();
    assert_eq!(ids(chosen.next(&store).await.unwrap()), [1, 2]);
    store_letters(&store, &[3]).await;
    assert!(ids(chosen.next(&store).await.unwrap()).is_empty());
    let mut later = Chosen::new(&[], &Filters::default(), true).unwrap();
    assert_eq!(ids(later.next(&store).await.unwrap()), [1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_letter_that_two_commands_redrive_is_counted_by_the_one_that_marks_it() {
    let store = with_letters(&[1, 2]).await;
    let line = "sluice redrive --local data --all --rate 1";
    let Command::Redrive(redrive) = Line::parse_from(line.split(' ')).command else { panic!("redrive") };
    let mut chosen = Chosen::new(&[], &Filters::default(), true).unwrap();
    let another = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_eq!(store.mark(&[2]).await.unwrap(), 1);
        store_letters(&store, &[3]).await;
    };
    let (redriven, ()) = tokio::join!(redrive.mark(&mut chosen, &store), another);
    let redriven = redriven.unwrap();
    assert_eq!((redriven.marked, redriven.waited_already), (1, 1));
    assert_eq!(
        store
            .letters(&LetterFilter { pending: Some(false), ..Default::default() }, 0, 9)
            .await
            .unwrap()
            .len(),
        1
    );
}

#[tokio::test(start_paused = true)]
async fn waiting_that_is_interrupted_is_no_success() {
    let store = with_a_waiting_letter().await;
    let stop = CancellationToken::new();
    let interrupt = async {
        tokio::time::sleep(Duration::from_secs(15)).await;
        stop.cancel();
    };
    let (still_waiting, ()) = tokio::join!(redrive::wait_for_none(&store, &stop), interrupt);
    let interrupted = redrive::Redriven { still_waiting: Some(still_waiting.unwrap()), ..Default::default() };
    assert_eq!(interrupted.still_waiting, Some(1));
    assert!(!interrupted.is_good());
    store.purge(&[1]).await.unwrap();
    assert_eq!(redrive::wait_for_none(&store, &CancellationToken::new()).await.unwrap(), 0);
}

#[derive(Parser)]
struct Line {
    #[command(subcommand)]
    command: Command,
}

#[tokio::test]
async fn programs_get_the_figures_that_people_are_told() {
    let store = with_a_waiting_letter().await;
    let line = "sluice redrive --local data 1 2 --dry-run -o json";
    let Command::Redrive(redrive) = Line::parse_from(line.split(' ')).command else { panic!("redrive") };
    let mut chosen = Chosen::new(&[1, 2], &Filters::default(), false).unwrap();
    let redriven = redrive.mark(&mut chosen, &store).await.unwrap();
    assert!(!redriven.is_good(), "2 is not there");
    let figures = json!({
        "dryRun": true, "marked": 0, "waitedAlready": 1, "leftAlone": 0, "missing": 1, "stillWaiting": null,
        "failedAgain": null,
    });
    assert_eq!(serde_json::to_value(&redriven).unwrap(), figures);

    let purged = Purged { dry_run: false, removed: 2, missing: 1 };
    let figures = json!({ "dryRun": false, "removed": 2, "missing": 1 });
    assert_eq!(serde_json::to_value(&purged).unwrap(), figures);
    let line = "sluice purge --local data --all --dry-run --output json";
    assert!(
        matches!(Line::parse_from(line.split(' ')).command, Command::Purge(purge) if purge.output == Output::Json)
    );
}
