//! What administrators and servers do to a database while it is written to.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use sluice_tests::component::Scratch;
use sluice_tests::ledger::{Ledger, Shape};
use sluice_tests::mariadb::MariaDb;
use sluice_tests::postgres::Postgres;
use sluice_tests::sluice::{Sink, Sluice, tells};
use sluice_tests::{eventually, passes};
use sqlx::{Connection, Executor, MySqlConnection, PgConnection};

use crate::world::{Case, Engine, unique};
use crate::{GRACE, WAIT, execute, is_degraded};

pub const PARTITIONS: i32 = 2;
pub const QPS: u32 = 1_000;
/// What is left at the end need not take as long.
const QUICK: u32 = 20_000;
/// "Recovers within 10 s".
pub const RECOVERY: Duration = Duration::from_secs(10);

pub fn ledger(seed: u64) -> Ledger {
    Ledger { seed, shape: Shape::Json, spans_per_message: 10, padding: 0 }
}

/// Nothing moves for two seconds, and somebody is told why.
async fn stands_still(case: &Case, sluice: &Sluice) -> anyhow::Result<u64> {
    sluice.status_where("trouble to be told of", WAIT, is_degraded).await?;
    case.stands_still(Duration::from_secs(2)).await
}

/// As [`stands_still`], of sessions that `end` ends. One that was logging in when they were ended first is not among
/// those and keeps what it began with; seconds later there is none of that kind.
async fn stands_still_without(
    end: impl AsyncFn() -> anyhow::Result<()>,
    case: &Case,
    sluice: &Sluice,
) -> anyhow::Result<u64> {
    if let Ok(stood) = stands_still(case, sluice).await {
        return Ok(stood);
    }
    end().await?;
    stands_still(case, sluice).await
}

/// The rest is stored quickly; every span of the ledger must be there once.
pub async fn finish(
    mut case: Case,
    mut sluice: Sluice,
    ledger: &Ledger,
    messages: u64,
) -> anyhow::Result<Case> {
    ensure!(case.settled().await? < messages, "the backlog ended before the last fault");
    case.edit(|pipeline| pipeline.rate = QUICK)?;
    case.wait_settled(messages, WAIT).await?;
    ensure!(sluice.component.is_running()?, "the consumer ended: {}", sluice.component.log_tail(20));
    sluice.component.stop(GRACE).await?;
    case.audit(ledger, messages * ledger.spans_per_message, &[]).await?;
    Ok(case)
}

/// The pipeline's user is `app` with the password `first` and may not write to a read-only server; an administrator's
/// statements make it read-only, writable again, and give `app` the password `second` and end its sessions; the last
/// statement ends them once more.
async fn read_only_and_another_password(
    case: Case,
    url: impl Fn(&str) -> String,
    administrate: impl AsyncFn(&str) -> anyhow::Result<()>,
    [read_only, writable, rotate, end]: [&str; 4],
) -> anyhow::Result<()> {
    case.home.save_url(&url("first"))?;
    let (ledger, messages) = (ledger(92), 4_000);
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 2) as i32).await?;
    let sluice = case.replica("only").await?;
    case.wait_settled(100, WAIT).await?;
    let end = async || administrate(end).await;

    administrate(read_only).await?;
    let stood = stands_still_without(&end, &case, &sluice).await?;
    administrate(writable).await?;
    case.wait_settled(stood + 1, RECOVERY).await?;

    administrate(rotate).await?;
    sluice.status_where("the refused password to be told of", WAIT, tells("StoreDenied")).await?;
    let stood = stands_still_without(&end, &case, &sluice).await?;
    case.home.save_url(&url("second"))?;
    case.wait_settled(stood + 1, RECOVERY).await?;
    finish(case, sluice, &ledger, messages).await.map(drop)
}

async fn administrated_mariadb() -> anyhow::Result<()> {
    let server = MariaDb::start().await?;
    let name = unique("rotated");
    let root = server.database(&name).await?;
    // Whoever may do everything may also write to a read-only server.
    server
        .execute(
            "CREATE USER app@'127.0.0.1' IDENTIFIED BY 'first'; GRANT ALL ON *.* TO app@'127.0.0.1'; \
             REVOKE SUPER, READ_ONLY ADMIN ON *.* FROM app@'127.0.0.1'",
        )
        .await?;
    let sink = Sink::Mysql(root.clone());
    let case = Case::with_sink(sink, &name, PARTITIONS, |pipeline| pipeline.rate = QPS).await?;
    let end = "KILL USER app";
    let rotate = format!("ALTER USER app@'127.0.0.1' IDENTIFIED BY 'second'; {end}");
    read_only_and_another_password(
        case,
        |password| root.replace("root@", &format!("app:{password}@")),
        async |sql| server.execute(sql).await,
        ["SET GLOBAL read_only = ON", "SET GLOBAL read_only = OFF", &rotate, end],
    )
    .await
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn a_read_only_database_and_a_rotated_password_are_waited_out_without_a_restart() {
    administrated_mariadb().await.unwrap();
}

async fn administrated_postgres() -> anyhow::Result<()> {
    // The server believes whoever comes from this machine, but for `app`.
    let folder = Scratch::new("sluice-hba-")?;
    std::fs::set_permissions(folder.path(), Permissions::from_mode(0o755))?;
    let hba = folder.path().join("pg_hba.conf");
    std::fs::write(&hba, "host all app 127.0.0.1/32 scram-sha-256\nhost all all 127.0.0.1/32 trust\n")?;
    let server = Postgres::start_with(&[&format!("hba_file={}", hba.display())]).await?;
    let name = unique("rotated");
    let root = server.database(&name).await?;
    server
        .execute(&format!("CREATE ROLE app LOGIN PASSWORD 'first'; ALTER DATABASE \"{name}\" OWNER TO app"))
        .await?;
    let sink = Sink::Postgres(root.clone());
    let case = Case::with_sink(sink, &name, PARTITIONS, |pipeline| pipeline.rate = QPS).await?;
    // Sessions that are open keep what they began with.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'";
    let read_only = format!("ALTER ROLE app SET default_transaction_read_only = on; {end}");
    let writable = format!("ALTER ROLE app RESET default_transaction_read_only; {end}");
    let rotate = format!("ALTER ROLE app PASSWORD 'second'; {end}");
    read_only_and_another_password(
        case,
        |password| root.replace("postgres@", &format!("app:{password}@")),
        // One by one: together they are one transaction, and sessions would end before it has committed.
        async |sql| {
            for statement in sql.split("; ") {
                server.execute(statement).await?;
            }
            Ok(())
        },
        [&read_only, &writable, &rotate, end],
    )
    .await
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn a_read_only_postgres_and_a_rotated_password_are_waited_out_without_a_restart() {
    administrated_postgres().await.unwrap();
}

async fn a_table_without_a_place_for_rows() -> anyhow::Result<()> {
    let case = Case::new(Engine::Mysql, "unplaced", PARTITIONS, |pipeline| pipeline.rate = QPS).await?;
    execute(
        &case.pipeline.sink,
        "CREATE TABLE connectivity_trace (id bigint unsigned NOT NULL, trace_id varchar(64) NOT NULL, \
         kind varchar(16) NOT NULL, body longtext NOT NULL, created_at timestamp NOT NULL DEFAULT CURRENT_TIMESTAMP, \
         PRIMARY KEY (id, created_at)) ENGINE=InnoDB DEFAULT CHARSET=utf8mb4 \
         PARTITION BY RANGE (UNIX_TIMESTAMP(created_at)) (PARTITION old VALUES LESS THAN (1000))",
    )
    .await?;
    let (ledger, messages) = (ledger(93), 300);
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 2) as i32).await?;
    let sluice = case.replica("only").await?;
    sluice.status_where("a table that takes nothing to be told of", WAIT, is_degraded).await?;
    passes(Duration::from_secs(3)).await?;
    let database = case.database().await?;
    let (settled, letters) = (case.settled().await?, database.count_dead_letters().await?);
    ensure!(settled == 0 && letters == 0, "{settled} messages settled, {letters} of them dead letters");
    execute(
        &case.pipeline.sink,
        "ALTER TABLE connectivity_trace ADD PARTITION (PARTITION rest VALUES LESS THAN MAXVALUE)",
    )
    .await?;
    case.wait_settled(10, RECOVERY).await?;
    finish(case, sluice, &ledger, messages).await.map(drop)
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn a_table_that_takes_no_row_holds_the_topic_until_it_is_mended() {
    a_table_without_a_place_for_rows().await.unwrap();
}

/// Of these, ten tries fail at a row, and ten later ones at the position, once their rows are written. What counts them
/// takes no part in transactions. One after the other: together they would wait for each other with a batch.
const CONFLICTS_MARIADB: [&str; 2] = [
    "CREATE SEQUENCE refused_rows; \
     CREATE TRIGGER refuse_rows BEFORE INSERT ON connectivity_trace FOR EACH ROW \
     IF NEXTVAL(refused_rows) <= 10 THEN SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, \
     MESSAGE_TEXT = 'Deadlock found when trying to get lock; try restarting transaction'; END IF",
    "CREATE SEQUENCE refused_moves; \
     CREATE TRIGGER refuse_moves BEFORE UPDATE ON sluice_progress FOR EACH ROW \
     IF NEW.next_offset <> OLD.next_offset THEN \
     IF NEXTVAL(refused_moves) <= 10 THEN SIGNAL SQLSTATE '40001' SET MYSQL_ERRNO = 1213, \
     MESSAGE_TEXT = 'Deadlock found when trying to get lock; try restarting transaction'; END IF; END IF",
];
/// Likewise; a serialisation failure is told when the server commits, after it has answered the statement.
const CONFLICTS_POSTGRES: [&str; 2] = [
    "CREATE SEQUENCE refused_rows; \
     CREATE FUNCTION refuse_rows() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('refused_rows') <= 10 THEN \
     RAISE 'deadlock detected' USING ERRCODE = '40P01'; END IF; RETURN NEW; END $$; \
     CREATE TRIGGER refuse_rows BEFORE INSERT ON connectivity_trace FOR EACH ROW EXECUTE FUNCTION refuse_rows()",
    "CREATE SEQUENCE refused_moves; \
     CREATE FUNCTION refuse_moves() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF nextval('refused_moves') <= 10 THEN \
     RAISE 'could not serialize access' USING ERRCODE = '40001'; END IF; RETURN NULL; END $$; \
     CREATE CONSTRAINT TRIGGER refuse_moves AFTER UPDATE ON sluice_progress DEFERRABLE INITIALLY DEFERRED \
     FOR EACH ROW WHEN (NEW.next_offset <> OLD.next_offset) EXECUTE FUNCTION refuse_moves()",
];
/// Of both.
const CONFLICTS: u64 = 20;

/// What deadlocks and serialisation failures are counted as.
async fn conflicts(sluice: &Sluice) -> anyhow::Result<u64> {
    let (_, metrics) = sluice.get("/metrics").await?;
    let name = "sluice_store_errors_total{kind=\"conflict\"} ";
    let counted = metrics.lines().find_map(|line| line.strip_prefix(name));
    Ok(counted.context("no such metric")?.parse()?)
}

/// Transactions that the server gives up in favour of others are tried again at once, as a whole.
async fn given_up_by_the_server(engine: Engine, triggers: [&str; 2]) -> anyhow::Result<()> {
    let case = Case::new(engine, "conflicts", PARTITIONS, |pipeline| pipeline.rate = QPS).await?;
    let (ledger, messages) = (ledger(95), 4_000);
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 2) as i32).await?;
    let sluice = case.replica("only").await?;
    case.wait_settled(100, WAIT).await?;
    let before = conflicts(&sluice).await?;
    for trigger in triggers {
        execute(&case.pipeline.sink, trigger).await?;
    }
    eventually("every conflict to be counted", RECOVERY, async || {
        Ok((conflicts(&sluice).await? >= before + CONFLICTS).then_some(()))
    })
    .await?;
    let stood = case.settled().await?;
    case.wait_settled(stood + 1, RECOVERY).await?;
    let letters = case.database().await?.count_dead_letters().await?;
    ensure!(letters == 0, "{letters} dead letters of conflicts");
    finish(case, sluice, &ledger, messages).await.map(drop)
}

#[tokio::test]
#[ignore = "needs Kafka and MariaDB"]
async fn deadlocks_in_mariadb_are_tried_again_at_once_and_cost_no_dead_letter() {
    given_up_by_the_server(Engine::Mysql, CONFLICTS_MARIADB).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Kafka and PostgreSQL"]
async fn deadlocks_and_serialisation_failures_in_postgres_are_tried_again_at_once_and_cost_no_dead_letter() {
    given_up_by_the_server(Engine::Postgres, CONFLICTS_POSTGRES).await.unwrap();
}

/// Another session holds the positions for so long that every wait for them times out.
async fn locks_of_somebody_else<C: Connection>(engine: Engine) -> anyhow::Result<()>
where
    for<'c> &'c mut C: Executor<'c, Database = C::Database>,
{
    let case = Case::new(engine, "locked", PARTITIONS, |pipeline| pipeline.rate = QPS).await?;
    let (ledger, messages) = (ledger(94), 4_000);
    ledger.produce(case.kafka, &case.topic, 0..messages, |message| (message % 2) as i32).await?;
    let sluice = case.replica("only").await?;
    case.wait_settled(100, WAIT).await?;
    let (Sink::Mysql(url) | Sink::Postgres(url)) = &case.pipeline.sink else { bail!("no server") };
    let mut other = C::connect(url).await?;
    for _ in 0..2 {
        sqlx::raw_sql("BEGIN").execute(&mut other).await?;
        sqlx::raw_sql("SELECT stream FROM sluice_progress FOR UPDATE").execute(&mut other).await?;
        stands_still(&case, &sluice).await?;
        passes(Duration::from_secs(4)).await?;
        let stood = case.settled().await?;
        sqlx::raw_sql("ROLLBACK").execute(&mut other).await?;
        case.wait_settled(stood + 50, Duration::from_secs(5)).await?;
    }
    finish(case, sluice, &ledger, messages).await.map(drop)
}

mod long {
    use super::*;

    #[tokio::test]
    #[ignore = "needs Kafka and MariaDB"]
    async fn locks_that_somebody_else_holds_cost_no_dead_letter_and_no_time_once_they_are_gone() {
        locks_of_somebody_else::<MySqlConnection>(Engine::Mysql).await.unwrap();
    }

    #[tokio::test]
    #[ignore = "needs Kafka and PostgreSQL"]
    async fn locks_in_postgres_that_somebody_else_holds_cost_no_dead_letter_and_no_time_once_they_are_gone() {
        locks_of_somebody_else::<PgConnection>(Engine::Postgres).await.unwrap();
    }
}
