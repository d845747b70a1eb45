//! How long a store waits for its server, and what waits for what.

use std::time::{Duration, Instant};

use sluice_consumer::store::letter::RedriveBatch;
use sluice_consumer::store::{Claim, ErrorKind, Store, WriteBatch};
use sluice_tests::oracle::database::Database;

use crate::adoption::execute;
use crate::bed::{Bed, batch, claims, dead_letter, key, kind, row};

/// Two calls that wait for somebody's lock, and a claim that comes after them.
async fn claim_beside_upkeep(store: &dyn Store) {
    let begin = Instant::now();
    // Polled in this order, so the first two have their connections.
    let (one, other, (claimed, took)) = tokio::join!(store.sent(&[1]), store.sent(&[2]), async {
        let claimed = store.claim(&key(0), "replica").await;
        (claimed, begin.elapsed())
    });
    claimed.unwrap();
    assert!(took < Duration::from_secs(2), "{took:?}");
    for waited in [one, other] {
        assert_eq!(kind(waited).unwrap(), ErrorKind::Conflict);
    }
}

/// A partition is silent until it is claimed, whatever else waits for a lock.
async fn upkeep_wait(bed: Bed) {
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    let letters = [dead_letter(1, b"x"), dead_letter(2, b"x")];
    store.write(&WriteBatch { to_topic: true, ..batch(&claim, 1, &[], &letters) }).await.unwrap();
    let lock = "SELECT id FROM sluice_dead_letter_unsent FOR UPDATE";
    match bed.database().await.unwrap() {
        Database::Mysql(pool) => {
            let mut transaction = pool.begin().await.unwrap();
            sqlx::query(lock).fetch_all(&mut *transaction).await.unwrap();
            claim_beside_upkeep(&*store).await;
        }
        Database::Postgres(pool) => {
            let mut transaction = pool.begin().await.unwrap();
            sqlx::query(lock).fetch_all(&mut *transaction).await.unwrap();
            claim_beside_upkeep(&*store).await;
        }
        Database::Sqlite(_) => unreachable!("SQLite has no row locks"),
    }
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_claim_on_mariadb_does_not_wait_for_upkeep() {
    upkeep_wait(Bed::mariadb().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_claim_on_postgres_does_not_wait_for_upkeep() {
    upkeep_wait(Bed::postgres().await.unwrap()).await;
}

/// Makes a commit take longer than any other statement of a claim, lease or look-up may.
const SLOW_COMMIT_POSTGRES: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
     PERFORM pg_sleep(12); RETURN NULL; END $$; CREATE CONSTRAINT TRIGGER slow AFTER UPDATE ON sluice_progress \
     DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION slow()";

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_slow_commit_of_redriven_letters_is_waited_for_like_that_of_a_batch() {
    let bed = Bed::postgres().await.unwrap();
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    let letters = [dead_letter(1, b"x")];
    let first = batch(&claim, 1, &[], &letters);
    store.write(&first).await.unwrap();
    execute(&bed, SLOW_COMMIT_POSTGRES).await;
    let (claim, rows) = (Claim { position: first.to, ..claim.clone() }, [row(2)]);
    let write = batch(&claim, 0, &rows, &[]);
    store.redrive(&RedriveBatch { write, settled: &[1], histories: &[] }).await.unwrap();
    assert_eq!((bed.ids().await.unwrap(), bed.dead_letters().await.unwrap().len()), (vec![2], 0));
}
