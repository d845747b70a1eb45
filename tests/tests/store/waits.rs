//! How long a store waits for its server, and what waits for what.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sluice_consumer::store::letter::RedriveBatch;
use sluice_consumer::store::mysql::{MySqlOptions, MySqlStore};
use sluice_consumer::store::postgres::{PostgresOptions, PostgresStore};
use sluice_consumer::store::{Claim, ErrorKind, Store, WriteBatch};
use sluice_tests::eventually;
use sluice_tests::oracle::database::Database;
use sluice_tests::proxy::Proxy;
use sqlx::mysql::{MySqlConnectOptions, MySqlSslMode};
use sqlx::postgres::{PgConnectOptions, PgSslMode};

use crate::adoption::execute;
use crate::bed::{Bed, batch, claims, dead_letter, key, kind, row};

const DEADLINE: Duration = Duration::from_secs(20);

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
    store.write(&WriteBatch { queue_copies: true, ..batch(&claim, 1, &[], &letters) }).await.unwrap();
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
    let (claim, rows) = (Claim { position: first.to, ..claim }, [row(2)]);
    let write = batch(&claim, 0, &rows, &[]);
    store.redrive(&RedriveBatch { write, settled: &[1], histories: &[] }).await.unwrap();
    assert_eq!((bed.ids().await.unwrap(), bed.dead_letters().await.unwrap().len()), (vec![2], 0));
}

/// A server that does not answer any more while it creates the trace table.
async fn silent_while_creating(proxy: &Proxy, store: &dyn Store, create: &str) {
    proxy.hold_answers_after(&[create]);
    let prepared = tokio::time::timeout(Duration::from_secs(60), store.prepare()).await;
    assert_eq!(kind(prepared.expect("an end of the wait")).unwrap(), ErrorKind::Unavailable);
    proxy.holds(DEADLINE).await.unwrap();
    eventually("the tables", DEADLINE, async || Ok(store.prepare().await.ok())).await.unwrap();
}

/// A table whose indexes a store adds, one after the other.
const BARE_TABLE: &str = "CREATE TABLE connectivity_trace (id BIGINT UNSIGNED NOT NULL PRIMARY KEY, \
     trace_id VARCHAR(128) NOT NULL, kind VARCHAR(64) NOT NULL, body LONGTEXT NOT NULL, \
     created_at TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP) DEFAULT CHARSET=utf8mb4";
const WAITING_FOR_A_TABLE: &str = "SELECT COUNT(*) FROM information_schema.PROCESSLIST \
     WHERE DB = DATABASE() AND STATE = 'Waiting for table metadata lock'";
const SCHEMA_LOCK: &str = "SELECT GET_LOCK(CONCAT('sluice ', LEFT(SHA2(DATABASE(), 256), 16)), 0)";

/// Row 3 of docs/reliability.md: a replica that stands still while it has the schema's lock, as one that was stopped.
#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_does_not_let_a_replica_frozen_at_its_start_hold_up_others() {
    let bed = Bed::mariadb().await.unwrap();
    let Database::Mysql(pool) = bed.database().await.unwrap() else { unreachable!("a MariaDB bed") };
    execute(&bed, BARE_TABLE).await;
    let mut reader = pool.begin().await.unwrap();
    sqlx::query("SELECT id FROM connectivity_trace").fetch_all(&mut *reader).await.unwrap();
    let frozen = bed.replica().unwrap();
    let mut start = frozen.prepare();
    tokio::select! {
        done = &mut start => panic!("it does not wait: {done:?}"),
        waits = eventually("the first index to wait for the reader", DEADLINE, async || {
            let waiting: i64 = sqlx::query_scalar(WAITING_FOR_A_TABLE).fetch_one(&pool).await?;
            Ok((waiting > 0).then_some(()))
        }) => waits.unwrap(),
    }
    // From here on nobody polls it. The second index is left to do.
    reader.rollback().await.unwrap();
    let begin = Instant::now();
    bed.store().await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    drop(start);

    // Where nothing is left to do, the lock is nobody's concern.
    let mut holder = pool.acquire().await.unwrap();
    let locked: i64 = sqlx::query_scalar(SCHEMA_LOCK).fetch_one(&mut *holder).await.unwrap();
    assert_eq!(locked, 1);
    let begin = Instant::now();
    bed.store().await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(5), "{:?}", begin.elapsed());
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_mariadb_that_does_not_answer_is_not_waited_for_long_at_the_start() {
    let options: MySqlConnectOptions = Bed::mariadb().await.unwrap().url().unwrap().parse().unwrap();
    let server = format!("{}:{}", options.get_host(), options.get_port());
    let proxy = Proxy::start(server.parse().unwrap()).await.unwrap();
    let options = options.port(proxy.address().port()).ssl_mode(MySqlSslMode::Disabled);
    let (connect, table) = (Arc::new(move || Ok(options.clone())), "connectivity_trace".parse().unwrap());
    let store = MySqlStore::new(MySqlOptions { connect, table, lanes: 1, manage_schema: true });
    silent_while_creating(&proxy, &store, "CREATE TABLE IF NOT EXISTS `connectivity_trace`").await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_postgres_that_does_not_answer_is_not_waited_for_long_at_the_start() {
    let options: PgConnectOptions = Bed::postgres().await.unwrap().url().unwrap().parse().unwrap();
    let server = format!("{}:{}", options.get_host(), options.get_port());
    let proxy = Proxy::start(server.parse().unwrap()).await.unwrap();
    let options = options.port(proxy.address().port()).ssl_mode(PgSslMode::Disable);
    let (connect, table) = (Arc::new(move || Ok(options.clone())), "connectivity_trace".parse().unwrap());
    let store = PostgresStore::new(PostgresOptions { connect, table, lanes: 1, manage_schema: true });
    silent_while_creating(&proxy, &store, "CREATE TABLE \"connectivity_trace\"").await;
}
