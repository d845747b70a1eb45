//! What every store must do when old rows are removed, and where streams stand.

use sluice_consumer::store::id::first_at;
use sluice_consumer::store::retention::{Reached, Sweep};
use sluice_consumer::store::{Row, Store, StreamKey};

use crate::adoption::{execute, mariadb_as};
use crate::bed::{Bed, batch, claims, key, row};

const HOUR_MS: i64 = 3_600_000;

/// A store, and its database's time.
async fn store_of(bed: &Bed) -> (std::sync::Arc<dyn Store>, sluice_consumer::store::Claim) {
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    (store, claim)
}

pub async fn rows_are_removed_step_by_step_where_they_are_old(bed: Bed) {
    let (store, claim) = store_of(&bed).await;
    let now = claim.database_time.ms;
    // Old by their ids; by `created_at` they become it in an hour.
    let ids: Vec<i64> = (0..7).map(|index| first_at(now - HOUR_MS) + index).chain([first_at(now)]).collect();
    let rows: Vec<Row<'_>> = ids.iter().map(|id| row(*id)).collect();
    store.write(&batch(&claim, 1, &rows, &[])).await.unwrap();

    let young = Sweep { after: 0, before_ms: now - HOUR_MS / 2, rows: 5 };
    let kept = store.remove_older(&young).await.unwrap();
    assert_eq!((kept.removed, kept.reached.map(|reached| reached.id)), (0, Some(ids[4])));
    let created = kept.reached.and_then(|reached| reached.created_at_ms).unwrap();
    assert!((now - 2_000..now + 60_000).contains(&created), "{created} at {now}");
    assert_eq!(bed.ids().await.unwrap(), ids, "an old id alone removes nothing");

    // From an hour later they are old; the id of the last one is not before that.
    let later = Sweep { after: 0, before_ms: now + HOUR_MS, rows: 3 };
    let step = store.remove_older(&later).await.unwrap();
    assert_eq!((step.removed, step.reached.map(|reached| reached.id)), (3, Some(ids[2])));
    assert_eq!(bed.ids().await.unwrap(), ids[3..]);
    let step = store.remove_older(&Sweep { after: ids[2], ..later }).await.unwrap();
    assert_eq!((step.removed, step.reached.map(|reached| reached.id)), (3, Some(ids[5])));
    let last = store.remove_older(&Sweep { after: ids[5], ..later }).await.unwrap();
    assert_eq!((last.removed, last.reached), (2, None));
    assert_eq!(bed.ids().await.unwrap(), [] as [i64; 0]);
    assert_eq!(store.remove_older(&later).await.unwrap().removed, 0);
}

pub async fn an_id_that_is_not_old_keeps_its_row_whatever_created_at_says(bed: Bed) {
    let (store, claim) = store_of(&bed).await;
    let now = claim.database_time.ms;
    let ids = [first_at(now - HOUR_MS), first_at(now + HOUR_MS - 12_000), first_at(now + HOUR_MS), i64::MAX];
    store.write(&batch(&claim, 1, &ids.map(row), &[])).await.unwrap();
    let sweep = Sweep { after: 0, before_ms: now + HOUR_MS, rows: 100 };
    let swept = store.remove_older(&sweep).await.unwrap();
    assert_eq!((swept.removed, swept.reached), (2, None));
    assert_eq!(bed.ids().await.unwrap(), ids[2..]);
}

pub async fn positions_are_those_of_the_newest_generation_and_take_nothing_over(bed: Bed) {
    let (store, claim) = store_of(&bed).await;
    store.create_streams(&[(key(1), 40), (StreamKey { group: "other".into(), ..key(1) }, 50)]).await.unwrap();
    store.write(&batch(&claim, 9, &[row(1)], &[])).await.unwrap();
    let positions = store.positions("cluster-1", "group").await.unwrap();
    assert_eq!(positions, [(key(0), 9), (key(1), 40)]);
    let claim = store.claim(&key(0), "replica").await.unwrap();
    assert_eq!(claim.epoch, 2, "the first claim, and this one");
    store.supersede(&key(0), &claim, 3).await.unwrap();
    assert_eq!(store.positions("cluster-1", "group").await.unwrap(), [(key(0), 3), (key(1), 40)]);
    assert_eq!(store.positions("cluster-2", "group").await.unwrap(), []);
}

/// Rows with ids of another origin, as an adopted table has them: old, young, without a time.
async fn adopted(bed: Bed, create: &str, old: &str, young: &str, expected: &[i64]) {
    execute(&bed, create).await;
    let insert = |id: i64, created_at: &str| {
        format!(
            "INSERT INTO connectivity_trace (id, trace_id, kind, body, created_at) \
             VALUES ({id}, 'old', 'SERVER', '{{}}', {created_at})"
        )
    };
    for (id, created_at) in [(1, old), (2, young), (3, "NULL"), (4, old), (5, old)] {
        execute(&bed, &insert(id, created_at)).await;
    }
    let (store, claim) = store_of(&bed).await;
    let day = Sweep { after: 0, before_ms: claim.database_time.ms - 24 * HOUR_MS, rows: 4 };
    let step = store.remove_older(&day).await.unwrap();
    assert!(matches!(step.reached, Some(Reached { id: 4, created_at_ms: Some(_) })), "{step:?}");
    let rest = store.remove_older(&Sweep { after: 4, ..day }).await.unwrap();
    assert_eq!(rest.reached, None);
    assert_eq!(bed.ids().await.unwrap(), expected);
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_decides_about_rows_of_an_adopted_table_by_created_at() {
    let create = |kind: &str| {
        format!(
            "CREATE TABLE connectivity_trace (id bigint unsigned NOT NULL PRIMARY KEY, trace_id varchar(64), \
             kind varchar(16), body longtext, created_at {kind} NULL DEFAULT CURRENT_TIMESTAMP) ENGINE=InnoDB"
        )
    };
    let (old, young) = ("NOW() - INTERVAL 25 HOUR", "NOW() - INTERVAL 23 HOUR");
    adopted(Bed::mariadb().await.unwrap(), &create("timestamp"), old, young, &[2, 3]).await;
    // Written in a zone that nobody knows: 25 hours may be 13.
    adopted(Bed::mariadb().await.unwrap(), &create("datetime"), old, young, &[1, 2, 3, 4, 5]).await;
    let old = "UTC_TIMESTAMP() - INTERVAL 37 HOUR";
    adopted(Bed::mariadb().await.unwrap(), &create("datetime"), old, young, &[2, 3]).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_decides_about_rows_of_an_adopted_table_by_created_at() {
    let create = |kind: &str| {
        format!(
            "CREATE TABLE connectivity_trace (id bigint NOT NULL PRIMARY KEY, trace_id varchar(64), \
             kind varchar(16), body text, created_at {kind} DEFAULT now())"
        )
    };
    let (old, young) = ("now() - interval '25 hours'", "now() - interval '23 hours'");
    adopted(Bed::postgres().await.unwrap(), &create("timestamptz"), old, young, &[2, 3]).await;
    adopted(Bed::postgres().await.unwrap(), &create("timestamp"), old, young, &[1, 2, 3, 4, 5]).await;
    let old = "(now() AT TIME ZONE 'UTC') - interval '37 hours'";
    adopted(Bed::postgres().await.unwrap(), &create("timestamp"), old, young, &[2, 3]).await;
}

#[tokio::test]
async fn sqlite_decides_about_rows_of_an_adopted_table_by_created_at() {
    let create = |default: &str| {
        format!(
            "CREATE TABLE connectivity_trace (id INTEGER PRIMARY KEY, trace_id TEXT, kind TEXT, body TEXT, \
             created_at TEXT DEFAULT ({default}))"
        )
    };
    let (old, young) = ("datetime('now', '-25 hours')", "datetime('now', '-23 hours')");
    adopted(Bed::sqlite().await.unwrap(), &create("datetime('now')"), old, young, &[2, 3]).await;
    let local = create("datetime('now', 'localtime')");
    adopted(Bed::sqlite().await.unwrap(), &local, old, young, &[1, 2, 3, 4, 5]).await;
    let (seconds, old_seconds, young_seconds) =
        (create("unixepoch()"), "unixepoch('now', '-25 hours')", "unixepoch('now', '-23 hours')");
    for seconds in [seconds.replace("created_at TEXT", "created_at INTEGER"), seconds] {
        adopted(Bed::sqlite().await.unwrap(), &seconds, old_seconds, young_seconds, &[2, 3]).await;
    }
    // A text that is no time keeps its row.
    adopted(Bed::sqlite().await.unwrap(), &create("datetime('now')"), old, "'soon'", &[2, 3]).await;
}

/// Without the right to remove, the error says so, and no other connection suffers.
#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_says_that_the_right_to_remove_is_missing() {
    let bed = Bed::mariadb().await.unwrap();
    let (_, claim) = store_of(&bed).await;
    let store = mariadb_as(&bed, "SELECT, INSERT", "connectivity_trace").await;
    let sweep = Sweep { after: 0, before_ms: claim.database_time.ms, rows: 1 };
    let error = store.replica().unwrap().remove_older(&sweep).await.unwrap_err();
    let denied = sluice_consumer::last_error::LastError::from(&error);
    assert_eq!(denied.reason.as_str(), "StoreDenied", "{}", denied.message);
}
