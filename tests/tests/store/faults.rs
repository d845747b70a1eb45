//! What servers do to a store, and what it makes of it.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sluice_consumer::gate::lease::WHOLE;
use sluice_consumer::store::mysql::{MySqlOptions, MySqlStore};
use sluice_consumer::store::postgres::{PostgresOptions, PostgresStore};
use sluice_consumer::store::{Claim, ErrorKind, Store, StoreError};
use sluice_tests::eventually;
use sluice_tests::mariadb::MariaDb;
use sluice_tests::oracle::database::Database;
use sluice_tests::postgres::Postgres;

use crate::adoption::execute;
use crate::bed::{Bed, batch, claims, dead_letter, key, kind, row};
use crate::cases::retried;
use crate::leases::{free, request};

const DEADLINE: Duration = Duration::from_secs(20);

/// Waits until a plain batch is stored, as the pipeline would: claiming again after anything but success.
async fn stores_again(store: &dyn Store, id: i64) {
    eventually("the store to work again", DEADLINE, async || {
        let Ok(claim) = store.claim(&key(0), "replica").await else { return Ok(None) };
        Ok(store.write(&batch(&claim, 1, &[row(id)], &[])).await.ok())
    })
    .await
    .unwrap();
}

/// Makes the position's update take a while, so that a write can be stopped with the row locked.
const SLOW_MOVE_MYSQL: &str = "CREATE TRIGGER slow BEFORE UPDATE ON sluice_progress FOR EACH ROW \
     SET NEW.updated_at = IF(NEW.next_offset <> OLD.next_offset AND OLD.stream = 0, \
     FROM_UNIXTIME(1 + SLEEP(3)), NEW.updated_at)";
const SLOW_MOVE_POSTGRES: &str = "CREATE FUNCTION slow() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
     IF NEW.next_offset <> OLD.next_offset AND OLD.stream = 0 THEN PERFORM pg_sleep(3); END IF; RETURN NEW; END $$; \
     CREATE TRIGGER slow AFTER UPDATE ON sluice_progress FOR EACH ROW EXECUTE FUNCTION slow()";

async fn is_locked(database: &Database) -> bool {
    let sql = "SELECT 1 FROM sluice_progress WHERE stream = 0 FOR UPDATE NOWAIT";
    match database {
        Database::Mysql(pool) => sqlx::query(sql).fetch_one(pool).await.is_err(),
        Database::Postgres(pool) => sqlx::query(sql).fetch_one(pool).await.is_err(),
        Database::Sqlite(_) => unreachable!("SQLite has no row locks"),
    }
}

/// A write that stands still, as in a process that was stopped, while its transaction holds the position.
struct Frozen {
    _write: std::pin::Pin<Box<dyn Future<Output = Result<(), StoreError>> + Send>>,
}

async fn freeze_a_write(bed: &Bed, store: &Arc<dyn Store>, claim: &Claim, with_letter: bool) -> Frozen {
    let database = bed.database().await.unwrap();
    let (store, claim) = (Arc::clone(store), claim.clone());
    let mut write: std::pin::Pin<Box<dyn Future<Output = _> + Send>> = Box::pin(async move {
        let letter = [dead_letter(3, b"x")];
        store.write(&batch(&claim, 1, &[row(1)], &letter[..usize::from(with_letter)])).await
    });
    let locked = eventually("the position to be locked", DEADLINE, async || {
        tokio::select! {
            done = &mut write => anyhow::bail!("the write ended: {done:?}"),
            locked = is_locked(&database) => Ok(locked.then_some(())),
        }
    });
    locked.await.unwrap();
    Frozen { _write: write }
}

/// What becomes of the transaction of an owner that was frozen.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Ends {
    /// Its session's limits cut it off.
    CutOff,
    /// It is a single statement, which the server has as a whole: it commits itself.
    ByItself,
}

/// Row 3 of docs/reliability.md: a frozen owner holds nobody up, and its batch is stored once or not at all.
async fn frozen_owner(bed: Bed, slow: &str, with_letter: bool, ends: Ends) {
    let (zombie, successor) = (bed.store().await.unwrap(), bed.store().await.unwrap());
    let claimed = claims(&*zombie, 2).await.unwrap();
    execute(&bed, slow).await;
    let _frozen = freeze_a_write(&bed, &zombie, &claimed[0], with_letter).await;

    // Another stream is not held up at all.
    let begin = Instant::now();
    successor.write(&batch(&claimed[1], 1, &[row(2)], &[])).await.unwrap();
    assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());

    let claim = eventually("the successor's claim", DEADLINE, async || {
        match successor.claim(&key(0), "successor").await {
            Ok(claim) => Ok(Some(claim)),
            Err(error) if error.kind == ErrorKind::Conflict => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
    .await
    .unwrap();
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    let (moved_by, ids) = match ends {
        Ends::CutOff => (0, vec![2]),
        Ends::ByItself => (1, vec![1, 2]),
    };
    assert_eq!(claim.position.next_offset, claimed[0].position.next_offset + moved_by);
    assert_eq!(bed.ids().await.unwrap(), ids);
    assert_eq!(bed.dead_letters().await.unwrap().len(), 0);
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_does_not_let_a_frozen_owner_hold_up_its_successor() {
    frozen_owner(Bed::mariadb().await.unwrap(), SLOW_MOVE_MYSQL, false, Ends::CutOff).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_does_not_let_a_frozen_owner_hold_up_its_successor() {
    frozen_owner(Bed::postgres().await.unwrap(), SLOW_MOVE_POSTGRES, true, Ends::CutOff).await;
    frozen_owner(Bed::postgres().await.unwrap(), SLOW_MOVE_POSTGRES, false, Ends::ByItself).await;
}

/// Row 14 of docs/reliability.md: somebody else's lock is a conflict after a few seconds, and nothing is left behind.
async fn lock_wait(bed: Bed) {
    let store = bed.store().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    let lock = "SELECT 1 FROM sluice_progress WHERE stream = 0 FOR UPDATE";
    let begin = Instant::now();
    let written = match bed.database().await.unwrap() {
        Database::Mysql(pool) => {
            let mut transaction = pool.begin().await.unwrap();
            sqlx::query(lock).fetch_one(&mut *transaction).await.unwrap();
            store.write(&batch(&claim, 1, &[row(1)], &[])).await
        }
        Database::Postgres(pool) => {
            let mut transaction = pool.begin().await.unwrap();
            sqlx::query(lock).fetch_one(&mut *transaction).await.unwrap();
            store.write(&batch(&claim, 1, &[row(1)], &[])).await
        }
        Database::Sqlite(_) => unreachable!("SQLite has no row locks"),
    };
    assert_eq!(kind(written).unwrap(), ErrorKind::Conflict);
    assert!(begin.elapsed() < Duration::from_secs(20), "{:?}", begin.elapsed());
    store.write(&batch(&claim, 1, &[row(1)], &[])).await.unwrap();
    assert_eq!(bed.ids().await.unwrap(), [1]);
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_reports_a_lock_wait_as_a_conflict() {
    lock_wait(Bed::mariadb().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_reports_a_lock_wait_as_a_conflict() {
    lock_wait(Bed::postgres().await.unwrap()).await;
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn mariadb_read_only_killed_and_with_another_password_is_waited_for() {
    let mut server = MariaDb::start().await.unwrap();
    let bed = Bed::on_mariadb(&server).await.unwrap();
    // Whoever may do everything may also write to a read-only server: not so the store.
    execute(
        &bed,
        "CREATE USER app@'127.0.0.1' IDENTIFIED BY 'first'; GRANT ALL ON *.* TO app@'127.0.0.1'; \
         REVOKE SUPER, READ_ONLY ADMIN ON *.* FROM app@'127.0.0.1'",
    )
    .await;
    let password = Arc::new(Mutex::new("first"));
    let options: sqlx::mysql::MySqlConnectOptions = bed.url().unwrap().parse().unwrap();
    let connect = {
        let password = Arc::clone(&password);
        Arc::new(move || Ok(options.clone().username("app").password(*password.lock().unwrap())))
    };
    let table = "connectivity_trace".parse().unwrap();
    let store = Arc::new(MySqlStore::new(MySqlOptions { connect, table, lanes: 2, manage_schema: true }));
    store.prepare().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);

    execute(&bed, "SET GLOBAL read_only = ON").await;
    assert_eq!(kind(store.write(&batch(&claim, 1, &[row(1)], &[])).await).unwrap(), ErrorKind::Unavailable);
    execute(&bed, "SET GLOBAL read_only = OFF").await;
    stores_again(&*store, 1).await;

    execute(&bed, "ALTER USER app@'127.0.0.1' IDENTIFIED BY 'second'; FLUSH PRIVILEGES").await;
    server.server().unwrap().kill().await.unwrap();
    let error = store.write(&batch(&claim, 1, &[row(2)], &[])).await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    server.restart().await.unwrap();
    let refused = store.claim(&key(0), "replica").await.unwrap_err();
    assert_eq!(refused.kind, ErrorKind::Unavailable);
    assert!(!format!("{refused:?}").contains("first"), "a password in {refused:?}");
    *password.lock().unwrap() = "second";
    stores_again(&*store, 2).await;
    assert_eq!(bed.ids().await.unwrap(), [1, 2]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn postgres_read_only_killed_and_with_another_password_is_waited_for() {
    let mut server = Postgres::start().await.unwrap();
    let bed = Bed::on_postgres(&server).await.unwrap();
    let options: sqlx::postgres::PgConnectOptions = bed.url().unwrap().parse().unwrap();
    let missing = Arc::new(Mutex::new(true));
    let connect = {
        let missing = Arc::clone(&missing);
        Arc::new(move || {
            if *missing.lock().unwrap() {
                Err("the key db/url is missing".into())
            } else {
                Ok(options.clone())
            }
        })
    };
    let table = "connectivity_trace".parse().unwrap();
    let store =
        Arc::new(PostgresStore::new(PostgresOptions { connect, table, lanes: 2, manage_schema: true }));
    let error = store.prepare().await.unwrap_err();
    assert_eq!(error.kind, ErrorKind::Unavailable);
    assert!(format!("{error:?}").contains("db/url"), "{error:?}");
    *missing.lock().unwrap() = false;
    store.prepare().await.unwrap();
    let claim = claims(&*store, 1).await.unwrap().remove(0);

    execute(&bed, "ALTER SYSTEM SET default_transaction_read_only = on").await;
    execute(&bed, "SELECT pg_reload_conf()").await;
    eventually("the server to be read-only", DEADLINE, async || {
        let done = store.write(&batch(&claim, 1, &[row(1)], &[])).await;
        Ok(match done {
            Err(error) if error.kind == ErrorKind::Unavailable => Some(()),
            _ => None,
        })
    })
    .await
    .unwrap();
    execute(&bed, "ALTER SYSTEM RESET default_transaction_read_only").await;
    execute(&bed, "SELECT pg_reload_conf()").await;
    stores_again(&*store, 100).await;

    server.server().unwrap().kill().await.unwrap();
    assert_eq!(kind(store.claim(&key(0), "replica").await).unwrap(), ErrorKind::Unavailable);
    server.restart().await.unwrap();
    stores_again(&*store, 101).await;
}

/// Row 13 of docs/reliability.md: a kill -9 in the middle of writing leaves whole batches, and the position knows which.
async fn killed_while_writing(bed: &Bed, store: Arc<dyn Store>, kill_and_restart: impl AsyncFnOnce()) {
    let written = Arc::clone(&store);
    let writer = tokio::spawn(async move {
        let mut claim = claims(&*written, 1).await.unwrap().remove(0);
        loop {
            let first = claim.position.last_id + 1;
            let rows: Vec<_> = (first..first + 500).map(row).collect();
            let batch = batch(&claim, 1, &rows, &[]);
            match written.write(&batch).await {
                Ok(()) => claim.position = batch.to,
                Err(error) => break (error.kind, claim.position),
            }
        }
    });
    let database = bed.database().await.unwrap();
    eventually("some batches", DEADLINE, async || Ok((database.count().await? > 2000).then_some(())))
        .await
        .unwrap();
    kill_and_restart().await;
    let (kind, acknowledged) = writer.await.unwrap();
    assert_eq!(kind, ErrorKind::Unavailable);
    let claim = eventually("a claim", DEADLINE, async || Ok(store.claim(&key(0), "replica").await.ok()))
        .await
        .unwrap();
    // The last one may have been committed without an answer.
    let ambiguous = claim.position.next_offset - acknowledged.next_offset;
    assert!(ambiguous <= 1, "{claim:?} after {acknowledged:?}");
    let expected: Vec<i64> = (1..=claim.position.last_id).collect();
    assert_eq!(bed.ids().await.unwrap(), expected);
    assert_eq!(expected.len() as u64, claim.position.next_offset * 500);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs MariaDB"]
async fn a_killed_mariadb_keeps_whole_batches() {
    let mut server = MariaDb::start().await.unwrap();
    let bed = Bed::on_mariadb(&server).await.unwrap();
    let store = bed.store().await.unwrap();
    killed_while_writing(&bed, store, async || {
        server.server().unwrap().kill().await.unwrap();
        server.restart().await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs PostgreSQL"]
async fn a_killed_postgres_keeps_whole_batches() {
    let mut server = Postgres::start().await.unwrap();
    let bed = Bed::on_postgres(&server).await.unwrap();
    let store = bed.store().await.unwrap();
    killed_while_writing(&bed, store, async || {
        server.server().unwrap().kill().await.unwrap();
        server.restart().await.unwrap();
    })
    .await;
}

/// Row 17 of docs/reliability.md: a server that does not answer any more, although its connections stay open.
async fn frozen_server(store: Arc<dyn Store>, freeze: impl FnOnce(), thaw: impl FnOnce()) {
    let claim = claims(&*store, 1).await.unwrap().remove(0);
    freeze();
    let begin = Instant::now();
    assert_eq!(kind(store.claim(&key(0), "replica").await).unwrap(), ErrorKind::Unavailable);
    assert!(begin.elapsed() < Duration::from_secs(15), "{:?}", begin.elapsed());
    thaw();
    stores_again(&*store, 1).await;
    assert_eq!(kind(store.write(&batch(&claim, 1, &[row(2)], &[])).await).unwrap(), ErrorKind::Fenced);
}

#[tokio::test]
#[ignore = "needs MariaDB"]
async fn a_mariadb_that_does_not_answer_is_not_waited_for_long() {
    let mut server = MariaDb::start().await.unwrap();
    let store = Bed::on_mariadb(&server).await.unwrap().store().await.unwrap();
    let server = server.server().unwrap();
    frozen_server(store, || server.freeze().unwrap(), || server.thaw().unwrap()).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL"]
async fn a_postgres_that_does_not_answer_is_not_waited_for_long() {
    let server = Postgres::start().await.unwrap();
    let bed = Bed::on_postgres(&server).await.unwrap();
    let store = bed.store().await.unwrap();
    // Every connection has a process of its own: those of this database are frozen.
    let backends = backends(&bed).await;
    let signal = |signal| {
        for pid in &backends {
            nix::sys::signal::kill(nix::unistd::Pid::from_raw(*pid), signal).unwrap();
        }
    };
    frozen_server(
        store,
        || signal(nix::sys::signal::Signal::SIGSTOP),
        || signal(nix::sys::signal::Signal::SIGCONT),
    )
    .await;
}

async fn backends(bed: &Bed) -> Vec<i32> {
    let Database::Postgres(pool) = bed.database().await.unwrap() else { unreachable!("a PostgreSQL bed") };
    let sql =
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()";
    sqlx::query_scalar(sql).fetch_all(&pool).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs MariaDB with Galera"]
async fn shares_never_exceed_the_whole_where_replicas_renew_on_two_nodes_of_a_galera_cluster() {
    // Of a thousand, three went wrong where nothing was done about it.
    const ROUNDS: usize = 1000;
    let nodes = MariaDb::start_cluster(2).await.unwrap();
    nodes[0].database("shares").await.unwrap();
    let beds: Vec<_> = nodes.iter().map(|node| Bed::mariadb_at(&node.url("shares"))).collect();
    for bed in &beds {
        bed.store().await.unwrap();
    }
    // All that is free, at the same time, again and again; on new connections, as what a node does not tell of it keeps to
    // itself while a statement is prepared.
    for round in 0..ROUNDS {
        let take = async |bed: &Bed, holder: &str| {
            let store = bed.replica().unwrap();
            let grant = retried(|| async {
                store.lease(&request(holder, DEADLINE), &mut |others| free(others)).await
            });
            (grant.await, store)
        };
        let ((one, first), (other, second)) = tokio::join!(take(&beds[0], "one"), take(&beds[1], "other"));
        assert!(one.share + other.share <= WHOLE, "round {round}: {one:?}, {other:?}");
        for (store, holder) in [(first, "one"), (second, "other")] {
            retried(|| store.end_lease("c/g/t", holder)).await;
        }
    }
}
